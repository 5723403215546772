"""Copies of training images that look different and whose maps to each other are known, as no map between people is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bingo_pl.batch import GroupBatch
from bingo_pl.spatial import Shape, resize

RECOLOURED = 0.7
"""Share of the copies, the originals aside, in a contrast of their own."""
KNOTS = (4, 7)
"""Fewest and most knots of the piecewise linear map of intensities that makes a contrast."""
DARK = 0.7
"""Share of contrasts that leave air dark, and how bright it is at most there."""
DARK_LEVEL = 0.1
NOISE = 0.05
"""Largest standard deviation of the noise of a new contrast."""
BIAS = 0.3
"""Largest standard deviation of the logarithm of a bias field, on a grid of `BIAS_CELLS` a side."""
BIAS_CELLS = 4
SHORTENED = (0.15, 0.15, 0.7)
"""Share of images whose field of view ends early along each axis of a volume in RAS: mostly from head to foot."""
CUT = 0.25
"""Largest share of an axis that is cut at either end."""


def copy_each(batch: GroupBatch, copies: int) -> GroupBatch:
    """Every image ``copies`` times in its group, one after the other, as one of `GroupBatch.anatomies`."""
    each = torch.arange(batch.size).repeat_interleave(copies).expand(batch.groups, -1)
    return replace(batch.select(each), anatomies=each.to(batch.images.device))


def disguise(batch: GroupBatch, copies: int, modalities: int, draws: Sequence[torch.Generator]) -> GroupBatch:
    """Let the copies of an image look as if they were of different scanners.

    Most of the copies but the first get a random contrast and modality, every image a bias field, four in five an end
    of their own. Where an image ends says nothing of how its anatomy lies, so it should not travel with the anatomy
    from copy to copy.

    Args:
        batch: of `copy_each`, misaligned.
        copies: of each image.
        modalities: to choose from.
        draws: a generator for each group, on the CPU.

    Returns:
        The batch with other images, modalities and masks; labels and ground truth are as they were.
    """
    groups = [
        _disguise_group(images, own, masks, copies, modalities, draw)
        for images, own, masks, draw in zip(batch.images, batch.modalities, batch.masks, draws, strict=True)
    ]
    images, own, masks = (torch.stack(parts) for parts in zip(*groups, strict=True))
    return replace(batch, images=images, modalities=own, masks=masks)


def _disguise_group(
    images: Tensor, own: Tensor, masks: Tensor, copies: int, modalities: int, draw: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Of images (N, 1, *S), modalities (N) and masks (N, 1, *S)."""
    images, own = images.clone(), own.clone()
    for i in range(len(images)):
        if i % copies and torch.rand(1, generator=draw) < RECOLOURED:
            images[i] = recoloured(images[i], draw)
            own[i] = torch.randint(modalities, (1,), generator=draw)
    shape = images.shape[2:]
    deviation = BIAS * torch.rand(len(images), 1, *[1] * len(shape), generator=draw)
    cells = torch.randn(len(images), 1, *[BIAS_CELLS] * len(shape), generator=draw)
    images = images * resize((deviation * cells).to(images), shape).exp()
    seen = torch.stack([_field_of_view(shape, draw) for _ in images])[:, None].to(images.device)
    return images * seen, own, masks & seen


def recoloured(image: Tensor, draw: torch.Generator) -> Tensor:
    """An image (1, *S) in [0, 1] in a random contrast: by a piecewise linear map, not monotonic, with noise."""
    count = int(torch.randint(KNOTS[0], KNOTS[1] + 1, (1,), generator=draw))
    levels = torch.rand(count, generator=draw)
    if torch.rand(1, generator=draw) < DARK:
        levels[0] *= DARK_LEVEL
    levels = levels.to(image)
    position = image.clamp(0, 1) * (count - 1)
    knot = position.floor().clamp(max=count - 2).long()
    mapped = torch.lerp(levels[knot], levels[knot + 1], position - knot)
    low, high = mapped.aminmax()
    noise = torch.randn(image.shape, generator=draw) * torch.rand(1, generator=draw) * NOISE
    return ((mapped - low) / (high - low).clamp(min=1e-3) + noise.to(image)).clamp(min=0)


def _field_of_view(shape: Shape, draw: torch.Generator) -> Tensor:
    """Where an image shows something: (*S) bool."""
    seen = torch.ones(tuple(shape), dtype=torch.bool)
    for axis, (size, share) in enumerate(zip(shape, SHORTENED, strict=True)):
        if torch.rand(1, generator=draw) < share:
            first, last = (CUT * size * torch.rand(2, generator=draw)).int().tolist()
            inside = torch.zeros(size, dtype=torch.bool)
            inside[first : size - last] = True
            seen &= inside.reshape([-1 if i == axis else 1 for i in range(len(shape))])
    return seen
