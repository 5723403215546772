"""A file becomes voxels with a place in space, and a list of what is wrong with its header.

Each file is opened once. Nothing here raises on bad content: what would fail is an error among the problems.
"""

from __future__ import annotations

import io
import logging
import math
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from bingo_pl.errors import reason_of
from bingo_pl.images.geometry import (
    ITK_SHEAR_TOLERANCE,
    corner_distance_mm,
    geometry_tolerance_mm,
    invalid,
    shear,
    show_mm,
    voxel_size_mm,
    without_shear,
)
from bingo_pl.images.partial_reading import LARGEST_GZIP_RATIO, gzip_reader, plain_reader
from bingo_pl.images.problems import Fix, Problem, found
from bingo_pl.images.units import in_mm, named_unit_mm, nifti_unit_mm, nrrd_units
from bingo_pl.memory import shortage

UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    ArithmeticError,
    LookupError,
    RuntimeError,
    MemoryError,
    zlib.error,
    HeaderDataError,
    ImageFileError,
)
"""What nibabel and SimpleITK raise on damaged files."""
HEADERS = (nib.Nifti1Header, nib.Nifti2Header)
HEADER_BYTES = 540
"""The longer of the two."""
FLOAT = 4
"""Bytes; as this every image is worked with."""
META_UNIT = "ITK_VoxelUnits"
"""Under which ITK gives MetaImage's `DistanceUnits`."""
UNHEARD = logging.Logger("unheard", logging.CRITICAL)
"""For what nibabel says of headers that it repairs: it is among the problems."""


@dataclass(frozen=True)
class Nifti:
    """What only a NIfTI file has."""

    content: bytes
    """The file, decompressed, as far as its header says that it goes."""
    raw: nib.Nifti1Header
    """The header as stored."""
    header: nib.Nifti1Header
    """The header with what nibabel repairs of it, e.g. voxel sizes of 0."""
    surplus: bool
    """Whether there are bytes behind the voxels."""
    form: str
    """The header's geometry that is used: sform, qform or, where there is neither, affine."""
    unit_mm: float
    """The header's unit of length."""
    affine: np.ndarray
    """4x4, array index to RAS mm, for the axes as they are stored."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Three sizes, as they are stored."""
        return (*self.header.get_data_shape(), 1, 1)[:3]


@dataclass(frozen=True)
class Volume:
    """A file's content."""

    path: Path
    problems: tuple[Problem, ...]
    data: np.ndarray | None = None
    """(X, Y, Z), intensity slope applied, in this machine's byte order; None where the file holds no usable image.
    A slice has its axis of one voxel last, whatever axis it is stored along."""
    affine: np.ndarray | None = None
    """4x4, array index to RAS mm; None where there is no image."""
    nifti: Nifti | None = None

    @property
    def failed(self) -> bool:
        """Whether anything would fail that uses the file."""
        return any(problem.severity == "error" for problem in self.problems)


def open_volume(path: Path, series: bool = False) -> Volume:
    """Read a file, once.

    Args:
        path: the file.
        series: its fourth axis is wanted, voxels are (X, Y, Z, T): NIfTI and FreeSurfer's format alone have one.
    """
    try:
        if path.is_dir():
            return Volume(path, (_folder(),))
        if not path.exists():
            return Volume(path, (_missing(),))
        if not path.is_file():  # opening a pipe waits for somebody to write into it
            return Volume(path, (_no_file(),))
        if path.name.lower().endswith((".nii", ".nii.gz")):
            return _open_nifti(path, series)
        return _open_mgh(path, series) if path.name.lower().endswith((".mgh", ".mgz")) else _open_itk(path)
    except PermissionError as error:
        return Volume(path, (_closed(error),))
    except UNREADABLE as error:
        return Volume(path, (_damaged(error),))


def as_native(data: np.ndarray) -> np.ndarray:
    """Real numbers in this machine's byte order, of a type that SimpleITK and torch know too."""
    kind = data.dtype.newbyteorder("=")
    if kind.kind == "f":
        kind = np.dtype(np.float32 if kind.itemsize <= FLOAT else np.float64)
    with np.errstate(over="ignore"):  # what becomes Inf is refused as such
        return np.ascontiguousarray(data, kind)


