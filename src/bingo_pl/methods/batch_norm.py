"""Batch normalisation over the images of all processes, on the CPU too, where torch's SyncBatchNorm does not run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from bingo_pl.methods.recomputation import is_recomputing

EPSILON = 1e-5
"""Torch's default."""


def has_companions() -> bool:
    """Whether other processes train the same network."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def shared_batch_norm(
    parts: Sequence[Tensor],
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    momentum: float,
) -> list[Tensor]:
    """Batch normalisation of several populations, each over all processes, which must call this together.

    Args:
        parts: (K, C, *S) of each population; K may be 0, here or everywhere.
        running_mean: (populations, C), updated in place, as is running_var.
        running_var: (populations, C).
        weight: (populations, C), the scale.
        bias: (populations, C).
        momentum: share of this batch in the running statistics.

    Returns:
        The parts, normalised.
    """
    sums = torch.stack([_sums(part, shift) for part, shift in zip(parts, running_mean.clone(), strict=True)])
    count, first, second = Total.apply(sums).split([1, *running_mean.shape[1:] * 2], dim=1)
    first = first / count.clamp(min=1)
    variance = (second / count.clamp(min=1) - first**2).clamp(min=0)
    mean = running_mean + first
    if not is_recomputing():
        with torch.no_grad():
            unbiased = variance * count / (count - 1).clamp(min=1)
            share = momentum * (count > 0)
            running_mean += share * (mean - running_mean)
            running_var += share * (unbiased - running_var)
    scale = weight * (variance + EPSILON).rsqrt()
    offset = bias - mean * scale
    return [
        torch.addcmul(_along_channels(b, part), part, _along_channels(a, part)).to(part.dtype)
        for part, a, b in zip(parts, scale, offset, strict=True)
    ]


class SharedBatchNorm(_BatchNorm):
    """Torch's batch normalisation in 2D and 3D; in training over the images of all processes."""

    running_mean: Tensor
    running_var: Tensor
    momentum: float
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (K, C, *S)."""
        if not (self.training and has_companions()):
            return super().forward(x)
        self.num_batches_tracked += 1
        populations = (self.running_mean[None], self.running_var[None], self.weight[None], self.bias[None])
        return shared_batch_norm([x], *populations, self.momentum)[0]

    def _check_input_dim(self, input: Tensor) -> None:
        """Any dimension."""


class Total(torch.autograd.Function):
    """The sum of all processes' tensors, which are of one shape. Its derivative is another such sum."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


def _sums(part: Tensor, shift: Tensor) -> Tensor:
    """Number, sum and sum of squares (1 + 2 C,) of the elements of (K, C, *S) after a shift (C,), which is about the
    mean, lest the squares cancel."""
    count = shift.new_full((1,), part.numel() // max(part.shape[1], 1))
    if not count:
        return torch.cat([count, torch.zeros_like(shift), torch.zeros_like(shift)])
    variance, mean = torch.var_mean(part.to(shift.dtype), dim=(0, *range(2, part.ndim)), correction=0)
    mean = mean - shift
    return torch.cat([count, count * mean, count * (variance + mean**2)])


def _along_channels(values: Tensor, part: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (part.ndim - 2))
