"""Laws of the displacement's uncertainty and of the images that do not belong."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from bingo_pl import GroupBatch, config
from bingo_pl.evaluation.metrics import warp_group_labels, warping_residual
from bingo_pl.evaluation.uncertainty import belongs, disagreement, displacement_uncertainty, negative_log_likelihood
from bingo_pl.methods.baselines import Descent, Iterative, Refined
from bingo_pl.methods.bingo import Bingo, BingoRegistration, Taught, bounded
from bingo_pl.methods.losses import Similarity
from bingo_pl.methods.networks import VelocityHead, in_windows
from bingo_pl.methods.posterior import Gaussian
from bingo_pl.methods.registrar import Registrar
from bingo_pl.misalign import draw_displacements, misalign
from bingo_pl.models import ready_model, registry
from bingo_pl.phantoms.anatomy import draw
from bingo_pl.phantoms.painting import paint
from bingo_pl.seeding import generator
from bingo_pl.training.task import truth_loss

from .conftest import GroupMaker


def network(velocity_noise: bool = False) -> Bingo:
    """Small, not trained: its velocities are zero and their variances those of the prior."""
    torch.manual_seed(0)
    return Bingo(2, 3, (4, 8, 8), (2, 1), head_depth=1, velocity_noise=velocity_noise)


def with_variance(batch: GroupBatch, variance: float) -> BingoRegistration:
    """No motion, at one level of half the resolution."""
    still = torch.zeros(batch.groups, batch.size, 2, *batch.shape)
    velocity = torch.zeros(batch.groups, batch.size, 2, *[size // 2 for size in batch.shape])
    return BingoRegistration(still, still, (Gaussian(velocity, torch.full_like(velocity, variance)),))


def test_uncertainty_is_the_spread_of_the_velocities_in_millimetres(make_group: GroupMaker) -> None:
    """Of N independent draws less their mean, over two axes of 1 and 2 mm, twice as long on the grid twice as fine."""
    batch = dataclasses.replace(make_group(), spacing=torch.tensor([[1.0, 2.0]]).expand(2, -1))
    sampled = displacement_uncertainty(network(), batch, with_variance(batch, 1e-4), 300, generator("draws"))
    assert sampled is not None
    assert sampled.shape == batch.images.shape
    # In the middle of a grid twice as fine the weights are 3/4 and 1/4 along each axis.
    spread = (1e-4 * 2**2 * (1 - 1 / 3) * (0.75**2 + 0.25**2) ** 2 * (1**2 + 2**2)) ** 0.5
    inside = sampled[..., 2:-2, 2:-2]
    # The values' own error is 1/sqrt(2 * 300), less over the 4,704 of them; squarings of first order and the
    # interpolation in them cost some tenths of a percent.
    assert inside.mean().item() == pytest.approx(spread, rel=0.01)


def test_a_single_image_is_where_it_is(make_group: GroupMaker) -> None:
    batch = make_group(modalities=(1,))
    model = network().eval()
    with torch.no_grad():
        result = model(batch)
    sampled = displacement_uncertainty(model, batch, result, 2, generator("draws"))
    assert sampled is not None
    assert sampled.eq(0).all()
    apart = disagreement(model, batch, result)
    assert apart is not None
    assert apart.eq(0).all()
    assert belongs(apart).all()


def test_methods_without_a_posterior_say_nothing(make_group: GroupMaker) -> None:
    batch = make_group()
    method = Iterative(Similarity("ape"), 1.0, Descent(0.1, 1), levels=1)
    result = with_variance(batch, 1.0)
    assert displacement_uncertainty(method, batch, result, 2, generator("draws")) is None
    assert disagreement(method, batch, result) is None


def test_a_refined_method_is_as_uncertain_as_the_one_it_starts_from(make_group: GroupMaker) -> None:
    batch = make_group()
    model = network().eval()
    refined = Refined(model, Similarity("ape"), 1.0, Descent(0.1, 1))
    plain = displacement_uncertainty(model, batch, model(batch), 2, generator("draws"))
    after = displacement_uncertainty(refined, batch, refined(batch), 2, generator("draws"))
    assert plain is not None
    assert after is not None
    assert torch.equal(plain, after)


def test_what_belongs_is_judged_before_the_refinement(make_group: GroupMaker) -> None:
    batch = make_group()
    model = network().eval()
    refined = Refined(model, Similarity("ape"), 1.0, Descent(0.1, 3))
    result, better = model(batch), refined(batch)
    assert not torch.equal(result.displacement, better.displacement)
    apart, after = disagreement(model, batch, result), disagreement(refined, batch, better)
    assert apart is not None
    assert after is not None
    assert torch.equal(apart, after)
    assert torch.equal(better.start.displacement, result.displacement)


def test_the_likelihood_teaches_the_variances_alone(make_group: GroupMaker) -> None:
    """Two trainings, one with the likelihood: every parameter that a displacement depends on is bit-exact."""
    batch = make_group()
    plain, taught = network(), network()
    for model, weight in ((plain, 0.0), (taught, 1.0)):
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for step in range(3):
            result = model(batch, generator("noise", step))
            terms = model.loss(batch, result, generator("more noise", step))
            total = torch.stack([*terms.values(), truth_loss(batch, result)]).sum()
            optimiser.zero_grad()
            (total + weight * negative_log_likelihood(batch, result)).backward()
            optimiser.step()
    assert torch.equal(plain(batch).displacement, taught(batch).displacement)
    assert plain(batch).displacement.abs().max() > 0
    last = {f"heads.{level}.velocity.{kind}" for level in range(2) for kind in ("weight", "bias")}
    for (name, one), other in zip(plain.named_parameters(), taught.parameters(), strict=True):
        means = slice(0, 2) if name in last else slice(None)
        assert torch.equal(one[means], other[means]), name
    for before, after in zip(plain.heads, taught.heads, strict=True):
        assert isinstance(before, VelocityHead)
        assert isinstance(after, VelocityHead)
        assert not torch.equal(before.velocity.weight[2:], after.velocity.weight[2:])


def test_the_likelihood_is_best_where_the_variance_is_that_of_the_residual(make_group: GroupMaker) -> None:
    batch = make_group()
    assert batch.truth is not None
    residual = warping_residual(torch.zeros_like(batch.truth), batch.truth)

    def loss(factor: float) -> float:
        # A level's variance 1 gives the displacements 2^2 (1 - 1/3) (5/8)^2, but for the border.
        return negative_log_likelihood(
            batch, with_variance(batch, factor * (residual**2).mean().item() / (8 / 3 * 25 / 64))
        ).item()

    assert loss(1.0) < min(loss(0.7), loss(1.4))


def test_the_likelihood_counts_the_mean_over_each_anatomy(make_group: GroupMaker) -> None:
    """One anatomy named is as none named; in two of two copies each, the variance is half of each image's own."""
    batch = make_group(modalities=(0, 1, 2, 1))
    assert batch.truth is not None
    one = dataclasses.replace(batch, anatomies=torch.zeros(2, 4, dtype=torch.long))
    torch.testing.assert_close(
        negative_log_likelihood(one, with_variance(one, 2.0)), negative_log_likelihood(batch, with_variance(batch, 2.0))
    )
    two = dataclasses.replace(batch, anatomies=torch.tensor([[0, 0, 1, 1]] * 2))
    residual = warping_residual(torch.zeros_like(batch.truth), batch.truth, two.anatomies)

    def loss(factor: float) -> float:
        variance = factor * (residual**2).mean().item() / (4 * (1 - 1 / 2) * 25 / 64)
        return negative_log_likelihood(two, with_variance(two, variance)).item()

    assert loss(1.0) < min(loss(0.7), loss(1.4))


