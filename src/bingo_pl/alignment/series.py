"""The volumes of one series: a body that moves while its contrast changes, as in T1 mapping, perfusion and diffusion.

All that a voxel shows over a series is nearly a sum of a few time courses (of T1 mapping three, see Huizinga et al.
2016), as long as nothing moves: motion mixes tissues, which takes more components. So what is left of a series beyond
a few components is optimised beside the experts and edges, and tells at other points whether a stage is believed. It is
blind to contrast, where edges and experts move even a series that lies still by more than a voxel.

The volumes are from one file, so where its header has them is believed: no start is looked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bingo_pl.alignment.cascade import EVIDENCE_POINTS, INVENTED, Cascade, Outcome, Stage
from bingo_pl.alignment.cloud import Cloud
from bingo_pl.alignment.maps import Linear, Maps
from bingo_pl.alignment.optimisation import Level, Sight, optimise
from bingo_pl.alignment.similarity import Similarity
from bingo_pl.alignment.volume import Picture, Volume

COMPONENTS = 3
"""Time courses that explain a series in which nothing moves, beside each image's mean."""
FEWEST = 4
"""Images; of fewer every motion is explained by the components."""
LEFT, PAIRS = 4.0, 0.25
"""Weights of what is left, and of experts and edges of pairs, which hold in place what is too noisy for it."""
STIFFER = 3.0
"""Than images of which each pair says something: what is left tells little of where nothing changes."""
GAIN = 0.2
"""By how much of itself what is left must fall for a stage to be believed: of a series with noise that lies still,
fitting the noise takes up to 0.18."""
INVENTED_OF_SERIES = {"rigid": 0.15, "affine": 0.15, "deformable": 0.15}
"""`bingo_pl.alignment.cascade.INVENTED` where what is left is the evidence, which knows contrast from motion."""
TINY = 1e-6


