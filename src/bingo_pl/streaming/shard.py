"""One group over several processes: each holds a part of the images, their sums are added up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from bingo_pl.errors import InputError

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Shard:
    """This process among those that share a group; one process alone by default."""

    rank: int = 0
    ranks: int = 1
    device: torch.device = CPU
    """Where tensors must be to be sent: the GPU for nccl, the CPU for gloo."""

    def members(self, size: int) -> range:
        """Which of a group's images are this process's: consecutive ones, as many as the others' but for one.

        Raises:
            BingoError: there are more processes than images.
        """
        if size < self.ranks:
            raise InputError(f"{self.ranks} processes cannot share {size} images", f"Start at most {size}")
        return range(size * self.rank // self.ranks, size * (self.rank + 1) // self.ranks)

    def total(self, part: Tensor) -> Tensor:
        """The sum of all processes' tensors, on the device of ``part``."""
        if self.ranks == 1:
            return part
        total = part.to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(part.device)

    def least(self, number: int) -> int:
        """The smallest number that any process gives; nobody continues before all have given theirs."""
        if self.ranks == 1:
            return number
        least = torch.tensor(number, device=self.device)
        dist.all_reduce(least, dist.ReduceOp.MIN)
        return int(least)
