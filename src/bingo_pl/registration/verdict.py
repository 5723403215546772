"""What was done to a group, what was kept, and what the figures say of the result: passed, look closer, or failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bingo_pl.alignment.cascade import DOUBTFUL, UNLIKE, Outcome, Plan, Stage
from bingo_pl.images.record import FAIL, PASS, WARN
from bingo_pl.images.scans import Scan

UNEXPLAINED, EXPLAINED = 0.8, 0.5
"""Share of a series' image that the others do not explain, above which it shows something else, and up to which an
image, or half of them, show enough to be judged."""
DARK = 0.5
"""Spread of intensities, beside the median of the series, below which an image is too dark to be judged."""
LARGE_ERROR = 3.0
"""Voxels of the finest image: a larger predicted error asks for a look."""


@dataclass(frozen=True)
class Way:
    """What was done and what was kept."""

    kept: str
    """``identity``, ``rigid``, ``affine`` or ``deformable``."""
    stages: Sequence[Stage]
    starts: Sequence[str]
    """How each image was brought near the first one: ``headers``, ``centres``, ``tilted`` or ``turned``."""
    voxel_mm: float
    """At which images were compared last."""

    @classmethod
    def of(cls, outcome: Outcome) -> Way:
        """The way to an outcome of alignment."""
        starts = ["headers" if start is None else start.kind for start in outcome.starts]
        return cls(outcome.kept, tuple(outcome.stages), starts, outcome.plan.fine_mm)


@dataclass(frozen=True)
class Verdict:
    """What the figures say of a result."""

    level: str = PASS
    """One of `bingo_pl.images.record.LEVELS`."""
    reasons: Sequence[str] = field(default_factory=tuple)
    """In words, the gravest first."""

    @property
    def doubtful(self) -> bool:
        """Whether somebody should look before the result is used."""
        return self.level != PASS


def known_errors(outcome: Outcome) -> list[float | None]:
    """The predicted errors in mm of images that were aligned; None for those that stayed where they were.

    What the prediction measures is how well images hold each other in place, which those do not that show other things.
    """
    found = zip(outcome.starts, outcome.agreement, strict=True)
    aligned = [(start is None or start.trusted) and agreement >= UNLIKE for start, agreement in found]
    enough = sum(aligned) > 1
    return [error if enough and known else None for error, known in zip(outcome.error_mm, aligned, strict=True)]


def judge(scans: Sequence[Scan], outcome: Outcome, belongs: Sequence[bool | None]) -> Verdict:
    """Judge an outcome by the images' agreement, the predicted error and how images were found to lie.

    Args:
        scans: the images.
        outcome: of their alignment.
        belongs: what the model says of each: whether it fits the others; None where it cannot tell.
    """
    failed, doubts = [], []
    if len(scans) < 2:
        return Verdict()
    errors = known_errors(outcome)
    for scan, agreement, start, error in zip(scans, outcome.agreement, outcome.starts, errors, strict=True):
        if start is not None and not start.trusted:
            failed.append(
                f"{scan.name} ({scan.title}) lies elsewhere than {scans[0].name} by its header, and agrees well with "
                f"it nowhere ({start.agreement:.2f} at best): another person, another part of the body, or a wrong "
                "header. It stays where it was"
            )
        elif agreement < UNLIKE:
            failed.append(
                f"{scan.name} ({scan.title}) does not show what the others show (agreement {agreement:.3f}, wanted "
                f"{UNLIKE}): another part of the body, a wrong sequence, or far away. It stays where it was"
            )
        elif agreement < DOUBTFUL:
            doubts.append(
                f"{scan.name} ({scan.title}) agrees poorly with the others ({agreement:.3f}, good ones {DOUBTFUL} and "
                "more): look whether it shows the same"
            )
        if start is not None and start.trusted and start.kind == "turned":
            doubts.append(
                f"{scan.name} ({scan.title}) was found turned by about 90 or 180 degrees against {scans[0].name}: its "
                "header is probably wrong"
            )
        if error is not None and error > LARGE_ERROR * outcome.plan.image_mm:
            doubts.append(
                f"{scan.name} ({scan.title}): predicted error {error:.2g} mm, more than {LARGE_ERROR:g} voxels"
            )
    for scan, fits in zip(scans, belongs, strict=True):
        if fits is False:
            doubts.append(f"{scan.name} ({scan.title}) stands further from what the others share than they do")
    level = FAIL if failed else WARN if doubts else PASS
    return Verdict(level, (*failed, *doubts))


def judge_series(
    scans: Sequence[Scan],
    error_mm: Sequence[float],
    agreement: Sequence[float],
    unexplained: Sequence[float] | None,
    plan: Plan,
) -> tuple[Verdict, list[bool | None]]:
    """Judge a series by what its images explain of each other: contrast changes, so agreement alone flags nobody.

    An image is flagged only where it is not dark, agrees with none and is not explained, in a series most of which is.

    Args:
        scans: the images, in the intensities of the series.
        error_mm: predicted, of each.
        agreement: of each one's experts with the others'.
        unexplained: share of each that the others do not explain; None where there are too few images to tell.
        plan: of the alignment.

    Returns:
        The verdict, and whether each image belongs to the series; None where that is unknown.
    """
    if unexplained is None:
        return Verdict(), [None] * len(scans)
    spread = np.array([np.subtract(*np.percentile(scan.image.numpy(), [99, 1])) for scan in scans])
    bright = spread >= DARK * np.median(spread)
    left = np.array(unexplained)
    others = bright & (np.array(agreement) < UNLIKE) & (left > UNEXPLAINED) & (np.median(left) < EXPLAINED)
    doubts = [
        f"{scan.name}: shows something else than the series does (the others explain {1 - share:.0%} of it). Look at it"
        for scan, share, other in zip(scans, left, others, strict=True)
        if other
    ]
    for scan, error, share in zip(scans, error_mm, left, strict=True):
        if error > LARGE_ERROR * plan.image_mm and share < EXPLAINED:
            doubts.append(f"{scan.name}: predicted error {error:.2g} mm, more than {LARGE_ERROR:g} voxels")
    return Verdict(WARN if doubts else PASS, tuple(doubts)), [not other for other in others.tolist()]
