"""The table: the same groups for every method, nothing done twice, nothing mixed."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from bingo_pl import BingoError, config
from bingo_pl.config import RowConfig, TableConfig
from bingo_pl.models import registry as methods
from bingo_pl.studies.comparison import compare
from bingo_pl.studies.rows import choose_rows

from .conftest import write_cohort
from .test_experiment import SETTINGS

TABLE = TableConfig(
    "manifest",
    {
        "ape": RowConfig(["method=ape", "iterative.steps=2", "iterative.levels=2"]),
        "bingo": RowConfig(["weights.truth=0"]),
        "bingo_guided": RowConfig([]),
        "bingo_refined": RowConfig(["refine.steps=2"], start="bingo_guided"),
        "bingo_intrinsic": RowConfig(["intrinsic.steps=2"], start="bingo_guided"),
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
    assert (table / "trainings" / "bingo_guided" / "checkpoints" / "best.ckpt").exists()
    assert not any((table / "trainings" / name).exists() for name in ("bingo_refined", "bingo_intrinsic"))
    text = (table / "table.md").read_text()
    assert "2 steps on the group itself" in text
    assert "6 steps of its experts on the group itself" in text


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
    training = folder / "killed" / "trainings" / "bingo"
    training.mkdir(parents=True)
    (training / ".config.yaml.123.tmp").touch()
    run(folder, "killed", methods=("bingo",))
    assert (training / "test.csv").exists()


def test_results_of_other_settings_are_not_mixed(folder: Path, table: Path) -> None:
    with pytest.raises(BingoError, match=r"iterative.steps: 2 -> 3.*remove that folder.*another name"):
        run(folder, "table", "iterative.steps=3")


def test_a_row_does_not_start_from_a_training_of_other_settings(folder: Path, table: Path) -> None:
    with pytest.raises(BingoError, match=r"trainer.epochs: 1 -> 2"):
        run(folder, "table", "trainer.epochs=2", methods=("bingo_refined",))


def test_what_changes_no_result_may_change(folder: Path, table: Path) -> None:
    run(folder, "table", "log.figure_groups=2", methods=("ape",))
    run(folder, "table", "refine.stride=3", "intrinsic.points=9", methods=("ape", "bingo_guided"))
    with pytest.raises(BingoError, match=r"refine.stride: 2 -> 3"):
        run(folder, "table", "refine.stride=3", methods=("bingo_refined",))
    with pytest.raises(BingoError, match=r"intrinsic.points: 0 -> 9"):
        run(folder, "table", "intrinsic.points=9", methods=("bingo_intrinsic",))


def test_some_methods_leave_the_others_in_the_table(folder: Path, table: Path) -> None:
    before = (table / "groups.csv").read_text()
    run(folder, "table", methods=("ape",))
    assert (table / "groups.csv").read_text() == before


def test_a_checkpoint_replaces_the_training(folder: Path, table: Path) -> None:
    checkpoint = table / "trainings" / "bingo" / "checkpoints" / "best.ckpt"
    given = compare(TABLE, overrides(folder), ["bingo"], {"bingo": checkpoint}, folder / "given", QUIET)
    assert not (given / "trainings").exists()
    own, other = (pd.read_csv(place / "bingo" / "groups.csv")[UNTIMED] for place in (table, given))
    pd.testing.assert_frame_equal(own, other)
    with pytest.raises(BingoError, match=r"weights: \w+ -> trained here"):
        run(folder, "given", methods=("bingo",))


def test_the_table_says_what_a_checkpoint_was_given(folder: Path, table: Path) -> None:
    guided = table / "trainings" / "bingo_guided" / "checkpoints" / "best.ckpt"
    given = compare(TABLE, overrides(folder), ["bingo"], {"bingo": guided}, folder / "guided", QUIET)
    assert "synthetic misalignment" in (given / "table.md").read_text()


@pytest.mark.parametrize(
    ("checkpoints", "message"),
    [
        ({"bingo": "no.ckpt"}, "no checkpoint at no.ckpt"),
        ({"bnigo": "no.ckpt"}, "Did you mean 'bingo'"),
        ({"bingo_refined": "a.ckpt"}, "weights of bingo_guided. Give --checkpoint bingo_guided=a.ckpt"),
    ],
)
def test_a_wrong_checkpoint_is_an_error_before_anything_is_made(
    folder: Path, checkpoints: dict[str, str], message: str
) -> None:
    paths = {name: Path(path) for name, path in checkpoints.items()}
    with pytest.raises(BingoError, match=message):
        compare(TABLE, overrides(folder), [], paths, folder / "wrong", QUIET)
    assert not (folder / "wrong").exists()


def test_a_method_that_cannot_be_run_does_not_keep_the_others_from_it(folder: Path) -> None:
    # 16x16 images have three levels, not four, of at least four voxels.
    rows = {"cte": RowConfig(["method=cte", "iterative.levels=4"]), "ape": TABLE.methods["ape"]}
    with pytest.raises(BingoError, match="1 of 2 methods could not be run: cte"):
        compare(TableConfig("manifest", rows), overrides(folder), [], {}, folder / "failing", QUIET)
    groups = pd.read_csv(folder / "failing" / "groups.csv")
    assert list(groups["method"].unique()) == ["none", "ape"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (RowConfig(["data.ffd_strength=0.1"]), "may differ in .* only, got data.ffd_strength: 0.4 -> 0.1"),
        (
            RowConfig(["weights.bending=2"], start="ape"),
            "may differ in similarity., refine., intrinsic. only, got weights.bending",
        ),
        (RowConfig([], start="mine"), "unknown start of mine 'mine'"),
    ],
)
def test_a_row_must_be_comparable(folder: Path, row: RowConfig, message: str) -> None:
    table = TableConfig("manifest", {"ape": TABLE.methods["ape"], "mine": row})
    with pytest.raises(BingoError, match=message):
        compare(table, overrides(folder), ["mine"], {}, folder / "unlike", QUIET)


def test_one_process_makes_a_table(folder: Path) -> None:
    with pytest.raises(BingoError, match="one process"):
        run(folder, "several", "trainer.devices=2")


def test_a_method_that_the_table_does_not_list_runs_as_it_is(folder: Path) -> None:
    small = ("iterative.steps=1", "iterative.levels=1")
    groups = pd.read_csv(run(folder, "listed", *small, methods=("cte",)) / "groups.csv")
    assert list(groups["method"].unique()) == ["none", "cte"]


def test_an_unknown_method_is_an_error_before_anything_is_made(folder: Path) -> None:
    with pytest.raises(BingoError, match=r"unknown method 'bigno'.*Did you mean 'bingo'"):
        run(folder, "unknown", methods=("bigno",))
    assert not (folder / "unknown").exists()


@pytest.mark.parametrize("name", config.experiments())
def test_every_experiment_has_a_table_whose_methods_can_be_built(name: str) -> None:
    with torch.device("meta"):
        for row in choose_rows(config.load_table(name), [], []):
            methods.refined(methods.build(row.config), row.config)
