"""Images on their own grids, read at points in millimetres.

The *common space* of a group has D dimensions: RAS mm for volumes, mm in the first image's plane for slices. Points
are (P, D). A volume keeps its values as rows (V, C), one a voxel, so that interpolating C channels at a point reads 2^D
rows and no more; to torch that is an image whose channels come last in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.spatial import sample

SIGMA = 0.5
"""Standard deviation of the smoothing before an image is sampled every voxel of a level, in those voxels."""
REGION_SHARE = 0.25
"""Of a coarse voxel that lies in a mask: more than this, and it belongs to it."""
NEGLIGIBLE = 0.3
"""Standard deviations below this, in voxels, change nothing that matters."""
LARGE = 2**23
"""Voxels above which a smoothed copy is held no finer than its level, which a head of 1 mm stays below."""


@dataclass(frozen=True, eq=False)
class Volume:
    """Values on a regular grid."""

    values: Tensor
    """(V, C), voxels in C order of `shape`."""
    shape: tuple[int, ...]
    """*S."""
    to_index: Tensor
    """(D, D + 1) affine map from mm to array indices."""
    vectors: bool = False
    """The channels are the components of a vector, in the axes of the image's mm, which turns with the image."""

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Interpolate linearly; beyond the border, the border's values.

        Args:
            points: (P, D) mm.

        Returns:
            (P, C) and whether each point lies in the field of view (P,).
        """
        index = points @ self.to_index[:, :-1].T + self.to_index[:, -1]
        last = index.new_tensor([size - 1 for size in self.shape])
        inside = ((index.detach() > -0.5) & (index.detach() < last + 0.5)).all(1)
        channels_last = self.values.reshape(1, *self.shape, -1).movedim(-1, 1)  # a view: what rows are to torch
        line = index.T.reshape(1, len(self.shape), -1, *[1] * (len(self.shape) - 1))
        return sample(channels_last, line).flatten(2)[0].T, inside


@dataclass(frozen=True, eq=False)
class Picture:
    """One image of the group as the optimisation sees it."""

    unit: NDArray[np.float32]
    """*S, intensities from 0 to 1."""
    region: NDArray[np.bool_] | None
    """*S, the mask that came with the image: only there it is compared with the others."""
    to_index: NDArray[np.float64]
    """(D, D + 1) affine map from mm of the common space, where nothing has moved, to array indices."""
    given_mm: float | None = None
    """Voxel size, geometric mean, of the image that this is a smaller copy of; None: this is the image itself."""

    @property
    def voxel_mm(self) -> float:
        """Geometric mean of the voxel's sides, of the image as it was given."""
        return self.given_mm or float(np.exp(np.log(self.spacing).mean()))

    @property
    def spacing(self) -> NDArray[np.float64]:
        """(D,) mm a voxel along each array axis."""
        return np.linalg.norm(np.linalg.inv(self.to_index[:, :-1]), axis=0)

    @property
    def dims(self) -> int:
        return self.unit.ndim

    def coarse(self, voxel_mm: float) -> Picture:
        """A small copy, of voxels of about half of ``voxel_mm``: what is looked at often is looked at there."""
        values, to_index = reduced(self.unit, self.to_index, voxel_mm)
        region = None
        if self.region is not None:
            region = reduced(self.region.astype(np.float32), self.to_index, voxel_mm)[0] > REGION_SHARE
        return Picture(values, region, to_index)

    def thinned(self, across: int) -> Picture:
        """A smaller copy of a `LARGE` image, of at most ``across`` voxels across its object: no level looks closer."""
        if self.unit.size <= LARGE:
            return self
        return replace(self.coarse(self.size_mm / across), given_mm=self.voxel_mm)

    def within(self, low: NDArray[np.float64], high: NDArray[np.float64], margin_mm: float) -> Picture:
        """The part of the image that a box of its own mm holds, with a margin.

        Args:
            low: (D,) mm, the lowest corner.
            high: (D,) mm, the highest.
            margin_mm: mm around the box.
        """
        dims = self.dims
        corners = np.stack(np.meshgrid(*np.stack([low, high], 1), indexing="ij"), -1).reshape(-1, dims)
        index = corners @ self.to_index[:, :-1].T + self.to_index[:, -1]
        margin = margin_mm / self.spacing
        size = np.array(self.unit.shape)
        first = np.clip(np.floor(index.min(0) - margin), 0, size - 1).astype(int)
        last = np.clip(np.ceil(index.max(0) + margin) + 1, first + 1, size).astype(int)
        part = tuple(slice(a, b) for a, b in zip(first, last, strict=True))
        to_index = self.to_index.copy()
        to_index[:, -1] -= first
        return Picture(self.unit[part], None if self.region is None else self.region[part], to_index, self.voxel_mm)

    @property
    def size_mm(self) -> float:
        """Of the object: the median extent of its outline's box, in 2D the geometric mean; a coarse guess."""
        shape = np.array(self.unit.shape)
        extent = float(np.median(shape * self.spacing))
        inside, to_index = self.outline(extent / 32)
        places = np.argwhere(inside)
        sizes = (places.max(0) - places.min(0) + 1) / np.linalg.norm(to_index[:, :-1], axis=1)
        return float(np.median(sizes) if len(sizes) > 2 else np.sqrt(np.prod(sizes)))

    def smoothed(self, voxel_mm: float) -> Volume:
        """A copy without detail finer than voxels of a size: averaged, then smoothed, each axis by what it lacks."""
        return to_volume(*reduced(self.unit, self.to_index, voxel_mm))

    def outline(self, voxel_mm: float) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Where the image shows its object: its mask if it has one, else what Otsu's threshold finds.

        Returns:
            *s, of about ``voxel_mm``, and its `to_index`.
        """
        source = self.unit if self.region is None else self.region.astype(np.float32)
        values, to_index = reduced(source, self.to_index, voxel_mm)
        bright = values > (REGION_SHARE if self.region is not None else _otsu(values))
        return (bright if bright.any() else np.ones_like(bright)), to_index


def to_volume(values: NDArray[np.float32], to_index: NDArray[np.float64]) -> Volume:
    """Values *S with their affine map (D, D + 1) as a `Volume` of one channel."""
    return Volume(torch.from_numpy(values.reshape(-1, 1)), values.shape, torch.from_numpy(to_index).float())


def reduced(
    values: NDArray[np.float32], to_index: NDArray[np.float64], voxel_mm: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Values *S averaged over whole voxels to half of ``voxel_mm``, then smoothed to it; with the new `to_index`.

    Of a `LARGE` volume only a voxel every ``voxel_mm`` is kept.
    """
    spacing = np.linalg.norm(np.linalg.inv(to_index[:, :-1]), axis=0)
    factors = [
        max(min(int(voxel_mm / (2 * step) + 1e-6), size), 1) for step, size in zip(spacing, values.shape, strict=True)
    ]
    if max(factors) > 1:
        values = _averaged(values, factors)
        to_index = (to_index + _offset(factors)) / np.array(factors)[:, None]
    large = values.size > LARGE
    for axis, (step, factor) in enumerate(zip(spacing, factors, strict=True)):
        own = SIGMA * step * (1 if factor == 1 else factor)
        sigma = np.sqrt(max((SIGMA * voxel_mm) ** 2 - own**2, 0)) / (step * factor)
        if sigma > NEGLIGIBLE and values.shape[axis] > 1:
            values = scipy.ndimage.gaussian_filter1d(values, sigma, axis=axis, mode="nearest", truncate=3)
        if large and voxel_mm > step * factor:
            values, to_index = _strided(values, to_index, axis, voxel_mm / (step * factor))
    return np.ascontiguousarray(values, np.float32), to_index


