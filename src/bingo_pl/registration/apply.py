"""Further images, label maps and landmarks moved by a registration that was written. The command ``bingo apply``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from rich.console import Console

from bingo_pl.errors import BingoError, unknown_name
from bingo_pl.files.grids import Grid
from bingo_pl.files.landmarks import read_landmarks, write_landmarks
from bingo_pl.files.record import read_record
from bingo_pl.files.resampling import TEMPLATE, Member, map_points, pull_back, resample_image, resample_labels
from bingo_pl.files.transforms import write_image
from data_modules.reading import read_voxels

TEMPLATE_NAME = "template"
POINTS = (".csv", ".fcsv", ".json")


def apply(
    registration: Path,
    source: str,
    target: str,
    path: Path,
    output: Path,
    labels: bool,
    space: str | None,
    console: Console | None = None,
) -> Path:
    """Move a file from the space of one member of a group to that of another, in one interpolation.

    Args:
        registration: the folder that ``bingo register`` wrote.
        source: the member whose space the file is in, as it is named in ``registration.json``, or ``template``.
        target: the member to move it to, or ``template``; images get its own grid.
        path: an image, a label map or landmarks (``.csv``, ``.fcsv``, ``.mrk.json``).
        output: where the result goes, in the format of landmarks or as ``.nii.gz``.
        labels: the file is a label map: its ids and its dtype are kept.
        space: of landmarks, ``RAS`` or ``LPS``, where their file does not say it.
        console: where it is told how many landmarks lie outside the group grid; None for silence.

    Raises:
        BingoError: a missing or damaged registration, no such member, an unreadable file, an output that exists or has
            another format.
    """
    record = read_record(registration)
    grids = {TEMPLATE_NAME: record.group, **{entry.name: entry.grid for entry in record.entries}}
    for name in (source, target):
        if name not in grids:
            raise unknown_name("member", name, grids)
    if output.exists():
        raise BingoError(f"{output} exists. Name a file that does not, so that nothing is overwritten")
    members = {name: _member(registration, name) for name in (source, target)}
    if path.name.lower().endswith(POINTS):
        if labels:
            raise BingoError(f"{path} holds landmarks, not a label map; leave --labels out")
        landmarks = read_landmarks(path, space)
        in_group = map_points(landmarks.points_mm, members[source], TEMPLATE)
        _warn_of_outside(in_group, record.group, console or Console(quiet=True))
        moved = map_points(landmarks.points_mm, members[source], members[target])
        write_landmarks(landmarks.moved(moved), output)
        return output
    if space is not None:
        raise BingoError(f"--space {space} is for landmarks; {path} is no file of landmarks. Leave it out")
    if not output.name.lower().endswith(".nii.gz"):
        raise BingoError(f"{output}: images are written as .nii.gz. Name the output so")
    data, affine = read_voxels(path)
    image = Grid(data.shape, affine).to_sitk(data.astype(np.uint8) if data.dtype == bool else data)
    transform = pull_back(members[source], members[target])
    how = resample_labels if labels else resample_image
    result = sitk.GetArrayFromImage(how(image, transform, grids[target])).T
    write_image(result, grids[target], output)
    return output


def _warn_of_outside(points_mm: NDArray[np.float64], grid: Grid, console: Console) -> None:
    """Of points (P, 3) RAS mm in the group space."""
    indices = (points_mm - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    outside = int(((indices < -0.5) | (indices > np.array(grid.shape) - 0.5)).any(1).sum())
    if outside:
        console.print(
            f"[bold yellow]warning:[/] {outside} of {len(indices)} points lie outside the group grid, where nothing "
            "was registered: they move as its border does, less and less with their distance",
            soft_wrap=True,
        )


def _member(registration: Path, name: str) -> Member:
    return TEMPLATE if name == TEMPLATE_NAME else Member.read(registration / "transforms" / name)
