"""The command ``check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bingo_pl.cli.common import console
from bingo_pl.errors import InputError


def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of images, a manifest (.csv) or an image")],
    label_ids: Annotated[str, typer.Option(help="Ids that label maps may hold, separated by commas. Empty: any")] = "",
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Folder for corrected copies, where that is safe; nothing in it is overwritten"
        ),
    ] = None,
) -> None:
    """Read every image file and say what would fail or mislead, why it matters and how to fix it.

    The exit status is 1 where there is an error or a warning, else 0.
    """
    from rich.progress import Progress

    from bingo_pl.checking import report as check_report
    from bingo_pl.checking.check import check as look_at

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        checkup = look_at(path, _ids(label_ids), fix, lambda files: progress.track(files, description="reading"))
    check_report.show(checkup, fix, console)
    raise typer.Exit(0 if checkup.clean else 1)


def _ids(text: str) -> set[int]:
    try:
        return {int(number) for number in text.split(",") if number}
    except ValueError as error:
        raise InputError(f"--label-ids {text} is no list of whole numbers, e.g. 1,2,4") from error
