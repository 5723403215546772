"""Dice and gWI of a group of any size, one image at a time, equal to those of `bingo_pl.evaluation.metrics`."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations_with_replacement
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bingo_pl.batch import UNLABELLED
from bingo_pl.evaluation.metrics import squared_length_over
from bingo_pl.spatial import compose, warp_labels

STEP = 0.65
"""Between the logarithms of the rates of the exponentials that sum up to 1 / x. Error: exp(-pi^2 / (2 STEP)) or so."""
SLOWEST, FASTEST = 1e-3, 12.0
"""The rates, times the largest and the smallest x. Slower exponentials are constant, faster ones zero."""

Displacements = Callable[[], Iterator[tuple[int, Tensor]]]
"""Each image's position and displacement (D, *S); called once for each pass."""


class Reference(NamedTuple):
    """What a registration of one image is judged by."""

    labels: Tensor
    """(1, *S) integer; `UNLABELLED` throughout where there are none."""
    mask: Tensor
    """(1, *S) bool."""
    truth: Tensor
    """(D, *S), see `GroupBatch.truth`."""
    anatomy: str
    """What the image shows: images of one name would lie over each other had they not been misaligned."""


class ReferencedGroup(Protocol):
    """A group with references, made or read when they are asked for."""

    def reference(self, member: int) -> Reference: ...


class DiceSums:
    """Mean Dice over all pairs of a group's images from weighted counts of labels; its cost does not know of pairs.

    The overlap of all pairs is that of counts: sum over i, j of |A_i and A_j| = sum over voxels of n(p)^2. The
    denominator of a pair separates once 1 / (a + b) is written as a sum of exponentials, w exp(-t a) exp(-t b), so that
    one weighted count a rate is enough. Images are told apart by the classes they show, since a class that neither
    image of a pair shows does not count for the pair. Relative error below 1e-5.

    Args:
        label_ids: foreground classes.
        voxels: in an image.
    """

    def __init__(self, label_ids: Sequence[int], voxels: int) -> None:
        self.label_ids = tuple(label_ids)
        # 1 / x = integral of exp(-x e^u) e^u du by the trapezoidal rule, for x from 2 (two voxels) to twice the image
        logarithms = torch.arange(math.log(SLOWEST / (2 * voxels)), math.log(FASTEST / 2), STEP).double()
        constant = STEP * logarithms[0].exp() / (math.exp(STEP) - 1)  # all slower ones together
        self.rates = torch.cat([torch.zeros(1).double(), logarithms.exp()])
        self.weights = torch.cat([constant[None], STEP * logarithms.exp()])
        self.images: defaultdict[tuple[int, ...], int] = defaultdict(int)
        self.counts: dict[tuple[tuple[int, ...], int], Tensor] = {}
        """(rates, voxels) by the classes that images show and one of these."""
        self.own: defaultdict[tuple[tuple[int, ...], int], Tensor] = defaultdict(lambda: torch.zeros(()).double())
        """What images overlap with themselves, (rates,)."""

    def add(self, labels: Tensor) -> None:
        """Count one image (1, *S); one without labels is left out."""
        flat = labels.flatten().cpu()
        if (flat == UNLABELLED).all():
            return
        inside = {label: flat == label for label in self.label_ids}
        shown = tuple(label for label, where in inside.items() if where.any())
        self.images[shown] += 1
        for label in shown:
            size = inside[label].sum().double()
            factors = (-self.rates * size).exp()
            counts = self.counts.setdefault((shown, label), torch.zeros(len(factors), len(flat)).double())
            counts[:, inside[label]] += factors[:, None]
            self.own[shown, label] = self.own[shown, label] + factors**2 * size

    def mean(self) -> float:
        """As `metrics.dice`; NaN without two labelled images or any class."""
        total, pairs = 0.0, 0
        for one, other in combinations_with_replacement(self.images, 2):
            classes = {*one, *other}
            if not classes:
                continue
            number = self.images[one]
            pairs += number * (number - 1) // 2 if one == other else number * self.images[other]
            total += sum(self._overlaps(one, other, label) for label in {*one} & {*other}) / len(classes)
        return total / pairs if pairs else math.nan

    def _overlaps(self, one: tuple[int, ...], other: tuple[int, ...], label: int) -> float:
        """The sum over pairs of images of 2 |A and B| / (|A| + |B|)."""
        products = (self.counts[one, label] * self.counts[other, label]).sum(1)
        products = products - self.own[one, label] if one == other else 2 * products
        return float(self.weights @ products)


class StreamedScores(NamedTuple):
    """How well a group is registered."""

    dice: float
    """As `metrics.dice`."""
    gwi: float
    """As `metrics.groupwise_warping_index`. The ground truth knows nothing of how anatomies differ: what brings
    different ones over each other counts as an error."""
    gwi_within: float
    """The same up to a map that each anatomy's images, rather than the whole group's, have in common."""


def evaluate_stream(group: ReferencedGroup, displacements: Displacements, label_ids: Sequence[int]) -> StreamedScores:
    """Measure a group, each image looked at twice: the second time for residuals without their mean.

    Memory: one displacement an anatomy and the counts of `DiceSums`.
    """
    dice: DiceSums | None = None
    sums: dict[str, Tensor] = {}
    sizes: Counter[str] = Counter()
    for member, displacement in displacements():
        reference = group.reference(member)
        dice = dice or DiceSums(label_ids, reference.labels.numel())
        dice.add(warp_labels(reference.labels[None], displacement[None])[0])
        sums[reference.anatomy] = sums.get(reference.anatomy, 0) + _residual(displacement, reference).double()
        sizes[reference.anatomy] += 1
    assert dice is not None, "a group holds an image"
    common = torch.stack([*sums.values()]).sum(0) / sizes.total()
    means = torch.stack([common, *(total / sizes[anatomy] for anatomy, total in sums.items())]).float()
    lengths = torch.zeros(2).double()
    for member, displacement in displacements():
        reference = group.reference(member)
        mask = warp_labels(reference.mask[None], displacement[None])
        subtracted = means[[0, 1 + [*sums].index(reference.anatomy)]]
        residuals = (_residual(displacement, reference) - subtracted)[None]
        lengths += squared_length_over(residuals, mask[None].expand(1, 2, *mask.shape[1:])).sqrt()[0]
    return StreamedScores(dice.mean(), *(lengths / sizes.total()).tolist())


def _residual(displacement: Tensor, reference: Reference) -> Tensor:
    """(D, *S), with the part that the group has in common; see `metrics.warping_residual`."""
    return compose(reference.truth[None], displacement[None])[0]
