"""The command ``bingo``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bingo_pl import config as settings
from bingo_pl import experiment
from bingo_pl.errors import BingoError

app = typer.Typer(
    help="BInGo: learned groupwise registration of multimodal medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the experiment's, e.g. trainer.epochs=10"),
]
CheckpointArgument = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="runs/<name>/checkpoints/last.ckpt")]


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's name or a YAML file")],
    overrides: Overrides = None,
) -> None:
    """Train on a dataset, test the best checkpoint, write tables and figures to runs/<name>/.

    Without data.root, EXPERIMENT's phantom preset is trained on the embedded synthetic cohort.
    """
    config = settings.load(name, overrides or ())
    preset = f"{name}_phantom"
    if not config.data.root and preset in settings.experiments():
        name, config = preset, settings.load(preset, overrides or ())
    experiment.train(dataclasses.replace(config, name=config.name or Path(name).stem), console)


@app.command()
def resume(
    checkpoint: CheckpointArgument,
    overrides: Overrides = None,
    allow_changed_data: Annotated[bool, typer.Option(help="Go on although the data are not the same")] = False,
) -> None:
    """Go on exactly where a checkpoint stopped."""
    experiment.resume(checkpoint, overrides or (), allow_changed_data, console)


@app.command()
def evaluate(checkpoint: CheckpointArgument, overrides: Overrides = None) -> None:
    """Test a checkpoint, on its own test split or on other data of the same modalities (data.root=...)."""
    experiment.evaluate(checkpoint, overrides or (), console)


def main() -> None:
    """Run the command; bad input ends with its message and exit status 2, without a traceback."""
    try:
        app()
    except BingoError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)
