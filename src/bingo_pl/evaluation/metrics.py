"""How well a group is registered: overlap, surface distances, warping index, folding, volume change."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from bingo_pl.batch import UNLABELLED, GroupBatch
from bingo_pl.seeding import generator
from bingo_pl.spatial import compose, jacobian_determinant, warp_labels

MAX_SURFACE_PAIRS = 120
"""Pairs of images of one group whose surfaces are compared: all of up to 16 images."""
SMALLEST_DETERMINANT = 1e-9
"""Below it, where space collapses or folds, the logarithm of a Jacobian determinant is taken of this value."""


def warping_residual(displacement: Tensor, truth: Tensor, anatomies: Tensor | None = None) -> Tensor:
    """What is left of a known misalignment after registration, up to a map common to the group.

    ``r_m(p) = u_m(p) + g_m(p + u_m(p))``, minus its mean over the group, which no groupwise method can know; over the
    images of an anatomy where a group has several.

    Args:
        displacement: u (B, N, D, *S), from the common space to each image.
        truth: g (B, N, D, *S), the displacement that misaligned each image.
        anatomies: (B, N), see `GroupBatch.anatomies`.

    Returns:
        (B, N, D, *S) in voxels.
    """
    residual = compose(truth.flatten(0, 1), displacement.flatten(0, 1)).unflatten(0, displacement.shape[:2])
    if anatomies is None:
        return residual - residual.mean(1, keepdim=True)
    return residual - torch.einsum("bmn,bn...->bm...", anatomy_shares(anatomies).to(residual), residual)


def anatomy_shares(anatomies: Tensor) -> Tensor:
    """Of each image n in the mean over the images of image m's anatomy: (B, N, N) from (B, N), rows m."""
    alike = (anatomies[:, :, None] == anatomies[:, None]).float()
    return alike / alike.sum(2, keepdim=True)


def squared_length_over(residual: Tensor, masks: Tensor) -> Tensor:
    """Mean squared length of vectors (B, N, D, *S) over each image's mask (B, N, 1, *S): (B, N)."""
    inside = masks.flatten(2).to(residual.dtype)
    squares = (residual**2).sum(2).flatten(2)
    return (squares * inside).sum(2) / inside.sum(2).clamp(min=1)


def groupwise_warping_index(
    displacement: Tensor, truth: Tensor, masks: Tensor, anatomies: Tensor | None = None
) -> Tensor:
    """gWI of each group in voxels: RMS residual over the registered foreground of an image, averaged over images.

    Luo & Zhuang, X-metric (2022); 0 is perfect.

    Args:
        displacement: (B, N, D, *S), from the common space to each image.
        truth: (B, N, D, *S), the displacement that misaligned each image.
        masks: (B, N, 1, *S) bool, each image's foreground before registration.
        anatomies: (B, N), see `GroupBatch.anatomies`.

    Returns:
        (B,).
    """
    registered = warp_group_labels(masks, displacement)
    return squared_length_over(warping_residual(displacement, truth, anatomies), registered).sqrt().mean(1)


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
    labels = _labelled(labels)
    first, second = torch.triu_indices(len(labels), len(labels), offset=1, device=labels.device)
    overlaps = []
    for label in label_ids:
        inside = (labels == label).to(torch.float32)
        size = inside.sum(1)
        overlaps.append(2 * (inside @ inside.T)[first, second] / (size[first] + size[second]))  # 0 / 0 is NaN
    return torch.stack(overlaps).nanmean(0).nanmean()


