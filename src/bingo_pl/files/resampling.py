"""Images, label maps and points moved between the members of a group and its template, in one interpolation.

Images are pulled back: each voxel of the target asks where it comes from. Points are pushed the other way; the
functions here take a source and a target and pick the direction themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from bingo_pl.files.grids import LPS, Grid
from bingo_pl.files.transforms import read_transform


@dataclass(frozen=True, eq=False)
class Member:
    """How an image of a group, or the group's template, lies to the group space; points in LPS mm."""

    forward: sitk.Transform
    """Group space to image."""
    inverse: sitk.Transform
    """Image to group space."""

    @classmethod
    def read(cls, stem: Path) -> Member:
        """From ``<stem>_forward.h5`` and ``<stem>_inverse.h5``.

        Raises:
            BingoError: a file is missing or damaged.
        """
        return cls(*(read_transform(stem.with_name(f"{stem.name}_{way}.h5")) for way in ("forward", "inverse")))


TEMPLATE = Member(sitk.Transform(3, sitk.sitkIdentity), sitk.Transform(3, sitk.sitkIdentity))
"""The template lies in the group space."""


def pull_back(source: Member, target: Member) -> sitk.Transform:
    """Where each point of the target's space comes from in the source's: what resamples the source's image."""
    return sitk.CompositeTransform([source.forward, target.inverse])  # the last one is applied first


def resample_image(image: sitk.Image, transform: sitk.Transform, grid: Grid) -> sitk.Image:
    """Interpolate intensities linearly.

    Args:
        image: 3D, in the source's space.
        transform: points of the target's space to the source's, see `pull_back`.
        grid: the target's own voxels.

    Returns:
        float32; outside the source's field of view its least intensity.
    """
    extrema = sitk.MinimumMaximumImageFilter()
    extrema.Execute(image)
    return sitk.Resample(image, grid.blank(), transform, sitk.sitkLinear, extrema.GetMinimum(), sitk.sitkFloat32)


def resample_labels(labels: sitk.Image, transform: sitk.Transform, grid: Grid) -> sitk.Image:
    """The label with the largest linearly interpolated share of each voxel; otherwise as `resample_image`.

    Returns:
        The pixel type and ids of ``labels``; 0 outside the source's field of view.
    """
    return sitk.Resample(labels, grid.blank(), transform, sitk.sitkLabelLinear, 0, labels.GetPixelID())


def to_array(image: sitk.Image) -> NDArray:
    """Voxels (X, Y, Z)."""
    array: NDArray = sitk.GetArrayFromImage(image).T.copy()
    return array


def map_points(points_mm: ArrayLike, source: Member, target: Member) -> NDArray[np.float64]:
    """Move points of the source's image to the target's.

    Args:
        points_mm: (P, 3) RAS.

    Returns:
        (P, 3) RAS mm.
    """
    transform = pull_back(source=target, target=source)  # from source to target, against the pull-back of its image
    lps = np.asarray(points_mm, dtype=np.float64).reshape(-1, 3) @ LPS[:3, :3]
    moved = [transform.TransformPoint(point) for point in lps.tolist()]
    return np.reshape(moved, (-1, 3)) @ LPS[:3, :3]
