"""The rows of a comparison: each method's settings, its training, and what its results were got with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console

from bingo_pl import config as settings
from bingo_pl.config import Config, RowConfig, TableConfig
from bingo_pl.device import device_of
from bingo_pl.errors import InputError, unknown_name
from bingo_pl.evaluation.scoring import UNREGISTERED
from bingo_pl.images.record import sha256_of
from bingo_pl.methods.registrar import Registrar
from bingo_pl.models import registry
from bingo_pl.plugins import METHODS, offered
from bingo_pl.storage.atomic import replacing
from bingo_pl.storage.names import check_file_name
from bingo_pl.studies.table import MethodInfo
from bingo_pl.training import experiment
from bingo_pl.training.continuation import train_or_continue
from bingo_pl.training.resumption import indifferent

TRAININGS = "trainings"
RESERVED = (UNREGISTERED.casefold(), TRAININGS, "figures")
"""Folders of a table that are no method's."""
"""Folder of the runs under the table's."""
IDENTITY = "row.yaml"
OF_TRAINING = ("model.", "trainer.", "weights.", "data.batch_size", "data.images_per_step", "data.copies")
"""Settings that may differ between the rows of a table. The groups they are tested on are the same."""
OF_METHOD = ("method", "own.", "similarity.", "iterative.", "refine.", "intrinsic.")
OF_REFINEMENT = ("similarity.", "refine.", "intrinsic.")


@dataclasses.dataclass(frozen=True)
class Row:
    """A method as a table runs it."""

    name: str
    config: Config
    start: Row | None = None
    """The row whose training it uses, if not its own."""

    @property
    def training(self) -> Row:
        return self.start or self


def choose_rows(table: TableConfig, overrides: Sequence[str], names: Sequence[str]) -> list[Row]:
    """The rows asked for, all if none are, in the table's order; a method that is not in the table runs as it is.

    Raises:
        BingoError: unknown method or setting, a row that would be tested on other groups than the rest, or one that
            would change the training it starts from.
    """
    known = {**registry.METHODS, **offered(METHODS)}
    extra = {name: RowConfig([f"method={name}"]) for name in names if name in known}
    rows = {**table.methods, **{name: row for name, row in extra.items() if name not in table.methods}}
    for name in names:
        if name not in rows:
            raise unknown_name("method", name, {**rows, **known})
    for name in rows:
        check_file_name(name, "method")
        if name.casefold() in RESERVED:
            raise InputError(f"'{name}' cannot name a method: that folder of a table holds something else", "Rename it")
    common = settings.load(table.experiment, overrides)
    return [_row(name, rows, common, table.experiment, overrides) for name in rows if not names or name in names]


def _row(
    name: str, rows: Mapping[str, RowConfig], common: Config, experiment_name: str, overrides: Sequence[str]
) -> Row:
    row = rows[name]
    if not row.start:
        config = settings.load(experiment_name, [*row.settings, *overrides])
        _refuse(name, settings.differences(common, config), (*OF_METHOD, *OF_TRAINING), "a row of a table")
        return Row(name, config)
    if row.start not in rows or rows[row.start].start:
        own = [other for other, known in rows.items() if not known.start]
        raise unknown_name(f"start of {name}", row.start, own)
    start = _row(row.start, rows, common, experiment_name, overrides)
    config = settings.override(start.config, [*row.settings, *overrides])
    _refuse(name, settings.differences(start.config, config), OF_REFINEMENT, "a row that starts from another")
    return Row(name, config, start)


def _refuse(name: str, differences: Sequence[str], allowed: tuple[str, ...], kind: str) -> None:
    wrong = [line for line in differences if not line.startswith(allowed)]
    if wrong:
        raise InputError(f"{name}: {kind} may differ in {', '.join(allowed)} only, got {'; '.join(wrong)}")


