"""Network parts: convolutions shared by all modalities, batch normalisation of each modality's own.

Images arrive sorted by modality; ``counts[d]`` says how many belong to modality d.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bingo_pl.methods.batch_norm import has_companions, shared_batch_norm
from bingo_pl.methods.recomputation import is_recomputing, recomputed
from bingo_pl.spatial import Shape, halve, resize

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
CONVOLVE = {2: F.conv2d, 3: F.conv3d}
Counts = Sequence[int]
SLOPE = 0.1
"""Of the leaky ReLUs."""
NORM_EPSILON = 1e-5
"""Added to variances before they are divided by."""


class DomainNorm(nn.Module):
    """Domain-specific batch normalisation (Chang 2019): statistics, scale and shift of each modality's own.

    In training the statistics are those of the images of all processes.

    Args:
        domains: number of modalities.
        channels: C.
        momentum: share of the newest batch in the running statistics.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, domains: int, channels: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(domains, channels))
        self.bias = nn.Parameter(torch.zeros(domains, channels))
        self.register_buffer("running_mean", torch.zeros(domains, channels))
        self.register_buffer("running_var", torch.ones(domains, channels))

    def forward(self, x: Tensor, counts: Counts) -> Tensor:
        """Normalise (K, C, *S), K sorted by modality."""
        parts = x.split(list(counts))
        if self.training and has_companions():
            running = (self.running_mean, self.running_var)
            return torch.cat(shared_batch_norm(parts, *running, self.weight, self.bias, self.momentum))
        means, variances = self.running_mean, self.running_var
        if is_recomputing():  # they have counted this batch
            means, variances = means.clone(), variances.clone()
        return torch.cat(
            [
                F.batch_norm(
                    part,
                    means[domain],
                    variances[domain],
                    self.weight[domain],
                    self.bias[domain],
                    training=self.training,
                    momentum=self.momentum,
                    eps=NORM_EPSILON,
                )
                for domain, part in enumerate(parts)
                if len(part)
            ]
        )


