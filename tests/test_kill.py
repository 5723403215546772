"""SIGKILL loses nothing, and what has changed does not resume unnoticed. `benchmarks/kill.py` is the long version."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console

from benchmarks.kill import digests
from bingo_pl import BingoError, config
from bingo_pl.sweeps import trials as sweep
from bingo_pl.sweeps.local import run_local
from bingo_pl.training import experiment
from bingo_pl.training.continuation import train_or_continue
from bingo_pl.training.lightning import WholeCheckpoints, keep_checkpoint

from .test_experiment import settings

QUIET = Console(quiet=True)
PATIENCE = 120.0
"""Seconds; a busy machine starts slowly."""


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    """An uninterrupted run."""
    return train_or_continue(settings(folder, "whole"), QUIET)


def wait_for(happened: Callable[[], bool]) -> None:
    start = time.monotonic()
    while not happened():
        assert time.monotonic() - start < PATIENCE
        time.sleep(0.01)


SUICIDE = """
import os, signal
import torch
from bingo_pl import cli
from bingo_pl.training import callbacks

torch.set_num_threads({threads})

def stop(self, trainer, *args):
    if trainer.global_step == 3:
        os.kill(os.getpid(), signal.SIGKILL)

callbacks.TrainingProgress.on_train_batch_end = stop
cli.main()
"""
"""Sums of other numbers of threads differ in their last bits."""


@pytest.mark.slow
def test_a_training_killed_amid_an_epoch_ends_the_same(folder: Path, whole: Path) -> None:
    (folder / "killed.yaml").write_text(config.to_yaml(settings(folder, "killed")))
    command = [
        sys.executable,
        "-c",
        SUICIDE.format(threads=torch.get_num_threads()),
        "train",
        str(folder / "killed.yaml"),
        "--continue",
    ]
    assert subprocess.run(command, stdout=subprocess.DEVNULL).returncode == -signal.SIGKILL
    run = folder / "runs" / "killed"
    assert torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["epoch"] == 0
    train_or_continue(settings(folder, "killed"), QUIET)
    assert digests(run) == digests(whole)


def test_a_killed_sweep_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    """The sweep is killed while its second trial runs, which lives on, and then has nothing left to do."""
    script = tmp_path / "trial.py"
    script.write_text(
        "import sys, time, pathlib\n"
        "given = dict(word.split('=', 1) for word in sys.argv[1:] if '=' in word)\n"
        "run = pathlib.Path(given['runs']) / given['name']\n"
        "run.mkdir(parents=True, exist_ok=True)\n"
        "with open(run / 'starts', 'a') as file: file.write('x')\n"
        "time.sleep(0.3)\n"
        "(run / 'test.csv').write_text('dice_after,gwi_after,folding_percent\\n' + given['x'] + ',1,1\\n')\n"
    )
    (tmp_path / "search.yaml").write_text(
        yaml.safe_dump(
            {
                "program": str(script),
                "command": ["${interpreter}", "${program}", "${args_no_hyphens}"],
                "method": "grid",
                "metric": {"name": "test/dice_after", "goal": "maximize"},
                "parameters": {"x": {"values": [0.1, 0.2, 0.3]}},
            }
        )
    )
    search = sweep.load(str(tmp_path / "search.yaml"))
    trials = tmp_path / "out" / "trials"
    process = multiprocessing.get_context("fork").Process(
        target=run_local, args=(search, tmp_path / "out", 0, None, 1, QUIET)
    )
    process.start()
    wait_for((trials / "trial-002" / "starts").exists)
    process.kill()
    process.join()
    assert not (trials / "trial-003").exists()
    table = pd.read_csv(run_local(search, tmp_path / "out", 0, None, 1, QUIET) / "sweep.csv")
    assert list(table["test/dice_after"]) == [0.3, 0.2, 0.1]
    assert (trials / "trial-001" / "starts").read_text() == "x", "what was done is not done again"


LATE = """
import pathlib, sys, time
from bingo_pl.errors import BingoError
from bingo_pl.storage.locking import held

def wait_for(path):
    while not path.exists():
        time.sleep(0.01)

given = dict(word.split('=', 1) for word in sys.argv[1:] if '=' in word)
run, here = pathlib.Path(given['runs']) / given['name'], pathlib.Path(__file__).parent
survivor = 'survivor' in sys.argv
if not survivor:
    (here / 'begun').touch()
wait_for(here / ('begun' if survivor else 'held'))
try:
    with held(run):
        run.mkdir(parents=True, exist_ok=True)
        (here / 'held').touch()
        wait_for(here / 'refused')
        time.sleep(0.2)
        (run / 'test.csv').write_text('dice_after,gwi_after,folding_percent\\n0.5,1,1\\n')
except BingoError:
    (here / 'refused').touch()
    sys.exit(2)
"""


def test_a_trial_that_outlived_its_sweep_and_holds_its_run_late_is_waited_for(tmp_path: Path) -> None:
    """The sweep's own process is refused then, which is no failure of the trial."""
    script, out = tmp_path / "trial.py", tmp_path / "out"
    script.write_text(LATE)
    tree = {
        "program": str(script),
        "command": ["${interpreter}", "${program}", "${args_no_hyphens}"],
        "method": "grid",
        "metric": {"name": "test/dice_after", "goal": "maximize"},
        "parameters": {"x": {"values": [0.1]}},
    }
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(tree))
    trial = [f"runs={out / 'trials'}", "name=trial-001", "survivor"]
    survivor = subprocess.Popen([sys.executable, str(script), *trial])
    table = pd.read_csv(run_local(sweep.load(str(tmp_path / "search.yaml")), out, 0, None, 1, QUIET) / "sweep.csv")
    assert survivor.wait(PATIENCE) == 0
    assert table["state"].tolist() == ["finished"]


