"""How well a group is registered: Dice, groupwise warping index, folding."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bingo_pl.batch import UNLABELLED, GroupBatch
from bingo_pl.spatial import compose, jacobian_determinant, warp_labels


def warping_residual(displacement: Tensor, truth: Tensor) -> Tensor:
    """What is left of a known misalignment after registration, up to a map common to the group.

    ``r_m(p) = u_m(p) + g_m(p + u_m(p))``, minus its mean over the group, which no groupwise method can know.

    Args:
        displacement: u (B, N, D, *S), from the common space to each image.
        truth: g (B, N, D, *S), the displacement that misaligned each image.

    Returns:
        (B, N, D, *S) in voxels.
    """
    residual = compose(truth.flatten(0, 1), displacement.flatten(0, 1)).unflatten(0, displacement.shape[:2])
    return residual - residual.mean(1, keepdim=True)


def squared_length_over(residual: Tensor, masks: Tensor) -> Tensor:
    """Mean squared length of vectors (B, N, D, *S) over each image's mask (B, N, 1, *S): (B, N)."""
    inside = masks.flatten(2).to(residual.dtype)
    squares = (residual**2).sum(2).flatten(2)
    return (squares * inside).sum(2) / inside.sum(2).clamp(min=1)


def groupwise_warping_index(displacement: Tensor, truth: Tensor, masks: Tensor) -> Tensor:
    """gWI of each group in voxels: RMS residual over the registered foreground of an image, averaged over images.

    Luo & Zhuang, X-metric (2022); 0 is perfect.

    Args:
        displacement: (B, N, D, *S), from the common space to each image.
        truth: (B, N, D, *S), the displacement that misaligned each image.
        masks: (B, N, 1, *S) bool, each image's foreground before registration.

    Returns:
        (B,).
    """
    registered = warp_group_labels(masks, displacement)
    return squared_length_over(warping_residual(displacement, truth), registered).sqrt().mean(1)


def warp_group_labels(labels: Tensor, displacement: Tensor) -> Tensor:
    """Warp labels or masks (B, N, 1, *S) by (B, N, D, *S), to the nearest voxel."""
    return warp_labels(labels.flatten(0, 1), displacement.flatten(0, 1)).unflatten(0, labels.shape[:2])


def dice(labels: Tensor, label_ids: Sequence[int]) -> Tensor:
    """Dice overlap of each group: mean over classes of a pair of images, then over all pairs of labelled images.

    A class that neither image of a pair shows is left out of that pair's mean.

    Args:
        labels: (B, N, 1, *S) integer, `UNLABELLED` throughout an image without labels.
        label_ids: the foreground classes.

    Returns:
        (B,); NaN for a group with fewer than two labelled images or no class at all.
    """
    return torch.stack([_group_dice(group.flatten(1), label_ids) for group in labels])


def _group_dice(labels: Tensor, label_ids: Sequence[int]) -> Tensor:
    """Dice of one group (N, voxels). All pairs come from one matrix product a class, so large groups are cheap."""
    labels = labels[(labels != UNLABELLED).any(1)]
    first, second = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    overlaps = []
    for label in label_ids:
        inside = (labels == label).to(torch.float32)
        size = inside.sum(1)
        overlaps.append(2 * (inside @ inside.T)[first, second] / (size[first] + size[second]))  # 0 / 0 is NaN
    return torch.stack(overlaps).nanmean(0).nanmean()


def folding_percent(displacement: Tensor) -> Tensor:
    """Percentage of voxels in each group (B, N, D, *S) whose Jacobian determinant is not positive: (B,)."""
    determinant = jacobian_determinant(displacement.flatten(0, 1)).unflatten(0, displacement.shape[:2])
    return 100 * (determinant <= 0).flatten(1).float().mean(1)


def evaluate(batch: GroupBatch, displacement: Tensor, label_ids: Sequence[int]) -> dict[str, Tensor]:
    """Every metric of a batch, (B,) each: ``dice``, ``gwi`` (NaN without truth) and ``folding_percent``."""
    unknown = displacement.new_full((batch.groups,), torch.nan)
    return {
        "dice": dice(warp_group_labels(batch.labels, displacement), label_ids),
        "gwi": unknown if batch.truth is None else groupwise_warping_index(displacement, batch.truth, batch.masks),
        "folding_percent": folding_percent(displacement),
    }
