"""What `bingo_pl` offers from Python, beside `register` and `apply`: a model, and the commands as functions."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from bingo_pl import config as settings
from bingo_pl.atlases import template
from bingo_pl.batch import UNLABELLED, GroupBatch
from bingo_pl.checking import check as checking
from bingo_pl.config import Config
from bingo_pl.device import isolated
from bingo_pl.errors import InputError
from bingo_pl.images.manifest import GROUP, PEOPLE, Columns, read_group
from bingo_pl.images.members import Member
from bingo_pl.images.scans import Images
from bingo_pl.messages import Progress, report, reporting
from bingo_pl.methods.registrar import Registration
from bingo_pl.models import model as trained
from bingo_pl.models import ready_model
from bingo_pl.registration.forecast import Forecast, forecast
from bingo_pl.registration.registered import RegisteredGroup
from bingo_pl.registration.streamed import probe_files
from bingo_pl.registration.workflow import register
from bingo_pl.streaming import estimate as prediction
from bingo_pl.streaming.budget import parse_bytes
from bingo_pl.streaming.estimate import Estimate
from bingo_pl.streaming.file_source import FileSource, dims_of

READY = "ready"
"""The models that come with the package, of 2D and of 3D images of any modality."""


class Model:
    """A trained model, loaded once, for any number of groups.

    Args:
        models: the model for each D.
    """

    def __init__(self, models: Mapping[int, trained.Model]) -> None:
        self._models = dict(models)

    @classmethod
    @isolated()
    def load(cls, source: Path | str = READY, *, device: str = "auto") -> Model:
        """Load a model. Nothing else in the process changes.

        Args:
            source: a checkpoint of a run, a ``.safetensors`` model file, or ``"ready"``.
            device: ``auto``, ``cpu``, ``gpu`` or ``mps``.

        Raises:
            BingoError: no such file, not one of this project, or a device that this machine does not have.
        """
        given = [f"trainer.accelerator={device}"]
        if source == READY:
            return cls({dims: trained.Model.load(None, dims, given) for dims in (2, 3)})
        one = trained.Model.load(Path(source), overrides=given)
        return cls({one.dims: one})

    def __repr__(self) -> str:
        lines = [
            f"{one.path.name}: {one.config.method}, {dims}D, "
            + ("any modality" if ready_model.takes_any(one.config) else ", ".join(one.config.data.modalities))
            + f", on {one.device}"
            for dims, one in self._models.items()
        ]
        return f"Model({'; '.join(lines)})"

    def _of(self, dims: int) -> trained.Model:
        """The model for D; where there is none the other one, which says in its own words what it takes."""
        return self._models.get(dims, next(iter(self._models.values())))

    def register(self, images: Images, **options: Any) -> RegisteredGroup:
        """Register a group of images: `bingo_pl.register` with this model, on its device.

        Args:
            images: see `bingo_pl.register`.
            options: all its others but ``checkpoint`` and ``device``.
        """
        return register(images, self._of, **options)

    @isolated()
    def predict(self, batch: GroupBatch | Tensor, modalities: Sequence[str] | None = None) -> Registration:
        """The network's displacements of groups that lie on a grid already.

        Args:
            batch: groups, or their images alone, (B, N, 1, *S) or, of 2D and of 3D images, (B, N, *S) of intensities
                from 0 to 1 whose background is 0; sizes are multiples of 16.
            modalities: of the N images where they come alone; a ready model needs none.

        Raises:
            BingoError: sizes that the network does not take, or modalities that it does not know.
        """
        if isinstance(batch, Tensor):
            batch = self._batch(batch, modalities)
        elif not isinstance(batch, GroupBatch):
            raise InputError(
                f"a batch of type {type(batch).__name__}", "Wanted: a GroupBatch, or a tensor (B, N, 1, *S)"
            )
        one = self._of(batch.images.ndim - 3)
        with torch.no_grad():
            result: Registration = one.registrar(batch.to(one.device))
        return result

    def _batch(self, images: Tensor, modalities: Sequence[str] | None) -> GroupBatch:
        if images.ndim > 2 and images.shape[2] != 1:
            images = images[:, :, None]
        if images.ndim not in (5, 6) or not images.numel() or not images.is_floating_point():
            raise InputError(
                f"images of shape {tuple(images.shape)} {images.dtype}. Wanted: floating-point (B, N, 1, *S), B groups "
                "of N images with two or three sizes *S",
                "Correct the tensor",
            )
        if bad := int((~images.isfinite()).sum()):
            raise InputError(f"{bad} of {images.numel()} intensities are NaN or Inf", "Correct the tensor")
        groups, size, dims = images.shape[0], images.shape[1], images.ndim - 3
        one = self._of(dims)
        known = ready_model.takes_any(one.config)
        names = list(modalities or ([ready_model.ANY] * size if known else ()))
        if len(names) != size:
            raise InputError(
                f"{len(names)} modalities for groups of {size} images",
                f"Name each image's: {one.config.data.modalities}",
            )
        index = torch.tensor([[one.index(name) for name in names]] * groups, device=images.device)
        return GroupBatch(
            images=images.float(),
            modalities=index,
            masks=images > 0,
            labels=torch.full_like(images, UNLABELLED, dtype=torch.int16),
            spacing=torch.ones(groups, dims, device=images.device),
            names=tuple(f"group {number}" for number in range(groups)),
        )


@reporting
def check(
    path: Path | str,
    label_ids: Collection[int] = (),
    fix: Path | str | None = None,
    *,
    progress: Progress | None = None,
) -> checking.Checkup:
    """Read every image file and say what would fail or mislead, why it matters and what to do.

    Args:
        path: a folder of images, a manifest or an image.
        label_ids: the ids that label maps may hold; empty: any.
        fix: folder for corrected copies, where that is safe; nothing in it is overwritten.
        progress: called with what is being done and how much of it is, from 0 to 1.

    Raises:
        BingoError: there is nothing to look at, or a copy cannot be written.
    """

    def track(files: Collection[Path]) -> Iterable[Path]:
        for number, file in enumerate(files):
            report("reading", number / len(files))
            yield file
        report("reading", 1.0)

    return checking.check(Path(path), label_ids, None if fix is None else Path(fix), track)


@reporting
def atlas(
    images: Path | str | Sequence[tuple[str, Path | str] | Member],
    output: Path | str,
    checkpoint: Path | str | None = None,
    *,
    transform: str = "deformable",
    spacing_mm: float | None = None,
    images_too: bool = False,
    jacobian: bool = False,
    affine: str | None = None,
    memory: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
    console: Console | None = None,
    progress: Progress | None = None,
) -> Path:
    """Make a population's unbiased template, with the probability of each label where label maps are given.

    Args:
        images: a manifest with the columns modality,image[,mask,label,subject], or (modality, file) pairs.
        output: a folder that does not exist yet.
        checkpoint: of a BInGo model; None for the ready model.
        transform: the last stage, ``rigid``, ``affine`` or ``deformable``.
        spacing_mm: voxel size of the template; None: the finest of the images.
        images_too: write each registered image and its labels.
        jacobian: write maps of the logarithm of the Jacobian determinant.
        affine: instead, register by the network alone after an affine stage: ``always``, ``auto`` (of images that are
            not roughly aligned) or ``never``.
        memory: likewise, reading one image at a time, with so much memory for images being processed, features and
            running sums, e.g. ``500MB``.
        device: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        overwrite: replace ``output`` where it is a folder that `bingo_pl` wrote whole.
        console: where results are shown; None for silence.
        progress: called with what is being done and how much of it is, from 0 to 1.

    Returns:
        The folder.

    Raises:
        BingoError: unusable images, an overlap that stays poor, another method than BInGo, or a folder in use.
    """
    shown = console or Console(quiet=True)
    path = None if checkpoint is None else Path(checkpoint)
    if affine is None and memory is None:
        from bingo_pl.atlases import people  # pandas and what draws, which registering does not need

        choices = people.Choices(transform, spacing_mm, images_too, jacobian)
        return people.build(_members(images, PEOPLE), path, Path(output), choices, shown, device, overwrite)
    if spacing_mm or images_too or jacobian or transform != "deformable":
        raise InputError(
            "spacing, images, jacobian and transform do not go with affine or memory, which have the network register",
            "Leave out either",
        )
    bytes_ = parse_bytes(memory or "1GB")
    members = _members(images)
    return template.build(members, path, Path(output), affine or "always", bytes_, shown, device, overwrite)


@isolated()
def estimate(
    images: int | Path | str | Sequence[tuple[str, Path | str] | Member],
    checkpoint: Path | str | None = None,
    *,
    shape: Sequence[int] = (),
    memory: str | None = None,
    device: str = "auto",
) -> Estimate | Forecast:
    """Predict time, memory and disk of registering a group on this machine, by timing small pieces of it.

    Args:
        images: how many the group has, or a manifest, or (modality, file) pairs.
        checkpoint: of a BInGo model; None for the ready model.
        shape: voxels of an image where their number is given; empty: those of training.
        memory: stream the group, with so much for images being processed, features and running sums, e.g. ``500MB``.
            None: as `register` does by default, or streamed with 1 GB where only a number of images is given.
        device: ``auto``, ``cpu``, ``gpu`` or ``mps``.

    Raises:
        BingoError: unusable images, a shape that is neither 2D nor 3D, or another method than BInGo where the group is
            streamed.
    """
    members = [] if isinstance(images, int) else _members(images)
    if shape and (len(shape) not in (2, 3) or min(shape) < 1):
        raise InputError(f"a shape of {'x'.join(map(str, shape))}: images are 2D or 3D", "Give sizes above 0")
    if isinstance(images, int) and images < 1:
        raise InputError(f"a group of {images} images", "Wanted: at least one")
    dims = dims_of(members[0]) if members else len(shape) or 2
    path = None if checkpoint is None else Path(checkpoint)
    model, size = trained.Model.load(path, dims, [f"trainer.accelerator={device}"]), parse_bytes(memory or "1GB")
    if members and memory is None:
        return forecast(members, model)
    if isinstance(images, int):
        return prediction.estimate(model.bingo, images, list(shape) or model.config.data.roi, size)
    source = FileSource.unplaced(members, model)
    predicted = prediction.estimate(model.bingo, len(source), source[0].image.shape[1:], size, source)
    return dataclasses.replace(predicted, files=probe_files(members, model, size))


def _members(images: Path | str | Sequence[tuple[str, Path | str] | Member], columns: Columns = GROUP) -> list[Member]:
    if isinstance(images, (str, Path)):
        return read_group(Path(images), columns)
    found = []
    for image in images.items() if isinstance(images, Mapping) else images:
        if isinstance(image, Member):
            found.append(image)
        elif isinstance(image, tuple) and len(image) == 2 and isinstance(image[1], (str, Path)):
            found.append(Member(str(image[0]), Path(image[1])))
        else:
            raise InputError(
                "the images are no files", "Wanted: a manifest, (modality, file) pairs, or {modality: file}"
            )
    if not found:
        raise InputError("no image", "Name a manifest, or (modality, file) pairs")
    return found


def train(
    experiment: Path | str,
    overrides: Sequence[str] | Mapping[str, object] = (),
    *,
    resume: bool = False,
    console: Console | None = None,
) -> Path:
    """Train on a dataset, test the best checkpoint, write tables and figures to ``runs/<name>/``.

    Args:
        experiment: the name of an experiment, or a YAML file. Without ``data.root`` its phantom preset is taken.
        overrides: settings that win over the experiment's: ``["trainer.epochs=10"]`` or ``{"trainer.epochs": 10}``.
        resume: resume the run of this name if there is one; leave it if it is done.
        console: where progress is shown; None for silence.

    Returns:
        The run's folder; its model is ``checkpoints/best.ckpt``.

    Raises:
        BingoError: bad settings or data; the run's folder has not been made then.
    """
    from bingo_pl.training import experiment as experiments  # Lightning, which the others do without
    from bingo_pl.training.continuation import train_or_continue

    config = settings_of(str(experiment), overrides)
    return (train_or_continue if resume else experiments.train)(config, console or Console(quiet=True))


def settings_of(experiment: str, overrides: Sequence[str] | Mapping[str, object] = ()) -> Config:
    """The settings of a run, with its name."""
    from bingo_pl.sweeps.trials import trial_name

    if isinstance(overrides, Mapping):
        overrides = [f"{key}={'null' if value is None else value}" for key, value in overrides.items()]
    name = settings.with_data(experiment, overrides)
    config = settings.load(name, overrides)
    return dataclasses.replace(config, name=config.name or trial_name(os.environ) or Path(name).stem)