def slice_last(data: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z[, T]) and their affine; where one size of space alone is 1, its axis comes last of those: a
    slice, however stored."""
    single = [axis for axis, size in enumerate(data.shape[:3]) if size == 1]
    if len(single) != 1:
        return data, affine
    order = [axis for axis in range(3) if axis != single[0]] + single
    return np.ascontiguousarray(data.transpose(*order, *range(3, data.ndim))), affine[:, [*order, 3]]


def _open_nifti(path: Path, series: bool) -> Volume:
    packed = path.suffix.lower() == ".gz"
    with path.open("rb") as file:
        first = gzip_reader(file) if packed else plain_reader(file)
        start = first(HEADER_BYTES)
        if not start:
            raise ValueError("the file is empty")
        raw, header = _headers(start)
        needed = math.prod(header.get_data_shape()) * header.get_data_dtype().itemsize
        end = header.get_data_offset() + needed
        most = path.stat().st_size * (LARGEST_GZIP_RATIO if packed else 1)
        if end > most:
            raise ValueError(f"{end - most} of {needed} bytes of voxels are missing")
        if problem := _too_large(end + math.prod(header.get_data_shape()) * FLOAT):
            return Volume(path, (problem,))
        content = first(end + 1)  # the one more shows whether there are others, and has gzip compare its checksum
    if len(content) < end:
        raise ValueError(f"{end - len(content)} of {needed} bytes of voxels are missing")
    unit_mm = nifti_unit_mm(raw)
    affine, form, geometry = _geometry(header, unit_mm)
    spacing = _voxel_size(raw, header.get_data_shape(), unit_mm)
    geometry_problems = found([spacing, geometry])
    if (spacing and form != "sform") or (geometry and not geometry.fix):  # no geometry in it that could be trusted
        geometry_problems = [replace(problem, fix=None) for problem in geometry_problems]
    nifti = Nifti(content[:end], raw, header, len(content) > end, form, unit_mm, affine)
    stored = np.asanyarray(ArrayProxy(io.BytesIO(nifti.content), header))
    return _volume(path, geometry_problems, stored, affine, nifti, series)


def _headers(start: bytes) -> tuple[nib.Nifti1Header, nib.Nifti1Header]:
    """The header as stored, and with what nibabel repairs of it."""
    kind = next((kind for kind in HEADERS if kind.may_contain_header(start)), None)
    if kind is None:
        raise ValueError("no NIfTI header")
    raw = kind.from_fileobj(io.BytesIO(start), check=False)
    header = raw.copy()
    header.check_fix(UNHEARD, error_level=logging.ERROR)
    if min(header.get_data_shape(), default=0) < 0 or header.get_data_offset() < 0:
        raise ValueError(f"sizes {header.get_data_shape()} from byte {header.get_data_offset()} on")
    return raw, header


def _open_mgh(path: Path, series: bool) -> Volume:
    """FreeSurfer's format, always in mm."""
    image = nib.load(path)
    voxels = math.prod(image.shape)
    if problem := _too_large(voxels * (image.get_data_dtype().itemsize + FLOAT)):
        return Volume(path, (problem,))
    return _volume(path, found([_usable(image.affine)]), np.asanyarray(image.dataobj), image.affine, series=series)


def _open_itk(path: Path) -> Volume:
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    components = reader.GetNumberOfComponents()
    if components > 1 or reader.GetDimension() not in (2, 3):
        return Volume(path, (_not_scalar(reader.GetSize(), components),))
    if problem := _too_large(math.prod(reader.GetSize()) * 2 * FLOAT):
        return Volume(path, (problem,))
    image = sitk.ReadImage(str(path))
    nrrd = path.suffix.lower() in (".nrrd", ".nhdr")
    names = nrrd_units(path) if nrrd else [image.GetMetaData(META_UNIT)] * 3 if image.HasMetaDataKey(META_UNIT) else []
    units_mm = [named_unit_mm(name) for name in names[:3]]
    import torchio as tio  # a second, and few files need it

    converted = tio.ScalarImage.from_sitk(image)
    affine = in_mm(converted.affine, [1.0 if unit is None else unit for unit in units_mm])
    problems = found([_usable(affine), _unit(names, units_mm)])
    return _volume(path, problems, converted.numpy()[0], affine)


def _volume(
    path: Path,
    problems: list[Problem],
    stored: np.ndarray,
    affine: np.ndarray,
    nifti: Nifti | None = None,
    series: bool = False,
) -> Volume:
    """The voxels as (X, Y, Z), of a series (X, Y, Z, T): trailing axes of one voxel dropped, a third one given to 2D
    images."""
    if stored.dtype.fields is not None or stored.dtype.kind not in "biuf":
        return Volume(path, (*problems, _no_real_number(stored.dtype)), None, affine, nifti)
    data = stored
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim == 2:
        data = data[..., None]
    if data.ndim != 3 + (series and data.ndim > 3) or data.size == 0:
        return Volume(path, (*problems, _wrong_shape(stored.shape)), None, affine, nifti)
    return Volume(path, tuple(problems), *slice_last(as_native(data), affine), nifti)


def _voxel_size(raw: nib.Nifti1Header, shape: tuple[int, ...], unit_mm: float) -> Problem | None:
    sizes = raw["pixdim"][1 : 1 + min(len(shape), 3)] * unit_mm
    needed = sizes[[size > 1 for size in shape[:3]]]  # an axis of one voxel needs no spacing
    if np.isfinite(sizes).all() and (needed > 0).all():
        return None
    return Problem(
        "error",
        f"the voxel size (pixdim) is {sizes.tolist()} mm, but must be positive",
        "programs measure lengths with it, and each repairs it in its own way",
        "Correct the header",
        Fix.GEOMETRY,
    )


