"""Learn2Reg's own metrics and field format, for results that stand beside the challenge's.

After the definitions of its public evaluation (github.com/MDL-UzL/L2R): a fixed and a moving image of one shape, and
the displacement in voxels of the fixed image's grid, by which the moving image is pulled back.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from bingo_pl.errors import InputError
from bingo_pl.images.grids import LPS, Grid
from bingo_pl.images.transforms import sampled_displacement, write_nifti
from bingo_pl.spatial import jacobian_determinant

BORDER = 2
"""Voxels at each end of an axis whose Jacobian determinants do not count."""
OFFSET = 3
"""Added to determinants before their logarithm, so that moderate folding stays finite."""
RANGE = (1e-9, 1e9)
FACE_AREA = (0.0, 1 / 8, 1 / 2, 7 / 8, 1.0)
"""Share of a square's area that is inside, by the number of its corners that are: contours cut edges in the middle."""


def dice(fixed: NDArray, moving: NDArray, warped: NDArray, label_ids: Sequence[int]) -> float:
    """Mean Dice overlap of the fixed and the warped moving labels.

    A class missing in the fixed or in the unwarped moving image does not count; one that the warp has lost counts 0.

    Args:
        fixed: (*S) label ids.
        moving: (*S) label ids before the warp.
        warped: (*S) those pulled back to the fixed image by the nearest voxel.
        label_ids: the classes.

    Returns:
        0 to 1; NaN where no class counts.
    """
    shared = _shared(fixed, moving, label_ids)
    return _mean([_overlap(fixed == label, warped == label) for label in shared])


def hd95_l2r(fixed: NDArray, moving: NDArray, warped: NDArray, label_ids: Sequence[int]) -> float:
    """Mean 95th percentile of the Hausdorff distance in voxels, whatever their size in mm.

    Distances are those of DeepMind's surface-distance: between the points midway of 2x2x2 voxels that a surface passes,
    weighted by the area of the surface there, and of both directions the larger. The area is here that of the flat
    patch with the same outline, which is exact where the surface is flat within the eight voxels.

    Args:
        fixed: (X, Y, Z) label ids.
        moving: (X, Y, Z) label ids before the warp.
        warped: (X, Y, Z) those pulled back to the fixed image by the nearest voxel.
        label_ids: the classes; they count as in `dice`.

    Returns:
        Infinite where the warp has lost a class; NaN where no class counts.
    """
    shared = _shared(fixed, moving, label_ids)
    return _mean([_robust_hausdorff(fixed == label, warped == label) for label in shared])


def sdlogj_l2r(displacement: Tensor, mask: Tensor | None = None) -> Tensor:
    """Standard deviation of log(det J + 3) over the voxels `BORDER` away from the border.

    Args:
        displacement: (K, 3, *S) in voxels.
        mask: (K, 1, *S) bool, where the fixed image counts; None is everywhere. The challenge's tests use its masks.

    Returns:
        (K,).
    """
    inner = (slice(None), *[slice(BORDER, -BORDER)] * 3)
    values = (jacobian_determinant(displacement)[inner] + OFFSET).clamp(*RANGE).log()
    masks = torch.ones_like(values, dtype=torch.bool) if mask is None else mask[:, 0][inner]
    return torch.stack([own[inside].std(correction=0) for own, inside in zip(values, masks, strict=True)])


def pairwise_field(
    inverse_of_fixed: sitk.Transform, forward_of_moving: sitk.Transform, fixed: Grid, moving: Grid
) -> NDArray[np.float32]:
    """The challenge's field of a pair from a groupwise registration's transforms, as `bingo register` writes them.

    Args:
        inverse_of_fixed: of points in LPS mm, from the fixed image to the group space.
        forward_of_moving: from the group space to the moving image.
        fixed: its grid.
        moving: its grid.

    Returns:
        (X, Y, Z, 3) displacement u on the fixed grid: moving index = fixed index + u, in voxels.
    """
    both = sitk.CompositeTransform([forward_of_moving, inverse_of_fixed])  # the last is applied first
    index = np.stack(np.meshgrid(*map(np.arange, fixed.shape), indexing="ij"), axis=-1)
    to_lps = LPS @ fixed.affine
    points = index @ to_lps[:3, :3].T + to_lps[:3, 3] + sampled_displacement(both, fixed)
    to_index = np.linalg.inv(LPS @ moving.affine)
    field: NDArray[np.float32] = (points @ to_index[:3, :3].T + to_index[:3, 3] - index).astype(np.float32)
    return field


def write_field(field: NDArray[np.float32], fixed: str, moving: str, affine: NDArray, folder: Path) -> Path:
    """Write ``disp_<fixed>_<moving>.nii.gz`` as the evaluation expects it, at full resolution.

    Args:
        field: (X, Y, Z, 3) from `pairwise_field`.
        fixed: the fixed image's case, four digits.
        moving: the moving image's case, four digits.
        affine: (4, 4) of the fixed image.
        folder: where it goes.

    Raises:
        BingoError: a case is not four digits, or the file cannot be written.
    """
    for case in (fixed, moving):
        if not (len(case) == 4 and case.isdecimal()):
            raise InputError(f"'{case}' is no case of Learn2Reg: wanted four digits, as 0009 in AbdomenMRCT_0009_0000")
    path = folder / f"disp_{fixed}_{moving}.nii.gz"
    write_nifti(nib.Nifti1Image(field, affine), path)
    return path


def _shared(fixed: NDArray, moving: NDArray, label_ids: Sequence[int]) -> list[int]:
    return [label for label in label_ids if (fixed == label).any() and (moving == label).any()]


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def _overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * (a & b).sum() / (a.sum() + b.sum()))


def _robust_hausdorff(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """The larger of both directions' 95th percentiles, in voxels."""
    if not a.any() or not b.any():
        return float("inf")
    first, second = (_surface_areas(np.pad(x, 1)) for x in (a, b))
    return max(_percentile(first, second), _percentile(second, first))


def _percentile(areas: NDArray, others: NDArray) -> float:
    """The distance to another surface within which 95 % of a surface's area lie."""
    on_surface = areas > 0
    distances = ndimage.distance_transform_edt(others == 0)[on_surface]
    order = distances.argsort()
    cumulative = areas[on_surface][order].cumsum()
    return float(distances[order][np.searchsorted(cumulative, 0.95 * cumulative[-1])])


def _surface_areas(mask: NDArray[np.bool_]) -> NDArray:
    """The area of a mask's surface between each 2x2x2 voxels (X - 1, Y - 1, Z - 1), 0 where none passes.

    By the divergence theorem, a patch's vector area is the difference of what its cube's opposite faces have inside.
    """
    total = np.zeros([size - 1 for size in mask.shape])
    for axis in range(3):
        corners = mask.astype(np.int64)
        for other in {0, 1, 2} - {axis}:
            corners = _neighbours(corners, other).sum(0)
        total += np.diff(np.array(FACE_AREA)[corners], axis=axis) ** 2
    surface = _any_surface(mask)
    flat = np.sqrt(total)
    return np.where(surface, np.maximum(flat, np.finfo(float).eps), 0)


def _any_surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where 2x2x2 voxels are not all alike."""
    corners = mask.astype(np.int64)
    for axis in range(3):
        corners = _neighbours(corners, axis).sum(0)
    return (corners > 0) & (corners < 8)


def _neighbours(values: NDArray, axis: int) -> NDArray:
    """Each value and the next one along an axis, (2, ...)."""
    moved = values.swapaxes(0, axis)
    return np.stack([moved[:-1].swapaxes(0, axis), moved[1:].swapaxes(0, axis)])
