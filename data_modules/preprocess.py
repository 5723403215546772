"""From files to groups: what every data module does to its images, once, before training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torchio as tio
from torch import Tensor

from bingo_pl.batch import UNLABELLED, GroupBatch
from bingo_pl.data_modules.reading import corner_distance_mm, read_image, read_labels, read_mask
from bingo_pl.errors import BingoError
from bingo_pl.memory import shortage
from bingo_pl.names import check_file_name

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
PERCENTILES = (0.5, 99.5)
BACKGROUND_SHARE = 0.2
"""An image has a background of its own if at least this share of its voxels has exactly the value of its corners."""


@dataclass(frozen=True)
class Member:
    """One image of a case and the files that belong to it."""

    modality: str
    image: Path
    label: Path | None = None
    mask: Path | None = None
    subject: str = ""
    """Whom it shows, where a person may have several images; empty: one of its own."""

    @property
    def files(self) -> list[Path]:
        return [path for path in (self.image, self.label, self.mask) if path is not None]


@dataclass(frozen=True)
class Case:
    """Images that are preprocessed together: a patient, or one group of a manifest."""

    name: str
    subject: str
    members: tuple[Member, ...]
    fewest: int = 2
    """Members without which it is of no use."""

    def __post_init__(self) -> None:
        check_file_name(self.name, "group")
        if "#" in self.name:
            raise BingoError(f"'{self.name}' cannot name a group: '#' numbers a group's misalignments. Rename it")
        if len(self.members) < self.fewest:
            files = ", ".join(str(member.image) for member in self.members)
            raise BingoError(
                f"group '{self.name}' has {len(self.members)} image ({files}), but two are needed to register "
                "anything. Add an image or remove the group"
            )


@dataclass(frozen=True)
class Preprocessing:
    """Every setting that changes what preprocessing writes."""

    modalities: tuple[str, ...]
    label_ids: tuple[int, ...]
    spacing_mm: float
    """Isotropic in 3D, in-plane in 2D."""
    roi: tuple[int, ...]
    """*S of the groups."""
    fill_nonfinite: float | None
    relabel: Mapping[int, int] = field(default_factory=dict)
    """Label ids to replace while reading, old to new."""


def is_binary(image: Tensor) -> bool:
    """Whether no more than two values occur."""
    low, high = image.aminmax()
    return bool(((image == low) | (image == high)).all())


def foreground(image: Tensor) -> Tensor:
    """Where an image (1, X, Y, Z) shows something, as bool.

    Skull-stripped or padded images have one exact background value in many voxels (`BACKGROUND_SHARE`), the corners
    among them: the foreground is all else. It need not be the minimum, resampled images ring below it. In other images
    the whole field of view is foreground. So it is in images of two values, a silhouette, say: one alone shows nothing.
    """
    value = background_of(image)
    return torch.ones_like(image, dtype=torch.bool) if value is None else image != value


def background_of(image: Tensor) -> float | None:
    """The value of an image's background, see `foreground`; None where it has none."""
    if is_binary(image):
        return None
    value = image[:, :: _step(image, 1), :: _step(image, 2), :: _step(image, 3)].flatten().mode().values
    return float(value) if (image == value).float().mean() >= BACKGROUND_SHARE else None


@dataclass(frozen=True)
class Window:
    """What maps an image's intensities to [0, 1]."""

    low: float
    high: float
    background: float | None
    """This exact value becomes 0."""

    @classmethod
    def of(cls, image: Tensor, path: Path) -> Window:
        """From the `PERCENTILES` of the foreground to [0, 1].

        Raises:
            BingoError: the image is nearly constant; ``path`` is named.
        """
        background = background_of(image)
        values = image if background is None else image[image != background]
        low, high = (float(np.float32(cut)) for cut in np.percentile(values.numpy(), PERCENTILES))
        if not high > low:
            raise BingoError(f"{path}: the foreground is nearly constant. Remove or replace the image")
        return cls(low, high, background)

    def unit(self, image: Tensor) -> Tensor:
        """The image as float32 from 0 to 1."""
        scaled = image.float().clamp(self.low, self.high).sub_(self.low).div_(self.high - self.low)
        return scaled if self.background is None else scaled.masked_fill_(image == self.background, 0)


