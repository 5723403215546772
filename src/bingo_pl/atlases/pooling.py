"""What the images of a population have in common on one grid, added up an image at a time.

Every voxel is a mean over the images that show it: an image counts where its field of view (its mask, where one was
given) reaches, so that the border of a partial image neither darkens nor blurs what others show there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.images.grids import Grid
from bingo_pl.images.scans import Scan
from bingo_pl.spatial import identity, sample

BACKGROUND = 0
"""The label of what has none."""
LEAST_COVERAGE = 0.5
"""Images; less is the rim of a field of view and counts as not covered."""


@dataclass(frozen=True, eq=False)
class View:
    """One image on the grid, (X, Y, Z) each; interpolated once."""

    weight: Tensor
    """How much of a voxel the image shows, 0 to 1."""
    image: Tensor
    """Intensities from 0 to 1, times the weight."""
    labels: Tensor | None
    """(L, X, Y, Z) shares of the labels, which add up to the weight; None without a label map."""


def view(
    scan: Scan, affine: NDArray, grid: Grid, displacement: Tensor, label_ids: Sequence[int], cubic: bool = False
) -> View:
    """Pull an image back.

    Args:
        scan: the image.
        affine: (4, 4) RAS mm, from the group to the image.
        grid: of the group; 2D images have one voxel along the third axis, whatever plane of space it is.
        displacement: (D, *S) in voxels of the grid, before the affine map.
        label_ids: `BACKGROUND` first.
        cubic: interpolate intensities by cubic splines, which blur less; weights and labels are linear in any case.
    """
    points = _points(scan.grid, affine, grid, displacement)

    def pull(volume: Tensor) -> Tensor:
        return sample(volume[None, None], points, padding="zeros")[0, 0]

    seen = scan.mask.data[0].float() if scan.masked else torch.ones(scan.grid.shape)
    weight = pull(seen)
    unit = scan.unit.data[0].float()
    image = weight * _splines(unit, points) if cubic else pull(unit * seen)
    if scan.label is None:
        return View(weight, image, None)
    ids = torch.from_numpy(scan.label.astype(np.int64))
    labels = (
        torch.stack([pull((ids == label) * seen) for label in label_ids[1:]]) if label_ids[1:] else weight[None][:0]
    )
    return View(weight, image, torch.cat([(weight - labels.sum(0)).clamp(min=0)[None], labels]))


def _splines(volume: Tensor, points: Tensor) -> Tensor:
    """A volume (X, Y, Z) at (1, 3, *S) indices by cubic splines, within its own range: (*S)."""
    values = scipy.ndimage.map_coordinates(volume.numpy(), points[0].numpy(), order=3, mode="nearest")
    return torch.from_numpy(values).clamp(float(volume.min()), float(volume.max()))


def _points(image: Grid, affine: NDArray, grid: Grid, displacement: Tensor) -> Tensor:
    """Where the grid's voxels lie in the image: (1, 3, X, Y, Z) indices."""
    moved = identity(grid.shape, torch.zeros((), dtype=torch.float64))
    moved[: len(displacement)] += displacement.reshape(-1, *grid.shape)
    to_image = torch.from_numpy(np.linalg.inv(image.affine) @ affine @ grid.affine)
    points = torch.tensordot(to_image[:3, :3], moved, dims=1) + to_image[:3, 3].reshape(3, 1, 1, 1)
    return points[None].float()


class Pool:
    """Weighted sums over images, in double precision.

    Args:
        shape: (X, Y, Z).
        modalities: names.
        label_ids: `BACKGROUND` first.
    """

    def __init__(self, shape: tuple[int, int, int], modalities: Sequence[str], label_ids: Sequence[int]) -> None:
        self.label_ids = tuple(label_ids)
        zeros = torch.zeros(2, *shape, dtype=torch.float64)
        self.sums = {modality: zeros.clone() for modality in modalities}
        """Of each modality, weights and weighted images."""
        self.labels = torch.zeros(len(label_ids), *shape, dtype=torch.float64)

    def add(self, modality: str, seen: View) -> None:
        """Count one more image."""
        self.sums[modality] += torch.stack([seen.weight, seen.image])
        if seen.labels is not None:
            self.labels += seen.labels

    @property
    def coverage(self) -> NDArray[np.float32]:
        """(X, Y, Z) how many images show a voxel."""
        return _array(sum(weight for weight, _ in self.sums.values()))

    @property
    def label_coverage(self) -> NDArray[np.float32]:
        """(X, Y, Z) how many images with labels show a voxel."""
        return _array(self.labels.sum(0))

    def templates(self) -> Mapping[str, NDArray[np.float32]]:
        """(X, Y, Z) of each modality: the mean of its images, 0 where there is none."""
        return {modality: _mean(image, weight) for modality, (weight, image) in self.sums.items()}

    def template(self) -> NDArray[np.float32]:
        """(X, Y, Z) the mean of all images, 0 where there is none."""
        weight, image = torch.stack([*self.sums.values()]).sum(0)
        return _mean(image, weight)

    def prior(self) -> NDArray[np.float32]:
        """(X, Y, Z, L) probability of each label; they add up to one. Where no label map reaches it is background."""
        prior = np.stack([_mean(label, self.labels.sum(0)) for label in self.labels], axis=-1)
        prior[self.label_coverage < LEAST_COVERAGE, 0] = 1
        return prior

    def most_probable(self) -> NDArray[np.int32]:
        """(X, Y, Z) the label of the largest probability."""
        return np.asarray(self.label_ids, np.int32)[self.prior().argmax(-1)]


def dice(seen: View, labels: NDArray, label_ids: Sequence[int]) -> float:
    """The mean Dice, over labels but background, of an image with labels and a label map, where the image reaches.

    Args:
        seen: the image.
        labels: (X, Y, Z) ids.
        label_ids: those of ``seen``.

    Returns:
        NaN where neither has a label.
    """
    assert seen.labels is not None
    reached = seen.weight.numpy() > LEAST_COVERAGE
    own = np.asarray(label_ids)[seen.labels.argmax(0).numpy()]
    scores = []
    for label in label_ids[1:]:
        a, b = (own == label) & reached, (labels == label) & reached
        if a.any() or b.any():
            scores.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return float(np.mean(scores)) if scores else float("nan")


def sharpness(template: NDArray, coverage: NDArray, grid: Grid) -> float:
    """Mean gradient magnitude per mm of a template (X, Y, Z) where an image covers it; averaging blurred edges."""
    axes = [axis for axis, size in enumerate(grid.shape) if size > 1]
    gradients = [np.gradient(template, grid.spacing[axis], axis=axis) for axis in axes]
    return float(np.sqrt(np.sum(np.square(gradients), axis=0))[coverage >= LEAST_COVERAGE].mean())


def _mean(total: Tensor, weight: Tensor) -> NDArray[np.float32]:
    return _array(torch.where(weight < LEAST_COVERAGE, 0, total / weight.clamp(min=LEAST_COVERAGE)))


def _array(values: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = values.float().numpy()
    return array
