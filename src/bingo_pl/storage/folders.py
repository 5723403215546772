"""A folder of results appears whole or not at all, and what a killed process left of one is removed."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bingo_pl.errors import BingoError, FileError
from bingo_pl.storage.atomic import check_unused
from bingo_pl.storage.locking import held

MARK = ".bingo_pl"
"""Lies in every folder of work that `replacing_folder` makes: none without it is removed."""
NEW, OLD = "new", "old"
"""In such a folder: what is being written, and what it replaces."""


@contextmanager
def replacing_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """`replacing` for a folder that is new or empty: it appears with all its files, or stays as it was.

    It is written in a hidden ``.<name>.<process>.tmp`` beside it, which a killed process leaves and `recover` removes.

    Args:
        path: the folder.
        overwrite: replace what is there; the caller has seen to it that this may be lost.

    Raises:
        BingoError: the folder is in use, by another process too, or cannot be written.
    """
    path = path.absolute()
    if not overwrite:
        check_unused(path)
    work = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    new, old = work / NEW, work / OLD
    with held(path):
        try:
            work.mkdir(parents=True)
            try:
                (work / MARK).touch()
                new.mkdir()
                yield new
                if overwrite and path.exists():
                    path.replace(old)
                elif path.exists():
                    path.rmdir()  # empty, or an error; renaming onto a folder is not possible everywhere
                new.replace(path)
            finally:
                _remove(work, path)
        except BingoError as error:  # of a file in it, which has not got its place yet
            what, remedy = (text.replace(str(new), str(path)) for text in (error.what, error.remedy))
            raise type(error)(what, remedy) from error
        except OSError as error:
            raise FileError(
                f"cannot write {path}: {error.strerror or error}. Wanted: a writable place with free space",
                "Choose another output folder or free some space",
            ) from error


def recover(path: Path) -> None:
    """Remove what killed processes have left of a folder; where one was amid replacing it, put the old one back.

    Raises:
        InUseError: another process is writing the folder.
    """
    path = path.absolute()
    if _left(path):
        with held(path):  # whoever writes holds it, so what is there now is dead
            for work in _left(path):
                _remove(work, path)


def _left(path: Path) -> list[Path]:
    """Folders of work beside a folder."""
    name = re.compile(rf"\.{re.escape(path.name)}\.\d+\.tmp")
    try:
        beside = [each for each in path.parent.iterdir() if name.fullmatch(each.name) and not each.is_symlink()]
        return [each for each in beside if each.is_dir() and ((each / MARK).exists() or not any(each.iterdir()))]
    except OSError:
        return []  # nothing was, or can be, written there


def _remove(work: Path, path: Path) -> None:
    if (work / OLD).exists() and not path.exists():
        (work / OLD).replace(path)
    shutil.rmtree(work, ignore_errors=True)
