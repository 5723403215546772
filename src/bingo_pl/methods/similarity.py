"""Groupwise intensity similarities, each a loss to be minimised: APE, CTE and X-CoReg.

Densities are Parzen estimates over a histogram (Mattes 2003; Thevenaz & Unser 2000), with the settings of X-metric
(Luo & Zhuang 2022). Entropies are in nats. Inside the functions images are (B, N, V): V counts voxels, and weights
(B, 1, V) are the mask divided by its size. Precision is at least single, whatever autocast says: histograms in half
precision make information infinite. An empty mask gives zero, with zero gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 64
"""Over the range of an image (X-metric). Small images want fewer: 64 x 64 bins of 80 x 96 voxels are mostly empty."""
PADDING = 2
"""Further bins at either end, so that every window is complete. Windows are cubic B-splines of one bin's sigma."""
PARTNERS = 8
"""That an image of a large group is paired with on either side of a random circle (docs/notes/trials.md)."""
SMALLEST_RANGE = 1e-4
"""An image whose intensities span less is constant."""
SMALLEST_PROBABILITY = 1e-12
SMALLEST_POSTERIOR = 1e-3
"""No voxel is taken to be certain of its class (X-metric)."""
SMALLEST_GAP = 1e-3
"""Between the two largest eigenvalues, whose sum is at most N; nearer, the eigenvector's derivative is damped."""


def mutual_information(first: Tensor, second: Tensor, mask: Tensor, bins: int = BINS) -> Tensor:
    """Mutual information of images, one by one.

    Args:
        first: (B, N, 1, *S).
        second: (B, N, 1, *S).
        mask: (B, 1, 1, *S) bool, the voxels to count.
        bins: of the histograms, over the range of an image.

    Returns:
        (B, N) in nats.
    """
    a, weights = _voxels(first, mask)
    b, _ = _voxels(second, mask)
    return _information(_joint_histogram(_parzen_windows(a, weights, bins), _parzen_windows(b, weights, bins), weights))


def ape(images: Tensor, mask: Tensor, bins: int = BINS, generator: torch.Generator | None = None) -> Tensor:
    """Accumulated pairwise estimates (Wachinger & Navab 2013): -sum of the MI of all pairs over (N - 1) / 2.

    All pairs of a large group take time with the square of N. A draw looks at each image beside 2 `PARTNERS` others,
    N `PARTNERS` pairs, whose mean stands for that of all.

    Args:
        images: (B, N, 1, *S), registered.
        mask: (B, 1, 1, *S) bool, the voxels to count, e.g. the overlap of the images' domains.
        bins: of the histograms, over the range of an image.
        generator: draws pairs where there are more than N `PARTNERS`; None looks at all.

    Returns:
        (B,).
    """
    size = images.shape[1]
    pairs, count = _all_pairs, size * (size - 1) // 2
    if generator is not None and count > size * PARTNERS:
        images = images[:, _order(size, generator).to(images.device)]
        pairs, count = _neighbours, size * PARTNERS
    x, weights = _voxels(images, mask)
    windows = _parzen_windows(x, weights, bins)
    information = 0 * x.flatten(1).sum(1)  # a single image has no pair: zero, with zero gradient
    for first, second in pairs(windows):
        information = information + _information(_joint_histogram(first, second, weights)).sum(1)
    return -information / (max(count, 1) / size)


def cte(images: Tensor, mask: Tensor, bins: int = BINS) -> Tensor:
    """Conditional template entropy (Polfliet 2018): sum of H(T | I_i), T the first principal component of the group.

    Arguments and result as `ape`. The template moves with the images, so its gradient counts.
    """
    x, weights = _voxels(images, mask)
    template = _parzen_windows(_principal_component(x, weights), weights, bins)
    joint = _joint_histogram(template, _parzen_windows(x, weights, bins), weights)
    return _conditional_entropy(joint).sum(1)


def x_coreg(images: Tensor, posterior: Tensor, mask: Tensor, bins: int = BINS) -> Tensor:
    """X-CoReg (Luo & Zhuang 2022): sum of H(Z | I_i), Z the latent classes.

    Arguments and result as `ape`, and:
        posterior: (B, classes, 1, *S), from `em_posterior`; a constant.
    """
    x, weights = _voxels(images, mask)
    classes, _ = _voxels(posterior, mask)
    joint = _joint_histogram(classes[:, None], _parzen_windows(x, weights, bins), weights)
    return _conditional_entropy(joint).sum(1)


@torch.no_grad()
def em_posterior(images: Tensor, mask: Tensor, bins: int = BINS, classes: int = 4, iterations: int = 10) -> Tensor:
    """Posterior of latent tissue classes, proportional to pi_k prod_i p(I_i | k), by expectation maximisation.

    Each p(I_i | k) is a Parzen estimate. EM starts from equally large classes along the group's first principal
    component, so that the result depends on nothing but the images.

    Args:
        images: (B, N, 1, *S), registered.
        mask: (B, 1, 1, *S) bool, the voxels that the classes are learned from.
        bins: of the histograms, over the range of an image.
        classes: K.
        iterations: of EM.

    Returns:
        (B, K, 1, *S), no smaller than about 1e-3, summing to one over K; without gradient.
    """
    x, weights = _voxels(images, mask)
    windows = _parzen_windows(x, weights, bins)
    template = _principal_component(x, weights)
    quantiles = torch.linspace(0, 1, classes + 1, dtype=x.dtype, device=x.device)[1:-1]
    edges = template.where(weights > 0, torch.nan).nanquantile(quantiles, dim=-1)  # (K - 1, B, 1)
    label = (template > edges[..., None]).sum(0)[:, 0]
    posterior = _without_certainty(F.one_hot(label, classes).movedim(-1, 1).to(x.dtype))
    for _ in range(iterations):
        prior = (posterior * weights).sum(-1, keepdim=True).clamp(min=SMALLEST_PROBABILITY)  # (B, K, 1)
        appearance = _joint_histogram(posterior[:, None], windows, weights) / prior[:, None]  # p(bin | k)
        likelihood = _product(appearance, windows).clamp(min=SMALLEST_PROBABILITY)  # (B, N, K, V)
        posterior = _without_certainty((prior.log() + likelihood.log().sum(1)).softmax(1))
    return posterior.reshape(len(x), classes, *images.shape[2:])


