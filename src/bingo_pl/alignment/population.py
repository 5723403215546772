"""People who differ, brought together at the images' own resolution: groupwise affine, then deformable.

All pairs of subjects are compared in time linear in their number. What is compared at a point are vectors, of which the
agreement of two subjects is the inner product: experts of the model, and gradients of one contrast by their direction.
So the agreement of all pairs is that of each subject with the sum over all others,

    sum over i < j of <e_i, e_j>  =  (|sum of e_i|^2 - sum of |e_i|^2) / 2,

which is the group's own evolving template. The template of a finished group can stand in for it: `add`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from bingo_pl.alignment.cloud import Cloud, Outlines
from bingo_pl.alignment.features import (
    EXPERTS,
    Feature,
    Features,
    Subject,
    Template,
    View,
    mean_agreement,
    with_others,
)
from bingo_pl.alignment.maps import Lattice, Linear, Maps, bending, centred
from bingo_pl.alignment.means import centred_affines
from bingo_pl.alignment.optimisation import Level, descend, only_turning
from bingo_pl.alignment.similarity import Box
from bingo_pl.alignment.starts import turns
from bingo_pl.alignment.volume import Picture, Volume
from bingo_pl.methods.bingo import Bingo

FINEST, COARSEST = 180, 45
"""Voxels across an object at the finest and the first level; but never finer than the images' own."""
NODES, LAST_NODES = 6, 4
"""Voxels between nodes of the velocities, on each level and on a last one."""
STIFFNESS = 1 / 9
"""Of the bending energy, in object sizes times voxels: people differ by more than one person's contrasts do."""
STEPS = 60
POINTS = {2: 2_000, 3: 4_000}
STATED = 20_000
"""Points at which starts and results are judged."""
SLAB = 1 << 16
"""Points of a template that are worked on at once."""
SEARCH_STEPS = 30
"""From each further start of a subject."""
BETTER = 0.1
"""By how much a subject must agree better with all others to be moved to where another start leads; where the images
of people lie on each other, experts and gradients agree by 0.4 to 0.6 together, elsewhere by 0.2 at most."""
ODD, USUAL = 0.7, 0.4
"""For a subject that agrees less than this share of the group's median, other starts are tried; that median for a
newcomer."""
AGAIN = 30
"""Steps in which a result is found again that was disturbed by a voxel."""


@dataclass(frozen=True, eq=False)
class Gathered:
    """A group of people in one space."""

    maps: Maps
    affine: Maps
    """Those of the stages before."""
    agreement: Sequence[float]
    """Of each subject's experts with the others', at the end, at most 1; of gradients where there are no experts."""
    agreement_affine: Sequence[float]
    repeatability_mm: Sequence[float]
    """RMS of what is left of a random disturbance when each subject is registered again."""
    box: Box
    """Lowest and highest corner (D,) mm of the group's objects in the common space."""
    views: Mapping[float, View]
    """By the mm at which images were compared, coarse to fine."""

    def template(self, correction: Callable[[Tensor], Tensor] = lambda points: points) -> Template:
        """What the group shows at each level.

        Args:
            correction: leads points (P, D) of the final common space to that of `maps`.
        """
        return Template({voxel: self._sums(voxel, view, correction) for voxel, view in self.views.items()}, self.box)

    def _sums(self, voxel_mm: float, view: View, correction: Callable[[Tensor], Tensor]) -> dict[str, Volume]:
        """Experts on a lattice as coarse as they are, gradients on one of the level's voxels."""
        found: dict[str, Volume] = {}
        for step in (2 * voxel_mm, voxel_mm):
            lattice = Lattice.around(*self.box, step)
            to_index = torch.cat([torch.eye(len(lattice.shape)), -lattice.first[:, None]], 1) / step
            parts: dict[str, list[Tensor]] = {}
            for points in lattice.points().flatten(0, -2).split(SLAB):
                with torch.no_grad():
                    features = view.features(self.maps, correction(points))
                for name, feature in features.items():
                    if (name == EXPERTS) == (step > voxel_mm):
                        sums = torch.cat([feature.vectors.sum(0), feature.weights.sum(0)[:, None]], 1)
                        parts.setdefault(name, []).append(sums)
            found |= {name: Volume(torch.cat(sums), lattice.shape, to_index) for name, sums in parts.items()}
        return found


