"""One image file in, one checked TorchIO image out. Every file that training sees passes through here.

Accepted: NIfTI, and whatever SimpleITK reads (`.mha`, `.nrrd`); any real number type; 2D files, 3D files, and 4D files
whose fourth size is 1. All come out as (1, X, Y, Z) with a RAS affine; 2D files get Z = 1.
"""

from __future__ import annotations

import itertools
import warnings
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
import torchio as tio
from nibabel.filebasedimages import ImageFileError
from nibabel.openers import ImageOpener
from nibabel.spatialimages import HeaderDataError

from bingo_pl.errors import BingoError

GEOMETRY_TOLERANCE_MM = 0.1
"""sform and qform closer than this at every corner are the same: float32 quaternions are less exact than matrices."""
ROUNDING_TOLERANCE = 1e-3
"""How far from a whole number a label may be stored."""
UNREADABLE = (OSError, EOFError, ValueError, RuntimeError, MemoryError, zlib.error, HeaderDataError, ImageFileError)
"""What nibabel and SimpleITK raise on damaged files."""


def read_image(path: Path, fill_nonfinite: float | None = None) -> tio.ScalarImage:
    """Read intensities.

    Args:
        path: the file.
        fill_nonfinite: the value that replaces NaN and Inf; None makes them an error.

    Returns:
        (1, X, Y, Z) float32.

    Raises:
        BingoError: the file is missing or damaged, 4D, RGB, complex, constant or not finite, or its header is wrong.
    """
    data, affine = _read(path)
    data = data.astype(np.float32)
    bad = ~np.isfinite(data)
    if bad.any() and fill_nonfinite is None:
        raise BingoError(
            f"{path}: {int(bad.sum())} of {data.size} voxels are NaN or Inf. Correct the file, or set "
            "data.fill_nonfinite to the value that they should get, e.g. 0"
        )
    data[bad] = fill_nonfinite
    if data.min() == data.max():
        raise BingoError(
            f"{path}: every voxel is {data.min():g}; there is nothing to register. Remove or replace the image"
        )
    return tio.ScalarImage(tensor=torch.from_numpy(data)[None], affine=affine)


def read_labels(
    path: Path, image: tio.ScalarImage, label_ids: Collection[int], relabel: Mapping[int, int] | None = None
) -> tio.LabelMap:
    """Read the label map of an image.

    Args:
        path: the file.
        image: the image that it labels; both must be on one grid.
        label_ids: the foreground ids that may occur.
        relabel: ids to replace, old to new; 0 as the new id ignores a label.

    Returns:
        (1, X, Y, Z) int16.

    Raises:
        BingoError: as for an image, or an id is unknown or fractional, or the grid is not the image's.
    """
    ids = _read_ids(path, image)
    for old, new in (relabel or {}).items():
        ids[ids == old] = new
    unknown = sorted({int(i) for i in np.unique(ids)} - {0, *label_ids})
    if unknown:
        raise BingoError(
            f"{path}: label ids {unknown} are not among the known ids {sorted(label_ids)} (0 is background). "
            "Add them to data.label_ids or correct the file"
        )
    return tio.LabelMap(tensor=torch.from_numpy(ids.astype(np.int16))[None], affine=image.affine)


def read_mask(path: Path, image: tio.ScalarImage) -> tio.LabelMap:
    """Read the foreground mask of an image: everything that is not 0. (1, X, Y, Z) uint8.

    Raises:
        BingoError: as for labels, or the mask is empty.
    """
    mask = _read_ids(path, image) != 0
    if not mask.any():
        raise BingoError(
            f"{path}: the mask is empty. Correct it, or leave the mask column empty for the default foreground"
        )
    return tio.LabelMap(tensor=torch.from_numpy(mask.astype(np.uint8))[None], affine=image.affine)


def corner_distance_mm(affine: np.ndarray, other: np.ndarray, shape: tuple[int, ...]) -> float:
    """The largest distance between the places that two affines give to a corner of a volume."""
    corners = np.array([[*corner, 1] for corner in itertools.product(*[(0, size - 1) for size in shape])])
    return float(np.linalg.norm(corners @ (affine - other).T[:, :3], axis=1).max())


