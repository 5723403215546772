from collections.abc import Sequence
from io import StringIO
from math import isnan, nan
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from bingo_pl import BingoError
from bingo_pl.evaluation.tables import DASH, GroupScores, summary, write_test_csv

HEADER = "group,size,dice_before,dice_after,gwi_before,gwi_after,folding_percent,seconds"


def scores(group: str = "a", dice: float = 0.8, gwi: float = 0.5, gwi_before: float = 2.0) -> GroupScores:
    before = nan if isnan(dice) else 0.6
    return GroupScores(group, 4, before, dice, gwi_before, gwi, folding_percent=0.25, seconds=1.5)


def shown(rows: Sequence[GroupScores]) -> dict[str, list[str]]:
    """The cells of each line of the printed table, by the line's name."""
    console = Console(file=StringIO(), width=120)
    console.print(summary(rows))
    assert isinstance(console.file, StringIO)
    lines = [line for line in console.file.getvalue().splitlines() if line.startswith("│")]
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]
    return {name: rest for name, *rest in cells}


def test_csv_has_exactly_the_columns_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "test.csv"
    write_test_csv([scores("a"), scores("b, c", dice=nan)], path)
    assert path.read_text().splitlines()[0] == HEADER
    frame = pd.read_csv(path)
    assert GroupScores(**frame.iloc[0].to_dict()) == scores("a")
    assert frame.group[1] == "b, c"
    assert isnan(frame.dice_after[1])


def test_csv_of_no_groups_is_its_header(tmp_path: Path) -> None:
    write_test_csv([], tmp_path / "test.csv")
    assert (tmp_path / "test.csv").read_text() == HEADER + "\n"


def test_interrupted_writing_keeps_the_old_csv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "test.csv"
    write_test_csv([scores("old")], path)
    old = path.read_text()

    def disk_full(frame: pd.DataFrame, target: Path, **options: object) -> None:
        target.write_text("group,si")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_csv", disk_full)
    with pytest.raises(BingoError, match="No space left"):
        write_test_csv([scores("new")], path)
    assert path.read_text() == old
    assert list(tmp_path.iterdir()) == [path]


def test_summary_has_mean_deviation_and_ratio_of_means() -> None:
    table = shown([scores(dice=0.7, gwi=0.25, gwi_before=1), scores(dice=0.9, gwi=1.25, gwi_before=3)])
    assert table["Dice"] == ["0.600 ± 0.000", "0.800 ± 0.100", ""]
    assert table["gWI (voxels)"] == ["2.000 ± 1.000", "0.750 ± 0.500", "0.375"]  # not 0.333, the mean of the ratios
    assert table["folding (%)"] == ["", "0.250 ± 0.000", ""]
    assert table["time (s per group)"] == ["", "1.500 ± 0.000", ""]


def test_what_was_not_measured_is_a_dash() -> None:
    table = shown([scores(dice=nan, gwi=nan, gwi_before=nan)] * 2)
    assert table["Dice"] == [DASH, DASH, ""]
    assert table["gWI (voxels)"] == [DASH, DASH, DASH]
    assert DASH in str(summary([scores()]).caption)


def test_groups_without_a_value_are_left_out_and_counted() -> None:
    table = shown([scores(gwi=0.5), scores(gwi=nan, gwi_before=4)])
    assert table["gWI (voxels)"] == [
        "3.000 ± 1.000",
        "0.500 ± 0.000 (1)",
        "0.250",
    ]  # the ratio's means share their groups


def test_ratio_to_nothing_is_a_dash() -> None:
    assert shown([scores(gwi=0, gwi_before=0)])["gWI (voxels)"][2] == DASH


def test_summary_of_no_groups_is_refused() -> None:
    with pytest.raises(BingoError, match="0 groups"):
        summary([])
