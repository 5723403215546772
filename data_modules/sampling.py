"""Which groups form a batch, and in which order."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch.utils.data import Dataset, Sampler

from bingo_pl.batch import GroupBatch
from bingo_pl.seeding import generator


class EqualSizeSampler(Sampler[list[int]]):
    """Batches of groups of equally many images, each group once an epoch.

    The order is a function of the seed and the epoch. Ranks take the batches in turn; where the last round is
    incomplete it is filled from the beginning, so that every rank makes the same number of steps.
    """

    def __init__(
        self, sizes: Sequence[int], batch_size: int, shuffle_seed: int | None, rank: int = 0, world_size: int = 1
    ) -> None:
        """
        Args:
            sizes: N of each group.
            batch_size: groups in a batch; fewer where a size runs out.
            shuffle_seed: None keeps the order of ``sizes`` in each bucket, every epoch.
            rank: of this process.
            world_size: processes.
        """
        self.sizes = tuple(sizes)
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.sampler = self  # Lightning sets the epoch of `batch_sampler.sampler`

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-len(self._batches()) // self.world_size)

    def __iter__(self) -> Iterator[list[int]]:
        batches = self._batches()
        if batches:
            filled = itertools.cycle(batches)
            yield from itertools.islice(filled, self.rank, len(self) * self.world_size, self.world_size)

    def _batches(self) -> list[list[int]]:
        order = list(range(len(self.sizes)))
        if self.shuffle_seed is not None:
            random = generator(self.shuffle_seed, "order", self.epoch)
            order = torch.randperm(len(order), generator=random).tolist()
        batches = []
        for size in sorted(set(self.sizes)):
            bucket = [i for i in order if self.sizes[i] == size]
            batches += [bucket[i : i + self.batch_size] for i in range(0, len(bucket), self.batch_size)]
        if self.shuffle_seed is not None:
            batches = [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]
        return batches


class Repeated(Dataset[GroupBatch]):
    """Each group several times, the k-th named ``name#k``, so that each gets a misalignment of its own."""

    def __init__(self, dataset: Dataset[GroupBatch], length: int, times: int) -> None:
        self.dataset = dataset
        self.length = length
        self.times = times

    def __len__(self) -> int:
        return self.length * self.times

    def __getitem__(self, index: int) -> GroupBatch:
        batch = self.dataset[index // self.times]
        return replace(batch, names=(f"{batch.names[0]}#{index % self.times}",))
