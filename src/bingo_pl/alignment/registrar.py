"""The learned similarity as a method of the tables: a trained model's own experts, made to agree for each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from bingo_pl import seeding
from bingo_pl.alignment.cloud import Cloud
from bingo_pl.alignment.maps import SQUARINGS, Linear, Maps, Warp
from bingo_pl.alignment.optimisation import Level, Sight, optimise
from bingo_pl.alignment.similarity import Similarity
from bingo_pl.alignment.volume import Picture
from bingo_pl.batch import GroupBatch
from bingo_pl.methods.baselines import RefinedRegistration, compose_groups
from bingo_pl.methods.registrar import Registrar, Registration
from bingo_pl.spatial import integrate


class Intrinsic(Registrar[RefinedRegistration]):
    """Makes the experts of a group's images agree: phi = exp(w), or phi = phi_start o exp(w).

    Images are read at random points of space, from copies at each level's resolution, which may be finer than their
    own: the experts' grid is coarser than that of what the encoder sees. The weights of the model stay as they are.
    The points are optimised on the CPU, wherever the model is.

    Args:
        start: the trained model.
        similarity: what is maximised, with that model's experts.
        levels: from coarse to fine, their mm being voxels of the groups' grid (the geometric mean of their sides).
        from_start: start from what the model's network gives, instead of from the images as they are.
    """

    def __init__(
        self, start: Registrar, similarity: Similarity, levels: Sequence[Level], from_start: bool = False
    ) -> None:
        super().__init__()
        self.start = start
        self.similarity = similarity
        self.levels = tuple(levels)
        self.from_start = from_start

    def forward(self, batch: GroupBatch, generator: torch.Generator | None = None) -> RefinedRegistration:
        """Optimise; the velocity of the result is w. See `Registrar.forward`; None draws the same points every time.

        The network is asked in any case: by what it says the images of a group are judged.
        """
        with torch.no_grad():
            start = self.start(batch)
        # Adam needs derivatives also where the caller has turned them off, as Lightning's test loop does.
        with torch.inference_mode(False), torch.enable_grad():
            groups = [_Group(batch, group, start if self.from_start else None) for group in range(batch.groups)]
            velocity = torch.stack([self._optimise(group, generator) for group in groups]).to(batch.images.device)
        displacement, inverse = (
            integrate(sign * velocity.flatten(0, 1), SQUARINGS).unflatten(0, velocity.shape[:2]) for sign in (1, -1)
        )
        if self.from_start:
            displacement = compose_groups(start.displacement, displacement)
            inverse = compose_groups(inverse, start.inverse)
        return RefinedRegistration(displacement, inverse, velocity, start)

    def _optimise(self, group: _Group, generator: torch.Generator | None) -> Tensor:
        """The velocities (N, D, *S), in voxels."""
        draw = seeding.generator("points") if generator is None or generator.device.type != "cpu" else generator
        maps = group.maps
        for level in self.levels:
            level = in_mm(level, group.voxel_mm)
            pictures = group.pictures
            sight = Sight.of(self.similarity, pictures, group.modalities, level.voxel_mm, maps.linear, group.box)
            maps = optimise(sight, maps, level, group.cloud, draw)
        return group.velocity(maps)

    def loss(
        self, batch: GroupBatch, result: Registration, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Nothing: the model is trained already."""
        return {}

    def explain(self, batch: GroupBatch, result: Registration) -> dict[str, Tensor]:
        """What the trained model sees in the groups as they are registered now."""
        return self.start.explain(batch, result)


class _Group:
    """One group of a batch in mm, the first voxel of its grid at the origin."""

    def __init__(self, batch: GroupBatch, index: int, start: Registration | None) -> None:
        self.shape = batch.shape
        self.spacing = batch.spacing[index].cpu()
        self.voxel_mm = float(self.spacing.log().mean().exp())
        self.modalities = batch.modalities[index].tolist()
        axes = [step * torch.arange(size) for step, size in zip(self.spacing, self.shape, strict=True)]
        self.points = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, -2)
        # Everywhere: a similarity that looks at objects alone does not see where they end.
        self.cloud = Cloud(self.points, self.voxel_mm)
        self.box = self.points[0] - self.spacing / 2, self.points[-1] + self.spacing / 2
        to_index = np.concatenate([np.diag(1 / self.spacing.double().numpy()), np.zeros((len(axes), 1))], 1)
        images = batch.images[index, :, 0].float().cpu().numpy()
        self.pictures = [Picture(image, None, to_index) for image in images]
        self.maps = Maps(Linear.identity(batch.size, len(axes)), known=self._warp(start, index))

    def _warp(self, start: Registration | None, index: int) -> Warp | None:
        if start is None:
            return None
        scale = self.spacing.reshape(-1, *[1] * len(self.shape))
        forward, backward = (field[index].float().cpu() * scale for field in (start.displacement, start.inverse))
        return Warp(self.spacing, forward, backward)

    def velocity(self, maps: Maps) -> Tensor:
        """(N, D, *S) in voxels of the group's grid."""
        assert maps.lattice is not None
        assert maps.velocity is not None
        values = maps.lattice.read(maps.velocity, self.points) / self.spacing
        return values.transpose(1, 2).unflatten(2, self.shape)


def in_mm(level: Level, voxel_mm: float) -> Level:
    """A level whose lengths are given in voxels of a size."""
    return replace(
        level,
        voxel_mm=level.voxel_mm * voxel_mm,
        rate_mm=level.rate_mm * voxel_mm,
        node_mm=level.node_mm * voxel_mm,
        stiffness=level.stiffness * voxel_mm**2,
    )
