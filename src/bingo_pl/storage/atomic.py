"""Files appear whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bingo_pl.errors import BingoError, FileError

NAME_BYTES, PATH_BYTES = 255, 4095
"""Of a file's name and of a whole path, on nearly every system."""
DECORATION = ".1234567.tmp"
"""What a name has at its end, beside a dot in front, while the file is written."""
BELOW = 256
"""Bytes of the paths in an output folder."""
SHOWN = 200
"""Characters of a path in an error about its length."""

LEFTOVER = re.compile(r"\.(.+)\.\d+\.tmp.*")
"""The names that `replacing` gives to files while they are written, and their own."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; what is written there becomes ``path`` when the block ends without error.

    The folder is made where it is missing; after an error the temporary file is gone and ``path`` is as it was. After
    a power failure too there is the old file or the new one, and the new one once the block has ended.

    Raises:
        BingoError: the folder or the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            to_disk(temporary)
            temporary.replace(path)
            to_disk(path.parent)
        finally:
            temporary.unlink(missing_ok=True)
    except BingoError:
        raise
    except OSError as error:
        raise FileError(
            f"cannot write {path}: {error.strerror or error}. Wanted: a writable folder with free space",
            "Choose another output folder or free some space",
        ) from error


def to_disk(path: Path) -> None:
    """Returns once a file, or a folder's list of files, survives a power failure."""
    if os.name == "nt" and path.is_dir():
        return  # Windows opens no folder
    descriptor = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes have left at any depth of a folder."""
    for path in folder.rglob(".*.tmp*"):
        if LEFTOVER.fullmatch(path.name) and path.is_file():
            path.unlink()


def check_unused(path: Path) -> None:
    """Raises `BingoError` where a folder to write exists and is not empty, is a link, or could not be written."""
    check_place(path)
    _refuse_link(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise FileError(f"{path} is in use", "Name a folder that does not exist yet, so that no result is overwritten")


def check_new_file(path: Path) -> None:
    """Raises `BingoError` where a file to write exists, is a link, or could not be written."""
    check_place(path)
    _refuse_link(path)
    if path.exists():
        raise FileError(f"{path} exists", "Name a file that does not, so that nothing is overwritten")


def check_place(path: Path) -> None:
    """Refuse, before the work, a place where no file or folder could be made after it.

    Raises:
        BingoError: a name in the path is too long, the path goes through a file, or nothing may be written there.
    """
    if problem := _obstacle(path.absolute()):
        shown = str(path) if len(str(path)) <= SHOWN else f"{str(path)[:SHOWN]}..."
        raise FileError(f"cannot write {shown}: {problem}", "Choose another output")


def _obstacle(path: Path) -> str:
    """What keeps a path from being written; empty for nothing that can be known before."""
    text = str(path)
    if "\0" in text or text.encode(errors="replace") != text.encode(errors="surrogateescape"):
        return "a name in it is not UTF-8"
    names = [*path.parts[1:-1], f".{path.name}{DECORATION}"]
    if (surplus := max(len(os.fsencode(name)) for name in names) - NAME_BYTES) > 0:
        return f"a name in it is {surplus} bytes too long"
    if (surplus := len(os.fsencode(text)) + len(DECORATION) + BELOW - PATH_BYTES) > 0:
        return f"the path is {surplus} bytes too long"
    existing = next((folder for folder in path.parents if folder.exists()), path)
    if not existing.is_dir():
        return f"{existing} is a file, but a folder is needed"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} may not be written to"
    return ""


def _refuse_link(path: Path) -> None:
    if path.is_symlink():
        raise FileError(
            f"{path} is a link (to {path.readlink()}), which would be replaced", "Name the place that is meant itself"
        )
