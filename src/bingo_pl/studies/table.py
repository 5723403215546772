"""The comparison of methods as a table, as Tables 1 and 2 of the paper, with paired tests."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from rich.console import Group
from scipy import stats

from bingo_pl.errors import InputError, some
from bingo_pl.evaluation import typesetting
from bingo_pl.evaluation.scoring import UNREGISTERED
from bingo_pl.evaluation.tables import DASH, SPREAD, mean_and_std, number, ratio_of_means
from bingo_pl.evaluation.typesetting import Cell, Grid
from bingo_pl.storage.atomic import replacing

Better = Literal["greater", "less"]
"""Which values of a metric are good."""
MARKS = {"bingo": "†", "bingo_partial": "*"}
"""Methods whose significant advantage is marked in the other methods' rows."""
REFERENCES = (*MARKS, "bingo_guided", "bingo_refined")
"""Methods that the others are tested against."""
SIGNIFICANCE = 0.05
BEST = 2
"""Methods in bold for each metric."""


@dataclass(frozen=True)
class MethodInfo:
    """What the groups' scores do not tell about a method."""

    parameters: int | None
    """Of the network; for an iterative method those of one group's velocity fields, as the paper counts."""
    given: str
    """What it had besides the group that it registers, e.g. ``"nothing"`` or ``"images, synthetic misalignment"``."""


@dataclass(frozen=True)
class Column:
    """How a column of ``groups.csv`` is shown."""

    heading: str
    decimals: int


METRICS: dict[str, Better] = {"dice": "greater", "gwi": "less", "hd95_mm": "less", "assd_mm": "less"}
"""The columns that methods are ranked and tested by."""
COLUMNS = {
    "dice": Column("Dice ↑", 3),
    "gwi": Column("gWI ↓", 3),
    "hd95_mm": Column("HD95 (mm) ↓", 2),
    "assd_mm": Column("ASSD (mm) ↓", 2),
    "folding_percent": Column("folding (%)", 3),
    "sdlogj": Column("SDlogJ", 3),
    "seconds": Column("time (s)", 3),
    "peak_memory_mb": Column("peak memory (MB)", 0),
}
OFF_SCREEN = {"SDlogJ", "peak memory (MB)", "parameters (M)", "given"}
"""Headings that a terminal has no room for."""

TEST_CAPTION = (
    "Paired one-sided t-test (Wilcoxon signed-rank test): is the column's method better than the row's? "
    f"Bold: t-test p < {SIGNIFICANCE}. {DASH}: nothing to test."
)

ScoresByMethod = dict[str, pd.DataFrame]
"""For each method, in the table's order, its row of ``groups.csv`` for each group, in one order of the groups."""


@dataclass(frozen=True)
class PValues:
    """Of the one-sided tests that one method is better than another on the same groups."""

    t: float
    wilcoxon: float


Tests = dict[tuple[str, str, str], PValues]
"""By metric, method and the reference that may be better than it."""


def write_tables(groups: pd.DataFrame, methods: Mapping[str, MethodInfo], hardware: str, folder: Path) -> Group:
    """Write ``table.csv``, ``table.md``, ``table.tex`` and ``table.html``, each whole or not at all.

    Where the groups differ in size, each metric also gets a table with a column a size, as the paper's Table 2.

    Args:
        groups: ``groups.csv``: a row for each method and group, those of method ``none`` before registration.
        methods: what to show, in order, apart from ``none``, which comes first; other methods' rows are left out.
        hardware: what time and memory were measured on.
        folder: where the files go; its name is the title.

    Returns:
        The table for a terminal, and that of Dice by size.

    Raises:
        BingoError: a method lacks a group or has it twice, there are no groups, or a file cannot be written.
    """
    methods = {UNREGISTERED: MethodInfo(None, DASH), **methods}
    scores = _by_method(groups, list(methods))
    tests = _test_all(scores)
    main = _main_grid(scores, methods, tests, f"Comparison {folder.name}", hardware)
    by_size = _size_grids(scores)
    grids = [main, *by_size, *_test_grids(scores, tests)]
    files = {
        "table.csv": _numbers(scores, methods, tests).to_csv(index=False, na_rep="nan"),
        "table.md": "\n".join(typesetting.markdown(grid) for grid in grids),
        "table.tex": "\n".join(typesetting.latex(grid) for grid in [main, *by_size]),
        "table.html": typesetting.html(grids),
    }
    for name, text in files.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    extract = _extract(main, f"Means over the groups; gWI in voxels. {_marks(scores)} More: {folder / 'table.md'}")
    return Group(*(typesetting.screen(grid) for grid in [extract, *by_size[:1]]))


