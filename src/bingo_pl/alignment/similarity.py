"""How alike a group's images are at points: the mean over pairs of images, each over the overlap of the two.

A similarity says what it reads of an image (a `Volume`, whose values may be vectors that turn with the image) and how
two images' values compare. All are high where images are aligned.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bingo_pl.alignment.experts import encode, encoded_lattice
from bingo_pl.alignment.maps import Linear
from bingo_pl.alignment.volume import Picture, Volume, reduced, to_volume
from bingo_pl.errors import InputError
from bingo_pl.memory import shortage
from bingo_pl.methods.bingo import Bingo
from bingo_pl.methods.frozen import frozen

TINY = 1e-6
CONVOLVED = 2 * 4
"""Bytes at least of a voxel and channel: what goes into a convolution and what comes out."""
ALL_PAIRS = 6
"""Images of a group of which every pair is compared; in larger ones each with `PARTNERS` random others a step."""
PARTNERS = 2
Box = tuple[Tensor, Tensor]
"""Lowest and highest corner (D,) mm of the common space."""


class Similarity(ABC):
    """A measure of how alike images are."""

    @abstractmethod
    def see(self, picture: Picture, modality: int, voxel_mm: float, linear: Linear, box: Box) -> Sequence[Volume]:
        """What is read of an image.

        Args:
            picture: the image.
            modality: its number in the model.
            voxel_mm: the resolution.
            linear: of this image alone: where it lies now.
            box: the part of the common space that matters.
        """

    def prepared(self, values: Sequence[Tensor], inside: Tensor) -> Sequence[Tensor]:
        """What images are compared by, made once for each image instead of once for each pair.

        Args:
            values: (N, P, C) for each volume.
            inside: (N, P), 1 where an image shows something.
        """
        return values

    @abstractmethod
    def of(self, first: Sequence[Tensor], second: Sequence[Tensor], counts: Tensor) -> Tensor:
        """Agreement (K,) of K pairs, at most 1.

        Args:
            first: (K, P, C) for each volume: the first image of each pair, `prepared`.
            second: of the second.
            counts: (K, P), 1 where both show something.
        """


@dataclass(frozen=True, eq=False)
class Experts(Similarity):
    """The learned intrinsic similarity: the cosine of the means of two images' experts."""

    bingo: Bingo
    mirrored: Sequence[int] = ()
    """Axes along which images are seen mirrored as well: see `encode`."""

    def see(self, picture: Picture, modality: int, voxel_mm: float, linear: Linear, box: Box) -> Sequence[Volume]:
        lattice = encoded_lattice(*box, voxel_mm, self.bingo.stride)
        if short := shortage(CONVOLVED * self.bingo.channels[0] * math.prod(lattice.shape)):
            reach = " x ".join(f"{size * voxel_mm:.3g}" for size in lattice.shape)
            raise InputError(
                f"the images, where they lie now, reach over {reach} mm: at least {short}",
                "Correct the units, voxel sizes or places in their headers",
            )
        encoder = frozen(self.bingo.encoder, modality)  # in milliseconds: encoding takes seconds
        return [encode(encoder, self.bingo.velocity_scales[-1], picture, lattice, linear, self.mirrored)]

    def prepared(self, values: Sequence[Tensor], inside: Tensor) -> Sequence[Tensor]:
        weights = inside[..., None]
        mean = (values[0] * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True).clamp(min=1)
        return [F.normalize(values[0] - mean, dim=2, eps=TINY)]

    def of(self, first: Sequence[Tensor], second: Sequence[Tensor], counts: Tensor) -> Tensor:
        return _mean((first[0] * second[0]).sum(2), counts)


