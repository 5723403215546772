"""What a file may hold that can be read, but would mislead: this program, other programs or the person."""

from __future__ import annotations

import warnings
from collections.abc import Collection

import numpy as np
import torch
import torchio as tio

from bingo_pl.errors import BingoError
from bingo_pl.images.geometry import ITK_SHEAR_TOLERANCE, geometry_tolerance_mm, shear, show_mm, voxel_size_mm
from bingo_pl.images.intensity import foreground, is_binary, rescale
from bingo_pl.images.problems import Fix, Problem
from bingo_pl.images.reading import constant, empty_mask, fractional, nonfinite, rounding, unknown_ids, wrapped
from bingo_pl.images.volume import Nifti, Volume

CT_PADDING = (-1024, -2000, -2048, -3024)
"""What CT scanners and converters write outside the field of view."""
PADDING_SHARE = 0.01
"""Fewer voxels of such a value are noise in air."""


def header_pitfalls(volume: Volume) -> list[Problem | None]:
    """Of a NIfTI header that can be used; other formats store nothing twice and have none of these."""
    if volume.nifti is None:
        return []
    nifti = volume.nifti
    return [_slope(nifti), _no_geometry(nifti), _unit(volume), *_geometry(volume), _axes(volume), _surplus(nifti)]


def image_pitfalls(volume: Volume) -> list[Problem | None]:
    """Of intensities."""
    assert volume.data is not None
    with np.errstate(over="ignore"):  # what is Inf in float32, as images are read, is named
        data = volume.data.astype(np.float32)
    if problem := nonfinite(data):
        finite = data[np.isfinite(data)]
        return [problem, constant(finite) if finite.size else None]
    if problem := constant(data):
        return [problem]
    image = tio.ScalarImage(tensor=torch.from_numpy(data)[None], affine=volume.affine)
    if problem := _low_contrast(image, volume):
        return [problem, _ct_padding(image.data)]
    return [_binary(image.data), _ct_padding(image.data), wrapped(volume.data)]


def label_pitfalls(data: np.ndarray, label_ids: Collection[int]) -> list[Problem | None]:
    """Of a label map (X, Y, Z). Any id may occur where ``label_ids`` is empty."""
    if problem := fractional(data):
        return [problem]
    with np.errstate(invalid="ignore"):  # numbers beyond int64 are unknown ids, whatever they become
        ids = np.rint(data).astype(np.int64)
    return [_rounded(data), _no_label(ids), unknown_ids(ids, label_ids) if label_ids else None]


def mask_pitfalls(data: np.ndarray) -> list[Problem | None]:
    """Of a foreground mask (X, Y, Z)."""
    if problem := fractional(data):
        return [problem]
    return [_rounded(data), empty_mask(np.rint(data))]


def _slope(nifti: Nifti) -> Problem | None:
    slope = float(nifti.raw["scl_slope"])
    if slope == 0:
        return Problem(
            "note",
            "the intensity slope (scl_slope) is 0",
            "NIfTI takes it for no scaling, as this program does; a program that multiplies by it sees zeros",
            "Set it to 1",
            Fix.SLOPE,
        )
    if np.isfinite(slope):
        return None
    return Problem(
        "warning",
        f"the intensity slope (scl_slope) is {slope}",
        "this program and SimpleITK take it for 1; a program that multiplies by it sees NaN",
        "Set it to 1, unless you know the true one",
        Fix.SLOPE,
    )


def _no_geometry(nifti: Nifti) -> Problem | None:
    if nifti.form != "affine":
        return None
    return Problem(
        "warning",
        "the header has neither sform nor qform (both codes are 0)",
        "nothing says which side is left or where the image lies, and programs assume different things: nibabel, and "
        "so this program, that the second axis runs to the front, ITK programs that it runs to the back",
        "Convert the original (e.g. DICOM) again, or set the sform after a look at the image",
    )


def _unit(volume: Volume) -> Problem | None:
    nifti = volume.nifti
    assert nifti is not None
    if nifti.unit_mm == 1:
        return None
    sound = not volume.failed and nifti.form != "affine"
    return Problem(
        "note",
        f"lengths are stored in {'meters' if nifti.unit_mm > 1 else 'microns'} (xyzt_units)",
        "this program, SimpleITK and ANTs convert them to mm; a program that uses nibabel's affine as it is does not",
        "Nothing need be done here",
        Fix.GEOMETRY if sound else None,
    )


def _show(sizes: np.ndarray) -> list[float]:
    """Lengths for a person, however small."""
    return [float(f"{size:.5g}") for size in sizes]


