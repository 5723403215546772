"""Options that every command has: ``--threads`` and ``--verbose``."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import typer

from bingo_pl.memory import peak_bytes, show_bytes

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")
"""What libraries, and processes that are started later, take their number of threads from."""
MOST_THREADS = 1024
LOG = logging.getLogger("bingo_pl")
Function = TypeVar("Function", bound=Callable[..., Any])

ThreadsOption = Annotated[
    int | None,
    typer.Option("--threads", min=1, max=MOST_THREADS, help="CPU threads", show_default="as many as the machine has"),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Report each step with time and memory, and errors with their traceback")
]
SHARED = {"threads": (ThreadsOption, None), "verbose": (VerboseOption, False)}
"""Options of every command, with their defaults."""


def sharing(function: Function) -> Callable[..., Any]:
    """The function with the `SHARED` options at the end of its signature, by which typer goes."""

    @functools.wraps(function)
    def shared(*arguments: Any, threads: int | None, verbose: bool, **keywords: Any) -> Any:
        use_threads(threads)
        report_steps(verbose)
        return function(*arguments, **keywords)

    own = inspect.signature(function, eval_str=True)
    more = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=option, default=default)
        for name, (option, default) in SHARED.items()
    ]
    signature = own.replace(parameters=[*own.parameters.values(), *more])
    shared.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
    del shared.__wrapped__  # else its signature would count
    shared.__signature__ = signature  # type: ignore[attr-defined]
    return shared


def use_threads(count: int | None) -> None:
    """Use so many CPU threads in this process and those that it starts; None leaves it as it is."""
    if count is None:
        return
    os.environ.update(dict.fromkeys(THREADS, str(count)))
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(count)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(count)


def report_steps(wanted: bool) -> None:
    """Whether what is logged goes to stderr, each line with the seconds since now and the most memory until then."""
    LOG.handlers.clear()
    LOG.setLevel(logging.INFO if wanted else logging.NOTSET)
    LOG.propagate = not wanted
    if wanted:
        handler = logging.StreamHandler()
        handler.setFormatter(_Stamped())
        LOG.addHandler(handler)


class _Stamped(logging.Formatter):
    def __init__(self) -> None:
        super().__init__()
        self.start = time.perf_counter()

    def format(self, record: logging.LogRecord) -> str:
        stamp = f"[{time.perf_counter() - self.start:.1f} s, {show_bytes(peak_bytes())}]"
        return f"{stamp} {super().format(record)}"
