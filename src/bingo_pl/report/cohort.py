"""The people of an atlas in figures, and who stands out. Read from its folder; nothing is drawn here."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bingo_pl.errors import BingoError, FileError, InputError
from bingo_pl.images.record import ATLAS, DAMAGES, Record, read_record
from bingo_pl.report.summary import FOLDING_LIMIT, number
from bingo_pl.storage.regular import check_regular

LIMIT = 3.5
"""Robust deviations from the median beyond which a figure stands out (Iglewicz and Hoaglin 1993)."""
TO_DEVIATION = 1.4826
"""From a median absolute deviation to a standard deviation."""
LEAST_PEOPLE = 5
"""Fewer people give no measure of who stands out."""
NO_LESS = 0.005
"""Of an agreement or a Dice: a smaller fall is none."""
STRANGE = 0.5
"""Of the members' median: a newcomer who agrees with the group by less shows something else, or went astray."""


@dataclass(frozen=True)
class Figure:
    """What is known of a person as a number."""

    key: str
    """In ``atlas.json``."""
    title: str
    better: str
    """``more``, ``less`` or, where neither is, nothing."""
    least: float | None = None
    """A standard deviation of less does not count; None: nobody stands out by this figure."""
    told: str = ""
    """Of one who stands out, with its value and the median's."""


FIGURES = (
    Figure("agreement_affine", "agreement, affine maps", "more"),
    Figure("agreement", "agreement", "more", 0.01, "agrees with the others by {0} only (median {1})"),
    Figure(
        "repeatability_mm", "repeatability (mm)", "less", 0.1, "its map moves by {0} mm when disturbed (median {1} mm)"
    ),
    Figure("displacement_mm", "displacement (mm)", ""),
    Figure("folding_percent", "folding (%)", "less"),
    Figure("dice_affine", "Dice, affine maps", "more"),
    Figure("dice", "Dice", "more", 0.01, "its labels overlap with the most probable ones by {0} only (median {1})"),
    Figure("pairwise_dice_affine", "Dice with others, affine maps", "more"),
    Figure(
        "pairwise_dice", "Dice with others", "more", 0.01, "its labels overlap with others' by {0} only (median {1})"
    ),
)


@dataclass(frozen=True, eq=False)
class Person:
    """A subject of an atlas."""

    name: str
    images: Sequence[Mapping[str, Any]]
    """Their entries in ``atlas.json``."""
    figures: Mapping[str, float]
    """Those of `FIGURES` that are known; of several images their mean, of folding the largest."""
    doubts: Sequence[str]
    """What stands out, in words."""

    @property
    def added(self) -> bool:
        """It came to the finished atlas, which it has no part in."""
        return bool(self.images[0].get("added"))


@dataclass(frozen=True, eq=False)
class Atlas:
    """What a page tells of an atlas."""

    record: Record
    tree: Mapping[str, Any]
    """``atlas.json``."""
    people: Sequence[Person]
    """Outliers first, then by rising agreement."""

    @property
    def outliers(self) -> list[Person]:
        return [person for person in self.people if person.doubts]


def read_atlas(folder: Path) -> Atlas:
    """Read the records of what ``bingo atlas`` wrote.

    Raises:
        BingoError: they are missing or damaged, or of an atlas of the network alone.
    """
    path = folder / ATLAS
    try:
        check_regular(path)
        tree = json.loads(path.read_text(encoding="utf-8"))
        if "sharpness_per_mm" not in tree:
            raise InputError(
                f"{folder} is an atlas of the network alone (memory, affine) and has no page",
                f"Look at its figures in {ATLAS}, or make it without them",
            )
        record = read_record(folder)
        known = {entry.name for entry in record.entries}
        if strange := sorted({str(image["name"]) for image in tree["images"]} ^ known):
            raise InputError(f"{path}: does not name the images that registration.json names, e.g. {strange[0]}")
        people = people_of(tree["images"])
        for key in ("sharpness_affine_per_mm", "sharpness_per_mm", "mean_displacement_mm"):
            tree[key] = float(tree[key])
    except BingoError:
        raise
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})", "Name a folder that bingo atlas wrote") from error
    except DAMAGES as error:
        raise FileError(
            f"{path}: is damaged or from another version of bingo_pl ({type(error).__name__}: {error})",
            "Make the atlas again",
        ) from error
    return Atlas(record, tree, people)


