"""Registering a series, the volumes of one 4D image, at its own resolution.

A stack of few slices is registered slice by slice, each in its plane: such slices are acquired one after the other, in
breaths of their own, and of motion through them so few show nothing. The maps of its slices are then one displacement
of the volume.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from bingo_pl import config as settings
from bingo_pl.alignment.cascade import FINEST, Outcome, Stage
from bingo_pl.alignment.optimisation import KINDS
from bingo_pl.alignment.series import align_series
from bingo_pl.alignment.volume import Picture
from bingo_pl.images.affine import Stage as Placed
from bingo_pl.images.affine import overlap
from bingo_pl.images.grids import Grid
from bingo_pl.images.scans import File, Scan
from bingo_pl.images.series import Series
from bingo_pl.messages import doing
from bingo_pl.models.model import Model
from bingo_pl.registration.console import report_verdict, report_way, tell_grid
from bingo_pl.registration.native import GRID_BYTES, Space, native_grid, place_scans, similarity_of
from bingo_pl.registration.registered import Registered, RegisteredGroup
from bingo_pl.registration.verdict import Way, judge_series

FEW_SLICES = 12
"""Of a stack; up to so many are registered each in its plane."""
NODE = 2.0
"""Voxels at which slices were compared, between the nodes at which their maps are written."""


@dataclass(frozen=True, eq=False)
class Aligned:
    """What alignment found for a series, whole or in its slices."""

    outcomes: Sequence[Outcome]
    """One, or one for each slice that shows something."""
    error_mm: Sequence[float]
    """Of each image, RMS over slices."""
    agreement: Sequence[float]
    unexplained: Sequence[float] | None
    way: Way

    @classmethod
    def of(cls, outcomes: Sequence[Outcome]) -> Aligned:
        errors = np.sqrt(np.mean([np.square(outcome.error_mm) for outcome in outcomes], 0))
        agreement = np.mean([outcome.agreement for outcome in outcomes], 0)
        unexplained = [outcome.unexplained for outcome in outcomes if outcome.unexplained is not None]
        kept = max((outcome.kept for outcome in outcomes), key=("identity", *KINDS).index)
        stages = [_merged(each) for each in zip(*(outcome.stages for outcome in outcomes), strict=True)]
        way = Way(kept, stages, ["headers"] * len(errors), outcomes[0].plan.fine_mm)
        left = np.mean(unexplained, 0).tolist() if unexplained else None
        return cls(outcomes, errors.tolist(), agreement.tolist(), left, way)


def slices_apart(shape: Sequence[int]) -> bool:
    """Whether the slices of volumes of these sizes are registered each in its plane, by a model of slices."""
    return shape[2] <= FEW_SLICES


def register_series(
    series: Series,
    scans: Sequence[Scan],
    digests: Mapping[Path, str],
    transform: str,
    reference: str | None,
    spacing_mm: float | None,
    like: Grid | None,
    model: Model,
    console: Console,
) -> RegisteredGroup:
    """Align the volumes of a series; see `bingo_pl.register`.

    Args:
        series: whose volumes they are.
        scans: the volumes, all on one grid.
        digests: of their files.
        transform: ``auto`` or the last stage.
        reference: the name of a volume that is held still; None: none.
        spacing_mm: of the group grid; None: the series' own grid.
        like: the group grid; None: as ``spacing_mm`` says.
        model: whose experts compare them; one of slices registers volumes slice by slice.
        console: where progress is reported.

    Raises:
        BingoError: a grid that does not fit in memory.
    """
    held = None if reference is None else series.names.index(reference)
    modality, similarity = model.index(series.modality), similarity_of(model)

    def align(pictures: Sequence[Picture], tell: Callable[[str], None]) -> Outcome:
        return align_series(pictures, modality, similarity, transform, held, tell)

    def grid_of(affines: list[NDArray[np.float64]]) -> Grid:
        own = scans[0].grid if spacing_mm is None else native_grid(scans, affines, spacing_mm)
        found = own if like is None else like
        found.fitting(GRID_BYTES, "the grid of the registered images", "Give a larger spacing")
        tell_grid(found, scans[0].title, console)
        return found

    space = Space.of(scans[0])
    planar = model.dims == 2 and scans[0].dims == 3
    with doing("aligning", console) as begin:
        if planar:
            chosen = [z for z in range(scans[0].grid.shape[2]) if _shows(scans, z)]
            outcomes = [
                align(_slices(scans, z), lambda text, z=z: begin(f"slice {z}: {text}"))  # type: ignore[misc]
                for z in chosen
            ]
        else:
            outcomes = [align([space.picture(scan).thinned(FINEST) for scan in scans], begin)]
    aligned = Aligned.of(outcomes)
    report_way(aligned.way, series.names, aligned.error_mm, console)
    with doing("placing the images", console):
        if planar:
            members, grid = _place_slices(scans, digests, dict(zip(chosen, outcomes, strict=True)), grid_of)
        else:
            members, grid = place_scans(scans, digests, outcomes[0], space, grid_of)
    verdict, belongs = judge_series(scans, aligned.error_mm, aligned.agreement, aligned.unexplained, outcomes[0].plan)
    found = {
        name: replace(member, belongs=fits, error_mm=error, agreement=agreement)
        for (name, member), fits, error, agreement in zip(
            members.items(), belongs, aligned.error_mm, aligned.agreement, strict=True
        )
    }
    report_verdict(verdict, console)
    way, model_file = aligned.way, File.of(model.path)
    return RegisteredGroup(found, grid, model_file, settings.to_tree(model.config), way, verdict, series)


def _shows(scans: Sequence[Scan], z: int) -> bool:
    """Whether there is anything in a slice by which it could be registered."""
    return any(float(scan.unit.numpy()[0, :, :, z].std()) > 0 and scan.mask.numpy()[0, :, :, z].any() for scan in scans)


def _slices(scans: Sequence[Scan], z: int) -> list[Picture]:
    """One slice of each volume, in mm along the axes of its pixels."""
    to_index = np.diag(1 / scans[0].grid.spacing[:2]) @ np.eye(2, 3)
    pictures = []
    for scan in scans:
        region = scan.mask.numpy()[0, :, :, z] > 0 if scan.masked else None
        pictures.append(Picture(np.ascontiguousarray(scan.unit.numpy()[0, :, :, z]), region, to_index))
    return pictures


def _place_slices(
    scans: Sequence[Scan],
    digests: Mapping[Path, str],
    outcomes: Mapping[int, Outcome],
    grid_of: Callable[[list[NDArray[np.float64]]], Grid],
) -> tuple[dict[str, Registered], Grid]:
    """Volumes moved by the maps of their slices, each within its plane; slices without one stay."""
    own = scans[0].grid
    grid = grid_of([np.eye(4)] * len(scans))
    step = max(round(NODE * next(iter(outcomes.values())).plan.fine_mm / own.spacing[:2].max()), 1)
    x, y = (-(-(size - 1) // step) + 1 for size in own.shape[:2])
    field = own.part(np.zeros(3), np.array([step, step, 1]), (x, y, own.shape[2]))
    node_mm = torch.from_numpy(field.spacing[:2]).float()
    nodes = torch.stack(torch.meshgrid(torch.arange(x), torch.arange(y), indexing="ij"), -1).flatten(0, 1) * node_mm
    displacement, inverse = (torch.zeros(len(scans), 3, *field.shape) for _ in range(2))
    for z, outcome in outcomes.items():
        with torch.no_grad():
            moved = outcome.maps(nodes), outcome.maps.inverse(nodes)
        for values, points in zip((displacement, inverse), moved, strict=True):
            values[:, :2, :, :, z] = ((points - nodes) / node_mm).transpose(1, 2).unflatten(2, (x, y))
    members = {}
    for i, scan in enumerate(scans):
        shared = overlap(scans[0], scan, np.eye(4))
        stage = Placed(np.eye(4), shared, shared, False)
        members[scan.name] = Registered.of(scan, digests, stage, displacement[i], inverse[i], field, grid)
    return members, grid


def _merged(stages: Sequence[Stage]) -> Stage:
    """A stage of all slices."""
    if len(stages) == 1:
        return stages[0]
    kept = [stage for stage in stages if stage.kept]
    moved = float(np.sqrt(np.mean([stage.moved_mm**2 for stage in stages])))
    before, after = np.mean([stage.edges for stage in stages], 0).tolist()
    why = f"in {len(kept)} of {len(stages)} slices; {(kept or stages)[0].why}"
    return Stage(stages[0].kind, moved, stages[0].needed_mm, (before, after), bool(kept), why)
