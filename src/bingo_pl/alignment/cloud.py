"""Where a group's objects are in the common space: random points are drawn from there, and sizes are measured by it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from torch import Tensor

from bingo_pl.alignment.maps import Maps
from bingo_pl.alignment.volume import Picture

ACROSS = 45
"""Coarse voxels across an object, by which it is outlined."""
MOST = 20_000
"""Voxels of an image that are kept."""


@dataclass(frozen=True, eq=False)
class Outlines:
    """Where each image of a group shows its object, some margin with it: coarse voxels."""

    centres: Sequence[Tensor]
    """(K, D) for each image, in its own mm."""
    voxel_mm: float

    @classmethod
    def of(cls, pictures: Sequence[Picture]) -> Outlines:
        """Outline the objects of some images."""
        step = float(np.median([picture.size_mm for picture in pictures])) / ACROSS
        draw = np.random.default_rng(0)
        parts = []
        for picture in pictures:
            inside, to_index = picture.outline(step)
            if picture.region is None:
                inside = scipy.ndimage.binary_dilation(scipy.ndimage.binary_fill_holes(inside))
            places = np.argwhere(inside)
            if len(places) > MOST:
                places = places[np.sort(draw.choice(len(places), MOST, replace=False))]
            own = (places - to_index[:, -1]) @ np.linalg.inv(to_index[:, :-1]).T
            parts.append(torch.from_numpy(own).float())
        return cls(parts, step)

    def cloud(self, maps: Maps) -> Cloud:
        """The objects in the common space, as the linear maps of the group have them."""
        moved = [Maps(maps.linear.of(image)).inverse(own)[0] for image, own in enumerate(self.centres)]
        return Cloud(torch.cat(moved), self.voxel_mm)


@dataclass(frozen=True, eq=False)
class Cloud:
    """Coarse voxels of all images' objects."""

    centres: Tensor
    """(K, D) mm."""
    voxel_mm: float

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        """(number, D) points, anywhere in the voxels: off all grids, so that no grid leaves its mark."""
        chosen = torch.randint(len(self.centres), (number,), generator=generator)
        jitter = torch.rand(number, self.centres.shape[1], generator=generator) - 0.5
        return self.centres[chosen] + jitter * self.voxel_mm

    @property
    def box(self) -> tuple[Tensor, Tensor]:
        """Lowest and highest corner (D,) mm."""
        return self.centres.amin(0) - self.voxel_mm / 2, self.centres.amax(0) + self.voxel_mm / 2

    @property
    def centre(self) -> Tensor:
        """(D,) mm."""
        return self.centres.mean(0)

    @property
    def size_mm(self) -> float:
        """The objects': the median extent of their box, in 2D the geometric mean."""
        low, high = self.box
        return float((high - low).median() if len(low) > 2 else (high - low).log().mean().exp())
