"""Files appear whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bingo_pl.errors import BingoError

LEFTOVER = re.compile(r"\..+\.\d+\.tmp.*")
"""The names that `replacing` gives to files while they are written."""


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


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """`replacing` for a folder that is new or empty: it appears with all its files, or stays as it was.

    A killed process leaves at most a hidden ``.<name>.<process>.tmp`` beside it.

    Raises:
        BingoError: the folder is in use or cannot be written.
    """
    path = path.absolute()
    check_unused(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        try:
            yield temporary
            if path.exists():
                path.rmdir()  # empty, or an error; renaming onto a folder is not possible everywhere
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise BingoError(
            f"cannot write {path}: {error.strerror or error}. Wanted: a writable place with free space. "
            "Choose another output folder or free some space"
        ) from error


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes have left at any depth of a folder."""
    for path in folder.rglob(".*.tmp*"):
        if LEFTOVER.fullmatch(path.name) and path.is_file():
            path.unlink()


def check_unused(path: Path) -> None:
    """Raises `BingoError` where a folder to write exists and is not empty."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise BingoError(f"{path} is in use. Name a folder that does not exist yet, so that no result is overwritten")
