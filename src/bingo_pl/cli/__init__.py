"""The command ``bingo``: a file for each group of commands, which import what they need when they run."""

from __future__ import annotations

import typer

from bingo_pl.cli.checking import check
from bingo_pl.cli.common import console
from bingo_pl.cli.process import run
from bingo_pl.cli.register import register
from bingo_pl.cli.registered import apply, atlas, estimate, report
from bingo_pl.cli.studies import scalability, sweep, table
from bingo_pl.cli.training import evaluate, resume, train

__all__ = ["app", "console", "main", "run"]

COMMANDS = (train, resume, evaluate, table, sweep, scalability, estimate, check, register, atlas, apply, report)

app = typer.Typer(
    help="BInGo: learned groupwise registration of multimodal medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(command)


def main() -> None:
    """Run the command ``bingo``."""
    run(app)
