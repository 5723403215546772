"""Registering one's own images, from files or arrays to a result that can be written: `bingo_pl.register`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from rich.console import Console

from bingo_pl import config as settings
from bingo_pl.device import isolated
from bingo_pl.errors import InputError, unknown_name
from bingo_pl.evaluation import uncertainty
from bingo_pl.images.affine import MODES, affine_stage
from bingo_pl.images.resampling import check_interpolation
from bingo_pl.images.scans import (
    File,
    Images,
    Scan,
    Source,
    as_pairs,
    check_dimensions,
    check_names,
    group_grid,
    names_of,
    read_grid,
    read_scan,
)
from bingo_pl.images.series import Values, named, unfold
from bingo_pl.images.transforms import read_linear
from bingo_pl.messages import Progress, doing, reporting, warn
from bingo_pl.models.model import Model
from bingo_pl.registration.choices import REFINE, REFINED_UP_TO, TRANSFORMS
from bingo_pl.registration.console import (
    called,
    tell_grid,
    tell_overlap,
    track,
    warn_of_copies,
    warn_of_misfit,
    warn_of_name,
    warn_of_one,
    warn_of_pixels,
)
from bingo_pl.registration.findings import to_batch, with_findings
from bingo_pl.registration.memory import check_memory
from bingo_pl.registration.native import check_spacing, register_natively
from bingo_pl.registration.registered import Registered, RegisteredGroup, on_grid
from bingo_pl.registration.series import register_series, slices_apart
from bingo_pl.seeding import generator

UNCERTAINTY_SAMPLES = 10
"""Draws from the velocity posterior: each value is right within about 15 %."""
Loader: TypeAlias = Callable[[int], Model]


@isolated()
@reporting
def register(
    images: Images,
    checkpoint: Path | str | Loader | None = None,
    *,
    masks: Mapping[str, Source] | None = None,
    labels: Mapping[str, Source] | None = None,
    transform: str | None = None,
    reference: str | None = None,
    initial: Mapping[str, Path | str] | None = None,
    spacing_mm: float | None = None,
    like: Source | None = None,
    values: Values | None = None,
    interpolation: str = "linear",
    affine: str | None = None,
    refine: int | None = None,
    device: str = "auto",
    console: Console | None = None,
    progress: Progress | None = None,
) -> RegisteredGroup:
    """Register a group of images at their own resolution.

    Args:
        images: by their modality, files, images of TorchIO, nibabel or SimpleITK, MONAI's ``MetaTensor`` or (array,
            affine) tuples; a TorchIO subject whose images are named by it; (modality, image) pairs, where there are
            several of one; or files whose names say it, e.g. ``patient1_t1.nii.gz``. Sizes, voxels and orientations
            may differ. The first one gives the group grid its axes.
        checkpoint: of a trained method, which must know every modality; None for the ready model, which takes any; or
            what gives a loaded one for D, as `bingo_pl.Model` does. Its experts are the similarity.
        masks: the parts of the images that are compared, by their names: the modality, or t2_2 for the second of t2.
        labels: label maps that are registered with their images, by the images' names.
        transform: one of `TRANSFORMS`. ``auto``: the simplest that the evidence speaks for, see
            `bingo_pl.alignment.cascade`; the others name the last stage. None: ``auto``, or ``network`` where
            ``affine`` or ``refine`` is given.
        reference: the name of an image that stays where it is; None: the group meets in its middle.
        initial: ITK transforms of points of the group to points of an image (LPS mm), from which these start.
        spacing_mm: voxel size of the group grid; None: the finest voxel of the group.
        like: an image whose grid the registered images get instead.
        values: what differs between the volumes of a 4D image, which is a group of its own: inversion times, b-values;
            or a text file of them, e.g. FSL's ``.bval``. Its volumes are named by them; None: by their index.
        interpolation: of the registered images: ``linear``, ``bspline`` (cubic), ``lanczos`` or ``nearest``. All but
            the last are smoothed first where the voxels of the group grid are larger than theirs.
        affine: with ``network``: ``auto`` (None), ``always`` or ``never``, see `bingo_pl.images.affine`.
        refine: with ``network``: steps of optimisation for this group after the network's result; 0 for none. None:
            `REFINE` steps, or none for a group of more slices or volumes than `REFINED_UP_TO`.
        device: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        console: where progress is reported; None: warnings are `bingo_pl.errors.BingoWarning`, all else is silent.
        progress: called with what is being done and how much of it is, from 0 to 1.

    Raises:
        BingoError: unusable images, an overlap that stays poor, modalities that the model does not know, a 4D image
            beside others.
    """
    console = console or Console(quiet=True)
    if transform is None:
        transform = "auto" if affine is None and refine is None else "network"
    _check_choices(transform, affine, refine, reference, initial, spacing_mm, like)
    check_interpolation(interpolation)
    masks, labels = masks or {}, labels or {}
    if isinstance(images, (str, Path)):
        images = [images]
    if isinstance(images, Iterable) and not isinstance(images, Mapping):
        images = [named(image) if isinstance(image, (str, Path)) else image for image in images]
    series, pairs = unfold(as_pairs(images), values)
    if series is None:
        names = names_of(modality for modality, _ in pairs)
    else:
        names, masks, labels = [*series.names], series.for_each(masks), series.for_each(labels)
        if initial:
            raise InputError("initial does not go with a 4D image, whose volumes start as its header has them")
    check_names("mask", masks, names)
    check_names("label map", labels, names)
    check_names("initial transform", initial or {}, names)
    if reference and reference not in names:
        raise unknown_name("reference image", reference, names)
    scans: list[Scan] = []
    digests: dict[Path, str] = {}
    for name, (modality, image) in track(list(zip(names, pairs, strict=True)), "reading", console):
        scans.append(read_scan(name, modality, image, masks.get(name), labels.get(name)))
        digests |= scans[-1].digests()
    planar = series is not None and transform != "network" and slices_apart(scans[0].grid.shape)
    dims = 2 if planar else scans[0].dims
    if callable(checkpoint):
        model = checkpoint(dims)
    else:
        path = None if checkpoint is None else Path(checkpoint)
        model = Model.load(path, dims, [f"trainer.accelerator={device}"])
    if transform == "network":
        model = model.refining(_steps(len(scans), model.dims, console) if refine is None else refine)
    warn_of_pixels(scans, console)
    warn_of_copies(((called(scan), scan.content(digests)) for scan in scans), console)
    if len(scans) == 1:
        warn_of_one(scans[0].title, console)
    for scan in scans:
        model.index(scan.modality)  # an unknown one is refused before the work begins
    if series is None or transform == "network" or model.dims == 3:
        check_dimensions(scans, model.dims)
    if spacing_mm is not None:
        check_spacing(scans, spacing_mm)
    frame = None if like is None else read_grid(like)
    if series is not None and transform != "network":
        group = register_series(series, scans, digests, transform, reference, spacing_mm, frame, model, console)
        return group.interpolated(interpolation)
    if transform == "network":
        group = _by_network(scans, digests, affine or "auto", model, console)
    else:
        starts = {name: read_linear(Path(file)) for name, file in (initial or {}).items()}
        group = register_natively(scans, digests, transform, reference, starts, spacing_mm, frame, model, console)
    group = replace(group, series=series)
    for member in group.members.values():
        if member.belongs is False:
            warn_of_misfit(member.scan, console)
        if member.looks_like is not None:
            warn_of_name(member.scan, member.looks_like, console)
    return group.interpolated(interpolation)


def _check_choices(
    transform: str,
    affine: str | None,
    refine: int | None,
    reference: str | None,
    initial: Mapping[str, Path | str] | None,
    spacing_mm: float | None,
    like: Source | None,
) -> None:
    """Raises `BingoError` for values that are not known, or that do not go together."""
    if transform not in TRANSFORMS:
        raise unknown_name("transform", transform, TRANSFORMS)
    if affine is not None and affine not in MODES:
        raise unknown_name("affine stage", affine, MODES)
    if transform != "network" and (affine is not None or refine is not None):
        raise InputError(
            "affine and refine belong to transform=network, the network alone", "Name that transform, or leave them out"
        )
    if transform == "network" and (reference or initial or spacing_mm or like is not None):
        raise InputError(
            "reference, initial, spacing and like do not go with transform=network", "Leave them out, or take auto"
        )
    if spacing_mm is not None and not (np.isfinite(spacing_mm) and spacing_mm > 0):
        raise InputError(f"a spacing of {spacing_mm} mm: wanted a number above 0", "Correct it")
    if spacing_mm is not None and like is not None:
        raise InputError("spacing and like both say which voxels the results get", "Give one of them")


def _steps(images: int, dims: int, console: Console) -> int:
    """Of the refinement of a group, where nobody has said how many."""
    most = REFINED_UP_TO[dims]
    if images <= most:
        return REFINE
    kind = "slices" if dims == 2 else "volumes"
    warn(
        f"the network's result is not refined: that takes long for more than {most} {kind}, here {images}. "
        f"refine {REFINE} does it all the same",
        console,
    )
    return 0


def _by_network(
    scans: Sequence[Scan], digests: Mapping[Path, str], affine: str, model: Model, console: Console
) -> RegisteredGroup:
    """The model's network alone, at its own resolution, after an affine stage."""
    stages = [affine_stage(scans[0], scan, affine) for scan in track(scans, "aligning", console)]
    for scan, stage in list(zip(scans, stages, strict=True))[1:]:
        tell_overlap(scans[0], scan, stage, console)
    affines = [stage.affine for stage in stages]
    grid = group_grid(scans, affines, model.config.data.spacing_mm, model.dims, model.stride)
    check_memory(model, grid, len(scans))
    tell_grid(grid, scans[0].title, console)
    sampled = [scan.sampled(affine, grid) for scan, affine in zip(scans, affines, strict=True)]
    batch = to_batch(sampled, scans, grid, model).to(model.device)
    with torch.no_grad(), doing("registering", console):
        result = model.registrar(batch)
    draws = generator("uncertainty", device=model.device)
    deviations = uncertainty.displacement_uncertainty(model.registrar, batch, result, UNCERTAINTY_SAMPLES, draws)
    members = []
    pairs = list(zip(scans, stages, strict=True))
    for i, (scan, stage) in enumerate(track(pairs, "resampling", console)):
        u, v = result.displacement[0, i].cpu(), result.inverse[0, i].cpu()
        own = None if deviations is None else on_grid(deviations[0, i], grid)
        members.append(replace(Registered.of(scan, digests, stage, u, v, grid), uncertainty_mm=own))
    members = with_findings(members, model, batch, result, grid)
    named = {member.scan.name: member for member in members}
    return RegisteredGroup(named, grid, File.of(model.path), settings.to_tree(model.config))
