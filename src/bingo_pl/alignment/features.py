"""What people are compared by at points of the common space: vectors whose inner products say how well two agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from torch import Tensor

from bingo_pl.alignment.maps import Linear, Maps
from bingo_pl.alignment.similarity import TINY, Box, Edges, Experts
from bingo_pl.alignment.volume import Picture, Volume, to_volume
from bingo_pl.errors import FileError
from bingo_pl.methods.bingo import Bingo
from bingo_pl.storage import sealed
from bingo_pl.storage.atomic import replacing

EDGES_WEIGHT = 2.0
EXPERTS = "experts"


@dataclass(frozen=True, eq=False)
class Subject:
    """One person's images, which lie on each other."""

    pictures: Sequence[Picture]
    modalities: Sequence[int]
    """Their numbers in the model."""
    contrasts: Sequence[str]
    """Gradients of one contrast are compared by their direction."""


@dataclass(frozen=True, eq=False)
class Feature:
    """Vectors of N subjects at P points, whose inner products say how well two subjects agree."""

    vectors: Tensor
    """(N, P, K), 0 where a subject shows nothing."""
    weights: Tensor
    """(N, P), 1 where it shows something."""


Features = Mapping[str, Feature]
"""`EXPERTS`, and the gradients of each contrast."""


@dataclass(frozen=True, eq=False)
class Template:
    """What a finished group shows: the sums of its subjects' vectors and weights."""

    levels: Mapping[float, Mapping[str, Volume]]
    """By the mm at which images were compared, each feature on a lattice: K + 1 channels, the weight last."""
    box: Box
    """Of the group's objects in the common space."""

    def at(self, points: Tensor, voxel_mm: float) -> Features:
        """Read the sums of a level at (P, D) mm of the common space."""
        read = {name: volume.at(points)[0] for name, volume in self.levels[voxel_mm].items()}
        return {name: Feature(values[None, :, :-1], values[None, :, -1]) for name, values in read.items()}

    def write(self, path: Path) -> None:
        """Write it for `read`, in half precision; raises `BingoError` where that is not possible."""
        levels = {
            voxel: {
                name: {"values": volume.values.half(), "shape": volume.shape, "to_index": volume.to_index}
                for name, volume in volumes.items()
            }
            for voxel, volumes in self.levels.items()
        }
        with replacing(path) as temporary, temporary.open("w+b") as file:
            sealed.write({"levels": levels, "box": self.box}, file)

    @classmethod
    def read(cls, path: Path) -> Template:
        """What `write` wrote; raises `BingoError` where the file is missing or holds anything else."""
        try:
            content = sealed.load(path, unsealed=False)
        except sealed.DamagedFileError as error:
            raise FileError(
                f"{path}: is not what was written there ({error})", "Make the atlas again, or copy it whole"
            ) from error
        levels = {
            voxel: {name: Volume(one["values"].float(), one["shape"], one["to_index"]) for name, one in volumes.items()}
            for voxel, volumes in content["levels"].items()
        }
        return cls(levels, content["box"])