def _geometry(header: nib.Nifti1Header, unit_mm: float) -> tuple[np.ndarray, str, Problem | None]:
    """The sform in mm; the qform where there is no usable sform. Which one it is, and what is wrong with it."""
    sform, sform_code = header.get_sform(coded=True)
    qform, qform_code = header.get_qform(coded=True)
    if sform_code and not (qform_code and invalid(sform)):
        affine, form = sform, "sform"
    elif qform_code:
        affine, form = qform, "qform"
    else:
        affine, form = header.get_base_affine(), "affine"
    affine = in_mm(affine, [unit_mm] * 3)
    shape = (*header.get_data_shape(), 1, 1)[:3]
    if reason := invalid(affine):
        return affine, form, _unusable(affine, form, reason, shape)
    if sform_code and qform_code:
        distance = unit_mm * corner_distance_mm(sform, qform, shape)
        if not distance <= geometry_tolerance_mm(affine):
            return affine, form, _disagreement(distance, form, sform, int(sform_code))
    return affine, form, None


def _usable(affine: np.ndarray) -> Problem | None:
    """Of the one geometry of a format that holds no other."""
    reason = invalid(affine)
    return _unusable(affine, "geometry", reason, (1, 1, 1), fixable=False) if reason else None


def _unusable(affine: np.ndarray, form: str, reason: str, shape: tuple[int, ...], fixable: bool = True) -> Problem:
    """A shear that moves no corner by more than half a voxel can be taken out: labels may be off by as much."""
    small = (
        fixable
        and reason == "sheared"
        and (corner_distance_mm(affine, without_shear(affine), shape) <= voxel_size_mm(affine).min() / 2)
    )
    return Problem(
        "error",
        f"the {form} of the header is {reason}",
        "nobody can tell where the voxels lie"
        if reason != "sheared"
        else "ITK programs (SimpleITK, ANTs, elastix, Slicer) refuse it: their axes are perpendicular",
        "Correct the header or resample the image",
        Fix.GEOMETRY if small else None,
    )


def _disagreement(distance: float, form: str, sform: np.ndarray, sform_code: int) -> Problem:
    itk = "sform" if sform_code == 1 and np.isfinite(sform).all() and shear(sform) <= ITK_SHEAR_TOLERANCE else "qform"
    by = f" by up to {show_mm(distance)}" if np.isfinite(distance) else f", the sform is {invalid(sform)}"
    return Problem(
        "warning",
        f"sform and qform differ{by}; the {form} is used",
        f"other programs see the image elsewhere: of this file ITK programs (SimpleITK, ANTs, elastix, Slicer) take "
        f"the {itk}, nibabel and FSL the sform",
        "Find out which one is right, e.g. by an overlay on another image of the patient, and set both to it",
        Fix.GEOMETRY,
    )


def _unit(names: list[str], units_mm: list[float | None]) -> Problem | None:
    """Of the formats whose units ITK ignores."""
    stated = ", ".join(dict.fromkeys(names[: len(units_mm)]))
    why = "ITK programs (SimpleITK, ANTs, elastix, Slicer) take the numbers for mm, whatever the header says"
    remedy = "Save the file with its lengths in mm"
    if None in units_mm:
        return Problem("warning", f"the header's unit of length is '{stated}', here taken for mm", why, remedy)
    if all(unit == 1 for unit in units_mm):
        return None
    why += ": they see the image elsewhere, and transforms that are written here do not fit what they see"
    return Problem("warning", f"the header's unit of length is {stated}, here converted to mm", why, remedy)


def _too_large(needed: int) -> Problem | None:
    if not (short := shortage(needed)):
        return None
    return Problem(
        "error",
        f"takes {short}",
        "nothing can be done with an image that does not fit",
        "Correct the sizes in its header if they are wrong; else crop or downsample it, or use a larger machine",
    )


def _no_file() -> Problem:
    return Problem(
        "error",
        "is a pipe, a socket or a device, though its name is that of an image",
        "it has no content that could be read twice",
        "Remove it, or name a file",
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
    return Problem(
        "error",
        f"cannot be read, the file is damaged or no image ({reason_of(error)})",
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
        "Split a 4D file into one file per time point or contrast; bingo register takes it as it is, alone",
    )


def _not_scalar(size: tuple[int, ...], components: int) -> Problem:
    return Problem(
        "error",
        f"has size {size} and {components} values per voxel, but one 2D or 3D image with one value per voxel is needed",
        "colours and series have no single intensity that could be compared",
        "Split the file; save a picture in shades of grey",
    )
