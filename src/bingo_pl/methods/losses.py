"""A groupwise similarity by its name, as methods minimise it: of the images that displacements register."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bingo_pl import plugins
from bingo_pl.errors import InputError
from bingo_pl.methods.similarity import BINS, ape, cte, em_posterior, sample_voxels, x_coreg
from bingo_pl.plugins import find
from bingo_pl.spatial import Shape, warp


def _cte(images: Tensor, mask: Tensor, bins: int, _: torch.Generator | None) -> Tensor:
    return cte(images, mask, bins)


def _x_coreg(images: Tensor, mask: Tensor, bins: int, _: torch.Generator | None) -> Tensor:
    return x_coreg(images, em_posterior(images, mask, bins), mask, bins)


Function = Callable[[Tensor, Tensor, int, torch.Generator | None], Tensor]
"""Registered images (B, N, 1, *S), their overlap (B, 1, 1, *S), a number of bins and what draws pairs of images from
many, or None -> (B,), to be minimised."""
SIMILARITIES: dict[str, Function] = {"ape": ape, "cte": _cte, "x_coreg": _x_coreg}
VOXEL_SHARE = 0.1
"""Of a volume's voxels that a random draw of the similarity looks at (X-metric)."""
FEWEST_VOXELS = 10_000
"""That it looks at if there are as many: a joint histogram of fewer is mostly noise."""


def voxel_share(shape: Shape, stride: int = 1) -> float:
    """Share of the voxels that a random draw of the similarity looks at: all of a slice, some of a volume.

    Args:
        shape: *S of the full resolution.
        stride: of the pyramid level that is looked at. Each has as many voxels looked at as the finest, or all.
    """
    if len(shape) == 2:
        return 1.0
    return min(max(VOXEL_SHARE, FEWEST_VOXELS / math.prod(shape)) * stride ** len(shape), 1.0)


@functools.cache
def _function(name: str) -> Function:
    """By its name, ours or another package's."""
    found: Function = find("similarity", name, SIMILARITIES, plugins.SIMILARITIES)
    return found


@dataclass(frozen=True)
class Similarity:
    """A groupwise similarity as it is estimated.

    Raises:
        BingoError: there is no such similarity, or it has too few bins.
    """

    name: str
    """In `SIMILARITIES`, or another package's, see `bingo_pl.plugins.find`."""
    bins: int = BINS
    """Of the histograms, over the range of an image."""

    def __post_init__(self) -> None:
        _function(self.name)
        if self.bins < 2:
            raise InputError(f"a similarity of {self.bins} bins: wanted at least 2 (similarity.bins)")

    def __call__(self, images: Tensor, mask: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Of registered images (B, N, 1, *S) over their overlap (B, 1, 1, *S): (B,), to be minimised.

        A generator draws the pairs of images that APE looks at in a large group; None looks at all.
        """
        return _function(self.name)(images, mask, self.bins, generator)

    def of_registered(
        self, images: Tensor, displacement: Tensor, share: float, generator: torch.Generator | None
    ) -> Tensor:
        """The similarity (B,) of images once they are registered, over the overlap of their sampling domains.

        Not over the overlap of their foregrounds as well: it ends where an image's outline does, and so hides how far
        the outlines are apart.

        Args:
            images: (B, N, 1, *S).
            displacement: (B, N, D, *S).
            share: of the voxels to look at.
            generator: draws these voxels, and pairs of images as `__call__`; None looks at all.
        """
        flat = displacement.flatten(0, 1)
        group = displacement.shape[:2]
        registered = warp(images.flatten(0, 1), flat).unflatten(0, group)
        domain = torch.ones_like(flat[:, :1])
        inside = warp(domain, flat.detach(), mode="nearest", padding="zeros") > 0.5
        overlap = inside.unflatten(0, group).all(1, keepdim=True)
        return self(*sample_voxels(registered, overlap, share, generator), generator)
