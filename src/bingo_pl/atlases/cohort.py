"""The images of people who differ, whom each shows, and where alignment put them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from bingo_pl.alignment.features import Subject, Template
from bingo_pl.alignment.population import Gathered
from bingo_pl.alignment.transforms import Centred, Fields, fields_of, read_field
from bingo_pl.alignment.volume import Picture
from bingo_pl.atlases.centring import label_ids_of
from bingo_pl.atlases.pooling import View, view
from bingo_pl.errors import InputError
from bingo_pl.images.affine import Stage, overlap
from bingo_pl.images.grids import Grid
from bingo_pl.images.members import Member
from bingo_pl.images.record import sha256_of
from bingo_pl.images.scans import Scan, check_dimensions, read_scan
from bingo_pl.memory import shortage
from bingo_pl.models.model import Model
from bingo_pl.registration.console import track
from bingo_pl.registration.native import Space
from bingo_pl.registration.registered import Registered

BYTES = 60
"""Of memory for each voxel of an image: itself, its mask, its gradients, its experts."""


@dataclass(frozen=True, eq=False)
class Cohort:
    """The images of a population, in the manifest's order, and whom each shows."""

    scans: Sequence[Scan]
    digests: Sequence[Mapping[Path, str]]
    people: Mapping[str, Sequence[int]]
    """The numbers of each subject's images, in an order that does not depend on the manifest's."""
    label_ids: tuple[int, ...]
    """Background first."""
    space: Space

    @classmethod
    def read(cls, members: Sequence[Member], names: Sequence[str], model: Model, console: Console) -> Cohort:
        """Read all images.

        Raises:
            BingoError: unusable images, images of a subject that lie apart, or more than fit in memory.
        """
        _check_apart(members, names)
        scans: list[Scan] = []
        voxels = 0
        for name, member in track(list(zip(names, members, strict=True)), "reading", console):
            scan = read_scan(name, member.modality, member.image, member.mask, member.label)
            check_dimensions([scan], model.dims)
            voxels += int(np.prod(scan.grid.shape))
            if short := shortage(BYTES * voxels * len(members) / (len(scans) + 1)):
                raise InputError(
                    f"these {len(members)} images take {short}", "Give memory, e.g. 4GB, which streams them"
                )
            scans.append(scan)
        digests = [scan.digests() for scan in scans]
        people: dict[str, list[int]] = {}
        for i, (member, name) in enumerate(zip(members, names, strict=True)):
            people.setdefault(f"subject {member.subject}" if member.subject else f"image {name}", []).append(i)

        def content(i: int) -> tuple[str, str]:
            return sha256_of(members[i].image), members[i].modality

        for images in people.values():
            images.sort(key=content)
        ordered = dict(sorted(people.items(), key=lambda one: [content(i) for i in one[1]]))
        for person, images in ordered.items():
            for i in images[1:]:
                if not overlap(scans[images[0]], scans[i], np.eye(4)):
                    raise InputError(
                        f"{scans[i].title}: nothing of it lies on {scans[images[0]].title}, though both show {person}",
                        "Register the images of a subject before, or correct the headers",
                    )
        first = scans[next(iter(ordered.values()))[0]]
        ids = {member.label or member.image: _ids(scan) for member, scan in zip(members, scans, strict=True)}
        return cls(scans, digests, ordered, label_ids_of(ids), Space.of(first))

    def subjects(self, model: Model) -> list[Subject]:
        """As alignment sees them.

        Raises:
            BingoError: a slice lies in another plane than the first one.
        """
        return [self.subject([self.scans[i] for i in images], model) for images in self.people.values()]

    def subject(self, scans: Sequence[Scan], model: Model) -> Subject:
        """A person of some images."""
        pictures: list[Picture] = [self.space.picture(scan) for scan in scans]
        return Subject(pictures, [model.index(scan.modality) for scan in scans], [scan.modality for scan in scans])

    def owners(self) -> list[int]:
        """Each image's subject, by its number."""
        owner = {i: number for number, images in enumerate(self.people.values()) for i in images}
        return [owner[i] for i in range(len(self.scans))]


