"""A run that is started as often as one likes: begun, resumed where it stopped, or found done."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape

from bingo_pl import config as settings
from bingo_pl.config import Config
from bingo_pl.errors import FileError, InputError, some
from bingo_pl.storage.atomic import check_place, remove_leftovers
from bingo_pl.storage.names import check_file_name
from bingo_pl.training import experiment
from bingo_pl.training.processes import agreed, held_by_first
from bingo_pl.training.resumption import changes

DONE = "test.csv"
"""A run writes it when its training is done."""
CHECKPOINT = "BINGO_CHECKPOINT"
"""Environment variable by which the processes of one run agree on what it resumes from, see `_state`."""
BEFORE_CHECKPOINTS = ("config.yaml", "metrics.csv", "wandb", "checkpoints")
"""What a run that was killed before its first checkpoint has in its folder."""
LISTED = 5
"""Files in the way that an error names."""


def train_or_continue(config: Config, console: Console) -> Path:
    """Train ``config.runs/config.name``, resume it where it was interrupted, or leave it where it is done.

    Returns:
        The run's folder.

    Raises:
        BingoError: another process is at the run; the folder is of a run with other settings or data, or holds what no
            interrupted run has left; or as `experiment.train`.
    """
    run = Path(config.runs) / config.name
    check_file_name(config.name, "run")
    check_place(run)
    with held_by_first(run):
        state = agreed(CHECKPOINT, lambda: _state(run, config, console))
        if state == DONE:
            return run
        if state:
            return experiment.resume(Path(state), (), False, console)
        return experiment.train(config, console, run)


def _state(run: Path, config: Config, console: Console) -> str:
    """The checkpoint to resume from, `DONE`, or nothing where the training is to begin. No file of a run is removed."""
    last = run / "checkpoints" / "last.ckpt"
    if (run / DONE).exists() or last.exists():
        _refuse_other_settings(run, config)
    else:
        _refuse_foreign(run, config)
        if run.is_dir():
            remove_leftovers(run)
        return ""
    if (run / DONE).exists():
        console.print(f"already done: {escape(str(run))}", soft_wrap=True)
        return DONE
    console.print(f"resuming {escape(str(run))}", soft_wrap=True)
    remove_leftovers(run)
    return str(last)


def _refuse_other_settings(run: Path, config: Config) -> None:
    different = changes(settings.load(str(run / "config.yaml")), config)
    if different:
        raise InputError(
            f"{run} is a run of other settings ({'; '.join(different)})",
            "Restore them, give the run another name, or remove that folder to begin again",
        )


def _refuse_foreign(run: Path, config: Config) -> None:
    """Raises `BingoError` where a folder without last.ckpt holds more than a run that was killed before it."""
    if (run.exists() or run.is_symlink()) and not run.is_dir():
        kind = "a file" if run.exists() else "a link to nothing"
        raise InputError(f"{run} is {kind}, and the run needs a folder of this name", "Give the run another name")
    visible = [path for path in run.iterdir() if path.name[0] != "."] if run.is_dir() else []
    if not visible:
        return
    if not (run / "config.yaml").is_file():
        raise FileError(f"{run} is not the folder of a run: it has no config.yaml", "Give the run another name")
    _refuse_other_settings(run, config)
    kept = [path for path in (run / "checkpoints").glob("*") if path.name[0] != "."]
    others = sorted([path.name for path in visible if path.name not in BEFORE_CHECKPOINTS])
    others += sorted(f"checkpoints/{path.name}" for path in kept)
    if others:
        listed = some(others, LISTED)
        hint = f"resume from one of its checkpoints (bingo resume {kept[0]}), " if kept else ""
        raise InputError(
            f"{run} has no checkpoints/last.ckpt to resume from, yet holds {listed}",
            f"Nothing was changed: {hint}restore last.ckpt, move these files away, or give the run another name",
        )
