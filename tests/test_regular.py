"""Whatever is read to its end is a file; opening a pipe would wait for somebody to write into it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bingo_pl import BingoError
from bingo_pl.images.landmarks import read_landmarks
from bingo_pl.images.manifest import read_group
from bingo_pl.images.record import read_record
from bingo_pl.models import ready_model

READERS: dict[str, Callable[[Path], object]] = {
    "group.csv": read_group,
    "points.csv": read_landmarks,
    "registration.json": lambda path: read_record(path.parent),
    "model.safetensors": ready_model.read,
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
@pytest.mark.parametrize("name", READERS)
def test_a_pipe_is_refused_instead_of_waited_at(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    threading.Thread(target=lambda: path.open("wb").close(), daemon=True).start()  # else a reader would wait for ever
    with pytest.raises(BingoError, match=rf"{name}.*is a pipe"):
        READERS[name](path)
