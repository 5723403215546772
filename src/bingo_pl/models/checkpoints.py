"""What a checkpoint holds: how it was made, and the weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeGuard

from torch import Tensor

from bingo_pl import config as settings
from bingo_pl.config import Config
from bingo_pl.errors import BingoError, FileError
from bingo_pl.plugins import check_trusted
from bingo_pl.storage import sealed
from bingo_pl.storage.regular import is_file

PROVENANCE = "bingo_pl"
"""The checkpoint's entry that says how it was made."""


def read_provenance(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint says of its making, see `bingo_pl.training.callbacks.Provenance`; raises as `read_weights`."""
    provenance: dict[str, Any] = read_whole(checkpoint)[PROVENANCE]
    return provenance


def read_config(checkpoint: Path) -> Config:
    """The settings that a checkpoint was trained with; raises as `read_weights`."""
    return settings.from_tree(read_provenance(checkpoint)["config"])


def read_weights(checkpoint: Path) -> tuple[Config, Mapping[str, Tensor]]:
    """The settings that a checkpoint was trained with, and the task's state.

    Only tensors and plain values are unpickled.

    Raises:
        BingoError: no such file, or not a checkpoint of this project, or damaged.
    """
    content = read_whole(checkpoint)
    return settings.from_tree(content[PROVENANCE]["config"]), content["state_dict"]


def read_whole(checkpoint: Path) -> dict[str, Any]:
    """All that a checkpoint holds, its digest checked; raises as `read_weights`."""
    if not is_file(checkpoint):
        raise FileError(f"no checkpoint at {checkpoint}", "Runs keep theirs in runs/<name>/checkpoints/")
    try:
        content = sealed.load(checkpoint)
    except sealed.DamagedFileError as error:
        raise _foreign(checkpoint, str(error)) from error
    if not _is_checkpoint(content):
        raise _foreign(checkpoint, "settings or weights are missing")
    check_trusted(content[PROVENANCE]["config"], checkpoint)
    return content


def _is_checkpoint(content: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(content, dict):
        return False
    provenance, weights = content.get(PROVENANCE), content.get("state_dict")
    return (
        isinstance(provenance, dict)
        and isinstance(provenance.get("config"), dict)
        and isinstance(weights, dict)
        and all(isinstance(name, str) and isinstance(x, Tensor) for name, x in weights.items())
    )


def _foreign(checkpoint: Path, why: str) -> BingoError:
    return FileError(
        f"{checkpoint} is not a checkpoint written by bingo_pl, or damaged ({why})",
        "Copy it again, or take another one of the run (best.ckpt, last.ckpt)",
    )
