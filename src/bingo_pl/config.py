"""Settings: dataclasses with defaults, YAML files of differences, ``key=value`` overrides; OmegaConf stays here."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from bingo_pl import plugins
from bingo_pl.errors import BingoError, unknown_name
from bingo_pl.regular import is_file

Rules = Mapping[str, tuple[object, str]]
"""Whether each setting holds, by its name, and what is wanted."""
SIMILARITIES = ("ape", "cte", "x_coreg")
METHODS = ("bingo", "ape", "cte", "x_coreg", "ape_attresunet", "cte_attresunet")
TRANSFORMS = ("velocity", "linear_ffd")
MOST_WORKERS = 256
"""More processes than any machine has use for is a slip of the keyboard, which would bring it down."""
MOST_SQUARINGS = 30
"""2**-30 of a velocity is nothing in single precision."""
PRECISIONS = ("32-true", "16-mixed", "bf16-mixed")
"""Half-precision parameters would move voxels."""
WANDB_MODES = ("auto", "online", "offline", "disabled")


def _check(section: str, values: Any, rules: Rules) -> None:
    """Raises `BingoError` where a setting of a dataclass breaks a rule or holds a number that is not finite."""
    for field_ in dataclasses.fields(values):
        value = getattr(values, field_.name)
        numbers = value if isinstance(value, list) else [value]
        finite = all(math.isfinite(number) for number in numbers if isinstance(number, float))
        holds, wanted = rules.get(field_.name, (True, "")) if finite else (False, "finite numbers")
        if not holds:
            name = f"{section}.{field_.name}" if section else field_.name
            raise BingoError(f"{name}={_shown(value)} is invalid, wanted {wanted}")


def _shown(value: object) -> str:
    """A value as one gives it on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(_shown, value))}]"
    return "null" if value is None else str(value)


def _distinct(names: Sequence[str]) -> bool:
    return 0 < len(names) == len(set(names))


