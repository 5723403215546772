"""Groups that are formed again in each epoch: two images of different people and modalities."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from bingo_pl.batch import GroupBatch
from bingo_pl.data_modules.sampling import EqualSizeSampler
from bingo_pl.errors import InputError
from bingo_pl.seeding import generator

Pair = tuple[int, int]
"""Positions of a pair's images in their dataset."""


class CrossSubjectSampler(Sampler[list[Pair]]):
    """Batches of pairs of an image of either modality, of different people.

    Each image of the modality that has more is in one pair an epoch; its partner is any of the other modality's. Both
    the pairs and their order are functions of the seed and the epoch; ranks share each batch as in `EqualSizeSampler`.
    """

    def __init__(
        self,
        modalities: Sequence[int],
        people: Sequence[str],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """
        Args:
            modalities: 0 or 1 for each image.
            people: whose each image is.
            batch_size: pairs in a batch.
            seed: of pairs and order.
            rank: of this process.
            world_size: processes.

        Raises:
            BingoError: an image has no partner of another person.
        """
        first, second = ([i for i, m in enumerate(modalities) if m == modality] for modality in (0, 1))
        many, few = (first, second) if len(first) >= len(second) else (second, first)
        self.partners = {i: [j for j in few if people[j] != people[i]] for i in many}
        if not self.partners or not all(self.partners.values()):
            raise InputError(
                f"{len(first)} and {len(second)} training images of the two modalities, of {len(set(people))} people, "
                "but each image needs a partner of the other modality and of another person",
                "Give more subjects to training (data.splits)",
            )
        self.swap = many is second
        self.seed = seed
        self.batches = EqualSizeSampler([2] * len(many), batch_size, seed, rank, world_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the pairs and their order of the next iteration."""
        self.batches.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Pair]]:
        pairs = self._pairs()
        for batch in self.batches:
            yield [pairs[k] for k in batch]

    def _pairs(self) -> list[Pair]:
        random = generator(self.seed, "pairs", self.batches.epoch)
        pairs = []
        for image, others in self.partners.items():
            partner = others[int(torch.randint(len(others), (1,), generator=random))]
            pairs.append((partner, image) if self.swap else (image, partner))
        return pairs


class Pairs(Dataset[GroupBatch]):
    """Two of a dataset's images as one group."""

    def __init__(self, images: Dataset[GroupBatch]) -> None:
        self.images = images

    def __getitem__(self, pair: Pair) -> GroupBatch:
        parts = [self.images[i] for i in pair]
        return merge(parts, "+".join(part.names[0] for part in parts))


def merge(parts: Sequence[GroupBatch], name: str) -> GroupBatch:
    """One group of the images of several, each a batch of one group on one grid, without ground truth."""
    assert all(torch.equal(part.spacing, parts[0].spacing) for part in parts), "one grid"

    def along_group(tensors: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(tensors), dim=1)

    return GroupBatch(
        images=along_group([part.images for part in parts]),
        modalities=along_group([part.modalities for part in parts]),
        masks=along_group([part.masks for part in parts]),
        labels=along_group([part.labels for part in parts]),
        spacing=parts[0].spacing,
        names=(name,),
    )
