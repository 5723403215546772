"""Metrics against cases computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from monai.metrics import DiceMetric

from bingo_pl import UNLABELLED, metrics, spatial
from bingo_pl.seeding import generator

from .conftest import GroupMaker


def two_boxes(shift: int) -> torch.Tensor:
    """A group of two 4x4 boxes on a 12x12 grid, the second ``shift`` voxels lower: (1, 2, 1, 12, 12)."""
    labels = torch.zeros(1, 2, 1, 12, 12, dtype=torch.int16)
    labels[0, 0, 0, 2:6, 2:6] = 1
    labels[0, 1, 0, 2 + shift : 6 + shift, 2:6] = 1
    return labels


@pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (1, 0.75), (2, 0.5), (4, 0.0)])
def test_dice_of_boxes(shift: int, expected: float) -> None:
    assert metrics.dice(two_boxes(shift), [1]).item() == pytest.approx(expected)


def test_dice_averages_over_classes_then_pairs() -> None:
    """Three images: the first two agree on both classes, the third is a voxel lower and lacks class 2."""
    labels = torch.cat([two_boxes(0), two_boxes(1)[:, 1:]], dim=1)
    labels[0, :2, 0, 8:10, 8:10] = 2
    first_two = (1 + 1) / 2
    with_third = (0.75 + 0) / 2  # class 2 is missing in the third image: overlap 0
    assert metrics.dice(labels, [1, 2]).item() == pytest.approx((first_two + 2 * with_third) / 3)


def test_a_class_absent_from_both_images_does_not_count() -> None:
    assert metrics.dice(two_boxes(1), [1, 7]).item() == pytest.approx(0.75)


def test_unlabelled_images_do_not_count() -> None:
    labels = torch.cat([two_boxes(1), torch.full((1, 1, 1, 12, 12), UNLABELLED, dtype=torch.int16)], dim=1)
    assert metrics.dice(labels, [1]).item() == pytest.approx(0.75)
    assert math.isnan(metrics.dice(labels[:, 1:], [1]).item())


def test_dice_of_a_large_group_is_the_mean_over_all_pairs_of_monai() -> None:
    labels = torch.randint(0, 3, (1, 7, 1, 8, 8), generator=generator(0)).to(torch.int16)
    onehot = torch.nn.functional.one_hot(labels[0, :, 0].long(), 3).movedim(-1, 1)
    pairs = [(i, j) for i in range(7) for j in range(i + 1, 7)]
    oracle = DiceMetric(include_background=False)(onehot[[i for i, _ in pairs]], onehot[[j for _, j in pairs]])
    assert metrics.dice(labels, [1, 2]).item() == pytest.approx(oracle.mean().item())


def test_gwi_of_a_constant_misalignment_by_hand() -> None:
    """Shifts of +1, 0 and -1 voxels: mean 0, residual lengths 1, 0 and 1, their mean 2/3."""
    truth = torch.zeros(1, 3, 2, 8, 8)
    truth[0, 0, 0], truth[0, 2, 0] = 1, -1
    masks = torch.ones(1, 3, 1, 8, 8, dtype=torch.bool)
    gwi = metrics.groupwise_warping_index(torch.zeros_like(truth), truth, masks)
    assert gwi.item() == pytest.approx(2 / 3)


def test_gwi_ignores_what_the_group_has_in_common() -> None:
    truth = torch.full((1, 3, 2, 8, 8), 1.5)
    masks = torch.ones(1, 3, 1, 8, 8, dtype=torch.bool)
    assert metrics.groupwise_warping_index(torch.zeros_like(truth), truth, masks).item() == pytest.approx(0, abs=1e-6)


def test_gwi_counts_only_the_registered_foreground() -> None:
    """Image 0 is displaced by 2 in its left half only, and only that half is foreground: residuals +1 and -1."""
    truth = torch.zeros(1, 2, 2, 8, 8)
    truth[0, 0, 0, :, :4] = 2
    masks = torch.zeros(1, 2, 1, 8, 8, dtype=torch.bool)
    masks[..., :4] = True
    assert metrics.groupwise_warping_index(torch.zeros_like(truth), truth, masks).item() == pytest.approx(1)


def test_gwi_vanishes_for_the_true_inverse(make_group: GroupMaker) -> None:
    batch = make_group(shape=(32, 32))
    assert batch.truth is not None
    inverse = spatial.invert(batch.truth.flatten(0, 1), 60).unflatten(0, (2, 3))
    masks = torch.zeros_like(batch.masks)
    masks[..., 8:-8, 8:-8] = True  # outside, the inverse reads beyond the grid
    before = metrics.groupwise_warping_index(torch.zeros_like(inverse), batch.truth, masks)
    after = metrics.groupwise_warping_index(inverse, batch.truth, masks)
    assert (after < 0.02 * before).all()


def test_folding_counts_the_voxels_that_turn_inside_out() -> None:
    displacement = torch.zeros(1, 1, 2, 10, 10)
    displacement[..., 0, 5:, :] = -4  # rows 5.. jump back over the ones before: 2 of 10 rows have a negative slope
    assert metrics.folding_percent(displacement).item() == pytest.approx(20)


def test_metrics_do_not_depend_on_the_order_of_the_group(make_group: GroupMaker) -> None:
    batch = make_group(modalities=(0, 1, 2, 2))
    order = torch.tensor([[2, 0, 3, 1]]).expand(2, -1)
    assert batch.truth is not None
    first = metrics.evaluate(batch, torch.zeros_like(batch.truth), [1])
    permuted = metrics.evaluate(batch.select(order), torch.zeros_like(batch.truth), [1])
    for name, value in first.items():
        torch.testing.assert_close(permuted[name], value)
