from collections.abc import Sequence
from io import StringIO
from math import isnan, nan
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from rich.console import Console
from scipy import stats

from bingo_pl import BingoError
from bingo_pl.evaluation.tables import DASH
from bingo_pl.studies.table import MethodInfo, paired_tests, write_tables

METHODS = {
    "ape": MethodInfo(153_600, "nothing"),
    "bingo": MethodInfo(4_516_000, "images"),
    "bingo_partial": MethodInfo(4_516_000, "images, pairs"),
}
NAMES = ["none", *METHODS]
GROUPS = 8


def rows(method: str, dice: float, gwi: float, noise: float = 0.01, groups: int = GROUPS) -> pd.DataFrame:
    """Scores of one method; groups differ in difficulty, which all methods share."""
    difficulty = np.linspace(-0.1, 0.1, groups)
    own = noise * np.random.default_rng(sum(map(ord, method))).standard_normal((2, groups))
    frame = pd.DataFrame({"method": method, "group": [f"p{i}#0" for i in range(groups)], "size": 3})
    frame["dice"] = dice - difficulty + own[0]
    frame["gwi"] = gwi + difficulty + own[1]
    frame["hd95_mm"] = 10 * frame["gwi"]
    frame["assd_mm"] = 2 * frame["gwi"]
    frame["folding_percent"] = 0.25
    frame["sdlogj"] = 0.1
    frame["seconds"] = nan if method == "none" else 1.5
    frame["peak_memory_mb"] = nan if method == "none" else 1000.0
    return frame


def results() -> pd.DataFrame:
    """bingo is clearly the best, bingo_partial as good as ape."""
    parts = [rows("none", 0.6, 2.0), rows("ape", 0.7, 1.0), rows("bingo", 0.8, 0.5), rows("bingo_partial", 0.7, 1.0)]
    return pd.concat(parts, ignore_index=True)


def written(groups: pd.DataFrame, folder: Path, names: Sequence[str] = NAMES[1:]) -> pd.DataFrame:
    """``table.csv`` by method."""
    write_tables(groups, {name: METHODS[name] for name in names}, "a CPU", folder)
    return pd.read_csv(folder / "table.csv", index_col="method")


def cells(folder: Path) -> dict[str, dict[str, str]]:
    """The main table of ``table.md``: method -> heading -> cell."""
    text = (folder / "table.md").read_text(encoding="utf-8").split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    heading, _, *body = ([cell.strip() for cell in line.strip("|").split(" | ")] for line in lines)
    return {line[0]: dict(zip(heading, line, strict=True)) for line in body}


def series(values: Sequence[float] | NDArray[np.float64]) -> pd.Series:
    return pd.Series(values, index=[f"p{i}" for i in range(len(values))])


def test_csv_has_the_statistics_of_the_groups(tmp_path: Path) -> None:
    groups = results()
    table = written(groups, tmp_path)
    assert list(table.index) == NAMES
    for (method, column), values in groups.groupby("method")[["dice", "hd95_mm"]].agg(list).stack().items():
        assert table.loc[method, f"{column}_mean"] == pytest.approx(np.mean(values))
        assert table.loc[method, f"{column}_std"] == pytest.approx(np.std(values))  # divided by n
        assert table.loc[method, f"{column}_n"] == GROUPS
    assert table.loc["none", "gwi_ratio"] == 1
    assert table.loc["ape", "gwi_ratio"] == pytest.approx(table.loc["ape", "gwi_mean"] / table.loc["none", "gwi_mean"])
    assert table.loc["bingo", "parameters"] == 4_516_000
    assert isnan(table.loc["none", "seconds_mean"])


def test_tests_are_paired_by_group_whatever_the_order_of_rows(tmp_path: Path) -> None:
    ordered = written(results(), tmp_path / "a")
    shuffled = written(results().sample(frac=1, random_state=0), tmp_path / "b")
    pd.testing.assert_frame_equal(ordered, shuffled)


