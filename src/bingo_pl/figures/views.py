"""What the figures show, as data: planes, contours, deformed grids, colours. Nothing is drawn here.

Coordinates are voxels in array-axis order; a plane keeps two axes in their order, (h, w).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from contourpy import contour_generator
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.spatial import identity, jacobian_determinant

MARGIN = 5.5
"""Voxels shown around the foreground."""

Line = NDArray[np.float64]
"""(points, 2) coordinates in the plane, array-axis order."""


@dataclass(frozen=True)
class Plane:
    """Two axes of a grid; the others, if any, are fixed. The plane of a 2D image is the image."""

    kept: tuple[int, int]
    centre: tuple[int, ...]
    """(D,) the voxel that the plane goes through."""
    grid: tuple[int, ...]
    """*S that ``centre`` and ``window`` refer to."""
    window: tuple[tuple[float, float], tuple[float, float]]
    """Along either kept axis, where the part worth seeing begins and ends, in voxels."""

    @property
    def shape(self) -> tuple[int, int]:
        first, second = self.kept
        return self.grid[first], self.grid[second]

    @property
    def fixed(self) -> list[int]:
        return [axis for axis in range(len(self.grid)) if axis not in self.kept]

    def cut(self, volume: Tensor) -> Tensor:
        """(..., *s) -> (..., h, w); *s may be coarser than ``grid``, over the same field of view."""
        for axis in reversed(self.fixed):
            dim = volume.ndim - len(self.grid) + axis
            position = (self.centre[axis] + 0.5) * volume.shape[dim] / self.grid[axis]
            volume = volume.select(dim, int(position))
        return volume


def planes(foreground: Tensor) -> list[Plane]:
    """The planes through the foreground's centre of mass: one in 2D, three in 3D, the one across the last axis first.

    Their windows hold the foreground's bounding box and `MARGIN`, within the grid.

    Args:
        foreground: (*S) bool, not empty.
    """
    voxels = foreground.nonzero()
    centre = tuple(int(c) for c in voxels.float().mean(dim=0).round())
    low, high = voxels.amin(dim=0).tolist(), voxels.amax(dim=0).tolist()
    grid = tuple(foreground.shape)
    window = [
        (max(first - MARGIN, -0.5), min(last + MARGIN, size - 0.5))
        for first, last, size in zip(low, high, grid, strict=True)
    ]
    return [Plane((i, j), centre, grid, (window[i], window[j])) for i, j in combinations(range(len(grid)), 2)]


def evenly(count: int, limit: int) -> list[int]:
    """At most ``limit`` of ``range(count)``, evenly spaced, the first and the last among them."""
    return [round(position) for position in np.linspace(0, count - 1, min(count, limit))]


def indicators(labels: Tensor, label_ids: Sequence[int]) -> Tensor:
    """Labels (K, 1, *S) as (K, L, *S) zeros and ones, one channel per id; an image without a label map is all zeros.

    Warped linearly, their level 0.5 is the warped outline below voxel resolution.
    """
    return (labels == torch.tensor(label_ids).reshape(-1, *[1] * (labels.ndim - 2))).float()


def contours(indicator: Tensor) -> list[Line]:
    """The lines along which (h, w) crosses 0.5."""
    return [np.asarray(line) for line in contour_generator(z=indicator.T.numpy()).lines(0.5)]


def grid_lines(displacement: Tensor, spacing: int) -> list[Line]:
    """Every ``spacing``-th line of the grid, both ways, where ``id + displacement`` takes it.

    Args:
        displacement: (2, h, w).
        spacing: voxels between lines.
    """
    points = (identity(displacement.shape[1:], displacement) + displacement).permute(1, 2, 0).double().numpy()
    return [*points[::spacing], *points[:, ::spacing].swapaxes(0, 1)]


def log_jacobian(displacement: Tensor) -> Tensor:
    """Natural logarithm (K, *S) of the Jacobian determinant of ``id + displacement``, NaN where it is not positive."""
    determinant = jacobian_determinant(displacement)
    return torch.where(determinant > 0, determinant, torch.nan).log()


def checkerboard(first: Tensor, second: Tensor, tile: int) -> Tensor:
    """Squares of ``tile`` voxels taken from two (h, w) images in turn, the first one's at the origin."""
    rows, columns = (torch.arange(size) // tile for size in first.shape)
    return torch.where((rows[:, None] + columns) % 2 == 0, first, second)


def principal_colours(features: Tensor) -> Tensor:
    """The first three principal components of the channels as red, green, blue.

    All K share the components, so that equal colours mean equal features. Each component is stretched
    from its 1st to its 99th percentile; missing ones (C < 3) stay 0.

    Args:
        features: (K, C, h, w).

    Returns:
        (K, h, w, 3) in [0, 1].
    """
    pixels = features.movedim(1, -1).flatten(0, 2)
    centred = pixels - pixels.mean(dim=0)
    _, vectors = torch.linalg.eigh(centred.T @ centred)
    vectors = vectors.flip(1)[:, :3]
    signs = torch.take_along_dim(vectors, vectors.abs().argmax(dim=0, keepdim=True), dim=0).sign()
    components = centred @ (vectors * signs)
    low, high = np.percentile(components.numpy(), [1, 99], axis=0)
    stretched = (components - torch.tensor(low)) / torch.tensor(high - low).clamp(min=1e-8)
    colours = torch.zeros(len(pixels), 3)
    colours[:, : stretched.shape[1]] = stretched.clamp(0, 1)
    return colours.unflatten(0, (features.shape[0], *features.shape[2:]))
