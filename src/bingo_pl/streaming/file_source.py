"""A group of image files that are read when they are asked for, each resampled onto the group grid."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from bingo_pl.errors import BingoError
from bingo_pl.images.affine import Stage, affine_stage
from bingo_pl.images.grids import Grid
from bingo_pl.images.members import Member
from bingo_pl.images.reading import read_voxels
from bingo_pl.images.scans import Scan, check_dimensions, grid_around, read_scan
from bingo_pl.models.model import Model
from bingo_pl.storage import resumable
from bingo_pl.storage.regular import exists
from bingo_pl.streaming.stream import StreamedImage


@dataclass(frozen=True, eq=False)
class Placement:
    """Where an image lies, found once so that its voxels need not stay in memory."""

    stage: Stage
    box: Grid
    """Its foreground's."""

    def to_tree(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "stage": asdict(self.stage) | {"affine": self.stage.affine.tolist()},
            "box": {"shape": self.box.shape, "affine": self.box.affine.tolist()},
        }

    @classmethod
    def from_tree(cls, tree: dict[str, Any]) -> Placement:
        """What `to_tree` gave."""
        stage, box = tree["stage"], tree["box"]
        x, y, z = box["shape"]
        return cls(
            Stage(**stage | {"affine": np.array(stage["affine"])}), Grid((x, y, z), np.array(box["affine"], float))
        )


def place(
    members: Sequence[Member], model: Model, mode: str, folder: Path, positions: Iterable[int] | None = None
) -> tuple[list[Placement], Grid]:
    """The affine stage of each image and the group grid, as `bingo_pl.register` finds them, an image at a time.

    Args:
        members: the files.
        model: which registers them.
        mode: of the affine stage, see `bingo_pl.images.affine`.
        folder: what is found is kept here, a file an image; of files that did not change it is not looked for again.
        positions: 0 to N - 1, wrapped so as to show progress; None shows none.

    Raises:
        BingoError: an unusable image, one that the model does not know, or an overlap that stays poor.
    """
    for member in members:
        model.index(member.modality)  # an unknown one is refused before the work begins
    first = _read(members[0], model.dims)
    placements = []
    for position in range(len(members)) if positions is None else positions:
        path = folder / f"{position}.json"
        key = [mode, identity(members[0]), identity(members[position])]
        kept = resumable.read_json(path) if path.exists() else {"key": None}
        with resumable.understood(path):
            known = kept["key"] == key
        if not known:
            scan = _read(members[position], model.dims) if position else first
            found = Placement(affine_stage(first, scan, mode), scan.foreground_box())
            kept = {"key": key, **found.to_tree()}
            resumable.write_json(path, kept)
        with resumable.understood(path):
            placements.append(Placement.from_tree(kept))
    stages = [placement.stage.affine for placement in placements]
    boxes = [placement.box for placement in placements]
    spacing_mm = model.config.data.spacing_mm
    try:
        return placements, grid_around(first.grid, boxes, stages, spacing_mm, model.dims, model.stride)
    except BingoError:
        shutil.rmtree(folder, ignore_errors=True)  # nothing can be resumed from placements that give no grid
        raise


class FileSource:
    """Image files as a group to be streamed.

    Args:
        members: the files; label maps are not read.
        model: which registers them.
        grid: of the group.
        stages: (4, 4) RAS mm for each image, from the group to the image; see `place`.

    Raises:
        BingoError: a modality that the model does not know; an image is unusable, when it is asked for.
    """

    def __init__(self, members: Sequence[Member], model: Model, grid: Grid, stages: Sequence[NDArray]) -> None:
        self.members = tuple(members)
        self.modalities = [model.index(member.modality) for member in members]
        self.dims = model.dims
        self.grid = grid
        self.stages = tuple(stages)

    @classmethod
    def unplaced(cls, members: Sequence[Member], model: Model) -> Self:
        """The group as far as the first image tells: its foreground's grid, no affine stages. For estimates."""
        first = _read(members[0], model.dims)
        stages = [np.eye(4)] * len(members)
        box = first.foreground_box()
        grid = grid_around(first.grid, [box], stages[:1], model.config.data.spacing_mm, model.dims, model.stride)
        return cls(members, model, grid, stages)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, member: int) -> StreamedImage:
        image, mask = _read(self.members[member], self.dims).sampled(self.stages[member], self.grid)
        shape = (1, *self.grid.shape[: self.dims])
        return StreamedImage(
            torch.from_numpy(image).reshape(shape), self.modalities[member], torch.from_numpy(mask).reshape(shape)
        )

    def identity(self, member: int) -> str:
        return identity(self.members[member])


def identity(member: Member) -> str:
    """Path, size and modification time of an image and what belongs to it."""
    return ", ".join(f"{path} {_state(path)}" for path in member.files)


def dims_of(member: Member) -> int:
    """D of an image file; raises as `read_voxels`."""
    shape = read_voxels(member.image)[0].shape
    return 2 if shape[2] == 1 else 3


def _read(member: Member, dims: int) -> Scan:
    scan = read_scan(member.image.name, member.modality, member.image, member.mask, None)
    check_dimensions([scan], dims)
    return scan


def _state(path: Path) -> str:
    """A file that is gone is refused when it is read."""
    if not exists(path):
        return "missing"
    status = path.stat()
    return f"{status.st_size} bytes, {status.st_mtime_ns}"
