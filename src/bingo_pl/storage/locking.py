"""One process at a time works in a folder; a second one learns which."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from bingo_pl.errors import FileError
from bingo_pl.storage.atomic import check_place, replacing


class InUseError(FileError):
    """Another process works in the folder."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which need not exist yet.

    The system releases it when the process ends, however it ends. A process that holds it already may take it again.
    Beside the folder lie, meanwhile, ``.<name>.lock`` and ``.<name>.holder.json``, which says who holds it.

    Raises:
        InUseError: another process holds it; its id and host are named.
        BingoError: no folder can be made there, or no lock.
    """
    check_place(folder)
    folder, lock, holder = _lock_of(folder)
    check_place(holder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        if not (holder.exists() or Path(lock.lock_file).exists()):  # some places take no file, and filelock waits
            raise FileError(f"cannot make a lock in {folder.parent}: it takes no files", "Name another one") from None
        raise InUseError(
            f"{folder} is in use by {_read(holder)}", "Wait until it ends, stop it, or name another folder"
        ) from None
    except OSError as error:
        raise FileError(
            f"cannot make a lock in {folder.parent}: {error.strerror or error}. Wanted: a folder you may write to",
            "Name another one",
        ) from error
    outermost = lock.lock_counter == 1
    try:
        if outermost:
            with replacing(holder) as temporary:
                temporary.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        if outermost:  # whoever waits for a removed file sees that it is gone and makes a new one
            holder.unlink(missing_ok=True)
            with suppress(OSError):  # not on Windows, where it is open
                os.unlink(lock.lock_file)
        lock.release()


def holder_of(folder: Path) -> str:
    """Who holds the lock of a folder, in words; empty where nobody does."""
    folder, lock, holder = _lock_of(folder)
    if not Path(lock.lock_file).exists():
        return ""
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return _read(holder)
    lock.release()
    return ""


def _lock_of(folder: Path) -> tuple[Path, FileLock, Path]:
    """The folder, whatever links lead to it, its lock, and the file that says who holds that."""
    folder = Path(os.path.realpath(folder))  # resolve() raises where links go round
    lock = FileLock(folder.with_name(f".{folder.name}.lock"), is_singleton=True)
    return folder, lock, folder.with_name(f".{folder.name}.holder.json")


def _read(holder: Path) -> str:
    try:
        content = json.loads(holder.read_text())
        return f"process {content['process']} on {content['host']}"
    except (OSError, ValueError, TypeError, KeyError):  # not written yet, or just removed
        return "another process"