class ConvBlock(nn.Module):
    """Convolution (3 a side, no bias), domain norm, leaky ReLU."""

    def __init__(self, dims: int, domains: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = CONV[dims](inputs, outputs, 3, padding=1, bias=False)
        self.norm = DomainNorm(domains, outputs)

    def forward(self, x: Tensor, counts: Counts) -> Tensor:
        return F.leaky_relu(self.norm(self.conv(x), counts), SLOPE, inplace=True)


class DownPath(nn.Module):
    """Average two by two voxels from scale to scale; two convolutions a scale.

    A convolution with stride 2 would shift its features by half a voxel a scale, half a coarse voxel in all, against
    the grids that fields are resized between; it also aliases.
    """

    def __init__(self, dims: int, domains: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.first = nn.ModuleList(
            ConvBlock(dims, domains, inputs, outputs) for inputs, outputs in zip((1, *channels), channels, strict=False)
        )
        self.second = nn.ModuleList(ConvBlock(dims, domains, width, width) for width in channels)

    def forward(self, x: Tensor, counts: Counts) -> list[Tensor]:
        """(K, 1, *S) -> one (K, channels[i], *S / 2**i) for each scale, finest first."""
        features = []
        for scale, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            x = recomputed(self._stage, x if scale == 0 else halve(x), first, second, counts)
            features.append(x)
        return features

    @staticmethod
    def _stage(x: Tensor, first: nn.Module, second: nn.Module, counts: Counts) -> Tensor:
        y: Tensor = second(first(x, counts), counts)
        return y


class UpPath(nn.Module):
    """From the coarsest scale up: resize, 1x1 convolution, concatenate the skip, two convolutions."""

    def __init__(self, dims: int, domains: int, channels: Sequence[int]) -> None:
        super().__init__()
        pairs = list(zip(channels[1:], channels[:-1], strict=True))[::-1]
        self.narrow = nn.ModuleList(CONV[dims](coarse, fine, 1) for coarse, fine in pairs)
        self.first = nn.ModuleList(ConvBlock(dims, domains, 2 * fine, fine) for _, fine in pairs)
        self.second = nn.ModuleList(ConvBlock(dims, domains, fine, fine) for _, fine in pairs)

    def forward(self, skips: Sequence[Tensor], counts: Counts, finest: int = 0) -> list[Tensor]:
        """Features of each scale, finest first -> the same shapes, each informed by all coarser ones.

        Scales finer than ``finest`` are left out.
        """
        x = skips[-1]
        outputs = [x]
        stages = zip(skips[-2::-1], self.narrow, self.first, self.second, strict=True)
        for skip, narrow, first, second in itertools.islice(stages, len(skips) - 1 - finest):
            x = recomputed(self._stage, x, skip, narrow, first, second, counts)
            outputs.append(x)
        return outputs[::-1]

    @staticmethod
    def _stage(
        x: Tensor, skip: Tensor, narrow: nn.Module, first: nn.Module, second: nn.Module, counts: Counts
    ) -> Tensor:
        # The 1x1 convolution commutes with the linear resize; before it, it has 2**D times fewer voxels to visit.
        x = torch.cat([resize(narrow(x), skip.shape[2:]), skip], dim=1)
        y: Tensor = second(first(x, counts), counts)
        return y


class Encoder(nn.Module):
    """Image -> features of every scale, half of their channels means, half logits of variances."""

    def __init__(self, dims: int, domains: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.down = DownPath(dims, domains, channels)
        self.up = UpPath(dims, domains, channels)

    def forward(self, images: Tensor, counts: Counts, finest: int = 0) -> list[Tensor]:
        """(K, 1, *S) -> one (K, channels[i], *S / 2**i) for each scale i from ``finest`` on."""
        features: list[Tensor] = self.up(self.down(images, counts), counts, finest)
        return features


class Decoder(nn.Module):
    """Common structure of every scale -> image, in the appearance of the modality whose norm is used."""

    def __init__(self, dims: int, domains: int, channels: Sequence[int]) -> None:
        super().__init__()
        self.up = UpPath(dims, domains, channels)
        self.image = CONV[dims](channels[0], 1, 1)

    def forward(self, structure: Sequence[Tensor], counts: Counts) -> Tensor:
        image: Tensor = self.image(self.up(structure, counts)[0])
        return image.to(structure[0].dtype)  # autocast made it half precision


def in_windows(function: Callable[..., Tensor], inputs: Sequence[Tensor], window: Shape) -> Tensor:
    """What a network makes of every window of a grid by itself, each voxel the mean of the windows that it is in.

    A network that was trained on grids of the size of a window, padded with zeros, sees nothing else here.

    Args:
        function: of tensors (K, C, *window) to (K, C', *window).
        inputs: (K, C, *S) each.
        window: at most *S.

    Returns:
        (K, C', *S).
    """
    first, dims = inputs[0], len(window)
    shape = first.shape[2:]
    places = [size - length + 1 for size, length in zip(shape, window, strict=True)]
    parts = function(*(_windows(x, window) for x in inputs)).unflatten(0, (len(first), *places))
    total = parts.new_zeros(len(first), parts.shape[1 + dims], *shape)
    counts = parts.new_zeros(shape)
    for inside in itertools.product(*map(range, window)):  # a voxel of all windows at a time
        covered = (..., *(slice(start, start + number) for start, number in zip(inside, places, strict=True)))
        total[covered] += parts[(..., *inside)].movedim(-1, 1)
        counts[covered] += 1
    return total / counts


def _windows(x: Tensor, window: Shape) -> Tensor:
    """All windows of (K, C, *S), one after another: (K * their number, C, *window)."""
    dims = len(window)
    for axis, length in enumerate(window, start=2):
        x = x.unfold(axis, length, 1)
    return x.movedim(1, 1 + dims).flatten(0, dims)


class VelocityHead(nn.Module):
    """The Reg module: common mean and own mean -> mean and log-variance of a velocity.

    It reads structure, which has no modality, so it has no domain norm; the noise of batch statistics would blur its
    velocities. The last convolution starts at zero: no motion, with the variance given.

    Args:
        dims: D.
        channels: C of the structure, half of it common and half the image's own.
        depth: convolutions before the last.
        log_variance: the first one.
        variance_guides: whether what a loss says of the variance reaches the features. Where it does not, the mean
            learns the same, whatever the variance is taught.
    """

    def __init__(self, dims: int, channels: int, depth: int, log_variance: float, variance_guides: bool) -> None:
        super().__init__()
        self.variance_guides = variance_guides
        self.convs = nn.ModuleList(CONV[dims](channels, channels, 3, padding=1) for _ in range(depth))
        for conv in self.convs:
            assert isinstance(conv, nn.Conv2d | nn.Conv3d)
            nn.init.kaiming_normal_(conv.weight, a=SLOPE)
        self.velocity = CONV[dims](channels, 2 * dims, 3, padding=1)
        nn.init.zeros_(self.velocity.weight)
        self.velocity.bias = nn.Parameter(torch.tensor([0.0] * dims + [log_variance] * dims))

    def forward(self, common: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Two (K, C / 2, *S) -> mean and log-variance, (K, D, *S) each, in voxels of this scale."""
        x = torch.cat([common, own], dim=1)
        for conv in self.convs:
            x = F.leaky_relu(conv(x), SLOPE, inplace=True)
        if self.variance_guides or not torch.is_grad_enabled():
            mean, log_variance = self.velocity(x).chunk(2, dim=1)
            return mean, log_variance
        weights, biases = (parameter.chunk(2) for parameter in self.velocity.parameters())
        convolve = CONVOLVE[x.ndim - 2]
        mean, log_variance = (convolve(*last, padding=1) for last in zip((x, x.detach()), weights, biases, strict=True))
        return mean, log_variance
