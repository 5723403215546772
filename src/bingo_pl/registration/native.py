"""Registration at the images' own resolution: from scans to what `bingo_pl.alignment` works on, and back to files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from bingo_pl import config as settings
from bingo_pl.alignment.cascade import FINEST, Outcome, align
from bingo_pl.alignment.maps import Linear
from bingo_pl.alignment.similarity import Combined, Experts, Information, Similarity
from bingo_pl.alignment.transforms import Fields, fields_of
from bingo_pl.alignment.volume import Picture
from bingo_pl.errors import InputError
from bingo_pl.evaluation.uncertainty import hierarchical
from bingo_pl.images.affine import Stage, overlap
from bingo_pl.images.grids import Grid
from bingo_pl.images.scans import FEWEST_VOXELS, File, Scan, grid_around
from bingo_pl.images.slices import PARALLEL
from bingo_pl.memory import shortage
from bingo_pl.messages import doing
from bingo_pl.models.model import Model
from bingo_pl.registration.console import report_verdict, report_way, tell_grid
from bingo_pl.registration.findings import findings_of_aligned
from bingo_pl.registration.registered import Registered, RegisteredGroup
from bingo_pl.registration.verdict import Way, judge, known_errors

GRID_BYTES = 8.0
"""Of memory for each voxel of the group grid: the template and an image."""

OUT_OF_PLANE = 1e-3
"""Sine of the angle by which an initial transform may turn a slice."""


@dataclass(frozen=True, eq=False)
class Space:
    """The common space of a group, in which images are aligned: RAS mm, or mm in the plane of the first slice."""

    dims: int
    frame: NDArray[np.float64]
    """(4, 4) from the common space to RAS mm, a rotation and an offset."""

    @classmethod
    def of(cls, first: Scan) -> Space:
        if first.dims == 3:
            return cls(3, np.eye(4))
        frame = np.eye(4)
        frame[:3, :3] = first.grid.directions
        frame[:3, 3] = first.grid.affine[:3, 3]
        return cls(2, frame)

    def picture(self, scan: Scan) -> Picture:
        """The scan as alignment sees it.

        Raises:
            BingoError: a slice lies in another plane than the first one.
        """
        to_index = np.linalg.inv(scan.grid.affine) @ self.frame
        kept = [*range(self.dims), 3]
        if self.dims == 2 and abs(scan.grid.directions[:, 2] @ self.frame[:3, 2]) < PARALLEL:
            raise InputError(
                f"{scan.title}: this slice does not lie in the plane of the first one, so no map within a plane aligns "
                "them",
                "Correct its header, or give slices of one plane",
            )
        shape = scan.grid.shape[: self.dims]
        region = scan.mask.numpy()[0].reshape(shape) > 0 if scan.masked else None
        return Picture(scan.unit.numpy()[0].reshape(shape), region, to_index[: self.dims][:, kept])

    def to_image(self, linear: Linear, scan: Scan) -> NDArray[np.float64]:
        """(4, 4) RAS mm from the group to an image, of its linear map (of one image) in the common space.

        A slice is taken for as thick as needed: the planes of two slices of one place seldom are the same to the mm.
        """
        moved = np.eye(4)
        moved[: self.dims, : self.dims] = linear.matrix[0].double().numpy()
        moved[: self.dims, 3] = linear.offset[0].double().numpy()
        back = np.linalg.inv(self.frame)
        if self.dims == 3:
            return moved
        to_index = np.linalg.inv(scan.grid.affine) @ self.frame
        to_index[2] = [0, 0, np.sign(to_index[2, 2]) / scan.grid.spacing[2], 0]
        to_index[:2, 2] = 0
        whole: NDArray[np.float64] = scan.grid.affine @ to_index @ moved @ back
        return np.eye(4) if np.allclose(whole, np.eye(4), atol=1e-6) else whole

    def grid(self, fields: Fields, thickness_mm: float) -> Grid:
        """Where the displacements of a group are."""
        affine = np.eye(4)
        affine[: self.dims, : self.dims] = fields.to_mm[:, :-1]
        affine[: self.dims, 3] = fields.to_mm[:, -1]
        affine[2, 2] = affine[2, 2] if self.dims == 3 else thickness_mm
        x, y, z = (*fields.displacement.shape[2:], 1)[:3]
        return Grid((x, y, z), self.frame @ affine)


def register_natively(
    scans: Sequence[Scan],
    digests: Mapping[Path, str],
    transform: str,
    reference: str | None,
    initial: Mapping[str, NDArray[np.float64]],
    spacing_mm: float | None,
    like: Grid | None,
    model: Model,
    console: Console,
) -> RegisteredGroup:
    """Align the scans at their own resolution, by the model's experts; see `bingo_pl.register`.

    Args:
        scans: the images.
        digests: of their files.
        transform: ``auto`` or the last stage.
        reference: the name of an image that is held still; None: none.
        initial: (4, 4) RAS mm, group to image, by the names of those images that have one.
        spacing_mm: of the group grid; None: the finest voxel of the group.
        like: the group grid; None: one around the images.
        model: whose experts compare the images.
        console: where progress is reported.

    Raises:
        BingoError: slices in different planes, or a grid that does not fit in memory.
    """
    with doing("aligning", console) as begin:
        outcome, space = align_scans(scans, model, transform, reference, initial, begin)
    way = Way.of(outcome)
    report_way(way, [scan.name for scan in scans], known_errors(outcome), console)

    def grid_of(affines: list[NDArray[np.float64]]) -> Grid:
        found = native_grid(scans, affines, spacing_mm) if like is None else like
        found.fitting(GRID_BYTES, "the grid of the registered images", "Give a larger spacing")
        tell_grid(found, scans[0].title, console)
        return found

    with doing("resampling", console):
        members, grid = place_scans(scans, digests, outcome, space, grid_of)
        members = findings_of_aligned(members, model, outcome.plan.coarse_mm)
    verdict = judge(scans, outcome, [member.belongs for member in members.values()])
    report_verdict(verdict, console)
    return RegisteredGroup(members, grid, File.of(model.path), settings.to_tree(model.config), way, verdict)


def align_scans(
    scans: Sequence[Scan],
    model: Model,
    transform: str,
    reference: str | None,
    initial: Mapping[str, NDArray[np.float64]],
    tell: Callable[[str], None],
) -> tuple[Outcome, Space]:
    """Align a group of scans; see `bingo_pl.alignment.cascade.align`.

    Args:
        scans: the images.
        model: whose experts compare them; a method without experts compares by mutual information.
        transform: ``auto`` or the last stage.
        reference: the name of an image that is held still; None: none.
        initial: (4, 4) RAS mm, group to image, by the names of those images that have one.
        tell: called with the stage that is at work.

    Raises:
        BingoError: slices in different planes, or initial transforms that lead out of the plane or away.
    """
    space = Space.of(scans[0])
    pictures = [space.picture(scan).thinned(FINEST) for scan in scans]
    names = [scan.name for scan in scans]
    start = _start_of(scans, initial, space) if initial else None
    held = None if reference is None else names.index(reference)
    modalities = [model.index(scan.modality) for scan in scans]
    outcome = align(pictures, modalities, similarity_of(model), transform, held, start, tell)
    return outcome, space


def _start_of(scans: Sequence[Scan], initial: Mapping[str, NDArray[np.float64]], space: Space) -> Linear:
    """Where alignment starts in the common space; images that have no initial transform, as their headers have them.

    Raises:
        BingoError: an initial transform turns a slice out of its plane, or away from the first image.
    """
    given = [np.linalg.inv(space.frame) @ initial.get(scan.name, np.eye(4)) @ space.frame for scan in scans]
    for scan, matrix in zip(scans, given, strict=True):
        if space.dims == 2 and max(np.abs(matrix[2, :2]).max(), np.abs(matrix[:2, 2]).max()) > OUT_OF_PLANE:
            raise InputError(
                f"{scan.title}: its initial transform turns it out of the plane of the slices", "Give one within it"
            )
    matrices, offsets = zip(*((m[: space.dims, : space.dims], m[: space.dims, 3]) for m in given), strict=True)
    start = Linear(torch.tensor(np.stack(matrices)).float(), torch.tensor(np.stack(offsets)).float())
    first, *others = [space.to_image(start.of(i), scan) for i, scan in enumerate(scans)]
    for scan, affine in zip(scans[1:], others, strict=True):
        if {scan.name, scans[0].name} & initial.keys() and not overlap(scans[0], scan, affine @ np.linalg.inv(first)):
            raise InputError(
                f"{scan.title}: by the initial transforms, nothing of it lies on {scans[0].title}",
                "They take points of the group to points of an image, in LPS mm: perhaps the inverse is meant",
            )
    return start


def similarity_of(model: Model) -> Similarity:
    """The model's experts; of a method that has none, mutual information."""
    bingo = hierarchical(model.registrar)
    return Combined([(Information(), 1.0)]) if bingo is None else Experts(bingo)


