"""Laws of the experts and their pooling, Eq. (5) and (6)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.distributions.kl import kl_divergence as torch_kl

from bingo_pl.methods.posterior import ExpertSums, Gaussian, kl_divergence
from bingo_pl.methods.priors import velocity_kl
from bingo_pl.seeding import generator


def experts(count: int, seed: int = 0) -> Gaussian:
    g = generator("experts", seed)
    shape = (2, count, 3, 4, 4)
    return Gaussian(torch.randn(shape, generator=g).double(), torch.rand(shape, generator=g).double() + 0.1)


def test_the_posterior_is_the_normalised_geometric_mean_of_densities() -> None:
    q = experts(3)
    posterior = ExpertSums.of(q).posterior()
    points = torch.linspace(-2, 2, 5).double()

    def log_density(p: Gaussian, x: Tensor) -> Tensor:
        return Normal(p.mean, p.variance.sqrt()).log_prob(x)

    offsets = torch.stack([log_density(q, x).mean(1, keepdim=True) - log_density(posterior, x) for x in points])
    torch.testing.assert_close(offsets, offsets[:1].expand_as(offsets))


def test_identical_experts_keep_their_mean_and_variance() -> None:
    q = Gaussian(*[x[:, :1].expand(-1, 5, -1, -1, -1) for x in experts(1)])
    posterior = ExpertSums.of(q).posterior()
    torch.testing.assert_close(posterior.mean, q.mean[:, :1])
    torch.testing.assert_close(posterior.variance, q.variance[:, :1])


def test_the_sums_over_all_others_are_those_of_the_group_without_it() -> None:
    """In single precision too, next to an expert that is 10^9 times as sure as the rest."""
    q = experts(4)
    q.variance[:, 2] *= 1e-9
    for number in (torch.float64, torch.float32):
        sums = ExpertSums.of_others(Gaussian(*[x.to(number) for x in q]))
        assert sums.count == 3
        for m in range(4):
            rest = [i for i in range(4) if i != m]
            expected = ExpertSums.of(Gaussian(q.mean[:, rest], q.variance[:, rest]))
            for ours, theirs in zip(sums.posterior(), expected.posterior(), strict=True):
                torch.testing.assert_close(ours[:, m : m + 1], theirs.to(number))


def test_sums_of_parts_are_the_sums_of_the_whole() -> None:
    q = experts(7)
    parts = [ExpertSums.of(Gaussian(q.mean[:, part], q.variance[:, part])) for part in (slice(0, 3), slice(3, 7))]
    whole, joined = ExpertSums.of(q), parts[0] + parts[1]
    torch.testing.assert_close(joined.posterior().mean, whole.posterior().mean)
    torch.testing.assert_close(joined.posterior().variance, whole.posterior().variance)


def test_kl_agrees_with_torch() -> None:
    q, p = experts(3, 1), experts(3, 2)
    oracle = torch_kl(Normal(q.mean, q.variance.sqrt()), Normal(p.mean, p.variance.sqrt()))
    torch.testing.assert_close(kl_divergence(q, p), oracle)


def test_samples_have_the_moments_of_the_posterior() -> None:
    q = Gaussian(torch.full((200_000,), 1.5), torch.full((200_000,), 0.25))
    draw = q.sample(generator(0))
    assert abs(draw.mean().item() - 1.5) < 0.01  # standard error 0.001
    assert abs(draw.var().item() - 0.25) < 0.01
    assert torch.equal(q.sample(None), q.mean)


def test_the_velocity_prior_prefers_smooth_fields_and_its_own_variance() -> None:
    """With D neighbours the variance term is least at 1 / (lambda D); a constant velocity costs nothing more."""
    smoothness, neighbours = 10.0, 4
    zeros = torch.zeros(1, 2, 8, 8)

    def cost(mean: Tensor, variance: float) -> float:
        return velocity_kl(Gaussian(mean, torch.full_like(mean, variance)), smoothness).item()

    best = 1 / (smoothness * neighbours)
    assert cost(zeros, best) < min(cost(zeros, 0.9 * best), cost(zeros, 1.1 * best))
    assert cost(zeros + 3, best) == cost(zeros, best)
    assert cost(torch.randn(1, 2, 8, 8, generator=generator(1)), best) > cost(zeros, best)


def test_the_velocity_prior_of_a_hand_computed_field() -> None:
    """One unit step along the last axis of a 2x2 grid: mean squared differences 0 and 1/2 (one of two components)."""
    mean = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).expand(1, 2, 2, 2) * torch.tensor([1.0, 0.0]).reshape(1, 2, 1, 1)
    variance = torch.ones_like(mean)
    # d/2 * (lambda * 2d * 1 - log 1 + lambda / 2d * (0 + 1/2)) with d = 2, lambda = 10
    torch.testing.assert_close(velocity_kl(Gaussian(mean, variance), 10.0), torch.tensor(40 + 10 / 4 * 0.5))
