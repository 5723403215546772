"""The affine stage: images that are not roughly aligned are brought to the first one before the network sees them.

The rule. The *overlap* of an image with the first is the share of the smaller of their two foregrounds (masks, where
given) that lies in the other, in physical space. Images above `ROUGHLY_ALIGNED` are left as they are. Others start from
their headers and from matching centres of mass, as they are and turned by `START_DEGREES`; from each start a rigid map
is optimised at low resolution, from the best of them a rigid and an affine one at higher, by Mattes mutual information
over the smaller field of view (2D images: within its plane). Each is kept only where it improves the similarity, all of
it only where `KEPT_OVERLAP` of the overlap is left. An image whose overlap stays below `LEAST_OVERLAP` is refused.

The map becomes a part of the image's transforms, so that what is written still resamples the original once.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from bingo_pl.errors import BingoWarning, InputError, unknown_name
from bingo_pl.images.grids import LPS
from bingo_pl.images.itk_alignment import Alignment, align
from bingo_pl.images.scans import Scan
from bingo_pl.images.slices import Plane

MODES = ("auto", "always", "never")
"""Where it is needed, for every image, for none."""
ROUGHLY_ALIGNED = 0.95
"""Of brains about 5 mm apart; what lies nearer is the network's."""
LEAST_OVERLAP = 0.5
"""Less is no evidence that two images show the same place."""
KEPT_OVERLAP = 0.9
"""What must be left of it: fields of view that are all foreground lose some where anatomy comes nearer."""
LARGEST_SCALE = 1.5
"""An affine map that stretches or shrinks more, along any axis, is not believed: the rigid one is taken."""
START_DEGREES = 15.0
"""Optimisation finds about 10 degrees by itself."""
TRUST_IN_HEADERS = 1.25
"""What starts from centres of mass must be this many times as similar as what starts from the headers."""
SAMPLED_POINTS = 20_000
"""Of a foreground, evenly spread over its voxels."""
WORKING_VOXELS = 250_000
"""Volumes are averaged to about this many before they are compared: 3 mm for a head."""
ROUNDING = 1e-6
"""Of the fields of view of images on the same grid, as a share."""
COARSE_VOXELS = 30_000
"""For the first look: 6 mm for a head, 1 mm for a slice."""


@dataclass(frozen=True, eq=False)
class Stage:
    """The affine stage of one image."""

    affine: NDArray[np.float64]
    """(4, 4) RAS mm, from the group to the image; the identity where nothing was done."""
    before: float
    """Overlap with the first image as the headers have it."""
    after: float
    tried: bool

    @property
    def moves(self) -> bool:
        return not np.array_equal(self.affine, np.eye(4))


def affine_stage(first: Scan, scan: Scan, mode: str) -> Stage:
    """Align an image to the first of its group. Equal inputs give equal results.

    Raises:
        BingoError: unknown mode, or the overlap stays poor.
    """
    if mode not in MODES:
        raise unknown_name("affine stage", mode, MODES)
    affine = np.eye(4)
    before = after = overlap(first, scan, affine)
    tried = scan is not first and (mode == "always" or (mode == "auto" and before < ROUGHLY_ALIGNED))
    if tried:
        found = _align(first, scan)
        overlap_found = overlap(first, scan, found)
        if overlap_found >= KEPT_OVERLAP * min(before, ROUGHLY_ALIGNED):  # a sliver can be more similar than the whole
            affine, after = found, overlap_found
    if after < LEAST_OVERLAP:
        done = "after the affine stage" if tried else f"as the headers have them (affine stage: {mode})"
        raise InputError(
            f"{scan.title}: only {after:.0%} of its foreground or of that of {first.title} lies in the other {done}, "
            f"wanted {LEAST_OVERLAP:.0%}",
            "Check that both show the same place, correct their headers, give masks of "
            "what they share, or align them first",
        )
    return Stage(affine, before, after, tried)


def overlap(first: Scan, other: Scan, affine: NDArray) -> float:
    """The share of the smaller foreground that lies in the other, from 0 to 1.

    Args:
        first: the image that defines the space.
        other: another one.
        affine: (4, 4) RAS mm, from points of ``first`` to points of ``other``.
    """
    return max(_share(first, other, affine), _share(other, first, np.linalg.inv(affine)))


def _share(source: Scan, target: Scan, affine: NDArray) -> float:
    """The share of a foreground that lies in another one."""
    indices = source.foreground_points(SAMPLED_POINTS)
    to_target = np.linalg.inv(target.grid.affine) @ affine @ source.grid.affine
    places = np.rint(indices @ to_target[:3, :3].T + to_target[:3, 3]).astype(int)
    inside = ((places >= 0) & (places < target.grid.shape)).all(1)
    x, y, z = places[inside].T
    return float((target.mask.numpy()[0, x, y, z] > 0).sum() / len(indices))