def place_scans(
    scans: Sequence[Scan],
    digests: Mapping[Path, str],
    outcome: Outcome,
    space: Space,
    grid_of: Callable[[list[NDArray[np.float64]]], Grid],
) -> tuple[dict[str, Registered], Grid]:
    """Move the scans as they were aligned, each resampled once.

    Args:
        scans: the images.
        digests: of their files.
        outcome: of `align_scans`.
        space: of the group.
        grid_of: gives the group's grid for the linear maps of its images, (4, 4) RAS mm each.

    Returns:
        By name; and the grid.
    """
    fields = fields_of(outcome.maps)
    affines = [space.to_image(outcome.maps.linear.of(i), scan) for i, scan in enumerate(scans)]
    grid = grid_of(affines)
    field_grid = grid if fields is None else space.grid(fields, scans[0].grid.spacing[2])
    members = {}
    errors = known_errors(outcome)
    for i, (scan, affine) in enumerate(zip(scans, affines, strict=True)):
        relative = affine @ np.linalg.inv(affines[0])
        stage = Stage(affine, overlap(scans[0], scan, np.eye(4)), overlap(scans[0], scan, relative), i > 0)
        if fields is None:
            registered = Registered.linear(scan, digests, stage, grid)
        else:
            registered = Registered.of(
                scan, digests, stage, fields.displacement[i], fields.inverse[i], field_grid, grid
            )
        members[scan.name] = replace(registered, error_mm=errors[i], agreement=outcome.agreement[i])
    return members, grid


