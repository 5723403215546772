"""Where tensors are computed, and how exactly."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from bingo_pl.errors import InputError

CHOICES = {"auto": ("cuda", "mps", "cpu"), "gpu": ("cuda", "mps"), "cuda": ("cuda",), "mps": ("mps",), "cpu": ("cpu",)}
"""What ``trainer.accelerator`` may be where one process registers, and the devices that it stands for, best first."""


def device_of(accelerator: str) -> torch.device:
    """Where one process registers.

    Args:
        accelerator: one of `CHOICES`.

    Raises:
        BingoError: no such device, or this machine does not have it.
    """
    here = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    for kind in CHOICES.get(accelerator, ()):
        if here[kind]:
            return torch.device(kind) if kind == "cpu" else torch.device(kind, 0)
    raise InputError(
        f"device '{accelerator}' cannot be used: this machine has {', '.join(kind for kind in here if here[kind])}",
        "Wanted: auto, cpu, gpu or mps (trainer.accelerator), as far as this machine has it",
    )


@contextmanager
def isolated() -> Iterator[None]:
    """Within, convolutions are exact; afterwards the process's flags, filters and random numbers are as before.

    PyTorch lets GPUs round the inputs of convolutions to ten bits unless asked not to. Displacements would then
    depend on how many images are registered at a time, by up to a third of a voxel. TorchIO's transforms draw random
    numbers even where they need none, and what PyTorch imports when it first optimises adds a filter of warnings.
    """
    numbers, more_numbers = random.getstate(), np.random.get_state()
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
        random.setstate(numbers)
        np.random.set_state(more_numbers)
