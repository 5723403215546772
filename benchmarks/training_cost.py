"""What gradient checkpointing, half precision and accumulation cost and save: one training step of random 3D groups.

    python -m benchmarks.training_cost [brats_cpu [48 48 48]]

Each variant runs in a process of its own: processor seconds of the second step (on a GPU seconds by the clock, the mean
of ten), and by how much the steps raised the peak of resident (on a GPU allocated) memory. Four images a group.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Sequence

import pytorch_lightning as pl
import torch

from bingo_pl import GroupBatch, config
from bingo_pl.misalign import draw_displacements, misalign
from bingo_pl.seeding import generator
from bingo_pl.training import experiment
from bingo_pl.training.task import RegistrationTask

GPU = torch.cuda.is_available()
STEPS = 10 if GPU else 1
"""That are timed, after a first one, which also loads and tunes kernels."""
VARIANTS = {
    "as it is": (),
    "bf16-mixed": ("trainer.precision=bf16-mixed",),
    "gradient_checkpointing": ("trainer.gradient_checkpointing=true",),
    "both": ("trainer.gradient_checkpointing=true", "trainer.precision=bf16-mixed"),
    "two groups": ("data.batch_size=2",),
    "two groups, one at a time": ("trainer.accumulate_grad_batches=2",),
}


def groups(count: int, shape: tuple[int, ...], seed: int) -> GroupBatch:
    images = torch.rand(count, 4, 1, *shape, generator=generator("images", seed))
    modalities = torch.arange(4).expand(count, -1)
    spacing = torch.ones(count, len(shape))
    batch = GroupBatch(images, modalities, images >= 0, images.short(), spacing, tuple(map(str, range(count))))
    draws = [draw_displacements(4, shape, (10,), 0.3, generator("fields", seed, i)) for i in range(count)]
    return misalign(batch, torch.stack(draws)).to("cuda" if GPU else "cpu")


def step(
    task: RegistrationTask, optimizer: torch.optim.Optimizer, batches: Sequence[GroupBatch], precision: str
) -> float:
    """The loss."""
    optimizer.zero_grad()
    total = 0.0
    for batch in batches:
        with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=precision == "bf16-mixed"):
            loss = task.training_step(batch, 0) / len(batches)
        loss.backward()
        total += loss.item()
    optimizer.step()
    return total


def measure(name: str, shape: tuple[int, ...], overrides: tuple[str, ...]) -> tuple[float, float, float]:
    """Seconds, 10^6 bytes, loss of the first step."""
    settings = config.load(name, [f"data.roi=[{','.join(map(str, shape))}]", *overrides])
    task = experiment.build_task(settings).to("cuda" if GPU else "cpu").train()
    task.log_dict = lambda *args, **named: None  # type: ignore[method-assign]  # there is no trainer
    pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False).strategy.connect(task)
    optimizer = torch.optim.Adam(task.parameters(), 1e-3)
    parts = settings.trainer.accumulate_grad_batches
    batches = [groups(settings.data.batch_size, shape, part) for part in range(parts)]
    before = _peak()
    loss = step(task, optimizer, batches, settings.trainer.precision)
    start = _now()
    for _ in range(STEPS):
        step(task, optimizer, batches, settings.trainer.precision)
    return (_now() - start) / STEPS, _peak() - before, loss


def _now() -> float:
    if not GPU:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def _peak() -> float:
    used = torch.cuda.max_memory_allocated() if GPU else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / 1e6


def main() -> None:
    name, *sizes = sys.argv[1:] or ["brats_cpu"]
    shape = tuple(map(int, sizes)) or (48, 48, 48)
    print(f"{name} {shape}\n| | s a step | MB | loss |\n|---|---|---|---|")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for variant, overrides in VARIANTS.items():
            seconds, megabytes, loss = pool.apply(measure, (name, shape, overrides))
            print(f"| {variant} | {seconds:.2f} | {megabytes:.0f} | {loss:.4g} |", flush=True)


if __name__ == "__main__":
    main()
