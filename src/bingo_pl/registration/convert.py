"""Maps between members of a registered group in the formats of FSL and FreeSurfer. The command ``bingo convert``.

FSL counts millimetres from the corner of an image along its stored axes, the first of them backwards where an image is
stored from left to right (its affine has a positive determinant). A warp says, for each voxel of the reference, how far
the place that is read lies in such millimetres of the source.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from bingo_pl.errors import InputError, unknown_name
from bingo_pl.images.grids import LPS, Grid
from bingo_pl.images.record import Record, read_record
from bingo_pl.images.resampling import Member, map_points, pull_back
from bingo_pl.images.transforms import sampled_displacement, write_nifti
from bingo_pl.registration.apply import TEMPLATE_NAME, read_member
from bingo_pl.storage.atomic import check_new_file, replacing

FNIRT_DISPLACEMENTS = 2006
"""NIfTI's intent of FSL's relative displacements."""
LINEAR_MM = 1e-3
"""How far a map may be from linear within an image to be called so."""
LTA = """type      = 1
nxforms   = 1
mean      = 0.0000 0.0000 0.0000
sigma     = 1.0000
1 4 4
{matrix}
src volume info
{source}
dst volume info
{target}
"""
"""FreeSurfer's linear map from scanner RAS to scanner RAS."""


def convert(registration: Path | str, source: str, target: str, output: Path | str) -> Path:
    """Write what moves images of one member to another in another program's format, by the name of the output.

    ``.mat`` is FSL's matrix (``flirt -applyxfm -init``), ``.nii.gz`` FSL's warp on the grid of ``target``
    (``applywarp -w``), ``.lta`` FreeSurfer's linear map (``mri_vol2vol --lta``).

    Args:
        registration: the folder that ``bingo register`` wrote.
        source: the member whose images are moved, as it is named in ``registration.json``, or ``template``.
        target: the member to which they are moved, or ``template``.
        output: a file that does not exist.

    Returns:
        The file.

    Raises:
        BingoError: a missing or damaged registration, no such member, a map that is not linear for a format of linear
            ones, an output that exists, cannot be written, or has another ending.
    """
    registration, output = Path(registration), Path(output)
    writer = next((write for ending, write in WRITERS.items() if output.name.lower().endswith(ending)), None)
    if writer is None:
        raise InputError(f"{output}: the ending names the format, one of {', '.join(WRITERS)}", "Name the output so")
    check_new_file(output)
    record = read_record(registration)
    writer(_side(record, source), _side(record, target), output)
    return output


Side = tuple[Grid, Member, str]
"""Its own grid, how it lies to the group, and the name of its file."""


def _side(record: Record, name: str) -> Side:
    files = {entry.name: str(entry.path) for entry in record.entries} | {TEMPLATE_NAME: "template/mean.nii.gz"}
    grids = {entry.name: entry.grid for entry in record.entries} | {TEMPLATE_NAME: record.group}
    if name not in grids:
        raise unknown_name("member", name, grids)
    return grids[name], read_member(record.folder, name), files[name]


def linear_map(source: Side, target: Side) -> NDArray[np.float64]:
    """(4, 4) from RAS mm of the source to RAS mm of the target.

    Raises:
        BingoError: within the source's image it is not linear.
    """
    grid = source[0]
    corners = np.stack(np.meshgrid(*([-0.5, size - 0.5] for size in grid.shape), indexing="ij"), -1).reshape(-1, 3)
    inner = np.random.default_rng(0).uniform(-0.5, np.array(grid.shape) - 0.5, (200, 3))
    points = nib.affines.apply_affine(grid.affine, np.concatenate([corners, inner]))
    moved = map_points(points, source[1], target[1])
    homogeneous = np.column_stack([points, np.ones(len(points))])
    solution = np.linalg.lstsq(homogeneous, moved, rcond=None)[0]
    off_mm = float(np.linalg.norm(homogeneous @ solution - moved, axis=1).max())
    if off_mm > LINEAR_MM:
        raise InputError(
            f"the map is deformable, up to {off_mm:.2g} mm from a linear one, which is all that this format holds",
            "Write FSL's warp instead (.nii.gz), or register with the transform affine",
        )
    matrix = np.eye(4)
    matrix[:3] = solution.T
    return matrix


def fsl_axes(grid: Grid) -> NDArray[np.float64]:
    """(4, 4) from voxel indices to FSL's millimetres."""
    matrix = np.diag([*grid.spacing, 1.0])
    if np.linalg.det(grid.affine[:3, :3]) > 0:
        matrix[0, 0], matrix[0, 3] = -grid.spacing[0], (grid.shape[0] - 1) * grid.spacing[0]
    return matrix


def _write_flirt(source: Side, target: Side, path: Path) -> None:
    to_target = fsl_axes(target[0]) @ np.linalg.inv(target[0].affine)
    from_source = source[0].affine @ np.linalg.inv(fsl_axes(source[0]))
    matrix = to_target @ linear_map(source, target) @ from_source
    _write_text("".join(f"{_row(row)}\n" for row in matrix), path)


def _write_warp(source: Side, target: Side, path: Path) -> None:
    grid = target[0]
    moved_lps = sampled_displacement(pull_back(source[1], target[1]), grid)
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).astype(np.float64)
    places = nib.affines.apply_affine(grid.affine, index) + moved_lps @ LPS[:3, :3]
    to_source = fsl_axes(source[0]) @ np.linalg.inv(source[0].affine)
    field = nib.affines.apply_affine(to_source, places) - nib.affines.apply_affine(fsl_axes(grid), index)
    image = nib.Nifti1Image(field.astype(np.float32), grid.affine)
    image.header.set_intent(FNIRT_DISPLACEMENTS)
    write_nifti(image, path)


def _write_lta(source: Side, target: Side, path: Path) -> None:
    matrix = "\n".join(map(_row, linear_map(source, target)))
    _write_text(LTA.format(matrix=matrix, source=_volume_info(source), target=_volume_info(target)), path)


def _volume_info(side: Side) -> str:
    """How FreeSurfer describes a grid: its centre is that of the voxel with half as many indices."""
    grid, _, file = side
    centre = nib.affines.apply_affine(grid.affine, np.array(grid.shape) / 2)
    directions = grid.affine[:3, :3] / grid.spacing
    axes = [f"{name}ras   = {_row(axis)}" for name, axis in zip("xyz", directions.T, strict=True)]
    size, voxel = " ".join(map(str, grid.shape)), _row(grid.spacing)
    head = ["valid = 1  # volume info valid", f"filename = {file}", f"volume = {size}", f"voxelsize = {voxel}"]
    return "\n".join([*head, *axes, f"cras   = {_row(centre)}"])


def _row(values: NDArray[np.float64]) -> str:
    return " ".join(f"{value:.15e}" for value in values)


def _write_text(text: str, path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


WRITERS: dict[str, Callable[[Side, Side, Path], None]] = {
    ".mat": _write_flirt,
    ".nii.gz": _write_warp,
    ".lta": _write_lta,
}
"""By the ending of the file."""
