"""The command: bad input ends with one message and exit status 2, never with a traceback."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import platformdirs
import pytest

from bingo_pl.cli import main
from bingo_pl.registration import apply as application
from bingo_pl.report import page


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bingo", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "mscrm"], "Did you mean 'mscmr'"),
        (["train", "mscmr", "trainer.epoch=1"], "Did you mean 'epochs'"),
        (["train", "mscmr", "data.root=/no/such/folder"], "patient<N>_<sequence>.nii.gz"),
        (["train", "brats", "data.root=/no/such/folder"], "BraTS"),
        (["train", "manifest", "data.root=/no/such/folder"], "split,group,subject,modality,image,label"),
        (["resume", "no.ckpt"], "no checkpoint at no.ckpt"),
        (["evaluate", "no.ckpt"], "no checkpoint at no.ckpt"),
        (["estimate", "no.ckpt", "--images", "9"], "no checkpoint at no.ckpt"),
        (["estimate", "--manifest", "no.csv", "--shape", "8x8"], "--shape 8x8 goes with --images"),
        (["sweep", "mscmr", "--seed", "0"], "--seed and --output go with --local"),
        (["sweep", "mscmr", "--output", "x"], "--seed and --output go with --local"),
        (["scalability", "mscmr", "model.squarings=5", "--checkpoint", "no.ckpt"], "model.squarings=5: the method is"),
        (["register", "--output", "x", "--refine", "-3", "t1=a.nii"], "Invalid value for '--refine'"),
        (
            ["register", "--output", "x", "--refine", "3", "--memory", "1GB", "t1=a.nii"],
            "--refine optimises all images",
        ),
        (["register", "--output", "x", "--memory", "much", "t1=a.nii"], "'much' is no size of memory"),
        (["register", "--output", "x", "t1:a.nii"], "'t1:a.nii' is not MODALITY=FILE"),
    ],
)
def test_bad_input_is_explained(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert message in error
    assert "Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_help_names_the_commands(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("train", "resume", "evaluate"))


def unforeseen(*arguments: object) -> None:
    raise RuntimeError("the [wheel] came off\nand more")


def test_an_error_that_nobody_foresaw_is_one_line_and_a_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(platformdirs, "user_log_path", lambda name: tmp_path / name)
    monkeypatch.setattr(application, "apply", unforeseen)
    assert run(monkeypatch, "apply", "ü.nii", "--registration", "x", "--from", "a", "--to", "b", "--output", "y") == 70
    (log,) = (tmp_path / "bingo_pl").iterdir()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"unexpected error: RuntimeError: the [wheel] came off. The traceback is in {log}; please report it"
    )
    written = log.read_text()
    assert "bingo apply ü.nii" in written
    assert "Traceback" in written
    assert written.endswith("RuntimeError: the [wheel] came off\nand more\n")


def test_a_log_that_cannot_be_written_in_its_place_is_temporary(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(platformdirs, "user_log_path", lambda name: tmp_path / "file" / name)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(page, "write_report", unforeseen)
    assert run(monkeypatch, "report", "x") == 70
    (log,) = tmp_path.glob("*.log")
    assert str(log) in capsys.readouterr().err
