"""What `speed` measures: each operation with its references, the bytes it has to move and the sums it has to do.

References get the same images. The bytes are those of reading every input and writing every output once, in integration
at each squaring; the operations are the multiplications and additions of the formula, of networks those of their
convolutions. Gradients are counted as twice the arithmetic of the values.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from monai.losses import GlobalMutualInformationLoss
from monai.networks.blocks import DVF2DDF, Warp
from monai.networks.nets.voxelmorph import VoxelMorph
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bingo_pl import GroupBatch, spatial
from bingo_pl import config as settings
from bingo_pl.config import Config
from bingo_pl.methods.bingo import Bingo
from bingo_pl.methods.networks import VelocityHead
from bingo_pl.methods.similarity import BINS, ape
from bingo_pl.misalign import draw_displacements, misalign
from bingo_pl.models import registry
from bingo_pl.seeding import generator
from bingo_pl.studies.rows import choose_rows
from bingo_pl.training.task import truth_loss

Call = Callable[[], Any]
FLOAT = 4
"""Bytes."""
SQUARINGS = 7
CHANNELS = 16
"""Of a feature map that is warped."""
LARGEST_STEP = 2**17
"""Voxels of a training step's images, unless one group has more."""
LARGEST_ITERATIVE = 2**14
"""Voxels of a group up to which the iterative method is waited for; at 160 x 160 it takes a minute."""
CUBIC = 16
"""Operations that give the four weights of a cubic B-spline window."""


@dataclass(frozen=True)
class Case:
    """A row of the table."""

    operation: str
    size: str
    ours: Call
    references: dict[str, Call]
    traffic: int
    """Bytes, read and written."""
    operations: int
    """Multiplications and additions."""
    images: int = 1
    """That times are divided by."""


def cases(experiment: str) -> Iterator[Case]:
    """The rows of an experiment's image size and network, on random images and displacements of a few voxels."""
    config = settings.load(experiment)
    yield from spatial_cases(config)
    yield _similarity_case(config)
    yield _training_case(config)
    yield _registration_case(config, experiment)


def spatial_cases(config: Config) -> Iterator[Case]:
    """Warp an image, warp features, integrate a velocity; values alone, and with gradients."""
    group = random_groups(config, 1)
    assert group.truth is not None
    images, field = group.images[0], group.truth[0]
    features = images.expand(-1, CHANNELS, *group.shape).contiguous()
    velocity = field / 2
    size, dims, points = _size(field), len(group.shape), field[:, 0].numel()
    integrals = {"MONAI": DVF2DDF(SQUARINGS), **_voxelmorph("IntegrateVelocityField", steps=SQUARINGS)}
    for name, image in {"warp an image": images, f"warp {CHANNELS} features": features}.items():
        warps = {"MONAI": Warp(padding_mode="border"), **_voxelmorph("SpatialTransformer")}
        traffic = FLOAT * (2 * image.numel() + field.numel())
        operations = points * _interpolation(dims, image.shape[1])
        yield from _with_gradients(name, size, spatial.warp, warps, (image, field), traffic, operations)
    traffic = FLOAT * SQUARINGS * 2 * velocity.numel()
    operations = SQUARINGS * points * (_interpolation(dims, dims) + dims)
    yield from _with_gradients("integrate", size, spatial.integrate, integrals, (velocity,), traffic, operations)


