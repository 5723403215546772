"""The command ``bingo``."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from bingo_pl import comparison, experiment
from bingo_pl import config as settings
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
    name = _with_data(name, overrides or ())
    config = settings.load(name, overrides or ())
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


@app.command()
def table(
    experiment_name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's name or a YAML file")],
    overrides: Overrides = None,
    methods: Annotated[str, typer.Option(help="Only these, with commas between. Empty: all of the table")] = "",
    checkpoint: Annotated[
        list[str] | None, typer.Option(metavar="METHOD=FILE", help="Take these weights instead of training")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the folder under runs/tables. Empty: the experiment's")] = "",
) -> None:
    """Compare methods on the same test groups, misaligned alike. Training is done where no checkpoint is given.

    Interrupted, the same command goes on with what is missing.
    """
    experiment_name = _with_data(experiment_name, overrides or ())
    runs = Path(settings.load(experiment_name, overrides or ()).runs)
    comparison.compare(
        settings.load_table(experiment_name),
        overrides or (),
        [method for method in methods.split(",") if method],
        dict(_checkpoint(text) for text in checkpoint or ()),
        runs / "tables" / (name or Path(experiment_name).stem),
        console,
    )


def _with_data(name: str, overrides: Sequence[str]) -> str:
    """The experiment itself, or its phantom preset where no data is given."""
    preset = f"{name}_phantom"
    return name if settings.load(name, overrides).data.root or preset not in settings.experiments() else preset


def _checkpoint(text: str) -> tuple[str, Path]:
    method, equals, path = text.partition("=")
    if not equals:
        raise BingoError(f"--checkpoint {text} is not METHOD=FILE, e.g. bingo=runs/mscmr/checkpoints/best.ckpt")
    return method, Path(path)


def main() -> None:
    """Run the command; bad input ends with its message and exit status 2, without a traceback."""
    try:
        app()
    except BingoError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)