@pytest.mark.parametrize("size", [3, 4, 5])
def test_the_stranger_among_copies_is_named(make_group: GroupMaker, size: int) -> None:
    batch = make_group(modalities=(1,) * size)
    images = batch.images[:, :1].repeat(1, size, 1, 1, 1)
    images[:, 2] = images[:, 2].flip(-1)
    batch = dataclasses.replace(batch, images=images)
    model = network().eval()
    with torch.no_grad():
        apart = disagreement(model, batch, model(batch))
    assert apart is not None
    # Copies agree but for the rounding of convolutions whose order of sums depends on the place in the batch.
    copies = torch.arange(size) != 2
    assert apart[:, copies].max() < 1e-6 * apart[:, 2].min()
    assert belongs(apart)[:, 2].tolist() == [False, False]


@torch.no_grad()
def test_a_permutation_of_the_group_permutes_the_disagreement(make_group: GroupMaker) -> None:
    batch = make_group(modalities=(0, 1, 2, 1))
    order = torch.tensor([[3, 1, 0, 2]]).expand(2, -1)
    model = network().eval()
    plain = disagreement(model, batch, model(batch))
    permuted = disagreement(model, batch.select(order), model(batch.select(order)))
    assert plain is not None
    assert permuted is not None
    torch.testing.assert_close(permuted, plain[:, order[0]])


