"""Ctrl-C and SIGTERM: one line, the status that shells know, nothing half-written, nothing lost."""

from __future__ import annotations

import importlib.abc
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from rich.console import Console

from bingo_pl import __main__, cli, config
from bingo_pl.data_modules.cache import GroupCache
from bingo_pl.models.model import Model
from bingo_pl.signals import Stopped, stopping
from bingo_pl.sweeps import local
from bingo_pl.training import experiment
from bingo_pl.training.callbacks import TrainingProgress

from .test_experiment import SETTINGS, assert_same_run, settings
from .test_kill import wait_for

QUIET = Console(quiet=True)
EPOCHS = ("data.batch_size=1", "trainer.epochs=2")
"""Four batches an epoch."""


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    return experiment.train(settings(folder, "whole", *EPOCHS), QUIET)


def bingo(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """The exit status of a command that runs in this process; the handlers of signals are then as before."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(sys, "argv", ["bingo", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    return int(stop.value.code or 0)


def train(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, at: tuple[int, int], *numbers: int, resumable: bool = True
) -> int:
    """The exit status of a training to which signals come when it is done with a batch of an epoch, both from 0."""

    def interrupt(self: TrainingProgress, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == at:
            for number in numbers:
                os.kill(os.getpid(), number)

    (folder / f"{name}.yaml").write_text(config.to_yaml(settings(folder, name, *EPOCHS)))
    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "on_train_batch_end", interrupt)
        flag = ["--continue"] if resumable else []
        return bingo(monkeypatch, "train", folder / f"{name}.yaml", *flag)


def steps(run: Path) -> int:
    return int(torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["global_step"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "at", "saved"),
    [(signal.SIGTERM, (0, 0), 2), (signal.SIGINT, (0, 3), 4)],
)
def test_a_training_stops_behind_a_step_and_resumes_to_the_last_bit(
    folder: Path,
    whole: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    at: tuple[int, int],
    saved: int,
) -> None:
    """Behind the next step, or behind the epoch."""
    run = folder / "runs" / f"stopped{number}-{saved}"
    assert train(folder, run.name, monkeypatch, at, number) == 128 + number
    last = run / "checkpoints" / "last.ckpt"
    (line,) = [
        line for line in capsys.readouterr().err.splitlines() if "Warning" not in line and "stopping" not in line
    ]
    name = "Ctrl-C" if number == signal.SIGINT else "SIGTERM"
    assert line == f"stopped by {name}. Saved: {last}. Resume with the same command, or bingo resume {last}"
    assert steps(run) == saved
    assert not (run / "test.csv").exists()
    assert not list(folder.glob("runs/.*")), "its lock is released"
    assert bingo(monkeypatch, "train", folder / f"{run.name}.yaml", "--continue") == 0
    assert_same_run(whole, run)


@pytest.mark.slow
def test_behind_the_last_epoch_a_training_stops_before_its_test(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(folder, "late", monkeypatch, (1, 3), signal.SIGTERM, signal.SIGTERM) == 143
    assert steps(folder / "runs" / "late") == 8
    assert not (folder / "runs" / "late" / "test.csv").exists()


@pytest.mark.slow
def test_a_second_ctrl_c_stops_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twice = (signal.SIGINT, signal.SIGINT)
    assert train(folder, "hasty", monkeypatch, (1, 1), *twice) == 130
    assert steps(folder / "runs" / "hasty") == 4, "that of the first epoch"


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A job of one process; the file to which ``scontrol`` writes what it is asked for."""
    script = tmp_path / "scontrol"
    script.write_text(f'#!/bin/sh\necho "$@" > {tmp_path / "asked"}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    variables = {"NTASKS": "1", "JOB_ID": "77", "JOB_NAME": "mine", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    return tmp_path / "asked"


@pytest.mark.slow
def test_before_its_time_limit_a_job_is_saved_and_queued_again(
    folder: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = train(folder, "queued", monkeypatch, (0, 0), signal.SIGUSR1)
    assert status == 128 + signal.SIGUSR1
    assert slurm.read_text() == "requeue 77\n"
    run = folder / "runs" / "queued"
    assert steps(run) == 2
    assert not list(run.glob("hpc_ckpt*")), "one checkpoint, in its usual place"


@pytest.mark.slow
def test_a_job_that_would_begin_again_is_not_queued_again(
    folder: Path, slurm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert train(folder, "once", monkeypatch, (0, 0), signal.SIGUSR1, resumable=False) == 128 + signal.SIGUSR1
    assert not slurm.exists()
    assert steps(folder / "runs" / "once") == 2


def commands(folder: Path, checkpoint: Path, registered: Path) -> dict[str, list[str | Path]]:
    """Every command that does work, but for training."""
    cohort = folder / "cohort"
    manifest = cohort / "group.csv"
    manifest.write_text("modality,image\n" + "".join(f"{name},5_{name}.nii.gz\n" for name in "ab"))
    (folder / "odd").mkdir(exist_ok=True)
    image = nib.Nifti1Image(np.arange(64, dtype=np.float32).reshape(4, 4, 4), np.diag([1, 1, 1, 1]))
    image.set_sform(np.diag([2, 2, 2, 1]), code=1)  # and the other form says 1 mm
    image.set_qform(np.eye(4), code=1)
    nib.save(image, folder / "odd" / "a.nii.gz")
    data = [f"data.root={cohort}", f"data.cache_dir={folder / 'cache'}"]
    model: list[str | Path] = ["--checkpoint", checkpoint]
    group = [f"{name}={cohort / f'5_{name}.nii.gz'}" for name in "ab"]
    of_group: list[str | Path] = ["--registration", registered, "--from", "a", "--to", "b"]
    of_data = [setting for setting in SETTINGS if not setting.startswith("model.")]
    return {
        "evaluate": ["evaluate", checkpoint],
        "table": ["table", "manifest", "--methods", "ape", *of_data, *data, "iterative.steps=1"],
        "scalability": ["scalability", "manifest", *model, *of_data, *data, "--images", "4"],
        "estimate": ["estimate", checkpoint, "--images", "4", "--device", "cpu"],
        "register": ["register", *model, "--output", "out", "--affine", "never", *group],
        "register --memory": ["register", *model, "--output", "out", "--affine", "never", "--memory", "1GB", *group],
        "atlas": ["atlas", manifest, *model, "--output", "out", "--affine", "never"],
        "apply": ["apply", cohort / "5_a.nii.gz", *of_group, "--output", "moved.nii.gz"],
        "report": ["report", registered],
        "check": ["check", folder / "odd", "--fix", "fixed"],
    }


@pytest.fixture(scope="module")
def registered(folder: Path, whole: Path) -> Path:
    group = [f"{name}={folder / 'cohort' / f'5_{name}.nii.gz'}" for name in "ab"]
    model = ["--checkpoint", str(whole / "checkpoints" / "best.ckpt"), "--affine", "never", "--device", "cpu"]
    with pytest.MonkeyPatch.context() as patch:
        assert bingo(patch, "register", *model, "--output", folder / "registered", *group) == 0
    return folder / "registered"


@pytest.mark.parametrize("ending", [None, 0, 2])
def test_a_stop_that_a_library_swallows_is_still_one(ending: int | None) -> None:
    def command() -> None:
        with suppress(BaseException):
            signal.raise_signal(signal.SIGINT)
        if ending is not None:
            sys.exit(ending)

    with pytest.raises(Stopped) as stop, stopping():
        command()
    assert stop.value.code == 130


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("evaluate", signal.SIGTERM),
        ("table", signal.SIGINT),
        ("scalability", signal.SIGINT),
        ("register", signal.SIGINT),
        ("register", signal.SIGTERM),
        ("register --memory", signal.SIGINT),
        ("atlas", signal.SIGINT),
        ("apply", signal.SIGINT),
        ("report", signal.SIGINT),
        ("check", signal.SIGINT),
    ],
)
def test_every_command_stops_with_one_line_and_nothing_half_written(
    folder: Path,
    whole: Path,
    registered: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    number: int,
) -> None:
    """The signal comes while the command writes its third file, or its first if it writes fewer."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(registered, tmp_path / "registered")
    arguments = commands(folder, whole / "checkpoints" / "best.ckpt", tmp_path / "registered")[command]
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    written: list[str] = []
    rename = os.replace

    def interrupted(source: Any, target: Any, **options: Any) -> None:
        written.append(str(target))
        if len(written) == FILES.get(command, 3):
            os.kill(os.getpid(), number)
        rename(source, target, **options)

    monkeypatch.setattr(os, "replace", interrupted)
    monkeypatch.setattr(Path, "replace", lambda self, target: interrupted(self, target))
    assert bingo(monkeypatch, *arguments) == 128 + number
    monkeypatch.undo()
    assert len(written) == FILES.get(command, 3)
    error = capsys.readouterr().err
    assert re.findall("stopped by .*", error) == [f"stopped by {'Ctrl-C' if number == signal.SIGINT else 'SIGTERM'}."]
    assert "Traceback" not in error
    after = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    assert not [path for path in after if path.name.startswith(".")], "neither locks nor half files"


FILES = {"apply": 1, "report": 1, "check": 1}


def test_a_signal_stops_what_writes_nothing(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Model, "load", lambda *_: os.kill(os.getpid(), signal.SIGINT))
    assert bingo(monkeypatch, "estimate", whole / "checkpoints" / "best.ckpt", "--images", "4") == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C.\n"


def test_a_stopped_preprocessing_does_not_read_the_rest_of_the_cohort(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []

    def slow(self: GroupCache, case: Any, batches: Any) -> None:
        read.append(case.name)
        if len(read) == 1:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.1)

    monkeypatch.setattr(GroupCache, "_write", slow)
    (folder / "fresh.yaml").write_text(config.to_yaml(settings(folder, "fresh", f"data.cache_dir={folder / 'fresh'}")))
    assert bingo(monkeypatch, "train", folder / "fresh.yaml") == 130
    assert len(read) < 3, "of seven"
    assert not (folder / "runs" / "fresh").exists()


def test_a_stopped_sweep_stops_its_trials_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trial has time to save; the next one does not begin, and no process outlives the sweep."""
    script = tmp_path / "trial.py"
    script.write_text(
        "import os, pathlib, signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(0.3)\n"
        "    pathlib.Path('saved').touch()\n"
        "    sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "pathlib.Path(f'started-{os.getpid()}').touch()\n"
        "time.sleep(60)\n"
    )
    (tmp_path / "search.yaml").write_text(
        f"program: {script}\ncommand: ['{sys.executable}', '${{program}}', '${{args_no_hyphens}}']\nmethod: grid\n"
        "metric: {name: val/gwi}\nparameters: {seed: {values: [0, 1]}}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["bingo", "sweep", "search.yaml", "--local", "--output", "out"])
    process = multiprocessing.get_context("fork").Process(target=cli.main)
    process.start()
    wait_for(lambda: bool(list(tmp_path.glob("started-*"))) or not process.is_alive())
    process.terminate()
    process.join()
    assert process.exitcode == 143
    assert (tmp_path / "saved").exists()
    (started,) = tmp_path.glob("started-*")
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.name.partition("-")[2]), 0)


def test_a_trial_that_outlived_its_sweep_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    holders = iter(["process 7 on there", "process 7 on there", ""])
    monkeypatch.setattr(local, "holder_of", lambda run: next(holders))
    monkeypatch.setattr(local, "POLL_SECONDS", 0.0)
    console = Console(record=True, width=200)
    local.Children(console).wait_for(tmp_path / "trial-001")
    assert "trial-001: waiting for process 7 on there" in console.export_text()
    assert next(holders, "none") == "none"


def test_ctrl_c_while_the_command_is_imported_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Interrupted(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, *_: Any) -> None:
            if name == "bingo_pl.cli":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Interrupted(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "bingo_pl.cli")
    with pytest.raises(SystemExit) as stop:
        __main__.main()
    assert stop.value.code == 130
    assert capsys.readouterr().err == "stopped by Ctrl-C.\n"


def test_what_the_command_imports_first_is_small() -> None:
    """Ctrl-C is caught from then on."""
    code = "import sys, bingo_pl.__main__; print(sorted({'torch', 'numpy', 'pytorch_lightning'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
