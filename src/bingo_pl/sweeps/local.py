"""A sweep without W&B and network: ``bingo sweep FILE --local``."""

from __future__ import annotations

import difflib
import queue
import signal
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pandas as pd
import yaml
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bingo_pl.errors import BingoError, InputError, unknown_name
from bingo_pl.storage.atomic import check_place, replacing
from bingo_pl.storage.csv_files import read_table
from bingo_pl.storage.locking import held, holder_of
from bingo_pl.storage.regular import is_file
from bingo_pl.sweeps.trials import OF_TRIALS, Settings, Sweep, as_arguments, environment, shares_of_gpus
from bingo_pl.training.continuation import DONE

IDENTITY = "sweep.yaml"
RESULTS = "sweep.csv"
TRIALS = "trials"
SHOWN = ("test/dice_after", "test/gwi_after", "test/folding_percent")
"""Results beside the metric."""
POLL_SECONDS = 0.5
"""Between looks at a run that another process is at."""
LOG_LINES = 5
"""Of a failed trial that are shown."""


@dataclass(frozen=True)
class Trial:
    """One training of a sweep."""

    name: str
    settings: Settings
    run: Path
    log: Path

    @property
    def done(self) -> bool:
        return (self.run / DONE).exists()


class Children:
    """The processes of trials. They end with the sweep, each with a checkpoint, unless that is killed by SIGKILL."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.processes: set[subprocess.Popen[bytes]] = set()
        self.lock = threading.Lock()
        self.ending = threading.Event()

    def wait_for(self, run: Path) -> None:
        """Return when nobody is at a run: one that outlived its killed sweep may be."""
        if holder := holder_of(run):
            self.console.print(
                f"{escape(run.name)}: waiting for {escape(holder)}, which is at it already", soft_wrap=True
            )
        while holder_of(run) and not self.ending.wait(POLL_SECONDS):
            pass

    def run(self, command: list[str], variables: dict[str, str], log: IO[str]) -> int:
        """The exit status of a command, which is not begun where the sweep is ending."""
        with self.lock:
            if self.ending.is_set():
                return -signal.SIGTERM
            process = subprocess.Popen(
                command, env=variables, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            self.processes.add(process)
        try:
            return process.wait()
        finally:
            self.processes.discard(process)

    def terminate(self) -> None:
        """Ask all of them to end, and begin no more."""
        with self.lock:
            self.ending.set()
            for process in [*self.processes]:
                process.terminate()


def run_local(sweep: Sweep, folder: Path, seed: int, count: int | None, agents: int, console: Console) -> Path:
    """Run the trials of a sweep, each a process of its own; what earlier, interrupted calls have done is kept.

    A trial that failed or was killed does not keep the others from running; the same call again resumes it.

    Args:
        sweep: what to search.
        folder: ``trials/`` (a run each), ``logs/``, ``sweep.yaml`` and ``sweep.csv``, the results, best first.
        seed: of a random search.
        count: trials at most.
        agents: trials at a time, each with its share of the GPUs.
        console: progress and results are printed there.

    Returns:
        The folder.

    Raises:
        BingoError: a sweep that needs W&B, results of another sweep in the folder, or, once all else is done, trials
            that failed.
    """
    check_place(folder / RESULTS)
    if "early_terminate" in sweep.tree:
        raise InputError("early_terminate needs W&B's server", "Take it out of the sweep file, or leave --local out")
    trials = [
        Trial(name, settings, folder / TRIALS / name, folder / "logs" / f"{name}.log")
        for index, settings in enumerate(sweep.trials(seed, count), start=1)
        for name in [f"trial-{index:03}"]
    ]
    with held(folder):
        return _run_trials(sweep, trials, folder, seed, agents, console)


def _run_trials(sweep: Sweep, trials: list[Trial], folder: Path, seed: int, agents: int, console: Console) -> Path:
    _refuse_others(sweep, seed, folder)
    waiting = [trial for trial in trials if not trial.done]
    console.print(f"{len(trials)} trials, {len(trials) - len(waiting)} of them done. Results: {escape(str(folder))}")
    failed = _run_all(sweep, trials, waiting, folder, agents, console)
    console.print(_as_table(sweep, write_results(sweep, trials, folder)))
    console.print(f"written: {escape(str(folder / RESULTS))}")
    if failed:
        raise BingoError(
            f"{len(failed)} of {len(trials)} trials failed: {', '.join(failed)}",
            f"{folder / 'logs'} says why; the same command tries them again",
        )
    return folder


def _run_all(
    sweep: Sweep, trials: list[Trial], waiting: list[Trial], folder: Path, agents: int, console: Console
) -> list[str]:
    """Run what waits, as many at a time as there are agents; the names of the trials that failed."""
    free: queue.SimpleQueue[list[str]] = queue.SimpleQueue()
    for gpus in shares_of_gpus(agents):
        free.put(gpus)

    def run(trial: Trial) -> int:
        gpus = free.get()
        console.print(
            escape(f"{trial.name}: {' '.join(as_arguments(trial.settings))}"), soft_wrap=True, highlight=False
        )
        try:
            return _run(sweep, trial, gpus, children)
        finally:
            free.put(gpus)

    failed = []
    children = Children(console)
    with ThreadPoolExecutor(agents) as pool:
        try:
            futures = {pool.submit(run, trial): trial for trial in waiting}
            for future in as_completed(futures):
                trial, status = futures[future], future.result()
                if status or not trial.done:
                    failed.append(trial.name)
                    console.print(f"[yellow]{escape(trial.name)} ended with status {status}:[/]")
                    console.print(_end(trial.log), markup=False, highlight=False, soft_wrap=True)
                write_results(sweep, trials, folder)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children.terminate()
            raise
    return sorted(failed)


def _run(sweep: Sweep, trial: Trial, gpus: list[str], children: Children) -> int:
    """The exit status of a trial, 0 where somebody else has finished it.

    One that outlived its killed sweep may still be starting, and hold its run only after this one has begun: the one
    that comes too late is refused, and waits.
    """
    arguments = [*as_arguments(trial.settings), "log.wandb=disabled", f"name={trial.name}", f"runs={trial.run.parent}"]
    trial.log.parent.mkdir(parents=True, exist_ok=True)
    command = sweep.command(["--continue", *arguments])
    while True:
        children.wait_for(trial.run)
        if trial.done:
            return 0
        with trial.log.open("a") as log:
            status = children.run(command, environment(gpus), log)
        if not status or children.ending.is_set() or not holder_of(trial.run):
            return 0 if trial.done else status


def write_results(sweep: Sweep, trials: list[Trial], folder: Path) -> pd.DataFrame:
    """Write and return the results so far, a row a trial, best first and unfinished last.

    Columns: ``trial``, ``state`` (finished or unfinished), the metric, other results, the settings.
    """
    columns = [sweep.metric, *(name for name in SHOWN if name != sweep.metric)]
    rows = [
        {
            "trial": trial.name,
            "state": "finished" if trial.done else "unfinished",
            **{name: read_metric(trial.run, name) if trial.done else None for name in columns},
            **trial.settings,
        }
        for trial in trials
    ]
    table = pd.DataFrame(rows).sort_values(
        ["state", sweep.metric, "trial"], ascending=[True, not sweep.maximises, True], ignore_index=True
    )
    with replacing(folder / RESULTS) as temporary:
        table.to_csv(temporary, index=False, na_rep="nan")
    return table


def read_metric(run: Path, name: str) -> float:
    """A result of a finished run by the name that W&B knows it by.

    Args:
        run: the run's folder.
        name: ``test/<column of test.csv>``, its mean over the groups; else a column of `metrics.csv`, its last value,
            as W&B's summary has it.

    Raises:
        BingoError: the run has no such result.
    """
    stage, _, column = name.partition("/")
    path = run / ("test.csv" if stage == "test" else "metrics.csv")
    table = read_table(path, [], f"Restore it, or remove {run} to run this trial again")
    column = column if stage == "test" else name
    if column not in table:
        prefix = "test/" if stage == "test" else ""
        raise unknown_name("metric", name, [f"{prefix}{known}" for known in table.columns if known != "step"])
    values = table[column].dropna()
    if values.empty:
        return float("nan")
    return float(values.mean() if stage == "test" else values.iloc[-1])


def _refuse_others(sweep: Sweep, seed: int, folder: Path) -> None:
    """Keep what the trials in a folder depend on; refuse to add those of another sweep."""
    own = yaml.safe_dump({**{key: sweep.tree[key] for key in OF_TRIALS}, "seed": seed})
    path = folder / IDENTITY
    if is_file(path):
        lines = difflib.unified_diff(path.read_text(errors="replace").splitlines(), own.splitlines(), lineterm="", n=0)
        changed = [line for line in lines if not line.startswith(("---", "+++", "@@"))]
        if changed:
            raise InputError(
                f"{folder} holds trials of another sweep: {'; '.join(changed)}",
                "Restore the sweep file and settings, or give another folder (--output)",
            )
        return
    with replacing(path) as temporary:
        temporary.write_text(own)


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:])


def _as_table(sweep: Sweep, results: pd.DataFrame) -> Table:
    """A row a trial, its settings below one another: side by side they do not fit a terminal."""
    numbers = [name for name in results.columns if name == sweep.metric or name in SHOWN]
    settings = [name for name in results.columns if name not in ("trial", "state", *numbers)]
    table = Table("trial", title=escape(f"{sweep.name}: {sweep.metric}, best first"), box=SIMPLE, padding=(0, 1, 0, 0))
    for name in numbers:
        table.add_column(name.replace("/", "/\n").replace("_", "_\n"), justify="right", no_wrap=True)
    table.add_column("settings", overflow="fold")
    for row in results.to_dict(orient="records"):
        trial = row["trial"] if row["state"] == "finished" else f"{row['trial']}\n{row['state']}"
        varied = escape("\n".join(f"{name}={_short(row[name])}" for name in settings))
        table.add_row(trial, *(_short(row[name]) for name in numbers), varied)
    return table


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
