"""What a folder of results says it consists of: only that may be overwritten."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from bingo_pl.errors import BingoError, FileError, InputError
from bingo_pl.images.record import sha256_of
from bingo_pl.storage.atomic import LEFTOVER, check_place, check_unused
from bingo_pl.storage.folders import recover
from bingo_pl.storage.regular import check_regular, is_folder

FILES = "files"
"""The record's entry: SHA-256 of the files by their paths in the folder, with slashes."""
REMADE = ("report.html",)
"""Files that are written again without a new record."""


def digests_of(folder: Path, *left_out: str) -> dict[str, str]:
    """SHA-256 of every file in a folder, but for those files and folders in it that are to be left out."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    relative = [path.relative_to(folder) for path in paths]
    kept = [path for path in relative if path.parts[0] not in (*left_out, *REMADE)]
    return {path.as_posix(): sha256_of(folder / path) for path in kept}


def check_output(folder: Path, overwrite: bool, record: str, inputs: Iterable[Path] = ()) -> None:
    """See, before the work, that a folder may be written; what a killed process has left of it is removed.

    Args:
        folder: it.
        overwrite: it may hold an earlier result, all of which was written here and has not changed since.
        record: the file in it that lists the others.
        inputs: files that are read.

    Raises:
        BingoError: it may not be written; what would be lost is named.
    """
    check_place(folder)
    if not folder.is_symlink():
        recover(folder)
    if not overwrite or folder.is_symlink() or not is_folder(folder) or not any(folder.iterdir()):
        check_unused(folder)
        return
    for path in inputs:
        if path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{folder} holds {path}, which is read", "Name another output")
    listed = _listed(folder / record)
    folders = {parent for name in listed for parent in (folder / name).parents}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if (path in folders and path.is_dir() and not path.is_symlink()) or name in (record, *REMADE):
            continue
        written_half = LEFTOVER.fullmatch(path.name)  # by a process that was killed
        if written_half and path.with_name(written_half[1]).relative_to(folder).as_posix() in (
            *listed,
            record,
            *REMADE,
        ):
            continue
        if name not in listed:
            raise _not_ours(folder, f"{name} in it was not written by this command")
        if path.is_symlink() or not path.is_file() or sha256_of(path) != listed[name]:
            raise _not_ours(folder, f"{name} in it has changed since it was written")


def _listed(path: Path) -> dict[str, str]:
    try:
        check_regular(path)
        return dict(json.loads(path.read_text(encoding="utf-8"))[FILES])
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise _not_ours(path.parent, f"no {path.name} in it lists its files") from error


def _not_ours(folder: Path, why: str) -> BingoError:
    return FileError(f"{folder} is not overwritten: {why}", "Move what you need elsewhere, or name another folder")
