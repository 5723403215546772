"""What it takes to stream one large group: seconds an image and peak memory, for the network of an experiment.

    python -m benchmarks.streaming EXPERIMENT IMAGES MEMORY [KEY=VALUE ...]
    python -m benchmarks.streaming mscmr 10000 4GB

Weights are random and images are noise that lies in memory, so that nothing is read: neither changes what is computed.
Velocities are in a temporary folder; displacements are made, not kept. Registered where the experiment would be
(``trainer.accelerator``), a small group first, which loads and tunes the device's kernels.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bingo_pl import config
from bingo_pl.methods.bingo import Bingo
from bingo_pl.seeding import generator
from bingo_pl.streaming.budget import Budget, parse_bytes
from bingo_pl.streaming.scalability import timed_stream
from bingo_pl.streaming.stream import StreamedImage
from bingo_pl.training import experiment
from bingo_pl.training.lightning import device_of

DIFFERENT = 64
"""Images of noise; a larger group has each of them again and again."""


class Noise:
    """A group of images of noise."""

    def __init__(self, size: int, shape: tuple[int, ...], modalities: int) -> None:
        self.size = size
        self.modalities = modalities
        self.images = torch.rand(min(size, DIFFERENT), 1, *shape, generator=generator("noise"))
        self.mask = torch.ones(1, *shape, dtype=torch.bool)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, member: int) -> StreamedImage:
        return StreamedImage(self.images[member % len(self.images)], member % self.modalities, self.mask)

    def identity(self, member: int) -> str:
        return f"noise {member}"


def main() -> None:
    name, images, memory, *overrides = sys.argv[1:]
    settings = config.load(name, overrides)
    device = device_of(settings)
    bingo = experiment.build_task(settings).registrar.eval().to(device)
    assert isinstance(bingo, Bingo), "only BInGo streams"
    shape, modalities = tuple(settings.data.roi), len(settings.data.modalities)
    size, budget = int(images), parse_bytes(memory)
    planned = Budget.of(bingo, shape, size, budget, velocities=False, chunk=None)
    for count in (min(size, 2 * planned.chunk), size):
        with TemporaryDirectory() as folder:
            _, seconds, peak = timed_stream(bingo, Noise(count, shape, modalities), budget, Path(folder))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print("| group | memory given | at a time, kept | ms an image | peak memory | on |\n|---|---|---|---|---|---|")
    print(
        f"| {size} of {'x'.join(map(str, shape))} | {memory} | {planned.chunk}, {planned.kept} "
        f"| {1e3 * seconds / size:.3g} | {peak:.0f} MB | {where} |"
    )


if __name__ == "__main__":
    main()
