"""Registrations as files: from voxels of the group grid to millimetres that every program reads, and back.

A *forward* transform takes points of the group space to an image's space, ``T(p) = A(p + u(p))``: it is the pull-back
with which SimpleITK resamples the image onto the group grid. The *inverse* takes points of the image to the group
space. SimpleITK's transforms are in LPS mm, `Grid` and affine stages in RAS mm (nibabel, TorchIO).

`bingo_pl.images.fields` makes them of a model's displacements.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from bingo_pl.errors import FileError, InputError, reason_of
from bingo_pl.images.grids import LPS, Grid
from bingo_pl.images.units import in_mm, nifti_unit_mm
from bingo_pl.images.volume import UNREADABLE
from bingo_pl.storage.atomic import replacing
from bingo_pl.storage.regular import is_file

COMPRESSION = 1
"""Of gzip, as nibabel's: intensities hardly shrink further, and level 6 takes four times as long."""
VECTOR_INTENT = 1007
"""NIfTI's code for vectors: ITK takes their values as they are, LPS mm."""


@dataclass(frozen=True, eq=False)
class FieldTransform:
    """A transform of points in LPS mm, and where to sample it for formats that hold only a displacement field."""

    transform: sitk.Transform
    grid: Grid


def affine_transform(affine: NDArray) -> sitk.Transform:
    """A (4, 4) map of RAS mm as SimpleITK's transform."""
    matrix = LPS @ affine @ LPS
    return sitk.AffineTransform(matrix[:3, :3].ravel().tolist(), matrix[:3, 3].tolist())


def sampled_displacement(transform: sitk.Transform, grid: Grid) -> NDArray[np.float64]:
    """(X, Y, Z, 3) LPS mm: by how much a transform moves the centres of a grid's voxels."""
    field = sitk.TransformToDisplacementField(transform, sitk.sitkVectorFloat64, *grid.geometry())
    vectors: NDArray[np.float64] = sitk.GetArrayFromImage(field).swapaxes(0, 2)
    return vectors


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
            raise OSError(reason_of(error)) from error
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
    if not is_file(path):
        raise FileError(f"{path}: no such file. Wanted: a transform, .h5 or .nii.gz", "Correct the path")
    try:
        transform = (
            _read_field(path) if path.name.lower().endswith((".nii", ".nii.gz")) else sitk.ReadTransform(str(path))
        )
    except UNREADABLE as error:
        raise FileError(
            f"{path}: cannot be read, the file is damaged or no transform ({reason_of(error)})",
            "Copy it again, or repeat the registration",
        ) from error
    if transform.GetDimension() != 3:
        raise InputError(
            f"{path}: is a transform of {transform.GetDimension()}D points, wanted 3D (2D images are one voxel thick)",
            "Use the transforms that bingo register wrote",
        )
    return transform


LEAST_VOLUME = 1e-9
"""Of what a linear transform makes of a unit of volume; images of other units differ by 1e-9 at most."""


def read_linear(path: Path) -> NDArray[np.float64]:
    """Read a linear transform of ITK, ANTs or Slicer (``.tfm``, ``.txt``, ``.mat``, ``.h5``).

    Returns:
        (4, 4) RAS mm.

    Raises:
        BingoError: the file is missing, damaged, or no linear transform of 3D points with an inverse.
    """
    transform = read_transform(path)
    if not transform.IsLinear():
        raise InputError(f"{path}: is not linear. Wanted: a rigid or affine transform", "Give that part of it alone")
    origin = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([np.array(transform.TransformPoint(axis)) - origin for axis in np.eye(3).tolist()], 1)
    matrix[:3, 3] = origin
    if not np.isfinite(matrix).all() or abs(np.linalg.det(matrix[:3, :3])) < LEAST_VOLUME:
        raise InputError(f"{path}: has no inverse: it makes a plane, a line or a point of space", "Give another one")
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
