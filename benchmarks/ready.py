"""How well the ready model does on images it was not trained on, misaligned as any experiment's test groups are.

``python benchmarks/ready.py manifest data.root=my_images refine.steps=20``. The figures are in docs/ready_model.md.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from bingo_pl import cli
from bingo_pl import config as settings
from bingo_pl.evaluation.scoring import score_group
from bingo_pl.evaluation.tables import summary, write_test_csv
from bingo_pl.models import ready_model, registry
from bingo_pl.training import experiment

console = Console()


def main(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="Whose test groups; a name or a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Its settings")] = None,
    model: Annotated[Path | None, typer.Option(help="A model file. None: the package's")] = None,
    output: Annotated[Path | None, typer.Option(help="CSV for a row a group")] = None,
) -> None:
    """Register the test groups of an experiment with the ready model; ``refine.*`` improves each result."""
    config = settings.load(settings.with_data(name, overrides or ()), overrides or ())
    dims = len(config.data.roi)
    trained, _ = ready_model.read(model) if model else ready_model.load(dims)
    registrar = registry.refined(trained, config).eval()
    data = experiment.build_data(config, console)
    data.setup("test")
    rows = []
    for batch in data.test_dataloader():
        group = data.misalign_for_evaluation(batch, "test")
        group = dataclasses.replace(group, modalities=torch.zeros_like(group.modalities))
        rows.append(score_group(registrar, group, config.data.label_ids))
    console.print(summary(rows))
    if output:
        write_test_csv(rows, output)


if __name__ == "__main__":
    cli.run(lambda: typer.run(main))
