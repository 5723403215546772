"""Where the voxels of an image are: nibabel's and TorchIO's RAS convention, and SimpleITK's LPS."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Self

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from bingo_pl.errors import InputError
from bingo_pl.images.geometry import invalid
from bingo_pl.memory import shortage

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""RAS mm to LPS mm, and back."""


@dataclass(frozen=True, eq=False)
class Grid:
    """The voxels of an image in space; a 2D image has one voxel along the third axis.

    Raises:
        BingoError: the affine is no image geometry: not finite, singular, sheared or impossibly large.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]
    """(4, 4) array index to RAS mm; any rotation, flip and voxel size."""

    def __post_init__(self) -> None:
        assert len(self.shape) == 3, f"a grid has three sizes, got {self.shape}"
        assert self.affine.shape == (4, 4), f"an affine is (4, 4), got {self.affine.shape}"
        if problem := invalid(self.affine):
            raise InputError(
                f"the image's affine is {problem}: {self.affine.tolist()}. Wanted: three perpendicular axes with "
                "positive voxel sizes",
                "Correct the header, or resample the image",
            )

    @classmethod
    def of(cls, image: sitk.Image) -> Grid:
        """The grid of a 3D SimpleITK image."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
        affine[:3, 3] = image.GetOrigin()
        return cls(image.GetSize(), LPS @ affine)

    def __str__(self) -> str:
        """Sizes for a person."""
        return f"{' x '.join(map(str, self.shape))} voxels of {' x '.join(f'{size:.3g}' for size in self.spacing)} mm"

    def fitting(self, voxel_bytes: float, what: str, remedy: str) -> Self:
        """The grid, where there is memory for it; asked before any is taken.

        Args:
            voxel_bytes: of all that is held on it.
            what: that is held, for the message.
            remedy: what a person can do.

        Raises:
            BingoError: there is not so much memory.
        """
        if short := shortage(math.prod(self.shape) * voxel_bytes):
            raise InputError(f"{what} would have {self}: at least {short}", remedy)
        return self

    @property
    def spacing(self) -> NDArray[np.float64]:
        """(3,) mm per voxel."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    @property
    def directions(self) -> NDArray[np.float64]:
        """(3, 3) unit vectors of the axes in RAS, one a column."""
        return self.affine[:3, :3] / self.spacing

    def canonical(self) -> Grid:
        """The same voxels with axes in the order and sense that come closest to right, anterior, superior."""
        return self.turned(self.orientation_towards("RAS"))

    def orientation_towards(self, codes: str) -> NDArray[np.float64]:
        """(3, 2) the axes and flips, as nibabel's ``apply_orientation`` takes them, to the order and sense that come
        closest to the codes, e.g. LPS."""
        wanted = nib.orientations.axcodes2ornt(tuple(codes))
        found: NDArray[np.float64] = nib.orientations.ornt_transform(nib.io_orientation(self.affine), wanted)
        return found

    def turned(self, orientation: NDArray[np.float64]) -> Grid:
        """The grid of voxels to which nibabel's ``apply_orientation`` has done this."""
        affine = self.affine @ nib.orientations.inv_ornt_aff(orientation, self.shape)
        x, y, z = (self.shape[axis] for axis in np.argsort(orientation[:, 0]))
        return Grid((x, y, z), affine)

    def to_sitk(self, array: NDArray) -> sitk.Image:
        """The SimpleITK image of voxels (X, Y, Z) or vectors (X, Y, Z, C); the dtype is kept."""
        assert array.shape[:3] == self.shape, f"a grid of {self.shape} cannot hold {array.shape}"
        image = sitk.GetImageFromArray(array.swapaxes(0, 2), isVector=array.ndim == 4)
        _, origin, spacing, direction = self.geometry()
        image.SetSpacing(spacing)
        image.SetOrigin(origin)
        image.SetDirection(direction)
        return image

    def blank(self) -> sitk.Image:
        """An image of zeros, which tells SimpleITK the grid."""
        return self.to_sitk(np.zeros(self.shape, np.uint8))

    def geometry(self) -> tuple[list[int], list[float], list[float], list[float]]:
        """Size, origin, spacing and direction, as SimpleITK's filters take them, in LPS mm."""
        direction: list[float] = (LPS[:3, :3] @ self.directions).ravel().tolist()
        return [*self.shape], (LPS @ self.affine)[:3, 3].tolist(), self.spacing.tolist(), direction

    def corners(self, index_to_index: NDArray, edge: float = 0.5) -> NDArray[np.float64]:
        """Where the corners of the field of view are in another grid.

        Args:
            index_to_index: (4, 4) from this grid's indices to the other's.
            edge: voxels from the centres of the outermost voxels outwards, along axes of several voxels.

        Returns:
            (8, 3) indices of the other grid.
        """
        ends = [(-edge, size - 1 + edge) if size > 1 else (0.0, 0.0) for size in self.shape]
        corners = np.array(list(itertools.product(*ends)))
        return corners @ index_to_index[:3, :3].T + index_to_index[:3, 3]

    def part(self, first: NDArray, step: NDArray, shape: tuple[int, int, int]) -> Grid:
        """The grid along the same axes from index ``first`` (3,) on, with a voxel every ``step`` (3,) of these."""
        affine = self.affine.copy()
        affine[:3, 3] += affine[:3, :3] @ first
        affine[:3, :3] *= step
        return Grid(shape, affine)
