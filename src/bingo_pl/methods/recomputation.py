"""Gradient checkpointing: activations that the backward pass computes again instead of keeping (Chen 2016)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, TypeVar

import torch
from torch.utils.checkpoint import checkpoint

R = TypeVar("R")

_wanted = ContextVar("wanted", default=False)
_again = ContextVar("again", default=False)


def recompute_activations(wanted: bool) -> AbstractContextManager[None]:
    """Within it, what is called through `recomputed` keeps its inputs and outputs only."""
    return _set(_wanted, wanted)


def recomputed(function: Callable[..., R], *inputs: Any) -> R:
    """``function(*inputs)``, which draws no random numbers; calls are not nested."""
    if not (_wanted.get() and torch.is_grad_enabled()):
        return function(*inputs)
    result: R = checkpoint(
        function,
        *inputs,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _set(_again, True)),
    )
    return result


def is_recomputing() -> bool:
    """Whether this is the second computation, in which running statistics must not count a batch again."""
    return _again.get()


@contextmanager
def _set(variable: ContextVar[bool], value: bool) -> Iterator[None]:
    before = variable.set(value)
    try:
        yield
    finally:
        variable.reset(before)