def check_spacing(scans: Sequence[Scan], spacing_mm: float) -> None:
    """Refuse, before the work, voxels of a group grid so small that not even one image fits in memory, or too large.

    Raises:
        BingoError: they are.
    """
    reach = sum(float((np.array(box.shape) * box.spacing)[: scans[0].dims].max()) for box in _boxes(scans))
    if reach < FEWEST_VOXELS * spacing_mm:  # side by side they would reach so far
        raise InputError(f"voxels of {spacing_mm:g} mm would leave nothing of the images", "Give a smaller spacing")
    for scan, box in zip(scans, _boxes(scans), strict=True):
        voxels = float(np.prod(np.array(box.shape[: scan.dims]) * box.spacing[: scan.dims] / spacing_mm))
        if short := shortage(GRID_BYTES * voxels):
            raise InputError(
                f"{scan.title} with voxels of {spacing_mm:g} mm: at least {short}", "Give a larger spacing"
            )


def _boxes(scans: Sequence[Scan]) -> list[Grid]:
    return [scan.foreground_box() for scan in scans]


def native_grid(scans: Sequence[Scan], affines: Sequence[NDArray[np.float64]], spacing_mm: float | None) -> Grid:
    """The grid that a group is written on.

    It lies along the axes of the first image, around the foregrounds of all. Along each axis its voxels are as fine as
    those of the image that is finest there, so that none loses detail; or all are of ``spacing_mm``.

    Raises:
        BingoError: it does not fit in memory, or voxels of ``spacing_mm`` are as large as the images.
    """
    dims = scans[0].dims
    voxel_mm = np.full(3, spacing_mm or np.inf)
    first = scans[0].grid if dims == 2 else scans[0].grid.canonical()
    if spacing_mm is None:
        for scan in scans:
            towards = np.abs(first.directions.T @ scan.grid.directions)  # axes of the first by axes of this one
            voxel_mm = np.minimum(voxel_mm, scan.grid.spacing[towards.argmax(1)])
    boxes = _boxes(scans)
    if spacing_mm is None:
        return grid_around(first, boxes, affines, voxel_mm[:dims], dims, stride=1)
    grid = grid_around(first, boxes, affines, voxel_mm[:dims], dims, 1, "Give a larger spacing")
    if max(grid.shape) < FEWEST_VOXELS:
        raise InputError(f"of the images, {grid} would be left", "Give a smaller spacing")
    return grid
