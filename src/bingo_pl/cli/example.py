"""The command ``example``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from bingo_pl.cli.common import console


def example(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that does not exist yet", show_default=False)],
    seed: Annotated[int, typer.Option(help="Seed of all random numbers")] = 0,
) -> None:
    """Write synthetic scans to try every command on, with a README.txt of commands: a head, a series, six people."""
    from bingo_pl.phantoms.example import README, example

    with console.status("drawing synthetic scans"):
        written = example(folder, seed)
    console.print(README.format(seed=seed).strip(), markup=False, highlight=False, soft_wrap=True)
    console.print(f"\nwritten: {escape(str(written))}", soft_wrap=True)
