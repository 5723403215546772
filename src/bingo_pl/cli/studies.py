"""Commands that run many trainings or registrations: ``table``, ``sweep``, ``scalability``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bingo_pl.cli.common import Device, Experiment, MemoryOption, Overrides, console, on_device, pair
from bingo_pl.errors import InputError
from bingo_pl.storage.names import check_file_name


def table(
    experiment_name: Experiment,
    overrides: Overrides = None,
    methods: Annotated[
        str, typer.Option(help="Names of the methods to compare, separated by commas. Empty: all of the table")
    ] = "",
    checkpoint: Annotated[
        list[str] | None, typer.Option(metavar="METHOD=FILE", help="Checkpoint of a method to use instead of training")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the folder under runs/tables. Empty: the experiment's")] = "",
    device: Device = "auto",
) -> None:
    """Compare methods on the same test groups, misaligned alike. Training is done where no checkpoint is given.

    Interrupted, the same command resumes with what is missing.
    """
    from bingo_pl import config as settings
    from bingo_pl.studies import comparison

    experiment_name = settings.with_data(experiment_name, on_device(overrides, device))
    runs = Path(settings.load(experiment_name, on_device(overrides, device)).runs)
    folder = name or Path(experiment_name).stem
    check_file_name(folder, "table")
    comparison.compare(
        settings.load_table(experiment_name),
        on_device(overrides, device),
        [method.strip() for method in methods.split(",") if method.strip()],
        dict(pair(text, "METHOD=FILE", "bingo=runs/mscmr/checkpoints/best.ckpt") for text in checkpoint or ()),
        runs / "tables" / folder,
        console,
    )


def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE", help="W&B sweep file (YAML), or the name of one of ours")],
    overrides: Overrides = None,
    local: Annotated[
        bool, typer.Option("--local", help="Search without W&B and network; interrupted, it resumes")
    ] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Number of trials at most (on W&B: of each agent)")] = None,
    agents: Annotated[int, typer.Option(min=1, help="Number of trials at a time, which share the GPUs")] = 1,
    seed: Annotated[int | None, typer.Option(help="Seed of a random search with --local; 0 if not given")] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the trials with --local; runs/sweeps/<name> if not given"),
    ] = None,
    device: Device = "auto",
) -> None:
    """Search settings: each trial is a training, chosen by a W&B sweep or, with --local, by this command."""
    from bingo_pl.sweeps import trials as sweeping
    from bingo_pl.sweeps.local import run_local

    if not local and (seed is not None or output):
        raise InputError("--seed and --output go with --local: W&B draws and keeps its trials itself", "Leave them out")
    search = sweeping.load(file, on_device(overrides, device))
    if local:
        run_local(search, output or Path("runs") / "sweeps" / search.name, seed or 0, count, agents, console)
    else:
        sweeping.run_on_wandb(search, agents, count, console)


def scalability(
    experiment_name: Experiment,
    checkpoint: Annotated[Path, typer.Option(help="Checkpoint, runs/<name>/checkpoints/best.ckpt")],
    overrides: Overrides = None,
    images: Annotated[int, typer.Option(min=1, help="Number of images in the largest group")] = 1320,
    memory: MemoryOption = "1GB",
    name: Annotated[str, typer.Option(help="Name of the folder under runs/scalability. Empty: the experiment's")] = "",
    device: Device = "auto",
) -> None:
    """Register merged test groups of growing size, streamed, and plot accuracy, time and memory (Fig. 4).

    The experiment gives the data, the checkpoint the method. Killed, it resumes by the same command.
    """
    from bingo_pl import config as settings
    from bingo_pl.streaming.budget import parse_bytes
    from bingo_pl.studies import scalability as study

    if of_method := [
        text for text in on_device(overrides, device) if text.startswith(("method=", "model.", "refine.", "intrinsic."))
    ]:
        raise InputError(f"{' '.join(of_method)}: the method is the checkpoint's as it is", "Leave it out")
    experiment_name = settings.with_data(experiment_name, on_device(overrides, device))
    config = settings.load(experiment_name, on_device(overrides, device))
    name = name or Path(experiment_name).stem
    check_file_name(name, "folder")
    folder = Path(config.runs) / "scalability" / name
    study.run(config, checkpoint, images, parse_bytes(memory), folder, console)
