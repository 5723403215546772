"""Registering one's own images, from files or arrays to a result that can be written: `bingo_pl.register`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from rich.console import Console

from bingo_pl import config as settings
from bingo_pl.batch import UNLABELLED, GroupBatch
from bingo_pl.errors import unknown_name
from bingo_pl.evaluation import appearance, uncertainty
from bingo_pl.files.affine import MODES, Stage, affine_stage
from bingo_pl.files.grids import Grid
from bingo_pl.files.scans import (
    File,
    Images,
    Scan,
    Source,
    as_pairs,
    check_dimensions,
    check_names,
    group_grid,
    names_of,
    read_scan,
)
from bingo_pl.registration.memory import check_memory
from bingo_pl.registration.registered import Registered, RegisteredGroup, on_grid
from bingo_pl.registration.telling import tell_grid, tell_overlap, track, warn_of_misfit, warn_of_name, warn_of_one
from bingo_pl.seeding import generator
from bingo_pl.training import ready_model
from bingo_pl.training.model import Model

REFINE = 20
"""Steps of refinement: seconds for a head, and better on all real images that were tried (docs/ready_model.md)."""
REFINED_UP_TO = {2: 64, 3: 16}
"""Slices or volumes of a group that is refined without being asked: it takes minutes on one core."""
UNCERTAINTY_SAMPLES = 10
"""Draws from the velocity posterior: each value is right within about 15 %."""


def register(
    images: Images,
    checkpoint: Path | str | None = None,
    *,
    masks: Mapping[str, Source] | None = None,
    labels: Mapping[str, Source] | None = None,
    affine: str = "auto",
    refine: int | None = None,
    device: str = "auto",
    console: Console | None = None,
) -> RegisteredGroup:
    """Register a group of images.

    Args:
        images: files, TorchIO images or (array, affine) tuples by their modality; a TorchIO subject whose images are
            named by it; or (modality, image) pairs, where there are several of one. Sizes, voxels and orientations may
            differ. The first one gives the group its orientation, and its place where others need an affine stage.
        checkpoint: of a trained method, which must know every modality; None for the ready model, which takes any.
        masks: foregrounds, by the images' names: the modality, or t2_2 for the second image of t2.
        labels: label maps that are registered with their images, by the images' names.
        affine: ``auto``, ``always`` or ``never``, see `bingo_pl.files.affine`.
        refine: steps of optimisation for this group after the network's result; 0 leaves that as it is. None: `REFINE`
            steps, or none for a group of more slices or volumes than `REFINED_UP_TO`.
        device: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        console: where progress is told; None for silence.

    Raises:
        BingoError: unusable images, an overlap that stays poor, modalities that the model does not know.
    """
    console = console or Console(quiet=True)
    if affine not in MODES:
        raise unknown_name("affine stage", affine, MODES)
    pairs, masks, labels = as_pairs(images), masks or {}, labels or {}
    names = names_of(modality for modality, _ in pairs)
    check_names("mask", masks, names)
    check_names("label map", labels, names)
    scans: list[Scan] = []
    digests: dict[Path, str] = {}
    for name, (modality, image) in track(list(zip(names, pairs, strict=True)), "reading", console):
        scans.append(read_scan(name, modality, image, masks.get(name), labels.get(name)))
        digests |= scans[-1].digests()
    path = None if checkpoint is None else Path(checkpoint)
    model = Model.load(path, scans[0].dims, [f"trainer.accelerator={device}"])
    model = model.refining(_steps(len(scans), model.dims, console) if refine is None else refine)
    file = File.of(model.path)
    if len(scans) == 1:
        warn_of_one(scans[0].title, console)
    for scan in scans:
        model.index(scan.modality)  # an unknown one is refused before the work begins
    check_dimensions(scans, model.dims)
    stages = [affine_stage(scans[0], scan, affine) for scan in track(scans, "aligning", console)]
    for scan, stage in list(zip(scans, stages, strict=True))[1:]:
        tell_overlap(scans[0], scan, stage, console)
    affines = [stage.affine for stage in stages]
    grid = group_grid(scans, affines, model.config.data.spacing_mm, model.dims, model.stride)
    check_memory(model, grid, len(scans))
    tell_grid(grid, scans[0].title, console)
    group = _register(scans, digests, stages, grid, model, file, console)
    for member in group.members.values():
        if member.belongs is False:
            warn_of_misfit(member.scan, console)
        if member.looks_like is not None:
            warn_of_name(member.scan, member.looks_like, console)
    return group


def _steps(images: int, dims: int, console: Console) -> int:
    """Of the refinement of a group, where nobody has said how many."""
    most = REFINED_UP_TO[dims]
    if images <= most:
        return REFINE
    kind = "slices" if dims == 2 else "volumes"
    console.print(
        f"the network's result is not refined: that takes long for more than {most} {kind}, here {images}. "
        f"--refine {REFINE} does it all the same",
        soft_wrap=True,
    )
    return 0


def _register(
    scans: Sequence[Scan],
    digests: Mapping[Path, str],
    stages: Sequence[Stage],
    grid: Grid,
    model: Model,
    file: File,
    console: Console,
) -> RegisteredGroup:
    batch = _to_batch(scans, stages, grid, model).to(model.device)
    reconstructs = ready_model.reconstructs(model.config)
    with torch.no_grad(), console.status("registering"):
        result = model.registrar(batch)
        pictures = model.registrar.explain(batch, result) if reconstructs else {}
    draws = generator("uncertainty", device=model.device)
    deviations = uncertainty.displacement_uncertainty(model.registrar, batch, result, UNCERTAINTY_SAMPLES, draws)
    disagreements = uncertainty.disagreement(model.registrar, batch, result)
    fits = None if disagreements is None else uncertainty.belongs(disagreements)
    unlike = appearance.unlikeness(model.registrar, batch, result) if reconstructs else None
    misnamings = None if unlike is None else appearance.misnaming(unlike, batch.modalities)
    likeliest = batch.modalities if unlike is None else appearance.looks_like(unlike, batch.modalities)
    members: dict[str, Registered] = {}
    template = np.zeros(grid.shape, np.float32)
    pairs = list(zip(scans, stages, strict=True))
    for i, (scan, stage) in enumerate(track(pairs, "resampling", console)):
        u, v = result.displacement[0, i].cpu(), result.inverse[0, i].cpu()
        named, like = int(batch.modalities[0, i]), int(likeliest[0, i])
        members[scan.name] = replace(
            Registered.of(scan, digests, stage, u, v, grid),
            reconstruction=on_grid(pictures["reconstruction"][0, i], grid) if "reconstruction" in pictures else None,
            uncertainty_mm=None if deviations is None else on_grid(deviations[0, i], grid),
            disagreement=None if disagreements is None else float(disagreements[0, i]),
            belongs=None if fits is None else bool(fits[0, i]),
            misnaming=None if misnamings is None else float(misnamings[0, i]),
            looks_like=None if like == named else model.config.data.modalities[like],
        )
        template += members[scan.name].unit(grid) / len(scans)
    return RegisteredGroup(members, grid, template, file, settings.to_tree(model.config))


def _to_batch(scans: Sequence[Scan], stages: Sequence[Stage], grid: Grid, model: Model) -> GroupBatch:
    """The group on its grid after the affine stage: intensities from 0 to 1, no labels, no truth."""
    shape = (len(scans), 1, *grid.shape[: model.dims])
    sampled = [scan.sampled(stage.affine, grid) for scan, stage in zip(scans, stages, strict=True)]
    images, masks = (torch.from_numpy(np.stack(each)).reshape(shape)[None] for each in zip(*sampled, strict=True))
    return GroupBatch(
        images=images,
        modalities=torch.tensor([[model.index(scan.modality) for scan in scans]]),
        masks=masks,
        labels=torch.full(images.shape, UNLABELLED, dtype=torch.int16),
        spacing=torch.tensor(grid.spacing[None, : model.dims], dtype=torch.float32),
        names=("group",),
    )
