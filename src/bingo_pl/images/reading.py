"""One image file in, one checked TorchIO image out. Every file that training sees passes through here.

Accepted: NIfTI, FreeSurfer's `.mgz`, and whatever SimpleITK reads (`.mha`, `.nrrd`); any real number type and byte
order; 2D files, 3D files, and 4D files whose fourth size is 1. All come out as (1, X, Y, Z) with an affine to RAS mm,
whatever the header's unit of length; slices get Z = 1.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
import torchio as tio

from bingo_pl.errors import BingoWarning, InputError
from bingo_pl.images.geometry import corner_distance_mm, show_mm, voxel_size_mm
from bingo_pl.images.problems import Problem, found, refuse
from bingo_pl.images.volume import Volume, open_volume

__all__ = [
    "corner_distance_mm",
    "read_image",
    "read_labels",
    "read_mask",
    "read_series",
    "read_voxels",
    "stored_ids",
    "to_ids",
    "to_image",
    "to_mask",
    "whole_numbers",
]

ROUNDING_TOLERANCE = 1e-3
"""How far from a whole number a label may be stored."""
LARGEST = 2**15 - 1
"""Of signed 16 bits."""
WRAP, EDGE = 3 * 2**14, 2**14
"""Between neighbours, of 2^16 values: larger differences are wraps, if not rare beside those of strong edges."""
WRAPS, WRAPS_PER_EDGE = 10, 0.2
"""How many at least, and per strong edge. Real images that were made to wrap had 0.36 or more, others that fill the
whole range of 16 bits 0.03 or less."""


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
    return to_image(path, *read_voxels(path), fill_nonfinite)


def to_image(path: Path, data: np.ndarray, affine: np.ndarray, fill_nonfinite: float | None = None) -> tio.ScalarImage:
    """`read_image` for voxels (X, Y, Z) that have been read; ``path`` is named in errors."""
    with np.errstate(over="ignore"):
        single = data.astype(np.float32)
    if fill_nonfinite is None:
        refuse(path, nonfinite(data), beyond_single(data, single))
    data = single
    data[~np.isfinite(data)] = fill_nonfinite
    refuse(path, constant(data))
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
    ids = to_ids(path, *read_voxels(path), image)
    for old, new in (relabel or {}).items():
        ids[ids == old] = new
    refuse(path, unknown_ids(ids, label_ids))
    return tio.LabelMap(tensor=torch.from_numpy(ids.astype(np.int16))[None], affine=image.affine)


def read_mask(path: Path, image: tio.ScalarImage) -> tio.LabelMap:
    """Read the foreground mask of an image: everything that is not 0. (1, X, Y, Z) uint8.

    Raises:
        BingoError: as for labels, or the mask is empty.
    """
    return to_mask(path, *read_voxels(path), image)


def to_mask(path: Path, data: np.ndarray, affine: np.ndarray, image: tio.ScalarImage) -> tio.LabelMap:
    """`read_mask` for voxels (X, Y, Z) that have been read; ``path`` is named in errors."""
    mask = to_ids(path, data, affine, image) != 0
    refuse(path, empty_mask(mask))
    return tio.LabelMap(tensor=torch.from_numpy(mask.astype(np.uint8))[None], affine=image.affine)


def nonfinite(data: np.ndarray) -> Problem | None:
    """NaN or Inf among intensities."""
    count = data.size - int(np.isfinite(data).sum())
    if not count:
        return None
    return Problem(
        "error",
        f"{count} of {data.size} voxels are NaN or Inf",
        "one such voxel makes every sum over the image NaN, the registration too",
        "Correct the file; a training can also replace them (data.fill_nonfinite=0)",
    )


def beyond_single(data: np.ndarray, single: np.ndarray) -> Problem | None:
    """Finite intensities that are infinite in single precision, in which everything is computed."""
    count = int((np.isfinite(data) & ~np.isfinite(single)).sum())
    if not count:
        return None
    return Problem(
        "error",
        f"{count} of {data.size} voxels are beyond 3.4e38, the largest number of single precision",
        "images are worked with in single precision, where these are infinite",
        "Divide the intensities by a number that makes them smaller",
    )


def constant(data: np.ndarray) -> Problem | None:
    """Intensities (none of them NaN) without any contrast."""
    if data.min() != data.max():
        return None
    return Problem(
        "error",
        f"every voxel is {data.min():g}; there is nothing to register",
        "an image without contrast shows no anatomy",
        "Remove or replace the image",
    )


def wrapped(data: np.ndarray) -> Problem | None:
    """Signed intensities (X, Y, Z) of 16 bits that were larger than these hold, and began again at the least."""
    return wrapped_among(lambda: [data])


def wrapped_among(volumes: Callable[[], Iterable[np.ndarray]]) -> Problem | None:
    """`wrapped` for the volumes of a series, which share their intensities; they may be read twice, one at a time."""
    least, most = LARGEST, -LARGEST - 1
    for data in volumes():
        if data.dtype != np.int16:
            return None
        least, most = min(least, int(data.min())), max(most, int(data.max()))
    if most - least <= WRAP:
        return None
    wraps = edges = 0
    for data in volumes():
        shown = (data > least) & (data < most)  # padding and clipped values are no wraps
        for axis in range(3):
            step = np.abs(np.diff(data.astype(np.int32), axis=axis))
            size = data.shape[axis]
            step[~(shown.take(range(size - 1), axis) & shown.take(range(1, size), axis))] = 0
            wraps += int((step > WRAP).sum())
            edges += int(((step > EDGE) & (step <= WRAP)).sum())
    if wraps < WRAPS or wraps <= WRAPS_PER_EDGE * edges:
        return None
    return Problem(
        "warning",
        f"intensities jump between almost {most} and almost {least} at {wraps} pairs of neighbours: they "
        "were probably too large for 16 bits, and wrapped",
        "the brightest places become the darkest, and the jumps the strongest edges of the image",
        "Convert the original again, to unsigned 16 bits, 32 bits or floating point",
    )


def warn_of_wrap(path: Path, wrap: Problem) -> None:
    """Issue the finding of `wrapped` as a warning."""
    warnings.warn(f"{path}: {wrap.what}. They are read as unsigned", BingoWarning, stacklevel=2)


def fractional(data: np.ndarray) -> Problem | None:
    """Values of a label map or mask that are not whole numbers, beyond rounding."""
    if data.dtype.kind != "f" or rounding(data) <= ROUNDING_TOLERANCE:  # written so that NaN fails too
        return None
    return Problem(
        "error",
        "a label map must hold whole numbers; this one was probably interpolated",
        "between the ids 1 and 3 interpolation writes 2, another structure",
        "Use nearest neighbour",
    )


def rounding(data: np.ndarray) -> float:
    """The largest distance of a value from a whole number; NaN where there is NaN or Inf."""
    with np.errstate(invalid="ignore"):
        return float(np.abs(data - np.rint(data)).max())


def unknown_ids(ids: np.ndarray, label_ids: Collection[int]) -> Problem | None:
    """Whole-numbered ids that are neither 0 nor in the list."""
    unknown = sorted({int(i) for i in np.unique(ids)} - {0, *label_ids})
    if not unknown:
        return None
    return Problem(
        "error",
        f"label ids {unknown} are not among the known ids {sorted(label_ids)} (0 is background)",
        "a structure under a wrong id would be scored as another one, or not at all",
        "Add them to data.label_ids or correct the file",
    )


def empty_mask(mask: np.ndarray) -> Problem | None:
    if mask.any():
        return None
    return Problem(
        "error",
        "the mask is empty",
        "the image would have no voxel by which it could be registered",
        "Correct it, or leave it out for the default foreground",
    )


def other_grid(
    shape: tuple[int, ...], affine: np.ndarray, image_shape: tuple[int, ...], image_affine: np.ndarray
) -> Problem | None:
    """A label map or mask that does not lie on its image's grid, up to half a voxel."""
    why = "its voxels would name the wrong places of the image"
    if shape != image_shape:
        return Problem(
            "error",
            f"the label map or mask has {shape} voxels, its image {image_shape}",
            why,
            "Resample it to the image's grid (nearest neighbour)",
        )
    distance = corner_distance_mm(affine, image_affine, shape)
    tolerance = voxel_size_mm(image_affine).min() / 2
    if distance <= tolerance:
        return None
    return Problem(
        "error",
        f"the label map or mask lies up to {show_mm(distance)} from its image, more than half a voxel "
        f"({show_mm(tolerance)})",
        why,
        "Correct its header, or resample it to the image's grid (nearest neighbour)",
    )


