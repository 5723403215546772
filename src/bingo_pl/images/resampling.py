"""Images, label maps and points moved between the members of a group and its template, in one interpolation.

Images are pulled back: each voxel of the target asks where it comes from. Points are pushed the other way; the
functions here take a source and a target and pick the direction themselves.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from bingo_pl.errors import unknown_name
from bingo_pl.images.grids import LPS, Grid
from bingo_pl.images.transforms import read_transform, sampled_displacement

INTERPOLATIONS = {
    "linear": sitk.sitkLinear,
    "bspline": sitk.sitkBSpline,
    "lanczos": sitk.sitkLanczosWindowedSinc,
    "nearest": sitk.sitkNearestNeighbor,
}
"""By name; the first is the default: it stays within the intensities around a point and is fastest. The cubic B-spline
and the windowed sinc keep more detail, and ring at edges."""
LOW_PASS = 1 / (2 * math.sqrt(2 * math.log(2)))
"""Standard deviation of a Gaussian as wide, at half its height, as 1 (Cardoso et al. 2015)."""
NEGLIGIBLE = 0.3
"""Standard deviations below this, in voxels, are not worth a filter."""
SLAB = 2**18
"""Voxels of a label map that are resampled at once."""
ROUNDING = 1e-5
"""Of a share that is interpolated in single precision."""


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


def resample_image(
    image: sitk.Image, transform: sitk.Transform, grid: Grid, outside: float | None = None
) -> sitk.Image:
    """Interpolate intensities linearly.

    Args:
        image: 3D, in the source's space.
        transform: points of the target's space to the source's, see `pull_back`.
        grid: the target's own voxels.
        outside: the intensity outside the source's field of view; None for the image's least.

    Returns:
        float32.
    """
    if outside is None:
        outside = float(sitk.GetArrayViewFromImage(image).min())
    return _resample(image, transform, grid, sitk.sitkLinear, outside)


def resample_voxels(
    voxels: NDArray,
    source: Grid,
    transform: sitk.Transform,
    grid: Grid,
    interpolation: str = "linear",
    continued: bool = False,
) -> NDArray[np.float32]:
    """Intensities on another grid, as they are written: without detail that its voxels cannot hold.

    Args:
        voxels: (X, Y, Z).
        source: their grid.
        transform: points of the target's space to the source's, see `pull_back`.
        grid: the target's own voxels.
        interpolation: one of `INTERPOLATIONS`.
        continued: outside the source's field of view, the intensities of its border.

    Returns:
        (X, Y, Z), nowhere below the least of ``voxels``, which fills what is outside the source's field of view, unless
        that is ``continued``.
    """
    low = float(voxels.min())
    if interpolation != "nearest":
        voxels = low_passed(voxels, source, transform, grid)
    if interpolation == "bspline" and 2 in source.shape:
        moved = _splined(voxels, source, transform, grid, low, continued)
    else:
        how = INTERPOLATIONS[interpolation]
        moved = to_array(_resample(source.to_sitk(voxels), transform, grid, how, low, continued))
    return moved if interpolation in ("linear", "nearest") else np.maximum(moved, np.float32(low), out=moved)


def _splined(
    voxels: NDArray, source: Grid, transform: sitk.Transform, grid: Grid, low: float, continued: bool
) -> NDArray[np.float32]:
    """`resample_voxels` by cubic splines where an axis has two voxels: beyond those, ITK reads memory that is not its
    own. It mirrors images at their border, so four voxels, mirrored here, are the same spline."""
    thin = np.array(source.shape) == 2
    x, y, z = (source.shape + 2 * thin).tolist()
    wide = source.part(-thin.astype(float), np.ones(3), (x, y, z))
    mirrored = wide.to_sitk(np.pad(voxels, [(each, each) for each in thin.astype(int).tolist()], "reflect"))
    splined = to_array(_resample(mirrored, transform, grid, sitk.sitkBSpline, low, continued))
    ones = source.to_sitk(np.ones(source.shape, np.uint8))
    inside = to_array(_resample(ones, transform, grid, sitk.sitkNearestNeighbor, 0)) > 0
    beyond = to_array(_resample(source.to_sitk(voxels), transform, grid, sitk.sitkNearestNeighbor, low, continued))
    result: NDArray[np.float32] = np.where(inside, splined, beyond)
    return result


def low_passed(voxels: NDArray, source: Grid, transform: sitk.Transform, grid: Grid) -> NDArray:
    """Voxels (X, Y, Z) smoothed along those axes along which the target's voxels are larger than their own.

    A voxel of size k, in those of the source, sees what a Gaussian does whose square width is k^2 - 1. How large it is
    is given by the mean slope of the transform over the grid. Arguments as for `resample_voxels`.
    """
    middle = (np.array(grid.shape) - 1) / 2
    ends = np.array([middle + sign * axis * np.maximum(middle, 0.5) for axis in np.eye(3) for sign in (-1, 1)])
    lps = (ends @ grid.affine[:3, :3].T + grid.affine[:3, 3]) @ LPS[:3, :3]
    moved = np.array([transform.TransformPoint(point) for point in lps.tolist()]) @ LPS[:3, :3]
    indices = moved @ np.linalg.inv(source.affine[:3, :3]).T
    steps = (indices[1::2] - indices[::2]) / (2 * np.maximum(middle, 0.5))[:, None]  # a row a voxel of the target
    extent = steps.T @ steps
    sigma = _wider(extent.diagonal())
    sharp = (sigma < NEGLIGIBLE) | (np.array(source.shape) == 1)
    along = extent[:, sharp]  # slices that slide along each other are as thick as they were, and no blurrier for that
    sigma = _wider(extent.diagonal() - ((along @ np.linalg.pinv(extent[np.ix_(sharp, sharp)])) * along).sum(1))
    sigma[sharp | (sigma < NEGLIGIBLE)] = 0
    if not sigma.any():
        return voxels
    from scipy.ndimage import gaussian_filter  # points need it not

    smooth: NDArray = gaussian_filter(voxels.astype(np.float32, copy=False), sigma, mode="nearest", truncate=3)
    return smooth


def _wider(squares: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation of the Gaussian by which a voxel of a square width is wider than one of 1."""
    wider: NDArray[np.float64] = LOW_PASS * np.sqrt(np.maximum(squares - 1, 0))
    return wider


