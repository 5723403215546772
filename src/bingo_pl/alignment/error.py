"""How far off a result is, in mm, without ground truth: it is disturbed by known maps and registered again.

What is left of the disturbance shows how well the images hold each other in place; what the similarity itself is wrong
by comes on top (`BIAS`, calibrated on images whose true maps are known, see docs/alignment.md).
"""

from __future__ import annotations

from dataclasses import replace

import torch

from bingo_pl.alignment.cloud import Cloud
from bingo_pl.alignment.maps import Linear, Maps, centred
from bingo_pl.alignment.optimisation import Level, Sight, optimise

BIAS = 0.3
"""Voxels of the finest image: what is wrong even where every repetition finds the same."""
DISTURBED = 2.0
"""Voxels of the level by which images are moved, RMS."""
STEPS, POINTS = 30, 4_000


def predicted_error(
    sight: Sight, maps: Maps, cloud: Cloud, voxel_mm: float, image_mm: float, generator: torch.Generator
) -> list[float]:
    """RMS error in mm expected of each image, up to a map common to the group.

    Args:
        sight: the images at the finest level that was optimised.
        maps: the result.
        cloud: where its objects are.
        voxel_mm: of the level.
        image_mm: the finest image's voxel.
        generator: draws disturbances and points.
    """
    disturbed = _disturb(maps, cloud, voxel_mm, generator)
    kind = "rigid" if maps.velocity is None else "deformable"
    step = 0.0 if maps.lattice is None else maps.lattice.step_mm
    level = Level(kind, voxel_mm, STEPS, 0.25 * voxel_mm, POINTS, step, stiffness=cloud.size_mm * voxel_mm / 2)
    again = optimise(sight, disturbed, level, cloud, generator)
    points = cloud.draw(POINTS, generator)
    with torch.no_grad():
        left = maps.inverse(again(points)) - points
        left = left - left.mean(0, keepdim=True)
    scatter = left.square().sum(2).mean(1)
    return (scatter + (BIAS * image_mm) ** 2).sqrt().tolist()


def _disturb(maps: Maps, cloud: Cloud, voxel_mm: float, generator: torch.Generator) -> Maps:
    """The maps after small random ones."""
    size = DISTURBED * voxel_mm
    dims = cloud.centres.shape[1]
    if maps.velocity is None:
        drawn = torch.randn(maps.size, dims, dims + 1, generator=generator) * size / dims**0.5
        turn = (drawn[..., :-1] - drawn[..., :-1].transpose(1, 2)) / 2
        parameters = centred(torch.cat([turn, drawn[..., -1:]], 2), None)
        linear = maps.linear @ Linear.exponential(parameters, cloud.centre, cloud.size_mm / 2)
        return replace(maps, linear=linear)
    noise = torch.randn(maps.velocity.shape, generator=generator) * size / dims**0.5
    return replace(maps, velocity=maps.velocity + centred(noise, None))
