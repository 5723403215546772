"""Coarse starts: how each image lies to the first one, where headers cannot be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from bingo_pl.alignment.cloud import Outlines
from bingo_pl.alignment.maps import Linear, Maps
from bingo_pl.alignment.optimisation import Level, Sight, optimise
from bingo_pl.alignment.similarity import Similarity
from bingo_pl.alignment.volume import Picture

ACROSS = 24
"""Voxels across an object in the first look."""
STEPS, POINTS = 20, 1_500
GOOD = 0.5
"""Agreement of two images' experts, over both objects, above which no turned start is looked for: 0.6 and more where
contrasts of one head are aligned, 0.1 to 0.3 where they are not."""
BETTER, FAR_BETTER = 0.03, 0.1
"""By how much a start must agree better than a simpler one to be taken; the second where it does not agree well, and
so speaks against the headers without being evidence of anything else: by 0.03 the same start differs from itself."""


@dataclass(frozen=True, eq=False)
class Start:
    """How an image lies to the first one."""

    linear: Linear
    """From the first image's space, rigid."""
    agreement: float
    """Over both objects; what lies outside the other's field of view agrees by 0."""
    kind: str
    """``headers``, ``centres`` (of both objects matched), ``tilted`` by some 20 degrees, or ``turned`` by 90 or 180."""

    @property
    def trusted(self) -> bool:
        """Against the headers, only a start that agrees well is evidence that both images show the same."""
        return self.kind == "headers" or self.agreement >= GOOD


def coarse_starts(
    similarity: Similarity,
    pictures: Sequence[Picture],
    modalities: Sequence[int],
    outlines: Outlines,
    generator: torch.Generator,
) -> tuple[list[Start | None], Linear]:
    """How each image of a group lies to the first one, for which there is None; and rigid maps of all.

    All are aligned together first, as their headers have them. Only for images that do not agree with the first one
    then, other starts are looked for, each beside the first one.

    Args:
        similarity: of the images.
        pictures: small copies of them.
        modalities: their numbers in the model.
        outlines: of the pictures.
        generator: draws points.
    """
    maps = Maps(Linear.identity(len(pictures), pictures[0].dims))
    maps, agreement = _improved(similarity, pictures, modalities, outlines, maps, None, generator)
    starts: list[Start | None] = [None]
    first = maps.linear.of(0)
    for image, found in enumerate(agreement, start=1):
        if found >= GOOD:
            starts.append(Start(maps.linear.of(image) @ first.inverse(), found, "headers"))
            continue
        pair = (pictures[0], pictures[image]), (modalities[0], modalities[image])
        starts.append(_coarse_start(similarity, *pair, generator))
    linears = [first, *(start.linear @ first for start in starts if start is not None)]
    matrix, offset = (torch.cat([getattr(each, part) for each in linears]) for part in ("matrix", "offset"))
    return starts, Linear(matrix, offset)


def _coarse_start(
    similarity: Similarity, pictures: tuple[Picture, Picture], modalities: tuple[int, int], generator: torch.Generator
) -> Start:
    """Find roughly how the second of two images lies to the first.

    The headers are tried first, and matching centres; where neither agrees, turns about all axes.

    Args:
        similarity: of the two.
        pictures: the images, small copies of them.
        modalities: their numbers in the model.
        generator: draws points.
    """
    dims = pictures[0].dims
    outlines = Outlines.of(pictures)
    centres = [own.mean(0) for own in outlines.centres]

    def improved(turn: Tensor, offset: Tensor, kind: str) -> Start:
        start = Maps(Linear(torch.stack([torch.eye(dims), turn]), torch.stack([torch.zeros(dims), offset])))
        maps, (agreement,) = _improved(similarity, pictures, modalities, outlines, start, 0, generator)
        return Start(maps.linear.of(1), agreement, kind)

    best = improved(torch.eye(dims), torch.zeros(dims), "headers")
    others = [("centres", torch.eye(dims)), *turns(dims)]
    for kind, turn in others:
        if kind != "centres" and best.agreement >= GOOD:
            break
        found = improved(turn, centres[1] - turn @ centres[0], kind)
        if found.agreement > best.agreement + (BETTER if found.agreement >= GOOD else FAR_BETTER):
            best = found
    return best


def _improved(
    similarity: Similarity,
    pictures: Sequence[Picture],
    modalities: Sequence[int],
    outlines: Outlines,
    maps: Maps,
    reference: int | None,
    generator: torch.Generator,
) -> tuple[Maps, list[float]]:
    """Rigid maps after a few steps, and how well each other image then agrees with the first one over both objects."""
    voxel = max(picture.size_mm for picture in pictures) / ACROSS
    cloud = outlines.cloud(maps)
    sight = Sight.of(similarity, pictures, modalities, voxel, maps.linear, cloud.box)
    level = Level("rigid", voxel, STEPS, 0.4 * voxel, POINTS)
    maps = optimise(sight, maps, level, cloud, generator, reference)
    cloud = outlines.cloud(maps)
    sight = Sight.of(similarity, pictures, modalities, voxel, maps.linear, cloud.box)
    others = torch.arange(1, len(pictures))
    with torch.no_grad():
        agreement, overlap = sight.pairwise(maps, cloud.draw(4 * POINTS, generator), torch.zeros_like(others), others)
    found: list[float] = (agreement * overlap).tolist()
    return maps, found


def turns(dims: int) -> list[tuple[str, Tensor]]:
    """What is done to the second image, and rotation matrices (D, D)."""
    rotation = scipy.spatial.transform.Rotation
    if dims == 2:
        angles = [("tilted", 20), ("tilted", -20), ("turned", 90), ("turned", 180), ("turned", -90)]
        turns = [(kind, rotation.from_euler("z", angle, degrees=True)) for kind, angle in angles]
    else:
        tilts = [rotation.from_euler(axis, angle, degrees=True) for axis in "xyz" for angle in (-20, 20)]
        right = [turn for turn in rotation.create_group("O") if turn.magnitude() > 0.1]
        turns = [*(("tilted", turn) for turn in tilts), *(("turned", turn) for turn in right)]
    return [(kind, torch.from_numpy(turn.as_matrix()[:dims, :dims]).float()) for kind, turn in turns]
