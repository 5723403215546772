"""Further images, label maps and landmarks moved by a registration that was written. The command ``bingo apply``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from bingo_pl.errors import FileError, InputError, unknown_name
from bingo_pl.images.geometry import corner_distance_mm
from bingo_pl.images.grids import Grid
from bingo_pl.images.landmarks import read_landmarks, write_landmarks
from bingo_pl.images.record import Record, read_record
from bingo_pl.images.resampling import (
    TEMPLATE,
    Member,
    check_interpolation,
    map_points,
    pull_back,
    resample_labels,
    resample_voxels,
    to_array,
)
from bingo_pl.images.transforms import write_image
from bingo_pl.messages import warn
from bingo_pl.storage.atomic import check_new_file, check_place

TEMPLATE_NAME = "template"
POINTS = (".csv", ".fcsv", ".json")


@dataclass(frozen=True)
class Applied:
    """A file that was moved."""

    path: Path
    """Where it is now."""
    arrived: bool
    """Something of it lies where it was moved to: an image or a label map is not all background there, a point was
    within the group grid."""


def apply(
    registration: Path | str,
    source: str,
    target: str,
    path: Path | str,
    output: Path | str,
    labels: bool = False,
    space: str | None = None,
    console: Console | None = None,
    interpolation: str | None = None,
    overwrite: bool = False,
) -> Applied:
    """Move a file from the space of one member of a group to that of another, in one interpolation.

    Args:
        registration: the folder that ``bingo register`` wrote.
        source: the member whose space the file is in, as it is named in ``registration.json``, or ``template``.
        target: the member to move it to, or ``template``; images get its own grid.
        path: an image, a label map or landmarks (``.csv``, ``.fcsv``, ``.mrk.json``).
        output: where the result goes, in the format of landmarks or as ``.nii.gz``.
        labels: the file is a label map: its ids are kept, and its dtype where that is an integer of 32 bits at most.
        space: of landmarks, ``RAS`` or ``LPS``, where their file does not say it.
        console: where it is reported that the file is not on the grid of ``source``, or that it or points of it lie
            outside; None: as `bingo_pl.errors.BingoWarning`.
        interpolation: of an image, see `bingo_pl.register`; None: linear.
        overwrite: replace the output where it is a file, but for ``path`` itself, what was registered and files
            of the registration.

    Raises:
        BingoError: a missing or damaged registration, no such member, an unreadable file, a label map with fractions,
            an output that exists, cannot be written, or has another format.
    """
    registration, path, output = Path(registration), Path(path), Path(output)
    check_interpolation(interpolation or "linear")
    if interpolation and (labels or path.name.lower().endswith(POINTS)):
        raise InputError(f"interpolation {interpolation} is for images: {path} is none", "Leave it out")
    if not overwrite:
        check_new_file(output)
    record = read_record(registration)
    if overwrite:
        _check_replaceable(output, path, record)
    grids = {TEMPLATE_NAME: record.group, **{entry.name: entry.grid for entry in record.entries}}
    for name in (source, target):
        if name not in grids:
            raise unknown_name("member", name, grids)
    console = console or Console(quiet=True)
    members = {name: read_member(registration, name) for name in (source, target)}
    if path.name.lower().endswith(POINTS):
        if labels:
            raise InputError(f"{path} holds landmarks, not a label map; leave labels out")
        suffix = next(suffix for suffix in POINTS if path.name.lower().endswith(suffix))
        if not output.name.lower().endswith(suffix):
            raise InputError(f"{output}: landmarks of {suffix} are written as {suffix}", "Name the output so")
        landmarks = read_landmarks(path, space)
        outside = _outside(map_points(landmarks.points_mm, members[source], TEMPLATE), record.group)
        write_landmarks(landmarks.moved(map_points(landmarks.points_mm, members[source], members[target])), output)
        _warn_of_outside(outside, console)
        return Applied(output, not len(outside) or not outside.all())
    if space is not None:
        raise InputError(f"space {space} is for landmarks; {path} is no file of landmarks", "Leave it out")
    if not output.name.lower().endswith(".nii.gz"):
        raise InputError(f"{output}: images are written as .nii.gz", "Name the output so")
    from bingo_pl.images.reading import read_voxels, stored_ids, whole_numbers  # torch, which points do not need

    data, affine = read_voxels(path)
    if labels:
        data = stored_ids(path, whole_numbers(path, data), data.dtype)
    else:
        _warn_of_labels(path, console)
    grid = Grid(data.shape, affine)
    _warn_of_grid(path, grid, source, grids, console)
    data = data.astype(np.uint8) if data.dtype == bool else data
    transform = pull_back(members[source], members[target])
    if labels:
        result = to_array(resample_labels(grid.to_sitk(data), transform, grids[target]))
    else:
        result = resample_voxels(data, grid, transform, grids[target], interpolation or "linear")
    write_image(result, grids[target], output)
    background = 0 if labels else np.float32(data.min())
    arrived = bool((result != background).any()) or (not labels and data.min() == data.max())
    if not arrived:
        _warn_of_nothing(path, output, target, console)
    return Applied(output, arrived)


def _warn_of_labels(path: Path, console: Console) -> None:
    """A label map that is moved as an image is interpolated between its ids."""
    from bingo_pl.images.naming import role_of

    if (role := role_of(path)) in ("label", "mask"):
        warn(
            f"{path}: by its name a {role}, but moved as an image, between whose values is interpolated. If it is one, "
            "move it as labels",
            console,
        )


def _check_replaceable(output: Path, path: Path, record: Record) -> None:
    """Raises `BingoError` where a file to write is one to read, one that was registered, or no file."""
    originals = {file.resolve() for entry in record.entries for file in entry.files}
    if not output.exists() or not output.is_file() or output.is_symlink():
        check_new_file(output)
    elif output.samefile(path) or output.resolve().is_relative_to(record.folder.resolve()):
        raise FileError(f"{output} is read by this command and not overwritten", "Name another output")
    elif output.resolve() in originals:
        raise FileError(f"{output} was registered in {record.folder} and is not overwritten", "Name another output")
    check_place(output)


def _outside(points_mm: NDArray[np.float64], grid: Grid) -> NDArray[np.bool_]:
    """Which of points (P, 3) RAS mm lie outside a grid."""
    indices = (points_mm - grid.affine[:3, 3]) @ np.linalg.inv(grid.affine[:3, :3]).T
    outside: NDArray[np.bool_] = np.any((indices < -0.5) | (indices > np.array(grid.shape) - 0.5), axis=1)
    return outside


def _warn_of_outside(outside: NDArray[np.bool_], console: Console) -> None:
    if outside.any():
        warn(
            f"{outside.sum()} of {len(outside)} points lie outside the group grid, where nothing was registered: they "
            "move as its border does, less and less with their distance",
            console,
        )


def _warn_of_grid(path: Path, grid: Grid, source: str, grids: Mapping[str, Grid], console: Console) -> None:
    """A file may have voxels of its own, but most often it was given with the wrong member."""
    if _same(grid, grids[source]):
        return
    others = [name for name, other in grids.items() if _same(grid, other)]
    found = f"but on that of {' and '.join(others)}" if others else f"which has {grids[source]}"
    warn(
        f"{path}, {grid}, is not on the grid of {source}, {found}. If it does not show what {source} shows, "
        "in the same place, the result is wrong: name the member whose space it is in",
        console,
    )


def _same(grid: Grid, other: Grid) -> bool:
    """Up to half a voxel."""
    if grid.shape != other.shape:
        return False
    return corner_distance_mm(grid.affine, other.affine, grid.shape) <= other.spacing.min() / 2


def _warn_of_nothing(path: Path, output: Path, target: str, console: Console) -> None:
    warn(
        f"{output} is all background: nothing of {path} lies on the grid of {target}. Was it given with the "
        "member whose space it is in, and is its header right?",
        console,
    )


def read_member(registration: Path, name: str) -> Member:
    """How a member of a written registration, or ``template``, lies to the group."""
    return TEMPLATE if name == TEMPLATE_NAME else Member.read(registration / "transforms" / name)
