"""Metrics of one image at a time are those of the whole group."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from bingo_pl import UNLABELLED, GroupBatch
from bingo_pl.evaluation import metrics
from bingo_pl.evaluation.streamed_metrics import DiceSums, Reference, evaluate_stream
from bingo_pl.misalign import draw_displacements
from bingo_pl.seeding import generator

from .conftest import GroupMaker

CLOSE = 1e-5
"""Of 1 / x as a sum of exponentials, relative."""


def all_pairs(labels: Tensor, label_ids: tuple[int, ...]) -> float:
    return metrics.dice(labels[None], label_ids).item()


def counted(labels: Tensor, label_ids: tuple[int, ...]) -> float:
    sums = DiceSums(label_ids, labels[0].numel())
    for one in labels:
        sums.add(one)
    return sums.mean()


@pytest.mark.parametrize("images", [2, 3, 20])
@pytest.mark.parametrize("shape", [(16, 16), (8, 8, 8)])
def test_counts_give_the_dice_of_all_pairs(images: int, shape: tuple[int, ...]) -> None:
    labels = torch.randint(0, 4, (images, 1, *shape), generator=generator("labels", images))
    assert counted(labels, (1, 2, 3)) == pytest.approx(all_pairs(labels, (1, 2, 3)), rel=CLOSE)


def test_the_sizes_of_a_pair_may_differ_as_much_as_they_can() -> None:
    labels = torch.zeros(3, 1, 64, 64, dtype=torch.int16)
    labels[0, 0, 3, 3] = labels[1] = labels[2, 0, :8] = 1
    assert counted(labels, (1,)) == pytest.approx(all_pairs(labels, (1,)), rel=CLOSE)


def test_a_class_that_neither_shows_and_images_without_labels_are_left_out() -> None:
    labels = torch.randint(0, 3, (6, 1, 8, 8), generator=generator("labels"))
    labels[0][labels[0] == 2] = 0
    labels[1][labels[1] > 0] = 0
    labels[2] = UNLABELLED
    labels[3][labels[3] == 2] = 0
    assert counted(labels, (1, 2, 9)) == pytest.approx(all_pairs(labels, (1, 2, 9)), rel=CLOSE)


@pytest.mark.parametrize("labels", [torch.zeros(3, 1, 8, 8), torch.ones(1, 1, 8, 8)])
def test_without_a_pair_that_shows_a_class_there_is_no_dice(labels: Tensor) -> None:
    assert math.isnan(counted(labels, (1,)))


class Whole:
    """A batch of one group as a source of references."""

    def __init__(self, batch: GroupBatch) -> None:
        self.batch = batch

    def reference(self, member: int) -> Reference:
        assert self.batch.truth is not None
        labels, masks, truth = (x[0, member] for x in (self.batch.labels, self.batch.masks, self.batch.truth))
        return Reference(labels, masks, truth, "first two" if member < 2 else "the rest")


@pytest.mark.parametrize("shape", [(32, 32), (8, 12, 8)])
def test_streamed_metrics_are_those_of_the_group(make_group: GroupMaker, shape: tuple[int, ...]) -> None:
    batch = make_group(modalities=(0, 1, 2, 0, 1), shape=shape, groups=1)
    batch.masks[0, 2, ..., :5] = False
    displacement = draw_displacements(5, shape, (8,), 0.3, generator("a registration"))[None]

    def displacements() -> Iterator[tuple[int, Tensor]]:
        yield from enumerate(displacement[0])

    dice, gwi, within = evaluate_stream(Whole(batch), displacements, (1,))
    whole = metrics.evaluate(batch, displacement, (1,))
    assert dice == pytest.approx(whole["dice"].item(), rel=CLOSE)
    assert gwi == pytest.approx(whole["gwi"].item(), rel=1e-4)  # float32 means over the group
    parts = [torch.tensor([members]) for members in ([0, 1], [2, 3, 4])]
    indices = [metrics.evaluate(batch.select(part), displacement[:, part[0]], (1,))["gwi"].item() for part in parts]
    assert within == pytest.approx((2 * indices[0] + 3 * indices[1]) / 5, rel=1e-4)
