"""The cascade: as the headers have it, rigid, affine, deformable; each stage is kept where the evidence speaks for it.

What is optimised cannot be its own witness: two halves of the points agree even where both are wrong, and every
similarity moves aligned images a little. So a stage is believed only if it moves the images against each other by
clearly more than the same optimisation moves images that were aligned before (`INVENTED`, measured in
docs/alignment.md), and if edges, which are compared at other points, gain by it. Where the evidence is level, the
simpler map stays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from bingo_pl.alignment.cloud import Cloud, Outlines
from bingo_pl.alignment.error import predicted_error
from bingo_pl.alignment.maps import Linear, Maps
from bingo_pl.alignment.optimisation import KINDS, Level, Sight, optimise
from bingo_pl.alignment.similarity import Combined, Edges, Similarity, choose_pairs
from bingo_pl.alignment.starts import Start, coarse_starts
from bingo_pl.alignment.volume import Picture

FINEST, FINEST_DEFORMED = 125, 180
"""Voxels across an object at the finest level, 1.2 mm for a head; of images that are clearly deformed, 0.8 mm."""
COARSEST = 45
"""At the first level: 4 mm for a head."""
UPSAMPLED = 0.5
"""Finest voxel, as a share of the finest image's: the experts' own voxels are twice as large."""
INVENTED = {"rigid": 0.4, "affine": 0.5, "deformable": 0.7}
"""By how much a stage may move images against each other, RMS in voxels of the images, without being believed."""
CLEAR = 0.45
"""Voxels of the coarsest level by which it must move images against each other for them to be clearly deformed: of raw
heads, whose slices are thick, it moves some by a third of its voxel that are not deformed at all."""
UNLIKE, DOUBTFUL = 0.18, 0.22
"""Agreement of an image's experts with the others', below which it is another object, or looked at closely."""
EVIDENCE_POINTS = 20_000
EDGES_WEIGHT = 2.0
STIFFNESS = 0.0058
"""Weight of the bending energy, as a share of the object's size squared: 100 mm^2 for a brain."""
NODES = 15
"""Nodes of a velocity across an object at the finest level, at most every six voxels: 9 mm for a brain."""


@dataclass(frozen=True, eq=False)
class Stage:
    """What a stage of the cascade did to a group."""

    kind: str
    moved_mm: float
    """RMS over the objects by which it moved the images against each other."""
    needed_mm: float
    """What it had to move to be believed."""
    edges: tuple[float, float]
    """Agreement of edges before and after, at points that were not optimised."""
    kept: bool
    why: str
    """In words."""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A group's maps and the way to them."""

    maps: Maps
    kept: str
    """``identity``, ``rigid``, ``affine`` or ``deformable``."""
    stages: Sequence[Stage]
    starts: Sequence[Start | None]
    """How each image was brought near the first one; None for that one."""
    agreement: Sequence[float]
    """Of each image's experts with the others', at the end, at most 1."""
    error_mm: Sequence[float]
    """Predicted for each image, see `predicted_error`."""
    plan: Plan
    unexplained: Sequence[float] | None = None
    """Of a series, the share of each image's variance that the others do not explain; None of other groups."""


