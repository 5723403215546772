"""A model's displacements, in voxels of the group grid, as transforms in millimetres (`bingo_pl.images.transforms`).

Beyond the group grid the displacement continues as at the border as far as the border itself moves, then fades to zero,
so that images larger than the group grid do not tear: far away the transform is its affine stage alone. A 2D
displacement holds for the plane of the group and the planes next to it.
"""

from __future__ import annotations

import math

import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.images.grids import LPS, Grid
from bingo_pl.images.transforms import FieldTransform, affine_transform
from bingo_pl.spatial import compose

FADE = 2
"""The displacement fades over this many times its reach, so that its slope stays below 1 / FADE and nothing folds."""
PLANE_MARGIN = 1
"""Planes that repeat the displacement of a 2D group above and below it: SimpleITK reads a field of one plane as 2D."""
INVERSE_ITERATIONS = 5
"""More change nothing, even for displacements of 7 voxels that shrink voxels to a fifth."""
VECTOR_BYTES = 3 * 8
"""Of a sampled displacement."""


def forward_and_inverse(
    displacement: Tensor, inverse: Tensor, group: Grid, image: Grid, affine: NDArray[np.float64] | None = None
) -> tuple[FieldTransform, FieldTransform]:
    """The transforms of one image of a `Registration`.

    With an affine stage they are composites of it and the displacement field, as ANTs writes them; without,
    displacement fields alone.

    Args:
        displacement: u (D, *S) from the group space to the image, in voxels of the group grid.
        inverse: (D, *S) the inverse of u; it is improved where u nevertheless maps its result elsewhere.
        group: the group grid, its first D sizes *S; in 2D the third is 1.
        image: the image's own grid.
        affine: A (4, 4) RAS mm, from the group to the image, after u.

    Raises:
        BingoError: the image is so large that its inverse does not fit in memory.

    Returns:
        Forward and inverse. Their grids hold the group grid, as far as the displacement reaches; the inverse's, in the
        image's orientation and in steps of at most one voxel of the group grid, the whole image as well.
    """
    shape = tuple(displacement.shape[1:])
    assert (*shape, 1)[:3] == group.shape, f"a displacement of {shape} is not on the group grid {group.shape}"
    u, v = displacement.detach().cpu()[None], inverse.detach().cpu()[None]
    reach = _reach(u, v)
    u, v = _extend(u, reach), _extend(v, reach)
    v = _improve_inverse(v, u)
    margin = [(1 + FADE) * reach] * len(shape) + [PLANE_MARGIN] * (3 - len(shape))
    domain = group.part(-np.array(margin), np.ones(3), (*u.shape[2:], 1 + 2 * PLANE_MARGIN)[:3])
    forward, backward = _field_transform(u[0], domain), _field_transform(v[0], domain)
    if affine is not None:  # a composite applies its last transform first
        forward = sitk.CompositeTransform([affine_transform(affine), forward])
        backward = sitk.CompositeTransform([backward, affine_transform(np.linalg.inv(affine))])
    over_image = _covering(image, domain, np.eye(4) if affine is None else affine).fitting(
        VECTOR_BYTES, "the inverse displacement over the image", "Crop the image, or downsample it"
    )
    return FieldTransform(forward, domain), FieldTransform(backward, over_image)


def _reach(*displacements: Tensor) -> int:
    """The voxels, at least 1, by which displacements (1, D, *S) move their grid's border: nothing gets further out."""
    faces = [u.select(axis, end).abs().amax() for u in displacements for axis in range(2, u.ndim) for end in (0, -1)]
    return max(math.ceil(torch.stack(faces).amax()), 1)


def _extend(displacement: Tensor, reach: int) -> Tensor:
    """(1, D, *S) continued at each end: ``reach`` voxels with the border's value, which fades to 0 in FADE * reach."""
    margin = (1 + FADE) * reach
    shape = displacement.shape[2:]
    outside = displacement.new_zeros(())
    for axis, size in enumerate(shape):
        position = torch.arange(-margin, size + margin, dtype=displacement.dtype)
        distance = torch.maximum(-position, position - (size - 1)).clamp(min=0)
        outside = torch.maximum(outside, distance.reshape(-1, *[1] * (len(shape) - 1 - axis)))
    fading = ((margin - outside) / (FADE * reach)).clamp(max=1)
    return F.pad(displacement, [margin] * (2 * len(shape)), mode="replicate") * fading


def _improve_inverse(inverse: Tensor, displacement: Tensor) -> Tensor:
    """Fixed-point steps (Chen 2008) for (1, D, *S), taken only in voxels that they bring closer to the inverse."""
    error = compose(displacement, inverse)
    for _ in range(INVERSE_ITERATIONS):
        step = inverse - error
        step_error = compose(displacement, step)
        closer = step_error.square().sum(1, keepdim=True) < error.square().sum(1, keepdim=True)
        inverse, error = torch.where(closer, step, inverse), torch.where(closer, step_error, error)
    return inverse


def _field_transform(displacement: Tensor, grid: Grid) -> sitk.Transform:
    """A displacement (D, *S) in voxels of a grid as SimpleITK's transform, which holds float64."""
    to_mm = (LPS @ grid.affine)[:3, : len(displacement)]
    field = np.tensordot(displacement.double().numpy(), to_mm, axes=(0, 1))
    if len(displacement) == 2:
        field = np.repeat(field[:, :, None], grid.shape[2], axis=2)
    return sitk.DisplacementFieldTransform(grid.to_sitk(field))


def _covering(image: Grid, domain: Grid, affine: NDArray[np.float64]) -> Grid:
    """The grid along an image's axes that holds the image and a part of the group space, as finely as the latter."""
    to_domain = np.linalg.inv(affine @ domain.affine) @ image.affine
    step = 1 / np.linalg.norm(to_domain[:3, :3], axis=0)  # one voxel of the domain, in voxels of the image
    corners = np.concatenate([image.corners(np.eye(4)), domain.corners(np.linalg.inv(to_domain), edge=0)]) / step
    corners = corners.round(6)  # rounding errors are not worth a voxel
    first, last = np.floor(corners.min(0)), np.ceil(corners.max(0))
    x, y, z = (last - first).astype(int).tolist()
    return image.part(first * step, step, (x + 1, y + 1, z + 1))
