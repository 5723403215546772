"""Images of other libraries in memory: nibabel's, SimpleITK's, TorchIO's and MONAI's, or an array with its affine."""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torchio as tio
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.errors import InputError
from bingo_pl.images.grids import LPS
from bingo_pl.images.units import in_mm, nifti_unit_mm

Image: TypeAlias = tio.Image | nib.spatialimages.SpatialImage | sitk.Image | Tensor | tuple[Any, Any]
"""Tensors are MONAI's ``MetaTensor``; arrays are (X, Y[, Z]) with a 4x4 affine, array index to RAS mm."""
WANTED = (
    "a path, an image of TorchIO, nibabel or SimpleITK, a MetaTensor of MONAI, or a tuple of an array and its 4x4 "
    "affine (array index to RAS mm)"
)


def voxels_of(image: object, name: str) -> tuple[NDArray, NDArray[np.float64]]:
    """An image's voxels (X, Y, Z), of real numbers, and the affine (4, 4) from their indices to RAS mm.

    Args:
        image: see `Image`.
        name: what messages call it.

    Raises:
        BingoError: another type, several channels, no real numbers or no affine.
    """
    data, affine = parts_of(image, name)
    while data.ndim > 3 and data.shape[-1] == 1:
        data = data[..., 0]
    if data.ndim == 2:
        data = data[..., None]
    if data.ndim != 3 or not data.size or data.dtype.kind not in "biuf" or affine.shape != (4, 4):
        raise InputError(
            f"{name}: is an array of {data.shape} {data.dtype} with an affine of {affine.shape}. Wanted: (X, Y) or "
            "(X, Y, Z) real numbers and a (4, 4) affine",
            "Correct the image",
        )
    return data, affine.astype(np.float64)


def parts_of(image: object, name: str) -> tuple[NDArray, NDArray]:
    """An image's array as it is, without an axis of channels, and its affine, not checked; raises as `voxels_of`."""
    data, affine = _parts(image, name)
    return _array(data), _array(affine)


def _parts(image: object, name: str) -> tuple[Any, Any]:
    if isinstance(image, tio.Image):
        return _one_channel(image.numpy(), name), image.affine
    if isinstance(image, sitk.Image):
        if image.GetNumberOfComponentsPerPixel() > 1 or image.GetDimension() not in (2, 3):
            raise InputError(
                f"{name}: is an image of {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} "
                "components, wanted 2 or 3 and 1",
                "Choose one",
            )
        converted = tio.ScalarImage.from_sitk(image)
        return converted.numpy()[0], converted.affine
    if isinstance(image, nib.spatialimages.SpatialImage):
        header = image.header
        unit_mm = nifti_unit_mm(header) if isinstance(header, nib.Nifti1Header) else 1.0
        return np.asanyarray(image.dataobj), None if image.affine is None else in_mm(image.affine, [unit_mm] * 3)
    if _is_meta_tensor(image):
        return _of_monai(image, name)
    if isinstance(image, tuple) and len(image) == 2:
        return image
    raise InputError(f"{name}: type {type(image).__name__}", f"Wanted: {WANTED}")


def _is_meta_tensor(image: object) -> bool:
    """Without importing MONAI, which takes a second: who has one has imported it."""
    monai = sys.modules.get("monai.data.meta_tensor")
    return monai is not None and isinstance(image, monai.MetaTensor)


def _of_monai(image: Any, name: str) -> tuple[NDArray, NDArray]:
    """Channels first, (1, X, Y[, Z]), or none of three axes, (X, Y, Z); an affine to RAS unless it says LPS."""
    data, affine = _array(image), _array(image.affine)
    if data.ndim == 4 or (data.ndim == 3 and data.shape[0] == 1):
        data = _one_channel(data, name)
    if affine.shape == (3, 3):
        whole = np.eye(4)
        whole[np.ix_([0, 1, 3], [0, 1, 3])] = affine
        affine = whole
    return data, LPS @ affine if str(image.meta.get("space", "RAS")).upper().endswith("LPS") else affine


def _one_channel(data: NDArray, name: str) -> NDArray:
    if len(data) != 1:
        raise InputError(f"{name}: has {len(data)} channels, wanted 1", "Choose one")
    first: NDArray = data[0]
    return first


def _array(values: Any) -> NDArray:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
