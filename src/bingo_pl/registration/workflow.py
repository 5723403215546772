"""Registering one's own images, from files or arrays to a result that can be written: `bingo_pl.register`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
import torch
import torchio as tio
from lightning_fabric.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from torch import Tensor

from bingo_pl import config as settings
from bingo_pl.batch import UNLABELLED, GroupBatch
from bingo_pl.config import Config
from bingo_pl.errors import BingoError, unknown_name
from bingo_pl.evaluation import uncertainty
from bingo_pl.files.affine import MODES, Stage, affine_stage
from bingo_pl.files.grids import Grid
from bingo_pl.files.resampling import resample_image, resample_labels
from bingo_pl.files.scans import (
    File,
    Images,
    Scan,
    Source,
    as_pairs,
    check_dimensions,
    check_names,
    describe,
    group_grid,
    names_of,
    read_scan,
)
from bingo_pl.files.transforms import FieldTransform, affine_transform, forward_and_inverse
from bingo_pl.methods.registrar import Registrar
from bingo_pl.registration.registered import Registered, RegisteredGroup
from bingo_pl.seeding import generator
from bingo_pl.spatial import jacobian_determinant
from bingo_pl.training import experiment, methods, ready_model
from bingo_pl.training.lightning import device_of

UNCERTAINTY_SAMPLES = 10
"""Draws from the velocity posterior: each value is right within about 15 %."""
Item = TypeVar("Item")


def register(
    images: Images,
    checkpoint: Path | str | None = None,
    *,
    masks: Mapping[str, Source] | None = None,
    labels: Mapping[str, Source] | None = None,
    affine: str = "auto",
    refine: int = 0,
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
        refine: steps of optimisation for this group after the network's result.
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
    scans = [
        read_scan(name, modality, image, masks.get(name), labels.get(name))
        for name, (modality, image) in _track(list(zip(names, pairs, strict=True)), "reading", console)
    ]
    dims = 2 if scans[0].grid.shape[2] == 1 else 3
    overrides = [f"refine.steps={refine}", f"trainer.accelerator={device}"]
    model = _Model.load(None if checkpoint is None else Path(checkpoint), dims, overrides)
    for scan in scans:
        model.index(scan.modality)  # an unknown one is refused before the work begins
    check_dimensions(scans, model.dims)
    stages = [affine_stage(scans[0], scan, affine) for scan in _track(scans, "aligning", console)]
    for scan, stage in zip(scans, stages, strict=True):
        _tell(scans[0], scan, stage, console)
    affines = [stage.affine for stage in stages]
    grid = group_grid(scans, affines, model.config.data.spacing_mm, model.dims, model.stride)
    console.print(f"group grid: {describe(grid)}, along the axes of {escape(str(scans[0].title))}", soft_wrap=True)
    group = _register(scans, stages, grid, model, console)
    for name, member in group.members.items():
        if member.belongs is False:
            console.print(
                f"[bold yellow]warning:[/] {escape(name)} ({escape(str(member.scan.title))}) does not fit the others: "
                "another patient, another sequence, upside down, or registration failed. Look at it in the report",
                soft_wrap=True,
            )
    return group


@dataclass(frozen=True, eq=False)
class _Model:
    registrar: Registrar
    config: Config
    file: File

    @classmethod
    def load(cls, checkpoint: Path | None, dims: int, overrides: Sequence[str]) -> _Model:
        """A trained method on the device of the settings; without a checkpoint the ready model of D = ``dims``."""
        if checkpoint is None:
            registrar, config = ready_model.load(dims)
            config = settings.override(config, overrides)
        else:
            config = settings.override(experiment.read_config(checkpoint), overrides)
            registrar = experiment.trained_task(config, checkpoint).registrar
        file = File.of(ready_model.location(dims) if checkpoint is None else checkpoint)
        return cls(methods.refined(registrar, config).to(_device(config)).eval(), config, file)

    @property
    def dims(self) -> int:
        return len(self.config.data.roi)

    @property
    def stride(self) -> int:
        """What sizes are divisible by: the network's, and that of an attention residual U-Net."""
        return max(2 ** (len(self.config.model.channels) - 1), 16)

    def index(self, modality: str) -> int:
        """The number of a modality.

        Raises:
            BingoError: the model does not know it.
        """
        known = self.config.data.modalities
        if ready_model.takes_any(self.config):
            return 0
        if modality not in known:
            raise BingoError(
                f"the model does not know the modality '{modality}'. It was trained on {', '.join(known)}: name one of "
                "them if the image is like it, train a model with this modality, or take the ready model, which "
                "registers any (no checkpoint)"
            )
        return known.index(modality)


def _device(config: Config) -> torch.device:
    try:
        return device_of(config)
    except (MisconfigurationException, ValueError, ImportError) as error:
        raise BingoError(
            f"device '{config.trainer.accelerator}' cannot be used ({error}). Wanted: auto, cpu, gpu or mps, as far as "
            "this machine has it"
        ) from error


