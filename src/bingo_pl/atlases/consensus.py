"""What aligned images agree on: a mean that outliers do not move, and Dice of all pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bingo_pl.atlases.pooling import LEAST_COVERAGE, View

SLAB = 1 << 18
"""Voxels that are worked on at once."""
TUKEY = 4.685
"""Deviations beyond which a value counts for nothing (Tukey's biweight)."""
TO_DEVIATION = 1.4826
"""From a median absolute deviation to a standard deviation."""
LEAST_DEVIATION = 0.02
"""Of the intensity range: less is no disagreement."""
SEEN = 0.5
"""Weight from which an image is taken to show a voxel."""


class Stack:
    """Images of one modality on a grid, kept on disk.

    Args:
        folder: where; it is left to the caller to remove.
        number: of images.
        shape: (X, Y, Z).
    """

    def __init__(self, folder: Path, number: int, shape: tuple[int, int, int]) -> None:
        self.shape, self.filled = shape, 0
        size = (number, int(np.prod(shape)))
        folder.mkdir(parents=True, exist_ok=True)
        self.images, self.weights = (
            np.memmap(folder / f"{name}.raw", np.float32, "w+", shape=size) for name in ("images", "weights")
        )

    def add(self, view: View) -> None:
        """Keep one more image."""
        weight = view.weight.numpy().ravel()
        self.images[self.filled] = view.image.numpy().ravel() / np.maximum(weight, 1e-6)
        self.weights[self.filled] = weight
        self.filled += 1

    def robust_mean(self) -> NDArray[np.float32]:
        """(X, Y, Z) the mean of the images that show a voxel; those far from the median count little or nothing.

        Images are first brought to one brightness and contrast. Where fewer than `LEAST_COVERAGE` show a voxel, 0.
        """
        gains, offsets = self._levelled()
        result = np.zeros(self.images.shape[1], np.float32)
        for start in range(0, len(result), SLAB):
            part = slice(start, start + SLAB)
            weights = np.asarray(self.weights[:, part])
            result[part] = _biweight(np.asarray(self.images[:, part]) * gains[:, None] + offsets[:, None], weights)
        return result.reshape(self.shape).clip(0, 1)

    def _levelled(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """(N,) and (N,): what brings each image to the group's median brightness and contrast, where most see."""
        coverage = np.zeros(self.images.shape[1], np.float32)
        for weight in self.weights:
            coverage += weight
        common = coverage >= max(len(self.images) / 2, SEEN)
        means, deviations = np.zeros((2, len(self.images)))
        for i, (image, weight) in enumerate(zip(self.images, self.weights, strict=True)):
            values = image[common & (weight > SEEN)]
            means[i], deviations[i] = (values.mean(), values.std()) if values.size else (0, 1)
        gains = np.median(deviations) / np.maximum(deviations, LEAST_DEVIATION)
        return gains.astype(np.float32), (np.median(means) - gains * means).astype(np.float32)


def _biweight(values: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """(N, V) and their weights -> (V,)."""
    seen = np.where(weights > SEEN, values, np.nan)
    nobody = np.isnan(seen).all(0)
    seen[:, nobody] = values[:, nobody]
    middle = np.nanmedian(seen, 0)
    away = values - middle
    deviation = np.maximum(TO_DEVIATION * np.nanmedian(np.abs(seen - middle), 0), LEAST_DEVIATION)
    believed = weights * np.square(np.clip(1 - np.square(away / (TUKEY * deviation)), 0, None))
    total = believed.sum(0)
    mean = middle + (believed * away).sum(0) / np.maximum(total, 1e-6)
    result: NDArray[np.float32] = np.where(weights.sum(0) < LEAST_COVERAGE, 0, mean).astype(np.float32)
    return result


def pairwise_dice(
    maps: Sequence[NDArray[np.int32]], label_ids: Sequence[int], owners: Sequence[int] | None = None
) -> NDArray[np.float64]:
    """(N,) of each label map (V,): the mean Dice over labels with all others; labels that neither has do not count.

    Args:
        maps: ids.
        label_ids: which count.
        owners: whose each is, by number: maps of one person are not compared; None: each is another person's.

    Returns:
        NaN where there is nothing to compare.
    """
    total, count = np.zeros((2, len(maps), len(maps)))
    for label in label_ids:
        own = np.stack([ids == label for ids in maps])
        sizes = own.sum(1).astype(float)
        both = np.zeros_like(total)
        for start in range(0, own.shape[1], SLAB):
            slab = own[:, start : start + SLAB].astype(np.float32)
            both += slab @ slab.T
        sums = sizes[:, None] + sizes
        total += 2 * both / np.maximum(sums, 1)
        count += sums > 0
    persons = np.arange(len(maps)) if owners is None else np.asarray(owners)
    count[persons[:, None] == persons] = 0
    known = count > 0
    scores = np.where(known, total / np.maximum(count, 1), 0).sum(1) / np.maximum(known.sum(1), 1)
    return np.where(known.any(1), scores, np.nan)
