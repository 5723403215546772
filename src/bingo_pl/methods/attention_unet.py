"""AttResUNet: a U-Net of residual blocks and attention gates over a stacked group (X-metric, Luo & Zhuang 2022)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bingo_pl.methods.batch_norm import SharedBatchNorm
from bingo_pl.methods.networks import CONV, SLOPE

TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
POOL = {2: F.max_pool2d, 3: F.max_pool3d}


class AttResUNet(nn.Module):
    """The images of a group as channels -> a velocity for each image. It starts without motion.

    Args:
        dims: D.
        modalities: N; the network takes exactly so many images, in the order of their modalities.
        channels: width of each scale, finest first.
    """

    def __init__(self, dims: int, modalities: int, channels: Sequence[int] = (32, 64, 128, 256, 512)) -> None:
        super().__init__()
        self.dims = dims
        self.modalities = modalities
        self.stride = 2 ** (len(channels) - 1)
        pairs = list(zip(channels[1:], channels[:-1], strict=True))[::-1]
        self.down = nn.ModuleList(
            ResidualBlock(dims, inputs, outputs)
            for inputs, outputs in zip((modalities, *channels[:-1]), channels, strict=True)
        )
        self.widen = nn.ModuleList(TRANSPOSED[dims](coarse, fine, 2, stride=2) for coarse, fine in pairs)
        self.gates = nn.ModuleList(AttentionGate(dims, fine) for _, fine in pairs)
        self.up = nn.ModuleList(ResidualBlock(dims, 2 * fine, fine) for _, fine in pairs)
        self.velocity = CONV[dims](channels[0], modalities * dims, 1)
        nn.init.zeros_(self.velocity.weight)
        self.velocity.bias = nn.Parameter(torch.zeros(modalities * dims))

    def forward(self, images: Tensor) -> Tensor:
        """(B, N, *S), each size divisible by ``stride`` -> velocities (B, N, D, *S) in voxels."""
        x = self.down[0](images)
        skips = []
        for block in self.down[1:]:
            skips.append(x)
            x = block(POOL[self.dims](x, 2))
        for skip, widen, gate, block in zip(reversed(skips), self.widen, self.gates, self.up, strict=True):
            x = widen(x)
            x = block(torch.cat([x, gate(skip, x)], dim=1))
        velocity: Tensor = self.velocity(x)
        return velocity.unflatten(1, (self.modalities, self.dims))


class ResidualBlock(nn.Module):
    """Two convolutions beside a 1x1 convolution."""

    def __init__(self, dims: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = CONV[dims](inputs, outputs, 3, padding=1, bias=False)
        self.first_norm = SharedBatchNorm(outputs)
        self.second = CONV[dims](outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = SharedBatchNorm(outputs)
        self.skip = CONV[dims](inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.leaky_relu(self.first_norm(self.first(x)), SLOPE)
        return F.leaky_relu(self.second_norm(self.second(y)) + self.skip(x), SLOPE)


class AttentionGate(nn.Module):
    """Additive attention (Oktay 2018): what came up from below chooses where a skip is let through."""

    def __init__(self, dims: int, channels: int) -> None:
        super().__init__()
        inner = channels // 2
        self.of_skip = nn.Sequential(CONV[dims](channels, inner, 1, bias=False), SharedBatchNorm(inner))
        self.of_below = nn.Sequential(CONV[dims](channels, inner, 1, bias=False), SharedBatchNorm(inner))
        self.attention = nn.Sequential(CONV[dims](inner, 1, 1, bias=False), SharedBatchNorm(1))

    def forward(self, skip: Tensor, below: Tensor) -> Tensor:
        """Both (B, C, *s) -> the skip, weighted between 0 and 1 at each voxel."""
        both = F.leaky_relu(self.of_skip(skip) + self.of_below(below), SLOPE)
        gated: Tensor = skip * self.attention(both).sigmoid()
        return gated
