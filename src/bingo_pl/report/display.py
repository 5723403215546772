"""How volumes of a folder are shown: turned as radiologists expect them, in planes through what there is to see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import affine_transform, binary_fill_holes
from torch import Tensor

from bingo_pl.errors import FileError, InputError
from bingo_pl.figures import views
from bingo_pl.figures.views import Plane
from bingo_pl.images.grids import Grid
from bingo_pl.images.reading import read_voxels

MEAN = "template/mean.nii.gz"
MAX_ACROSS = 256
"""Voxels of the display grid along its longest axis: pictures are not larger."""
FOREGROUND_SHARE = 0.1
"""The group's foreground is where its mean is above this share of its 99th percentile, and what that encloses."""


@dataclass(frozen=True, eq=False)
class Display:
    """Brings volumes of a folder onto the display grid."""

    folder: Path
    group: Grid
    """Of the volumes."""
    orientation: NDArray[np.float64]
    """Of the group's axes, to left, posterior and superior."""
    step: NDArray[np.float64]
    """(3,) voxels of the group from one of the display grid to the next."""
    first: NDArray[np.float64]
    """(3,) where the first one is."""
    grid: Grid

    @classmethod
    def of(cls, folder: Path, group: Grid) -> Display:
        """The group grid, its axes turned; coarser where pictures cannot show it all."""
        orientation = group.orientation_towards("LPS")
        turned = group.turned(orientation)
        extent = np.multiply(turned.shape, turned.spacing)
        finest = max(float(extent.max()) / MAX_ACROSS, float(turned.spacing.min()))
        step = np.maximum(finest / turned.spacing, 1.0)
        shape = np.maximum(np.floor(np.array(turned.shape) / step + 1e-6), 1).astype(int)
        first = (np.array(turned.shape) - 1) / 2 - step * (shape - 1) / 2
        x, y, z = shape.tolist()
        return cls(folder, group, orientation, step, first, turned.part(first, step, (x, y, z)))

    def read(self, file: str, nearest: bool = False) -> Tensor:
        """A volume of the folder (*S) on the display grid.

        Raises:
            BingoError: it is missing or damaged, or not on the group grid.
        """
        path, group = self.folder / file, self.group
        data, affine = read_voxels(path)
        if data.shape != group.shape or not np.allclose(affine, group.affine, atol=1e-3):
            raise InputError(
                f"{path}: is not on the group grid of registration.json",
                "Leave the files of a registration as they are, or register again",
            )
        turned = nib.orientations.apply_orientation(data, self.orientation)
        if self.grid.shape != turned.shape:
            shown = turned if nearest else turned.astype(np.float32, copy=False)
            turned = affine_transform(
                shown, self.step, self.first, self.grid.shape, order=int(not nearest), mode="nearest"
            )
        return torch.from_numpy(np.array(turned, np.float32, order="C"))  # ascontiguousarray keeps a flipped axis of 1

    def foreground(self) -> tuple[Tensor, Sequence[Plane]]:
        """Where there is anything of the group, (*S) bool, and the planes through its middle.

        Raises:
            BingoError: the group's mean is missing, damaged or empty, or there is no plane to show.
        """
        mean = self.read(MEAN)
        inside = mean > FOREGROUND_SHARE * float(np.percentile(mean.numpy(), 99))
        inside = torch.from_numpy(binary_fill_holes(inside.squeeze().numpy())).reshape(mean.shape)
        if not inside.any():
            raise FileError(f"{self.folder / MEAN}: is empty", "Register again")
        flat = [axis for axis in range(3) if mean.shape[axis] == 1]
        planes = [plane for plane in views.planes(inside) if not set(flat) & set(plane.kept)]
        if not planes:
            raise InputError(f"the group grid of {self.folder} is a line of voxels; there is no plane to show")
        return inside, planes
