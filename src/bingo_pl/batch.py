"""The one container that travels from the data modules through a method to the metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

UNLABELLED = -1
"""Label value of every voxel of an image that has no label map."""


@dataclass(frozen=True, eq=False)
class GroupBatch:
    """Groups of equally many images on one grid.

    The shapes are checked once, here; everything that receives a batch trusts it.
    """

    images: Tensor
    """(B, N, 1, *S) float, intensities scaled to about [0, 1]."""
    modalities: Tensor
    """(B, N) long, index into the data module's ``modalities``; several images may share one."""
    masks: Tensor
    """(B, N, 1, *S) bool, the foreground of each image."""
    labels: Tensor
    """(B, N, 1, *S) int16 label ids, 0 background; `UNLABELLED` throughout an image without a label map."""
    spacing: Tensor
    """(B, D) float32, millimetres per voxel of each group's grid along each axis."""
    names: tuple[str, ...]
    """(B,) a name for each group."""
    truth: Tensor | None = None
    """(B, N, D, *S) what misaligned each image, ``image(p) = original(p + truth(p))``; None if unknown."""
    anatomies: Tensor | None = None
    """(B, N) long, equal where the originals lie over each other, so that the ground truth tells how two images map to
    each other; None: all of a group's do."""

    def __post_init__(self) -> None:
        b, n, c, *shape = self.images.shape
        assert (c, len(shape)) in ((1, 2), (1, 3)), f"images must be (B, N, 1, *S), got {tuple(self.images.shape)}"
        assert self.modalities.shape == (b, n), f"modalities must be {(b, n)}, got {tuple(self.modalities.shape)}"
        assert self.masks.shape == self.labels.shape == self.images.shape, (
            "masks and labels must have the images' shape"
        )
        assert self.spacing.shape == (b, len(shape)), f"spacing must be (B, D), got {tuple(self.spacing.shape)}"
        assert self.spacing.dtype == torch.float32, f"spacing must be float32, got {self.spacing.dtype}"
        assert len(self.names) == b, f"{b} groups, {len(self.names)} names"
        assert self.truth is None or self.truth.shape == (b, n, len(shape), *shape), "truth must be (B, N, D, *S)"
        assert self.anatomies is None or self.anatomies.shape == (b, n), f"anatomies must be {(b, n)}"

    @property
    def groups(self) -> int:
        return self.images.shape[0]

    @property
    def size(self) -> int:
        """Images per group."""
        return self.images.shape[1]

    @property
    def shape(self) -> torch.Size:
        """Spatial shape *S."""
        return self.images.shape[3:]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> GroupBatch:
        """The same batch on another device (Lightning calls this)."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=non_blocking)

        return self._map_images(move, spacing=move(self.spacing))

    def select(self, members: Tensor) -> GroupBatch:
        """A sub-group (or reordering) of each group.

        Args:
            members: (B, n) long, positions of the wanted images in each group.
        """

        def take(x: Tensor) -> Tensor:
            index = members.to(x.device).reshape(*members.shape, *[1] * (x.ndim - 2))
            return torch.take_along_dim(x, index, dim=1)

        return self._map_images(take)

    def parted(self, size: int) -> GroupBatch:
        """Every ``size`` images that follow each other, which divides N, as a group of their own."""
        parts = self.size // size
        return self._map_images(
            lambda x: x.unflatten(1, (parts, size)).flatten(0, 1),
            spacing=self.spacing.repeat_interleave(parts, dim=0),
            names=tuple(name for name in self.names for _ in range(parts)),
        )

    def _map_images(self, function: Callable[[Tensor], Tensor], **others: Any) -> GroupBatch:
        """The batch with a function applied to each tensor (B, N, ...) that holds something for each image."""
        return replace(
            self,
            images=function(self.images),
            modalities=function(self.modalities),
            masks=function(self.masks),
            labels=function(self.labels),
            truth=None if self.truth is None else function(self.truth),
            anatomies=None if self.anatomies is None else function(self.anatomies),
            **others,
        )


def collate(batches: Sequence[GroupBatch]) -> GroupBatch:
    """Join batches of equally many images and equal shape along B."""

    def join(tensors: Sequence[Tensor | None]) -> Tensor | None:
        """None where one lacks it."""
        known = [tensor for tensor in tensors if tensor is not None]
        return torch.cat(known) if len(known) == len(tensors) else None

    return GroupBatch(
        images=torch.cat([batch.images for batch in batches]),
        modalities=torch.cat([batch.modalities for batch in batches]),
        masks=torch.cat([batch.masks for batch in batches]),
        labels=torch.cat([batch.labels for batch in batches]),
        spacing=torch.cat([batch.spacing for batch in batches]),
        names=tuple(name for batch in batches for name in batch.names),
        truth=join([batch.truth for batch in batches]),
        anatomies=join([batch.anatomies for batch in batches]),
    )
