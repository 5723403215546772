"""Whole runs on a tiny cohort of files: what they leave, that they repeat, that they resume exactly."""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from bingo_pl import BingoError, config
from bingo_pl.training import experiment
from bingo_pl.training.callbacks import TrainingProgress
from bingo_pl.training.history import History

from .conftest import write_cohort

SETTINGS = (
    "data.modalities=[a,b]",
    "data.label_ids=[1]",
    "data.roi=[16,16]",
    "data.batch_size=2",
    "data.ffd_spacings=[5]",
    "model.channels=[4,8]",
    "model.velocity_scales=[1,0]",
    "model.head_depth=1",
    "model.velocity_noise=true",
    "trainer.epochs=3",
    "trainer.accelerator=cpu",
    "log.wandb=disabled",
    "log.figure_groups=1",
)


def settings(folder: Path, name: str, *overrides: str) -> config.Config:
    places = (f"data.root={folder / 'cohort'}", f"data.cache_dir={folder / 'cache'}", f"runs={folder / 'runs'}")
    return config.load("manifest", [*SETTINGS, *places, f"name={name}", *overrides])


@pytest.fixture(scope="module")
def console() -> Console:
    return Console(quiet=True)


@pytest.fixture(scope="module")
def run(folder: Path, console: Console) -> Path:
    """A finished run."""
    return experiment.train(settings(folder, "whole"), console)


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True)["state_dict"]
    return state


def assert_same_run(first: Path, second: Path) -> None:
    """Weights and metrics agree to the last bit."""
    old, new = (weights(path / "checkpoints" / "last.ckpt") for path in (first, second))
    assert old.keys() == new.keys()
    assert all(torch.equal(old[name], new[name]) for name in old)
    assert (first / "metrics.csv").read_text() == (second / "metrics.csv").read_text()
    columns = [column for column in pd.read_csv(first / "test.csv").columns if column != "seconds"]
    pd.testing.assert_frame_equal(*(pd.read_csv(path / "test.csv")[columns] for path in (first, second)))


def test_a_run_leaves_what_it_promises(run: Path) -> None:
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    expected = {"config.yaml", "metrics.csv", "test.csv", "checkpoints/best.ckpt", "checkpoints/last.ckpt"}
    figures = {f"figures/{name}.png" for name in ("curves", "group5#0_registration", "group5#0_structure")}
    assert files == expected | figures
    test = pd.read_csv(run / "test.csv")
    assert ",".join(test.columns) == "group,size,dice_before,dice_after,gwi_before,gwi_after,folding_percent,seconds"
    assert list(test.group) == ["group5#0", "group6#0"]
    last = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert last["epoch"] == 2, "last is the last epoch, also where it is not the best"
    assert np.isfinite(test.drop(columns="group").to_numpy(float)).all()
    metrics = pd.read_csv(run / "metrics.csv")
    terms = ("reconstruction", "kl_velocity", "kl_structure", "truth", "total")
    assert {f"train/{term}" for term in terms} <= set(metrics.columns)
    assert metrics["val/gwi"].notna().sum() == 3


def test_the_written_configuration_repeats_the_run_exactly(run: Path, folder: Path, console: Console) -> None:
    again = experiment.train(config.load(str(run / "config.yaml"), ["name=again"]), console)
    assert_same_run(run, again)


class InterruptionError(Exception):
    """Stands for a killed process."""


def test_an_interrupted_run_resumes_to_the_last_bit(
    run: Path, folder: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: TrainingProgress, trainer: Any, *args: Any) -> None:
        if trainer.current_epoch == 2:
            raise InterruptionError

    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "on_train_batch_end", interrupt)
        with pytest.raises(InterruptionError):
            experiment.train(settings(folder, "interrupted"), console)
    stopped = folder / "runs" / "interrupted"
    assert not (stopped / "test.csv").exists()
    assert experiment.resume(stopped / "checkpoints" / "last.ckpt", (), False, console) == stopped
    assert_same_run(run, stopped)


def test_a_finished_run_goes_on_with_more_epochs(run: Path, folder: Path, console: Console) -> None:
    longer = folder / "runs" / "longer"
    shutil.copytree(run, longer)
    experiment.resume(longer / "checkpoints" / "last.ckpt", ["trainer.epochs=4"], False, console)
    assert pd.read_csv(longer / "metrics.csv")["val/gwi"].notna().sum() == 4


def test_rare_validation_still_keeps_the_best_and_the_last(folder: Path, console: Console) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*could not find the monitored key.*")
        run = experiment.train(settings(folder, "rare", "trainer.validate_every=2"), console)
    epochs = {
        name: torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")
    }
    assert epochs == {"best": 1, "last": 2}


def test_evaluation_repeats_the_test(run: Path, console: Console) -> None:
    results = experiment.evaluate(run / "checkpoints" / "best.ckpt", (), console)
    assert results != run
    columns = ["group", "size", "dice_before", "dice_after", "gwi_before", "gwi_after", "folding_percent"]
    expected, got = (pd.read_csv(path / "test.csv")[columns] for path in (run, results))
    pd.testing.assert_frame_equal(got, expected)


def test_evaluation_takes_other_data_but_no_other_network(run: Path, folder: Path, console: Console) -> None:
    other = folder / "other"
    other.mkdir()
    write_cohort(other)
    best = run / "checkpoints" / "best.ckpt"
    assert (experiment.evaluate(best, [f"data.root={other}"], console) / "test.csv").exists()
    with pytest.raises(BingoError, match=r"cannot be changed so: model\.head_depth: 1 -> 2"):
        experiment.evaluate(best, ["model.head_depth=2"], console)
    with pytest.raises(BingoError, match=r"cannot be changed so: data\.modalities"):
        experiment.evaluate(best, ["data.modalities=[b,a]"], console)


