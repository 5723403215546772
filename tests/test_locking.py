"""One process at a time works in a folder; a second one learns who does."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from rich.console import Console

from bingo_pl import BingoError
from bingo_pl.config import TableConfig, load_table
from bingo_pl.images.members import Member
from bingo_pl.registration.streamed import register_files
from bingo_pl.storage.locking import InUseError, held, holder_of
from bingo_pl.studies.comparison import compare
from bingo_pl.sweeps import trials
from bingo_pl.sweeps.local import run_local
from bingo_pl.training import experiment
from bingo_pl.training.continuation import train_or_continue

from .test_experiment import SETTINGS, settings

QUIET = Console(quiet=True)
FORK = multiprocessing.get_context("fork")


@contextmanager
def held_elsewhere(folder: Path) -> Iterator[str]:
    """Another process holds the lock of a folder; yields its words for that."""
    ready, done = FORK.Event(), FORK.Event()

    def hold() -> None:
        with held(folder):
            ready.set()
            done.wait()

    process = FORK.Process(target=hold)
    process.start()
    assert ready.wait(30)
    try:
        yield f"process {process.pid} on {socket.gethostname()}"
    finally:
        done.set()
        process.join()


def test_a_second_process_is_refused_with_the_first_ones_id_and_host(tmp_path: Path) -> None:
    with held_elsewhere(tmp_path / "run") as who:
        assert holder_of(tmp_path / "run") == who
        with pytest.raises(InUseError, match=f"in use by {re.escape(who)}"), held(tmp_path / "run"):
            pass
    with held(tmp_path / "run"), held(tmp_path / "run"):  # a process may take it again
        assert holder_of(tmp_path / "run") == ""
    assert list(tmp_path.iterdir()) == [], "nothing is left"


def test_a_lock_is_that_of_the_folder_whatever_links_lead_to_it(tmp_path: Path) -> None:
    (tmp_path / "disk" / "run").mkdir(parents=True)
    (tmp_path / "run").symlink_to(tmp_path / "disk" / "run")
    with held_elsewhere(tmp_path / "disk" / "run"), pytest.raises(InUseError), held(tmp_path / "run"):
        pass


def test_a_link_that_leads_nowhere_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "lost").symlink_to(tmp_path / "nowhere")
    for name in ("loop", "lost"):
        with pytest.raises(BingoError, match=f"{name} is a link"):
            register_files([], tmp_path / name, 2**20, console=QUIET)
        with pytest.raises(BingoError, match=f"{name} is a link to nothing"):
            train_or_continue(settings(tmp_path, name, f"runs={tmp_path}"), QUIET)
    assert {path.name for path in tmp_path.iterdir()} == {"loop", "lost"}


def test_a_place_that_takes_no_file_is_not_said_to_be_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in /proc: filelock cannot open its file, and waits for it."""

    def wait(lock: FileLock, **given: object) -> None:
        raise Timeout(lock.lock_file)

    monkeypatch.setattr(FileLock, "acquire", wait)
    with (
        pytest.raises(BingoError, match=r"cannot make a lock in .* takes no files") as refused,
        held(tmp_path / "x"),
    ):
        pass
    assert not isinstance(refused.value, InUseError)


def test_a_lock_outlives_no_process(tmp_path: Path) -> None:
    def die() -> None:
        with held(tmp_path / "run"):
            os._exit(9)

    process = FORK.Process(target=die)
    process.start()
    process.join()
    assert (tmp_path / ".run.holder.json").exists(), "it had no time to tidy up"
    assert holder_of(tmp_path / "run") == ""
    with held(tmp_path / "run"):
        pass


def test_of_many_one_at_a_time_holds_it(tmp_path: Path) -> None:
    """Though each removes the file of the lock when it is done with it."""
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(20):
            try:
                with held(tmp_path / "run"):
                    inside[0] += 1
                    time.sleep(1e-4)
                    most[0] = max(most[0], inside[0])
                    inside[0] -= 1
            except InUseError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]


def _search(folder: Path) -> trials.Sweep:
    (folder / "search.yaml").write_text(
        "program: bingo\ncommand: ['false', '${args_no_hyphens}']\nmethod: grid\n"
        "metric: {name: val/gwi}\nparameters: {seed: {values: [0]}}\n"
    )
    return trials.load(str(folder / "search.yaml"))


def _compare(folder: Path) -> object:
    """Two rows, of which the second one is `ape`."""
    methods = load_table("manifest").methods
    table = TableConfig("manifest", {name: methods[name] for name in ("cte", "ape")})
    places = (f"data.root={folder / 'cohort'}", f"data.cache_dir={folder / 'cache'}", "iterative.steps=1")
    data = [setting for setting in SETTINGS if not setting.startswith("model.")]
    return compare(table, [*data, *places], [], {}, folder / "table", QUIET)


COMMANDS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "train --continue": ("runs/mine", lambda folder: train_or_continue(settings(folder, "mine"), QUIET)),
    "sweep": ("sweep", lambda folder: run_local(_search(folder), folder / "sweep", 0, None, 1, QUIET)),
    "register --memory": (
        "out",
        lambda folder: register_files([Member("a", folder / "cohort" / "0_a.nii.gz")], folder / "out", 10**9),
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_that_another_process_works_in_is_left_alone(folder: Path, command: str) -> None:
    place, run = COMMANDS[command]
    with held_elsewhere(folder / place) as who, pytest.raises(InUseError, match=re.escape(who)):
        run(folder)
    assert not (folder / place).exists()


def test_a_row_that_another_process_makes_is_left_to_it(folder: Path) -> None:
    """And with it the table's other rows: the one that came first would meet this one there."""
    with held_elsewhere(folder / "table" / "ape") as who, pytest.raises(InUseError, match=re.escape(who)):
        _compare(folder)
    assert list((folder / "table").iterdir()) == []


@pytest.mark.slow
def test_a_run_that_another_process_trains_does_not_resume(folder: Path) -> None:
    run = experiment.train(settings(folder, "whole", "trainer.epochs=1"), QUIET)
    last = run / "checkpoints" / "last.ckpt"
    before = last.stat().st_mtime_ns
    with held_elsewhere(run) as who, pytest.raises(InUseError, match=re.escape(who)):
        experiment.resume(last, ["trainer.epochs=2"], False, QUIET)
    assert last.stat().st_mtime_ns == before
    shutil.rmtree(run)
    with held_elsewhere(run):  # a run of this name begins just now: the next number is free
        assert experiment.train(settings(folder, "whole", "trainer.epochs=1"), QUIET).name == "whole-2"
