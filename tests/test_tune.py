"""The tuning script: every combination once, the winner first, nothing twice."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from benchmarks.tune import combinations, record
from bingo_pl import BingoError


def test_every_combination_is_tried_once() -> None:
    assert combinations(["a=1,2", "b.c=x"]) == [["a=1", "b.c=x"], ["a=2", "b.c=x"]]


def test_an_axis_without_values_is_an_error() -> None:
    with pytest.raises(BingoError, match="'a' is not an axis"):
        combinations(["a"])


def test_the_winner_comes_first_and_a_repeat_replaces_its_row(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "tuning.csv"
    for settings, gwi in (("x=1", 1.5), ("x=2", 1.2), ("x=1", 1.1)):
        record({"experiment": "e", "method": "m", "settings": settings, "gwi": gwi, "dice": 0.5}, path)
    table = pd.read_csv(path)
    assert table["settings"].tolist() == ["x=1", "x=2"]
    assert table["gwi"].tolist() == [1.1, 1.2]


def test_where_no_truth_is_known_the_best_dice_wins(tmp_path: Path) -> None:
    path = tmp_path / "tuning.csv"
    for settings, dice in (("x=1", 0.5), ("x=2", 0.7), ("x=3", 0.6)):
        record({"experiment": "e", "method": "m", "settings": settings, "gwi": float("nan"), "dice": dice}, path)
    assert pd.read_csv(path)["settings"].tolist() == ["x=2", "x=3", "x=1"]
