"""Where tensors are computed, and how exactly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from bingo_pl.errors import BingoError

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
    raise BingoError(
        f"device '{accelerator}' cannot be used: this machine has {', '.join(kind for kind in here if here[kind])}. "
        "Wanted: auto, cpu, gpu or mps (trainer.accelerator), as far as this machine has it"
    )


@contextmanager
def full_precision() -> Iterator[None]:
    """Within, GPUs do not round the inputs of convolutions to ten bits, which PyTorch lets them unless told otherwise.

    Displacements would then depend on how many images are registered at a time, by up to a third of a voxel.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
