"""What a checkpoint says of its making."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from bingo_pl import config as settings
from bingo_pl.config import Config
from bingo_pl.errors import BingoError

PROVENANCE = "bingo_pl"
"""The checkpoint's entry that says how it was made."""


def read_provenance(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its making, see `bingo_pl.training.callbacks.Provenance`.

    Only tensors and plain values are unpickled.

    Raises:
        BingoError: no such file, or not a checkpoint of this project.
    """
    if not checkpoint.is_file():
        raise BingoError(f"no checkpoint at {checkpoint}. Runs keep theirs in runs/<name>/checkpoints/")
    try:
        provenance: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)[PROVENANCE]
        return provenance
    except Exception as error:  # torch.load raises whatever the bytes provoke
        raise BingoError(f"{checkpoint} is not a checkpoint written by bingo_pl ({type(error).__name__})") from error


def read_config(checkpoint: Path) -> Config:
    """The settings that a checkpoint was trained with; raises as `read_provenance`."""
    return settings.from_tree(read_provenance(checkpoint)["config"])
