"""Label maps painted in random contrasts, so that a network learns shapes and not what a modality makes of them.

Follows SynthMorph (Hoffmann et al., IEEE TMI 2022): every label gets a random intensity in every image; then blur, bias
field and noise. Added here: labels that look alike, a texture that the images of a group share, air that is
dark in all of them.
"""

from __future__ import annotations

import torch
from monai.networks.layers import GaussianFilter
from torch import Tensor

from bingo_pl.images.intensity import PERCENTILES
from bingo_pl.spatial import resize

ALIKE = 0.15
"""Share of labels that look like another one in an image."""
ROUGHNESS = 0.1
"""Standard deviation of the shared texture, which each label of each image takes up by its own factor."""
BLUR = 0.3, 1.0
"""Range of the standard deviation of an image's point spread, in voxels."""
BIAS = 0.4
"""Largest standard deviation of the logarithm of a bias field."""
GAMMA = 0.3
"""Standard deviation of the logarithm of an image's gamma."""
NOISE = 0.06
"""Largest standard deviation of an image's noise."""
DARK = 0.5
"""Share of groups whose background is 0, as in skull-stripped images."""


def paint(labels: Tensor, images: int, generator: torch.Generator) -> Tensor:
    """Images of one anatomy in random contrasts, scaled as files are (`bingo_pl.images.intensity.rescale`).

    Args:
        labels: (*S) integer, 0 where there is no body.
        images: N.
        generator: the only source of randomness, on the CPU.

    Returns:
        (N, 1, *S) in [0, 1], on the labels' device.
    """
    shape, count = labels.shape, int(labels.max()) + 1

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    def smooth(fields: int, cells: int) -> Tensor:
        return resize(normal(fields, 1, *[cells] * len(shape)).to(labels.device), shape)

    def each(values: Tensor) -> Tensor:
        return values.to(labels.device).reshape(-1, *[1] * (1 + len(shape)))

    level = _alike(uniform(images, count), uniform(images, count), uniform(images, count))
    factor = ROUGHNESS * normal(images, count)
    place = labels.long()
    painted = level.to(labels.device)[:, place] + factor.to(labels.device)[:, place] * smooth(1, max(shape) // 3)[0]
    blur = BLUR[0] + (BLUR[1] - BLUR[0]) * uniform(images)
    filtered = [
        GaussianFilter(len(shape), sigma)(image[None, None])[0]
        for image, sigma in zip(painted, blur.tolist(), strict=True)
    ]
    image = torch.stack(filtered).clamp(min=0) ** each((GAMMA * normal(images)).exp())
    image = image * (each(BIAS * uniform(images)) * smooth(images, 4)).exp()
    image = (image + each(NOISE * uniform(images)) * normal(images, 1, *shape).to(labels.device)).abs()
    body = labels > 0
    dark = bool(uniform(1) < DARK) and bool(body.any())
    return _rescale(image, body if dark else torch.ones_like(body))


def _alike(level: Tensor, chance: Tensor, partner: Tensor) -> Tensor:
    """Intensities (N, labels), some of them replaced by that of a random other label of the image."""
    chosen = (partner * level.shape[1]).long()
    return torch.where(chance < ALIKE, level.gather(1, chosen), level)


def _rescale(images: Tensor, visible: Tensor) -> Tensor:
    """The `PERCENTILES` of what is visible (*S) become 0 and 1, all else 0."""
    inside = images[..., visible].flatten(1)
    low, high = torch.quantile(inside, torch.tensor(PERCENTILES, device=images.device) / 100, dim=1)
    low, high = (bound.reshape(-1, *[1] * (images.ndim - 1)) for bound in (low, high))
    return ((images - low) / (high - low)).clamp(0, 1) * visible
