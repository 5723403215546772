"""Several processes register one group as one process does."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from bingo_pl import BingoError, GroupBatch
from bingo_pl.streaming.launched import join
from bingo_pl.streaming.shard import Shard
from bingo_pl.streaming.stream import MemorySource, register_stream
from bingo_pl.training.processes import leave

from .conftest import GroupMaker
from .test_stream import PLENTY, TOLERANCE, displacements, group, moving


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port: int = free.getsockname()[1]
        return port


def _process(rank: int, ranks: int, port: int, batch: GroupBatch, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet_{port}", rank=rank, world_size=ranks)
    result = register_stream(moving(), MemorySource(batch), PLENTY, folder / "work", chunk=2, shard=Shard(rank, ranks))
    torch.save(dict(result.displacements()), folder / f"{rank}.pt")
    leave()


def _registered(ranks: int, batch: GroupBatch, folder: Path) -> torch.Tensor:
    spawn(_process, (ranks, _free_port(), batch, folder), nprocs=ranks)
    parts = [torch.load(folder / f"{rank}.pt") for rank in range(ranks)]
    whole = {member: displacement for part in parts for member, displacement in part.items()}
    return torch.stack([whole[member] for member in range(batch.size)])


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_together_equal_one(make_group: GroupMaker, tmp_path: Path, ranks: int) -> None:
    batch = group(make_group)
    alone = displacements(register_stream(moving(), MemorySource(batch), PLENTY))
    torch.testing.assert_close(_registered(ranks, batch, tmp_path), alone, atol=TOLERANCE, rtol=0)


@pytest.mark.slow
def test_processes_that_were_killed_at_different_sweeps_go_on_together(make_group: GroupMaker, tmp_path: Path) -> None:
    batch = group(make_group)
    whole = _registered(2, batch, tmp_path)
    for rank, finished in ((0, 4), (1, 3)):  # rank 1 was killed between the sum of sweep 3 and the end of its writing
        work = tmp_path / "work" / f"rank_{rank}"
        for sweep in range(finished, 6):
            (work / f"sweep_{sweep}.pt").unlink()
        (work / "partial.pt").unlink()
    assert torch.equal(_registered(2, batch, tmp_path), whole)


def test_shards_are_disjoint_complete_and_even() -> None:
    parts = [Shard(rank, 4).members(10) for rank in range(4)]
    assert [member for part in parts for member in part] == list(range(10))
    assert {len(part) for part in parts} == {2, 3}


def test_more_processes_than_images_are_refused() -> None:
    with pytest.raises(BingoError, match="4 processes cannot share 3 images"):
        Shard(0, 4).members(3)


def test_a_process_that_nobody_launched_is_alone() -> None:
    assert join(torch.device("cpu")) == Shard()