def to_ids(path: Path, data: np.ndarray, affine: np.ndarray, image: tio.ScalarImage) -> np.ndarray:
    """Whole numbers (X, Y, Z) int64, of voxels that should be on the image's grid; ``path`` is named in errors."""
    refuse(path, other_grid(data.shape, affine, image.spatial_shape, image.affine))
    return whole_numbers(path, data)


def stored_ids(path: Path, ids: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Whole numbers int64 in the type in which a file had them; int32 where that is no integer of 32 bits at most.

    Raises:
        BingoError: an id is too large for that; ``path`` is named.
    """
    kept = dtype if dtype.kind in "iu" and dtype.itemsize <= 4 else np.dtype(np.int32)
    limits = np.iinfo(kept)
    if ids.size and not limits.min <= ids.min() <= ids.max() <= limits.max:
        raise InputError(
            f"{path}: holds label ids from {ids.min()} to {ids.max()}, wanted {limits.min} to {limits.max}",
            "Renumber the labels",
        )
    return ids.astype(kept)


def whole_numbers(path: Path, data: np.ndarray) -> np.ndarray:
    """Label ids, int64, of voxels that hold them up to rounding; ``path`` is named in the error for any others."""
    refuse(path, fractional(data))
    return np.rint(data).astype(np.int64)


def read_voxels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxels (X, Y, Z), as stored, and the 4x4 RAS affine of a file of any format.

    Intensities that wrapped in signed 16 bits are read as the unsigned ones that they were, with a warning.

    Raises:
        BingoError: the file is missing or damaged, or holds no image of real numbers.
    """
    return _usable(path, open_volume(path))


def read_series(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """`read_voxels` of a 4D file: (X, Y, Z, T) and the affine of all its volumes."""
    return _usable(path, open_volume(path, series=True))


def _usable(path: Path, volume: Volume) -> tuple[np.ndarray, np.ndarray]:
    refuse(path, *volume.problems)
    assert volume.data is not None
    for problem in found(volume.problems):
        warnings.warn(f"{path}: {problem.what}", BingoWarning, stacklevel=2)
    assert volume.affine is not None
    if (wrap := wrapped(volume.data)) is None:
        return volume.data, volume.affine
    warn_of_wrap(path, wrap)
    return volume.data.view(np.uint16), volume.affine