@dataclass(frozen=True, eq=False)
class Edges(Similarity):
    """Normalised gradient fields (Haber and Modersitzki 2006): the squared cosine of two images' gradients."""

    def see(self, picture: Picture, modality: int, voxel_mm: float, linear: Linear, box: Box) -> Sequence[Volume]:
        values, to_index = reduced(picture.unit, picture.to_index, voxel_mm)
        axes = [axis for axis, size in enumerate(values.shape) if size > 1]
        slopes = torch.zeros(*values.shape, values.ndim)
        for axis in axes:
            slopes[..., axis] = torch.gradient(torch.from_numpy(values), dim=axis)[0]
        slopes = slopes.flatten(0, -2) @ torch.from_numpy(to_index[:, :-1]).float()  # a mm instead of a voxel
        squared = slopes.square().sum(1, keepdim=True)
        length = squared.sqrt()
        seen = length[length > 1e-3 * length.max()]
        edge = float(seen.mean()) if len(seen) else 1.0
        slopes *= (squared + edge**2).rsqrt()
        volume = to_volume(values, to_index)
        return [Volume(slopes, volume.shape, volume.to_index, vectors=True)]

    def of(self, first: Sequence[Tensor], second: Sequence[Tensor], counts: Tensor) -> Tensor:
        return _mean((first[0] * second[0]).sum(2).square(), counts)


@dataclass(frozen=True, eq=False)
class Information(Similarity):
    """Mutual information of intensities, by cubic B-spline windows, in nats."""

    bins: int = 32

    def see(self, picture: Picture, modality: int, voxel_mm: float, linear: Linear, box: Box) -> Sequence[Volume]:
        return [picture.smoothed(voxel_mm)]

    def prepared(self, values: Sequence[Tensor], inside: Tensor) -> Sequence[Tensor]:
        return [_windows(values[0][..., 0], self.bins)]

    def of(self, first: Sequence[Tensor], second: Sequence[Tensor], counts: Tensor) -> Tensor:
        a, b = first[0], second[0]
        joint = (a * counts[..., None]).transpose(1, 2) @ b / counts.sum(1).clamp(min=1)[:, None, None]
        rows, columns = joint.sum(2), joint.sum(1)
        return _negentropy(joint.flatten(1)) - _negentropy(rows) - _negentropy(columns)


@dataclass(frozen=True, eq=False)
class Combined(Similarity):
    """A weighted sum of similarities."""

    parts: Sequence[tuple[Similarity, float]]

    def see(self, picture: Picture, modality: int, voxel_mm: float, linear: Linear, box: Box) -> Sequence[Volume]:
        return [volume for part, _ in self.parts for volume in part.see(picture, modality, voxel_mm, linear, box)]

    def prepared(self, values: Sequence[Tensor], inside: Tensor) -> Sequence[Tensor]:
        return [
            ready
            for index, (part, _) in enumerate(self.parts)
            for ready in part.prepared(values[index : index + 1], inside)
        ]

    def of(self, first: Sequence[Tensor], second: Sequence[Tensor], counts: Tensor) -> Tensor:
        total = counts.new_zeros(len(counts))
        for index, (part, weight) in enumerate(self.parts):
            total = total + weight * part.of(first[index : index + 1], second[index : index + 1], counts)
        return total


def choose_pairs(images: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The images (K,) and (K,) that are compared in a step: all pairs, or random partners, linear in their number."""
    if images <= ALL_PAIRS:
        first, second = torch.triu_indices(images, images, 1)
        return first, second
    order = torch.randperm(images, generator=generator)
    shifts = 1 + torch.randperm(images - 1, generator=generator)[:PARTNERS]
    return order.repeat(len(shifts)), torch.cat([order.roll(int(shift)) for shift in shifts])


def _mean(values: Tensor, counts: Tensor) -> Tensor:
    return (values * counts).sum(1) / counts.sum(1).clamp(min=1)


def _windows(values: Tensor, bins: int) -> Tensor:
    """(K, P) from 0 to 1 -> shares (K, P, bins + 4)."""
    distance = (values[..., None] * (bins - 1) + 2 - torch.arange(bins + 4.0, device=values.device)).abs()
    near = 2 / 3 - distance.square() + distance**3 / 2
    far = (2 - distance).clamp(min=0) ** 3 / 6
    return torch.where(distance < 1, near, far)


def _negentropy(shares: Tensor) -> Tensor:
    return (shares * shares.clamp(min=1e-12).log()).sum(1)
