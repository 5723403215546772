"""Laws of the synthetic misalignment."""

from __future__ import annotations

import pytest
import torch

from bingo_pl import spatial
from bingo_pl.evaluation.metrics import groupwise_warping_index
from bingo_pl.misalign import draw_displacements
from bingo_pl.seeding import generator

from .conftest import GroupMaker


def test_the_brats_recipe_gives_the_published_misalignment() -> None:
    """gWI of unregistered groups of four on the 80x96x80 grid: 1.430 +- 0.644 in the paper's Table 1.

    The residual is measured over an ellipsoid like a brain; 24 groups leave a standard error of 0.13.
    """
    shape = (80, 96, 80)
    axes = [torch.linspace(-1, 1, size) for size in shape]
    brain = (torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0) < 0.8).expand(1, 4, 1, *shape)
    indices = []
    for group in range(24):
        truth = draw_displacements(4, shape, (5, 10, 15, 20), 0.4, generator("brats", group))[None]
        indices.append(groupwise_warping_index(torch.zeros_like(truth), truth, brain))
    gwi = torch.cat(indices)
    assert gwi.mean() == pytest.approx(1.430, abs=0.26)
    assert gwi.std() == pytest.approx(0.644, abs=0.26)


def test_the_same_key_draws_the_same_and_another_key_another() -> None:
    draws = [draw_displacements(3, (32, 32), (5, 10), 0.4, generator(0, key)) for key in ("a", "a", "b")]
    assert torch.equal(draws[0], draws[1])
    assert draws[0].shape == draws[2].shape
    assert not torch.equal(draws[0], draws[2])


def test_a_linear_part_comes_on_top_and_has_the_deviation_that_is_asked_for() -> None:
    shape = (17, 17, 17)
    linear = draw_displacements(200, shape, (8,), 0.0, generator(1), linear=0.5)
    assert linear[..., 8, 8, 8].std() == pytest.approx(0.5, rel=0.1), "the translation"
    slope = (linear[:, 0, 16, 8, 8] - linear[:, 0, 0, 8, 8]) / 16  # of the first entry of the matrix
    assert (slope * 17 / 2).std() == pytest.approx(0.5, rel=0.15)
    free_form, both = (draw_displacements(3, shape, (8,), 0.1, generator(1), linear=x) for x in (0.0, 1e-6))
    torch.testing.assert_close(both, free_form, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(48, 48), (24, 24, 24)])
def test_the_recipe_does_not_fold(shape: tuple[int, ...]) -> None:
    """Control displacements below 0.4 spacings keep a cubic B-spline deformation injective (Choi & Lee 2000)."""
    for seed in range(5):
        displacement = draw_displacements(4, shape, (5, 10, 15, 20), 0.4, generator(seed))
        assert spatial.jacobian_determinant(displacement).min() > 0


def test_images_masks_and_labels_move_together(make_group: GroupMaker) -> None:
    batch = make_group(modalities=(0,), shape=(48, 48), groups=1)
    assert batch.truth is not None
    # Modality 0 shows the anatomy whose half-level the label is. Only voxels that the border crosses may disagree,
    # where the image is interpolated and the label is not.
    disagreement = (batch.images > 0.5) != (batch.labels == 1)
    assert (batch.images[disagreement] - 0.5).abs().max() < 0.15