def test_p_values_are_those_of_scipy_for_the_better_direction() -> None:
    rng = np.random.default_rng(0)
    good, bad = rng.normal(1.2, 1, 20), rng.normal(1, 1, 20)
    higher = paired_tests(series(good), series(bad), "greater")
    assert higher.t == stats.ttest_rel(good, bad, alternative="greater").pvalue
    assert higher.wilcoxon == stats.wilcoxon(good - bad, alternative="greater").pvalue
    assert paired_tests(series(good), series(bad), "less").t == pytest.approx(1 - higher.t)


def test_pairs_with_a_missing_value_are_dropped() -> None:
    a, b = [1.0, 2.0, 4.0, 9.0], [0.5, 1.0, 3.5, 7.0]
    assert paired_tests(series([*a, nan, 5]), series([*b, 1, nan]), "greater") == paired_tests(
        series(a), series(b), "greater"
    )


@pytest.mark.parametrize(
    ("a", "b"), [([1.0], [0.0]), ([1.0, 2.0], [0.0, nan]), ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]), ([nan, nan], [nan, nan])]
)
def test_nothing_to_test_has_no_p_value(a: list[float], b: list[float]) -> None:
    p = paired_tests(series(a), series(b), "greater")
    assert isnan(p.t)
    assert isnan(p.wilcoxon)


def test_marks_stand_where_the_reference_is_significantly_better(tmp_path: Path) -> None:
    written(results(), tmp_path)
    table = cells(tmp_path)
    for heading in ("Dice ↑", "gWI ↓", "HD95 (mm) ↓", "ASSD (mm) ↓"):
        assert table["none"][heading].endswith(r"†\*")
        assert table["ape"][heading].rstrip("*").endswith("†")
        assert "†" not in table["bingo"][heading]
    assert "†" not in table["ape"]["folding (%)"]


def test_equal_methods_get_no_mark(tmp_path: Path) -> None:
    same = pd.concat([rows(name, 0.7, 1.0, noise=0) for name in NAMES])
    table = written(same, tmp_path)
    assert isnan(table.loc["ape", "p_t_dice_bingo"])
    assert "†" not in cells(tmp_path)["ape"]["Dice ↑"]


def test_two_best_are_bold_and_never_the_unregistered(tmp_path: Path) -> None:
    means = {"none": 0.9, "ape": 0.5, "bingo": 0.8, "bingo_partial": 0.7}
    written(pd.concat([rows(name, dice, 1 - dice, noise=1e-5) for name, dice in means.items()]), tmp_path)
    for heading in ("Dice ↑", "gWI ↓"):
        assert {m for m, row in cells(tmp_path).items() if row[heading].startswith("**")} == {"bingo", "bingo_partial"}


def test_ties_for_the_second_place_are_all_bold(tmp_path: Path) -> None:
    means = {"none": 0.5, "ape": 0.7, "bingo": 0.8, "bingo_partial": 0.7001}  # both are shown as 0.700
    written(pd.concat([rows(name, dice, 1.0, noise=1e-5) for name, dice in means.items()]), tmp_path)
    assert {m for m, row in cells(tmp_path).items() if row["Dice ↑"].startswith("**")} == set(METHODS)


def test_no_labels_are_dashes(tmp_path: Path) -> None:
    table = written(results().assign(dice=nan, hd95_mm=nan, assd_mm=nan), tmp_path)
    assert table["dice_n"].eq(0).all()
    assert {row["Dice ↑"] for row in cells(tmp_path).values()} == {DASH}
    sections = (tmp_path / "table.md").read_text(encoding="utf-8").split("\n## ")
    assert [section.split(":")[0] for section in sections[1:]] == ["gWI ↓"]


def test_no_truth_is_a_dash(tmp_path: Path) -> None:
    written(results().assign(gwi=nan), tmp_path)
    assert {(row["gWI ↓"], row["gWI ratio"]) for row in cells(tmp_path).values()} == {(DASH, DASH)}


def test_table_without_bingo_has_no_marks_and_no_p_values(tmp_path: Path) -> None:
    table = written(results(), tmp_path, names=["ape"])
    assert list(table.index) == ["none", "ape"]
    assert not [column for column in table if column.startswith("p_")]
    assert "Marks" not in (tmp_path / "table.md").read_text(encoding="utf-8")


