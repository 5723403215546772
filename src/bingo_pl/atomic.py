"""Files appear whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bingo_pl.errors import BingoError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there becomes ``path`` when the block ends without error.

    The folder is made where it is missing; after an error the temporary file is gone and ``path`` is as it was.

    Raises:
        BingoError: the folder or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise BingoError(
            f"cannot write {path}: {error.strerror or error}. Wanted: a writable folder with free space. "
            "Choose another output folder or free some space"
        ) from error
