"""From files to groups: what every data module does to its images, once, before training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
import torchio as tio
from torch import Tensor

from bingo_pl.batch import UNLABELLED, GroupBatch
from bingo_pl.errors import InputError
from bingo_pl.images.geometry import corner_distance_mm
from bingo_pl.images.intensity import foreground, rescale
from bingo_pl.images.members import Member
from bingo_pl.images.reading import read_image, read_labels, read_mask
from bingo_pl.memory import shortage
from bingo_pl.storage.names import check_file_name

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


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
            raise InputError(f"'{self.name}' cannot name a group: '#' numbers a group's misalignments", "Rename it")
        if len(self.members) < self.fewest:
            files = ", ".join(str(member.image) for member in self.members)
            raise InputError(
                f"group '{self.name}' has {len(self.members)} image ({files}), but two are needed to register anything",
                "Add an image or remove the group",
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
                raise InputError(
                    f"{member.image}: does not overlap with {case.members[0].image}, the first image of group "
                    f"'{case.name}', whose grid the group takes",
                    "Correct the headers or align the images",
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
        raise InputError(
            f"{path}: shows {extent} mm, which with the voxels of data.spacing_mm takes {short}",
            "Correct the unit or "
            "the voxel size in its header if it is wrong; else set a larger data.spacing_mm, or crop the image",
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