def surface_distances(labels: Tensor, label_ids: Sequence[int], spacing: Tensor) -> tuple[Tensor, Tensor]:
    """Distances in mm between the labels' surfaces by MONAI, averaged like `dice` over classes, then pairs.

    A class counts where both images of a pair show it: its distance to nothing is infinite. Groups of more pairs than
    `MAX_SURFACE_PAIRS` are judged by as many drawn at random; the draw depends on N alone, so all methods meet it.

    Args:
        labels: (B, N, 1, *S) integer, `UNLABELLED` throughout an image without labels.
        label_ids: the foreground classes.
        spacing: (B, D) mm per voxel.

    Returns:
        The 95th percentile of the Hausdorff distance (the larger of both directions) and the average symmetric surface
        distance, (B,) each; NaN for a group without a pair that shares a class.
    """
    distances = [
        _group_surface_distances(group[:, 0].cpu(), label_ids, sizes.tolist())
        for group, sizes in zip(labels, spacing, strict=True)
    ]
    hd95, assd = torch.stack(distances).to(labels.device).unbind(1)
    return hd95, assd


def _group_surface_distances(labels: Tensor, label_ids: Sequence[int], spacing: Sequence[float]) -> Tensor:
    """HD95 and ASSD (2,) of one group (N, *S)."""
    labels = _labelled(labels)
    pairs = torch.combinations(torch.arange(len(labels)))
    drawn = torch.randperm(len(pairs), generator=generator("surface pairs", len(labels)))[:MAX_SURFACE_PAIRS]
    distances = [_pair_surface_distances(labels[i], labels[j], label_ids, spacing) for i, j in pairs[drawn].tolist()]
    return torch.stack([*distances, torch.full((2,), torch.nan)]).nanmean(0)


def _pair_surface_distances(
    first: Tensor, second: Tensor, label_ids: Sequence[int], spacing: Sequence[float]
) -> Tensor:
    """HD95 and ASSD (2,) of two label maps (*S), mean over the classes in both."""
    from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance  # a second

    shared = [label for label in label_ids if (first == label).any() and (second == label).any()]
    if not shared:
        return torch.full((2,), torch.nan)
    a, b = (torch.stack([image == label for label in shared])[None] for image in (first, second))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)  # MONAI warns of its own call
        hd95 = compute_hausdorff_distance(a, b, include_background=True, percentile=95, spacing=spacing)
        assd = compute_average_surface_distance(a, b, include_background=True, symmetric=True, spacing=spacing)
    return torch.stack([hd95.mean(), assd.mean()])


def _labelled(labels: Tensor) -> Tensor:
    """Those of a group's images (N, ...) that have a label map."""
    return labels[(labels != UNLABELLED).flatten(1).any(1)]


def folding_percent(displacement: Tensor) -> Tensor:
    """Percentage of voxels in each group (B, N, D, *S) whose Jacobian determinant is not positive, NaN or not: (B,)."""
    determinant = jacobian_determinant(displacement.flatten(0, 1)).unflatten(0, displacement.shape[:2])
    return 100 * (~(determinant > 0)).flatten(1).float().mean(1)


def sdlogj(displacement: Tensor) -> Tensor:
    """Unevenness of the volume change: standard deviation of log det J over an image's voxels, averaged over images.

    This is the textbook quantity, 0 for an affine map. Learn2Reg's own variant, of log(det J + 3), comes with its data.

    Args:
        displacement: (B, N, D, *S).

    Returns:
        (B,).
    """
    determinant = jacobian_determinant(displacement.flatten(0, 1)).clamp(min=SMALLEST_DETERMINANT)
    deviation = determinant.log().flatten(1).std(1, correction=0)
    return deviation.unflatten(0, displacement.shape[:2]).mean(1)


def evaluate(batch: GroupBatch, displacement: Tensor, label_ids: Sequence[int]) -> dict[str, Tensor]:
    """What each validation can afford, (B,) each: ``dice``, ``gwi`` (NaN without ground truth) and
    ``folding_percent``."""
    gwi = displacement.new_full((batch.groups,), torch.nan)
    if batch.truth is not None:
        gwi = groupwise_warping_index(displacement, batch.truth, batch.masks, batch.anatomies)
    return {
        "dice": dice(warp_group_labels(batch.labels, displacement), label_ids),
        "gwi": gwi,
        "folding_percent": folding_percent(displacement),
    }
