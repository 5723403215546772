"""Kills what takes long with SIGKILL at random moments, resumes, and compares the results.

``python benchmarks/kill.py --kills 10``. See README.md.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import multiprocessing
import os
import pkgutil
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Annotated, Any

import nibabel as nib
import numpy as np
import pandas as pd
import torch
import typer
import yaml
from numpy.typing import NDArray
from rich.console import Console

import bingo_pl
from bingo_pl import cli

console = Console()
MODALITIES = ("a", "b")
SETTINGS = (
    *("data.root=../../cohort", "data.cache_dir=cache", "data.modalities=[a,b]", "data.label_ids=[1]"),
    *("data.roi=[16,16]", "data.batch_size=2", "data.ffd_spacings=[5]"),
    *("model.channels=[4,8]", "model.velocity_scales=[1,0]", "model.head_depth=1"),
    *("trainer.accelerator=cpu", "log.wandb=disabled", "log.figure_groups=1"),
)
EPOCHS = 40
FORK = multiprocessing.get_context("fork")
MEASURED = ("seconds", "memory")
"""Columns of tables that are no results: what a computation cost."""


@dataclass(frozen=True)
class Job:
    """Something that can be killed."""

    name: str
    command: Callable[[Path], list[str]]
    """What begins it in a folder, and resumes it there."""
    results: str
    """The folder of its results in that folder."""
    good: tuple[int, ...] = (0,)
    """Its exit statuses: a registration of noisy discs may be in doubt, 1."""
    spares_children: bool = False
    """Whether now and then only the process itself is killed, and those it started live on."""


@dataclass
class Tally:
    """What the kills of a job did."""

    job: str
    kills: int = 0
    runs: int = 0
    """That were finished after one kill or several."""
    lost: int = 0
    """Runs that could not resume, or whose results lack a file."""
    differing: int = 0
    """Runs with a result that is not that of the uninterrupted one."""
    left: int = 0
    """Runs beside or in which something half-written lies in the end."""
    notes: list[str] = field(default_factory=list)


def main(
    kills: Annotated[int, typer.Option(help="Of each job")] = 10,
    only: Annotated[
        str,
        typer.Option(help="Of these jobs, with commas between (most need training, native or atlas). Empty: all"),
    ] = "",
    seed: Annotated[int, typer.Option(help="Of the moments")] = 0,
    folder: Annotated[Path | None, typer.Option(help="To work in; a new temporary one if not given")] = None,
    output: Annotated[Path | None, typer.Option(help="CSV file for the table")] = None,
) -> None:
    """Kill each job so many times in all; the exit status is 1 where anything is lost, differs or is left over."""
    import_all()
    work = Path(tempfile.mkdtemp(prefix="kill-", dir=folder)).resolve()
    write_cohort(work)
    table = []
    for job in jobs(work):
        if job.name in only.split(",") or not only:
            tally = stress(job, kills, random.Random(f"{seed} {job.name}"), work / job.name)
            table.append({key: value for key, value in dataclasses.asdict(tally).items() if key != "notes"})
            console.print(*tally.notes, pd.DataFrame(table).to_string(index=False), sep="\n")
    if output:
        pd.DataFrame(table).to_csv(output, index=False)
    clean = not any(row["lost"] or row["differing"] or row["left"] for row in table)
    if clean:
        shutil.rmtree(work)
    else:
        console.print(f"kept for inspection: {work}")
    raise typer.Exit(0 if clean else 1)


def import_all() -> None:
    """Import every module, so that a command in a forked process need not: commands import what they need when run."""
    for module in pkgutil.walk_packages(bingo_pl.__path__, "bingo_pl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)


def jobs(work: Path) -> list[Job]:
    """The jobs. Those of a network take the weights that the uninterrupted training left in ``work``, `_overwrite` the
    uninterrupted native registration, `_add` the uninterrupted atlas.
    """
    checkpoint = work / "training" / "whole" / "runs" / "run" / "checkpoints" / "best.ckpt"
    train = ["train", "manifest", "--continue", *SETTINGS, f"trainer.epochs={EPOCHS}", "name=run"]
    table = ["table", "manifest", *SETTINGS, f"trainer.epochs={EPOCHS // 2}", "iterative.steps=20"]
    sweep = ["sweep", str(_write_sweep(work)), "--local", "--seed", "1", "--output", "sweep"]
    of_data = [setting for setting in SETTINGS if not setting.startswith("model.")]
    growing = ["scalability", "manifest", *of_data, "--checkpoint", str(checkpoint), "--images", "200"]
    group = [f"{name}={work / 'cohort' / f'5_{name}.nii.gz'}" for name in MODALITIES]
    native = [*group, "--transform", "deformable", "--pairwise"]
    model = ["--checkpoint", str(checkpoint), "--affine", "never"]
    people = ["atlas", str(_write_people(work)), "--output", "out"]
    return [
        Job("training", lambda folder: train, "runs/run"),
        Job("table", lambda folder: [*table, "--methods", "ape,bingo,bingo_refined"], "runs/tables"),
        Job("sweep", lambda folder: sweep, "sweep", spares_children=True),
        Job("registration", lambda folder: _register(folder, [*group, *model, "--refine", "20"]), "out"),
        Job("scalability", lambda folder: growing, "runs/scalability"),
        Job(
            "native",
            lambda folder: _register(folder, native),
            "out",
            (0, 1),
        ),
        Job("overwriting", lambda folder: _overwrite(folder, work), "out", (0, 1)),
        Job("streamed", lambda folder: _stream(folder, work, model), "out"),
        Job("atlas", lambda folder: _once(folder, ["report", "out"], [*people, "--images", "--jacobian"]), "out"),
        Job("newcomers", lambda folder: _add(folder, work), "out"),
        Job("streamed_atlas", lambda folder: _once(folder, ["--version"], [*people, *model, "--memory", "1MB"]), "out"),
    ]


def stress(job: Job, kills: int, dice: random.Random, folder: Path) -> Tally:
    """Run a job once undisturbed, then kill it ``kills`` times; a run that was killed and then ends is compared."""
    start = time.monotonic()
    status = _end(_start(job, folder / "whole"))
    seconds = time.monotonic() - start
    assert status in job.good, f"{job.name} fails undisturbed; see {folder / 'whole' / 'log'}"
    expected = digests(folder / "whole" / job.results)
    tally = Tally(job.name)
    while tally.kills < kills:
        run = folder / str(tally.runs)
        disturbed = 0
        while tally.kills < kills:
            process = _start(job, run)
            process.join(dice.random() * seconds)
            if process.exitcode is not None:
                assert process.exitcode in job.good, f"{job.name} does not resume; see {run / 'log'}"
                break
            _kill(process, alone=job.spares_children and dice.random() < 0.5)
            tally.kills += 1
            disturbed += 1
        if disturbed:
            _finish(job, run, expected, tally)
        else:
            shutil.rmtree(run)
    return tally


def _finish(job: Job, run: Path, expected: dict[str, str], tally: Tally) -> None:
    status = _end(_start(job, run))
    got = digests(run / job.results)
    missing = sorted(expected.keys() - got.keys())
    different = sorted(name for name in expected.keys() & got.keys() if expected[name] != got[name])
    extra = sorted(got.keys() - expected.keys())
    left = sorted(str(path.relative_to(run)) for path in run.rglob(".*.tmp*"))
    tally.runs += 1
    tally.lost += bool(status not in job.good or missing)
    tally.differing += bool(different or extra)
    tally.left += bool(left)
    if status not in job.good or missing or different or extra or left:
        tally.notes.append(f"{run}: {status=}, {missing=}, {different=}, {extra=}, {left=}")


def digests(folder: Path) -> dict[str, str]:
    """A hash of every result below a folder by its path: weights, numbers of tables, voxels; else that it is there.

    Hidden files (locks, what a killed process was writing) and logs are no results.
    """
    visible = [path for path in folder.rglob("*") if "/." not in f"/{path.relative_to(folder)}"]
    files = [path for path in visible if path.is_file() and "logs" not in path.parts]
    return {str(path.relative_to(folder)): _digest(path) for path in sorted(files)}


def _digest(path: Path) -> str:
    content = b""
    if path.suffix == ".ckpt":
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        content = str((checkpoint["global_step"], checkpoint["epoch"])).encode()
        for name, tensor in checkpoint["state_dict"].items():
            content += name.encode() + tensor.numpy().tobytes()
    elif path.suffix == ".csv":
        table = pd.read_csv(path)
        results = [column for column in table.columns if not any(word in column for word in MEASURED)]
        content = table[results].to_csv().encode() if path.name != "table.csv" else b""
    elif path.name.endswith(".nii.gz"):
        content = np.asanyarray(nib.load(path).dataobj).tobytes()
    return hashlib.sha256(content).hexdigest()


def _start(job: Job, folder: Path) -> ForkProcess:
    """The job in a process group of its own, forked after the imports, so that kills fall upon its work."""
    folder.mkdir(parents=True, exist_ok=True)
    process = FORK.Process(target=_work, args=(job.command(folder), folder))
    process.start()
    return process


def _work(command: list[str], folder: Path) -> None:
    os.setsid()
    os.chdir(folder)
    log = os.open("log", os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.argv = ["bingo", *command]
    cli.main()


def _end(process: ForkProcess) -> int | None:
    process.join()
    return process.exitcode


def _kill(process: ForkProcess, alone: bool) -> None:
    if alone:
        process.kill()
    else:
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.join()


def _once(folder: Path, done: list[str], command: list[str]) -> list[str]:
    """A command that begins again when it is killed; another one where its results are there."""
    return done if (folder / "out").exists() else [*command, "--output", "out"]


def _register(folder: Path, words: list[str]) -> list[str]:
    """Registers; where only the report is missing, writes that."""
    return _once(folder, ["report", "out"], ["register", *words])


def _overwrite(folder: Path, work: Path) -> list[str]:
    """Replaces a registration of one test group by that of the other, as often as it is asked to."""
    if not (folder / "begun").exists():
        shutil.copytree(work / "native" / "whole" / "out", folder / "out")
        (folder / "begun").touch()
    group = [f"{name}={work / 'cohort' / f'6_{name}.nii.gz'}" for name in MODALITIES]
    return ["register", *group, "--transform", "rigid", "--output", "out", "--overwrite"]


def _stream(folder: Path, work: Path, words: list[str]) -> list[str]:
    """Registers a group of slices an image at a time."""
    if (folder / "out" / "registration.json").exists() and not (folder / "out" / "unfinished").exists():
        return ["report", "out"]
    return ["register", *words, "--memory", "1MB", "--manifest", str(work / "people.csv"), "--output", "out"]


def _add(folder: Path, work: Path) -> list[str]:
    """Brings one more person to a finished atlas, unless it names that one."""
    if not (folder / "out").exists():
        shutil.copytree(work / "atlas" / "whole" / "out", folder / "out")
    image = work / "cohort" / "6_a.nii.gz"
    if str(image) in (folder / "out" / "atlas.json").read_text():
        return ["report", "out"]
    return ["atlas", "--add", str(image), "--output", "out", "--images", "--jacobian"]


def _write_people(work: Path) -> Path:
    """A manifest of six people."""
    rows = [("a", f"cohort/{number}_a.nii.gz", f"cohort/{number}_label.nii.gz") for number in range(6)]
    pd.DataFrame(rows, columns=["modality", "image", "label"]).to_csv(work / "people.csv", index=False)
    return work / "people.csv"


def write_cohort(work: Path) -> None:
    """Four training, one validation and two test groups of noisy discs, 16 x 16 voxels, in two contrasts."""
    (work / "cohort").mkdir()
    rows = []
    for number, split in enumerate(["train"] * 4 + ["val"] + ["test"] * 2):
        dice = np.random.default_rng(number)
        y, x = np.mgrid[:16, :16]
        disc = np.hypot(y - dice.uniform(6, 10), x - dice.uniform(6, 10))[:, :, None] < dice.uniform(3, 6)
        _write(disc.astype(np.uint8), work / "cohort" / f"{number}_label.nii.gz")
        for name, contrast in zip(MODALITIES, (0.2, 0.7), strict=True):
            image = np.abs(disc - contrast) + dice.uniform(0, 0.1, disc.shape)
            _write(image.astype(np.float32), work / "cohort" / f"{number}_{name}.nii.gz")
            group = f"group{number}"
            rows.append((split, group, group, name, f"{number}_{name}.nii.gz", f"{number}_label.nii.gz"))
    columns = ["split", "group", "subject", "modality", "image", "label"]
    pd.DataFrame(rows, columns=columns).to_csv(work / "cohort" / "manifest.csv", index=False)


def _write(voxels: NDArray[Any], path: Path) -> None:
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)


def _write_sweep(work: Path) -> Path:
    path = work / "search.yaml"
    tree = {
        "program": "bingo",
        "command": ["${env}", "${program}", "train", "manifest", *SETTINGS, "trainer.epochs=15", "${args_no_hyphens}"],
        "method": "random",
        "run_cap": 3,
        "metric": {"name": "val/gwi", "goal": "minimize"},
        "parameters": {"trainer.learning_rate": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1e-2}},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


if __name__ == "__main__":
    typer.run(main)
