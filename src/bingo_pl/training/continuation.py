"""A run that is started as often as one likes: begun, taken up where it stopped, or found done."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_only
from rich.console import Console
from rich.markup import escape

from bingo_pl import config as settings
from bingo_pl.atomic import check_place
from bingo_pl.config import Config
from bingo_pl.errors import BingoError
from bingo_pl.names import check_file_name
from bingo_pl.training import experiment
from bingo_pl.training.processes import agreed
from bingo_pl.training.resumption import changes

DONE = "test.csv"
"""A run writes it when its training is done."""
CHECKPOINT = "BINGO_CHECKPOINT"
"""Environment variable by which the processes of one run agree on what it goes on from, see `_state`."""


def train_or_continue(config: Config, console: Console) -> Path:
    """Train ``config.runs/config.name``, go on with it where it was interrupted, or leave it where it is done.

    Where another process is at the same run, e.g. a trial whose sweep was killed, this one waits until that ends.

    Returns:
        The run's folder.

    Raises:
        BingoError: the folder is of a run with other settings or data, or not a run; or as `experiment.train`.
    """
    run = Path(config.runs) / config.name
    check_file_name(config.name, "run")
    check_place(run)
    with _alone(run, console) if rank_zero_only.rank == 0 else nullcontext():  # type: ignore[attr-defined]
        state = agreed(CHECKPOINT, lambda: _state(run, config, console))
        if state == DONE:
            return run
        if state:
            return experiment.resume(Path(state), (), False, console)
        return experiment.train(config, console)


def _state(run: Path, config: Config, console: Console) -> str:
    """The checkpoint to go on from, `DONE`, or nothing, and then the folder is removed."""
    last = _begun(run, config)
    if (run / DONE).exists():
        console.print(f"already done: {escape(str(run))}", soft_wrap=True)
        return DONE
    if last:
        console.print(f"going on with {escape(str(run))}", soft_wrap=True)
        for leftover in run.rglob(".*.tmp"):  # of a file whose writing was killed
            leftover.unlink()
    else:
        shutil.rmtree(run, ignore_errors=True)  # killed before its first checkpoint
    return str(last or "")


def _begun(run: Path, config: Config) -> Path | None:
    """The checkpoint to go on from, if there is one; refuses what is not this run."""
    last, written = run / "checkpoints" / "last.ckpt", run / "config.yaml"
    if not last.exists() and not (run / DONE).exists():
        foreign = run.exists() and not written.exists() and any(path.name[0] != "." for path in run.iterdir())
        if foreign:
            raise BingoError(f"{run} is not the folder of a run: it has no config.yaml. Give the run another name")
        return None
    different = changes(settings.load(str(written)), config)
    if different:
        raise BingoError(
            f"{run} is a run of other settings ({'; '.join(different)}). Restore them, give the run another name, or "
            "remove that folder to begin anew"
        )
    return last


@contextmanager
def _alone(run: Path, console: Console) -> Iterator[None]:
    """Holds the lock of a run, which the system opens when the process ends, however it ends."""
    lock = FileLock(run.with_name(f".{run.name}.lock"))
    try:
        run.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        console.print(f"another process is at {escape(str(run))}; waiting until it ends", soft_wrap=True)
        lock.acquire()
    except OSError as error:
        raise BingoError(
            f"cannot write in {run.parent}: {error.strerror}. Set runs= to a folder of your own"
        ) from error
    try:
        yield
    finally:
        lock.release()
