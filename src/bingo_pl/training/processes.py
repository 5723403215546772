"""The processes of one run: the first one decides, the others learn what."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.utilities import rank_zero_only

from bingo_pl.errors import BingoError, InputError
from bingo_pl.storage.locking import held

HELD = "BINGO_HELD"
"""Environment variable by which the processes of one run know that its folder is held."""
PATIENCE = timedelta(days=1)
"""While the first process reads a cohort, the others wait."""


def agreed(name: str, decide: Callable[[], str]) -> str:
    """What the first process decides, on every process of the run; the others wait for it.

    Processes that Lightning starts come after the decision and find it in their environment. Those that ``torchrun`` or
    SLURM's ``srun`` started all at once learn of it.

    Args:
        name: of the environment variable.
        decide: called on the first process only.

    Raises:
        BingoError: as ``decide``, or, on the others, because it raised.
    """
    environment = launcher()
    if environment is None:
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            os.environ[name] = decide()
        return os.environ[name]
    _join(environment)
    told: list[str | None] = [None]
    try:
        if environment.global_rank() == 0:
            told = [decide()]
    finally:
        dist.broadcast_object_list(told, src=0, group=dist.new_group(timeout=PATIENCE, backend="gloo"))
    if told[0] is None:
        raise BingoError("the first process stopped; its message says why")
    return told[0]


@contextmanager
def held_by_first(folder: Path) -> Iterator[None]:
    """The lock of a run's folder, held by its first process for all of them; see `bingo_pl.storage.locking.held`."""
    with ExitStack() as lock:

        def hold() -> str:
            lock.enter_context(held(folder))
            return str(folder)

        agreed(HELD, hold)
        yield


def check_processes(devices: int) -> None:
    """Raises `BingoError` where a launcher started another number of processes than there are to be devices."""
    environment = launcher()
    if environment is not None and environment.world_size() != devices:
        raise InputError(
            f"{environment.world_size()} processes were started, but trainer.devices={devices}",
            "Set it to the number of processes, or start one process, which starts the others",
        )


def launcher() -> ClusterEnvironment | None:
    """Who started several processes for this run at once, if anybody."""
    kinds: tuple[type[ClusterEnvironment], ...] = (TorchElasticEnvironment, SLURMEnvironment)
    environment = next((kind() for kind in kinds if kind.detect()), None)
    return environment if environment is not None and environment.world_size() > 1 else None


def leave() -> None:
    """End what the processes share, after all have come here. What one does then is nobody else's."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _join(environment: ClusterEnvironment) -> None:
    """Meet the others. Lightning will use this process group."""
    if dist.is_initialized():
        return
    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.set_device(environment.local_rank())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo",
        init_method=f"tcp://{environment.main_address}:{environment.main_port}",
        rank=environment.global_rank(),
        world_size=environment.world_size(),
    )
