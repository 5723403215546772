"""Settings of what is registered."""

from __future__ import annotations

from dataclasses import dataclass, field

from bingo_pl.config.checks import Rules, check, distinct

MOST_WORKERS = 256
"""More processes than any machine has use for is a slip of the keyboard, which would bring it down."""


@dataclass
class DataConfig:
    """The data to register."""

    dataset: str = "mscmr"
    """Data module: mscmr, brats, learn2reg, manifest or anatomies (label maps, painted in random contrasts)."""
    root: str = ""
    """Folder of the dataset (for `manifest`, its folder or CSV). Empty: the embedded phantom cohort."""
    modalities: list[str] = field(default_factory=lambda: ["C0", "LGE", "T2"])
    """Names of the modalities, as in the file names or the manifest."""
    label_ids: list[int] = field(default_factory=lambda: [200, 500, 600])
    """Foreground label ids; 0 is background, anything else an error."""
    spacing_mm: float = 1.25
    """Voxel size of the working grid (in-plane in 2D); 0 keeps the grid of the files."""
    roi: list[int] = field(default_factory=lambda: [160, 160])
    """Shape of the working grid in voxels; each size divisible by the network's stride."""
    splits: list[int] = field(default_factory=lambda: [18, 7, 20])
    """Subjects for training, validation and test (`manifest` has a column for it)."""
    batch_size: int = 20
    """Groups that each process has at once in training."""
    images_per_step: int | None = None
    """Number of images of each group that a step draws (partial learning). Null: complete groups."""
    ffd_spacings: list[float] = field(default_factory=lambda: [5.0, 10.0, 15.0, 20.0])
    """Control point spacings of the synthetic misalignment in voxels; one is drawn for each group."""
    ffd_strength: float = 0.4
    """Largest displacement of a control point over the spacing."""
    linear_strength: float = 0.0
    """Standard deviation of the misalignment's linear part in voxels: of the translation, and of how far each entry of
    the matrix (its logarithm) moves a point at half the longest side. 0: none."""
    copies: int = 1
    """Number of copies of each image in a training group (`learn2reg`), each misaligned on its own and all but one in
    random contrasts, most of them. The ground truth of 2 copies and more is known, which `weights.truth` takes. In
    every other epoch an image's copies are a group of their own."""
    draws_per_test_group: int = 1
    """Misalignments drawn for each test group."""
    fill_nonfinite: float | None = None
    """Value that replaces NaN and Inf voxels. Null: they are an error."""
    phantom_subjects: int = 45
    """Size of the embedded phantom cohort."""
    workers: int = 0
    """Processes that load batches."""
    cache_dir: str | None = None
    """Folder of the preprocessed groups. Null: the user's cache folder."""

    def __post_init__(self) -> None:
        ids = self.label_ids
        self.check(
            {
                "modalities": (distinct(self.modalities) and all(self.modalities), "distinct names, at least one"),
                "label_ids": (
                    len(set(ids)) == len(ids) and all(0 < i < 2**15 for i in ids),
                    "distinct ids from 1 to 32767",
                ),
                "spacing_mm": (self.spacing_mm >= 0, "a size in mm, or 0 for that of the files"),
                "roi": (len(self.roi) in (2, 3) and min(self.roi) > 0, "2 or 3 positive sizes"),
                "splits": (
                    len(self.splits) == 3 and min(self.splits) >= 0,
                    "three counts, training, validation, test",
                ),
                "batch_size": (self.batch_size >= 1, "at least 1"),
                "images_per_step": (self.images_per_step is None or self.images_per_step >= 2, "at least 2, or none"),
                "ffd_spacings": (
                    self.ffd_spacings and min(self.ffd_spacings) > 0,
                    "positive sizes in voxels, at least one",
                ),
                "ffd_strength": (self.ffd_strength >= 0, "at least 0"),
                "linear_strength": (self.linear_strength >= 0, "at least 0"),
                "copies": (self.copies >= 1, "at least 1"),
                "draws_per_test_group": (self.draws_per_test_group >= 1, "at least 1"),
                "phantom_subjects": (self.phantom_subjects >= 1, "at least 1"),
                "workers": (0 <= self.workers <= MOST_WORKERS, f"from 0 to {MOST_WORKERS}"),
            }
        )

    def check(self, rules: Rules) -> None:
        """Raises `BingoError` where a setting breaks one of these rules."""
        check("data", self, rules)
