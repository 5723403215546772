"""The images of a population, put into one space without a preference for any of them.

Nothing here depends on the order in which they are given. They are aligned to one of them, that whose foreground has
the median volume, and the space is then moved to where the affine maps have the identity as their mean: the
bi-invariant mean of `bingo_pl.alignment.means`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape

from bingo_pl.alignment.means import centred_affines
from bingo_pl.atlases.pooling import BACKGROUND
from bingo_pl.errors import InputError
from bingo_pl.images.affine import Stage
from bingo_pl.images.grids import Grid
from bingo_pl.images.members import Member
from bingo_pl.images.record import sha256_of
from bingo_pl.images.scans import Scan, check_dimensions, describe, grid_around, read_scan
from bingo_pl.models.model import Model
from bingo_pl.registration.console import track, warn_of_copies
from bingo_pl.streaming.file_source import place
from bingo_pl.streaming.workspace import Plan, claim

MOST_LABELS = 256
"""More is an image that was taken for a label map."""


class Seen(NamedTuple):
    """What is kept of an image that was read."""

    member: Member
    row: int
    """In the manifest."""
    volume_mm: float
    """Of its foreground, mm^D."""
    digest: str
    """SHA-256 of the image."""
    label_ids: frozenset[int]


@dataclass(frozen=True, eq=False)
class Population:
    """The images, in an order of their own, and where they lie."""

    seen: tuple[Seen, ...]
    """The reference of the affine stage first."""
    stages: tuple[Stage, ...]
    """To the reference."""
    affines: tuple[NDArray[np.float64], ...]
    """(4, 4) RAS mm, from the atlas to each image."""
    grid: Grid
    """Of the atlas."""
    label_ids: tuple[int, ...]
    """`BACKGROUND` first, then those of all label maps."""

    @classmethod
    def of(cls, members: Sequence[Member], model: Model, mode: str, work: Path, console: Console) -> Population:
        """Read and align the images, one at a time.

        Args:
            members: the files.
            model: which registers them; it gives the voxels of the grid.
            mode: of the affine stage, see `bingo_pl.images.affine`.
            work: where a killed run resumes from.
            console: where progress is reported.

        Raises:
            BingoError: unusable images, an overlap that stays poor, affine maps without a mean, or a folder in use.
        """
        rows = track(range(len(members)), "reading", console)
        seen = _ordered([_see(members[row], row, model.dims) for row in rows])
        warn_of_copies(((str(one.member.image), one.digest) for one in seen), console)
        ordered = [one.member for one in seen]
        title = ordered[0].image
        console.print(
            f"aligning {len(ordered)} images to {escape(str(title))}, whose foreground has the median size",
            soft_wrap=True,
        )
        claim(work, Plan({"made by": "bingo atlas"}, []))
        positions = track(range(len(ordered)), "aligning", console)
        placements, _ = place(ordered, model, mode, work / "placements", positions)
        stages = tuple(placement.stage for placement in placements)
        _tell_overlaps(stages, ordered, console)
        label_ids = label_ids_of({one.member.label or one.member.image: one.label_ids for one in seen})
        affines = centred_affines([stage.affine for stage in stages])
        boxes = [placement.box for placement in placements]
        first = read(ordered[0]).grid
        grid = grid_around(first, boxes, affines, model.config.data.spacing_mm, model.dims, model.stride)
        console.print(f"atlas grid: {describe(grid)}", soft_wrap=True)
        return cls(
            tuple(seen),
            stages,
            tuple(affines),
            grid,
            label_ids,
        )

    def digest(self) -> str:
        """What tells the places of the images and the grid from any others."""
        return hashlib.sha256(np.stack([self.grid.affine, *self.affines]).tobytes()).hexdigest()[:16]

    @property
    def members(self) -> list[Member]:
        return [one.member for one in self.seen]

    @property
    def modalities(self) -> list[str]:
        return sorted({member.modality for member in self.members})

    @property
    def labelled(self) -> bool:
        return any(member.label is not None for member in self.members)


def read(member: Member) -> Scan:
    """An image with its mask and its label map."""
    return read_scan(member.image.name, member.modality, member.image, member.mask, member.label)


def _see(member: Member, row: int, dims: int) -> Seen:
    scan = read(member)
    check_dimensions([scan], dims)
    volume = scan.foreground_voxels * float(np.prod(scan.grid.spacing[:dims]))
    ids = frozenset[int]() if scan.label is None else frozenset(np.unique(scan.label).tolist())
    return Seen(member, row, round(volume, 3), sha256_of(member.image), ids)


def _ordered(seen: Sequence[Seen]) -> list[Seen]:
    """By size, the median first."""
    ordered = sorted(seen, key=lambda one: (one.volume_mm, one.digest, one.member.modality))
    return [ordered.pop(len(ordered) // 2), *ordered]


def label_ids_of(ids_of: Mapping[Path, Iterable[int]]) -> tuple[int, ...]:
    """`BACKGROUND`, then the ids of the label maps of all images.

    Args:
        ids_of: of each image's label map, by what names the image or its label map in messages.

    Raises:
        BingoError: so many that one of them must be an image.
    """
    ids = set[int]().union(*ids_of.values()) - {BACKGROUND}
    if len(ids) > MOST_LABELS:
        most = max(ids_of, key=lambda path: len(set(ids_of[path])))
        raise InputError(
            f"the label maps hold {len(ids)} ids, {most} the most of them; wanted {MOST_LABELS} at most",
            "Is an image named as a label map in the manifest?",
        )
    return (BACKGROUND, *sorted(ids))


def _tell_overlaps(stages: Sequence[Stage], members: Sequence[Member], console: Console) -> None:
    least, member = min(zip(stages, members, strict=True), key=lambda pair: pair[0].after)
    console.print(
        f"overlap with it: {np.mean([stage.before for stage in stages]):.0%} on average, "
        f"{np.mean([stage.after for stage in stages]):.0%} after the affine stage, at least {least.after:.0%} "
        f"({escape(str(member.image))})",
        soft_wrap=True,
    )
