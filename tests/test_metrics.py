"""Metrics against cases computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from monai.metrics import DiceMetric

from bingo_pl import UNLABELLED, spatial
from bingo_pl.evaluation import metrics
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


@pytest.mark.parametrize(
    ("shift", "hausdorff", "average"),
    [(0, 0, 0), (1, 1, 6 / 12), (2, 2, (4 * 2 + 4 * 1) / 12)],  # in rows; 12 voxels of a box are its surface
)
def test_surface_distances_of_boxes_are_in_mm(shift: int, hausdorff: float, average: float) -> None:
    """Rows are 1.5 mm apart and columns so far that the nearest surface is always in the same one."""
    hd95, assd = metrics.surface_distances(two_boxes(shift), [1], torch.tensor([[1.5, 10.0]]))
    assert hd95.item() == pytest.approx(1.5 * hausdorff)
    assert assd.item() == pytest.approx(1.5 * average)


def test_surface_distances_follow_the_order_of_the_axes() -> None:
    labels = two_boxes(2)
    expected = metrics.surface_distances(labels, [1], torch.tensor([[1.5, 0.7]]))
    turned = metrics.surface_distances(labels.transpose(-1, -2), [1], torch.tensor([[0.7, 1.5]]))
    torch.testing.assert_close(turned, expected)


def test_surfaces_count_only_classes_that_both_images_show() -> None:
    """MONAI's distance to an empty mask is infinite."""
    labels, spacing = two_boxes(1), torch.ones(1, 2)
    labels[0, 0, 0, 8:10, 8:10] = 2
    expected = metrics.surface_distances(labels, [1], spacing)
    assert metrics.surface_distances(labels, [1, 2, 7], spacing) == expected
    assert all(distance.isnan().all() for distance in metrics.surface_distances(labels, [2, 7], spacing))


def test_surfaces_of_unlabelled_images_do_not_count() -> None:
    boxes, spacing = two_boxes(1), torch.ones(1, 2)
    labels = torch.cat([boxes, torch.full((1, 1, 1, 12, 12), UNLABELLED, dtype=torch.int16)], dim=1)
    assert metrics.surface_distances(labels, [1], spacing) == metrics.surface_distances(boxes, [1], spacing)
    assert all(distance.isnan().all() for distance in metrics.surface_distances(labels[:, 1:], [1], spacing))


def test_surface_distances_average_over_classes_then_pairs() -> None:
    """The first two images agree on both classes; the third is a voxel lower and lacks class 2."""
    labels = torch.cat([two_boxes(0), two_boxes(1)[:, 1:]], dim=1)
    labels[0, :2, 0, 8:10, 8:10] = 2
    hd95, _ = metrics.surface_distances(labels, [1, 2], torch.ones(1, 2))
    assert hd95.item() == pytest.approx((0 + 1 + 1) / 3)


def test_many_images_are_judged_by_a_repeatable_sample_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the 20 images are a voxel lower: 100 of 190 pairs differ, by 1 mm each."""
    labels = torch.cat([two_boxes(1)] * 10, dim=1)
    monkeypatch.setattr(metrics, "MAX_SURFACE_PAIRS", 60)
    hd95, _ = metrics.surface_distances(labels, [1], torch.ones(1, 2))
    assert (hd95 * 60).item() == pytest.approx(round((hd95 * 60).item()), abs=1e-4)  # the mean of 60 pairs
    assert hd95.item() == pytest.approx(100 / 190, abs=0.2)  # three standard errors
    assert metrics.surface_distances(labels, [1], torch.ones(1, 2))[0] == hd95


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


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_sdlogj_vanishes_where_the_volume_changes_evenly(scale: float) -> None:
    displacement = (scale - 1) * spatial.identity((6, 7), torch.zeros(1)).expand(1, 2, 2, 6, 7)
    assert metrics.sdlogj(displacement).item() == pytest.approx(0, abs=1e-6)


def test_sdlogj_of_two_halves_by_hand() -> None:
    """Rows are stretched twice in one half of the image and kept in the other: log 2 and 0, half log 2 from the mean.

    Between them lie two rows of central differences, whose determinants are 1.5 and 1.5.
    """
    displacement = torch.zeros(1, 1, 2, 200, 3)
    displacement[0, 0, 0, 100:] = torch.arange(1, 101.0)[:, None]
    assert metrics.sdlogj(displacement).item() == pytest.approx(math.log(2) / 2, rel=0.01)


def test_sdlogj_is_finite_where_space_folds() -> None:
    displacement = torch.zeros(1, 1, 2, 10, 10)
    displacement[..., 0, 5:, :] = -4
    assert metrics.sdlogj(displacement).isfinite().all()


def test_metrics_do_not_depend_on_the_order_of_the_group(make_group: GroupMaker) -> None:
    batch = make_group(modalities=(0, 1, 2, 2))
    order = torch.tensor([[2, 0, 3, 1]]).expand(2, -1)
    assert batch.truth is not None
    first = metrics.evaluate(batch, torch.zeros_like(batch.truth), [1])
    permuted = metrics.evaluate(batch.select(order), torch.zeros_like(batch.truth), [1])
    for name, value in first.items():
        torch.testing.assert_close(permuted[name], value)
    expected = metrics.surface_distances(batch.labels, [1], batch.spacing)
    torch.testing.assert_close(
        metrics.surface_distances(batch.select(order).labels, [1], batch.select(order).spacing), expected
    )