def test_a_run_that_is_done_is_left_alone(folder: Path, whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*")}
    assert train_or_continue(settings(folder, "whole"), QUIET) == whole
    assert {path: path.stat().st_mtime_ns for path in whole.rglob("*")} == before


def test_a_run_does_not_go_on_with_other_settings(folder: Path, whole: Path) -> None:
    with pytest.raises(BingoError, match=r"other settings \(trainer\.epochs: 3 -> 4\)"):
        train_or_continue(settings(folder, "whole", "trainer.epochs=4"), QUIET)
    assert train_or_continue(settings(folder, "whole", "log.figure_groups=0"), QUIET) == whole


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("held", "message"),
    [
        (["thesis.txt"], r"not the folder of a run: it has no config\.yaml"),
        (["config.yaml", "thesis.txt"], r"yet holds thesis\.txt\. Nothing was changed"),
        (["config.yaml", "figures/curves.png"], r"yet holds figures\."),
        (["config.yaml", "hpc_ckpt_1.ckpt"], r"yet holds hpc_ckpt_1\.ckpt\."),
        (["config.yaml", "checkpoints/best.ckpt"], r"holds checkpoints/best\.ckpt.*bingo resume .*best\.ckpt"),
    ],
)
def test_what_no_killed_run_has_left_is_never_removed(folder: Path, held: list[str], message: str) -> None:
    run = folder / "runs" / f"notes-{'-'.join(held).replace('/', '-')}"
    for name in held:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("dear")
    mine = settings(folder, run.name)
    if "config.yaml" in held:
        (run / "config.yaml").write_text(config.to_yaml(mine))
    before = files(run)
    with pytest.raises(BingoError, match=message):
        train_or_continue(mine, QUIET)
    assert files(run) == before


def test_a_run_of_other_settings_without_a_checkpoint_is_left_alone(folder: Path) -> None:
    run = folder / "runs" / "begun"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(config.to_yaml(settings(folder, "begun", "trainer.epochs=9")))
    with pytest.raises(BingoError, match=r"other settings \(trainer\.epochs: 9 -> 3\)"):
        train_or_continue(settings(folder, "begun"), QUIET)
    assert list(files(run)) == ["config.yaml"]


@pytest.mark.slow
def test_a_run_killed_before_its_first_checkpoint_begins_in_its_folder(folder: Path, whole: Path) -> None:
    run = folder / "runs" / "early"
    (run / "checkpoints").mkdir(parents=True)
    (run / "wandb").mkdir()
    (run / "wandb" / "notes.txt").write_text("kept")
    (run / "config.yaml").write_text(config.to_yaml(settings(folder, "early")))
    (run / "metrics.csv").write_text("step,train/total\n0,1\n")
    (run / ".metrics.csv.123.tmp").write_text("half")
    assert train_or_continue(settings(folder, "early"), QUIET) == run
    kept = files(run)
    assert kept.pop("wandb/notes.txt") == b"kept"
    assert set(kept) == set(files(whole))
    assert (run / "metrics.csv").read_text() == (whole / "metrics.csv").read_text()


def test_an_edited_configuration_is_not_undone_unnoticed(folder: Path, whole: Path) -> None:
    edited = folder / "runs" / "edited"
    shutil.copytree(whole, edited)
    text = (edited / "config.yaml").read_text()
    (edited / "config.yaml").write_text(text.replace("epochs: 3", "epochs: 5"))
    last = edited / "checkpoints" / "last.ckpt"
    with pytest.raises(BingoError, match=r"config\.yaml is not .*: trainer\.epochs: 3 -> 5\. A resume takes"):
        experiment.resume(last, (), False, QUIET)
    experiment.resume(last, ["trainer.epochs=4"], False, QUIET)  # said aloud, it is obeyed
    assert config.load(str(edited / "config.yaml")).trainer.epochs == 4


def test_a_changed_number_of_processes_is_refused(folder: Path, whole: Path) -> None:
    last = whole / "checkpoints" / "last.ckpt"
    with pytest.raises(BingoError, match=r"1 -> 2\..*--allow-changed-processes"):
        experiment.resume(last, ["trainer.devices=2"], False, QUIET)


def test_changed_cases_are_named(folder: Path, whole: Path) -> None:
    copy = folder / "copy"
    shutil.copytree(folder / "cohort", copy)
    os.utime(copy / "0_a.nii.gz", (0, 0))
    manifest = pd.read_csv(copy / "manifest.csv")
    manifest[manifest.group != "group1"].to_csv(copy / "manifest.csv", index=False)
    with pytest.raises(BingoError, match=r"changed: train/group0; missing: train/group1\."):
        experiment.resume(whole / "checkpoints" / "last.ckpt", [f"data.root={copy}"], False, QUIET)


def test_a_moved_run_keeps_its_best_score(tmp_path: Path) -> None:
    """Lightning forgets it, and the next epoch, however bad, would overwrite the best checkpoint."""
    old, new = (keep_checkpoint(tmp_path / place, "best", "val/gwi", 1) for place in ("here", "there"))
    path = str(tmp_path / "here" / "checkpoints" / "best.ckpt")
    old.best_model_path = old.kth_best_model_path = path
    old.best_model_score = old.kth_value = torch.tensor(0.5)
    old.best_k_models = {path: torch.tensor(0.5)}
    new.load_state_dict(old.state_dict())
    assert new.best_k_models == {str(tmp_path / "there" / "checkpoints" / "best.ckpt"): torch.tensor(0.5)}
    assert new.best_model_score == new.kth_value == 0.5


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    WholeCheckpoints().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        WholeCheckpoints().save_checkpoint({"weights": torch.zeros(9), "epoch": lambda: 2}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]
