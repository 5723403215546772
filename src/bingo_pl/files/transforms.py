"""Registrations as files: from voxels of the group grid to millimetres that every program reads, and back.

A *forward* transform takes points of the group space to an image's space, ``T(p) = A(p + u(p))``: it is the pull-back
with which SimpleITK resamples the image onto the group grid. The *inverse* takes points of the image to the group
space. SimpleITK's transforms are in LPS mm, `Grid` and affine stages in RAS mm (nibabel, TorchIO).

Beyond the group grid the displacement goes on as at the border as far as the border itself moves, then fades to zero,
so that images larger than the group grid do not tear: far away the transform is its affine stage alone. A 2D
displacement holds for the plane of the group and the planes next to it.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.atomic import replacing
from bingo_pl.data_modules.units import in_mm, nifti_unit_mm
from bingo_pl.data_modules.volume import UNREADABLE
from bingo_pl.errors import BingoError
from bingo_pl.files.grids import LPS, Grid
from bingo_pl.spatial import compose

FADE = 2
"""The displacement fades over this many times its reach, so that its slope stays below 1 / FADE and nothing folds."""
PLANE_MARGIN = 1
"""Planes that repeat the displacement of a 2D group above and below it: SimpleITK reads a field of one plane as 2D."""
INVERSE_ITERATIONS = 5
"""More change nothing, even for displacements of 7 voxels that shrink voxels to a fifth."""
VECTOR_BYTES = 3 * 8
"""Of a sampled displacement."""
COMPRESSION = 1
"""Of gzip, as nibabel's: intensities hardly shrink further, and level 6 takes four times as long."""
VECTOR_INTENT = 1007
"""NIfTI's code for vectors: ITK takes their values as they are, LPS mm."""


@dataclass(frozen=True, eq=False)
class FieldTransform:
    """A transform of points in LPS mm, and where to sample it for formats that hold only a displacement field."""

    transform: sitk.Transform
    grid: Grid


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


def affine_transform(affine: NDArray) -> sitk.Transform:
    """A (4, 4) map of RAS mm as SimpleITK's transform."""
    matrix = LPS @ affine @ LPS
    return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())


def sampled_displacement(transform: sitk.Transform, grid: Grid) -> NDArray[np.float64]:
    """(X, Y, Z, 3) LPS mm: by how much a transform moves the centres of a grid's voxels."""
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *grid.geometry())
    vectors: NDArray[np.float64] = sitk.GetArrayFromImage(field).swapaxes(0, 2)
    return vectors


def _covering(image: Grid, domain: Grid, affine: NDArray[np.float64]) -> Grid:
    """The grid along an image's axes that holds the image and a part of the group space, as finely as the latter."""
    to_domain = np.linalg.inv(affine @ domain.affine) @ image.affine
    step = 1 / np.linalg.norm(to_domain[:3, :3], axis=0)  # one voxel of the domain, in voxels of the image
    corners = np.concatenate([image.corners(np.eye(4)), domain.corners(np.linalg.inv(to_domain), edge=0)]) / step
    corners = corners.round(6)  # rounding errors are not worth a voxel
    first, last = np.floor(corners.min(0)), np.ceil(corners.max(0))
    x, y, z = (last - first).astype(int).tolist()
    return image.part(first * step, step, (x + 1, y + 1, z + 1))


def write_transform(field: FieldTransform, stem: Path) -> None:
    """Write ``<stem>.h5`` and ``<stem>.nii.gz``, each whole or not at all.

    The first is ITK's transform file (float64), right everywhere. The second is a displacement field in LPS mm (5D,
    intent 1007, float32); programs take what lies outside its grid for unmoved.

    Raises:
        BingoError: a file cannot be written.
    """
    write_itk(field.transform, stem.with_name(f"{stem.name}.h5"))
    write_nifti(_displacement_nifti(field), stem.with_name(f"{stem.name}.nii.gz"))


def flat(transforms: Sequence[sitk.Transform]) -> sitk.Transform:
    """One transform that applies all, the last one first, as a file can hold it: not nested."""
    whole = sitk.CompositeTransform([*transforms])
    whole.FlattenTransform()
    return whole