def sample_voxels(
    images: Tensor, mask: Tensor, share: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw a share of the voxels without replacement, the same of every group.

    Args:
        images: (B, N, 1, *S).
        mask: (B, 1, 1, *S).
        share: of the voxels, in (0, 1].
        generator: draws the voxels; None keeps them all.

    Returns:
        (B, N, 1, V) and (B, 1, 1, V).
    """
    images, mask = images.flatten(3), mask.flatten(3)
    if generator is None or share == 1:
        return images, mask
    voxels = images.shape[3]
    chosen = _order(voxels, generator).to(images.device)[: max(round(share * voxels), 1)]
    return images[..., chosen], mask[..., chosen]


def _order(count: int, generator: torch.Generator) -> Tensor:
    return torch.randperm(count, generator=generator, device=generator.device)


def _all_pairs(windows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows (B, 1 or n, k, V) and (B, n, k, V) of pairs of images, each pair once."""
    for i in range(windows.shape[1] - 1):
        yield windows[:, i : i + 1], windows[:, i + 1 :]


def _neighbours(windows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """As `_all_pairs`, of images up to `PARTNERS` apart on a circle."""
    for step in range(1, PARTNERS + 1):
        yield windows[:, :-step], windows[:, step:]
        yield windows[:, -step:], windows[:, :step]


def _voxels(images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Images (B, N, 1, *S) as (B, N, V) in at least single precision; the mask as weights (B, 1, V) of sum one."""
    x = images.flatten(2)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    inside = mask.flatten(2).to(x.dtype)
    return x, inside / inside.sum(-1, keepdim=True).clamp(min=1)


def _parzen_windows(x: Tensor, weights: Tensor, bins: int) -> Tensor:
    """Share (B, N, bins + 2 PADDING, V) of each voxel in each bin of its image; they sum to one over the bins."""
    low, high = _range(x.detach(), weights)  # constants of the estimate
    unit = ((x - low) / (high - low).clamp(min=SMALLEST_RANGE)).clamp(0, 1)
    position = unit * bins + PADDING - 0.5  # bin i is centred at i
    first = position.detach().floor()
    t = (position - first)[:, :, None]
    cubic = torch.cat([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], dim=2) / 6
    touched = first.long()[:, :, None] - 1 + torch.arange(4, device=x.device)[:, None]
    return x.new_zeros(*x.shape[:2], bins + 2 * PADDING, x.shape[2]).scatter(2, touched, cubic)


def _range(x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Smallest and largest intensity of each image inside the mask, (B, N, 1)."""
    low = x.where(weights > 0, torch.inf).amin(-1, keepdim=True)
    high = x.where(weights > 0, -torch.inf).amax(-1, keepdim=True)
    return low, high


def _joint_histogram(first: Tensor, second: Tensor, weights: Tensor) -> Tensor:
    """Joint probabilities (B, n, k, l) of windows (B, 1 or n, k, V) and (B, n, l, V)."""
    return _product(first * weights[:, None], second.mT)


def _entropy(probability: Tensor) -> Tensor:
    """Over the last axis. The derivative stays finite at zero."""
    return -(probability * probability.clamp(min=SMALLEST_PROBABILITY).log()).sum(-1)


def _conditional_entropy(joint: Tensor) -> Tensor:
    """H(first | second) of joint probabilities (..., k, l)."""
    return _entropy(joint.flatten(-2)) - _entropy(joint.sum(-2))


def _information(joint: Tensor) -> Tensor:
    """I(first; second) of joint probabilities (..., k, l). Windows sum to one, so marginals are sums of the joint."""
    return _entropy(joint.sum(-1)) - _conditional_entropy(joint)


def _standardise(x: Tensor, weights: Tensor) -> Tensor:
    centred = x - (x * weights).sum(-1, keepdim=True)
    variance = (centred**2 * weights).sum(-1, keepdim=True)
    return centred / variance.clamp(min=SMALLEST_RANGE**2).sqrt()


def _principal_component(x: Tensor, weights: Tensor) -> Tensor:
    """The group's images along the top eigenvector of their correlation matrix, standardised: (B, 1, V).

    The derivative of the eigenvector is that of perturbation theory, de = sum_j e_j (e_j . dC e) / (gap to e_j).
    That of `torch.linalg.eigh` also divides by the gaps among the other eigenvalues, zero where images are equal.
    """
    z = _standardise(x, weights)
    correlation = _product(z * weights, z.mT)
    values, vectors = torch.linalg.eigh(correlation.detach())
    top, rest = vectors[..., -1:], vectors[..., :-1]
    gaps = (values[..., -1:] - values[..., :-1]).clamp(min=SMALLEST_GAP)
    change = _product(correlation - correlation.detach(), top)  # zero, with a derivative
    top = top + _product(rest, _product(rest.mT, change) / gaps[..., None])
    return _standardise(_product(top.mT, z), weights)


def _without_certainty(posterior: Tensor) -> Tensor:
    clamped = posterior.clamp(min=SMALLEST_POSTERIOR)
    return clamped / clamped.sum(1, keepdim=True)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """Matrix product in the factors' own precision: only products would be rounded by autocast."""
    with torch.autocast(first.device.type, enabled=False):
        return first @ second