@dataclass(frozen=True, eq=False)
class Placed:
    """A cohort where alignment put it."""

    cohort: Cohort
    gathered: Gathered
    centred: Centred | None
    """Of each subject; None where nothing is deformed."""
    affines: list[NDArray[np.float64]]
    """(4, 4) RAS mm, from the atlas to each image."""
    owners: list[int]

    @classmethod
    def of(cls, cohort: Cohort, gathered: Gathered) -> Placed:
        """Centre the displacements; the linear maps are centred already."""
        fields = fields_of(gathered.maps)
        owners, linear = cohort.owners(), gathered.maps.linear
        affines = [
            cohort.space.to_image(linear.of(owner), scan) for owner, scan in zip(owners, cohort.scans, strict=True)
        ]
        return cls(cohort, gathered, None if fields is None else Centred.of(fields), affines, owners)

    def template(self) -> Template:
        """For newcomers."""
        return self.gathered.template(*([] if self.centred is None else [self.centred.corrected]))

    def displacement(self, subject: int, grid: Grid) -> Tensor:
        """(D, *S) in voxels of a grid."""
        fields = None if self.centred is None else self.centred.fields
        return on_grid(fields, subject, grid, self.cohort.space)

    def view(self, image: int, grid: Grid, deformed: bool) -> View:
        """An image on the grid, by its affine map alone or by all."""
        displacement = self.displacement(self.owners[image], grid)
        moved = displacement if deformed else torch.zeros_like(displacement)
        return view(self.cohort.scans[image], self.affines[image], grid, moved, self.cohort.label_ids, cubic=True)

    def registered(self, image: int, grid: Grid) -> Registered:
        """An image and its transforms."""
        scan, cohort = self.cohort.scans[image], self.cohort
        return register_scan(
            scan,
            cohort.digests[image],
            self.affines[image],
            None if self.centred is None else self.centred.fields,
            self.owners[image],
            cohort.space,
            grid,
            cohort.scans[next(iter(cohort.people.values()))[0]],
        )


def on_grid(fields: Fields | None, subject: int, grid: Grid, space: Space) -> Tensor:
    """The displacement of a subject, (D, *S) in voxels of a grid along the axes of the common space's plane."""
    shape = grid.shape[: space.dims]
    if fields is None:
        return torch.zeros(space.dims, *shape)
    to_common = np.linalg.inv(space.frame) @ grid.affine
    kept = [*range(space.dims), 3]
    matrix = torch.from_numpy(to_common[: space.dims][:, kept]).float()
    index = torch.stack(torch.meshgrid(*(torch.arange(float(size)) for size in shape), indexing="ij"))
    points = (matrix[:, :-1] @ index.flatten(1) + matrix[:, -1:]).T
    moved = read_field(fields.displacement[subject], fields.to_mm, points)
    return torch.linalg.solve(matrix[:, :-1], moved.T).reshape(space.dims, *shape)


def register_scan(
    scan: Scan,
    digests: Mapping[Path, str],
    affine: NDArray[np.float64],
    fields: Fields | None,
    subject: int,
    space: Space,
    grid: Grid,
    first: Scan,
) -> Registered:
    """An image with its transforms and, resampled once, on the atlas's grid.

    Args:
        scan: the image.
        digests: of its files.
        affine: (4, 4) RAS mm, from the atlas to the image.
        fields: of the group; None where nothing is deformed.
        subject: whose field is the image's.
        space: of the group.
        grid: of the atlas.
        first: image by which overlaps are stated.
    """
    stage = Stage(affine, overlap(first, scan, np.eye(4)), overlap(first, scan, affine), True)
    if fields is None:
        return Registered.linear(scan, digests, stage, grid)
    both = fields.displacement[subject], fields.inverse[subject]
    return Registered.of(scan, digests, stage, *both, space.grid(fields, scan.grid.spacing[2]), grid)


def _ids(scan: Scan) -> frozenset[int]:
    return frozenset[int]() if scan.label is None else frozenset(np.unique(scan.label).tolist())


def _check_apart(members: Sequence[Member], names: Sequence[str]) -> None:
    """Figures are stated by the subject's name, or the image's where it is a subject of its own."""
    alone = {name for member, name in zip(members, names, strict=True) if not member.subject}
    if both := sorted(alone & {member.subject for member in members}):
        raise InputError(
            f"'{both[0]}' is a subject, and what an image that names no subject is called",
            "Rename the subject, or name the subject of each image",
        )
