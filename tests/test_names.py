"""No name leaves the folder that is meant for it, whichever way it comes in: it is refused before any work."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from rich.console import Console

import experiments
from bingo_pl import BingoError, config, register
from bingo_pl.atlases import template
from bingo_pl.cli import main
from bingo_pl.config import RowConfig, TableConfig
from bingo_pl.images.members import Member
from bingo_pl.images.scans import names_of
from bingo_pl.registration.streamed import register_files
from bingo_pl.storage.names import LONGEST, check_file_name
from bingo_pl.studies.rows import choose_rows
from bingo_pl.sweeps import trials
from bingo_pl.training import experiment

ESCAPING = ("../../x", "T1/Gd", "..", "a\\b", ".hidden", "x" * (LONGEST + 1), "a\nb", "a\x00b", " a", "", "\udcff")
MEMORY = 10**8
QUIET = Console(quiet=True)


@pytest.mark.parametrize("name", [*ESCAPING, "/absolute"])
def test_a_name_that_no_file_can_have_is_refused_with_what_is_allowed(name: str) -> None:
    with pytest.raises(BingoError, match=r"cannot name a modality.*Wanted: letters"):
        check_file_name(name, "modality")


@pytest.mark.parametrize("name", ["T2*", "T1 Gd", "T1+C", "Ктж-2", "磁共振", "a..b", "x" * LONGEST])
def test_everyday_names_are_taken(name: str) -> None:
    check_file_name(name, "modality")


def test_names_of_a_group_differ_where_capitals_do_not_count() -> None:
    assert names_of(["T1", "t1", "T1", "Mean", "template"]) == ["T1", "t1_2", "T1_3", "Mean_2", "template_2"]


def image(folder: Path) -> Path:
    path = folder / "in" / "image.nii.gz"
    path.parent.mkdir()
    values = np.random.default_rng(0).random((24, 24, 1)).astype(np.float32)
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    return path


def in_memory(name: str, path: Path, out: Path) -> None:
    register([("a", path), (name, path)]).write(out)


def streamed(name: str, path: Path, out: Path) -> None:
    register_files([Member("a", path), Member(name, path)], out, MEMORY)


def population(name: str, path: Path, out: Path) -> None:
    template.build([Member("a", path), Member(name, path)], None, out, "never", MEMORY, QUIET)


def by_manifest(command: str) -> Callable[[str, Path, Path], None]:
    def run(name: str, path: Path, out: Path) -> None:
        manifest = path.with_name("group.csv")
        manifest.write_text(f"modality,image\na,{path}\n{name},{path}\n")
        given = ["atlas", str(manifest)] if command == "atlas" else ["register", "--manifest", str(manifest)]
        on_command_line(*given, "--output", str(out), *(["--memory", "100MB"] if command == "memory" else []))

    return run


def by_pairs(name: str, path: Path, out: Path) -> None:
    on_command_line("register", f"a={path}", f"{name}={path}", "--output", str(out))


def on_command_line(*arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["bingo", *arguments])
        with pytest.raises(SystemExit) as exit:
            main()
    raise BingoError(f"exit {exit.value.code}")


PYTHON = (in_memory, streamed, population)
COMMANDS = (by_pairs, by_manifest("register"), by_manifest("memory"), by_manifest("atlas"))


@pytest.mark.parametrize("name", ["../../x", "T1/Gd", "/tmp/x"])
@pytest.mark.parametrize("way", [*PYTHON, *COMMANDS])
def test_a_modality_that_leaves_the_output_is_refused_before_any_work(
    tmp_path: Path, way: Callable[[str, Path, Path], None], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = image(tmp_path)
    before = {*tmp_path.rglob("*"), path.with_name("group.csv")}
    with pytest.raises(BingoError) as error:
        way(name, path, tmp_path / "out")
    said = str(error.value) + capsys.readouterr().err
    assert f"'{name}' cannot name a modality" in said
    if way in COMMANDS:
        assert "exit 2" in said
    assert {*tmp_path.rglob("*")} <= before, "nothing is written"


@pytest.mark.parametrize("name", ["../x", "T1/Gd", ".x"])
def test_runs_methods_and_sweeps_are_named_by_the_same_rule(tmp_path: Path, name: str) -> None:
    settings = dataclasses.replace(config.load("mscmr"), name=name, runs=str(tmp_path / "runs"))
    with pytest.raises(BingoError, match="cannot name a run"):
        experiment.train(settings, QUIET)
    with pytest.raises(BingoError, match="cannot name a method"):
        choose_rows(TableConfig("mscmr", {name: RowConfig(["method=bingo"])}), [], [])
    with pytest.raises(BingoError, match="cannot name a method"):
        choose_rows(TableConfig("mscmr", {"Figures": RowConfig(["method=bingo"])}), [], [])
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text(f"name: {name}\n" + (Path(experiments.__path__[0]) / "sweeps" / "mscmr.yaml").read_text())
    with pytest.raises(BingoError, match="cannot name a sweep"):
        trials.load(str(sweep))
