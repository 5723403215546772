"""Registers one group with the clock running and measures the result: the rows of the comparison and of test.csv."""

from __future__ import annotations

import ctypes
import gc
import math
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bingo_pl.batch import GroupBatch
from bingo_pl.evaluation import metrics
from bingo_pl.evaluation.tables import GroupScores
from bingo_pl.methods.registrar import Registrar, Registration

UNREGISTERED = "none"
"""The method that does nothing."""
MEGABYTE = 1e6
PROCESS = Path("/proc/self")
"""Where Linux tells a process of its memory."""


@dataclass(frozen=True)
class Scores:
    """One method on one group; the fields are the columns of groups.csv, in order. NaN: could not be measured."""

    method: str
    group: str
    """The group's name and draw, ``<name>#<draw>``."""
    size: int
    """Images in the group."""
    dice: float
    """0 to 1; NaN without labels."""
    gwi: float
    """Groupwise warping index in voxels; NaN where the true misalignment is unknown."""
    hd95_mm: float
    """95th percentile of the Hausdorff distance; NaN without a class that two images share, as `assd_mm`."""
    assd_mm: float
    """Average symmetric surface distance."""
    folding_percent: float
    """Share of voxels whose Jacobian determinant is not positive."""
    sdlogj: float
    """Standard deviation of the logarithm of the Jacobian determinant."""
    seconds: float
    """Time to register the group; NaN unregistered."""
    peak_memory_mb: float
    """Peak memory while registering in 10^6 bytes, see `timed`; NaN unregistered."""


def score(
    method: str, registrar: Registrar, batch: GroupBatch, label_ids: Sequence[int]
) -> tuple[Scores, Registration]:
    """Register one group (B = 1) and measure it.

    A first call on a device also loads and tunes its kernels: register some group of this shape before.

    Args:
        method: the registrar's name in the table.
        registrar: in evaluation mode, on the batch's device.
        batch: one group.
        label_ids: foreground classes.
    """
    result, seconds, peak_memory_mb = timed(registrar, batch)
    return _scores(method, batch, result.displacement, label_ids, seconds, peak_memory_mb), result


def score_unregistered(batch: GroupBatch, label_ids: Sequence[int]) -> Scores:
    """Measure one group (B = 1) as it is, under the method name `UNREGISTERED`."""
    return _scores(UNREGISTERED, batch, _no_displacement(batch), label_ids, math.nan, math.nan)


def score_group(registrar: Registrar, batch: GroupBatch, label_ids: Sequence[int]) -> GroupScores:
    """Register one group (B = 1) and measure it before and after. See `score`."""
    result, seconds, _ = timed(registrar, batch)
    before = _evaluate(batch, _no_displacement(batch), label_ids)
    after = _evaluate(batch, result.displacement, label_ids)
    return GroupScores(
        group=batch.names[0],
        size=batch.size,
        dice_before=before["dice"],
        dice_after=after["dice"],
        gwi_before=before["gwi"],
        gwi_after=after["gwi"],
        folding_percent=after["folding_percent"],
        seconds=seconds,
    )


def timed(registrar: Registrar, batch: GroupBatch) -> tuple[Registration, float, float]:
    """Register a batch without gradients (a method that optimises turns them on for itself).

    Returns:
        The result, the seconds until the device had finished, and the peak memory meanwhile in 10^6 bytes. On a GPU
        that is the most that tensors occupied, weights and batch among them. On a CPU under Linux it is by how much the
        process's resident memory rose at most. Other systems only know the peak since the process began, so there it
        is NaN.
    """
    assert not registrar.training, "registrars are scored in evaluation mode"
    device = batch.images.device
    before = watch_memory(device)
    start = _now(device)
    with torch.no_grad():
        result = registrar(batch)
    seconds = _now(device) - start
    return result, seconds, math.nan if before is None else (peak_memory_bytes(device) - before) / MEGABYTE


def _scores(
    method: str,
    batch: GroupBatch,
    displacement: Tensor,
    label_ids: Sequence[int],
    seconds: float,
    peak_memory_mb: float,
) -> Scores:
    values = _evaluate(batch, displacement, label_ids)
    registered = metrics.warp_group_labels(batch.labels, displacement)
    hd95, assd = metrics.surface_distances(registered, label_ids, batch.spacing)
    return Scores(
        method=method,
        group=batch.names[0],
        size=batch.size,
        dice=values["dice"],
        gwi=values["gwi"],
        hd95_mm=hd95.item(),
        assd_mm=assd.item(),
        folding_percent=values["folding_percent"],
        sdlogj=metrics.sdlogj(displacement).item(),
        seconds=seconds,
        peak_memory_mb=peak_memory_mb,
    )


def _evaluate(batch: GroupBatch, displacement: Tensor, label_ids: Sequence[int]) -> dict[str, float]:
    """`metrics.evaluate` of one group, in full precision also where Lightning registers in half: voxels are counted."""
    assert batch.groups == 1, f"groups are scored one at a time, got {batch.groups}"
    with torch.autocast(displacement.device.type, enabled=False):
        values = metrics.evaluate(batch, displacement, label_ids)
    return {name: value.item() for name, value in values.items()}


def _no_displacement(batch: GroupBatch) -> Tensor:
    """(B, N, D, *S) zeros."""
    return batch.images.new_zeros(batch.groups, batch.size, len(batch.shape), *batch.shape)


def _now(device: torch.device) -> float:
    """The clock, once the device has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def watch_memory(device: torch.device) -> int | None:
    """Let the peak be that from now on, above the bytes returned; None where it cannot be measured."""
    gc.collect()  # what others left behind would be freed under way, and the peak drown in it
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return 0
    if platform.libc_ver()[0] == "glibc":
        # It keeps what earlier calls have freed, and would serve this one from it without a rise. To take it again
        # costs a network that is done in 20 ms a millisecond.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (PROCESS / "clear_refs").write_text("5")  # resets VmHWM, see man 5 proc_pid_clear_refs
    except OSError:  # not Linux, or a container that forbids it
        return None
    return _process_bytes("VmRSS")


def peak_memory_bytes(device: torch.device) -> int:
    """Since `watch_memory`: of the process, on a GPU of its tensors."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else _process_bytes("VmHWM")


def _process_bytes(entry: str) -> int:
    status = dict(line.split(":", 1) for line in (PROCESS / "status").read_text().splitlines())
    return 1024 * int(status[entry].removesuffix("kB"))