def gather(
    subjects: Sequence[Subject],
    bingo: Bingo | None,
    transform: str = "deformable",
    tell: Callable[[str], None] = lambda text: None,
) -> Gathered:
    """Bring a group of people together. Equal inputs give equal results; nobody is the reference.

    Args:
        subjects: the people.
        bingo: whose experts compare them; None: gradients alone.
        transform: the last stage: ``rigid``, ``affine`` or ``deformable``.
        tell: called with the stage that is at work.
    """
    return _Gathering(subjects, bingo, None, tell).run(transform)


def add(newcomer: Subject, template: Template, bingo: Bingo | None, transform: str = "deformable") -> Gathered:
    """Bring one more person to a finished group, which stays as it is.

    Args:
        newcomer: the person.
        template: of the group.
        bingo: as for `gather`.
        transform: as for `gather`.
    """
    return _Gathering([newcomer], bingo, template, lambda text: None).run(transform)


class _Gathering:
    """`gather` and, with the template of a finished group, `add`."""

    def __init__(
        self, subjects: Sequence[Subject], bingo: Bingo | None, template: Template | None, tell: Callable[[str], None]
    ) -> None:
        self.subjects, self.bingo, self.template, self.tell = subjects, bingo, template, tell
        self.generator = torch.Generator().manual_seed(0)
        pictures = [one.pictures[0] for one in subjects]
        self.outlines = Outlines.of(pictures)
        self.voxels: list[float]
        if template is not None:
            self.voxels = sorted(template.levels, reverse=True)
            self.size_mm = float((template.box[1] - template.box[0]).median())
        else:
            self.size_mm = float(np.median([picture.size_mm for picture in pictures]))
            image_mm = min(float(np.exp(np.log(p.spacing).mean())) for one in subjects for p in one.pictures)
            self.voxels = _halved(self.size_mm / COARSEST, max(image_mm, self.size_mm / FINEST))
        self.views: dict[float, View] = {}

    def run(self, transform: str) -> Gathered:
        self.tell("looking for a start")
        maps = self._start()
        for kind in ("rigid", "affine")[: 1 if transform == "rigid" else 2]:
            self.tell(f"aligning: {kind}")
            maps = self._optimise(maps, self._linear_level(kind, STEPS))
            if kind == "rigid":
                maps = self._searched(maps)
        if self.template is None:
            maps = replace(maps, linear=mean_removed(maps.linear))
        affine = maps
        if transform == "deformable":
            self.views.clear()
            for level in self._levels():
                self.tell(f"aligning: deformable, {level.voxel_mm:.2g} mm")
                maps = self._optimise(maps, level)
        self.tell("estimating the error")
        scatter = self._scatter(maps)
        after, before = (self._agreement(each) for each in (maps, affine))
        return Gathered(maps, affine, after, before, scatter, self._box(maps), self.views)

    def _levels(self) -> list[Level]:
        """Of the deformation, coarse to fine; the finest voxels are seen twice, with finer nodes the second time."""
        fine = self.voxels[-1]
        plans = [*((voxel, NODES * voxel) for voxel in self.voxels), (fine, LAST_NODES * fine)]
        return [
            Level("deformable", voxel, STEPS, 0.3 * fine, self._points, node, self._stiffness) for voxel, node in plans
        ]

    @property
    def _points(self) -> int:
        return POINTS[self.subjects[0].pictures[0].dims]

    @property
    def _stiffness(self) -> float:
        return STIFFNESS * self.size_mm * self.voxels[-1]

    def _linear_level(self, kind: str, steps: int) -> Level:
        return Level(kind, self.voxels[0], steps, 0.3 * self.voxels[0], self._points)

    def _starts(self) -> list[Linear]:
        """As the headers have the images; the middles of their fields of view matched; those of their objects."""
        fields = torch.stack([_middle(one.pictures[0]) for one in self.subjects])
        objects = torch.stack([centres.mean(0) for centres in self.outlines.centres])
        still = Linear.identity(*fields.shape)

        def matched(places: Tensor) -> Linear:
            here = places.mean(0) if self.template is None else (self.template.box[0] + self.template.box[1]) / 2
            return replace(still, offset=places - here)

        return [still, matched(fields), matched(objects)]

    def _start(self) -> Maps:
        """The start from which the group agrees best."""

        def agreed(maps: Maps) -> float:
            self.views.clear()
            view, points = self._view(self.voxels[0], maps), self.outlines.cloud(maps).draw(STATED, self.generator)
            with torch.no_grad():
                given = self._given(points, self.voxels[0])
                return float(mean_agreement(view.features(maps, points), given))

        best = max((Maps(linear) for linear in self._starts()), key=agreed)
        self.views.clear()
        return best

    def _searched(self, maps: Maps) -> Maps:
        """Subjects that agree far worse with all others than most, where they agree best of where more starts lead."""
        view, cloud = self._view(self.voxels[0], maps), self.outlines.cloud(maps)
        points = cloud.draw(self._points, self.generator)
        with torch.no_grad():
            features = view.features(maps, points)
            totals = {name: (f.vectors.sum(0), f.weights.sum(0)) for name, f in features.items()}
        others = [self._given(points, self.voxels[0]) or _without(features, totals, i) for i in range(maps.size)]
        looks = [View([looks]) for looks in view.looks]
        now = [self._alone(looks[i], maps.linear.of(i), others[i], points, 0) for i in range(maps.size)]
        usual = float(np.median([agreement for agreement, _ in now])) if maps.size > 1 else USUAL
        found, moved = [], False
        for i, (agreement, linear) in enumerate(now):
            middle = self.outlines.centres[i].mean(0)
            starts = [each.of(i) for each in self._starts()] if agreement < ODD * usual else []
            for start in [*starts, *(_turned(turn, middle, cloud.centre) for _, turn in turns(len(middle)) if starts)]:
                better = self._alone(looks[i], start, others[i], points, SEARCH_STEPS)
                if better[0] > agreement + BETTER:
                    agreement, linear, moved = *better, True
            found.append(linear)
        if not moved:
            return maps
        self.views.clear()
        maps = Maps(Linear(torch.cat([one.matrix for one in found]), torch.cat([one.offset for one in found])))
        return self._optimise(maps, self._linear_level("rigid", STEPS))

    def _alone(self, view: View, start: Linear, others: Features, points: Tensor, steps: int) -> tuple[float, Linear]:
        """A subject's agreement with all others after some rigid steps, and its map."""
        dims = points.shape[1]
        centre, radius = points.mean(0), self.size_mm / 2
        parameters = torch.zeros(1, dims, dims + 1, requires_grad=True)

        def moved() -> Maps:
            return Maps(start @ Linear.exponential(only_turning(parameters), centre, radius))

        def loss(_: Tensor) -> Tensor:
            return -mean_agreement(view.features(moved(), points), others)

        level = Level("rigid", self.voxels[0], steps, 0.6 * self.voxels[0], 1)
        descend(parameters, loss, level, Cloud(points, 1.0), self.generator)
        with torch.no_grad():
            return -float(loss(points)), moved().detach().linear

    def _box(self, maps: Maps) -> Box:
        return self.outlines.cloud(maps).box if self.template is None else self.template.box

    def _view(self, voxel_mm: float, maps: Maps) -> View:
        """The images as they are compared at a level, read once."""
        if voxel_mm not in self.views:
            self.views[voxel_mm] = View.of(self.bingo, self.subjects, voxel_mm, maps.linear, self._box(maps))
        return self.views[voxel_mm]

    def _given(self, points: Tensor, voxel_mm: float) -> Features | None:
        return None if self.template is None else self.template.at(points, voxel_mm)

    def _free(self, parameters: Tensor) -> Tensor:
        """A group is kept in its middle; a newcomer goes where the finished group is."""
        return centred(parameters, None) if self.template is None else parameters

    def _optimise(self, start: Maps, level: Level) -> Maps:
        cloud, view = self.outlines.cloud(start), self._view(level.voxel_mm, start)

        def loss(maps: Maps, points: Tensor) -> Tensor:
            return -mean_agreement(view.features(maps, points), self._given(points, level.voxel_mm))

        if level.kind == "deformable":
            start = start.with_velocity(Lattice.around(*self._box(start), level.node_mm))
            assert start.velocity is not None
            velocity = start.velocity.clone().requires_grad_()

            def bent_loss(points: Tensor) -> Tensor:
                own = self._free(velocity)
                bent = level.stiffness * bending(own, level.node_mm)
                return loss(replace(start, velocity=own), points) + bent

            descend(velocity, bent_loss, level, cloud, self.generator)
            return replace(start, velocity=self._free(velocity)).detach()
        dims = cloud.centres.shape[1]
        parameters = torch.zeros(start.size, dims, dims + 1, requires_grad=True)

        def moved() -> Maps:
            own = self._free(only_turning(parameters) if level.kind == "rigid" else parameters)
            return replace(start, linear=start.linear @ Linear.exponential(own, cloud.centre, cloud.size_mm / 2))

        descend(parameters, lambda points: loss(moved(), points), level, cloud, self.generator)
        return moved().detach()

    def _scatter(self, maps: Maps) -> list[float]:
        """What is left of a random disturbance of each subject, mm, the group's common part removed."""
        if maps.velocity is None or maps.lattice is None:
            return [0.0] * maps.size
        voxel, step = self.voxels[-1], maps.lattice.step_mm
        noise = torch.randn(maps.velocity.shape, generator=self.generator) * voxel / maps.velocity.shape[1] ** 0.5
        disturbed = replace(maps, velocity=maps.velocity + self._free(noise))
        level = Level("deformable", voxel, AGAIN, 0.25 * voxel, self._points, step, self._stiffness)
        again = self._optimise(disturbed, level)
        with torch.no_grad():
            points = self.outlines.cloud(maps).draw(2_000, self.generator)
            left = self._free(maps.inverse(again(points)) - points)
        scatter: list[float] = left.square().sum(2).mean(1).sqrt().tolist()
        return scatter

    def _agreement(self, maps: Maps) -> list[float]:
        """Of each subject with the others, at the finest level that was seen."""
        voxel = min(self.views)
        points = self.outlines.cloud(maps).draw(STATED, self.generator)
        with torch.no_grad():
            features, given = self.views[voxel].features(maps, points), self._given(points, voxel)
            name = EXPERTS if EXPERTS in features else min(features)
            total, count = with_others(features[name], None if given is None else given.get(name))
        values: list[float] = (total / count.clamp(min=1)).tolist()
        return values