@dataclass(frozen=True, eq=False)
class Look:
    """What is read of an image at a level."""

    contrast: str
    experts: Volume | None
    edges: Volume
    region: Volume | None
    """1 where its mask reaches."""

    @classmethod
    def of(
        cls, bingo: Bingo | None, picture: Picture, modality: int, contrast: str, voxel_mm: float, own: Linear, box: Box
    ) -> Look:
        """Look at an image; ``own`` is where it lies now, common space to image."""
        edges = Edges().see(picture, modality, voxel_mm, own, box)[0]
        experts = None
        if bingo is not None:
            experts = _about_mean(Experts(bingo).see(picture, modality, voxel_mm, own, box)[0], picture, voxel_mm)
        region = None
        if picture.region is not None:
            inside, to_index = picture.outline(2 * voxel_mm)
            region = to_volume(scipy.ndimage.binary_dilation(inside).astype(np.float32), to_index)
        return cls(contrast, experts, edges, region)

    def read(self, points: Tensor, turn: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """At (P, D) mm of the image: experts (P, C), gradients (P, D) in the common space, and whether it is seen (P).

        Args:
            points: where.
            turn: (D, D) the image's linear map.
        """
        edges, inside = self.edges.at(points)
        seen = inside.float()
        if self.region is not None:
            seen = seen * (self.region.at(points)[0][:, 0].detach() > 0.5)
        edges = edges @ turn
        if self.experts is None:
            return None, edges, seen
        experts, encoded = self.experts.at(points)
        return F.normalize(experts, dim=1, eps=TINY), edges, seen * encoded


@dataclass(frozen=True, eq=False)
class View:
    """A group's images as they are compared at a level."""

    looks: Sequence[Sequence[Look]]
    """Of each subject."""

    @classmethod
    def of(cls, bingo: Bingo | None, subjects: Sequence[Subject], voxel_mm: float, linear: Linear, box: Box) -> View:
        """Look at all subjects; ``linear`` holds their maps."""
        return cls(
            [
                [
                    Look.of(bingo, *image, voxel_mm, linear.of(i), box)
                    for image in zip(one.pictures, one.modalities, one.contrasts, strict=True)
                ]
                for i, one in enumerate(subjects)
            ]
        )

    def features(self, maps: Maps, points: Tensor) -> Features:
        """What the subjects show at points (P, D) of the common space."""
        where = maps(points)
        found: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for i, looks in enumerate(self.looks):
            own: dict[str, list[tuple[Tensor, Tensor]]] = {}
            for look in looks:
                experts, edges, seen = look.read(where[i], maps.linear.matrix[i])
                own.setdefault(look.contrast, []).append((edges, seen))
                if experts is not None:
                    own.setdefault(EXPERTS, []).append((experts, seen))
            for name, parts in own.items():
                count = torch.stack([seen for _, seen in parts]).sum(0)
                total = torch.stack([values * seen[:, None] for values, seen in parts]).sum(0)
                found.setdefault(name, [_nothing(parts[0])] * i).append((total / count.clamp(min=1)[:, None], count))
            for lacking in found.keys() - own.keys():
                found[lacking].append(_nothing(found[lacking][0]))
        return {
            name: Feature(torch.stack([v for v, _ in parts]), torch.stack([c for _, c in parts]).clamp(max=1))
            for name, parts in found.items()
        }


def mean_agreement(features: Features, given: Features | None) -> Tensor:
    """Of all pairs, or of all subjects with a given sum: that of experts, and that of gradients by its weight."""
    total = torch.zeros(())
    parts = {name: with_others(f, None if given is None else given.get(name)) for name, f in features.items()}
    if EXPERTS in parts:
        agreed, count = parts.pop(EXPERTS)
        total = total + agreed.sum() / count.sum().clamp(min=1)
    agreed, count = (torch.stack([part[which].sum() for part in parts.values()]).sum() for which in (0, 1))
    return total + EDGES_WEIGHT * agreed / count.clamp(min=1)


def with_others(feature: Feature, given: Feature | None) -> tuple[Tensor, Tensor]:
    """Of each subject (N,): its agreement with all others, and the number of comparisons, summed over the points."""
    vectors, weights = feature.vectors * feature.weights[..., None], feature.weights
    total, count = vectors.sum(0), weights.sum(0)
    if given is not None:  # a finished group is what each is compared with, not the other newcomers
        return (vectors * given.vectors[0]).sum((1, 2)), (weights * given.weights[0]).sum(1)
    return (vectors * (total - vectors)).sum((1, 2)), (weights * (count - weights)).sum(1)


def _nothing(like: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(like[0]), torch.zeros_like(like[1])


def _about_mean(experts: Volume, picture: Picture, voxel_mm: float) -> Volume:
    """Experts less their mean over the object."""
    inside, to_index = picture.outline(2 * voxel_mm)
    places = (np.argwhere(inside) - to_index[:, -1]) @ np.linalg.inv(to_index[:, :-1]).T
    mean = experts.at(torch.from_numpy(places).float())[0].mean(0)
    return replace(experts, values=experts.values - mean)
