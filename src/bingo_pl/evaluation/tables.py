"""Test results: one row per group on disk, means and standard deviations on the screen."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import pandas as pd
from rich.table import Table

from bingo_pl.errors import InputError
from bingo_pl.storage.atomic import replacing

DASH = "–"  # noqa: RUF001
SPREAD = "Mean ± standard deviation (divided by n, not n - 1) over the groups; n in brackets where some have no value."
CAPTION = (
    f"{SPREAD} {DASH}: no value, because there are no labels (Dice), no known misalignment (gWI), or nothing to "
    "compare. gWI ratio: of the means, over groups that have both."
)


@dataclass(frozen=True)
class GroupScores:
    """The test result of one group; the fields are the CSV file's columns, in order. NaN: could not be measured."""

    group: str
    size: int
    """Images in the group."""
    dice_before: float
    """0 to 1; NaN without labels, as `dice_after`."""
    dice_after: float
    gwi_before: float
    """Groupwise warping index in voxels; NaN where the true misalignment is unknown, as `gwi_after`."""
    gwi_after: float
    folding_percent: float
    """Share of voxels whose Jacobian determinant is not positive."""
    seconds: float
    """Time to register the group."""


COLUMNS = [field.name for field in fields(GroupScores)]


def write_test_csv(rows: Sequence[GroupScores], path: Path) -> None:
    """Write one line per group under the header `COLUMNS`, whole or not at all; NaN is written ``nan``.

    Raises:
        BingoError: the file cannot be written.
    """
    with replacing(path) as temporary:
        _frame(rows).to_csv(temporary, index=False, na_rep="nan", errors="backslashreplace")


def summary(rows: Sequence[GroupScores]) -> Table:
    """Mean and standard deviation of each quantity, before beside after.

    Raises:
        BingoError: there are no rows.
    """
    if not rows:
        raise InputError("no test results to summarise. Got: 0 groups, wanted: at least 1", "Check the test split")
    frame = _frame(rows)
    smallest, largest = frame["size"].min(), frame["size"].max()
    images = f"{smallest}" if smallest == largest else f"{smallest} to {largest}"
    table = Table(
        title=f"Test results (groups: {len(frame)}, images per group: {images})",
        caption=CAPTION,
        caption_justify="left",
    )
    table.add_column("")
    for heading in ("before", "after", "after / before"):
        table.add_column(heading, justify="right")
    table.add_row("Dice", mean_and_std(frame.dice_before), mean_and_std(frame.dice_after), "")
    ratio = number(ratio_of_means(frame.gwi_after, frame.gwi_before))
    table.add_row("gWI (voxels)", mean_and_std(frame.gwi_before), mean_and_std(frame.gwi_after), ratio)
    table.add_row("folding (%)", "", mean_and_std(frame.folding_percent), "")
    table.add_row("time (s per group)", "", mean_and_std(frame.seconds), "")
    return table


def mean_and_std(values: pd.Series, decimals: int = 3) -> str:
    """``mean ± standard deviation`` of the values that are not NaN, and how many those are where it is not all."""
    known = values.dropna()
    if known.empty:
        return DASH
    count = "" if len(known) == len(values) else f" ({len(known)})"
    return f"{known.mean():.{decimals}f} ± {known.std(ddof=0):.{decimals}f}{count}"


def ratio_of_means(numerator: pd.Series, denominator: pd.Series) -> float:
    """Ratio of the means over the rows where neither is NaN; NaN where it is undefined."""
    both = numerator.notna() & denominator.notna()
    if not both.any() or denominator[both].mean() == 0:
        return math.nan
    return float(numerator[both].mean() / denominator[both].mean())


def number(value: float) -> str:
    """Three decimals; a dash for NaN."""
    return DASH if math.isnan(value) else f"{value:.3f}"


def _frame(rows: Sequence[GroupScores]) -> pd.DataFrame:
    return pd.DataFrame([asdict(row) for row in rows], columns=COLUMNS)
