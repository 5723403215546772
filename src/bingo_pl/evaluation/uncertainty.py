"""What the hierarchical posterior knows of its own errors: uncertainty of the displacement, images that do not belong.

A group can only say where its images lie relative to each other, so all of this is up to a map common to the group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor

from bingo_pl.alignment.registrar import Intrinsic
from bingo_pl.batch import GroupBatch
from bingo_pl.evaluation.metrics import anatomy_shares, warping_residual
from bingo_pl.methods.baselines import Refined, RefinedRegistration
from bingo_pl.methods.bingo import Bingo, BingoRegistration, DomainOrder
from bingo_pl.methods.posterior import SMALLEST_VARIANCE, Gaussian
from bingo_pl.methods.registrar import Registrar, Registration
from bingo_pl.spatial import Shape

OUTLYING = 2.0
"""An image that disagrees this many times as much as its fellows does not belong."""
SMALLEST_JUDGED_GROUP = 3
"""Of two images that disagree nobody can tell which is wrong."""


@torch.no_grad()
def displacement_uncertainty(
    registrar: Registrar,
    batch: GroupBatch,
    result: Registration,
    samples: int,
    generator: torch.Generator,
) -> Tensor | None:
    """Standard deviation of the displacement under the velocity posterior.

    Velocities are drawn from q(v^l | x, v^<l) of each level, given the means of the levels before, without the motion
    that a group has in common, and composed as the model composes them. The variance of the displacements, summed
    over axes, tells how far a point may be from where the registration puts it. Whether that is true depends on how the
    variances were taught, see `negative_log_likelihood`.

    Args:
        registrar: the method. A refined one is as uncertain as the trained method that it starts from.
        batch: the groups.
        result: what the registrar made of them.
        samples: draws, at least 2. The relative error of each value is about ``1 / sqrt(2 D samples)``.
        generator: of the draws, on the batch's device.

    Returns:
        (B, N, 1, *S) in mm, 0 for a group of one. NaN, unknown, where it is more than the misalignments that taught the
        variances, see `Taught`. None where the method has no velocity posterior, or nothing taught its variances.
    """
    assert samples >= 2, f"a variance takes at least 2 samples, got {samples}"
    bingo = hierarchical(registrar)
    if bingo is None or (bingo.taught is not None and not bingo.taught.reach):
        return None
    posterior = _of_network(result)
    spacing = batch.spacing.reshape(batch.groups, 1, -1, *[1] * len(batch.shape))
    total = squares = torch.zeros_like(posterior.displacement)
    for _ in range(samples):
        drawn = _draw(posterior.velocities, generator)
        displacement = bingo.transform(drawn, batch.shape).unflatten(0, (batch.groups, batch.size))
        deviation_mm = (displacement - posterior.displacement) * spacing
        total = total + deviation_mm
        squares = squares + deviation_mm**2
    variance = (squares - total**2 / samples) / (samples - 1)
    deviation = variance.clamp(min=0).sum(2, keepdim=True).sqrt()
    if bingo.taught is None:
        return deviation
    return torch.where(deviation <= bingo.taught.reach * spacing.norm(dim=2, keepdim=True), deviation, torch.nan)


@torch.no_grad()
def disagreement(registrar: Registrar, batch: GroupBatch, result: Registration) -> Tensor | None:
    """How badly each registered image's experts of the common structure fit those of the others.

    Between two images, the squared distance of their experts' means in units of their summed variances, a mean over
    channels and voxels, summed over scales; for an image the median over the others, the lower one of two, so that one
    bad image spoils the value of no other from three images on. Time grows with N^2.

    Args:
        registrar: the method. Of a refined one, what the trained method that it starts from makes of the groups is
            judged: refinement brings those that fit best still closer, and then flags others that fit well.
        batch: the groups.
        result: what the registrar made of them.

    Returns:
        (B, N), larger = fits the group less, 0 for a group of one; None where the method has no experts.
    """
    bingo = hierarchical(registrar)
    if bingo is None:
        return None
    order = DomainOrder.of(batch.modalities, bingo.modalities)
    experts = [order.unsort_all(q) for q in bingo.experts(batch, _of_network(result), order)]
    distances = torch.stack([_distances(q) for q in experts]).sum(0)
    return torch.zeros_like(distances[:, 0]) if batch.size == 1 else _of_others(distances).median(2).values


def belongs(disagreement: Tensor) -> Tensor:
    """Which images fit their group: those that disagree at most `OUTLYING` times as much as the median of the others.

    The group is its own reference, so nothing is stored with a model, and a group that is hard throughout flags
    nobody. It takes three images; of one or two, which nobody can judge, all belong. In a group of three or four one
    bad image can be found, in larger ones as long as most images are good.

    Args:
        disagreement: (B, N), see `disagreement`.

    Returns:
        (B, N) bool.
    """
    if disagreement.shape[1] < SMALLEST_JUDGED_GROUP:
        return torch.ones_like(disagreement, dtype=torch.bool)
    return disagreement <= OUTLYING * median_of_others(disagreement)


def median_of_others(disagreement: Tensor) -> Tensor:
    """What each image's disagreement (B, N) is compared with: the median of the others', (B, N); N is at least 2."""
    others = _of_others(disagreement[:, None].expand(-1, disagreement.shape[1], -1))
    return others.quantile(0.5, dim=2)


def negative_log_likelihood(batch: GroupBatch, result: BingoRegistration) -> Tensor:
    """How badly the velocities' variances tell what is left of a known misalignment; it teaches them alone.

    The residual of `metrics.warping_residual`, an axis and a voxel at a time, is taken to be normal about zero, its
    variance the sum of the levels', to first order. The means are constants in it.

    Args:
        batch: groups with a ground truth.
        result: of the groups.

    Returns:
        Scalar, a mean over voxels and axes, up to a constant.
    """
    assert batch.truth is not None, "the ground truth is known only of a synthetic misalignment"
    residual = warping_residual(result.displacement.detach(), batch.truth, batch.anatomies)
    variance = _displacement_variance(result.velocities, batch.shape, batch.anatomies) + SMALLEST_VARIANCE
    return 0.5 * (residual**2 / variance + variance.log()).mean()


def has_posterior(result: Registration) -> TypeGuard[BingoRegistration]:
    """Whether a method has a posterior of the velocities, so that `negative_log_likelihood` can teach it."""
    return isinstance(result, BingoRegistration)


def hierarchical(registrar: Registrar) -> Bingo | None:
    """The method that has a posterior and experts, if any."""
    if isinstance(registrar, (Refined, Intrinsic)):
        registrar = registrar.start
    return registrar if isinstance(registrar, Bingo) else None


def _of_network(result: Registration) -> BingoRegistration:
    """What the method with a posterior made of the groups, before it was refined."""
    network = result.start if isinstance(result, RefinedRegistration) else result
    assert isinstance(network, BingoRegistration), "a result of the registrar"
    return network


def _draw(velocities: Sequence[Gaussian], generator: torch.Generator) -> list[Tensor]:
    """A draw of each level's velocities (B * N, D, *s), without what the group has in common."""
    drawn = [velocity.sample(generator) for velocity in velocities]
    return [(velocity - velocity.mean(1, keepdim=True)).flatten(0, 1) for velocity in drawn]


