"""What a streamed registration will cost on this machine, from a small probe."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich.table import Table

from bingo_pl.memory import show_bytes
from bingo_pl.methods.bingo import Bingo
from bingo_pl.streaming.budget import Budget, feature_bytes, sum_bytes, velocity_bytes, working_bytes
from bingo_pl.streaming.stream import GroupSource, StreamedImage, StreamedRegistration, register_stream

PROBED_CHUNKS = 2
READ = 5
"""Images that are read to know what reading costs."""


@dataclass(frozen=True)
class FileCosts:
    """What an image costs from file to file, besides its part of the sweeps."""

    seconds: float
    disk_bytes: float


@dataclass(frozen=True)
class Estimate:
    """The costs of a group."""

    images: int
    shape: tuple[int, ...]
    budget: Budget
    seconds: float
    """To register and to make the displacements once."""
    memory_bytes: float
    """Beyond the program and the network."""
    disk_bytes: float
    """Size of a folder to resume from."""
    files: FileCosts | None = None
    """Of ``bingo register``, where the files are known."""

    def table(self) -> Table:
        """For the terminal."""
        table = Table("what", "estimate", title=f"{self.images} images of {'x'.join(map(str, self.shape))} voxels")
        table.add_row("time to register", show_seconds(self.seconds))
        table.add_row("time to register an image", f"{self.seconds / self.images:.3g} s")
        if self.files is not None:
            table.add_row("time for affine stages and writing", show_seconds(self.images * self.files.seconds))
            table.add_row("disk for the results", show_bytes(self.images * self.files.disk_bytes))
        table.add_row("memory beyond program and network", show_bytes(self.memory_bytes))
        table.add_row("disk, with a folder to resume from", show_bytes(self.disk_bytes))
        table.add_row("images at a time", str(self.budget.chunk))
        table.add_row("images whose features are kept", str(self.budget.kept))
        return table


class Noise:
    """Images of noise, of all modalities in turn."""

    def __init__(self, images: int, shape: Sequence[int], modalities: int) -> None:
        self.images = images
        self.modalities = modalities
        self.image = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, member: int) -> StreamedImage:
        return StreamedImage(self.image, member % self.modalities, self.image > 0)

    def identity(self, member: int) -> str:
        return str(member)


def estimate(
    bingo: Bingo, images: int, shape: Sequence[int], memory_bytes: int, source: GroupSource | None = None
) -> Estimate:
    """Time a probe of `PROBED_CHUNKS` chunks, with features kept and without, and scale it up.

    Args:
        bingo: in evaluation mode, on the device that will be used.
        images: M'.
        shape: *S.
        memory_bytes: as for `register_stream`; velocities are taken to be in a folder.
        source: the group, of which `READ` images are read to time that; None: reading costs nothing.

    Raises:
        BingoError: sizes that the network does not take, too little memory, or an image that cannot be read.
    """
    bingo.check_shape(shape)
    budget = Budget.of(bingo, shape, images, memory_bytes, False, None)
    probed = min(PROBED_CHUNKS * budget.chunk, images)
    noise = Noise(probed, shape, bingo.modalities)
    keeping = sum_bytes(bingo, shape) + budget.chunk * working_bytes(bingo, shape) + 1
    memories = (keeping + probed * feature_bytes(bingo, shape), keeping)
    _probe(bingo, noise, memories[0], budget.chunk)  # loads and tunes the device's kernels
    kept, computed_again = (_probe(bingo, noise, memory, budget.chunk) / probed for memory in memories)
    sweeps = 2 * len(bingo.velocity_scales)
    share = budget.kept / images
    reading = 0.0 if source is None else _time_reading(source)
    work = share * kept + (1 - share) * computed_again
    return Estimate(
        images,
        tuple(shape),
        budget,
        images * (work + reading * (share + (1 - share) * sweeps)),
        sum_bytes(bingo, shape)
        + budget.chunk * working_bytes(bingo, shape)
        + budget.kept * feature_bytes(bingo, shape),
        images * velocity_bytes(bingo, shape) + 2 * sum_bytes(bingo, shape),
    )


def _probe(bingo: Bingo, noise: Noise, memory_bytes: int, chunk: int) -> float:
    """Seconds to register, in a folder as the registration itself."""
    with TemporaryDirectory() as folder:
        _, seconds = timed_stream(bingo, noise, memory_bytes, Path(folder), chunk)
    return seconds


def timed_stream(
    bingo: Bingo, source: GroupSource, memory_bytes: int, folder: Path, chunk: int | None = None
) -> tuple[StreamedRegistration, float]:
    """`register_stream` by the clock, all displacements made but not kept: the result and the seconds."""
    start = time.perf_counter()
    result = register_stream(bingo, source, memory_bytes, folder, chunk)
    for _ in result.displacements():
        pass
    return result, time.perf_counter() - start


def _time_reading(source: GroupSource) -> float:
    """Seconds an image."""
    start = time.perf_counter()
    read = min(READ, len(source))
    for member in range(read):
        source[member]
    return (time.perf_counter() - start) / read


def show_seconds(seconds: float) -> str:
    """For a person, e.g. ``2 min 5 s``."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, whole = divmod(rest, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole} s" if minutes else f"{seconds:.3g} s"