def _choose(setting: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise unknown_name(setting, value, known)


def _choose_or_own(setting: str, value: str, known: Sequence[str], group: str) -> None:
    """Or another package's, see `bingo_pl.plugins.find`, which is not imported for that."""
    if value not in known and ":" not in value:
        _choose(setting, value, [*known, *plugins.offered(group)])


@dataclass
class DataConfig:
    """What is registered."""

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
    """Partial learning: each step draws this many images of each group. Null: complete groups."""
    ffd_spacings: list[float] = field(default_factory=lambda: [5.0, 10.0, 15.0, 20.0])
    """Control point spacings of the synthetic misalignment in voxels; one is drawn for each group."""
    ffd_strength: float = 0.4
    """Largest displacement of a control point over the spacing."""
    linear_strength: float = 0.0
    """Standard deviation of the misalignment's linear part in voxels: of the translation, and of how far each entry of
    the matrix (its logarithm) moves a point at half the longest side. 0: none."""
    copies: int = 1
    """`learn2reg`: how often a training group has each image, each misaligned on its own and all but one in random
    contrasts, most of them. The truth of 2 copies and more is known, which `weights.truth` takes. In every other epoch
    an image's copies are a group of their own."""
    draws_per_test_group: int = 1
    """Misalignments drawn for each test group."""
    fill_nonfinite: float | None = None
    """Value that replaces NaN and Inf voxels. Null: they are an error."""
    phantom_subjects: int = 45
    """Size of the embedded phantom cohort."""
    workers: int = 0
    """Processes that load batches."""
    cache_dir: str | None = None
    """Where preprocessed groups are kept. Null: the user's cache folder."""

    def __post_init__(self) -> None:
        ids = self.label_ids
        self.check(
            {
                "modalities": (_distinct(self.modalities) and all(self.modalities), "distinct names, at least one"),
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
        _check("data", self, rules)


@dataclass
class ModelConfig:
    """BInGo's network and posterior; see `bingo_pl.methods.bingo.Bingo`."""

    channels: list[int] = field(default_factory=lambda: [16, 32, 64, 128, 256])
    """Width of each scale, full resolution first."""
    velocity_scales: list[int] = field(default_factory=lambda: [4, 2, 0])
    """Scales with a velocity, coarsest first; scale s has stride 2**s. One named again has a further velocity."""
    head_depth: int = 4
    """Convolutions of a velocity head before its last."""
    squarings: int = 7
    """Steps of scaling and squaring."""
    smoothness: float = 10.0
    """Precision of the velocity prior."""
    second_pass: bool = True
    """Encode the registered images again; false: warp the features instead."""
    velocity_noise: bool = True
    """Sample velocities in training."""
    cross_reconstruction: float = 0.0
    """Probability that a step decodes each image from another image's expert."""
    similarity: str = ""
    """Of the registered images, minimised beside the ELBO: ape, cte or x_coreg. Empty, as in the paper: none."""

    def __post_init__(self) -> None:
        scales, coarsest = self.velocity_scales, len(self.channels) - 1
        falling = all(a >= b for a, b in itertools.pairwise(scales))
        _check(
            "model",
            self,
            {
                "channels": (
                    self.channels and all(width >= 2 and width % 2 == 0 for width in self.channels),
                    "even widths, half are means and half variances",
                ),
                "velocity_scales": (
                    scales and falling and all(0 <= scale <= coarsest for scale in scales),
                    f"numbers that do not rise, from {coarsest} (the coarsest of model.channels) to 0",
                ),
                "head_depth": (self.head_depth >= 0, "at least 0"),
                "squarings": (0 <= self.squarings <= MOST_SQUARINGS, f"from 0 to {MOST_SQUARINGS}"),
                "smoothness": (self.smoothness > 0, "a positive number"),
                "cross_reconstruction": (0 <= self.cross_reconstruction <= 1, "a probability, from 0 to 1"),
            },
        )
        _choose_or_own("model.similarity", self.similarity, ("", *SIMILARITIES), plugins.SIMILARITIES)


@dataclass
class WeightConfig:
    """Weights of the terms of the loss."""

    reconstruction: float = 100.0
    """L1 between an image and its reconstruction."""
    kl_velocity: float = 20.0
    """Prior of the velocities."""
    kl_structure: float = 300.0
    """Intrinsic dissimilarity, Eq. (6)."""
    similarity: float = 1.0
    """APE, CTE or X-CoReg of the registered images, of the methods that minimise one (BInGo: `model.similarity`)."""
    bending: float = 10.0
    """Bending energy of what they minimise it by; alpha in the paper, where its value is not given."""
    truth: float = 0.0
    """gWI, in voxels, against the known synthetic misalignment; the variances of the velocities learn to tell what is
    left of it. 0: unsupervised, as in the paper."""
    own: dict[str, float] = field(default_factory=dict)
    """Of the terms that a method of one's own has besides; ``weights.my_term=1`` sets that of ``my_term``."""

    def __post_init__(self) -> None:
        weights = {name: (weight >= 0, "at least 0") for name, weight in vars(self).items() if name != "own"}
        _check("weights", self, {**weights, "own": (min(self.own.values(), default=0) >= 0, "at least 0")})

    def by_term(self) -> dict[str, float]:
        """All weights."""
        named = dataclasses.asdict(self)
        return {**named.pop("own"), **named}


@dataclass
class SimilarityConfig:
    """How APE, CTE and X-CoReg are estimated, wherever they are minimised; see `bingo_pl.methods.similarity`."""

    bins: int = 64
    """Of the histograms, over the range of an image."""

    def __post_init__(self) -> None:
        _check("similarity", self, {"bins": (self.bins >= 2, "at least 2")})


@dataclass
class IterativeConfig:
    """How a similarity is minimised for each group anew; see `bingo_pl.methods.baselines.Iterative` and
    `bingo_pl.methods.population.IterativePopulation`."""

    transform: str = "velocity"
    """velocity: one of full resolution an image; linear_ffd: rigid, then affine, then free-form (populations)."""
    control_spacing: float = 10.0
    """Of the free-form deformation, in voxels."""
    learning_rate: float = 0.1
    """Adam's, in voxels of the level."""
    levels: int = 3
    """Of the image pyramid."""
    steps: int = 50
    """At each level."""

    def __post_init__(self) -> None:
        _choose("iterative.transform", self.transform, TRANSFORMS)
        _check(
            "iterative",
            self,
            {
                "control_spacing": (self.control_spacing > 0, "a positive distance"),
                "learning_rate": (self.learning_rate > 0, "a positive rate"),
                "levels": (self.levels >= 1, "at least one level"),
                "steps": (self.steps >= 0, "at least 0"),
            },
        )


@dataclass
class RefineConfig:
    """How a trained method's result is improved for each group anew; see `bingo_pl.methods.baselines.Refined`."""

    steps: int = 0
    """Of the optimisation. 0: none."""
    similarity: str = "ape"
    """ape, cte or x_coreg."""
    bending: float = 60.0
    """Weight of the whole displacement's bending energy for a pair; of N images 1 / (N - 1) of it."""
    stride: int = 2
    """Of the refinement's own grid, in voxels."""
    learning_rate: float = 0.1
    """Adam's, in voxels of that grid."""

    def __post_init__(self) -> None:
        _choose_or_own("refine.similarity", self.similarity, SIMILARITIES, plugins.SIMILARITIES)
        _check(
            "refine",
            self,
            {
                "steps": (self.steps >= 0, "at least 0"),
                "bending": (self.bending >= 0, "at least 0"),
                "stride": (self.stride >= 1, "at least 1 voxel"),
                "learning_rate": (self.learning_rate > 0, "a positive rate"),
            },
        )


@dataclass
class IntrinsicConfig:
    """How the agreement of a trained model's own experts is maximised for each group; see
    `bingo_pl.alignment.registrar.Intrinsic`. Voxels are those of the working grid."""

    steps: int = 0
    """Number of optimisation steps at each level. 0: none."""
    from_network: bool = False
    """Whether to start from the network's result instead of from the images as they are."""
    voxels: list[float] = field(default_factory=lambda: [2.0, 1.0, 0.5])
    """Voxel size at which the model sees the images at each level; below 1, they are interpolated."""
    nodes: list[float] = field(default_factory=lambda: [8.0, 4.0, 4.0])
    """Distance of the velocity's nodes at each level, in voxels."""
    bending: float = 24.0
    """Weight of the velocity's mean bending energy, in squared voxels."""
    learning_rate: float = 0.15
    """Adam's, as a share of the distance of the nodes."""
    points: int = 0
    """Number of random points at which a step compares the images. 0: 1,500 in 2D, 6,000 in 3D."""
    mirrored: bool = True
    """Whether the model also sees the images mirrored along each axis, which adds channels that make other errors; in
    3D it more than doubles the time."""
    edges: float = 0.0
    """Weight of the agreement of the images' edges (normalised gradient fields) beside the experts'."""

    def __post_init__(self) -> None:
        _check(
            "intrinsic",
            self,
            {
                "steps": (self.steps >= 0, "at least 0"),
                "voxels": (bool(self.voxels) and min(self.voxels) > 0, "a positive number for each level"),
                "nodes": (
                    len(self.nodes) == len(self.voxels) and min(self.nodes) > 0,
                    f"a positive number for each of the {len(self.voxels)} levels of intrinsic.voxels",
                ),
                "bending": (self.bending >= 0, "at least 0"),
                "learning_rate": (self.learning_rate > 0, "a positive rate"),
                "points": (self.points == 0 or self.points >= 2, "at least 2, or 0"),
                "edges": (self.edges >= 0, "at least 0"),
            },
        )


@dataclass
class TrainerConfig:
    """Optimisation and hardware."""

    start: str = ""
    """Weights to start from: a checkpoint, a model file, or ``ready_2d`` and ``ready_3d``, the package's. See
    `bingo_pl.training.start`. Empty: drawn at random."""
    epochs: int = 500
    """Passes over the training groups."""
    learning_rate: float = 1e-3
    """Adam's; the peak where there is a schedule."""
    warm_up: float = 0.0
    """Share of the steps over which the learning rate rises from a twenty-fifth of its peak."""
    decay: bool = False
    """Let the learning rate fall to zero by a cosine after the warm-up."""
    motion_rate: float = 1.0
    """Factor on the learning rate of the velocity heads. Unsupervised, motion must learn slower than appearance, or it
    makes up for appearance that is not learned yet."""
    appearance_rate: float = 1.0
    """Factor on the learning rate of the modalities' normalisation, which alone tells them apart."""
    clip_gradient_norm: float | None = None
    """Largest gradient norm. Null: no clipping."""
    accelerator: str = "auto"
    """Lightning accelerator: auto, cpu, gpu, ..."""
    devices: int = 1
    """Processes, each with a device; a step is made of ``data.batch_size`` groups of each."""
    precision: str = "32-true"
    """32-true, 16-mixed or bf16-mixed: convolutions in half precision, all else in single."""
    accumulate_grad_batches: int = 1
    """Batches that a step of the optimiser is made of. Batch norms see one at a time."""
    gradient_checkpointing: bool = False
    """Keep few activations of BInGo for the backward pass, which computes the others again."""
    checkpoint_minutes: float = 10.0
    """Between checkpoints within an epoch; there is one after every epoch anyway."""
    validate_every: int = 1
    """Epochs between validations."""

    def __post_init__(self) -> None:
        _choose("trainer.precision", self.precision, PRECISIONS)
        clip = self.clip_gradient_norm
        _check(
            "trainer",
            self,
            {
                "epochs": (
                    self.epochs >= max(1, self.validate_every),
                    f"at least 1, and not to end before the first validation (trainer.validate_every="
                    f"{self.validate_every})",
                ),
                "learning_rate": (self.learning_rate > 0, "a positive rate"),
                "warm_up": (0 <= self.warm_up <= 1, "a share of the steps, from 0 to 1"),
                "motion_rate": (self.motion_rate >= 0, "at least 0"),
                "appearance_rate": (self.appearance_rate >= 0, "at least 0"),
                "clip_gradient_norm": (clip is None or clip > 0, "a positive norm, or null"),
                "accelerator": (self.accelerator, "a name, e.g. auto, cpu or gpu"),
                "devices": (self.devices >= 1, "at least 1"),
                "accumulate_grad_batches": (self.accumulate_grad_batches >= 1, "at least 1"),
                "checkpoint_minutes": (self.checkpoint_minutes >= 0, "at least 0"),
                "validate_every": (self.validate_every >= 1, "at least 1"),
            },
        )


@dataclass
class LogConfig:
    """What is written while training."""

    wandb: str = "auto"
    """auto: online where the user is logged in, else offline; or online, offline, disabled."""
    wandb_images: bool = False
    """Upload figures to W&B. They show patients' images."""
    figure_groups: int = 3
    """Test groups that get figures."""

    def __post_init__(self) -> None:
        _choose("log.wandb", self.wandb, WANDB_MODES)
        _check("log", self, {"figure_groups": (self.figure_groups >= 0, "at least 0")})


@dataclass
class Config:
    """An experiment."""

    name: str = ""
    """Folder under `runs`. Empty: the experiment's name, numbered if taken."""
    runs: str = "runs"
    """Where runs are written."""
    seed: int = 0
    """The source of all randomness."""
    method: str = "bingo"
    """What registers: a name in `bingo_pl.training.methods.METHODS`, or your own code, see docs/plugins.md."""
    own: dict[str, Any] = field(default_factory=dict)
    """Settings of a method of one's own, ``own.width=16``."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)
    similarity: SimilarityConfig = field(default_factory=SimilarityConfig)
    iterative: IterativeConfig = field(default_factory=IterativeConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    intrinsic: IntrinsicConfig = field(default_factory=IntrinsicConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        _check("", self, {"seed": (0 <= self.seed < 2**32, "from 0 to 4294967295")})


@dataclass
class RowConfig:
    """A method of a comparison."""

    settings: list[str] = field(default_factory=list)
    """``key=value`` that differ from the experiment's, or from those of the row it starts from."""
    start: str = ""
    """The row whose training it uses. Empty: its own."""


@dataclass
class TableConfig:
    """A comparison of methods on the test groups of an experiment."""

    experiment: str = ""
    """A name from `experiments()` or a path."""
    methods: dict[str, RowConfig] = field(default_factory=dict)
    """The rows, in order."""


Tree = dict[str, Any]
HOW_TO_SET = "write key=3, key=word, key=[1,2] for a list, key=null for none"


def experiments() -> list[str]:
    """Names of the experiments that come with the package."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load(experiment: str, overrides: Sequence[str] = ()) -> Config:
    """The settings of an experiment.

    Args:
        experiment: a name from `experiments()` or a path to a YAML file. The file's ``base`` names an experiment it
            differs from.
        overrides: ``section.key=value`` settings that win over the file.

    Raises:
        BingoError: unknown experiment or setting (with the nearest known name), or a value of the wrong type.
    """
    return _merge(Config(), *[tree for _, tree in reversed(_lineage(experiment))], _parse_overrides(overrides))


def load_table(name: str) -> TableConfig:
    """The methods to compare on the experiment ``name``: those of the table of its name, else of its nearest base that
    has one, else of ``default``.

    Raises:
        BingoError: the table's file is wrong.
    """
    files = [_folder() / "tables" / f"{family}.yaml" for family in (*[one for one, _ in _lineage(name)], "default")]
    source = next(file for file in files if file.is_file())
    tree = {"experiment": name, **read_yaml(source)}
    try:
        return cast(TableConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(TableConfig), tree)))
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise BingoError(
            f"{source}: {error.full_key or ''}: {reason}. A table holds methods, each with settings and start"
        ) from error


def override(config: Config, overrides: Sequence[str]) -> Config:
    """The settings with some replaced."""
    return _merge(config, _parse_overrides(overrides))


def from_tree(tree: Tree) -> Config:
    """The settings that `to_tree` wrote, e.g. into a checkpoint."""
    return _merge(Config(), tree)


def to_tree(config: Config) -> Tree:
    """Plain dictionaries and lists, which a weights-only checkpoint can hold."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """The resolved settings as text."""
    return yaml.safe_dump(to_tree(config), sort_keys=False)


def differences(old: Config, new: Config) -> list[str]:
    """``key: old -> new`` for each setting that differs."""
    before, after = dict(leaves(old)), dict(leaves(new))
    keys = {**before, **after}  # either may have settings of its own
    return [f"{key}: {before.get(key)} -> {after.get(key)}" for key in keys if before.get(key) != after.get(key)]


def leaves(config: Config) -> list[tuple[str, Any]]:
    """Every setting as ``section.key`` and its value."""
    return list(_leaves(to_tree(config)))


def with_data(name: str, overrides: Sequence[str]) -> str:
    """The experiment itself, or its phantom preset where the settings name no data."""
    preset = f"{name}_phantom"
    return name if load(name, overrides).data.root or preset not in experiments() else preset


def _folder() -> Any:
    return files("bingo_pl.experiments")


def _lineage(experiment: str) -> list[tuple[str, Tree]]:
    """An experiment and its bases, nearest first, each with the settings of its file.

    Raises:
        BingoError: a base is no name, or an experiment is, over its bases, its own.
    """
    names: list[str] = []
    trees: list[Tree] = []
    base: object = experiment
    while base:
        if not isinstance(base, str):
            raise BingoError(f"{names[-1]}: base must be one name or YAML file, e.g. `base: mscmr`, got {base!r}")
        if base in names:
            raise BingoError(f"{experiment}: its base leads back to itself: {' -> '.join([*names, base])}. Change one")
        names.append(base)
        trees.append(_read(base))
        base = trees[-1].pop("base", None)
    return list(zip(names, trees, strict=True))


def _read(experiment: str) -> Tree:
    if experiment.lower().endswith((".yaml", ".yml")):
        file = Path(experiment)
        if not is_file(file):
            raise BingoError(f"no experiment file {experiment}. Give a YAML file or one of: {', '.join(experiments())}")
        return read_yaml(file)
    source = _folder() / f"{experiment}.yaml"
    if ".." in Path(experiment).parts or not is_file(Path(str(source))):
        raise unknown_name("experiment", experiment, experiments())
    return read_yaml(source)


def read_yaml(source: Any) -> Tree:
    """The settings in a YAML file; an empty one has none.

    Args:
        source: its path, or that of a file of a package.

    Raises:
        BingoError: unreadable, not plain YAML in UTF-8, or not ``key: value``.
    """
    try:
        tree = yaml.safe_load(source.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise BingoError(
            f"{source} cannot be read ({error.strerror or error}). Check the path and permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise BingoError(
            f"{source} is not text in UTF-8 ({error.reason} at byte {error.start}). Save it as UTF-8"
        ) from error
    except RecursionError as error:
        raise BingoError(f"{source} is nested too deeply. Settings have one section and a name") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date of month 13
        raise BingoError(f"{source} is not plain YAML (tags are refused): {error}") from error
    if not isinstance(tree, dict) or not all(isinstance(key, str) for key in tree):
        raise BingoError(f"{source} must hold `key: value` settings, got {type(tree).__name__}")
    return tree


def _parse_overrides(overrides: Sequence[str]) -> DictConfig:
    for text in overrides:
        if not re.match(r"[a-z_.]+=", text):
            raise BingoError(f"'{text}' is not a setting. Write key=value, for example trainer.epochs=10")
    try:
        return OmegaConf.from_dotlist(list(overrides))
    except (yaml.YAMLError, ValueError) as error:
        given = " ".join(overrides)
        raise BingoError(f"the value of a setting cannot be read in {given}: {error}; {HOW_TO_SET}") from error


def _merge(start: Config, *layers: Tree | DictConfig) -> Config:
    try:
        trees = [OmegaConf.create(layer) for layer in layers]
        if any("${" in OmegaConf.to_yaml(tree) for tree in trees):
            raise BingoError("settings must be plain values; references like ${...} are refused")
        if OmegaConf.merge({"method": start.method}, *trees).method not in METHODS:
            trees = [_with_own_terms(tree) for tree in trees]
        return cast(Config, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(start), *trees)))
    except (ConfigKeyError, ConfigAttributeError) as error:
        *parents, name = str(error.full_key).split(".")
        known: Any = to_tree(Config())
        for parent in parents:
            known = known.get(parent) if isinstance(known, dict) else None
        if not isinstance(known, dict):
            raise BingoError(f"{'.'.join(parents)} is a setting, not a section: it has no '{name}'") from error
        raise unknown_name(" ".join(["setting", *parents]), name, known) from error
    except OmegaConfBaseException as error:
        reason = str(error.msg or error).splitlines()[0]
        raise BingoError(f"setting {error.full_key or ''}: {reason}; {HOW_TO_SET}") from error
    except TypeError as error:  # a section or list where the other was wanted
        raise BingoError(f"a setting has the wrong kind of value: {error}; {HOW_TO_SET}") from error


def _with_own_terms(tree: Any) -> Any:
    """Settings whose weights of unknown terms are those of a method of one's own, which checks their names."""
    given = tree.get("weights") if isinstance(tree, DictConfig) else None
    if not isinstance(given, DictConfig):
        return tree
    named = {one.name for one in dataclasses.fields(WeightConfig)}
    own = {key: value for key, value in given.items() if key not in named}
    known = {key: value for key, value in given.items() if key in named}
    return OmegaConf.merge({**tree, "weights": known}, {"weights": {"own": own}} if own else {})


def _leaves(tree: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
