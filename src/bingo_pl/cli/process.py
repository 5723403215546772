"""How a command ends: whatever ends it is reported in one line, with its exit status."""

from __future__ import annotations

import io
import re
import signal
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape

from bingo_pl.cli.options import LOG
from bingo_pl.errors import BingoError, BingoWarning
from bingo_pl.signals import Stopped, stopping

NO_MEMORY = re.compile(r"can't allocate memory|out of memory|failed to allocate memory|bad_alloc", re.IGNORECASE)
"""What torch, CUDA and ITK say."""


def run(command: Callable[[], object]) -> None:
    """Run a command; whatever ends it is reported in one line, without a traceback.

    Exit status, of every command:

    ===== ==========================================================================================================
    0     done
    1     done, but look: `bingo check` found an error or a warning, a registration is in doubt, nothing arrived
    2     input, settings or options that cannot be used
    70    an error that nobody foresaw, whose traceback goes to a log
    130   stopped by Ctrl-C
    141   whoever read the output has closed it, e.g. ``| head``
    143   stopped by SIGTERM
    ===== ==========================================================================================================
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8, and terminals may not know it
    try:
        with stopping(), telling_warnings():
            command()
    except BingoError as error:
        LOG.info("traceback", exc_info=error)
        _tell("error:", str(error))
        sys.exit(2)
    except Stopped as stop:
        if not stop.told:
            _tell("stopped by", str(stop).removeprefix("stopped by "))
        sys.exit(stop.code)
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # of which typer makes 1
            sys.exit(128 + signal.SIGPIPE)
        raise
    except Exception as error:
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            LOG.info("traceback", exc_info=error)
            _tell(
                "error:",
                "there is not enough memory. Take fewer or smaller images, or stream them (--memory)",
            )
            sys.exit(2)
        LOG.info("traceback", exc_info=error)
        from bingo_pl.crashes import describe, write_log

        _tell("unexpected error:", f"{describe(error)}. The traceback is in {write_log(error)}; please report it")
        sys.exit(70)


@contextmanager
def telling_warnings() -> Iterator[None]:
    """Within, what Python code would get as a `BingoWarning` is printed in one line, once."""
    show = warnings.showwarning

    def tell(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if issubclass(category, BingoWarning):
            _tell("warning:", str(message), "yellow")
        else:
            show(message, category, *where, **more)

    with warnings.catch_warnings():
        warnings.showwarning = tell
        yield


def _tell(kind: str, text: str, colour: str = "red") -> None:
    console = Console(stderr=True, emoji=False)
    console.print(f"[bold {colour}]{kind}[/] {escape(text)}", soft_wrap=True, highlight=False)
