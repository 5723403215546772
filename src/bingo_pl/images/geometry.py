"""Where the voxels of an image are: 4x4 affines from array indices to RAS mm, compared and judged."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np

GEOMETRY_TOLERANCE_MM = 0.1
"""sform and qform closer than this at every corner are the same: float32 quaternions are less exact than matrices."""
GEOMETRY_TOLERANCE = 0.1
"""The same in voxels, for images under the microscope."""
SHEAR_TOLERANCE = 1e-3
"""The largest scalar product of two axis directions that this program takes for rounding."""
ITK_SHEAR_TOLERANCE = 1e-4
"""That of ITK, measured with SimpleITK 2.5.7."""
POSSIBLE_MM = (1e-9, 1e6)
"""Voxel sizes beyond a picometre and a kilometre are slips or damage, and arithmetic with them overflows."""


def corner_distance_mm(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """The largest distance between the places that two affines give to a corner of a volume."""
    corners = np.array([[*corner, 1] for corner in itertools.product(*[(0, size - 1) for size in shape])])
    return float(np.linalg.norm(corners @ (affine - other).T[:, :3], axis=1).max())


def voxel_size_mm(affine: np.ndarray) -> np.ndarray:
    """The length of a step along each array axis, (3,)."""
    with np.errstate(over="ignore"):  # it is infinite then
        return np.linalg.norm(affine[:3, :3], axis=0)


def geometry_tolerance_mm(affine: np.ndarray) -> float:
    """How far apart two geometries of an image may put its corners and still be the same."""
    return min(GEOMETRY_TOLERANCE_MM, GEOMETRY_TOLERANCE * float(voxel_size_mm(affine).min()))


def show_mm(length: float) -> str:
    """A length for a person, however small."""
    return f"{length:.1f} mm" if length >= 1 else f"{length:.2g} mm"


def shear(affine: np.ndarray) -> float:
    """The largest scalar product of two axis directions; 0 where they are perpendicular, as ITK wants them."""
    directions = affine[:3, :3] / voxel_size_mm(affine)
    return float(np.abs(directions.T @ directions - np.eye(3)).max())


def without_shear(affine: np.ndarray) -> np.ndarray:
    """The nearest affine with perpendicular axes."""
    header = nib.Nifti1Header()
    header.set_qform(affine, 1)
    return header.get_qform()


def invalid(affine: np.ndarray) -> str:
    """What makes an affine unusable as an image geometry, or nothing."""
    if not (np.isfinite(affine).all() and np.isfinite(voxel_size_mm(affine)).all()):
        return "not finite"
    if (voxel_size_mm(affine) == 0).any():
        return "singular"
    least, largest = POSSIBLE_MM
    if not ((voxel_size_mm(affine) >= least) & (voxel_size_mm(affine) <= largest)).all():
        return f"impossible, with voxels of {' x '.join(f'{size:.3g}' for size in voxel_size_mm(affine))} mm"
    return "sheared" if shear(affine) > SHEAR_TOLERANCE else ""  # ITK's geometries cannot shear