@dataclass(frozen=True, eq=False)
class Plan:
    """Sizes of the work, which depend on the object."""

    size_mm: float
    """Of the object."""
    image_mm: float
    """The finest image's voxel: geometric mean."""
    coarse_mm: float
    fine_mm: float
    images: int

    @classmethod
    def of(cls, pictures: Sequence[Picture], size_mm: float) -> Plan:
        """The plan for images of an object."""
        image_mm = min(picture.voxel_mm for picture in pictures)
        fine = _finest(image_mm, size_mm, FINEST)
        return cls(size_mm, image_mm, max(size_mm / COARSEST, fine), fine, len(pictures))

    def finer(self) -> Plan:
        """The plan for images that are clearly deformed."""
        return replace(self, fine_mm=_finest(self.image_mm, self.size_mm, FINEST_DEFORMED))

    @property
    def deformations(self) -> list[float]:
        """Voxels of the deformable stage's levels: more between the two were tried, and gained nothing."""
        alike = self.coarse_mm < 1.3 * self.fine_mm
        return [self.fine_mm] if alike else [self.coarse_mm, self.fine_mm]

    def passes(self, clearly: bool) -> list[Level]:
        """What `align` optimises by default, in order, behind the coarse start.

        Args:
            clearly: of images that are clearly deformed: all there is; else the least, where the coarse levels of the
                deformation find nothing.
        """
        ahead = [self.level(kind, self.coarse_mm) for kind in ("rigid", "deformable")]
        plan = self.finer() if clearly else self
        wanted = [(kind, plan.fine_mm) for kind in ("rigid", "affine")]
        wanted += [("deformable", voxel) for voxel in (plan.deformations if clearly else plan.deformations[:1])]
        return [*ahead, *(plan.level(kind, voxel) for kind, voxel in wanted)]

    def level(self, kind: str, voxel_mm: float) -> Level:
        """How a stage works at a voxel size."""
        coarse, finest = voxel_mm >= self.coarse_mm, voxel_mm <= self.fine_mm
        if kind == "deformable":
            nodes = max(6 * voxel_mm, self.size_mm / NODES)
            points = self._points(4_000 if finest else 3_000)
            return Level(kind, voxel_mm, 60, 0.25 * voxel_mm, points, nodes, STIFFNESS * self.size_mm**2)
        steps = 40 if finest and kind == "rigid" else 25
        rate = 0.2 if coarse else 0.1
        return Level(kind, voxel_mm, steps, rate * voxel_mm, self._points(3_000 if finest else 2_000))

    def _points(self, number: int) -> int:
        """More for a group of few images, whose pairs say less."""
        return int(number * min(max(6 / self.images, 1), 2))


def _finest(image_mm: float, size_mm: float, across: int) -> float:
    """A level's voxel with so many across an object, but no finer than images of ``image_mm`` allow."""
    return max(UPSAMPLED * image_mm, size_mm / across)


def _inserted(values: Sequence[Any], index: int, value: Any) -> list[Any]:
    return [*values[:index], value, *values[index:]]