def _align(first: Scan, scan: Scan) -> NDArray:
    """(4, 4) RAS mm, first to scan; measured over the smaller field of view, where both show something."""
    align_pair = _align_slices if first.grid.shape[2] == 1 else _align_volumes
    if _field_of_view(scan) < (1 - ROUNDING) * _field_of_view(first):
        return np.linalg.inv(align_pair(scan, first))
    return align_pair(first, scan)


def _field_of_view(scan: Scan) -> float:
    """mm^D."""
    extents = np.multiply(scan.grid.shape, scan.grid.spacing)
    return float(np.prod(extents[: 2 if scan.grid.shape[2] == 1 else 3]))


def _align_volumes(first: Scan, scan: Scan) -> NDArray:
    """(4, 4) RAS mm, first to scan."""
    fixed, moving = (_reduced(image.grid.to_sitk(image.unit.numpy()[0]), WORKING_VOXELS) for image in (first, scan))
    transform = _rigid_then_affine(fixed, moving, sitk.Euler3DTransform())
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(transform.GetMatrix(), (3, 3))
    affine[:3, 3] = transform.TransformPoint((0.0, 0.0, 0.0))
    return LPS @ affine @ LPS


def _align_slices(first: Scan, scan: Scan) -> NDArray:
    """(4, 4) RAS mm, first to scan: a map within the first one's plane."""
    plane = Plane.of(first.image)
    if not plane.is_parallel_to(scan.image):
        return np.eye(4)  # no map within the plane helps
    transform = _rigid_then_affine(plane.slice(first.unit, 0), plane.slice(scan.unit, 0), sitk.Euler2DTransform())
    affine = np.eye(4)
    affine[:2, :2] = np.reshape(transform.GetMatrix(), (2, 2))
    affine[:2, 3] = transform.TransformPoint((0.0, 0.0))
    to_plane = np.eye(4)
    to_plane[:3, :3] = np.stack([*plane.axes, plane.normal])
    return np.linalg.inv(to_plane) @ affine @ to_plane


def _rigid_then_affine(fixed: sitk.Image, moving: sitk.Image, rigid: sitk.Transform) -> sitk.AffineTransform:
    """Fixed to moving; ``rigid`` is the identity, of the kind of the first of the two stages."""
    coarse = _reduced(fixed, COARSE_VOXELS), _reduced(moving, COARSE_VOXELS)
    coarsely = [align(*coarse, start) for start in _starts(*coarse, rigid)]
    if all(each.failure for each in coarsely):
        _warn_of_failure(coarsely[0])
    headers, *others = coarsely
    found = max(others, key=lambda other: other.similarity)
    if found.similarity < TRUST_IN_HEADERS * headers.similarity:
        found = headers
    rigidly = align(fixed, moving, found.transform)
    _warn_of_failure(rigidly)
    start = rigidly.transform
    affine = sitk.AffineTransform(fixed.GetDimension())
    affine.SetCenter(start.GetCenter())
    affine.SetMatrix(start.GetMatrix())
    affine.SetTranslation(start.GetTranslation())
    linearly = align(fixed, moving, affine)
    _warn_of_failure(linearly)
    result = sitk.AffineTransform(linearly.transform)
    scales = np.linalg.svd(np.reshape(result.GetMatrix(), (fixed.GetDimension(), -1)), compute_uv=False)
    return result if 1 / LARGEST_SCALE < scales[-1] <= scales[0] < LARGEST_SCALE else affine


def _warn_of_failure(alignment: Alignment) -> None:
    """That one start of many leads nowhere is no failure: the others are there for that."""
    if alignment.failure:
        warnings.warn(
            f"a step of the affine stage stopped, and what it started from is kept ({alignment.failure})",
            BingoWarning,
            stacklevel=2,
        )


def _starts(fixed: sitk.Image, moving: sitk.Image, rigid: sitk.Transform) -> list[sitk.Transform]:
    """As the headers have it, and matching centres of mass, as they are and turned a little about each axis."""
    mode = sitk.CenteredTransformInitializerFilter.MOMENTS
    centres = type(rigid)(sitk.CenteredTransformInitializer(fixed, moving, rigid, mode))
    headers = type(rigid)(rigid)
    headers.SetCenter(centres.GetCenter())
    starts = [headers, centres]
    angles = len(rigid.GetParameters()) - fixed.GetDimension()  # they come first, translations last
    for axis, degrees in itertools.product(range(angles), (-START_DEGREES, START_DEGREES)):
        turned = type(rigid)(centres)
        parameters = [*centres.GetParameters()]
        parameters[axis] = np.deg2rad(degrees)
        turned.SetParameters(parameters)
        starts.append(turned)
    return starts


def _reduced(image: sitk.Image, voxels: int) -> sitk.Image:
    """An image averaged over whole numbers of voxels to about so many, as nearly isotropic as that gives."""
    extent = np.multiply(image.GetSize(), image.GetSpacing())
    wanted = (np.prod(extent) / voxels) ** (1 / len(extent))
    return sitk.BinShrink(image, [max(int(wanted / size), 1) for size in image.GetSpacing()])