def _geometry(volume: Volume) -> list[Problem | None]:
    """Disagreements with the sform that are not between it and the qform."""
    nifti = volume.nifti
    assert nifti is not None
    affine = nifti.affine
    if nifti.form != "sform" or volume.problems:  # already named
        return []
    stored, sizes = nifti.raw["pixdim"][1:4].astype(float) * nifti.unit_mm, voxel_size_mm(affine)
    with np.errstate(over="ignore"):
        off_mm = float((np.abs(stored - sizes) * (np.array(nifti.shape) - 1)).max())
    spacing = Problem(
        "warning",
        f"the voxel size (pixdim) is {_show(stored)} mm, but {_show(sizes)} mm by the sform, which is used",
        f"ITK programs (SimpleITK, ANTs, elastix, Slicer) take the other: over the image that is {show_mm(off_mm)}",
        "Find out which one is right and set both to it",
        Fix.GEOMETRY,
    )
    oblique = Problem(
        "warning",
        f"the axes of the sform are not quite perpendicular (scalar product {shear(affine):.1g})",
        f"ITK programs (SimpleITK, ANTs, elastix, Slicer) refuse more than {ITK_SHEAR_TOLERANCE:g}, or take the qform",
        "Make them perpendicular, or resample the image",
        Fix.GEOMETRY,
    )
    return [
        spacing if off_mm > geometry_tolerance_mm(affine) else None,
        oblique if shear(affine) > ITK_SHEAR_TOLERANCE else None,
    ]


def _axes(volume: Volume) -> Problem | None:
    assert volume.nifti is not None
    shape = volume.nifti.header.get_data_shape()
    if volume.data is None or len(shape) <= 3:
        return None
    return Problem(
        "note",
        f"has shape {shape}: trailing axes of one voxel",
        "this program drops them; other programs may take the file for a time series",
        "Save it as 3D",
        Fix.AXES,
    )


def _surplus(nifti: Nifti) -> Problem | None:
    if not nifti.surplus:
        return None
    return Problem(
        "warning",
        f"holds more bytes than the {nifti.header.get_data_shape()} voxels of its header (dim) need",
        "the header's sizes or data type are probably wrong, and then the image is scrambled or cut",
        "Look at the image; correct dim and datatype, or convert the original again",
    )


def _low_contrast(image: tio.ScalarImage, volume: Volume) -> Problem | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # TorchIO warns of what the error says
            rescale(image, volume.path)
    except BingoError as error:
        why = "intensities are scaled by percentiles of the foreground, and these are all the same value"
        return Problem.refused(error, volume.path, why)
    return None


def _binary(image: torch.Tensor) -> Problem | None:
    """``image`` is (1, X, Y, Z)."""
    if not is_binary(image):
        return None
    return Problem(
        "note",
        f"holds two values only, {image.min():g} and {image.max():g}",
        "it is registered as an image, by its edges; a mask or label map is one by its name or by the manifest",
        "Nothing need be done, unless it is a mask or label map: then name it so",
    )


def _ct_padding(image: torch.Tensor) -> Problem | None:
    """Values that no tissue has; ``image`` is (1, X, Y, Z)."""
    shown = foreground(image)
    for value in CT_PADDING:
        padding = image == value
        share = float(padding.float().mean())
        if share < PADDING_SHARE:
            continue
        what = f"{share:.0%} of the voxels are {value}, with which CT is padded outside the field of view"
        if not shown[padding].any():
            return Problem(
                "note", what, "this program takes them for background; others may not", "Nothing need be done"
            )
        return Problem(
            "warning",
            what,
            "here they are taken for tissue: they compress the contrast of all else, and their border is the "
            "strongest edge of the image",
            "Clip the intensities to a window, e.g. -1000 to 1000, so that padding looks like air",
        )
    return None


def _rounded(data: np.ndarray) -> Problem | None:
    if data.dtype.kind != "f" or rounding(data) == 0:
        return None
    return Problem(
        "warning",
        f"label ids are up to {rounding(data):.1g} off whole numbers",
        "this program rounds them; a program that compares ids for equality misses these voxels",
        "Save them as integers",
        Fix.IDS if np.abs(data).max() < 2**31 else None,
    )


def _no_label(ids: np.ndarray) -> Problem | None:
    if ids.any():
        return None
    return Problem(
        "warning",
        "the label map is empty",
        "there is no structure by which the registration could be judged",
        "Draw the labels, or list the image without a label map",
    )