def check_interpolation(name: str) -> None:
    """Raises `BingoError` for a name that is not known."""
    if name not in INTERPOLATIONS:
        raise unknown_name("interpolation", name, INTERPOLATIONS)


def _resample(
    image: sitk.Image, transform: sitk.Transform, grid: Grid, how: int, outside: float, continued: bool = False
) -> sitk.Image:
    """By one of SimpleITK's interpolators; float32."""
    size, *geometry = grid.geometry()
    return sitk.Resample(image, size, transform, how, *geometry, outside, sitk.sitkFloat32, continued)


def resample_labels(labels: sitk.Image, transform: sitk.Transform, grid: Grid) -> sitk.Image:
    """The label with the largest linearly interpolated share of each voxel, of equal ones the lowest id; otherwise as
    `resample_image`.

    It is what ``sitk.sitkLabelLinear`` gives, which interpolates each id by itself; here the time is the same for
    any number of them: the eight voxels around a point vote.

    Returns:
        The pixel type and ids of ``labels``; 0 outside the source's field of view.
    """
    ids, source = to_array(labels), Grid.of(labels)
    mixed = _mixed(ids)
    moved = np.empty(grid.shape, ids.dtype)
    planes = max(SLAB // math.prod(grid.shape[:2]), 1)
    for start in range(0, grid.shape[2], planes):
        shape = (*grid.shape[:2], min(planes, grid.shape[2] - start))
        slab = grid.part(np.array([0, 0, start]), np.ones(3), shape)
        moved[:, :, start : start + shape[2]] = _voted(ids, mixed, _indices(transform, slab, source)).reshape(shape)
    return grid.to_sitk(moved)


def resample_mask(mask: sitk.Image, transform: sitk.Transform, grid: Grid) -> NDArray[np.bool_]:
    """(X, Y, Z) where more than half of a voxel lies in a mask of 0 and 1: `resample_labels` of one id."""
    share = _resample(mask, transform, grid, sitk.sitkLinear, 0.0)
    inside: NDArray[np.bool_] = to_array(share) > 0.5 + ROUNDING
    return inside


def _mixed(ids: NDArray) -> NDArray[np.bool_]:
    """(X, Y, Z) whether a voxel and its next ones along the axes, eight in all, hold several ids."""
    low = high = ids
    for axis in range(3):
        low, high = (
            extreme(values, np.take(values, [*range(1, values.shape[axis]), -1], axis))
            for extreme, values in ((np.minimum, low), (np.maximum, high))
        )
    return low != high


def _indices(transform: sitk.Transform, grid: Grid, source: Grid) -> NDArray[np.float64]:
    """(3, V) where the voxels of a grid come from, in indices of the source's grid."""
    vectors = sampled_displacement(transform, grid).reshape(-1, 3).T
    points = np.indices(grid.shape).reshape(3, -1)
    to_index = np.linalg.inv(LPS @ source.affine)
    place = to_index @ LPS @ grid.affine
    indices: NDArray[np.float64] = place[:3, :3] @ points + to_index[:3, :3] @ vectors + place[:3, 3:]
    return indices


def _voted(ids: NDArray, mixed: NDArray[np.bool_], indices: NDArray[np.float64]) -> NDArray:
    """(V,) the labels at indices (3, V); beyond the outermost centres those of the border, 0 outside."""
    last = np.array(ids.shape)[:, None] - 1
    outside = ((indices < -0.5) | (indices >= last + 0.5)).any(0)
    indices = indices.clip(0, last)
    below = indices.astype(np.int64)
    place = np.ravel_multi_index(tuple(below), ids.shape)
    labels = np.where(outside, ids.dtype.type(0), ids.ravel()[place])
    voting = np.flatnonzero(mixed.ravel()[place] & ~outside)
    below = below[:, voting]
    labels[voting] = _winners(ids, below, np.minimum(below + 1, last), indices[:, voting] - below)
    return labels


def _winners(ids: NDArray, below: NDArray, above: NDArray, share: NDArray[np.float64]) -> NDArray:
    """(V,) the label of the largest share of each point, from the indices (3, V) of the voxels around it and how far it
    lies from those below to those above."""
    corners = [np.array(corner)[:, None] for corner in itertools.product((False, True), repeat=3)]
    candidates = np.stack([ids[tuple(np.where(corner, above, below))] for corner in corners])
    weights = np.stack([np.where(corner, share, 1 - share).prod(0) for corner in corners])
    order = candidates.argsort(0, kind="stable")  # so that the lowest id is the first
    candidates, weights = np.take_along_axis(candidates, order, 0), np.take_along_axis(weights, order, 0)
    votes = np.stack([(weights * (candidates == candidate)).sum(0) for candidate in candidates])
    best = votes.round(9).argmax(0)  # shares that are equal but for rounding are equal
    winners: NDArray = np.take_along_axis(candidates, best[None], 0)[0]
    return winners


def to_array(image: sitk.Image) -> NDArray:
    """Voxels (X, Y, Z)."""
    array: NDArray = sitk.GetArrayViewFromImage(image).T.copy()
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