def test_a_resume_on_changed_data_is_refused_unless_allowed(run: Path, folder: Path, console: Console) -> None:
    changed = folder / "changed"
    shutil.copytree(run, changed)
    label = folder / "cohort" / "0_label.nii.gz"
    before = label.stat()
    try:
        os.utime(label, (0, 0))
        with pytest.raises(BingoError, match="--allow-changed-data"):
            experiment.resume(changed / "checkpoints" / "last.ckpt", (), False, console)
        experiment.resume(changed / "checkpoints" / "last.ckpt", (), True, console)
    finally:
        os.utime(label, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", ["model.head_depth=2", "trainer.learning_rate=1", "name=other"])
def test_a_resume_cannot_change_what_the_checkpoint_holds(run: Path, console: Console, change: str) -> None:
    with pytest.raises(BingoError, match="cannot be changed so"):
        experiment.resume(run / "checkpoints" / "last.ckpt", [change], False, console)


def test_a_checkpoint_outside_its_run_does_not_resume(run: Path, tmp_path: Path, console: Console) -> None:
    shutil.copy(run / "checkpoints" / "last.ckpt", tmp_path)
    with pytest.raises(BingoError, match="not in the checkpoints folder"):
        experiment.resume(tmp_path / "last.ckpt", (), False, console)


def test_runs_never_overwrite_each_other(tmp_path: Path) -> None:
    folders = [experiment.new_folder(tmp_path, "mine").name for _ in range(3)]
    assert folders == ["mine", "mine-2", "mine-3"]


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".."])
def test_a_run_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(BingoError, match="cannot name a run"):
        experiment.new_folder(tmp_path, name)


class Crafted:
    """Unpickling this would run a command."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch crafted_ran",)


@pytest.mark.parametrize("content", ["pickle", "text", "foreign"])
def test_a_foreign_or_crafted_checkpoint_is_refused(
    tmp_path: Path, console: Console, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "evil.ckpt"
    if content == "text":
        path.write_text("not a checkpoint")
    else:
        torch.save({"bingo_pl": Crafted()} if content == "pickle" else {"state_dict": {}}, path)
    with pytest.raises(BingoError, match="not a checkpoint written by bingo_pl"):
        experiment.evaluate(path, (), console)
    assert not (tmp_path / "crafted_ran").exists()


def test_bad_settings_stop_before_anything_is_written(folder: Path, console: Console) -> None:
    with pytest.raises(BingoError, match="Did you mean 'manifest'"):
        experiment.train(settings(folder, "never", "data.dataset=manifst"), console)
    with pytest.raises(BingoError, match="does not exist"):
        experiment.train(settings(folder, "never", "data.root=/nowhere"), console)
    with pytest.raises(BingoError, match=r"log\.wandb"):
        experiment.train(settings(folder, "never", "log.wandb=on"), console)
    with pytest.raises(BingoError, match=r"data\.roi"):
        experiment.train(settings(folder, "never", "data.roi=[15,16]"), console)
    for device in ("tpu", "abacus"):
        with pytest.raises(BingoError, match=rf"device '{device}' cannot be used.*trainer\.accelerator"):
            experiment.train(settings(folder, "never", f"trainer.accelerator={device}"), console)
    assert not (folder / "runs" / "never").exists()
    assert not list((folder / "runs").glob(".*"))


def test_a_device_that_is_missing_leaves_no_evaluation(run: Path, console: Console) -> None:
    before = sorted(run.parent.iterdir())
    with pytest.raises(BingoError, match="device 'tpu' cannot be used"):
        experiment.evaluate(run / "checkpoints" / "best.ckpt", ["trainer.accelerator=tpu"], console)
    assert sorted(run.parent.iterdir()) == before


def test_a_folder_in_which_nothing_was_written_goes(
    folder: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("full")

    monkeypatch.setattr(experiment, "_write_config", fail)
    with pytest.raises(OSError, match="full"):
        experiment.train(settings(folder, "never"), console)
    assert not (folder / "runs" / "never").exists()


@pytest.mark.parametrize("content", [b"", b"\n", b"step,train/total\n0,oops\n", b"a,b\n1,2\n", b"\xff\xfe\x00"])
def test_damaged_metrics_are_named_by_a_resume(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "metrics.csv").write_bytes(content)
    with pytest.raises(BingoError, match=r"metrics\.csv (cannot be read|is damaged).*delete it to resume"):
        History(tmp_path / "metrics.csv").resume(3)


def test_a_finished_training_resumes_without_its_metrics(run: Path, tmp_path: Path, console: Console) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    (copy / "metrics.csv").write_bytes(b"")
    last = copy / "checkpoints" / "last.ckpt"
    with pytest.raises(BingoError, match="delete it to resume"):
        experiment.resume(last, (), False, console)
    (copy / "metrics.csv").unlink()
    (copy / "test.csv").unlink()
    experiment.resume(last, (), False, console)
    assert (copy / "test.csv").exists()


def test_folders_that_lead_nowhere_are_missing_ones(tmp_path: Path, console: Console) -> None:
    """Python's own ways to look at them raise what is no error about files."""
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    for root in (str(tmp_path / "ring"), "~nobody-of-this-name/data"):
        with pytest.raises(BingoError, match=r"manifest\.csv|ring|~nobody"):
            experiment.train(settings(tmp_path, "lost", f"data.root={root}"), console)