def paired_tests(reference: pd.Series, other: pd.Series, better: Better) -> PValues:
    """One-sided paired t-test and Wilcoxon signed-rank test that the reference is better.

    Args:
        reference: a metric, indexed by group; pairs with a NaN are dropped.
        other: the same metric of another method.
        better: which values are good.

    Returns:
        NaN where there are fewer than two pairs or the differences do not vary.
    """
    pairs = pd.concat([reference, other], axis=1, join="inner").dropna().to_numpy()
    if len(pairs) < 2 or np.ptp(pairs[:, 0] - pairs[:, 1]) == 0:
        return PValues(math.nan, math.nan)
    t = stats.ttest_rel(pairs[:, 0], pairs[:, 1], alternative=better).pvalue
    wilcoxon = stats.wilcoxon(pairs[:, 0], pairs[:, 1], alternative=better).pvalue
    return PValues(float(t), float(wilcoxon))


def _by_method(groups: pd.DataFrame, methods: list[str]) -> ScoresByMethod:
    """The methods' rows, checked to be of the same groups, once each."""
    groups = groups[groups["method"].isin(methods)]
    names = groups["group"].unique()
    if not len(names):
        raise InputError(
            "no groups to compare", "Got: an empty table of groups, wanted: a row for each method and group"
        )
    counts = pd.crosstab(groups["method"], groups["group"]).reindex(methods, fill_value=0)
    wrong = [f"{method} has {group} {n} times" for (method, group), n in counts.stack().items() if n != 1]
    if wrong:
        raise InputError(
            f"the methods were not run on the same groups: {some(wrong, 5)}. Wanted: each group once for each method",
            "Run the comparison again to compute what is missing",
        )
    by_group = groups.set_index(["method", "group"])
    return {method: by_group.loc[method].loc[names] for method in methods}


def _test_all(scores: ScoresByMethod) -> Tests:
    return {
        (column, method, reference): paired_tests(scores[reference][column], scores[method][column], better)
        for column, better in METRICS.items()
        for reference in REFERENCES
        for method in scores
        if reference in scores and method != reference
    }


def _best(scores: ScoresByMethod, column: str) -> set[str]:
    """The best methods by a metric; means that look equal in the table are ties and share their rank.

    None of those whose metric is NaN in a group where another's is a number.
    """
    values = pd.DataFrame({method: rows[column] for method, rows in scores.items() if method != UNREGISTERED})
    means = values.dropna(how="all").mean(skipna=False)
    ranks = means.round(COLUMNS[column].decimals).rank(method="min", ascending=METRICS[column] == "less")
    return set(ranks[ranks <= BEST].index)


def _main_grid(
    scores: ScoresByMethod, methods: Mapping[str, MethodInfo], tests: Tests, title: str, hardware: str
) -> Grid:
    columns = {"method": [Cell(method) for method in methods]}
    for column, shown in COLUMNS.items():
        columns[shown.heading] = _cells(scores, tests, column)
        if column == "gwi":
            columns["gWI ratio"] = [Cell(number(_ratio(scores, method))) for method in methods]
    columns["parameters (M)"] = [
        Cell(DASH if info.parameters is None else f"{info.parameters / 1e6:.3f}") for info in methods.values()
    ]
    columns["given"] = [Cell(info.given) for info in methods.values()]
    numeric = {heading: heading not in ("method", "given") for heading in columns}
    return Grid(title, numeric, list(zip(*columns.values(), strict=True)), _caption(scores, hardware))


def _cells(scores: ScoresByMethod, tests: Tests, column: str) -> list[Cell]:
    """A column of ``groups.csv``, a cell for each method."""
    best = _best(scores, column) if column in METRICS else set()
    cells = []
    for method, rows in scores.items():
        beaten_by = [r for r in MARKS if (p := tests.get((column, method, r))) and p.t < SIGNIFICANCE]
        text = mean_and_std(rows[column], COLUMNS[column].decimals)
        cells.append(Cell(text, "".join(MARKS[reference] for reference in beaten_by), method in best))
    return cells


def _by_size(scores: ScoresByMethod) -> dict[int, ScoresByMethod]:
    """The scores of the groups of each size, smallest first."""
    sizes = sorted(scores[UNREGISTERED]["size"].unique())
    return {size: {method: rows[rows["size"] == size] for method, rows in scores.items()} for size in sizes}


def _size_grids(scores: ScoresByMethod) -> list[Grid]:
    """Dice and what else was measured, each by the number of images in a group; none where all groups have as many."""
    parts = _by_size(scores)
    if len(parts) == 1:
        return []
    every = pd.concat(scores.values())
    measured = [column for column in (*METRICS, "seconds") if every[column].notna().any()]
    counts = ", ".join(f"{len(part[UNREGISTERED])} of {size}" for size, part in parts.items())
    columns = {"method": False} | {f"{size} images": True for size in parts}
    grids = []
    for column in measured:
        cells = [_cells(part, _test_all(part), column) for part in parts.values()]
        body = list(zip([Cell(method) for method in scores], *cells, strict=True))
        caption = f"Groups: {counts} images. {SPREAD} Bold: the two best methods of a column. {_marks(scores)}"
        grids.append(Grid(f"{COLUMNS[column].heading} by images in a group", columns, body, caption))
    return grids


