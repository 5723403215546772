"""Where an image shows something, and its intensities from 0 to 1."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchio as tio
from torch import Tensor

from bingo_pl.errors import InputError

PERCENTILES = (0.5, 99.5)
BACKGROUND_SHARE = 0.2
"""An image has a background of its own if at least this share of its voxels has exactly the value of its corners."""


def is_binary(image: Tensor) -> bool:
    """Whether no more than two values occur."""
    low, high = image.aminmax()
    return bool(((image == low) | (image == high)).all())


def foreground(image: Tensor) -> Tensor:
    """Where an image (1, X, Y, Z) shows something, as bool.

    Skull-stripped or padded images have one exact background value in many voxels (`BACKGROUND_SHARE`), the corners
    among them: the foreground is all else. It need not be the minimum, resampled images ring below it. In other images
    the whole field of view is foreground. So it is in images of two values, a silhouette, say: one alone shows nothing.
    """
    value = background_of(image)
    return torch.ones_like(image, dtype=torch.bool) if value is None else image != value


def background_of(image: Tensor) -> float | None:
    """The value of an image's background, see `foreground`; None where it has none."""
    if is_binary(image):
        return None
    value = image[:, :: _step(image, 1), :: _step(image, 2), :: _step(image, 3)].flatten().mode().values
    return float(value) if (image == value).float().mean() >= BACKGROUND_SHARE else None


@dataclass(frozen=True)
class Window:
    """What maps an image's intensities to [0, 1]."""

    low: float
    high: float
    background: float | None
    """This exact value becomes 0."""

    @classmethod
    def of(cls, image: Tensor, path: Path) -> Window:
        """From the `PERCENTILES` of the foreground to [0, 1].

        Raises:
            BingoError: the image is nearly constant; ``path`` is named.
        """
        background = background_of(image)
        values = image if background is None else image[image != background]
        low, high = (float(np.float32(cut)) for cut in np.percentile(values.numpy(), PERCENTILES))
        if not high > low:
            raise InputError(f"{path}: the foreground is nearly constant", "Remove or replace the image")
        return cls(low, high, background)

    def unit(self, image: Tensor) -> Tensor:
        """The image as float32 from 0 to 1."""
        scaled = image.float().clamp(self.low, self.high).sub_(self.low).div_(self.high - self.low)
        return scaled if self.background is None else scaled.masked_fill_(image == self.background, 0)


def rescale(image: tio.ScalarImage, path: Path) -> tio.ScalarImage:
    """Map the foreground's `PERCENTILES` to [0, 1] and clamp; the background becomes 0.

    Raises:
        BingoError: the image is nearly constant; ``path`` is named.
    """
    return tio.ScalarImage(tensor=Window.of(image.data, path).unit(image.data), affine=image.affine)


def _step(image: Tensor, axis: int) -> int:
    """The stride that takes the first and the last voxel of an axis."""
    return max(image.shape[axis] - 1, 1)
