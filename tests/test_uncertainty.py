"""Laws of the displacement's uncertainty and of the images that do not belong."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from bingo_pl import GroupBatch
from bingo_pl.evaluation.metrics import warping_residual
from bingo_pl.evaluation.uncertainty import belongs, disagreement, displacement_uncertainty, negative_log_likelihood
from bingo_pl.methods.baselines import Descent, Iterative, Refined
from bingo_pl.methods.bingo import Bingo, BingoRegistration
from bingo_pl.methods.networks import VelocityHead
from bingo_pl.methods.objective import Similarity
from bingo_pl.methods.posterior import Gaussian
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
    """Two trainings, one with the likelihood: every parameter that a displacement depends on is the same to the bit."""
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
    assert belongs(1000 * apart).tolist() == expected, "a group that is hard throughout accuses nobody"
    assert belongs(torch.tensor([[1.0, 9.0]])).all(), "of two nobody can tell which is wrong"
