"""Which groups form a batch, in which order, on which process, and from where an interrupted epoch resumes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from bingo_pl.batch import GroupBatch, collate
from bingo_pl.errors import InputError
from bingo_pl.seeding import generator


class EqualSizeSampler(Sampler[list[int]]):
    """Batches of groups of equally many images, each group once an epoch.

    The order is a function of the seed and the epoch. Several ranks together make the batches that one would make of
    ``batch_size * world_size`` groups, each rank a part of every one; where such a batch has fewer groups than there
    are ranks, some are repeated.
    """

    def __init__(
        self, sizes: Sequence[int], batch_size: int, shuffle_seed: int | None, rank: int = 0, world_size: int = 1
    ) -> None:
        """
        Args:
            sizes: N of each group.
            batch_size: groups in a batch of one rank; fewer where a size runs out.
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

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of the next iteration."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self._batches())

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches():
            repeated = itertools.islice(itertools.cycle(batch), max(len(batch), self.world_size))
            yield list(itertools.islice(repeated, self.rank, None, self.world_size))

    def _batches(self) -> list[list[int]]:
        """Those of all ranks together."""
        together = self.batch_size * self.world_size
        order = list(range(len(self.sizes)))
        if self.shuffle_seed is not None:
            random = generator(self.shuffle_seed, "order", self.epoch)
            order = torch.randperm(len(order), generator=random).tolist()
        batches = []
        for size in sorted(set(self.sizes)):
            bucket = [i for i in order if self.sizes[i] == size]
            batches += [bucket[i : i + together] for i in range(0, len(bucket), together)]
        if self.shuffle_seed is not None:
            batches = [batches[i] for i in torch.randperm(len(batches), generator=random).tolist()]
        return batches


class Rest(Sampler[list[Any]]):
    """A batch sampler whose next iteration leaves out the first ``start`` batches."""

    def __init__(self, sampler: Sampler[list[Any]]) -> None:
        self.sampler = sampler  # Lightning sets the epoch of `batch_sampler.sampler`
        self.start = 0

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]  # Sampler has no length in the stubs

    def __iter__(self) -> Iterator[list[Any]]:
        start, self.start = self.start, 0  # when the first batch is asked for: loaders make iterators that they drop
        yield from itertools.islice(self.sampler, start, None)


class ResumableLoader(DataLoader[GroupBatch]):
    """Its state is how many batches of the epoch it has given; once loaded, the next iteration gives the others.

    What processes have loaded in advance does not count as given.
    """

    def __init__(self, dataset: Dataset[GroupBatch], sampler: Sampler[list[Any]], workers: int) -> None:
        self.rest = Rest(sampler)
        self.given = 0
        super().__init__(
            dataset,
            batch_sampler=self.rest,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
        )

    def __iter__(self) -> Iterator[GroupBatch]:  # type: ignore[override]  # a generator, so that it starts when used
        self.given = self.rest.start
        for batch in super().__iter__():
            self.given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"given": self.given, "of": len(self)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Raises `BingoError` where an epoch has another number of batches now."""
        if state["of"] != len(self):
            raise InputError(
                f"the checkpoint was written after {state['given']} of an epoch's {state['of']} batches, which are "
                f"{len(self)} now",
                "Restore data.batch_size, trainer.devices and the data, or resume from a checkpoint "
                "of an epoch's end, e.g. best.ckpt",
            )
        self.rest.start = state["given"]


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
