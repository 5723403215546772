"""Replays calls that try to lose data or to get a traceback, over all commands; counts what should not happen.

``python -m benchmarks.hostile``. See README.md.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from rich.console import Console

from benchmarks.hostile_call import GROUP, REGISTER, TRAINING, Call
from benchmarks.hostile_images import of_images
from benchmarks.hostile_native import of_native
from benchmarks.hostile_runs import of_runs
from benchmarks.kill import import_all, write_cohort
from bingo_pl import cli

console = Console()
FORK = multiprocessing.get_context("fork")
TRACEBACK = re.compile(r"Traceback \(most recent call last\)|^\s+File \".*\", line \d+, in ", re.MULTILINE)
PATIENCE = 300.0
"""Seconds after which a call counts as hanging; other work may share the machine."""
HEAD_START = 0.7
"""Seconds that a command is at work before it gets a signal, or before a second one comes."""
MEMORY = 6 * 2**30
"""Bytes that a call can have: one that wants more fails instead of bringing the machine down."""
SPARED = (".lock", ".holder.json")
"""Endings of what may be left by a call that was refused: the system opens a lock when its process ends."""


@dataclass(frozen=True)
class Outcome:
    """What a call did."""

    call: Call
    status: int | None
    """None where it hung."""
    output: str
    faults: tuple[str, ...]
    """All of it that should not have happened; empty where the call ended as it should."""
    lost: int
    """Files of before that are changed or gone."""

    @property
    def traceback(self) -> bool:
        return bool(TRACEBACK.search(self.output))


class Playground:
    """A folder for each call: images, a finished run, a model and a registration in ``work``, a file beside it."""

    def __init__(self, folder: Path) -> None:
        """Make the files that each call gets a copy of: a cohort, an epoch of training, a registration."""
        import_all()
        self.folder = folder
        self.template = folder / "template"
        work = self.template / "work"
        work.mkdir(parents=True)
        (self.template / "victim.txt").write_text("somebody's work")
        write_cohort(work)
        rows = ("modality,image,label", "a,cohort/5_a.nii.gz,cohort/5_label.nii.gz", "b,cohort/5_b.nii.gz,")
        (work / "group.csv").write_text("\n".join(rows) + "\n")
        (work / "points.csv").write_text("r,a,s\n8,8,0\n7,6,0\n")
        self._must(["train", "manifest", *TRAINING, "trainer.epochs=1", "log.figure_groups=0", "name=run"], work)
        shutil.copy(work / "runs" / "run" / "checkpoints" / "best.ckpt", work / "model.ckpt")
        for beside in (work / "runs" / "run" / "checkpoints").glob("best.ckpt?*"):
            shutil.copy(beside, work / beside.name.replace("best", "model"))
        self._must([*REGISTER, "--output", "out", "--label", "a=cohort/5_label.nii.gz", *GROUP], work)
        self.calls = 0

    @staticmethod
    def _must(command: Sequence[str], work: Path) -> None:
        status, output = run(command, work)
        assert status == 0, f"{' '.join(command)} ends with {status}:\n{output}"

    def play(self, call: Call) -> Outcome:
        """Run a call in a copy of the files and look at what it left; the copy is kept where there is a fault."""
        self.calls += 1
        root = self.folder / f"{self.calls:04d}"
        shutil.copytree(self.template, root, symlinks=True)
        work = root / "work"
        call.change(work)
        before = snapshot(root)
        first = Running(call.beside, work) if call.beside else None
        if first:
            first.wait_until_at_work()
        status, output = run(call.command, work, call.sends, call.file_limit)
        faults = list(_wrong_end(call, status, output))
        if first and first.end()[0] != 0:
            faults.append(f"the command beside it ends with {first.end()[0]}: {first.end()[1][-300:]}")
        after = snapshot(root)
        changed = [path for path in before if after.get(path) != before[path] and not _allowed(path, call.may_change)]
        if changed:
            faults.append(f"changed or gone: {_some(changed)}")
        made = [] if first else sorted(after.keys() - before.keys())
        if left := [path for path in made if _left_over(path, call, status)]:
            faults.append(f"left: {_some(left)}")
        if call.again and (ending := run(call.again, work))[0] != 0:
            faults.append(f"then fails with {ending[0]}: {ending[1][-300:]}")
        if not faults:
            shutil.rmtree(root)
        return Outcome(call, status, output, tuple(faults), len(changed))


def _wrong_end(call: Call, status: int | None, output: str) -> Iterator[str]:
    if status not in call.wanted:
        ending = "hangs" if status is None else f"exit {status}"
        yield f"{ending}, wanted {' or '.join(map(str, call.wanted))}"
    if TRACEBACK.search(output):
        yield "traceback"
    if not output.strip():
        yield "says nothing"


class Running:
    """A command in a process of its own, forked after the imports, in a process group of its own."""

    def __init__(self, command: Iterable[str], work: Path, file_limit: int | None = None) -> None:
        self.work = work
        reader, writer = os.pipe()  # no file, which a limit would hit too
        words = [word.replace("{work}", str(work)) for word in command]
        self.process: ForkProcess = FORK.Process(target=_work, args=(words, work, writer, file_limit))
        self.process.start()
        os.close(writer)
        self._chunks: list[bytes] = []
        self._thread = threading.Thread(target=self._read, args=(reader,), daemon=True)
        self._thread.start()

    def _read(self, reader: int) -> None:
        with os.fdopen(reader, "rb") as pipe:
            for chunk in iter(lambda: pipe.read1(65536), b""):
                self._chunks.append(chunk)

    def wait_until_at_work(self) -> None:
        """Until it has printed or made something, and `HEAD_START` longer; or until it ends."""
        end, files = time.monotonic() + PATIENCE / 2, _files(self.work)
        while self.process.exitcode is None and time.monotonic() < end:
            if self._chunks or _files(self.work) != files:
                break
            time.sleep(0.1)
        self.process.join(HEAD_START)

    def send(self, number: signal.Signals) -> None:
        """As a terminal does (SIGINT, to all processes of the group), or as ``kill`` does."""
        self.wait_until_at_work()
        if self.process.exitcode is None:
            (os.killpg if number == signal.SIGINT else os.kill)(self.process.pid or 0, number)

    def end(self) -> tuple[int | None, str]:
        """Exit status as a shell has it, None where the process hung and had to be killed, and all that was printed."""
        self.process.join(PATIENCE)
        code = self.process.exitcode
        if code is None:
            os.killpg(self.process.pid or 0, signal.SIGKILL)
            self.process.join()
        self._thread.join(5)
        return (128 - code if code is not None and code < 0 else code), b"".join(self._chunks).decode(errors="replace")


def run(
    command: Sequence[str], work: Path, sends: signal.Signals | None = None, file_limit: int | None = None
) -> tuple[int | None, str]:
    """Run a command to its end: exit status and all that it printed."""
    running = Running(command, work, file_limit)
    if sends:
        running.send(sends)
    return running.end()


def _work(command: list[str], work: Path, output: int, file_limit: int | None) -> None:
    os.setsid()
    os.chdir(work)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    of_user = str(work / "cache")
    os.environ |= {"XDG_CACHE_HOME": of_user, "XDG_STATE_HOME": of_user, "WANDB_MODE": "disabled"}
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.RLIM_INFINITY))
    if file_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
    torch.set_num_threads(1)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = ["bingo", *command]
    cli.main()


def snapshot(root: Path) -> dict[str, str]:
    """Everything below a folder: digests of files, where links point to, else what it is."""
    return {str(path.relative_to(root)): _state(path) for path in root.rglob("*")}


def _state(path: Path) -> str:
    if path.is_symlink():
        return f"link to {os.readlink(path)}"
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return "folder" if path.is_dir() else "special"


def _files(folder: Path) -> int:
    return sum(1 for _ in folder.rglob("*"))


def _allowed(path: str, places: tuple[str, ...]) -> bool:
    """Whether a path is one of the places, below one, or a folder above one."""
    own = Path(path)
    return any(own.is_relative_to(place) or place.is_relative_to(own) for place in (Path("work") / p for p in places))


def _left_over(path: str, call: Call, status: int | None) -> bool:
    """Whether a path that a call has made should not be there: anything after a refusal, else what is half-written."""
    parts = Path(path).parts
    if parts[0] != "work":
        return True
    if path.endswith(SPARED) or "cache" in parts:
        return False
    temporary = any(re.fullmatch(r"\..*\.tmp.*", part) for part in parts)
    return temporary or (status not in (0, 1) and not _allowed(path, call.may_leave))


def _some(paths: Sequence[str]) -> str:
    return ", ".join(paths[:4]) + (f" and {len(paths) - 4} more" if len(paths) > 4 else "")


def main(
    only: Annotated[str, typer.Option(help="Themes, separated by commas. Empty: all")] = "",
    folder: Annotated[Path | None, typer.Option(help="Folder to work in; a new temporary one if not given")] = None,
    output: Annotated[Path | None, typer.Option(help="CSV file for a row per call")] = None,
) -> None:
    """Replay the calls; the exit status is 1 where there is a fault."""
    themes = [theme for theme in only.split(",") if theme]
    chosen = [call for call in (*of_images(), *of_native(), *of_runs()) if not themes or call.theme in themes]
    work = Path(tempfile.mkdtemp(prefix="hostile-", dir=folder))
    playground = Playground(work)
    outcomes = []
    for call in chosen:
        outcomes.append(playground.play(call))
        for fault in outcomes[-1].faults:
            console.print(f"{call.title}: {fault}", markup=False, soft_wrap=True)
    rows = [
        {
            "theme": outcome.call.theme,
            "call": outcome.call.name,
            "status": outcome.status,
            "faults": "; ".join(outcome.faults),
            "traceback": outcome.traceback,
            "lost": outcome.lost,
        }
        for outcome in outcomes
    ]
    if output:
        pd.DataFrame(rows).to_csv(output, index=False)
    faulty = sum(bool(outcome.faults) for outcome in outcomes)
    console.print(
        f"{len(outcomes)} calls: {faulty} faults, {sum(outcome.traceback for outcome in outcomes)} tracebacks, "
        f"{sum(outcome.lost for outcome in outcomes)} files lost"
    )
    if faulty:
        console.print(f"kept for inspection: {work}", markup=False, soft_wrap=True)
    else:
        shutil.rmtree(work)
    raise typer.Exit(bool(faulty))


if __name__ == "__main__":
    typer.run(main)
