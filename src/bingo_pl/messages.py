"""What a person must hear of: warnings and progress, in a terminal or from Python."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeAlias, TypeVar

from rich.console import Console
from rich.markup import escape

from bingo_pl.errors import BingoWarning

Progress: TypeAlias = Callable[[str, float], None]
"""Is called with what is being done and how much of it is, from 0 to 1."""
LOG = logging.getLogger("bingo_pl")
"""Holds a line for each thing that is begun: `--verbose`."""
P = ParamSpec("P")
R = TypeVar("R")

_listener: ContextVar[Progress | None] = ContextVar("listener", default=None)


def warn(text: str, console: Console) -> None:
    """Print a warning; where the console is quiet, as from Python, issue it as `BingoWarning`."""
    if console.quiet:
        warnings.warn(text, BingoWarning, stacklevel=3)
    else:
        console.print(f"[bold yellow]warning:[/] {escape(text)}", soft_wrap=True)


def report(what: str, share: float) -> None:
    """Tell the listener, if there is one, how much is done."""
    if share == 0:
        LOG.info(what)
    if (listener := _listener.get()) is not None:
        listener(what, share)


def reporting(function: Callable[P, R]) -> Callable[P, R]:
    """While the function runs, its keyword argument ``progress`` is the listener."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        token = _listener.set(kwargs.get("progress"))  # type: ignore[arg-type]  # of the function's own signature
        try:
            return function(*args, **kwargs)
        finally:
            _listener.reset(token)

    return wrapped


@contextmanager
def doing(what: str, console: Console) -> Iterator[Callable[[str], None]]:
    """Show that something of unknown length is being done.

    Yields:
        Names a part of it that is begun.
    """
    with console.status(what) as status:

        def begin(part: str) -> None:
            status.update(part)
            report(part, 0.0)

        report(what, 0.0)
        yield begin
        report(what, 1.0)
