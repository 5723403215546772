"""The comparison behind ``bingo table``: every method on the same test groups, under the same misalignments."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from torch import Tensor

from bingo_pl import config as settings
from bingo_pl.batch import GroupBatch
from bingo_pl.config import Config, TableConfig
from bingo_pl.data_modules.base import GroupDataModule
from bingo_pl.device import device_of, isolated
from bingo_pl.errors import BingoError, FileError, InputError, unknown_name
from bingo_pl.evaluation.scoring import UNREGISTERED, Scores, score, score_unregistered
from bingo_pl.methods.registrar import Registrar, Registration
from bingo_pl.models import registry
from bingo_pl.models.checkpoints import read_provenance
from bingo_pl.storage import sealed
from bingo_pl.storage.atomic import check_place, replacing
from bingo_pl.storage.csv_files import read_table
from bingo_pl.storage.locking import held
from bingo_pl.studies.figure import draw_comparison
from bingo_pl.studies.rows import (
    IDENTITY,
    Row,
    choose_rows,
    identity,
    read_identity,
    ready,
    refuse_others,
    write_identity,
)
from bingo_pl.studies.table import MethodInfo, write_tables
from bingo_pl.training import experiment

SCORES = "groups.csv"
COLUMNS = [field.name for field in dataclasses.fields(Scores)]


@isolated()
def compare(
    table: TableConfig,
    overrides: Sequence[str],
    names: Sequence[str],
    checkpoints: Mapping[str, Path],
    folder: Path,
    console: Console,
) -> Path:
    """Run every method of a table and write it; what earlier, interrupted calls have done is kept.

    A method that cannot be run on these data does not keep the others from it.

    Args:
        table: the experiment and its methods.
        overrides: settings for every method, which win.
        names: the methods to run; none means all. The others' finished results stay in the table.
        checkpoints: trained weights by method; the others are trained.
        folder: of the results: ``table.{csv,md,tex,html}``, ``groups.csv``, ``figures/``, ``trainings/`` and a folder
            a method.
        console: progress and the table are printed there.

    Returns:
        The folder.

    Raises:
        BingoError: bad settings or data, results of other settings in the folder, another process at one of its
            methods, or, once all else is done, methods
            that could not be run.
    """
    check_place(folder / SCORES)
    config = settings.load(table.experiment, overrides)
    if config.trainer.devices > 1:
        raise InputError(
            f"trainer.devices={config.trainer.devices}: a table is made by one process",
            "Train with several devices (bingo train), then give the checkpoints (--checkpoint METHOD=FILE)",
        )
    wanted = choose_rows(table, overrides, names)
    trainings = {row.name: row.training.name for row in wanted}
    for name, checkpoint in checkpoints.items():
        if trainings.get(name, name) != name:
            raise InputError(
                f"--checkpoint {name}={checkpoint}: {name} starts from the weights of {trainings[name]}",
                f"Give --checkpoint {trainings[name]}={checkpoint}",
            )
        if name not in trainings.values():
            raise unknown_name("method of --checkpoint", name, set(trainings.values()))
        read_provenance(checkpoint)
    data = experiment.build_data(config, console)
    data.setup("test")
    own = {row.name: identity(row, data.fingerprint(), checkpoints.get(row.training.name)) for row in wanted}
    with ExitStack() as locks:  # of all rows at once: two that took turns would both fail
        for row in wanted:
            locks.enter_context(held(folder / row.name))
            refuse_others(folder / row.name, read_identity(folder / row.name), own[row.name])
        _score_unregistered(data, config, folder / UNREGISTERED)
        failures = _run_rows(wanted, checkpoints, own, data, folder, console)
    everything = choose_rows(table, overrides, list(dict.fromkeys([*table.methods, *names])))
    infos = _finished([row.name for row in everything], own, len(data.test_dataloader()), folder)
    _draw(config, data, list(infos), folder)
    hardware = f"{device_of(config.trainer.accelerator)}, {torch.get_num_threads()} threads"
    _write_all(infos, hardware, folder, console)
    if failures:
        raise BingoError(f"{len(failures)} of {len(wanted)} methods could not be run: {', '.join(failures)}, see above")
    return folder


def _run_rows(
    rows: Sequence[Row],
    checkpoints: Mapping[str, Path],
    own: Mapping[str, Mapping[str, Any]],
    data: GroupDataModule,
    folder: Path,
    console: Console,
) -> list[str]:
    """Make the rows ready and score them; returns the names of those that could not be run."""
    failures = []
    for row in rows:
        console.print(f"[bold]{escape(row.name)}[/]")
        try:
            registrar, info = ready(row, checkpoints.get(row.training.name), folder, console)
            write_identity(folder / row.name, own[row.name], info)
            _score_groups(row, registrar, data, folder / row.name, console)
        except BingoError as error:
            failures.append(row.name)
            console.print(f"[yellow]not applicable:[/] {escape(str(error))}", soft_wrap=True)
    return failures


def _finished(
    names: Sequence[str], own: Mapping[str, Mapping[str, Any]], groups: int, folder: Path
) -> dict[str, MethodInfo]:
    """The methods whose every group has its scores, among them those of earlier calls on the same data and device."""
    infos = {}
    shared = next(iter(own.values()))
    for name in names:
        identity_of = read_identity(folder / name)
        same = all(identity_of.get(key) == shared[key] for key in ("data", "device", "threads"))
        if same and len(_read(folder / name / SCORES)) == groups:
            infos[name] = _info(folder / name, identity_of)
    return infos


def _info(folder: Path, identity_of: Mapping[str, Any]) -> MethodInfo:
    try:
        return MethodInfo(**identity_of["info"])
    except (KeyError, TypeError) as error:
        raise FileError(
            f"{folder / IDENTITY} is damaged: it does not say what the method is ({error})",
            f"Restore it, or remove {folder} to get these results again",
        ) from error


def _groups(data: GroupDataModule, device: torch.device) -> Iterator[GroupBatch]:
    """The misaligned test groups, one by one."""
    for batch in data.test_dataloader():
        yield data.misalign_for_evaluation(batch.to(device), "test")


def _score_groups(row: Row, registrar: Registrar, data: GroupDataModule, folder: Path, console: Console) -> None:
    """Append the scores of the groups that have none yet, each written at once."""
    scores = _read(folder / SCORES)
    done = {one["group"] for one in scores}
    warm = not registry.trainable(registrar)
    batches = track(
        _groups(data, device_of(row.config.trainer.accelerator)),
        description=f"{row.name}: groups",
        total=len(data.test_dataloader()),
        console=console,
        transient=True,
    )
    for index, batch in enumerate(batches):
        if batch.names[0] in done:
            continue
        if not warm:
            with torch.no_grad():
                registrar(batch)  # the first call on a device also loads and tunes its kernels
            warm = True
        row_scores, result = score(row.name, registrar, batch, row.config.data.label_ids)
        if index < row.config.log.figure_groups:
            _keep(result, folder / "registrations" / f"{index}.pt")
        scores.append(dataclasses.asdict(row_scores))
        _write(pd.DataFrame(scores, columns=COLUMNS), folder / SCORES)


def _score_unregistered(data: GroupDataModule, config: Config, folder: Path) -> None:
    scores = [score_unregistered(batch, config.data.label_ids) for batch in _groups(data, torch.device("cpu"))]
    _write(pd.DataFrame([dataclasses.asdict(one) for one in scores], columns=COLUMNS), folder / SCORES)


def _keep(result: Registration, path: Path) -> None:
    """What the figures need of a result."""
    with replacing(path) as temporary, temporary.open("w+b") as file:
        sealed.write({"displacement": result.displacement.cpu(), "inverse": result.inverse.cpu()}, file)


def _draw(config: Config, data: GroupDataModule, names: Sequence[str], folder: Path) -> None:
    for index, batch in enumerate(_groups(data, torch.device("cpu"))):
        if index == config.log.figure_groups:
            return
        kept = {name: folder / name / "registrations" / f"{index}.pt" for name in names}
        results = {name: _kept(path) for name, path in kept.items() if path.exists()}
        draw_comparison(batch, results, config.data.modalities, config.data.label_ids, folder / "figures")


def _kept(path: Path) -> Registration:
    try:
        tensors: dict[str, Tensor] = sealed.load(path)
        if bad := sealed.nonfinite(tensors):
            raise ValueError(f"not finite: {bad}")
        return Registration(tensors["displacement"], tensors["inverse"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: a registration that the figures show cannot be read ({error})",
            f"Remove {path.parent.parent} and run the table again",
        ) from error


def _write_all(infos: Mapping[str, MethodInfo], hardware: str, folder: Path, console: Console) -> None:
    groups = pd.concat([_scores(folder / name / SCORES) for name in (UNREGISTERED, *infos)])
    _write(groups, folder / SCORES)
    console.print(write_tables(groups, infos, hardware, folder))
    console.print(f"written: {escape(str(folder))}/table.csv, .md, .tex, .html, {SCORES} and figures/")


def _read(path: Path) -> list[dict[str, Any]]:
    return _scores(path).to_dict(orient="records") if path.exists() else []


def _scores(path: Path) -> pd.DataFrame:
    return read_table(path, COLUMNS, f"Restore it, or remove {path.parent} to get these results again")


def _write(scores: pd.DataFrame, path: Path) -> None:
    with replacing(path) as temporary:
        scores.to_csv(temporary, index=False, na_rep="nan")
