"""Copies of NIfTI files without what can be fixed safely: the header is corrected, the voxels stay as they are.

Only label ids that are whole but for rounding are written again, as integers.
"""

from __future__ import annotations

import gzip
from collections.abc import Collection
from pathlib import Path

import nibabel as nib
import numpy as np

from bingo_pl.images.geometry import corner_distance_mm
from bingo_pl.images.problems import Fix
from bingo_pl.images.units import SPACE_BITS
from bingo_pl.images.volume import Volume
from bingo_pl.storage.atomic import replacing

MILLIMETRE = 2
"""NIfTI's code."""


def fix(volume: Volume, fixes: Collection[Fix], copy: Path) -> dict[Fix, str]:
    """Write a corrected copy of a file.

    Args:
        volume: the opened file, with a readable NIfTI image.
        fixes: the changes to make.
        copy: where to; compressed if it ends with ``.gz``.

    Returns:
        What was changed.

    Raises:
        BingoError: the copy cannot be written.
    """
    assert volume.nifti is not None
    assert volume.data is not None
    header = volume.nifti.raw.copy()
    offset = header.get_data_offset()
    voxels = volume.nifti.content[offset:]
    changes = {}
    if Fix.GEOMETRY in fixes:
        changes[Fix.GEOMETRY] = _set_geometry(header, volume)
    if Fix.SLOPE in fixes:
        header["scl_slope"], header["scl_inter"] = 1, 0
        changes[Fix.SLOPE] = "scl_slope set to 1"
    if Fix.AXES in fixes:
        header.set_data_shape(volume.nifti.shape)
        changes[Fix.AXES] = f"shape set to {volume.nifti.shape}"
    if Fix.IDS in fixes:
        ids = np.rint(volume.data).astype(np.int64)
        kind = np.result_type(np.min_scalar_type(ids.min()), np.min_scalar_type(ids.max()))
        header.set_data_dtype(kind)
        header["scl_slope"], header["scl_inter"] = 1, 0
        voxels = ids.astype(kind.newbyteorder(header.endianness)).tobytes(order="F")
        changes[Fix.IDS] = f"ids rounded to {kind}"
    between = volume.nifti.content[len(header.binaryblock) : offset]  # header extensions
    content = header.binaryblock + between + voxels
    with replacing(copy) as temporary:
        temporary.write_bytes(gzip.compress(content, 6) if copy.suffix.lower() == ".gz" else content)
    return changes


def _set_geometry(header: nib.Nifti1Header, volume: Volume) -> str:
    """Give qform, sform and voxel size one value: the geometry that is used, as exactly as a qform can hold it."""
    assert volume.nifti is not None
    form, affine = volume.nifti.form, volume.nifti.affine
    code = int(header[f"{form}_code"])
    header.set_qform(affine, code)
    header.set_sform(header.get_qform(), code)
    header["xyzt_units"] = int(header["xyzt_units"]) & ~SPACE_BITS | MILLIMETRE
    moved = corner_distance_mm(header.get_qform(), affine, volume.nifti.shape)
    return f"qform, sform and voxel size set to the {form}, in mm (corners move by {moved:.2g} mm)"