def _displacement_variance(velocities: Sequence[Gaussian], shape: Shape, anatomies: Tensor | None = None) -> Tensor:
    """The variance of `_draw`'s displacements (B, N, D, *S), to first order: levels add up, none moves another.

    Where a group has several ``anatomies`` (B, N), that of the displacements minus their mean over each.
    """
    own = torch.stack([_resized_variance(velocity.variance, shape) for velocity in velocities]).sum(0)
    size = own.shape[1]
    if anatomies is None:
        return own * (1 - 2 / size) + own.mean(1, keepdim=True) / size  # of x_m minus the mean of N independent x
    shares = anatomy_shares(anatomies).to(own)  # of x_m minus a weighted mean
    kept = 1 - 2 * shares.diagonal(dim1=1, dim2=2).reshape(*own.shape[:2], *[1] * (own.ndim - 2))
    return own * kept + torch.einsum("bmn,bn...->bm...", shares**2, own)


def _resized_variance(variance: Tensor, shape: Shape) -> Tensor:
    """What `spatial.resize_displacement` makes of the variance (B, N, D, *s) of independent voxels: (B, N, D, *S).

    Interpolation weights count squared, so noise between two coarse voxels is less than at either.
    """
    ratios = [new / old for new, old in zip(shape, variance.shape[3:], strict=True)]
    for new, old in zip(shape, variance.shape[3:], strict=True):  # each pass consumes the first spatial axis
        identity = torch.eye(old, dtype=variance.dtype, device=variance.device)[None]
        weights = F.interpolate(identity, size=new, mode="linear", align_corners=False)[0]
        variance = torch.tensordot(variance, weights**2, dims=([3], [0]))
    scale = torch.tensor(ratios, dtype=variance.dtype, device=variance.device) ** 2
    return variance * scale.reshape(-1, *[1] * len(ratios))


def _distances(experts: Gaussian) -> Tensor:
    """(B, N, N) mean squared distance of any two of the experts (B, N, C, *s), in units of their summed variances."""
    rows = []
    for mean, variance in zip(experts.mean.split(1, dim=1), experts.variance.split(1, dim=1), strict=True):
        standardised = (experts.mean - mean) ** 2 / (experts.variance + variance)
        rows.append(standardised.flatten(2).mean(2))
    return torch.stack(rows, dim=1)


def _of_others(values: Tensor) -> Tensor:
    """Each row m of (B, N, N) without its m-th value: (B, N, N - 1)."""
    size = values.shape[1]
    others = ~torch.eye(size, dtype=torch.bool, device=values.device)
    return values[:, others].unflatten(1, (size, size - 1))
