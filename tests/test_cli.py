"""The command: bad input ends with one message and exit status 2, never with a traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from bingo_pl.cli import main


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