def _strided(
    values: NDArray[np.float32], to_index: NDArray[np.float64], axis: int, stride: float
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Values every ``stride`` (above 1) voxels of an axis, about its middle, interpolated linearly."""
    size = values.shape[axis]
    count = int((size - 1) / stride) + 1
    first = (size - 1 - stride * (count - 1)) / 2
    places = first + stride * np.arange(count)
    low = places.astype(int)
    share = (places - low).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1 - axis))
    kept = np.take(values, low, axis)
    kept += share * (np.take(values, np.minimum(low + 1, size - 1), axis) - kept)
    moved = to_index.copy()
    moved[axis, -1] -= first
    moved[axis] /= stride
    return kept, moved


def _offset(factors: Sequence[int]) -> NDArray[np.float64]:
    """(D, D + 1) what an averaged voxel's index is ahead: its centre lies between those of its voxels."""
    offset = np.zeros((len(factors), len(factors) + 1))
    offset[:, -1] = -(np.array(factors) - 1) / 2
    return offset


def _averaged(values: NDArray[np.float32], factors: Sequence[int]) -> NDArray[np.float32]:
    """Means of blocks; a last block that is not whole is left out."""
    for axis, factor in enumerate(factors):
        if factor > 1:
            whole = values.shape[axis] // factor
            kept = np.take(values, range(whole * factor), axis) if whole * factor < values.shape[axis] else values
            values = kept.reshape(*kept.shape[:axis], whole, factor, *kept.shape[axis + 1 :]).mean(axis + 1)
    return values


def _otsu(values: NDArray[np.float32]) -> float:
    """Otsu's threshold: the one that leaves least variance within the two classes."""
    counts, edges = np.histogram(values, bins=128)
    centres = (edges[:-1] + edges[1:]) / 2
    below = np.cumsum(counts)[:-1]
    above = below[-1] + counts[-1] - below
    sums = np.cumsum(counts * centres)
    total, sums = sums[-1], sums[:-1]
    between = below * above * (sums / np.maximum(below, 1) - (total - sums) / np.maximum(above, 1)) ** 2
    return float(edges[1:-1][np.argmax(between)])
