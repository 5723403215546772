"""What a streamed registration keeps outside its chunks: velocities, finished sweeps and the sums of the one begun.

With a folder all of it is on disk, so that a killed registration resumes from the chunk it was at a second before:

    plan.json          what the results depend on; written first
    velocity_<l>.npy   the velocities of level l, as the network gave them
    sweep_<n>.pt       the result of the finished sweep n
    partial.pt         sums of the sweep begun, and of how many images

What is resumed from is checked first. All but the velocities end with their own digest (`bingo_pl.storage.resumable`);
the velocities' is in the file of the sweep that predicts them, which is written once they are on the disk.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from bingo_pl.errors import FileError, InputError, some_lines
from bingo_pl.storage import resumable
from bingo_pl.streaming.velocity_file import VelocityFile

PLAN = "plan.json"
SAVE_SECONDS = 1.0
"""What a killed process may have to do again: a GPU is done with a chunk sooner than a disk with its sums."""
REPORTED = 10
"""How many differences an error lists."""


@dataclass(frozen=True)
class Plan:
    """Everything that a streamed result depends on; where it differs nothing is resumed."""

    settings: dict[str, str]
    """By name."""
    members: list[str]
    """What each image of this process is, see `GroupSource.identity`."""

    def differences(self, other: Plan) -> Iterator[str]:
        """``what: this one's -> the other's``."""
        for name in sorted({*self.settings, *other.settings}):
            yield from _change(name, self.settings.get(name), other.settings.get(name))
        for position in range(max(len(self.members), len(other.members))):
            old, new = (plan.members[position] if position < len(plan.members) else None for plan in (self, other))
            yield from _change(f"image {position}", old, new)


def _change(name: str, old: str | None, new: str | None) -> Iterator[str]:
    if old != new:
        yield f"{name}: {old} -> {new}"


class Workspace:
    """Velocities and sums of one process, in memory or in a folder.

    Even sweeps sum what the images say of a level, odd ones predict its velocities.

    Args:
        folder: where they are kept, and looked for; None keeps them in memory.
        plan: what they belong to.
        shapes: (D, *s) of the velocities of each level.

    Raises:
        BingoError: the folder belongs to another plan, holds something damaged, or cannot be written.
    """

    def __init__(self, folder: Path | None, plan: Plan, shapes: Sequence[Sequence[int]]) -> None:
        self.folder = folder
        self.results: list[Tensor] = []
        self._saved = -math.inf
        self._written = hashlib.sha256()
        """Of the velocities of the sweep begun."""
        shapes = [(len(plan.members), *shape) for shape in shapes]
        if folder is None:
            self._arrays = [torch.empty(shape) for shape in shapes]
            return
        claim(folder, plan)
        self._files = [VelocityFile(folder / f"velocity_{level}.npy", shape) for level, shape in enumerate(shapes)]
        while (path := self._sweep_file(len(self.results))).exists():
            self.results.append(self._finished(path))

    def read(self, level: int, images: slice) -> Tensor:
        """Velocities (K, D, *s) of a level."""
        return self._arrays[level][images] if self.folder is None else self._files[level].read(images)

    def write(self, level: int, images: slice, velocity: Tensor) -> None:
        """Keep velocities (K, D, *s) of a level, whose images come in order."""
        if self.folder is None:
            self._arrays[level][images] = velocity.cpu()
            return
        content = velocity.float().cpu().numpy().tobytes()
        self._files[level].write(images, content)
        self._written.update(content)

    def begin(self, sweep: int) -> tuple[int, Tensor | float]:
        """How many images the sums of a sweep hold already, and these sums.

        Raises:
            BingoError: they, or the velocities of these images, are damaged.
        """
        self._written = hashlib.sha256()
        if self.folder is None or not (self.folder / "partial.pt").exists():
            return 0, 0.0
        partial = resumable.read_tensors(self.folder / "partial.pt")
        if partial["sweep"] != sweep:
            return 0, 0.0
        if sweep % 2:
            self._written = self._check(sweep, partial["done"], partial["velocities"])
        return partial["done"], partial["sums"]

    def save(self, sweep: int, done: int, sums: Tensor) -> None:
        """Keep the sums of a sweep over the first images, unless it is less than `SAVE_SECONDS` since the last time."""
        if self.folder is not None and time.monotonic() - self._saved >= SAVE_SECONDS:
            content = {"sweep": sweep, "done": done, "sums": sums, "velocities": self._flushed(sweep)}
            resumable.write_tensors(self.folder / "partial.pt", content)
            self._saved = time.monotonic()

    def finish(self, result: Tensor) -> None:
        """Keep the result of the next sweep."""
        sweep = len(self.results)
        self.results.append(result)
        if self.folder is not None:
            resumable.write_tensors(self._sweep_file(sweep), {"result": result, "velocities": self._flushed(sweep)})

    def forget(self, finished: int) -> None:
        """Take sweeps for unfinished, but for the first ones."""
        for sweep in reversed(range(finished, len(self.results))):
            if self.folder is not None:
                self._sweep_file(sweep).unlink()
        del self.results[finished:]

    def _finished(self, path: Path) -> Tensor:
        """The result of the next sweep, its velocities checked."""
        content, sweep = resumable.read_tensors(path), len(self.results)
        if sweep % 2:
            self._check(sweep, self._files[sweep // 2].shape[0], content["velocities"])
        result: Tensor = content["result"]
        return result

    def _check(self, sweep: int, images: int, digest: str) -> hashlib._Hash:
        """The digest of the first images' velocities; raises `BingoError` where it is not the one expected."""
        file = self._files[sweep // 2]
        found = file.digest(images)
        if found.hexdigest() != digest:
            raise resumable.damaged(file.path, f"the velocities of the first {images} images have another SHA-256")
        return found

    def _flushed(self, sweep: int) -> str:
        """The digest of the velocities written in a sweep, once they are on the disk; empty for a sweep without any."""
        if not sweep % 2:
            return ""
        self._files[sweep // 2].flush()
        return self._written.hexdigest()

    def _sweep_file(self, sweep: int) -> Path:
        assert self.folder is not None
        return self.folder / f"sweep_{sweep}.pt"


def claim(folder: Path, plan: Plan) -> None:
    """Write the plan into a folder, or find it there.

    Raises:
        BingoError: the folder belongs to another plan or to something else, holds a damaged plan, or cannot be written.
    """
    path = folder / PLAN
    if path.exists():
        content = resumable.read_json(path)
        with resumable.understood(path):
            old = Plan(**content)
        if changes := list(old.differences(plan)):
            listed = some_lines(changes, REPORTED, indent="  ")
            raise InputError(
                f"{folder} holds results of something else, so it cannot be resumed:\n{listed}",
                "Restore what it was begun with, remove that folder to begin again, or name another one",
            )
        return
    # What a killed claim leaves, see `replacing`, is nobody else's.
    if folder.is_dir() and any(not file.name.startswith(f".{PLAN}.") for file in folder.iterdir()):
        raise FileError(f"{folder} is in use by something else", "Name a folder that does not exist yet")
    resumable.write_json(path, asdict(plan))
