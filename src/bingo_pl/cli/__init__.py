"""The command ``bingo``: a file for each group of commands, which import what they need when they run."""

from __future__ import annotations

from typing import Annotated

import typer

from bingo_pl.cli.checking import check
from bingo_pl.cli.common import console
from bingo_pl.cli.example import example
from bingo_pl.cli.options import sharing
from bingo_pl.cli.process import run
from bingo_pl.cli.register import register
from bingo_pl.cli.registered import apply, atlas, convert, estimate, report
from bingo_pl.cli.studies import scalability, sweep, table
from bingo_pl.cli.training import evaluate, resume, train

__all__ = ["app", "console", "main", "run"]

EXIT_STATUS = (
    "Exit status: 0 done; 1 done, but look: findings, or a result in doubt; 2 input or options that cannot be used; "
    "70 an error of the program; 130 or 143 stopped by Ctrl-C or SIGTERM."
)

COMMANDS = (
    example,
    check,
    register,
    apply,
    convert,
    report,
    atlas,
    estimate,
    train,
    resume,
    evaluate,
    table,
    sweep,
    scalability,
)

app = typer.Typer(
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for command in COMMANDS:
    app.command()(sharing(command))


def _show_version(wanted: bool) -> None:
    if wanted:
        from bingo_pl import __version__

        console.print(__version__, highlight=False)
        raise typer.Exit


@app.callback(epilog=EXIT_STATUS)
def bingo(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """BInGo: learned groupwise registration of multimodal medical images."""


def main() -> None:
    """Run the command ``bingo``."""
    run(lambda: app(prog_name="bingo"))
