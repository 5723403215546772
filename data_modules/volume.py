"""A file becomes voxels with a place in space, and a list of what is wrong with its header.

Each file is opened once. Nothing here raises on bad content: what would fail is an error among the problems.
"""

from __future__ import annotations

import gzip
import io
import itertools
import logging
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torchio as tio
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from data_modules.problems import Mend, Problem

GEOMETRY_TOLERANCE_MM = 0.1
"""sform and qform closer than this at every corner are the same: float32 quaternions are less exact than matrices."""
SHEAR_TOLERANCE = 1e-3
"""The largest scalar product of two axis directions that this program takes for rounding."""
ITK_SHEAR_TOLERANCE = 1e-4
"""That of ITK, measured with SimpleITK 2.5.7."""
UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zlib.error, HeaderDataError, ImageFileError)
"""What nibabel and SimpleITK raise on damaged files."""
HEADERS = (nib.Nifti1Header, nib.Nifti2Header)
UNHEARD = logging.Logger("unheard", logging.CRITICAL)
"""For what nibabel says of headers that it repairs: it is among the problems."""


@dataclass(frozen=True)
class Nifti:
    """What only a NIfTI file has."""

    content: bytes
    """The file, decompressed."""
    raw: nib.Nifti1Header
    """The header as stored."""
    header: nib.Nifti1Header
    """The header with what nibabel repairs of it, e.g. voxel sizes of 0."""
    surplus: int
    """Bytes behind the voxels."""
    form: str
    """The header's geometry that is used: sform, qform or, where there is neither, affine."""


@dataclass(frozen=True)
class Volume:
    """A file's content."""

    path: Path
    problems: tuple[Problem, ...]
    data: np.ndarray | None = None
    """(X, Y, Z), intensity slope applied; None where the file holds no usable image."""
    affine: np.ndarray | None = None
    """4x4, array index to RAS mm, as the header has it; None where there is no image."""
    nifti: Nifti | None = None

    @property
    def failed(self) -> bool:
        """Whether anything would fail that uses the file."""
        return any(problem.severity == "error" for problem in self.problems)


def open_volume(path: Path) -> Volume:
    """Read a file, once."""
    try:
        if path.is_dir():
            return Volume(path, (_folder(),))
        if not path.exists():
            return Volume(path, (_missing(),))
        return _open_nifti(path) if path.name.lower().endswith((".nii", ".nii.gz")) else _open_itk(path)
    except PermissionError as error:
        return Volume(path, (_closed(error),))
    except UNREADABLE as error:
        return Volume(path, (_damaged(error),))


