"""A run that was killed within an epoch resumes within it, to the last bit."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from bingo_pl import BingoError, config
from bingo_pl.training import experiment
from bingo_pl.training.callbacks import TrainingProgress
from bingo_pl.training.continuation import train_or_continue

from .test_experiment import InterruptionError, assert_same_run, settings
from .test_kill import SUICIDE

QUIET = Console(quiet=True)
OVERRIDES = ("data.batch_size=1", "trainer.epochs=2", "trainer.checkpoint_minutes=0")
"""Four batches an epoch, a checkpoint after each step."""


def interrupted(folder: Path, name: str, *overrides: str) -> Path:
    """The checkpoint of a run that was stopped after the third batch of the second epoch."""

    def stop(self: TrainingProgress, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 2:
            raise InterruptionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingProgress, "on_train_batch_end", stop)
        with pytest.raises(InterruptionError):
            experiment.train(settings(folder, name, *OVERRIDES, *overrides), QUIET)
    return folder / "runs" / name / "checkpoints" / "last.ckpt"


@pytest.mark.slow
@pytest.mark.parametrize(("accumulate", "steps"), [(1, 7), (2, 3)])
def test_an_interrupted_epoch_goes_on_to_the_last_bit(folder: Path, accumulate: int, steps: int) -> None:
    """With two batches a step the run stops amid a step: no checkpoint lies there."""
    override = f"trainer.accumulate_grad_batches={accumulate}"
    whole = experiment.train(settings(folder, f"whole{accumulate}", *OVERRIDES, override), QUIET)
    last = interrupted(folder, f"stopped{accumulate}", override)
    assert torch.load(last, weights_only=True)["global_step"] == steps
    assert_same_run(whole, experiment.resume(last, (), False, QUIET))


@pytest.mark.slow
def test_a_run_killed_amid_an_epoch_goes_on_to_the_last_bit(folder: Path) -> None:
    whole = experiment.train(settings(folder, "whole", *OVERRIDES), QUIET)
    mine = settings(folder, "killed", *OVERRIDES)
    (folder / "killed.yaml").write_text(config.to_yaml(mine))
    script = SUICIDE.format(threads=torch.get_num_threads())
    command = [sys.executable, "-c", script, "train", str(folder / "killed.yaml"), "--continue"]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == -signal.SIGKILL
    last = torch.load(folder / "runs" / "killed" / "checkpoints" / "last.ckpt", weights_only=True)
    assert (last["epoch"], last["global_step"]) == (0, 3)
    assert_same_run(whole, train_or_continue(mine, QUIET))


def test_an_epoch_of_other_batches_is_not_gone_on_with(folder: Path) -> None:
    last = interrupted(folder, "other")
    with pytest.raises(BingoError, match=r"after 3 of an epoch's 4 batches, which are 2 now.*best\.ckpt"):
        experiment.resume(last, ["data.batch_size=2"], False, QUIET)