def write_itk(transform: sitk.Transform, path: Path) -> None:
    """Write ITK's transform file (``.h5``), whole or not at all.

    It is a flat composite, be it of one part: that is what every program reads (nitransforms takes nothing else).

    Raises:
        BingoError: the file cannot be written.
    """
    with replacing(path) as temporary:
        named = temporary.with_name(f"{temporary.name}.h5")  # SimpleITK goes by the extension
        try:
            sitk.WriteTransform(flat([transform]), str(named))
            named.replace(temporary)
        except RuntimeError as error:
            raise OSError(" ".join(str(error).split())) from error
        finally:
            named.unlink(missing_ok=True)


def write_image(array: NDArray, grid: Grid, path: Path) -> None:
    """Write voxels (X, Y, Z) as compressed NIfTI, whole or not at all; the dtype is kept.

    Raises:
        BingoError: the file cannot be written.
    """
    write_nifti(nib.Nifti1Image(array, grid.affine, dtype=array.dtype), path)  # nibabel asks for int64 by name


def write_nifti(nifti: nib.Nifti1Image, path: Path) -> None:
    """Write a compressed NIfTI file whose sform and qform both are the image's affine, whole or not at all.

    Raises:
        BingoError: the file cannot be written.
    """
    nifti.set_sform(nifti.affine, code=1)
    nifti.set_qform(nifti.affine, code=1)
    nifti.header.set_xyzt_units("mm")
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as packed,  # a slice at a time
    ):
        nifti.to_stream(packed)


def _displacement_nifti(field: FieldTransform) -> nib.Nifti1Image:
    """(X, Y, Z, 1, 3) float32."""
    vectors = sampled_displacement(field.transform, field.grid).astype(np.float32)[:, :, :, None]
    nifti = nib.Nifti1Image(vectors, field.grid.affine)
    nifti.header.set_intent(VECTOR_INTENT)
    return nifti


def read_transform(path: Path) -> sitk.Transform:
    """Read a transform of points in LPS mm from a file of ITK or from a NIfTI displacement field.

    Raises:
        BingoError: the file is missing, damaged, or no such transform.
    """
    if not path.is_file():
        raise BingoError(f"{path}: no such file. Wanted: a transform, .h5 or .nii.gz. Correct the path")
    try:
        transform = (
            _read_field(path) if path.name.lower().endswith((".nii", ".nii.gz")) else sitk.ReadTransform(str(path))
        )
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise BingoError(
            f"{path}: cannot be read, the file is damaged or no transform ({reason}). Copy it again, or repeat the "
            "registration"
        ) from error
    if transform.GetDimension() != 3:
        raise BingoError(
            f"{path}: is a transform of {transform.GetDimension()}D points, wanted 3D (2D images are one voxel thick). "
            "Use the transforms that bingo register wrote"
        )
    return transform


def read_linear(path: Path) -> NDArray[np.float64]:
    """Read a linear transform of ITK, ANTs or Slicer (``.tfm``, ``.txt``, ``.mat``, ``.h5``).

    Returns:
        (4, 4) RAS mm.

    Raises:
        BingoError: the file is missing, damaged, or no linear transform of 3D points.
    """
    transform = read_transform(path)
    if not transform.IsLinear():
        raise BingoError(f"{path}: is not linear. Wanted: a rigid or affine transform. Give that part of it alone")
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([np.array(transform.TransformPoint(axis)) - origin for axis in np.eye(3).tolist()], 1)
    matrix[:3, 3] = origin
    result: NDArray[np.float64] = LPS @ matrix @ LPS
    return result


def _read_field(path: Path) -> sitk.Transform:
    nifti = nib.load(path)
    intent = int(nifti.header["intent_code"])
    if nifti.shape[3:] != (1, 3) or intent != VECTOR_INTENT:
        raise ValueError(
            f"shape {nifti.shape} and intent code {intent}, wanted (X, Y, Z, 1, 3) and {VECTOR_INTENT}, LPS mm"
        )
    grid = Grid(nifti.shape[:3], in_mm(nifti.affine, [nifti_unit_mm(nifti.header)] * 3))
    return sitk.DisplacementFieldTransform(grid.to_sitk(nifti.get_fdata()[:, :, :, 0]))