def test_who_belongs_depends_on_the_others_alone() -> None:
    apart = torch.tensor([[1.0, 1.2, 2.3], [1.0, 1.2, 2.1], [1.0, 1.0, 1.0]])
    expected = [[True, True, False], [True, True, True], [True, True, True]]
    assert belongs(apart).tolist() == expected
    assert belongs(1000 * apart).tolist() == expected, "a group that is hard throughout flags nobody"
    assert belongs(torch.tensor([[1.0, 9.0]])).all(), "of two nobody can tell which is wrong"


def painted_group(size: int, subject: int) -> GroupBatch:
    """Three contrasts of an anatomy (size^3), misaligned as the ready model's training groups were."""
    drawn = torch.from_numpy(draw(subject, 4.0, np.random.default_rng(subject)))[None, None].float()
    labels = torch.nn.functional.interpolate(drawn, (size,) * 3)[0, 0].short()
    everyone = labels.expand(1, 3, 1, *labels.shape)
    batch = GroupBatch(
        images=paint(labels, 3, generator("contrasts", subject))[None],
        modalities=torch.zeros(1, 3, dtype=torch.long),
        masks=everyone > 0,
        labels=everyone,
        spacing=torch.full((1, 3), 4.0),
        names=("painted",),
    )
    return misalign(batch, draw_displacements(3, labels.shape, (10,), 0.4, generator("fields", subject))[None])


@torch.no_grad()
def expected_and_true(model: Registrar, batch: GroupBatch) -> tuple[Tensor, Tensor]:
    """The uncertainty and the error over the foreground, in mm."""
    assert batch.truth is not None
    result = model(batch)
    sampled = displacement_uncertainty(model, batch, result, 2, generator("draws"))
    assert sampled is not None
    error = (4.0 * warping_residual(result.displacement, batch.truth)).norm(dim=2, keepdim=True)
    inside = warp_group_labels(batch.masks, result.displacement)
    return sampled[inside], error[inside]


@pytest.mark.parametrize(("size", "subject"), [(32, 6), (48, 3), (64, 6)])
def test_the_ready_model_knows_its_error_on_grids_larger_than_it_was_trained_on(size: int, subject: int) -> None:
    """Its coarsest grid had two nodes along each axis, so it never saw the inside of one: three or four here."""
    model, settings = ready_model.load(3)
    assert settings.data.roi == [32, 32, 32]
    batch = painted_group(size, subject)
    expected, error = expected_and_true(model, batch)
    assert 0.5 < expected.median() / error.median() < 2
    assert batch.truth is not None
    before = 4.0 * warping_residual(torch.zeros_like(batch.truth), batch.truth).norm(dim=2, keepdim=True)
    assert error.median() < 0.7 * before[batch.masks].median(), "nor did it register there"


