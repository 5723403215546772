"""Chooses settings of a method by the validation groups, so that no method of the comparison is a straw man.

``python benchmarks/tune.py mscmr_phantom ape weights.bending=1,10,100 --output docs/tuning.csv``. See README.md.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from rich.console import Console

from bingo_pl import cli
from bingo_pl import config as settings
from bingo_pl.data_modules.base import GroupDataModule
from bingo_pl.device import device_of, isolated
from bingo_pl.errors import BingoError
from bingo_pl.evaluation import metrics
from bingo_pl.methods.registrar import Registrar
from bingo_pl.storage.atomic import replacing
from bingo_pl.studies.rows import Row, choose_rows, ready
from bingo_pl.training import experiment

console = Console()


@isolated()
def main(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's name or a YAML file")],
    method: Annotated[str, typer.Argument(metavar="METHOD", help="A row of the experiment's table")],
    grid: Annotated[list[str], typer.Argument(metavar="KEY=VALUE,VALUE,...", help="Every combination is tried")],
    output: Annotated[Path, typer.Option(help="CSV that the results are added to")],
    checkpoint: Annotated[Path | None, typer.Option(help="Trained weights, instead of a training each time")] = None,
    groups: Annotated[int, typer.Option(help="Stop after the batch with this many validation groups")] = 1000,
) -> None:
    """Register the validation groups under every combination of settings; the least mean gWI wins."""
    for combination in combinations(grid):
        (row,) = choose_rows(settings.load_table(settings.with_data(name, combination)), combination, [method])
        data = experiment.build_data(row.config, console)
        data.setup("fit")
        folder = Path(row.config.runs) / "tuning" / "_".join([name, *combination]).replace("/", "_")
        registrar, _ = ready(row, checkpoint, folder, console)
        chosen = " ".join(setting for setting in combination if not setting.startswith("data.root="))
        tried = {"experiment": name, "method": method, "settings": chosen}
        record({**tried, **validate(row, registrar, data, groups)}, output)
    console.print(pd.read_csv(output).query("experiment == @name and method == @method").to_string(index=False))


def combinations(grid: Sequence[str]) -> list[list[str]]:
    """``key=value`` settings for every combination of ``key=a,b`` and ``other=c,d``; a list stays in its brackets."""
    axes = []
    for axis in grid:
        key, equals, values = axis.partition("=")
        if not equals:
            raise BingoError(f"'{axis}' is not an axis of a grid. Write key=value,value, e.g. weights.bending=1,10")
        axes.append([f"{key}={value}" for value in values.split(",")])
    return [list(combination) for combination in itertools.product(*axes)]


def validate(row: Row, registrar: Registrar, data: GroupDataModule, groups: int) -> dict[str, float]:
    """Means over the first validation groups under their fixed misalignments."""
    device = device_of(row.config.trainer.accelerator)
    scores: dict[str, list[torch.Tensor]] = {}
    seconds, done = 0.0, 0
    for batch in data.val_dataloader():
        if done >= groups:
            break
        done += batch.groups
        batch = data.misalign_for_evaluation(batch.to(device), "val")
        start = time.perf_counter()
        with torch.no_grad():
            result = registrar(batch)
            values = metrics.evaluate(batch, result.displacement, row.config.data.label_ids)
        seconds += time.perf_counter() - start
        for key, value in values.items():
            scores.setdefault(key, []).append(value)
    means = {key: round(torch.cat(values).nanmean().item(), 4) for key, values in scores.items()}
    return {**means, "groups": done, "seconds": round(seconds, 1)}


def record(result: Mapping[str, str | float], path: Path) -> None:
    """Add a row to the CSV, in place of an older one of the same settings; each method's winner comes first."""
    key = ["experiment", "method", "settings"]
    table = pd.DataFrame([result])
    if path.exists():
        table = pd.concat([pd.read_csv(path), table]).drop_duplicates(key, keep="last")
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        best_first = {"experiment": True, "method": True, "gwi": True, "dice": False}  # populations have no gWI
        table.sort_values([*best_first], ascending=[*best_first.values()]).to_csv(temporary, index=False)


if __name__ == "__main__":
    cli.run(lambda: typer.run(main))