def _ratio(scores: ScoresByMethod, method: str) -> float:
    return ratio_of_means(scores[method]["gwi"], scores[UNREGISTERED]["gwi"])


def _extract(main: Grid, caption: str) -> Grid:
    """The columns for a terminal."""
    kept = [heading not in OFF_SCREEN for heading in main.columns]
    columns = {heading: numeric for heading, numeric in main.columns.items() if heading not in OFF_SCREEN}
    return Grid(main.title, columns, [list(compress(row, kept)) for row in main.rows], caption)


def _marks(scores: ScoresByMethod) -> str:
    """What the raised marks in the table mean."""
    marked = ", ".join(f"{mark} {reference}" for reference, mark in MARKS.items() if reference in scores)
    test = f"one-sided paired t-test, p < {SIGNIFICANCE}"
    return f"Marks: significantly worse than {marked} on the same groups ({test})." if marked else ""


def _caption(scores: ScoresByMethod, hardware: str) -> str:
    rows = scores[UNREGISTERED]
    sizes = ", ".join(str(size) for size in sorted(rows["size"].unique()))
    return (
        f"Groups: {len(rows)}, images per group: {sizes}. {SPREAD} {DASH}: no value, because there are no labels "
        "(Dice, HD95, ASSD), no known misalignment (gWI) or nothing to measure. Bold: the two best methods by Dice, "
        f"gWI, HD95 and ASSD; means that look equal are ties. {_marks(scores)} gWI: groupwise warping index in voxels, "
        "what is left of the misalignment. gWI ratio: mean gWI over that of none, over groups that have both. HD95, "
        "ASSD: 95th percentile of the Hausdorff distance and average symmetric surface distance of the labels. "
        "Folding: voxels whose Jacobian determinant is not positive. SDlogJ: standard deviation of its logarithm. "
        f"Time, peak memory: of registering one group on {hardware}; memory of the tensors on a GPU, growth of the "
        "process on a CPU (0: it needed no more than was free in it). "
        "Parameters: of the network; of an iterative method, of the velocities of one group. Given: what a method had "
        "besides the group that it registers; all trained methods also the epoch, that of least gWI on the validation "
        "groups (largest Dice where no misalignment is known)."
    )


def _test_grids(scores: ScoresByMethod, tests: Tests) -> list[Grid]:
    """For each metric that was measured, the p-values of every method against every reference."""
    references = [reference for reference in REFERENCES if reference in scores]
    measured = [column for column in METRICS if scores[UNREGISTERED][column].notna().any()]
    columns = {"method": False} | dict.fromkeys([f"{reference} better" for reference in references], True)
    return [
        Grid(
            f"{COLUMNS[column].heading}: p-values",
            columns,
            [[Cell(m), *(_test_cell(tests.get((column, m, reference))) for reference in references)] for m in scores],
            TEST_CAPTION,
        )
        for column in measured
        if references
    ]


def _test_cell(p: PValues | None) -> Cell:
    """A method is not tested against itself."""
    if p is None or math.isnan(p.t):
        return Cell(DASH)
    return Cell(f"{_p_value(p.t)} ({_p_value(p.wilcoxon)})", bold=p.t < SIGNIFICANCE)


def _p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _numbers(scores: ScoresByMethod, methods: Mapping[str, MethodInfo], tests: Tests) -> pd.DataFrame:
    """All figures, unrounded, a row for each method.

    Columns: ``method``, ``given``, ``parameters``; ``<column>_mean``, ``_std`` and ``_n`` (groups that have a value)
    for each column of ``groups.csv``, where groups differ in size also ``<column>_mean_<images>``; ``gwi_ratio``;
    ``p_t_<metric>_<reference>``, ``p_wilcoxon_<metric>_<reference>``.
    """
    table = []
    sizes = parts if len(parts := _by_size(scores)) > 1 else {}
    for method, info in methods.items():
        row: dict[str, object] = {"method": method, "given": info.given, "parameters": info.parameters}
        for column in COLUMNS:
            values = scores[method][column]
            row |= {f"{column}_mean": values.mean(), f"{column}_std": values.std(ddof=0), f"{column}_n": values.count()}
        row["gwi_ratio"] = _ratio(scores, method)
        row |= {f"{c}_mean_{size}": part[method][c].mean() for size, part in sizes.items() for c in COLUMNS}
        for (metric, tested, reference), p in tests.items():
            if tested == method:
                row |= {f"p_t_{metric}_{reference}": p.t, f"p_wilcoxon_{metric}_{reference}": p.wilcoxon}
        table.append(row)
    return pd.DataFrame(table).astype({"parameters": "Int64"})