def corner_distance_mm(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """The largest distance between the places that two affines give to a corner of a volume."""
    corners = np.array([[*corner, 1] for corner in itertools.product(*[(0, size - 1) for size in shape])])
    return float(np.linalg.norm(corners @ (affine - other).T[:, :3], axis=1).max())


def voxel_size_mm(affine: np.ndarray) -> np.ndarray:
    """The length of a step along each array axis, (3,)."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def shear(affine: np.ndarray) -> float:
    """The largest scalar product of two axis directions; 0 where they are perpendicular, as ITK wants them."""
    directions = affine[:3, :3] / voxel_size_mm(affine)
    return float(np.abs(directions.T @ directions - np.eye(3)).max())


def without_shear(affine: np.ndarray) -> np.ndarray:
    """The nearest affine with perpendicular axes."""
    header = nib.Nifti1Header()
    header.set_qform(affine, 1)
    return header.get_qform()


def _open_nifti(path: Path) -> Volume:
    content = path.read_bytes()
    if not content:
        raise ValueError("the file is empty")
    if path.suffix.lower() == ".gz":
        content = gzip.decompress(content)
    kind = next((kind for kind in HEADERS if kind.may_contain_header(content)), None)
    if kind is None:
        raise ValueError("no NIfTI header")
    raw = kind.from_fileobj(io.BytesIO(content), check=False)
    header = raw.copy()
    header.check_fix(UNHEARD, error_level=logging.ERROR)
    shape = header.get_data_shape()
    needed = int(np.prod(shape, dtype=np.int64)) * header.get_data_dtype().itemsize
    surplus = len(content) - header.get_data_offset() - needed
    if surplus < 0:
        raise ValueError(f"{-surplus} of {needed} bytes of voxels are missing")
    affine, form, geometry = _geometry(header)
    spacing = _voxel_size(raw, shape)
    geometry_problems = [problem for problem in (spacing, geometry) if problem]
    if (spacing and form != "sform") or (geometry and not geometry.mend):  # no geometry in it that could be trusted
        geometry_problems = [replace(problem, mend=None) for problem in geometry_problems]
    data, problems = _as_3d(np.asanyarray(ArrayProxy(io.BytesIO(content), header)))
    nifti = Nifti(content, raw, header, surplus, form)
    return Volume(path, (*geometry_problems, *problems), data, affine, nifti)


def _open_itk(path: Path) -> Volume:
    image = sitk.ReadImage(str(path))
    if image.GetNumberOfComponentsPerPixel() > 1 or image.GetDimension() not in (2, 3):
        return Volume(path, (_not_scalar(image),))
    converted = tio.ScalarImage.from_sitk(image)
    data, problems = _as_3d(converted.numpy()[0])
    return Volume(path, problems, data, converted.affine)


def _as_3d(stored: np.ndarray) -> tuple[np.ndarray | None, tuple[Problem, ...]]:
    """The voxels as (X, Y, Z): trailing axes of one voxel dropped, a third axis given to 2D images."""
    if stored.dtype.fields is not None or stored.dtype.kind not in "biuf":
        return None, (_no_real_number(stored.dtype),)
    data = stored
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim == 2:
        data = data[..., None]
    if data.ndim != 3 or data.size == 0:
        return None, (_wrong_shape(stored.shape),)
    return np.ascontiguousarray(data), ()


def _voxel_size(raw: nib.Nifti1Header, shape: tuple[int, ...]) -> Problem | None:
    sizes = raw["pixdim"][1 : 1 + min(len(shape), 3)]
    needed = sizes[[size > 1 for size in shape[:3]]]  # an axis of one voxel needs no spacing
    if np.isfinite(sizes).all() and (needed > 0).all():
        return None
    return Problem(
        "error",
        f"the voxel size (pixdim) is {sizes.tolist()} mm, but must be positive",
        "programs measure lengths with it, and each repairs it in its own way",
        "Correct the header",
        Mend.GEOMETRY,
    )


def _geometry(header: nib.Nifti1Header) -> tuple[np.ndarray, str, Problem | None]:
    """The sform; the qform where there is no usable sform. Which one it is, and what is wrong with it."""
    sform, sform_code = header.get_sform(coded=True)
    qform, qform_code = header.get_qform(coded=True)
    if sform_code and not (qform_code and _invalid(sform)):
        affine, form = sform, "sform"
    elif qform_code:
        affine, form = qform, "qform"
    else:
        affine, form = header.get_base_affine(), "affine"
    shape = (*header.get_data_shape(), 1, 1)[:3]
    if reason := _invalid(affine):
        return affine, form, _unusable(affine, form, reason, shape)
    if sform_code and qform_code:
        distance = corner_distance_mm(sform, qform, shape)
        if not distance <= GEOMETRY_TOLERANCE_MM:
            return affine, form, _disagreement(distance, form, sform, int(sform_code))
    return affine, form, None


def _invalid(affine: np.ndarray) -> str:
    """What makes an affine unusable as an image geometry, or nothing."""
    if not np.isfinite(affine).all():
        return "not finite"
    if (voxel_size_mm(affine) == 0).any():
        return "singular"
    return "sheared" if shear(affine) > SHEAR_TOLERANCE else ""  # ITK's geometries cannot shear


def _unusable(affine: np.ndarray, form: str, reason: str, shape: tuple[int, ...]) -> Problem:
    """A shear that moves no corner by more than half a voxel can be taken out: labels may be off by as much."""
    small = reason == "sheared" and (
        corner_distance_mm(affine, without_shear(affine), shape) <= voxel_size_mm(affine).min() / 2
    )
    return Problem(
        "error",
        f"the {form} of the header is {reason}",
        "nobody can tell where the voxels lie"
        if reason != "sheared"
        else "ITK programs (SimpleITK, ANTs, elastix, Slicer) refuse it: their axes are perpendicular",
        "Correct the header or resample the image",
        Mend.GEOMETRY if small else None,
    )


def _disagreement(distance: float, form: str, sform: np.ndarray, sform_code: int) -> Problem:
    itk = "sform" if sform_code == 1 and np.isfinite(sform).all() and shear(sform) <= ITK_SHEAR_TOLERANCE else "qform"
    by = f" by up to {distance:.1f} mm" if np.isfinite(distance) else f", the sform is {_invalid(sform)}"
    return Problem(
        "warning",
        f"sform and qform differ{by}; the {form} is used",
        f"other programs see the image elsewhere: of this file ITK programs (SimpleITK, ANTs, elastix, Slicer) take "
        f"the {itk}, nibabel and FSL the sform",
        "Find out which one is right, e.g. by an overlay on another image of the patient, and set both to it",
        Mend.GEOMETRY,
    )


def _folder() -> Problem:
    return Problem(
        "error",
        "is a folder, though its name is that of an image",
        "only files can be read as images",
        "Rename the folder, or name the file in it",
    )


def _missing() -> Problem:
    return Problem(
        "error",
        "no such file",
        "the group cannot be read",
        "Correct the path or leave the image out",
    )


def _closed(error: PermissionError) -> Problem:
    return Problem(
        "error",
        f"cannot be read ({error.strerror})",
        "its owner allows you no look at it",
        "Correct its permissions",
    )


def _damaged(error: BaseException) -> Problem:
    reason = " ".join(str(error).split())
    return Problem(
        "error",
        f"cannot be read, the file is damaged or no image ({reason})",
        "a part of it or all of it is lost",
        "Copy or convert it again",
    )


def _no_real_number(dtype: np.dtype) -> Problem:
    return Problem(
        "error",
        f"holds {dtype} voxels, but one real number per voxel is needed",
        "colours and complex numbers have no single intensity that could be compared",
        "Save one channel or the magnitude",
    )


def _wrong_shape(shape: tuple[int, ...]) -> Problem:
    return Problem(
        "error",
        f"has shape {shape}, but one 2D or 3D image is needed",
        "a series is many images: which one is meant?",
        "Split a 4D file into one file per time point or contrast",
    )


def _not_scalar(image: sitk.Image) -> Problem:
    return Problem(
        "error",
        f"has size {image.GetSize()} and {image.GetNumberOfComponentsPerPixel()} values per voxel, "
        "but one 2D or 3D image with one value per voxel is needed",
        "colours and series have no single intensity that could be compared",
        "Split the file",
    )