def ready(row: Row, checkpoint: Path | None, folder: Path, console: Console) -> tuple[Registrar, MethodInfo]:
    """A row's registrar for evaluation, on its device, and what the table says of it.

    Args:
        row: the method.
        checkpoint: trained weights; without, it is trained in ``folder/trainings/<row>`` where it can be.
        folder: of the table.
        console: where training shows its progress.

    Raises:
        BingoError: the row cannot be run on this data, or the weights are not of this network.
    """
    task = experiment.build_task(row.config)
    registrar = registry.refined(task.registrar, row.config)
    trained_with = row.config
    if registry.trainable(registrar):
        checkpoint = checkpoint or _train(row.training, folder / TRAININGS / row.training.name, console)
        trained_with = experiment.load_weights(task, checkpoint, row.config)
    elif checkpoint is not None:
        raise InputError(f"{row.name} has nothing to train and takes no checkpoint; leave {checkpoint} out")
    registrar = registrar.to(device_of(row.config.trainer.accelerator)).eval()
    return registrar, MethodInfo(_parameters(registrar, row.config), _given(trained_with, row.config, registrar))


def _train(row: Row, run: Path, console: Console) -> Path:
    """The best checkpoint of a row's training, which is begun, taken up or found done."""
    alone = settings.override(row.config, ["refine.steps=0", "intrinsic.steps=0"])
    config = dataclasses.replace(alone, name=run.name, runs=str(run.parent))
    return train_or_continue(config, console) / "checkpoints" / "best.ckpt"


def identity(row: Row, fingerprint: str, checkpoint: Path | None) -> dict[str, Any]:
    """All that a row's results depend on, by name."""
    weights = "trained here" if checkpoint is None else sha256_of(checkpoint)
    place = {"device": str(device_of(row.config.trainer.accelerator)), "threads": torch.get_num_threads()}
    return {**relevant(row.config), "data": fingerprint, "weights": weights, **place}


def relevant(config: Config) -> dict[str, Any]:
    """The settings that change results."""
    of_networks = () if registry.trainable(registry.build(config)) else ("model.", "trainer.")
    unused = (*indifferent(config), *of_networks)
    return {key: value for key, value in settings.leaves(config) if not key.startswith(unused)}


def refuse_others(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raises `BingoError` where results in a folder were got with other settings; unknown to either does not count."""
    changes = [f"{key}: {old[key]} -> {new[key]}" for key in new if key in old and old[key] != new[key]]
    if changes:
        raise InputError(
            f"{folder} holds results of other settings ({'; '.join(changes)})",
            "Restore them, remove that folder to get them again, or give the table another name (--name)",
        )


def read_identity(folder: Path) -> dict[str, Any]:
    """What the results in a row's folder were got with; empty where there are none."""
    path = folder / IDENTITY
    return settings.read_yaml(path) if path.exists() else {}


def write_identity(folder: Path, own: Mapping[str, Any], info: MethodInfo) -> None:
    with replacing(folder / IDENTITY) as temporary:
        temporary.write_text(yaml.safe_dump({**own, "info": dataclasses.asdict(info)}, sort_keys=False))


def _parameters(registrar: Registrar, config: Config) -> int | None:
    """Of the network; for an iterative method, of the velocities of one image of each modality, as Table 1 has it.

    None for populations, whose groups have any number of images.
    """
    if registry.trainable(registrar):
        return sum(parameter.numel() for parameter in registrar.parameters())
    if config.iterative.transform != "velocity":
        return None
    shape = config.data.roi
    return len(config.data.modalities) * len(shape) * torch.Size(shape).numel()


def _given(trained_with: Config, config: Config, registrar: Registrar) -> str:
    """What a method learned from, beside the group it registers."""
    if not registry.trainable(registrar):
        return "nothing"
    subset = trained_with.data.images_per_step
    given = ["images" if subset is None else f"{subset} images a step"]
    if trained_with.model.similarity and trained_with.method == "bingo":
        given.append(f"{trained_with.model.similarity.upper()} beside the ELBO")
    if trained_with.weights.truth:
        copies = trained_with.data.copies
        given.append("synthetic misalignment" + (f" of {copies} copies of each" if copies > 1 else ""))
    if trained_with.trainer.start:
        given.append(f"the weights of {Path(trained_with.trainer.start).stem} to start from")
    if config.refine.steps:
        given.append(f"{config.refine.steps} steps on the group itself")
    if config.intrinsic.steps:
        steps = config.intrinsic.steps * len(config.intrinsic.voxels)
        given.append(f"{steps} steps of its experts on the group itself")
    return ", ".join(given)
