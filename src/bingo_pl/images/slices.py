"""2D slices of a stack in a common plane: where they lie, which belong together, and how they align.

A stack's slices run along its third array axis. In-plane coordinates are millimetres along the first two axes of the
reference stack; positions are millimetres along its normal.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
import torchio as tio

from bingo_pl.images import itk_alignment

log = logging.getLogger(__name__)

PARALLEL = 0.9
"""Smallest cosine between the normals of two stacks whose slices can be compared."""


@dataclass(frozen=True)
class Plane:
    """The in-plane axes and the normal of the reference stack, unit vectors in RAS millimetres."""

    axes: np.ndarray
    """(2, 3)."""
    normal: np.ndarray
    """(3,)."""

    @classmethod
    def of(cls, stack: tio.Image) -> Plane:
        axes = (stack.affine[:3, :2] / np.linalg.norm(stack.affine[:3, :2], axis=0)).T
        return cls(axes, np.cross(*axes))

    def is_parallel_to(self, stack: tio.Image) -> bool:
        return abs(float(self.normal @ Plane.of(stack).normal)) > PARALLEL

    def positions_mm(self, stack: tio.Image) -> np.ndarray:
        """(Z,) positions of the slices' centres along the normal."""
        x, y, z = stack.spatial_shape
        centres = np.array([[(x - 1) / 2, (y - 1) / 2, k, 1] for k in range(z)])
        return centres @ stack.affine[:3].T @ self.normal

    def thickness_mm(self, stack: tio.Image) -> float:
        """Distance of neighbouring slices along the normal."""
        return abs(float(self.normal @ stack.affine[:3, 2]))

    def slice(self, stack: tio.Image, k: int) -> sitk.Image:
        """Slice k as a 2D image in in-plane coordinates."""
        columns = self.axes @ stack.affine[:3, :2]
        spacing = np.linalg.norm(columns, axis=0)
        image = sitk.GetImageFromArray(stack.numpy()[0, :, :, k].T)
        image.SetSpacing(spacing.tolist())
        image.SetDirection((columns / spacing).ravel().tolist())
        image.SetOrigin((self.axes @ stack.affine[:3] @ [0, 0, k, 1]).tolist())
        return image


def match_slices(plane: Plane, reference: tio.Image, other: tio.Image) -> dict[int, int]:
    """The nearest slice of the other stack to each of the reference, if within half of the thicker slice distance."""
    reach = max(plane.thickness_mm(reference), plane.thickness_mm(other)) / 2
    distances = np.abs(plane.positions_mm(reference)[:, None] - plane.positions_mm(other)[None])
    nearest = distances.argmin(axis=1)
    return {k: int(j) for k, j in enumerate(nearest) if distances[k, j] <= reach}


def align(fixed: sitk.Image, moving: sitk.Image, name: str) -> sitk.Transform:
    """The affine map from points of one slice to points of another by Mattes mutual information.

    It starts from the headers or from matching centres, whichever is more similar, and falls back to that start where
    the optimisation does not improve on it. Equal inputs give equal results.

    Args:
        fixed: 2D slice.
        moving: 2D slice of another sequence.
        name: for the log.
    """
    fixed, moving = sitk.Cast(fixed, sitk.sitkFloat32), sitk.Cast(moving, sitk.sitkFloat32)
    headers = sitk.AffineTransform(2)
    headers.SetCenter(fixed.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in fixed.GetSize()]))
    mode = sitk.CenteredTransformInitializerFilter.GEOMETRY
    centres = sitk.AffineTransform(sitk.CenteredTransformInitializer(fixed, moving, sitk.AffineTransform(2), mode))
    alignment = itk_alignment.align(fixed, moving, itk_alignment.best_start(fixed, moving, (headers, centres)))
    values = (name, alignment.start, alignment.similarity)
    if alignment.failure:
        log.info("%s: affine alignment failed (%s)", name, alignment.failure)
    elif alignment.similarity <= alignment.start:
        log.info("%s: affine alignment did not improve the similarity (%.4f) and is not used", *values[:2])
    else:
        log.info("%s: affine alignment improved the mutual information from %.4f to %.4f", *values)
    return alignment.transform
