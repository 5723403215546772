"""What a report shows of a registered group, read from its folder and the original files. Nothing is drawn here.

Everything is on the *display grid*: the group grid with its axes turned to left, posterior and superior, so that
pictures lie as radiologists expect them. 2D groups are volumes of one voxel along one axis.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from bingo_pl.evaluation import metrics
from bingo_pl.figures import views
from bingo_pl.figures.views import Plane
from bingo_pl.images.grids import LPS, Grid
from bingo_pl.images.record import Entry, Record, read_record
from bingo_pl.images.resampling import resample_image, resample_labels
from bingo_pl.images.scans import Scan, read_scan
from bingo_pl.images.transforms import affine_transform as linear_transform
from bingo_pl.images.transforms import read_transform, sampled_displacement
from bingo_pl.report.display import Display

MAX_PICTURED = 8
"""Images of which pictures are drawn: of larger groups those whose figures are worst."""
MAX_LABELLED = 16
"""Label maps that are compared with each other, of those images that come first."""

Pair = tuple[Tensor, Tensor]
"""Before and after registration."""


@dataclass(frozen=True, eq=False)
class Sight:
    """One image in one plane (h, w); intensities from 0 to 1."""

    plane: Plane
    images: Pair
    """Before: the original as its header has it; of the network alone, after the affine stage."""
    others: Tensor
    """Mean of the other images after registration."""
    displacement: Tensor
    """(2, h, w) in the plane, in voxels, without the affine stage."""
    log_jacobian: Tensor
    """Without the affine stage; NaN where space folds."""
    uncertainty: Tensor | None
    """mm, NaN outside the group's foreground."""
    outlines: tuple[Tensor, Tensor, Tensor] | None
    """(L, h, w) with level 0.5: this image's labels before and after, and those of the majority of the others after."""


@dataclass(frozen=True, eq=False)
class Pictured:
    """An image of which pictures are drawn."""

    sights: Sequence[Sight]
    moved_mm: tuple[float, float] | None
    """Mean and largest length of the displacement over the group's foreground, without the affine stage; None where
    the result is linear, and nothing is deformed."""


@dataclass(frozen=True, eq=False)
class Row:
    """The figures of one image."""

    rank: int
    """From 1, the worst."""
    entry: Entry
    uncertainty_mm: float | None
    """Median over the group's foreground; NaN where it is unknown in most of it, None where it was not written."""
    overlap: tuple[float, float] | None
    """Mean Dice with each other label map, before and after."""
    pictured: Pictured | None


@dataclass(frozen=True, eq=False)
class Story:
    """All that a report tells."""

    record: Record
    grid: Grid
    """The display grid."""
    planes: Sequence[Plane]
    means: Sequence[Pair]
    """The mean (h, w) of all images, for each plane."""
    rows: Sequence[Row]
    """Worst first."""
    compared_labels: int


def read_story(folder: Path, scans: Sequence[Scan] = ()) -> Story:
    """Read what ``bingo register`` wrote, an image at a time.

    Args:
        folder: where it is.
        scans: originals that are in memory, which are not read again.

    Raises:
        BingoError: it is no finished registration, a file of it is damaged, or an original is gone or has changed.
    """
    record = read_record(folder)
    known = {scan.name: scan for scan in scans}
    for entry in record.entries:
        if entry.name not in known:
            entry.check_original()
    reader = _Reader.of(record, known)
    entries = record.worst_first
    pictured = entries[:MAX_PICTURED]
    cuts: dict[str, list[Pair]] = {}
    totals = [(torch.zeros(plane.shape), torch.zeros(plane.shape)) for plane in reader.planes]
    labelled = [entry.name for entry in entries if entry.label is not None][:MAX_LABELLED]
    labels: dict[str, Pair] = {}
    for entry in entries:
        scan = reader.scan(entry)
        own = reader.images(entry, scan)
        totals = [(b + before, a + after) for (b, a), (before, after) in zip(totals, own, strict=True)]
        if entry in pictured:
            cuts[entry.name] = own
        if entry.name in labelled:
            labels[entry.name] = reader.labels(entry, scan)
    rows = []
    for rank, entry in enumerate(entries, start=1):
        uncertainty, picture = reader.uncertainty(entry), None
        if entry in pictured:
            picture = reader.picture(entry, cuts[entry.name], totals, labels, uncertainty, len(entries))
        median = None if uncertainty is None else _median(uncertainty[reader.foreground])
        rows.append(Row(rank, entry, median, _overlap(entry.name, labels), picture))
    means = [(before / len(entries), after / len(entries)) for before, after in totals]
    return Story(record, reader.grid, reader.planes, means, rows, len(labels))


def _median(uncertainty: Tensor) -> float:
    """NaN, unknown, counts as more than any number: it is what exceeds all that the model was taught."""
    median = float(uncertainty.nan_to_num(nan=math.inf).median())
    return median if math.isfinite(median) else math.nan


