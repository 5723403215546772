"""Preprocessed groups on disk, one folder a case, named by everything that determines its content.

    <folder>/<dataset>/<case>-<key>/0.pt, 1.pt, ...   the case's groups
    <folder>/<dataset>/<case>-<key>/index.json        written last: the case is complete

The key hashes the settings, `VERSION` and the path, size and modification time of each input file, so
a touched file or another setting is another folder and nothing is ever invalidated. Every file is
written beside its place and renamed, so processes may share the cache and be killed at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from rich.progress import track

from bingo_pl.batch import GroupBatch
from bingo_pl.data_modules.cases import Case, Preprocessing
from bingo_pl.errors import BingoError, FileError, InputError, some_lines
from bingo_pl.storage import sealed

VERSION = 2
"""Increase when preprocessing writes something else for the same input."""
REPORTED = 10
"""How many bad cases one error lists."""


@dataclass(frozen=True)
class CachedGroup:
    """Where a preprocessed group lies, and what is needed to know before it is loaded."""

    path: Path
    name: str
    size: int
    """N, images in the group."""


@dataclass(frozen=True)
class GroupCache:
    """The preprocessed cases of one dataset."""

    folder: Path
    dataset: str
    root: Path
    """Input files below it are keyed by their relative path, so that a moved cohort stays valid."""
    settings: Preprocessing

    def key(self, case: Case) -> str:
        """Hexadecimal hash of everything that determines the case's groups."""
        members = [
            (member.modality, [(*self._identity(path), path == member.label) for path in member.files])
            for member in case.members
        ]
        content = json.dumps([VERSION, self.dataset, case.name, asdict(self.settings), members])
        return hashlib.blake2b(os.fsencode(content), digest_size=12).hexdigest()

    def prepare(self, cases: Sequence[Case], read: Callable[[Case], list[GroupBatch]], threads: int) -> None:
        """Preprocess the cases that the cache lacks.

        Args:
            cases: all cases of the cohort.
            read: turns a case into batches of one group without ground truth.
            threads: cases in work at once.

        Raises:
            BingoError: some cases are bad (all are tried, `REPORTED` are listed), or the cache cannot be written.
        """

        def attempt(case: Case) -> str | None:
            try:
                self._write(case, read(case))
            except BingoError as error:
                return str(error)
            return None

        missing = [case for case in cases if not os.path.exists(self._index(case))]
        with ThreadPoolExecutor(threads) as pool:
            results = pool.map(attempt, missing)
            progress = track(results, f"Preprocessing {self.dataset}", len(missing), disable=not missing)
            try:
                problems = [problem for problem in progress if problem]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)  # else it would first work on all that is left
                raise
        if problems:
            raise InputError(some_lines(problems, REPORTED))

    def groups(self, case: Case) -> list[CachedGroup]:
        """The groups of a prepared case. Raises `BingoError` if it is not, or its files changed since."""
        index = self._index(case)
        if not os.path.exists(index):  # which says no where another user does not let us look; Path.exists() raises
            raise FileError(f"{case.name} is not preprocessed, or its files were changed meanwhile", "Run again")
        try:
            entries = json.loads(index.read_text())
            groups = [
                CachedGroup(index.parent / f"{i}.pt", one["name"], int(one["size"])) for i, one in enumerate(entries)
            ]
            lost = next((group.path for group in groups if not os.access(group.path, os.R_OK)), None)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise _unusable(index, error) from error
        if lost:
            raise _unusable(lost, "it is gone, or another user's that you may not read")
        return groups

    def _index(self, case: Case) -> Path:
        return self.folder / self.dataset / f"{case.name}-{self.key(case)}" / "index.json"

    def _write(self, case: Case, batches: list[GroupBatch]) -> None:
        index = self._index(case)
        try:
            index.parent.mkdir(parents=True, exist_ok=True)
            entries = []
            for i, batch in enumerate(batches):
                save_group(batch, index.parent / f"{i}.pt")
                entries.append({"name": batch.names[0], "size": batch.size})
            _write_atomically(index, lambda file: file.write(json.dumps(entries).encode()))
        except OSError as error:
            raise FileError(
                f"cannot write preprocessed images to {index.parent} ({error})",
                "Free space there or set data.cache_dir to another folder",
            ) from error

    def _identity(self, path: Path) -> tuple[str, int, int]:
        try:
            status = path.stat()
        except OSError as error:
            raise FileError(
                f"{path}: cannot be found or accessed ({error.strerror})", "Correct the path or the permissions"
            ) from error
        name = path.relative_to(self.root) if path.is_relative_to(self.root) else path
        return name.as_posix(), status.st_size, status.st_mtime_ns


def save_group(batch: GroupBatch, path: Path) -> None:
    """Write a batch of one group without ground truth."""
    assert batch.groups == 1
    assert batch.truth is None
    content = {
        "images": batch.images,
        "modalities": batch.modalities,
        "masks": batch.masks,
        "labels": batch.labels,
        "spacing": batch.spacing,
        "name": batch.names[0],
    }
    _write_atomically(path, lambda file: sealed.write(content, file))


def load_group(group: CachedGroup) -> GroupBatch:
    """Read what `save_group` wrote.

    Raises:
        BingoError: the file is gone or damaged, or holds images that are not finite.
    """
    try:
        content = sealed.load(group.path)
        if sealed.nonfinite({"images": content["images"], "spacing": content["spacing"]}):
            raise ValueError("its images are not finite")
        return GroupBatch(
            images=content["images"],
            modalities=content["modalities"],
            masks=content["masks"],
            labels=content["labels"],
            spacing=content["spacing"],
            names=(content["name"],),
        )
    except Exception as error:  # torch.load raises whatever the bytes provoke
        raise _unusable(group.path, error) from error


def _unusable(path: Path, reason: object) -> BingoError:
    """The error for a file of the cache that was damaged or belongs to somebody else."""
    text = next(iter(str(reason).splitlines()), "") or type(reason).__name__
    return FileError(
        f"{path}: the preprocessed group cannot be read ({text})",
        f"Delete {path.parent} and run again, or set data.cache_dir to a folder of your own",
    )


def _write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """A name that is nobody else's, also on other machines, and permissions as the user has them by default: several
    users may share a cache."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("w+b") as file:
            write(file)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
