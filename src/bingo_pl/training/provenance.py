"""What a checkpoint holds: how it was made, and the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bingo_pl import config as settings
from bingo_pl.config import Config
from bingo_pl.errors import BingoError

PROVENANCE = "bingo_pl"
"""The checkpoint's entry that says how it was made."""


def read_provenance(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its making, see `bingo_pl.training.callbacks.Provenance`; raises as `read_weights`."""
    return _read(checkpoint)[0]


def read_config(checkpoint: Path) -> Config:
    """The settings that a checkpoint was trained with; raises as `read_weights`."""
    return settings.from_tree(read_provenance(checkpoint)["config"])


def read_weights(checkpoint: Path) -> tuple[Config, Mapping[str, Tensor]]:
    """The settings that a checkpoint was trained with, and the task's state.

    Only tensors and plain values are unpickled.

    Raises:
        BingoError: no such file, or not a checkpoint of this project.
    """
    provenance, weights = _read(checkpoint)
    return settings.from_tree(provenance["config"]), weights


def _read(checkpoint: Path) -> tuple[dict[str, Any], Mapping[str, Tensor]]:
    if not checkpoint.is_file():
        raise BingoError(f"no checkpoint at {checkpoint}. Runs keep theirs in runs/<name>/checkpoints/")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return content[PROVENANCE], content["state_dict"]
    except Exception as error:  # torch.load raises whatever the bytes provoke
        raise BingoError(f"{checkpoint} is not a checkpoint written by bingo_pl ({type(error).__name__})") from error