@dataclass(frozen=True, eq=False)
class _Reader:
    """Reads the files of one folder onto the display grid."""

    record: Record
    scans: Mapping[str, Scan]
    """By name, those originals that are in memory."""
    display: Display
    planes: Sequence[Plane]
    foreground: Tensor
    """(*S) bool, of the whole group."""

    @property
    def grid(self) -> Grid:
        return self.display.grid

    @classmethod
    def of(cls, record: Record, scans: Mapping[str, Scan]) -> _Reader:
        display = Display.of(record.folder, record.group)
        inside, planes = display.foreground()
        return cls(record, scans, display, planes, inside)

    def scan(self, entry: Entry) -> Scan:
        """The original with its label map."""
        return self.scans.get(entry.name) or read_scan(entry.name, entry.modality, entry.path, None, entry.label)

    def images(self, entry: Entry, scan: Scan) -> list[Pair]:
        """The image in each plane, from 0 to 1 by its original's `Window`."""
        before = _tensor(resample_image(scan.grid.to_sitk(scan.unit.numpy()[0]), self._start(entry), self.grid))
        low, high = scan.window.low, scan.window.high
        after = ((self.display.read(f"registered/{entry.name}.nii.gz") - low) / (high - low)).clamp(0, 1).float()
        return [(plane.cut(before), plane.cut(after)) for plane in self.planes]

    def labels(self, entry: Entry, scan: Scan) -> Pair:
        """The label map (*S) int32."""
        assert scan.label is not None
        original = scan.grid.to_sitk(scan.label.astype(np.int32))
        before = resample_labels(original, self._start(entry), self.grid)
        return _tensor(before), self.display.read(f"labels/{entry.name}.nii.gz", nearest=True).round().int()

    def _start(self, entry: Entry) -> sitk.Transform:
        """Where the image was before: as its header has it, or, of the network alone, after its affine stage."""
        return linear_transform(entry.stage if self.record.kept is None else np.eye(4))

    def uncertainty(self, entry: Entry) -> Tensor | None:
        """(*S) mm, NaN outside the group's foreground."""
        file = f"uncertainty/{entry.name}.nii.gz"
        if not (self.record.folder / file).exists():
            return None
        return torch.where(self.foreground, self.display.read(file), torch.nan)

    def displacement(self, entry: Entry) -> Tensor:
        """(3, *S) in voxels of the display grid, without the affine stage."""
        forward = read_transform(self.record.folder / "transforms" / f"{entry.name}_forward.h5")
        back = linear_transform(np.linalg.inv(entry.stage))
        whole = sitk.CompositeTransform([back, forward])  # the last one is applied first
        to_voxels = np.linalg.inv((LPS @ self.grid.affine)[:3, :3])
        return torch.from_numpy(np.einsum("ij,xyzj->ixyz", to_voxels, sampled_displacement(whole, self.grid))).float()

    def picture(
        self,
        entry: Entry,
        images: Sequence[Pair],
        totals: Sequence[Pair],
        labels: Mapping[str, Pair],
        uncertainty: Tensor | None,
        count: int,
    ) -> Pictured:
        """Cut everything that is drawn of an image.

        Args:
            entry: the image.
            images: itself, for each plane.
            totals: the sums of all ``count`` images, for each plane.
            labels: of those images whose label maps are compared.
            uncertainty: (*S) mm.
            count: of the group.
        """
        deformed = self.record.kept in (None, "deformable")
        displacement = self.displacement(entry) if deformed else torch.zeros(3, *self.grid.shape)
        log_jacobian = self._log_jacobian(displacement) if deformed else torch.zeros(self.grid.shape)
        outlines = self._outlines(entry.name, labels)
        sights = [
            Sight(
                plane,
                own,
                (total - own[1]) / max(count - 1, 1),
                plane.cut(displacement[list(plane.kept)]),
                plane.cut(log_jacobian),
                None if uncertainty is None else plane.cut(uncertainty),
                outline,
            )
            for plane, own, (_, total), outline in zip(self.planes, images, totals, outlines, strict=True)
        ]
        spacing = torch.from_numpy(self.grid.spacing).float().reshape(3, 1, 1, 1)
        length = (displacement * spacing).norm(dim=0)[self.foreground]
        return Pictured(sights, (float(length.mean()), float(length.max())) if deformed else None)

    def _log_jacobian(self, displacement: Tensor) -> Tensor:
        """(3, *S) -> (*S); the determinant of a 2D group is that of its plane."""
        axes = [axis for axis in range(3) if self.grid.shape[axis] > 1]
        shape = [self.grid.shape[axis] for axis in axes]
        return views.log_jacobian(displacement[axes].reshape(1, len(axes), *shape)).reshape(self.grid.shape)

    def _outlines(self, name: str, labels: Mapping[str, Pair]) -> list[tuple[Tensor, Tensor, Tensor] | None]:
        """For each plane, see `Sight.outlines`."""
        if name not in labels:
            return [None] * len(self.planes)
        outlines: list[tuple[Tensor, Tensor, Tensor] | None] = []
        for plane in self.planes:
            after = {key: plane.cut(pair[1]) for key, pair in labels.items()}
            own = plane.cut(labels[name][0]), after.pop(name)
            ids = sorted({int(i) for cut in (*own, *after.values()) for i in cut.unique()} - {0})
            before, registered = (views.indicators(cut[None, None], ids)[0] for cut in own)
            majority = sum((views.indicators(cut[None, None], ids)[0] for cut in after.values()), torch.zeros(()))
            outlines.append((before, registered, (majority / max(len(after), 1)).expand_as(before)))
        return outlines


def _tensor(image: sitk.Image) -> Tensor:
    """(X, Y, Z)."""
    return torch.from_numpy(sitk.GetArrayFromImage(image).T.copy())


def _overlap(name: str, labels: Mapping[str, Pair]) -> tuple[float, float] | None:
    """The mean Dice of an image's label map with each other one, before and after; None where there is none."""
    if name not in labels or len(labels) < 2:
        return None
    means = []
    for moment in (0, 1):
        maps = {key: pair[moment] for key, pair in labels.items()}
        own = maps.pop(name)
        pairs = torch.stack([torch.stack([own, other])[:, None] for other in maps.values()])
        ids = [int(i) for i in pairs.unique() if i > 0]
        if not ids:
            return None
        means.append(float(metrics.dice(pairs, ids).nanmean()))
    return means[0], means[1]