def _with_gradients(
    name: str,
    size: str,
    ours: Callable[..., Tensor],
    references: Mapping[str, Callable[..., Tensor]],
    inputs: tuple[Tensor, ...],
    traffic: int,
    operations: int,
) -> Iterator[Case]:
    """A function of tensors by itself, then with the gradients of all inputs."""
    plain = {key: _call(function, inputs) for key, function in references.items()}
    yield Case(name, size, _call(ours, inputs), plain, traffic, operations)
    both = {key: gradients(function, inputs) for key, function in references.items()}
    # Backward: the inputs and the slope of the output are read, the slopes of the inputs are written.
    yield Case(f"{name}, gradients", size, gradients(ours, inputs), both, 5 * traffic // 2, 3 * operations)


def _similarity_case(config: Config) -> Case:
    """APE with its gradient; MONAI's mutual information of all pairs at once."""
    group = random_groups(config, 1)
    mask = torch.ones_like(group.masks[:, :1])
    pairs = list(itertools.combinations(range(group.size), 2))
    first, second = (list(side) for side in zip(*pairs, strict=True))
    monai = GlobalMutualInformationLoss("b-spline", num_bins=BINS)
    voxels = group.images[0, 0].numel()
    return Case(
        "APE, gradients",
        _size(group.images[0]),
        gradients(lambda images: ape(images, mask), (group.images,)),
        {"MONAI": gradients(lambda images: monai(images[0, first], images[0, second]), (group.images,))},
        traffic=2 * FLOAT * group.images.numel(),
        operations=3 * voxels * (group.size * CUBIC + len(pairs) * 4 * 4 * 2),  # a window touches four bins
    )


def _training_case(config: Config) -> Case:
    """A step of the recipe, all terms; MONAI's VoxelMorph, of another architecture, on as many pairs."""
    size = len(config.data.modalities)
    voxels = size * math.prod(config.data.roi)
    batch = random_groups(config, max(min(config.data.batch_size, LARGEST_STEP // voxels), 1))
    bingo = _bingo(config).train()
    weights = dataclasses.asdict(config.weights)
    images = batch.images.flatten(0, 1)
    monai = VoxelMorph(spatial_dims=len(batch.shape), integration_steps=config.model.squarings)

    def loss() -> Tensor:
        draws = generator("noise")
        result = bingo(batch, draws)
        terms = {**bingo.loss(batch, result, draws), "truth": truth_loss(batch, result)}
        return torch.stack([weights[name] * term for name, term in terms.items()]).sum()

    def monai_loss() -> Tensor:
        warped, _ = monai(images, images.roll(1, 0))
        return (warped - images).square().mean()

    step = _step(bingo, loss)
    return Case(
        "training step, per image",
        _size(images),
        step,
        {"MONAI VoxelMorph": _step(monai, monai_loss)},
        FLOAT * (images.numel() + 4 * sum(weight.numel() for weight in bingo.parameters())),
        _flops(step),
        len(images),
    )


def _registration_case(config: Config, experiment: str) -> Case:
    """A group of one image a modality by an untrained network of random velocities; what it costs is the same."""
    batch = random_groups(config, 1)
    bingo = _bingo(config).eval()
    monai = VoxelMorph(spatial_dims=len(batch.shape), integration_steps=config.model.squarings).eval()
    images = batch.images[0]
    references = {"MONAI VoxelMorph": torch.no_grad()(lambda: monai(images, images.roll(1, 0)))}
    if images.numel() <= LARGEST_ITERATIVE:
        (row,) = choose_rows(settings.load_table(experiment), [], ["ape"])
        iterative = registry.build(row.config)
        references["iterative APE"] = torch.no_grad()(lambda: iterative(batch))
    ours = torch.no_grad()(lambda: bingo(batch))
    return Case(
        "registration, per image",
        _size(images),
        ours,
        references,
        FLOAT * (images.numel() * (1 + 2 * len(batch.shape)) + sum(weight.numel() for weight in bingo.parameters())),
        _flops(ours),
        len(images),
    )


def random_groups(config: Config, groups: int) -> GroupBatch:
    """Groups of one image a modality, smoothed noise, under a free-form misalignment of the experiment's."""
    size, shape = len(config.data.modalities), tuple(config.data.roi)
    coarse = torch.rand(groups * size, 1, *[max(axis // 4, 2) for axis in shape], generator=generator("speed"))
    images = spatial.resize(coarse, shape).unflatten(0, (groups, size))
    batch = GroupBatch(
        images=images,
        modalities=torch.arange(size).expand(groups, -1),
        masks=torch.ones(images.shape, dtype=torch.bool),
        labels=torch.zeros(images.shape, dtype=torch.int16),
        spacing=torch.ones(groups, len(shape)),
        names=tuple(str(group) for group in range(groups)),
    )
    fields = [draw_displacements(size, shape, (8,), 0.3, generator("speed", group)) for group in range(groups)]
    return misalign(batch, torch.stack(fields))


def gradients(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Call:
    """The call of a function and of the gradients of its sum."""

    def call() -> tuple[Tensor, ...]:
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        return torch.autograd.grad(function(*leaves).sum(), leaves)

    return call


def _call(function: Callable[..., Tensor], inputs: tuple[Tensor, ...]) -> Call:
    return lambda: function(*inputs)


def _step(module: nn.Module, loss: Callable[[], Tensor]) -> Call:
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def _bingo(config: Config) -> Bingo:
    registrar = registry.build(config)
    assert isinstance(registrar, Bingo)
    for head in registrar.heads:
        assert isinstance(head, VelocityHead)
        nn.init.normal_(head.velocity.weight, std=1e-3, generator=generator("weights"))  # at zero nothing would move
    return registrar


def _voxelmorph(layer: str, **arguments: int) -> dict[str, nn.Module]:
    """A layer of VoxelMorph's, nothing where it is not installed."""
    if importlib.util.find_spec("voxelmorph") is None:
        return {}
    return {"VoxelMorph": getattr(importlib.import_module("voxelmorph").nn.modules, layer)(**arguments)}


def _interpolation(dims: int, channels: int) -> int:
    """Operations of linear interpolation at one point: its position, the weights of the corners, their sum."""
    corners = 2**dims
    return 3 * dims + corners * (dims - 1) + channels * 2 * corners


def _flops(call: Call) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        call()
    return int(counter.get_total_flops())


def _size(images: Tensor) -> str:
    """K x *S."""
    return " x ".join(str(axis) for axis in (images.shape[0], *images.shape[2:]))
