"""One group over the processes that a launcher started."""

from __future__ import annotations

import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

from bingo_pl.streaming.shard import Shard


def join(device: torch.device) -> Shard:
    """Meet the other processes that ``torchrun`` or SLURM's ``srun`` started; alone where neither did.

    Args:
        device: where this process registers; a GPU is replaced by the one of its local rank.
    """
    known = (TorchElasticEnvironment, SLURMEnvironment)
    environment = next((kind() for kind in known if kind.detect()), None)
    if environment is None:
        return Shard(device=device)
    rank, ranks = environment.global_rank(), environment.world_size()
    if device.type == "cuda":
        device = torch.device("cuda", environment.local_rank())
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"tcp://{environment.main_address}:{environment.main_port}",
        rank=rank,
        world_size=ranks,
    )
    return Shard(rank, ranks, device)