def rescale(image: tio.ScalarImage, path: Path) -> tio.ScalarImage:
    """Map the foreground's `PERCENTILES` to [0, 1] and clamp; the background becomes 0.

    Raises:
        BingoError: the image is nearly constant; ``path`` is named.
    """
    return tio.ScalarImage(tensor=Window.of(image.data, path).unit(image.data), affine=image.affine)


def read_subject(case: Case, settings: Preprocessing) -> tio.Subject:
    """Read a case on its first image's grid.

    Returns:
        ``image{i}`` in [0, 1] and ``mask{i}`` for member i, ``labels:{path}`` for each label file.
    """
    subject: dict[str, tio.Image] = {}
    for i, member in enumerate(case.members):
        image = read_image(member.image, settings.fill_nonfinite)
        if member.mask is None:
            mask = tio.LabelMap(tensor=foreground(image.data).to(torch.uint8), affine=image.affine)
        else:
            mask = read_mask(member.mask, image)
        entries = {f"image{i}": rescale(image, member.image), f"mask{i}": mask}
        if member.label is not None and f"labels:{member.label}" not in subject:
            entries[f"labels:{member.label}"] = read_labels(member.label, image, settings.label_ids, settings.relabel)
        first = subject.get("image0", entries["image0"] if i == 0 else None)
        assert first is not None
        if not _same_grid(first, image):
            entries = dict(tio.Resample(target=(first.spatial_shape, first.affine), copy=False)(tio.Subject(entries)))
            if not entries[f"mask{i}"].data.any():
                raise BingoError(
                    f"{member.image}: does not overlap with {case.members[0].image}, the first image of group "
                    f"'{case.name}', whose grid the group takes. Correct the headers or align the images"
                )
        subject |= entries
    return tio.Subject(subject)


def to_spacing(subject: tio.Subject, spacing_mm: Sequence[float], path: Path) -> tio.Resample:
    """The resampling of images to voxels of a size, where the result fits in memory.

    Args:
        subject: the images.
        spacing_mm: three sizes.
        path: of the first image.

    Raises:
        BingoError: it does not fit.
    """
    sizes = zip(subject.spatial_shape, subject.spacing, spacing_mm, strict=True)
    shape = [math.ceil(size * old / new) for size, old, new in sizes]
    if short := shortage(4 * math.prod(shape) * len(subject.get_images(intensity_only=False))):
        extent = " x ".join(f"{size * mm:.3g}" for size, mm in zip(shape, spacing_mm, strict=True))
        raise BingoError(
            f"{path}: shows {extent} mm, which with the voxels of data.spacing_mm takes {short}. Correct the unit or "
            "the voxel size in its header if it is wrong; else set a larger data.spacing_mm, or crop the image"
        )
    return tio.Resample(tuple(spacing_mm), copy=False)


def to_group(subject: tio.Subject, case: Case, settings: Preprocessing, axes: Sequence[int]) -> GroupBatch:
    """Stack a subject of `read_subject`, already on the ROI's grid, to a batch of one group.

    Args:
        subject: the images.
        case: what they were read from.
        settings: those that they were read with.
        axes: the D array axes to keep; where the ROI is 2D, the third has one voxel and is dropped.
    """
    shape = settings.roi
    spacing = subject["image0"].spacing

    def stack(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([tensor.reshape(1, *shape) for tensor in tensors])[None].contiguous()

    members = range(len(case.members))
    unlabelled = torch.full((1, *shape), UNLABELLED, dtype=torch.int16)
    return GroupBatch(
        images=stack([subject[f"image{i}"].data for i in members]).float(),
        modalities=torch.tensor([[settings.modalities.index(member.modality) for member in case.members]]),
        masks=stack([subject[f"mask{i}"].data for i in members]) > 0,
        labels=stack(
            [unlabelled if m.label is None else subject[f"labels:{m.label}"].data for m in case.members]
        ).short(),
        spacing=torch.tensor([[spacing[axis] for axis in axes]], dtype=torch.float32),
        names=(case.name,),
    )


def _same_grid(first: tio.Image, image: tio.Image) -> bool:
    if first.spatial_shape != image.spatial_shape:
        return False
    # a hundredth of a voxel: header rounding is no reason to interpolate
    return corner_distance_mm(first.affine, image.affine, first.spatial_shape) < min(first.spacing) / 100


def _step(image: Tensor, axis: int) -> int:
    """The stride that takes the first and the last voxel of an axis."""
    return max(image.shape[axis] - 1, 1)
