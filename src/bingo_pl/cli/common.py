"""What several commands share: the terminal and arguments."""

from __future__ import annotations

import glob
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console

from bingo_pl.errors import InputError

console = Console(emoji=False)  # ":x:" in a path is no picture

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the experiment's, e.g. trainer.epochs=10"),
]
CheckpointArgument = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="Checkpoint, runs/<name>/checkpoints/last.ckpt")
]


def _experiments(incomplete: str) -> list[str]:
    """Names to complete, and where none begins so, what the shell completes: files."""
    folder = Path(__file__).parents[1] / "experiments"
    return sorted(file.stem for file in folder.glob(f"{glob.escape(incomplete)}*.yaml"))


Experiment = Annotated[
    str,
    typer.Argument(metavar="EXPERIMENT", help="Name of an experiment, or a YAML file", autocompletion=_experiments),
]
NewFolder = Annotated[Path, typer.Option("--output", "-o", help="Folder that does not exist yet")]
Device = Annotated[Literal["auto", "cpu", "gpu", "mps"], typer.Option(help="Device to compute on")]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite", help="Replace an earlier result, where this command wrote all of it and it has not changed since"
    ),
]
InterpolationName = Literal["linear", "bspline", "lanczos", "nearest"]
MemoryOption = Annotated[
    str, typer.Option(help="Memory budget for images being processed, features and running sums, e.g. 500MB or 4GB")
]


def on_device(overrides: list[str] | None, device: str) -> list[str]:
    """Settings with the device among them, where one is named."""
    return [*(overrides or ()), *([] if device == "auto" else [f"trainer.accelerator={device}"])]


def pairs_of(texts: list[str] | None, option: str, example: str) -> dict[str, Path]:
    """Files by name, of an option that is given once for each name as NAME=FILE.

    Raises:
        BingoError: a name comes twice.
    """
    found: dict[str, Path] = {}
    for text in texts or ():
        name, path = pair(text, "NAME=FILE", example)
        if name in found:
            raise InputError(f"{option} names '{name}' twice: {found[name]} and {path}", "Leave one of them out")
        found[name] = path
    return found


def pair(text: str, what: str, example: str) -> tuple[str, Path]:
    """The two sides of NAME=FILE."""
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InputError(f"'{text}' is not {what}, e.g. {example}")
    return name, Path(path)
