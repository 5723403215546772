"""The scalability experiment (Fig. 4): test groups merged to larger and larger groups, each registered as one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table
from torch import Tensor

from bingo_pl.config import Config
from bingo_pl.device import isolated
from bingo_pl.evaluation.scoring import MEGABYTE, peak_memory_bytes, watch_memory
from bingo_pl.evaluation.streamed_metrics import evaluate_stream
from bingo_pl.figures.panels import save
from bingo_pl.images.record import sha256_of
from bingo_pl.memory import show_bytes
from bingo_pl.methods.bingo import Bingo
from bingo_pl.models.model import Model
from bingo_pl.storage.atomic import check_place, remove_leftovers, replacing
from bingo_pl.storage.csv_files import read_table
from bingo_pl.storage.locking import held
from bingo_pl.streaming.estimate import timed_stream
from bingo_pl.streaming.stream import GroupSource, StreamedRegistration
from bingo_pl.streaming.workspace import Plan, claim
from bingo_pl.studies.merged_groups import MergedGroups, draw_units
from bingo_pl.training import experiment

MERGED = (1, 2, 4, 10, 22, 44, 110, 220, 440)
"""Test groups in a group; 3 to 1,320 images where a test group has three."""
CSV, PLOT = "scalability.csv", "scalability.png"
ACCURACY = {"dice": "DSC", "gwi": "gWI, whole group", "gwi_within": "gWI, within a slice"}
COSTS = {"seconds_per_image": "seconds an image", "peak_memory_mb": "peak memory in MB"}
"""Columns of the CSV and their titles; those of `ACCURACY` are ``<name>_before`` and ``<name>_after``."""


@dataclass(frozen=True)
class SizeScores:
    """One merged group; the fields are the columns of scalability.csv."""

    images: int
    group: int
    """Its number among the groups of its size."""
    dice_before: float
    dice_after: float
    gwi_before: float
    """In voxels, as `gwi_after`."""
    gwi_after: float
    gwi_within_before: float
    """Up to a map that the images of one slice, not of all, have in common; see `StreamedScores`."""
    gwi_within_after: float
    seconds_per_image: float
    """To register, reading the images and making the displacements included."""
    peak_memory_mb: float
    """Of the process while registering, program and network included (on a GPU: of its tensors), in 10^6 bytes."""


@isolated()
def run(config: Config, checkpoint: Path, images: int, memory_bytes: int, folder: Path, console: Console) -> Path:
    """Register the merged test groups of every size and write ``scalability.csv`` and ``scalability.png``.

    Called again after it was killed, it continues with the next group.

    Args:
        config: the experiment, which gives the data.
        checkpoint: of a BInGo network that knows its modalities.
        images: in the largest group.
        memory_bytes: for streaming, see `register_stream`.
        folder: where the results go.
        console: where the table is shown.

    Raises:
        BingoError: the method is not BInGo, it does not know a modality, test groups of different sizes, or a folder
            with results of another model or other settings.
    """
    check_place(folder / CSV)
    model = Model.load(checkpoint, len(config.data.roi), [f"trainer.accelerator={config.trainer.accelerator}"])
    bingo, modalities = model.bingo, [model.index(name) for name in config.data.modalities]
    data = experiment.build_data(config, console)
    data.setup("test")
    units = draw_units(data, images)
    largest = MergedGroups(data, units, modalities)
    console.print(
        f"{len(units)} misalignments of {len(data.groups['test'])} test groups: {len(largest)} images in the largest "
        f"group; {show_bytes(memory_bytes)} for streaming"
    )
    counts = [count for count in MERGED if count < len(units)] + [len(units)]
    # Loads and tunes the device's kernels, and shows whether the memory suffices.
    _score(bingo, MergedGroups(data, units[:1], modalities), config, 0, memory_bytes)
    with held(folder):
        claim(folder, _plan(checkpoint, memory_bytes, model, largest))
        remove_leftovers(folder)  # only now is it known to be ours
        scores = _read_csv(folder / CSV)
        done = {(score.images, score.group) for score in scores}
        with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
            for count in progress.track(counts, description="registering"):
                for number in range(len(units) // count):
                    merged = MergedGroups(data, units[number * count : (number + 1) * count], modalities)
                    if (len(merged), number) not in done:
                        scores.append(_score(bingo, merged, config, number, memory_bytes))
                        _write_csv(scores, folder / CSV)
        table = pd.DataFrame([asdict(score) for score in scores])
        draw(table, folder / PLOT)
        console.print(summary(table))
        console.print(f"written: {escape(str(folder / CSV))} and {escape(str(folder / PLOT))}", soft_wrap=True)
        return folder


def _plan(checkpoint: Path, memory_bytes: int, model: Model, largest: MergedGroups) -> Plan:
    """What the rows of the CSV depend on, and what they are compared under."""
    data = largest.data
    settings = {
        "checkpoint": sha256_of(checkpoint),
        "data": data.fingerprint(),
        "misalignment": f"{data.ffd_spacings}, {data.ffd_strength:g}, {data.linear_strength:g}",
        "images": str(len(largest)),
        "memory": show_bytes(memory_bytes),
        "device": str(model.device),
        "threads": str(torch.get_num_threads()),
    }
    return Plan(settings, [largest.identity(member) for member in range(len(largest))])


def summary(table: pd.DataFrame) -> Table:
    """Means over the groups of each size, with one standard deviation, for the terminal."""
    shown = Table("images", "groups", *(f"{title}\nbefore -> after" for title in ACCURACY.values()), *COSTS.values())
    for images, rows in table.groupby("images"):
        mean, deviation = rows.mean(), rows.std(ddof=0)
        changes = [
            " -> ".join(
                f"{mean[column]:.3f} ± {deviation[column]:.3f}" for column in (f"{name}_before", f"{name}_after")
            )
            for name in ACCURACY
        ]
        shown.add_row(str(images), str(len(rows)), *changes, *(f"{mean[name]:.4g}" for name in COSTS))
    return shown


def draw(table: pd.DataFrame, path: Path) -> None:
    """Plot what `summary` shows against the size of the group, bands of one standard deviation, into a PNG."""
    figure = Figure(figsize=(3.4 * (len(ACCURACY) + len(COSTS)), 3.2), layout="constrained")
    axes = figure.subplots(1, len(ACCURACY) + len(COSTS))
    for ax, (name, title) in zip(axes, (ACCURACY | COSTS).items(), strict=True):
        ax.set(xscale="log", xlabel="images in the group", title=title)
        ax.grid(alpha=0.3)
        if name in ACCURACY:
            _curve(ax, table, f"{name}_before", "tab:blue", "before")
            _curve(ax, table, f"{name}_after", "tab:orange", "after")
            ax.legend(frameon=False)
        else:
            _curve(ax, table, name, "tab:green", title)
            ax.axhline(0, linewidth=0)  # so that the margin above is that of the whole height
            ax.set_ylim(bottom=0)
    save(figure, path)


def _curve(ax: Axes, table: pd.DataFrame, column: str, colour: str, label: str) -> None:
    values = table.groupby("images")[column]
    mean, band = values.mean(), values.std(ddof=0)
    ax.plot(mean.index, mean, "o-", color=colour, markersize=3, label=label)
    ax.fill_between(mean.index, mean - band, mean + band, color=colour, alpha=0.2, linewidth=0)


def _score(bingo: Bingo, merged: MergedGroups, config: Config, number: int, memory_bytes: int) -> SizeScores:
    """Register one group, its velocities in a temporary folder, and measure it."""
    with TemporaryDirectory() as folder:
        result, seconds, peak = watched_stream(bingo, merged, memory_bytes, Path(folder))

        def unregistered() -> Iterator[tuple[int, Tensor]]:
            for member in result.members:
                yield member, torch.zeros(len(result.shape), *result.shape)

        before = evaluate_stream(merged, unregistered, config.data.label_ids)
        after = evaluate_stream(merged, result.displacements, config.data.label_ids)
    measures = {f"{name}_before": value for name, value in before._asdict().items()}
    measures |= {f"{name}_after": value for name, value in after._asdict().items()}
    costs = {"seconds_per_image": seconds / len(merged), "peak_memory_mb": peak}
    return SizeScores(images=len(merged), group=number, **measures, **costs)


def watched_stream(
    bingo: Bingo, source: GroupSource, memory_bytes: int, folder: Path
) -> tuple[StreamedRegistration, float, float]:
    """`timed_stream`, and the peak memory meanwhile in 10^6 bytes, of the process, on a GPU of its tensors; NaN where
    it cannot be measured."""
    device = next(bingo.parameters()).device
    watched = watch_memory(device) is not None
    result, seconds = timed_stream(bingo, source, memory_bytes, folder)
    return result, seconds, peak_memory_bytes(device) / MEGABYTE if watched else math.nan


def _read_csv(path: Path) -> list[SizeScores]:
    """The groups that are done; raises `BingoError` where the file is not what `_write_csv` wrote."""
    if not path.exists():
        return []
    columns = [field.name for field in fields(SizeScores)]
    remedy = f"It cannot be resumed: put it back, or delete the folder {path.parent} to begin again"
    table = read_table(path, columns, remedy)
    return [SizeScores(**row) for row in table[columns].to_dict(orient="records")]


def _write_csv(scores: list[SizeScores], path: Path) -> None:
    columns = [field.name for field in fields(SizeScores)]
    with replacing(path) as temporary:
        pd.DataFrame([asdict(score) for score in scores], columns=columns).to_csv(temporary, index=False)