def align(
    pictures: Sequence[Picture],
    modalities: Sequence[int],
    similarity: Similarity,
    transform: str = "auto",
    reference: int | None = None,
    initial: Linear | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Align a group. Equal inputs give equal results.

    Args:
        pictures: the images.
        modalities: their numbers in the model.
        similarity: the learned one, or another without vectors.
        transform: ``auto``, or the last stage: ``rigid``, ``affine`` or ``deformable``, which is then kept whatever the
            evidence; those before it still have to win.
        reference: the number of an image that is held still; None: none, the group meets in its middle.
        initial: where each image lies at the start, common space to image, which is then believed; None: as the headers
            have it, or as a search finds it.
        tell: called with the stage that is at work.
    """
    return Cascade(pictures, modalities, similarity, transform, reference, tell).run(initial)


class Cascade:
    """The cascade at work; `bingo_pl.alignment.series` overrides what it goes by."""

    def __init__(
        self,
        pictures: Sequence[Picture],
        modalities: Sequence[int],
        similarity: Similarity,
        transform: str,
        reference: int | None,
        tell: Callable[[str], None],
    ) -> None:
        self.pictures, self.modalities, self.similarity = pictures, modalities, similarity
        self.transform, self.reference, self.tell = transform, reference, tell
        self.generator = torch.Generator().manual_seed(0)
        size_mm = float(np.median([picture.size_mm for picture in pictures]))
        self.plan = Plan.of(pictures, size_mm)
        self.small = [picture.coarse(size_mm / COARSEST) for picture in pictures]
        self.outlines = Outlines.of(self.small)
        self.both = Combined([(similarity, 1.0), (Edges(), EDGES_WEIGHT)])
        self.sights: dict[float, Sight] = {}
        self.edges: Sight | None = None
        self.stages: list[Stage] = []

    def run(self, initial: Linear | None) -> Outcome:
        given = Maps(initial or Linear.identity(len(self.pictures), self.pictures[0].dims))
        self.tell("looking for a start")
        starts: list[Start | None] = [None] * len(self.pictures)
        start = given
        if initial is None:
            looked_at = self.small, self.modalities, self.outlines
            starts, linear = coarse_starts(self.similarity, *looked_at, self.generator)
            start = Maps(linear if self.reference is None else linear @ linear.of(self.reference).inverse())
        start = self._look_ahead(start)
        maps, kept = given, "identity"
        last = "deformable" if self.transform == "auto" else self.transform
        for kind in KINDS[: KINDS.index(last) + 1]:
            self.tell(f"aligning: {kind}")
            found, stage = self._stage(kind, start if kind == "rigid" else maps, maps)
            self.stages.append(stage)
            if stage.kept:
                maps, kept = found, kind
        self.tell("estimating the error")
        cloud = self.outlines.cloud(maps)
        agreement = self._agreement(self._experts(maps, cloud), maps, cloud)
        finest = min(self.sights)
        error = predicted_error(self.sights[finest], maps, cloud, finest, self.plan.image_mm, self.generator)
        outcome = Outcome(maps, kept, self.stages, starts, agreement, error, self.plan)
        trusted = [start is None or start.trusted for start in starts]
        unlike = [i for i, value in enumerate(agreement) if not (trusted[i] and self._alike(value))]
        return self._without(min(unlike, key=agreement.__getitem__), outcome, initial) if unlike else outcome

    @property
    def invented(self) -> Mapping[str, float]:
        """By how much each kind of stage may move images without being believed, see `INVENTED`."""
        return INVENTED

    def _alike(self, agreement: float) -> bool:
        """Whether an image whose experts agree so far with the others' shows what they show."""
        return agreement >= UNLIKE

    def _without(self, odd: int, outcome: Outcome, initial: Linear | None) -> Outcome:
        """The outcome where an image that does not show what the others show stays where it came from.

        The others are aligned once more without it, so that it neither pulls them nor speaks for or against any; where
        it is one of two, both stay.
        """
        others = [i for i in range(len(self.pictures)) if i != odd]
        still = initial or Linear.identity(len(self.pictures), self.pictures[0].dims)
        if len(others) < 2:
            return replace(outcome, maps=Maps(still), kept="identity")
        self.tell("aligning without an image that shows something else")
        pictures, modalities = [self.pictures[i] for i in others], [self.modalities[i] for i in others]
        reference = others.index(self.reference) if self.reference in others else None
        cascade = type(self)(pictures, modalities, self.similarity, self.transform, reference, self.tell)
        rest = cascade.run(None if initial is None else Linear(initial.matrix[others], initial.offset[others]))
        starts, agreement, error = (
            _inserted(found, odd, own[odd])
            for found, own in (
                (rest.starts, outcome.starts),
                (rest.agreement, outcome.agreement),
                (rest.error_mm, outcome.error_mm),
            )
        )
        return replace(
            rest, maps=rest.maps.inserted(odd, still.of(odd)), starts=starts, agreement=agreement, error_mm=error
        )

    def _look_ahead(self, start: Maps) -> Maps:
        """Look closer at images that are clearly deformed, as the coarsest level tells at once.

        Returns:
            The start, rigidly aligned at that level.
        """
        coarse = self.plan.coarse_mm
        rigid = self._optimise(start, self.plan.level("rigid", coarse))
        if self.transform not in ("auto", "deformable"):
            return rigid
        deformed = self._optimise(rigid, self.plan.level("deformable", coarse))
        if self._moved(deformed, rigid, self.outlines.cloud(rigid)) > CLEAR * coarse:
            self.plan = self.plan.finer()
        return rigid

    def _see(self, voxel_mm: float, maps: Maps, cloud: Cloud) -> Sight:
        """The images as they are compared at a level: read once, and again only after a start has moved them."""
        if voxel_mm not in self.sights:
            view = (self.pictures, self.modalities, voxel_mm, maps.linear, cloud.box)
            self.sights[voxel_mm] = Sight.of(self.both, *view)
        return self.sights[voxel_mm]

    def _experts(self, maps: Maps, cloud: Cloud) -> Sight:
        """The images as the similarity alone compares them at the first level, without edges."""
        seen = self._see(self.plan.coarse_mm, maps, cloud)
        return Sight(self.similarity, [volumes[:-1] for volumes in seen.volumes])

    def _stage(self, kind: str, start: Maps, before: Maps) -> tuple[Maps, Stage]:
        """Run a stage from ``start``, and judge it against the maps ``before``."""
        if kind == "deformable":
            maps = self._deformable(start)
        else:
            maps = self._optimise(start, self.plan.level(kind, self.plan.fine_mm))
        cloud = self.outlines.cloud(start)
        moved = self._moved(maps, before, cloud)
        needed = self.invented[kind] * self.plan.image_mm
        edges = self._edges(before), self._edges(maps)
        stage = Stage(kind, moved, needed, edges, True, "asked for")
        if self.transform != kind:
            kept, why = self._believed(stage, before, maps)
            stage = replace(stage, kept=kept, why=why)
        return maps, stage

    def _believed(self, stage: Stage, before: Maps, after: Maps) -> tuple[bool, str]:
        """Whether the evidence speaks for what a stage made of the maps ``before``, and why."""
        if stage.moved_mm <= stage.needed_mm:
            return False, "moves the images no more than this does with images that are aligned"
        if stage.edges[1] <= stage.edges[0]:
            return False, "edges do not gain by it"
        return True, "edges gain by it"

    def _deformable(self, maps: Maps) -> Maps:
        """Coarse to fine; the finer levels, which take most time, only where the coarsest one found something."""
        start = maps
        for voxel in self.plan.deformations:
            maps = self._optimise(maps, self.plan.level("deformable", voxel))
            if not (self.transform == "deformable" or self._found(start, maps)):
                break
        return maps

    def _found(self, before: Maps, after: Maps) -> bool:
        """Whether the coarsest deformation is one that might be believed, and the finest one worth its time."""
        moved = self._moved(after, before, self.outlines.cloud(before))
        enough = moved > self.invented["deformable"] * self.plan.image_mm
        return enough and self._edges(after) > self._edges(before)

    def _optimise(self, maps: Maps, level: Level) -> Maps:
        cloud = self.outlines.cloud(maps)
        sight = self._see(level.voxel_mm, maps, cloud)
        return optimise(sight, maps, level, cloud, self.generator, self.reference)

    def _moved(self, after: Maps, before: Maps, cloud: Cloud) -> float:
        """RMS over the objects, mm: how far images moved against each other, seen in the common space."""
        points = cloud.draw(2_000, self.generator)
        with torch.no_grad():
            there = before.inverse(after(points)) - points
            apart = there - there.mean(0, keepdim=True)
        return float(apart.square().sum(2).mean().sqrt())

    def _edges(self, maps: Maps) -> float:
        """Agreement of edges, the mean over images."""
        cloud = self.outlines.cloud(maps)
        if self.edges is None:
            seen = self._see(self.plan.fine_mm, maps, cloud)
            self.edges = Sight(Edges(), [volumes[-1:] for volumes in seen.volumes])
        return float(np.mean(self._agreement(self.edges, maps, cloud)))

    def _agreement(self, sight: Sight, maps: Maps, cloud: Cloud) -> list[float]:
        """Of each image with those it is compared with, over all points: where fields do not overlap, 0."""
        first, second = choose_pairs(len(self.pictures), self.generator)
        with torch.no_grad():
            agreement, overlap = sight.pairwise(maps, cloud.draw(EVIDENCE_POINTS, self.generator), first, second)
        total, number = torch.zeros(maps.size), torch.zeros(maps.size)
        for side in (first, second):
            total.index_add_(0, side, agreement * overlap)
            number.index_add_(0, side, torch.ones_like(agreement))
        values: list[float] = (total / number.clamp(min=1)).tolist()
        return values
