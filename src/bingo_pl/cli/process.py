"""How a command ends: whatever ends it is told in one line, with its exit status."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape

from bingo_pl.errors import BingoError
from bingo_pl.signals import Stopped, stopping


def run(command: Callable[[], object]) -> None:
    """Run a command; whatever ends it is told in one line, without a traceback.

    Exit status: 2 for bad input, 128 + signal where it was stopped (130 for Ctrl-C, 143 for SIGTERM), 70 for an error
    that nobody foresaw, whose traceback goes to a log.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8, and terminals may not know it
    try:
        with stopping():
            command()
    except BingoError as error:
        _tell("error:", str(error))
        sys.exit(2)
    except Stopped as stop:
        if not stop.told:
            _tell("stopped by", str(stop).removeprefix("stopped by "))
        sys.exit(stop.code)
    except Exception as error:
        from bingo_pl.crashes import describe, write_log

        _tell("unexpected error:", f"{describe(error)}. The traceback is in {write_log(error)}; please report it")
        sys.exit(70)


def _tell(kind: str, text: str) -> None:
    console = Console(stderr=True, emoji=False)
    console.print(f"[bold red]{kind}[/] {escape(text)}", soft_wrap=True, highlight=False)
