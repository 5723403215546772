"""The table: the same groups for every method, nothing done twice, nothing mixed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from bingo_pl import BingoError, config
from bingo_pl.comparison import compare
from bingo_pl.config import RowConfig, TableConfig

from .test_experiment import SETTINGS, write_cohort

TABLE = TableConfig(
    "manifest",
    {
        "ape": RowConfig(["method=ape", "iterative.steps=2", "iterative.levels=2"]),
        "bingo": RowConfig(["weights.truth=0"]),
        "bingo_guided": RowConfig([]),
        "bingo_refined": RowConfig(["refine.steps=2"], start="bingo_guided"),
    },
)
METHODS = ["none", *TABLE.methods]
QUIET = Console(quiet=True)
UNTIMED = ["method", "group", "size", "dice", "gwi", "hd95_mm", "assd_mm", "folding_percent", "sdlogj"]


def overrides(folder: Path, *more: str) -> list[str]:
    places = (f"data.root={folder / 'cohort'}", f"data.cache_dir={folder / 'cache'}", f"runs={folder / 'runs'}")
    return [*SETTINGS, "trainer.epochs=1", *places, *more]


def run(folder: Path, name: str, *more: str, methods: tuple[str, ...] = ()) -> Path:
    return compare(TABLE, overrides(folder, *more), methods, {}, folder / name, QUIET)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "cohort").mkdir()
    write_cohort(folder / "cohort")
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> Path:
    """A finished table."""
    return run(folder, "table")


def test_every_method_has_every_group_once(table: Path) -> None:
    groups = pd.read_csv(table / "groups.csv")
    assert list(groups["method"].unique()) == METHODS
    names = [set(of_one["group"]) for _, of_one in groups.groupby("method")]
    assert all(name == names[0] for name in names)
    assert len(groups) == len(METHODS) * len(names[0])


def test_the_files_are_there(table: Path) -> None:
    assert all((table / f"table.{kind}").stat().st_size > 0 for kind in ("csv", "md", "tex", "html"))
    assert len(list((table / "figures").glob("*.png"))) == 1  # log.figure_groups


def test_a_refined_method_uses_the_training_it_starts_from(table: Path) -> None:
    assert (table / "bingo_guided" / "training" / "checkpoints" / "best.ckpt").exists()
    assert not (table / "bingo_refined" / "training").exists()
    text = (table / "table.md").read_text()
    assert "2 steps on the group itself" in text


def test_a_finished_table_is_only_written_again(folder: Path, table: Path) -> None:
    before = (table / "groups.csv").read_text()
    trained = {path: path.stat().st_mtime_ns for path in table.rglob("*.ckpt")}
    run(folder, "table")
    assert (table / "groups.csv").read_text() == before
    assert {path: path.stat().st_mtime_ns for path in table.rglob("*.ckpt")} == trained


def test_an_interrupted_table_goes_on_with_what_is_missing(folder: Path, table: Path) -> None:
    whole = pd.read_csv(table / "groups.csv")
    half = whole[whole["method"] == "ape"].iloc[:1]
    half.to_csv(table / "ape" / "groups.csv", index=False, na_rep="nan")
    (table / "bingo_refined" / "groups.csv").unlink()
    run(folder, "table")
    again = pd.read_csv(table / "groups.csv")
    pd.testing.assert_frame_equal(again[UNTIMED], whole[UNTIMED])
    assert again.loc[again["method"] == "ape", "seconds"].iloc[0] == half["seconds"].iloc[0]


def test_a_training_killed_before_its_first_checkpoint_begins_anew(folder: Path) -> None:
    (folder / "killed" / "bingo" / "training").mkdir(parents=True)
    (folder / "killed" / "bingo" / "training" / "config.yaml").touch()
    killed = run(folder, "killed", methods=("bingo",))
    assert (killed / "bingo" / "training" / "test.csv").exists()


def test_results_of_other_settings_are_not_mixed(folder: Path, table: Path) -> None:
    with pytest.raises(BingoError, match=r"iterative.steps: 2 -> 3.*remove that folder.*another name"):
        run(folder, "table", "iterative.steps=3")


def test_a_checkpoint_replaces_the_training(folder: Path, table: Path) -> None:
    checkpoint = table / "bingo" / "training" / "checkpoints" / "best.ckpt"
    given = compare(TABLE, overrides(folder), ["bingo"], {"bingo": checkpoint}, folder / "given", QUIET)
    assert not (given / "bingo" / "training").exists()
    own, other = (pd.read_csv(place / "bingo" / "groups.csv")[UNTIMED] for place in (table, given))
    pd.testing.assert_frame_equal(own, other)


def test_a_method_that_the_table_does_not_list_runs_as_it_is(folder: Path) -> None:
    small = ("iterative.steps=1", "iterative.levels=1")
    groups = pd.read_csv(run(folder, "listed", *small, methods=("cte",)) / "groups.csv")
    assert list(groups["method"].unique()) == ["none", "cte"]


def test_an_unknown_method_is_an_error_before_anything_is_made(folder: Path) -> None:
    with pytest.raises(BingoError, match=r"unknown method 'bigno'.*Did you mean 'bingo'"):
        run(folder, "unknown", methods=("bigno",))
    assert not (folder / "unknown").exists()


def test_every_experiment_has_a_table_whose_rows_can_be_configured() -> None:
    for name in config.experiments():
        for row in config.load_table(name).methods.values():
            config.load(name, row.settings)
