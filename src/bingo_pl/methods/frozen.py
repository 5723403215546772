"""A trained encoder for one modality, as fast as it can be where nothing more is learned."""

from __future__ import annotations

import copy

import torch.nn.functional as F
from torch import Tensor, nn

from bingo_pl.methods.networks import CONVOLVE, NORM_EPSILON, SLOPE, ConvBlock, Counts, Encoder


class FrozenBlock(nn.Module):
    """A convolution, the domain norm folded into its weights, and a leaky ReLU.

    Args:
        block: the trained block.
        domain: number of the modality whose norm is folded in.
    """

    def __init__(self, block: ConvBlock, domain: int) -> None:
        super().__init__()
        norm = block.norm
        scale = norm.weight[domain] * (norm.running_var[domain] + NORM_EPSILON).rsqrt()
        dims = block.conv.weight.ndim - 2
        self.convolve = CONVOLVE[dims]
        self.weight = nn.Parameter(block.conv.weight * scale.reshape(-1, *[1] * (dims + 1)), requires_grad=False)
        self.bias = nn.Parameter(norm.bias[domain] - norm.running_mean[domain] * scale, requires_grad=False)

    def forward(self, x: Tensor, counts: Counts) -> Tensor:
        """Convolve (K, C, *S); all K images are of the block's modality."""
        return F.leaky_relu(self.convolve(x, self.weight, self.bias, padding=1), SLOPE, inplace=True)


def frozen(encoder: Encoder, domain: int) -> Encoder:
    """A copy of an encoder for images of one modality: what it gives in evaluation, to rounding, in less time.

    Args:
        encoder: the trained encoder.
        domain: number of the modality.
    """
    own = copy.deepcopy(encoder).requires_grad_(False).eval()
    for path in (own.down, own.up):
        for blocks in (path.first, path.second):
            for i, block in enumerate(blocks):
                assert isinstance(block, ConvBlock)
                blocks[i] = FrozenBlock(block, domain)
    return own