def taught(reach: float, shape: tuple[int, ...] = (32, 32)) -> Bingo:
    model = network()
    model.taught = Taught(shape, reach)
    return model


def test_more_than_what_taught_the_variances_is_unknown(make_group: GroupMaker) -> None:
    """A reach of 0.6 voxels along each of two axes of 1 mm."""
    batch = make_group()
    result = with_variance(batch, 1.0)
    plain = displacement_uncertainty(network(), batch, result, 8, generator("draws"))
    known = displacement_uncertainty(taught(0.6), batch, result, 8, generator("draws"))
    assert plain is not None
    assert known is not None
    assert torch.equal(known.isnan(), plain > 0.6 * 2**0.5)
    assert 0.1 < known.isnan().float().mean() < 0.9
    assert torch.equal(known[~known.isnan()], plain[~known.isnan()])


def test_variances_that_nothing_taught_are_unknown(make_group: GroupMaker) -> None:
    batch = make_group()
    assert displacement_uncertainty(taught(0.0), batch, with_variance(batch, 1e-3), 2, generator("draws")) is None


@pytest.mark.parametrize(
    ("overrides", "reach"),
    [
        (("weights.truth=1",), 8.0),
        (("weights.truth=1", "data.linear_strength=2", "data.ffd_spacings=[5]"), 2 + 4 * 3**0.5),
        (("weights.truth=0",), 0.0),
        (("weights.truth=0", "model.velocity_noise=true"), float("inf")),
    ],
)
def test_a_network_knows_what_teaches_it(overrides: tuple[str, ...], reach: float) -> None:
    model = registry.build(config.load("ready_2d", ["data.roi=[64,32]", *overrides]))
    assert isinstance(model, Bingo)
    assert model.taught is not None
    assert model.taught.shape == (64, 32)
    assert model.taught.reach == pytest.approx(reach)


@torch.no_grad()
def test_a_head_sees_windows_of_the_grid_that_it_knows() -> None:
    """Two nodes along the first axis, four along the second, whose inside it has seen."""
    model = taught(1.0, (8, 16))
    head = model.heads[0]
    assert isinstance(head, VelocityHead)
    torch.nn.init.normal_(head.velocity.weight, std=0.1)
    common, own = (torch.randn(3, 4, 3, 5, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    windows = [torch.cat(head(common[:, :, start : start + 2], own[:, :, start : start + 2]), 1) for start in (0, 1)]
    expected = torch.stack(
        [windows[0][:, :, 0], (windows[0][:, :, 1] + windows[1][:, :, 0]) / 2, windows[1][:, :, 1]], 2
    )
    got = torch.cat(model.predict(0, common, own), 1)
    torch.testing.assert_close(got, expected)
    small = torch.cat(model.predict(0, common[:, :, :2], own[:, :, :2]), 1)
    assert torch.equal(small, windows[0])


@pytest.mark.parametrize("window", [(1, 1), (2, 3), (4, 5)])
def test_what_looks_at_one_voxel_is_the_same_in_any_windows(window: tuple[int, int]) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(in_windows(lambda x: 2 * x[:, :2] + 1, (x,), window), 2 * x[:, :2] + 1)


def test_nothing_leads_a_variance_further_beyond_its_bounds() -> None:
    log_variance = torch.tensor([-20.0, -20.0, 0.0, 0.0, 20.0, 20.0], requires_grad=True)
    slopes = torch.tensor([-1.0, 1.0, -1.0, 1.0, -1.0, 1.0])  # a step goes the other way
    within = bounded(log_variance)
    assert within.tolist() == [-12, -12, 0, 0, 12, 12]
    within.backward(slopes)
    assert log_variance.grad is not None
    assert log_variance.grad.tolist() == [-1, 0, -1, 1, 0, 1]
