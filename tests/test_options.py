"""The options that commands share, and what ``--overwrite`` may replace."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import typer

from bingo_pl import BingoError, register
from bingo_pl.cli import app, main
from bingo_pl.cli.options import THREADS, report_steps
from bingo_pl.images.written import check_output
from bingo_pl.registration.apply import apply
from bingo_pl.report import page

from .test_affine import image, move
from .test_transforms import make_grid

GRID = make_grid((40, 44, 1), (1.5, 1.5, 2))
COMMANDS = {command.name: command for command in typer.main.get_command(app).commands.values()}  # type: ignore[attr-defined]


@pytest.fixture(autouse=True)
def settings_restored(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Threads and log as they were; no pictures, which take longer than all else."""
    threads = torch.get_num_threads(), sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    for name in THREADS:
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.setattr(page, "write_report", lambda folder, scans=(): (folder / "report.html").touch())
    yield
    torch.set_num_threads(threads[0])
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads[1])
    report_steps(False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("slices")
    for name, truth in (("a", None), ("b", move(GRID, 3, 2))):
        array, affine = image(GRID, name, truth) if truth is not None else image(GRID, name)
        nib.save(nib.Nifti1Image((1000 * array).astype(np.int16), affine), folder / f"{name}.nii.gz")
    return {name: folder / f"{name}.nii.gz" for name in "ab"}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bingo", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_the_shared_options(name: str) -> None:
    """By the same names; those that write a folder or file of the user's choice also as -o."""
    options = {text: option for option in COMMANDS[name].params for text in option.opts}
    assert {"--threads", "--verbose", "-v"} <= set(options)
    assert ("--output" in options) == ("-o" in options)
    computes = name not in ("apply", "check", "convert", "example", "report")
    assert ("--device" in options) == computes
    if computes:
        assert options["--device"].help == "Device to compute on"


def test_h_is_help(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "register", "-h") == 0
    assert "--interpolation" in capsys.readouterr().out


def test_threads_and_steps(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], files: dict[str, Path], tmp_path: Path
) -> None:
    """Torch, ITK and later processes get the number; each step is one line with seconds and memory."""
    pairs = [f"{name}={path}" for name, path in files.items()]
    status = run(
        monkeypatch, "register", *pairs, "-o", str(tmp_path / "out"), "--threads", "3", "-v", "--device", "cpu"
    )
    assert status in (0, 1)
    assert torch.get_num_threads() == sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 3
    assert {os.environ[name] for name in THREADS} == {"3"}
    lines = capsys.readouterr().err.splitlines()
    for step in ("reading", "aligning: rigid", "writing", "making the report"):
        assert any(line.startswith("[") and "B] " in line and step in line for line in lines), step


def test_an_error_is_shown_with_its_traceback_where_asked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert run(monkeypatch, "check", str(tmp_path / "no"), "--label-ids", "x", "--verbose") == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_registration_is_overwritten_only_as_it_was_written(files: dict[str, Path], tmp_path: Path) -> None:
    """Not with a file of somebody else in it, nor one that was changed; what is replaced is replaced whole."""
    group = register(files, transform="rigid")
    out = group.write(tmp_path / "out", pairwise=True)
    with pytest.raises(BingoError, match="is in use"):
        group.write(out)
    group.write(out, overwrite=True)
    assert not (out / "pairwise").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]
    (out / "notes.txt").write_text("mine")
    with pytest.raises(BingoError, match=r"notes\.txt in it was not written"):
        group.write(out, overwrite=True)
    (out / "notes.txt").unlink()
    edited = out / "registered" / "a.nii.gz"
    edited.write_bytes(edited.read_bytes() + b"\0")
    with pytest.raises(BingoError, match="has changed since"):
        group.write(out, overwrite=True)
    edited.unlink()
    group.write(out, overwrite=True)
    assert edited.is_file()
    (out / "mine").mkdir()
    with pytest.raises(BingoError, match="mine in it was not written"):
        group.write(out, overwrite=True)


@pytest.mark.parametrize("option", ["--like", "--initial"])
def test_a_folder_that_is_read_from_is_not_overwritten(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    inner = tmp_path / "out" / "read"
    inner.touch()
    given = [option, f"b={inner}" if option == "--initial" else str(inner)]
    assert run(monkeypatch, "register", "a=a.nii", "b=b.nii", *given, "--overwrite", "-o", str(tmp_path / "out")) == 2
    assert "which is read" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("option", ["--mask", "--label", "--initial"])
def test_a_name_is_given_once(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    twice = [option, "a=x.nii", option, "a=y.nii"]
    assert run(monkeypatch, "register", "a=a.nii", "b=b.nii", *twice, "-o", str(tmp_path / "out")) == 2
    assert f"{option} names 'a' twice: x.nii and y.nii" in " ".join(capsys.readouterr().err.split())


def test_threads_are_as_many_as_a_machine_may_have(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "check", ".", "--threads", "1000000000") == 2
    assert "--threads" in capsys.readouterr().err


def test_what_is_no_result_is_never_overwritten(files: dict[str, Path], tmp_path: Path) -> None:
    """A folder without a record, a link, a folder that holds the input."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    (tmp_path / "link").symlink_to(mine)
    group = register({"a": files["a"], "b": files["b"]}, transform="rigid")
    for path in (mine, tmp_path / "link"):
        with pytest.raises(BingoError):
            group.write(path, overwrite=True)
    out = group.write(tmp_path / "out")
    with pytest.raises(BingoError, match="which is read"):
        check_output(out, True, "registration.json", [out / "registered" / "a.nii.gz"])
    assert (mine / "thesis.txt").read_text() == "mine"
    (out / "registration.json").write_text(json.dumps({"files": 3}))
    with pytest.raises(BingoError, match="is not overwritten"):
        group.write(out, overwrite=True)


def test_apply_overwrites_a_result_but_nothing_that_it_reads(files: dict[str, Path], tmp_path: Path) -> None:
    out = register(files, transform="rigid").write(tmp_path / "out")
    moved = tmp_path / "moved.nii.gz"
    moved.write_bytes(b"an earlier result")
    with pytest.raises(BingoError, match="exists"):
        apply(out, "a", "b", files["a"], moved, False, None)
    apply(out, "a", "b", files["a"], moved, False, None, overwrite=True)
    assert nib.load(moved).shape == GRID.shape
    for read in (files["a"], files["b"], out / "registered" / "a.nii.gz"):
        before = read.read_bytes()
        with pytest.raises(BingoError, match=r"is read by this command|was registered in"):
            apply(out, "a", "b", files["a"], read, False, None, overwrite=True)
        assert read.read_bytes() == before
