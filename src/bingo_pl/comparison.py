"""The comparison behind ``bingo table``: trains what must be trained, scores every method on the same test groups."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from bingo_pl import config as settings
from bingo_pl import experiment, methods
from bingo_pl.atomic import replacing
from bingo_pl.batch import GroupBatch
from bingo_pl.comparison_figure import draw_comparison
from bingo_pl.comparison_table import MethodInfo, write_tables
from bingo_pl.config import Config, RowConfig, TableConfig
from bingo_pl.errors import BingoError, unknown_name
from bingo_pl.registrar import Registrar, Registration
from bingo_pl.scoring import UNREGISTERED, Scores, score, score_unregistered
from data_modules.base import GroupDataModule

SCORES = "groups.csv"
COLUMNS = [field.name for field in dataclasses.fields(Scores)]


@dataclasses.dataclass(frozen=True)
class Row:
    """A method as the table runs it."""

    name: str
    config: Config
    """All settings."""
    trained_by: str
    """The row whose training it uses: its own name unless it starts from another."""


def compare(
    table: TableConfig,
    overrides: Sequence[str],
    names: Sequence[str],
    checkpoints: Mapping[str, Path],
    folder: Path,
    console: Console,
) -> Path:
    """Run every method of a table and write it; what an earlier, interrupted call has done is kept.

    Args:
        table: the experiment and its methods.
        overrides: settings for every method, which win.
        names: the methods to run; none means all.
        checkpoints: trained weights by method; the others are trained.
        folder: of the results: ``table.{csv,md,tex,html}``, ``groups.csv``, ``figures/``, and a folder a method.
        console: progress and the table are printed there.

    Returns:
        The folder.

    Raises:
        BingoError: bad settings or data, or the folder holds a table of other settings.
    """
    rows = choose_rows(table, overrides, names)
    if unused := set(checkpoints) - {row.trained_by for row in rows}:
        raise unknown_name("method of --checkpoint", min(unused), [row.trained_by for row in rows])
    config = settings.load(table.experiment, overrides)
    data = experiment.build_data(config, console)
    data.setup("test")
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        _refuse_other_settings(row, data.fingerprint(), folder / row.name)
    _score_unregistered(data, config, folder / UNREGISTERED)
    infos = {UNREGISTERED: MethodInfo(None, "nothing")}
    for row in rows:
        console.print(f"[bold]{row.name}[/]")
        registrar = ready(row, checkpoints, folder, console)
        _score_groups(row, registrar, data, folder / row.name, console)
        infos[row.name] = MethodInfo(_parameters(registrar, data), _given(row.config, registrar))
    _draw(config, data, [row.name for row in rows], folder)
    groups = pd.concat([pd.read_csv(folder / name / SCORES) for name in infos])
    _write(groups, folder / SCORES)
    console.print(write_tables(groups, infos, folder))
    console.print(f"written: {folder}/table.csv, .md, .tex, .html, {SCORES} and figures/")
    return folder


def choose_rows(table: TableConfig, overrides: Sequence[str], names: Sequence[str]) -> list[Row]:
    """The rows asked for, in the table's order; a method that the table does not list runs as it is.

    Raises:
        BingoError: unknown method or setting.
    """
    extra = {name: RowConfig([f"method={name}"]) for name in names if name in methods.METHODS}
    known = {**extra, **table.methods}
    for name in names:
        if name not in known:
            raise unknown_name("method", name, {**table.methods, **dict.fromkeys(methods.METHODS)})
    listed = {**table.methods, **extra}
    return [_row(name, known, table.experiment, overrides) for name in listed if not names or name in names]


def _row(name: str, known: Mapping[str, RowConfig], experiment_name: str, overrides: Sequence[str]) -> Row:
    row = known[name]
    if not row.start:
        return Row(name, settings.load(experiment_name, [*row.settings, *overrides]), name)
    if row.start not in known:
        raise unknown_name(f"start of {name}", row.start, known)
    start = _row(row.start, known, experiment_name, overrides)
    return Row(name, settings.override(start.config, [*row.settings, *overrides]), start.trained_by)


def _refuse_other_settings(row: Row, fingerprint: str, folder: Path) -> None:
    """Results under other settings or of other data do not belong into one table."""
    written = folder / "row.yaml"
    text = settings.to_yaml(row.config) + f"# data: {fingerprint}\n"
    if not written.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(written) as temporary:
            temporary.write_text(text)
    elif written.read_text() != text:
        old = settings.from_yaml(written.read_text())
        changes = "; ".join(settings.differences(old, row.config)) or "the data"
        raise BingoError(
            f"{folder} holds results under other settings ({changes}). Restore them, remove that folder to run "
            f"{row.name} again, or give the table another name (--name)"
        )


def ready(row: Row, checkpoints: Mapping[str, Path], folder: Path, console: Console) -> Registrar:
    """A row's registrar for evaluation, on its device; trained in ``folder/<row>/training`` where it can be.

    Args:
        row: the method.
        checkpoints: trained weights by method, instead of training.
        folder: of the table.
        console: where training shows its progress.
    """
    task = experiment.build_task(row.config)
    if methods.trainable(task.registrar):
        checkpoint = checkpoints.get(row.trained_by)
        if checkpoint is None:
            checkpoint = _train(row, folder / row.trained_by, console)
        experiment.load_weights(task, checkpoint)
    registrar = methods.refined(task.registrar, row.config)
    return registrar.to(experiment.device(row.config)).eval()


def _train(row: Row, folder: Path, console: Console) -> Path:
    """The best checkpoint of a row's training, which is begun, taken up or found done."""
    run = folder / "training"
    best, last = (run / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    if (run / "test.csv").exists():  # the last thing that a run writes before its figures
        return best
    if last.exists():
        console.print(f"going on with the training in {run}")
        experiment.resume(last, [], False, console)
        return best
    shutil.rmtree(run, ignore_errors=True)  # killed before its first checkpoint
    config = dataclasses.replace(row.config, name=run.name, runs=str(folder))
    config = dataclasses.replace(config, refine=settings.RefineConfig())
    experiment.train(config, console)
    return best


def _groups(data: GroupDataModule, device: torch.device) -> Iterator[GroupBatch]:
    """The misaligned test groups, one by one."""
    for batch in data.test_dataloader():
        yield data.misalign_for_evaluation(batch.to(device), "test")


def _score_groups(row: Row, registrar: Registrar, data: GroupDataModule, folder: Path, console: Console) -> None:
    """Append the scores of the groups that have none yet, each written at once."""
    scores = _read(folder / SCORES)
    done = {one["group"] for one in scores}
    warm = not methods.trainable(registrar)
    batches = track(
        _groups(data, experiment.device(row.config)),
        description=f"{row.name}: groups",
        total=len(data.test_dataloader()),
        console=console,
        transient=True,
    )
    for index, batch in enumerate(batches):
        if batch.names[0] in done:
            continue
        if not warm:
            registrar(batch)  # the first call on a device also loads and tunes its kernels
            warm = True
        row_scores, result = score(row.name, registrar, batch, row.config.data.label_ids)
        if index < row.config.log.figure_groups:
            _keep(result, folder / "registrations", index)
        scores.append(dataclasses.asdict(row_scores))
        _write(pd.DataFrame(scores, columns=COLUMNS), folder / SCORES)


def _score_unregistered(data: GroupDataModule, config: Config, folder: Path) -> None:
    scores = [score_unregistered(batch, config.data.label_ids) for batch in _groups(data, torch.device("cpu"))]
    folder.mkdir(exist_ok=True)
    _write(pd.DataFrame([dataclasses.asdict(one) for one in scores], columns=COLUMNS), folder / SCORES)


def _keep(result: Registration, folder: Path, index: int) -> None:
    """What the figures need of a result."""
    folder.mkdir(exist_ok=True)
    with replacing(folder / f"{index}.pt") as temporary:
        torch.save({"displacement": result.displacement.cpu(), "inverse": result.inverse.cpu()}, temporary)


def _draw(config: Config, data: GroupDataModule, names: Sequence[str], folder: Path) -> None:
    for index, batch in enumerate(_groups(data, torch.device("cpu"))):
        if index == config.log.figure_groups:
            return
        results = {name: _kept(folder / name / "registrations" / f"{index}.pt") for name in names}
        draw_comparison(batch, results, config.data.modalities, config.data.label_ids, folder / "figures")


def _kept(path: Path) -> Registration:
    tensors: dict[str, Tensor] = torch.load(path, weights_only=True)
    return Registration(tensors["displacement"], tensors["inverse"])


def _parameters(registrar: Registrar, data: GroupDataModule) -> int:
    """Of the network; for an iterative method, of one group's velocities, as Table 1 counts them."""
    if methods.trainable(registrar):
        return sum(parameter.numel() for parameter in registrar.parameters())
    batch = next(iter(data.test_dataloader()))
    return batch.size * len(batch.shape) * batch.shape.numel()


def _given(config: Config, registrar: Registrar) -> str:
    """What a method learned from, beside the group it registers."""
    if not methods.trainable(registrar):
        return "nothing"
    given = ["images" if config.data.images_per_step is None else f"{config.data.images_per_step} images a step"]
    if config.weights.truth:
        given.append("synthetic misalignment")
    if config.refine.steps:
        given.append(f"{config.refine.steps} steps on the group itself")
    return ", ".join(given)


def _read(path: Path) -> list[dict[str, object]]:
    return pd.read_csv(path).to_dict(orient="records") if path.exists() else []


def _write(scores: pd.DataFrame, path: Path) -> None:
    with replacing(path) as temporary:
        scores.to_csv(temporary, index=False, na_rep="nan")