def _turned(turn: Tensor, there: Tensor, here: Tensor) -> Linear:
    """The map that turns by a matrix and leads from one point to another."""
    return Linear(turn[None], (there - turn @ here)[None])


def _without(features: Features, totals: Mapping[str, tuple[Tensor, Tensor]], subject: int) -> Features:
    """The sums over all subjects but one."""
    return {
        name: Feature(
            (totals[name][0] - feature.vectors[subject])[None], (totals[name][1] - feature.weights[subject])[None]
        )
        for name, feature in features.items()
    }


def mean_removed(linear: Linear) -> Linear:
    """Maps composed with one map so that their bi-invariant mean (Pennec and Arsigny 2013) is the identity."""
    dims = linear.offset.shape[1]
    wholes = np.tile(np.eye(dims + 1), (len(linear.offset), 1, 1))
    wholes[:, :dims, :dims], wholes[:, :dims, dims] = linear.matrix.double().numpy(), linear.offset.double().numpy()
    moved = np.stack(centred_affines([*wholes]))
    return Linear(
        torch.from_numpy(moved[:, :dims, :dims]).float().contiguous(),
        torch.from_numpy(moved[:, :dims, dims]).float().contiguous(),
    )


def _halved(coarse: float, fine: float) -> list[float]:
    """Voxels of the levels, coarse to fine, about halved from one to the next."""
    count = max(int(np.ceil(np.log2(coarse / fine) - 0.25)), 0)
    voxels: list[float] = np.geomspace(max(coarse, fine), fine, count + 1).tolist()
    return voxels


def _middle(picture: Picture) -> Tensor:
    """(D,) mm, of the field of view, or of the mask."""
    if picture.region is not None and picture.region.any():
        index = np.argwhere(picture.region).mean(0)
    else:
        index = (np.array(picture.unit.shape) - 1) / 2
    to_index = picture.to_index
    return torch.from_numpy(np.linalg.solve(to_index[:, :-1], index - to_index[:, -1])).float()
