"""Whether an image looks like the modality it was given as.

A wrong name hardly shows in the experts of the structure, which is the same under either name; it shows in the picture
that the decoder draws of the structure under each name.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bingo_pl.batch import GroupBatch
from bingo_pl.evaluation.metrics import warp_group_labels
from bingo_pl.evaluation.uncertainty import SMALLEST_JUDGED_GROUP, hierarchical
from bingo_pl.methods.bingo import Bingo, DomainOrder
from bingo_pl.methods.posterior import ExpertSums
from bingo_pl.methods.registrar import Registrar, Registration
from bingo_pl.spatial import warp

MISNAMED = 0.2
"""An image whose correlation with another modality is higher by this than with its own was given under a wrong name."""


@torch.no_grad()
def unlikeness(registrar: Registrar, batch: GroupBatch, result: Registration) -> Tensor | None:
    """How unlike each registered image is to what the others say it would be in each modality.

    The structure that the *other* images have in common, without the image's own say, is decoded in the appearance of
    every modality; the unlikeness is 1 - Pearson's correlation of that picture with the registered image over the
    image's registered foreground. It takes as many decoder passes over the group as there are modalities.

    Args:
        registrar: a method whose decoder was trained, see `ready_model.reconstructs`; of another, the values mean
            nothing. Of a refined one, the decoder of the trained method that it starts from.
        batch: the groups.
        result: what the registrar made of them.

    Returns:
        (B, N, M) for the M modalities that the model knows, from 0 to 2, 1 where the image or the picture is constant
        over the foreground. None where nothing is known: the method has no decoder, it knows one modality only, or
        the groups have less than `SMALLEST_JUDGED_GROUP` images, of which the structure of the others is one image's.
    """
    bingo = hierarchical(registrar)
    if bingo is None or bingo.modalities < 2 or batch.size < SMALLEST_JUDGED_GROUP:
        return None
    order = DomainOrder.of(batch.modalities, bingo.modalities)
    experts = [order.unsort_all(q) for q in bingo.experts(batch, result, order)]
    structure = [ExpertSums.of_others(q).posterior().mean.flatten(0, 1) for q in experts]
    images = warp(batch.images.flatten(0, 1), result.displacement.flatten(0, 1))
    foreground = warp_group_labels(batch.masks, result.displacement).flatten(0, 1)
    modalities = range(bingo.modalities)
    correlations = [correlation(_drawn_as(modality, structure, bingo), images, foreground) for modality in modalities]
    return (1 - torch.stack(correlations, dim=1)).unflatten(0, batch.modalities.shape)


def misnaming(unlikeness: Tensor, modalities: Tensor) -> Tensor:
    """How much less an image looks like its own modality than like the likeliest other one: of correlations.

    Not a ratio: where an image fits both closely, as a T1 before and after contrast agent, either name is as good, and
    its ratio may be large.

    Args:
        unlikeness: (B, N, M), see `unlikeness`.
        modalities: (B, N) that the images were given as.

    Returns:
        (B, N) from -2 to 2, below 0 where its own is the likeliest.
    """
    own = unlikeness.gather(2, modalities[..., None])
    others = unlikeness.scatter(2, modalities[..., None], torch.inf)
    return own[..., 0] - others.amin(2)


def looks_like(unlikeness: Tensor, modalities: Tensor) -> Tensor:
    """The modality that each image looks like: as given, unless its `misnaming` is beyond `MISNAMED`.

    Args:
        unlikeness: (B, N, M), see `unlikeness`.
        modalities: (B, N) that the images were given as.

    Returns:
        (B, N) long.
    """
    return torch.where(misnaming(unlikeness, modalities) > MISNAMED, unlikeness.argmin(2), modalities)


def correlation(first: Tensor, second: Tensor, region: Tensor) -> Tensor:
    """Pearson's, of images (K, 1, *S) over the region (K, 1, *S) bool of each: (K,), 0 where one is constant."""
    weights = region.flatten(1).float()
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1)
    x, y = (image.flatten(1) - (weights * image.flatten(1)).sum(1, keepdim=True) for image in (first, second))
    scale = ((weights * x**2).sum(1) * (weights * y**2).sum(1)).sqrt()
    return torch.where(scale > 0, (weights * x * y).sum(1) / scale, 0)


def _drawn_as(modality: int, structure: list[Tensor], bingo: Bingo) -> Tensor:
    """The pictures (K, 1, *S) of structures (K, C, *s), all in the appearance of one modality."""
    counts = [len(structure[0]) if known == modality else 0 for known in range(bingo.modalities)]
    picture: Tensor = bingo.decoder(structure, counts)
    return picture
