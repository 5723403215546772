"""Groupwise optimisation at random points: one code for rigid, affine and deformable maps, in 2D and 3D."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bingo_pl.alignment.cloud import Cloud
from bingo_pl.alignment.maps import Lattice, Linear, Maps, bending, centred
from bingo_pl.alignment.similarity import Similarity, choose_pairs
from bingo_pl.alignment.volume import Picture, Volume

LAST_RATE = 0.05
"""Share of the rate that is left at the last step."""
SMALLEST_GAIN = 1e-8
"""Adam's epsilon, as the gain of agreement that a step at the full rate promises."""
LEAST_OVERLAP = 0.05
"""Share of the points that two images must both show to be compared."""
MARGIN = 8
"""Voxels of a level around what is looked at, so that images may still move."""
KINDS = ("rigid", "affine", "deformable")


@dataclass(frozen=True)
class Level:
    """One pass of the optimisation."""

    kind: str
    voxel_mm: float
    """Resolution at which the images are seen."""
    steps: int
    rate_mm: float
    """Adam's rate: about the largest step of a point."""
    points: int
    node_mm: float = 0.0
    """Distance of the velocity's nodes, where deformable."""
    stiffness: float = 0.0
    """Weight of the mean bending energy, mm^2."""


@dataclass(frozen=True, eq=False)
class Sight:
    """A group's images as a similarity reads them."""

    similarity: Similarity
    volumes: Sequence[Sequence[Volume]]
    """What is read of each image."""

    @classmethod
    def of(
        cls,
        similarity: Similarity,
        pictures: Sequence[Picture],
        modalities: Sequence[int],
        voxel_mm: float,
        linear: Linear,
        box: tuple[Tensor, Tensor],
    ) -> Sight:
        """See `Similarity.see`; ``linear`` holds the maps of all images. Only what lies near the box is read."""
        volumes = []
        corners = torch.cartesian_prod(*torch.stack(box, 1))
        for image, (picture, modality) in enumerate(zip(pictures, modalities, strict=True)):
            own = linear.of(image)
            there = own(corners)[0].double().numpy()
            near = picture.within(there.min(0), there.max(0), MARGIN * voxel_mm)
            volumes.append(similarity.see(near, modality, voxel_mm, own, box))
        return cls(similarity, volumes)

    def pairwise(self, maps: Maps, points: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """Agreement of pairs of images.

        Args:
            maps: of the group.
            points: (P, D) mm of the common space.
            first: (K,) images.
            second: (K,) the images that they are compared with.

        Returns:
            (K,) agreement over each pair's overlap, and that overlap (K,) as a share of the points.
        """
        where = maps(points)
        values: list[list[Tensor]] = []
        counts = []
        for image, volumes in enumerate(self.volumes):
            read = [volume.at(where[image]) for volume in volumes]
            turned = [
                values @ maps.linear.matrix[image] if volume.vectors else values
                for volume, (values, _) in zip(volumes, read, strict=True)
            ]
            values.append(turned)
            counts.append(torch.stack([inside for _, inside in read]).all(0))
        inside = torch.stack(counts).float()
        stacked = self.similarity.prepared([torch.stack(each) for each in zip(*values, strict=True)], inside)
        both = inside[first] * inside[second]
        agreement = self.similarity.of([v[first] for v in stacked], [v[second] for v in stacked], both)
        return agreement, both.mean(1)

    def loss(self, maps: Maps, points: Tensor, generator: torch.Generator) -> Tensor:
        """Minus the mean agreement of pairs that overlap."""
        agreement, overlap = self.pairwise(maps, points, *choose_pairs(maps.size, generator))
        usable = (overlap > LEAST_OVERLAP).float()
        return -(agreement * usable).sum() / usable.sum().clamp(min=1)


def optimise(
    sight: Sight, maps: Maps, level: Level, cloud: Cloud, generator: torch.Generator, reference: int | None = None
) -> Maps:
    """Improve a group's maps.

    Args:
        sight: the images as they are compared.
        maps: the start.
        level: how.
        cloud: where points are drawn.
        generator: draws them.
        reference: the number of an image that is held still; None: none.
    """
    if level.kind == "deformable":
        return _deform(sight, maps, level, cloud, generator, reference)
    dims = cloud.centres.shape[1]
    parameters = torch.zeros(maps.size, dims, dims + 1, requires_grad=True)
    radius, centre = cloud.size_mm / 2, cloud.centre

    def moved() -> Maps:
        own = centred(only_turning(parameters) if level.kind == "rigid" else parameters, reference)
        return replace(maps, linear=maps.linear @ Linear.exponential(own, centre, radius))

    descend(parameters, lambda points: sight.loss(moved(), points, generator), level, cloud, generator)
    return moved().detach()


def only_turning(parameters: Tensor) -> Tensor:
    """The antisymmetric part of the linear ones, whose exponential turns and nothing else."""
    linear = parameters[..., :-1]
    return torch.cat([(linear - linear.transpose(1, 2)) / 2, parameters[..., -1:]], 2)


def _deform(
    sight: Sight, maps: Maps, level: Level, cloud: Cloud, generator: torch.Generator, reference: int | None
) -> Maps:
    start = maps.with_velocity(Lattice.around(*cloud.box, level.node_mm))
    assert start.velocity is not None
    velocity = start.velocity.clone().requires_grad_()

    def moved() -> Maps:
        return replace(start, velocity=centred(velocity, reference))

    def loss(points: Tensor) -> Tensor:
        current = moved()
        assert current.velocity is not None
        bent = level.stiffness * bending(current.velocity, level.node_mm)
        return sight.loss(current, points, generator) + bent

    descend(velocity, loss, level, cloud, generator)
    return moved().detach()


def descend(
    parameters: Tensor, loss: Callable[[Tensor], Tensor], level: Level, cloud: Cloud, generator: torch.Generator
) -> None:
    """Adam with a falling rate; its epsilon is as small beside the slopes whatever the unit of length."""
    optimiser = torch.optim.Adam([parameters], lr=level.rate_mm, eps=SMALLEST_GAIN / level.rate_mm, fused=True)
    for step in range(level.steps):
        for group in optimiser.param_groups:
            group["lr"] = level.rate_mm * (1 - (1 - LAST_RATE) * step / level.steps)
        optimiser.zero_grad()
        loss(cloud.draw(level.points, generator)).backward()
        optimiser.step()
