"""Gaussian experts and their pooling over a group.

The group enters the model only here, through sums over its images that can be accumulated one image
(or one process) at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_VARIANCE = 1e-5


class Gaussian(NamedTuple):
    """Independent normal distributions, one an element."""

    mean: Tensor
    variance: Tensor

    def sample(self, generator: torch.Generator | None) -> Tensor:
        """A reparameterised draw; the mean where there is no generator."""
        if generator is None:
            return self.mean
        noise = torch.randn(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.variance.sqrt() * noise


def expert(features: Tensor) -> Gaussian:
    """Read features (..., 2C, *S), channels on axis 1, as C means and C logits of a variance.

    In single precision at least, whatever autocast says, and so is all that is computed of experts.
    """
    mean, logits = features.to(torch.promote_types(features.dtype, torch.float32)).chunk(2, dim=1)
    return Gaussian(mean, F.softplus(logits) + SMALLEST_VARIANCE)


@dataclass(frozen=True)
class ExpertSums:
    """What a group's posterior needs to know of its experts: three sums over images."""

    precision: Tensor
    """Sum of 1 / variance, (B, 1, C, *S)."""
    weighted_mean: Tensor
    """Sum of mean / variance, (B, 1, C, *S)."""
    count: int
    """Number of images summed."""

    @classmethod
    def of(cls, experts: Gaussian) -> ExpertSums:
        """The sums over axis 1 of experts (B, N, C, *S)."""
        precision = 1 / experts.variance
        weighted = precision * experts.mean
        return cls(precision.sum(1, keepdim=True), weighted.sum(1, keepdim=True), experts.mean.shape[1])

    @classmethod
    def of_others(cls, experts: Gaussian) -> ExpertSums:
        """For each of the experts (B, N, C, *S) the sums over all others, (B, N, C, *S).

        Added up, not the total less its own: next to an expert that is sure, rounding would leave nothing of the rest.
        """
        size = experts.mean.shape[1]
        others = 1 - torch.eye(size, dtype=experts.mean.dtype, device=experts.mean.device)
        precision = 1 / experts.variance
        weighted = precision * experts.mean
        summed = "mn,bn...->bm..."
        return cls(torch.einsum(summed, others, precision), torch.einsum(summed, others, weighted), size - 1)

    def __add__(self, other: ExpertSums) -> ExpertSums:
        """The sums of two disjoint parts of a group."""
        return ExpertSums(
            self.precision + other.precision, self.weighted_mean + other.weighted_mean, self.count + other.count
        )

    def posterior(self) -> Gaussian:
        """The geometric mean of the experts, Eq. (5): identical experts keep their variance."""
        return Gaussian(self.weighted_mean / self.precision, self.count / self.precision)


def kl_divergence(q: Gaussian, p: Gaussian) -> Tensor:
    """KL(q || p), an element at a time; q and p broadcast."""
    squares = (q.variance + (q.mean - p.mean) ** 2) / p.variance
    return 0.5 * (squares - 1 + torch.log(p.variance / q.variance))
