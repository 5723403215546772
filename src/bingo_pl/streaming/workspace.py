"""What a streamed registration keeps outside its chunks: velocities, finished sweeps and the sums of the one begun.

With a folder all of it is on disk, so that a killed registration goes on from the chunk it was at a second before:

    plan.json          what the results depend on; written first
    velocity_<l>.npy   the velocities of level l, as the network gave them
    sweep_<n>.pt       the result of the finished sweep n
    partial.pt         sums of the sweep begun, and of how many images
"""

from __future__ import annotations

import json
import math
import pickle
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.atomic import replacing
from bingo_pl.errors import BingoError

PLAN = "plan.json"
SAVE_SECONDS = 1.0
"""What a killed process may have to do again: a GPU is done with a chunk sooner than a disk with its sums."""
REPORTED = 10
"""How many differences an error lists."""


@dataclass(frozen=True)
class Plan:
    """Everything that a streamed result depends on; what differs cannot be gone on with."""

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

    Args:
        folder: where they are kept, and looked for; None keeps them in memory.
        plan: what they belong to.
        shapes: (D, *s) of the velocities of each level.

    Raises:
        BingoError: the folder belongs to another plan, or cannot be written.
    """

    def __init__(self, folder: Path | None, plan: Plan, shapes: Sequence[Sequence[int]]) -> None:
        self.folder = folder
        self.shapes = [(len(plan.members), *shape) for shape in shapes]
        self.results: list[Tensor] = []
        self._saved = -math.inf
        if folder is None:
            self.arrays = [np.empty(shape, np.float32) for shape in self.shapes]
            return
        claim(folder, plan)
        for level, shape in enumerate(self.shapes):
            if not self._velocity_file(level).exists():
                _allocate(self._velocity_file(level), shape)
        while (path := self._sweep_file(len(self.results))).exists():
            self.results.append(load(path)["result"])

    def read(self, level: int, images: slice) -> Tensor:
        """Velocities (K, D, *s) of a level."""
        return torch.from_numpy(np.array(self._velocities(level)[images]))

    def write(self, level: int, images: slice, velocity: Tensor) -> None:
        """Keep velocities (K, D, *s) of a level."""
        self._velocities(level)[images] = velocity.cpu().numpy()

    def begun(self, sweep: int) -> tuple[int, Tensor | float]:
        """How many images the sums of a sweep hold already, and these sums."""
        if self.folder is None or not (self.folder / "partial.pt").exists():
            return 0, 0.0
        partial = load(self.folder / "partial.pt")
        return (partial["done"], partial["sums"]) if partial["sweep"] == sweep else (0, 0.0)

    def save(self, sweep: int, done: int, sums: Tensor) -> None:
        """Keep the sums of a sweep over the first images, unless it is less than `SAVE_SECONDS` since the last time."""
        if self.folder is not None and time.monotonic() - self._saved >= SAVE_SECONDS:
            with replacing(self.folder / "partial.pt") as temporary:
                torch.save({"sweep": sweep, "done": done, "sums": sums}, temporary)
            self._saved = time.monotonic()

    def finish(self, result: Tensor) -> None:
        """Keep the result of the next sweep."""
        self.results.append(result)
        if self.folder is not None:
            with replacing(self._sweep_file(len(self.results) - 1)) as temporary:
                torch.save({"result": result}, temporary)

    def _velocities(self, level: int) -> NDArray[np.float32]:
        """A map that is opened anew each time, since the pages of an open one count as memory of the process."""
        if self.folder is None:
            return self.arrays[level]
        return np.lib.format.open_memmap(self._velocity_file(level), mode="r+")

    def _velocity_file(self, level: int) -> Path:
        assert self.folder is not None
        return self.folder / f"velocity_{level}.npy"

    def _sweep_file(self, sweep: int) -> Path:
        assert self.folder is not None
        return self.folder / f"sweep_{sweep}.pt"


def claim(folder: Path, plan: Plan) -> None:
    """Write the plan into a folder, or find it there.

    Raises:
        BingoError: the folder belongs to another plan or to something else, or cannot be written.
    """
    path = folder / PLAN
    if path.exists():
        try:
            old = Plan(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise BingoError(f"{path} cannot be read ({error}). Delete {folder} to begin anew") from error
        if changes := list(old.differences(plan)):
            more = f"\n  ... and {len(changes) - REPORTED} more" if len(changes) > REPORTED else ""
            listed = "".join(f"\n  {line}" for line in changes[:REPORTED])
            raise BingoError(
                f"{folder} holds results of something else, which cannot be gone on with:{listed}{more}\n"
                "Restore what it was begun with, remove that folder to begin anew, or name another one"
            )
        return
    # What a killed claim leaves, see `replacing`, is nobody else's.
    if folder.is_dir() and any(not file.name.startswith(f".{PLAN}.") for file in folder.iterdir()):
        raise BingoError(f"{folder} is in use by something else. Name a folder that does not exist yet")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(asdict(plan)))


def _allocate(path: Path, shape: Sequence[int]) -> None:
    """A file of zeros, written out: a map that finds the disk full later kills the process."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": tuple(shape)}
        np.lib.format.write_array_header_1_0(file, header)
        for _ in range(shape[0]):
            file.write(bytes(4 * math.prod(shape[1:])))


def load(path: Path) -> dict:
    """What `torch.save` wrote; raises `BingoError` where it cannot be read."""
    try:
        content: dict = torch.load(path, weights_only=True)
        return content
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError) as error:
        raise BingoError(f"{path} cannot be read ({error}). Delete {path.parent} to begin anew") from error