def _read_ids(path: Path, image: tio.ScalarImage) -> np.ndarray:
    """Whole numbers (X, Y, Z) on the image's grid."""
    data, affine = _read(path)
    if data.shape != image.spatial_shape:
        raise BingoError(
            f"{path}: the label map or mask has {data.shape} voxels, its image {image.spatial_shape}. "
            "Resample it to the image's grid (nearest neighbour)"
        )
    distance = corner_distance_mm(affine, image.affine, data.shape)
    if distance > min(image.spacing) / 2:
        raise BingoError(
            f"{path}: the label map or mask lies up to {distance:.1f} mm from its image, more than half a voxel "
            f"({min(image.spacing) / 2:.2g} mm). Correct its header, or resample it to the image's grid "
            "(nearest neighbour)"
        )
    if data.dtype.kind != "f":
        return data.astype(np.int64)
    ids = np.rint(data)
    if not np.abs(data - ids).max() <= ROUNDING_TOLERANCE:  # written so that NaN fails too
        raise BingoError(
            f"{path}: a label map must hold whole numbers; this one was probably interpolated. Use nearest neighbour"
        )
    return ids.astype(np.int64)


def _read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z) and the 4x4 RAS affine of a file of any format."""
    if not path.is_file():
        raise BingoError(f"{path}: no such file. Correct the path or remove the image from the cohort")
    try:
        data, affine = _read_nifti(path) if path.name.endswith((".nii", ".nii.gz")) else _read_itk(path)
    except UNREADABLE as error:
        reason = " ".join(str(error).split())
        raise BingoError(
            f"{path}: cannot be read, the file is damaged or no image ({reason}). Copy or convert it again"
        ) from error
    if data.dtype.fields is not None or data.dtype.kind not in "biuf":
        raise BingoError(
            f"{path}: holds {data.dtype} voxels, but one real number per voxel is needed. Save one channel or "
            "the magnitude"
        )
    shape = data.shape
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim == 2:
        data = data[..., None]
    if data.ndim != 3 or data.size == 0:
        raise BingoError(
            f"{path}: has shape {shape}, but one 2D or 3D image is needed. Split a 4D file into one file per "
            "time point or contrast"
        )
    return np.ascontiguousarray(data), affine


def _read_nifti(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = nib.load(path)
    with ImageOpener(path) as file:  # nibabel repairs bad voxel sizes silently: look at the file's own
        raw = type(image.header).from_fileobj(file, check=False)
    sizes = raw["pixdim"][1 : 1 + min(len(image.shape), 3)]
    needed = sizes[[size > 1 for size in image.shape[:3]]]  # an axis of one voxel needs no spacing
    if not (np.isfinite(sizes).all() and (needed > 0).all()):
        raise BingoError(
            f"{path}: the voxel size (pixdim) is {sizes.tolist()} mm, but must be positive. Correct the header"
        )
    return np.asanyarray(image.dataobj), _nifti_affine(path, image)


def _nifti_affine(path: Path, image: nib.Nifti1Image) -> np.ndarray:
    """The sform; the qform where there is no usable sform. A disagreement is reported."""
    sform, sform_code = image.header.get_sform(coded=True)
    qform, qform_code = image.header.get_qform(coded=True)
    if not sform_code or not qform_code:
        affine, name = image.affine, "affine"
    elif _invalid(sform):
        affine, name = qform, "qform"
    else:
        affine, name = sform, "sform"
    if problem := _invalid(affine):
        raise BingoError(f"{path}: the {name} of the header is {problem}. Correct the header or resample the image")
    if sform_code and qform_code:
        shape = (*image.shape, 1, 1)[:3]
        distance = corner_distance_mm(sform, qform, shape)
        if not distance <= GEOMETRY_TOLERANCE_MM:
            warnings.warn(
                f"{path}: sform and qform differ by up to {distance:.1f} mm; the {name} is used", stacklevel=2
            )
    return affine


def _invalid(affine: np.ndarray) -> str:
    """What makes an affine unusable as an image geometry, or nothing."""
    if not np.isfinite(affine).all():
        return "not finite"
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if (sizes == 0).any():
        return "singular"
    directions = affine[:3, :3] / sizes
    if np.abs(directions.T @ directions - np.eye(3)).max() > 1e-3:  # ITK's geometries cannot shear
        return "sheared"
    return ""


def _read_itk(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = sitk.ReadImage(str(path))
    if image.GetNumberOfComponentsPerPixel() > 1 or image.GetDimension() not in (2, 3):
        raise BingoError(
            f"{path}: has size {image.GetSize()} and {image.GetNumberOfComponentsPerPixel()} values per voxel, "
            "but one 2D or 3D image with one value per voxel is needed. Split the file"
        )
    converted = tio.ScalarImage.from_sitk(image)
    return converted.numpy()[0], converted.affine
