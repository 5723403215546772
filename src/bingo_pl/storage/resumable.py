"""Files that an interrupted run is resumed from: each ends with the SHA-256 of what it holds.

A file that was cut short, edited or damaged is refused instead of being taken for what was written.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bingo_pl.errors import BingoError, FileError
from bingo_pl.storage import sealed
from bingo_pl.storage.atomic import replacing

SEAL = hashlib.sha256().digest_size * 2 + 1
"""Bytes at the end of a file of JSON: a line break and the digest, hexadecimal."""


def write_json(path: Path, tree: Any) -> None:
    """Write what JSON can hold; raises `BingoError` where that is not possible."""
    content = json.dumps(tree).encode()
    with replacing(path) as temporary:
        temporary.write_bytes(content + _seal(content))


def read_json(path: Path) -> Any:
    """What `write_json` wrote; raises `BingoError` where the file is missing or holds anything else."""
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    content, seal = stored[:-SEAL], stored[-SEAL:]
    if seal != _seal(content):
        raise damaged(path, f"{len(stored)} bytes whose SHA-256 is not the one at their end")
    return json.loads(content)


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Within, what was read from a file is taken apart; raises `BingoError` where it holds something else."""
    try:
        yield
    except BingoError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise damaged(path, f"something else is in it: {type(error).__name__} {error}") from error


def write_tensors(path: Path, content: dict[str, Any]) -> None:
    """Write tensors and numbers by name; raises `BingoError` where that is not possible."""
    with replacing(path) as temporary, temporary.open("w+b") as file:
        sealed.write(content, file)


def read_tensors(path: Path) -> dict[str, Any]:
    """What `write_tensors` wrote; raises `BingoError` where the file is missing or holds anything else."""
    try:
        content: dict[str, Any] = sealed.load(path, unsealed=False)
    except sealed.DamagedFileError as error:
        raise damaged(path, str(error)) from error
    return content


def damaged(path: Path, reason: str) -> BingoError:
    """The error for a file that cannot be resumed from."""
    return FileError(
        f"{path}: is not what was written there, so it cannot be resumed from ({reason})",
        f"Delete the folder {path.parent} and repeat the command, which then does that part again",
    )


def _seal(content: bytes) -> bytes:
    return b"\n" + hashlib.sha256(content).hexdigest().encode()
