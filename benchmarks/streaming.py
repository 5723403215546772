"""What it takes to stream one large group: seconds an image and peak memory, for the network of an experiment.

    python -m benchmarks.streaming EXPERIMENT IMAGES MEMORY [KEY=VALUE ...]
    python -m benchmarks.streaming mscmr 10000 4GB

Weights are random and images are noise in memory, so that nothing is read: neither changes what is computed.
Velocities are in a temporary folder; displacements are made, not kept. Registered where the experiment would be
(``trainer.accelerator``), a small group first, which loads and tunes the device's kernels.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bingo_pl import config
from bingo_pl.device import device_of, isolated
from bingo_pl.methods.bingo import Bingo
from bingo_pl.streaming.budget import Budget, parse_bytes
from bingo_pl.streaming.estimate import Noise
from bingo_pl.studies.scalability import watched_stream
from bingo_pl.training import experiment


@isolated()
def main() -> None:
    name, images, memory, *overrides = sys.argv[1:]
    settings = config.load(name, overrides)
    device = device_of(settings.trainer.accelerator)
    bingo = experiment.build_task(settings).registrar.eval().to(device)
    assert isinstance(bingo, Bingo), "only BInGo streams"
    shape, modalities = tuple(settings.data.roi), len(settings.data.modalities)
    size, budget = int(images), parse_bytes(memory)
    planned = Budget.of(bingo, shape, size, budget, velocities=False, chunk=None)
    for count in (min(size, 2 * planned.chunk), size):
        with TemporaryDirectory() as folder:
            _, seconds, peak = watched_stream(bingo, Noise(count, shape, modalities), budget, Path(folder))
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    print("| group | memory given | at a time, kept | ms an image | peak memory | on |\n|---|---|---|---|---|---|")
    print(
        f"| {size} of {'x'.join(map(str, shape))} | {memory} | {planned.chunk}, {planned.kept} "
        f"| {1e3 * seconds / size:.3g} | {peak:.0f} MB | {where} |"
    )


if __name__ == "__main__":
    main()