def people_of(images: Sequence[Mapping[str, Any]]) -> list[Person]:
    """Who the images of ``atlas.json`` show, outliers first, then by rising agreement.

    Those who came to the finished atlas are compared with each other, for all in it were drawn to each other and agree
    more; with these only where they agree by far less.
    """
    groups: dict[tuple[str, bool], list[Mapping[str, Any]]] = {}
    for image in images:
        groups.setdefault((str(image["subject"]), bool(image.get("added"))), []).append(image)
    figures = {key: _figures(group) for key, group in groups.items()}
    usual = {}
    for came in (False, True):
        alike = [known for (_, added), known in figures.items() if added == came]
        usual[came] = {figure.key: _usual([known.get(figure.key) for known in alike], figure) for figure in FIGURES}
    within = [known["agreement"] for (_, added), known in figures.items() if not added and "agreement" in known]
    least = STRANGE * float(np.median(within)) if within else -math.inf
    people = []
    for (name, added), group in groups.items():
        known = figures[name, added]
        doubts = _doubts(known, usual[added])
        if added and known.get("agreement", math.inf) < least:
            usually = number(least / STRANGE)
            doubts.insert(0, f"agrees with the group by {number(known['agreement'])} only (its members by {usually})")
        people.append(Person(name, group, known, doubts))
    return sorted(people, key=lambda person: (-len(person.doubts), person.figures.get("agreement", math.inf)))


def lines_of(people: Sequence[Person]) -> list[str]:
    """Who stands out and why, a line each, in plain text."""
    lines = []
    for person in people:
        if person.doubts:
            files = ", ".join(Path(str(image["path"])).name for image in person.images)
            lines.append(f"look closer: {person.name} ({files}): {'; '.join(person.doubts)}")
    return lines


def _figures(images: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    found = {}
    for figure in FIGURES:
        values = [float(image[figure.key]) for image in images if image.get(figure.key) is not None]
        values = [value for value in values if math.isfinite(value)]
        if values:
            found[figure.key] = max(values) if figure.key == "folding_percent" else float(np.mean(values))
    return found


def _usual(values: Sequence[float | None], figure: Figure) -> tuple[float, float] | None:
    """The median and the deviation from it that stands out."""
    known = [value for value in values if value is not None]
    if figure.least is None or len(known) < LEAST_PEOPLE:
        return None
    median = float(np.median(known))
    deviation = TO_DEVIATION * float(np.median(np.abs(np.array(known) - median)))
    return median, LIMIT * max(deviation, figure.least)


def _doubts(known: Mapping[str, float], usual: Mapping[str, tuple[float, float] | None]) -> list[str]:
    doubts = []
    for figure in FIGURES:
        limits = usual[figure.key]
        if limits is None or figure.key not in known:
            continue
        value, (median, most) = known[figure.key], limits
        if (median - value if figure.better == "more" else value - median) > most:
            doubts.append(figure.told.format(number(value), number(median)))
    for key, what in (("agreement", "agrees less"), ("pairwise_dice", "its labels overlap less with others'")):
        if key in known and known[key] < known.get(f"{key}_affine", -math.inf) - NO_LESS:
            doubts.append(
                f"{what} than by its affine map alone ({number(known[f'{key}_affine'])}, {number(known[key])})"
            )
    if known.get("folding_percent", 0) > FOLDING_LIMIT:
        doubts.append(f"its map folds in {number(known['folding_percent'])} % of the voxels")
    return doubts