def test_missing_group_is_named(tmp_path: Path) -> None:
    groups = results()
    groups = groups[(groups["method"] != "ape") | (groups["group"] != "p3#0")]
    with pytest.raises(BingoError, match="ape has p3#0 0 times"):
        written(groups, tmp_path)
    assert not list(tmp_path.iterdir())


def test_method_without_any_group_is_named(tmp_path: Path) -> None:
    groups = results()
    with pytest.raises(BingoError, match=r"ape has p0#0 0 times.* and 3 more"):
        written(groups[groups["method"] != "ape"], tmp_path)


def test_repeated_group_is_named(tmp_path: Path) -> None:
    groups = results()
    with pytest.raises(BingoError, match="none has p0#0 2 times"):
        written(pd.concat([groups, groups.iloc[:1]]), tmp_path)


def test_empty_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BingoError, match="no groups to compare"):
        written(results().iloc[:0], tmp_path)


def test_every_file_shows_every_method(tmp_path: Path) -> None:
    written(results(), tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.csv", "table.html", "table.md", "table.tex"]
    for file in ("table.csv", "table.md", "table.html"):
        assert all(name in (tmp_path / file).read_text(encoding="utf-8") for name in NAMES)


def test_latex_is_ascii_and_escaped(tmp_path: Path) -> None:
    write_tables(results(), {**METHODS, "bingo": MethodInfo(None, "50 % of {a_b} & $c$")}, "a CPU", tmp_path)
    text = (tmp_path / "table.tex").read_text(encoding="utf-8")
    assert text.isascii()
    assert r"bingo\_partial" in text
    assert r"50 \% of \{a\_b\} \& \$c\$" in text
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert [line.replace(r"\&", "").count("&") for line in body] == [11] * 4


def test_html_needs_nothing_else(tmp_path: Path) -> None:
    write_tables(results(), {**METHODS, "ape": MethodInfo(None, "<script>")}, "a CPU", tmp_path)
    text = (tmp_path / "table.html").read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "http" not in text


def test_screen_fits_80_columns(tmp_path: Path) -> None:
    console = Console(file=StringIO(), width=80)
    console.print(write_tables(results(), METHODS, "a CPU", tmp_path))
    assert isinstance(console.file, StringIO)
    assert "…" not in console.file.getvalue()
    assert "bingo_partial" in console.file.getvalue()


def test_groups_of_several_sizes_get_a_column_a_size(tmp_path: Path) -> None:
    """As the paper's Table 2: ranks, marks and means of a column are those of its groups alone."""
    groups = results()
    groups.loc[groups["group"].isin([f"p{i}#0" for i in range(5)]), "size"] = 2
    groups.loc[(groups["size"] == 3) & (groups["method"] == "ape"), "dice"] = 0.99
    table = written(groups, tmp_path)
    sections = (tmp_path / "table.md").read_text(encoding="utf-8").split("\n## ")
    (section,) = [text for text in sections if text.startswith("Dice ↑ by images in a group")]
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in section.splitlines() if "|" in line]
    assert lines[0] == ["method", "2 images", "3 images"]
    body = {line[0]: line[1:] for line in lines[2:]}
    assert body["ape"][1].startswith("**0.990 ± 0.000**")
    assert "†" in body["ape"][0]
    assert "†" not in body["ape"][1]
    alone = groups[(groups["method"] == "bingo") & (groups["size"] == 2)]["dice"]
    assert table.loc["bingo", "dice_mean_2"] == pytest.approx(alone.mean())
    assert body["bingo"][0].startswith(f"**{alone.mean():.3f}")
    assert "by images in a group" in (tmp_path / "table.tex").read_text(encoding="utf-8")


def test_groups_of_one_size_get_no_column_a_size(tmp_path: Path) -> None:
    table = written(results(), tmp_path)
    assert "by images in a group" not in (tmp_path / "table.md").read_text(encoding="utf-8")
    assert not [column for column in table if column.startswith("dice_mean_")]