@dataclass(frozen=True, eq=False)
class Remainder:
    """What is left of a series beyond a few components."""

    volumes: Sequence[Volume]
    """One channel each."""

    @classmethod
    def of(cls, pictures: Sequence[Picture], voxel_mm: float) -> Remainder:
        """The images as they are seen at a resolution."""
        return cls([picture.smoothed(voxel_mm) for picture in pictures])

    @property
    def components(self) -> int:
        return min(COMPONENTS, (len(self.volumes) - 1) // 2)

    def share(self, maps: Maps, points: Tensor, graded: bool = False) -> Tensor:
        """Scalar from 0 to 1: the variance beyond the components, of images that count the same however dark they are.

        Args:
            maps: of the group.
            points: (P, D) mm of the common space; those that all images show count.
            graded: the second component counts a little as left, the next one more: an image far off the others cannot
                have one for itself and stay there.
        """
        values = self._standardised(maps, points)
        with torch.no_grad():  # at the optimum the axes' own change does not matter
            axes = torch.linalg.eigh(values @ values.T).eigenvectors[:, -self.components :]
            free = torch.ones(self.components)
            if graded:
                free = torch.arange(1, self.components + 1) / self.components  # ascending as the eigenvalues
        explained = (free * (axes.T @ values).square().sum(1)).sum()
        return 1 - explained / values.square().sum().clamp(min=TINY)

    def unexplained(self, maps: Maps, points: Tensor) -> list[float]:
        """Of each image, the share of its variance that the components of the others leave."""
        values = self._standardised(maps, points)
        left = []
        for image in range(len(values)):
            others = torch.cat([values[:image], values[image + 1 :]])
            components = torch.linalg.svd(others, full_matrices=False)[2][: self.components]
            shown = values[image].square().sum().clamp(min=TINY)
            left.append(float(1 - (components @ values[image]).square().sum() / shown))
        return left

    def _standardised(self, maps: Maps, points: Tensor) -> Tensor:
        """(N, P) of mean 0 and length 1, 0 where not all images show something."""
        where = maps(points)
        read = [volume.at(where[image]) for image, volume in enumerate(self.volumes)]
        values = torch.stack([value[:, 0] for value, _ in read])
        inside = torch.stack([shown for _, shown in read]).all(0).float()
        mean = (values * inside).sum(1, keepdim=True) / inside.sum().clamp(min=1)
        values = (values - mean) * inside
        return values / (values.square().sum(1, keepdim=True) + TINY).sqrt()


@dataclass(frozen=True, eq=False)
class SeriesSight(Sight):
    """A series as it is compared: by pairs, and as a whole."""

    remainder: Remainder
    graded: bool = False
    """See `Remainder.share`: for rigid maps, which find images that are far off; fine ones are better without."""

    def loss(self, maps: Maps, points: Tensor, generator: torch.Generator) -> Tensor:
        return PAIRS * super().loss(maps, points, generator) + LEFT * self.remainder.share(maps, points, self.graded)


def align_series(
    pictures: Sequence[Picture],
    modality: int,
    similarity: Similarity,
    transform: str = "auto",
    reference: int | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Align the images of a series; arguments as of `bingo_pl.alignment.cascade.align`."""
    modalities = [modality] * len(pictures)
    still = Linear.identity(len(pictures), pictures[0].dims)
    return _SeriesCascade(pictures, modalities, similarity, transform, reference, tell).run(still)


class _SeriesCascade(Cascade):
    """The cascade, with what is left of the series as its evidence; of too few images, edges remain that."""

    witness: Remainder | None = None

    @property
    def invented(self) -> Mapping[str, float]:
        return INVENTED_OF_SERIES if self.told else INVENTED

    @property
    def told(self) -> bool:
        """Whether there are enough images for a remainder to tell of motion."""
        return len(self.pictures) >= FEWEST

    def run(self, initial: Linear | None) -> Outcome:
        outcome = super().run(initial)
        if not self.told:
            return outcome
        with torch.no_grad():
            unexplained = self._witness().unexplained(outcome.maps, self._evidence_points(outcome.maps))
        return replace(outcome, unexplained=unexplained)

    def _see(self, voxel_mm: float, maps: Maps, cloud: Cloud) -> Sight:
        if self.told and voxel_mm not in self.sights:
            sight = super()._see(voxel_mm, maps, cloud)
            remainder = Remainder.of(self.pictures, voxel_mm)
            self.sights[voxel_mm] = SeriesSight(sight.similarity, sight.volumes, remainder)
        return super()._see(voxel_mm, maps, cloud)

    def _optimise(self, maps: Maps, level: Level) -> Maps:
        if not self.told:
            return super()._optimise(maps, level)
        cloud = self.outlines.cloud(maps)
        sight = self._see(level.voxel_mm, maps, cloud)
        assert isinstance(sight, SeriesSight)
        sight = replace(sight, graded=level.kind == "rigid")
        stiffer = replace(level, stiffness=STIFFER * level.stiffness)
        return optimise(sight, maps, stiffer, cloud, self.generator, self.reference)

    def _alike(self, agreement: float) -> bool:
        return True  # a dark image agrees with nothing, and shows the same body

    def _believed(self, stage: Stage, before: Maps, after: Maps) -> tuple[bool, str]:
        if not self.told:
            return super()._believed(stage, before, after)
        if stage.moved_mm <= self.invented[stage.kind] * self.plan.image_mm:
            return False, "moves the images no more than this does with a series that lies still"
        gain = self._gain(before, after)
        change = f"falls by {gain:.0%}" if gain >= 0 else f"rises by {-gain:.0%}"
        why = f"what {self._witness().components} time courses do not explain {change}"
        return (True, why) if gain >= GAIN else (False, f"{why}, wanted a fall of {GAIN:.0%}")

    def _found(self, before: Maps, after: Maps) -> bool:
        return self._gain(before, after) > 0 if self.told else super()._found(before, after)

    def _gain(self, before: Maps, after: Maps) -> float:
        """By how much of itself what is left falls, at points that were not optimised."""
        points = self._evidence_points(before)
        with torch.no_grad():
            left = [float(self._witness().share(maps, points)) for maps in (before, after)]
        return 1 - left[1] / max(left[0], TINY)

    def _witness(self) -> Remainder:
        if self.witness is None:
            self.witness = Remainder.of(self.pictures, self.plan.fine_mm)
        return self.witness

    def _evidence_points(self, maps: Maps) -> Tensor:
        return self.outlines.cloud(maps).draw(EVIDENCE_POINTS, self.generator)