def _track(items: Sequence[Item], description: str, console: Console) -> Iterable[Item]:
    return track(items, description, console=console, transient=True, disable=not console.is_terminal)


def _tell(first: Scan, scan: Scan, stage: Stage, console: Console) -> None:
    """What the affine stage found."""
    if scan is first:
        return
    overlap = f"{stage.before:.0%} of the smaller foreground of {scan.name} and {first.name} overlaps"
    console.print(f"{overlap}; {f'{stage.after:.0%} after the affine stage' if stage.tried else 'no affine stage'}")


def _register(
    scans: Sequence[Scan], stages: Sequence[Stage], grid: Grid, model: _Model, console: Console
) -> RegisteredGroup:
    device = _device(model.config)
    batch = _to_batch(scans, stages, grid, model).to(device)
    with torch.no_grad():
        result = model.registrar(batch)
        pictures = model.registrar.explain(batch, result) if ready_model.reconstructs(model.config) else {}
    draws = generator("uncertainty", device=device)
    deviations = uncertainty.displacement_uncertainty(model.registrar, batch, result, UNCERTAINTY_SAMPLES, draws)
    disagreements = uncertainty.disagreement(model.registrar, batch, result)
    fits = None if disagreements is None else uncertainty.belongs(disagreements)
    members: dict[str, Registered] = {}
    template = np.zeros(grid.shape, np.float32)
    pairs = list(zip(scans, stages, strict=True))
    for i, (scan, stage) in enumerate(_track(pairs, "resampling", console)):
        u, v = result.displacement[0, i].cpu(), result.inverse[0, i].cpu()
        forward, inverse = forward_and_inverse(u, v, grid, scan.grid, stage.affine if stage.moves else None)
        determinant = np.linalg.det(stage.affine) * jacobian_determinant(u[None])[0].double()
        members[scan.name] = Registered(
            scan=scan,
            stage=stage,
            forward=forward,
            inverse=inverse,
            displacement=u,
            determinant=_on_grid(determinant, grid),
            image=_array(resample_image(_to_sitk(scan.image), forward.transform, grid)),
            label=None if scan.label is None else _resample_label(scan, forward, grid),
            reconstruction=_on_grid(pictures["reconstruction"][0, i], grid) if "reconstruction" in pictures else None,
            uncertainty_mm=None if deviations is None else _on_grid(deviations[0, i], grid),
            disagreement=None if disagreements is None else float(disagreements[0, i]),
            belongs=None if fits is None else bool(fits[0, i]),
        )
        template += _array(resample_image(_to_sitk(scan.unit), forward.transform, grid)) / len(scans)
    return RegisteredGroup(members, grid, template, model.file, settings.to_tree(model.config))


def _resample_label(scan: Scan, forward: FieldTransform, grid: Grid) -> NDArray:
    assert scan.label is not None
    return _array(resample_labels(scan.grid.to_sitk(scan.label), forward.transform, grid))


def _to_batch(scans: Sequence[Scan], stages: Sequence[Stage], grid: Grid, model: _Model) -> GroupBatch:
    """The group on its grid after the affine stage: intensities from 0 to 1, no labels, no truth."""
    shape = (1, *grid.shape[: model.dims])
    images, masks = [], []
    for scan, stage in zip(scans, stages, strict=True):
        transform = affine_transform(stage.affine)
        image = _array(resample_image(_to_sitk(scan.unit), transform, grid))
        mask = _array(resample_labels(_to_sitk(scan.mask), transform, grid)) > 0
        if not mask.any():
            raise BingoError(f"{scan.title}: nothing of it lies on the group grid. Correct its header or mask")
        images.append(torch.from_numpy(image).reshape(shape))
        masks.append(torch.from_numpy(mask).reshape(shape))
    stacked = torch.stack(images)[None]
    return GroupBatch(
        images=stacked,
        modalities=torch.tensor([[model.index(scan.modality) for scan in scans]]),
        masks=torch.stack(masks)[None],
        labels=torch.full(stacked.shape, UNLABELLED, dtype=torch.int16),
        spacing=torch.tensor(grid.spacing[None, : model.dims], dtype=torch.float32),
        names=("group",),
    )


def _to_sitk(image: tio.Image) -> sitk.Image:
    return Grid(image.spatial_shape, image.affine).to_sitk(image.numpy()[0])


def _array(image: sitk.Image) -> NDArray:
    """(X, Y, Z)."""
    return sitk.GetArrayFromImage(image).T.copy()


def _on_grid(values: Tensor, grid: Grid) -> NDArray[np.float32]:
    """One number a voxel of the group, as (X, Y, Z)."""
    return values.detach().cpu().float().numpy().reshape(grid.shape)
