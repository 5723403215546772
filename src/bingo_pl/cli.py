"""The command ``bingo``."""

from __future__ import annotations

import dataclasses
import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from bingo_pl import config as settings
from bingo_pl.comparison import run as comparison
from bingo_pl.crashes import describe, write_log
from bingo_pl.data_modules.checking import check as checking
from bingo_pl.data_modules.manifest_file import read_group
from bingo_pl.data_modules.preprocess import Member
from bingo_pl.errors import BingoError
from bingo_pl.files import check_report
from bingo_pl.files.record import RECORD
from bingo_pl.files.scans import check_names, names_of
from bingo_pl.files.written import check_output
from bingo_pl.names import check_file_name
from bingo_pl.options import LOG, DeviceOption, InterpolationHelp, OverwriteOption, command_of, on_device
from bingo_pl.registration import apply as application
from bingo_pl.registration import atlas as atlases
from bingo_pl.registration import workflow
from bingo_pl.registration.streamed import probe_files, register_files
from bingo_pl.report.page import write_report
from bingo_pl.signals import Stopped, stopping
from bingo_pl.streaming import scalability
from bingo_pl.streaming.budget import parse_bytes
from bingo_pl.streaming.estimate import estimate
from bingo_pl.streaming.file_source import FileSource, dims_of
from bingo_pl.sweeps import trials as sweeping
from bingo_pl.sweeps.local import run_local
from bingo_pl.training import experiment
from bingo_pl.training.continuation import train_or_continue
from bingo_pl.training.model import Model

app = typer.Typer(
    help="BInGo: learned groupwise registration of multimodal medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
command = command_of(app)
console = Console(emoji=False)  # ":x:" in a path is no picture

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the experiment's, e.g. trainer.epochs=10"),
]
CheckpointArgument = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="runs/<name>/checkpoints/last.ckpt")]

MemoryOption = Annotated[str, typer.Option(help="What images in work, features and sums may take, e.g. 500MB or 4GB")]


@command()
def train(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's name or a YAML file")],
    overrides: Overrides = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Go on with the run of this name if there is one; leave it if it is done")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Train on a dataset, test the best checkpoint, write tables and figures to runs/<name>/.

    Without data.root, EXPERIMENT's phantom preset is trained on the embedded synthetic cohort.
    """
    overrides = on_device(overrides, device)
    name = settings.with_data(name, overrides)
    config = settings.load(name, overrides)
    config = dataclasses.replace(config, name=config.name or sweeping.trial_name(os.environ) or Path(name).stem)
    (train_or_continue if go_on else experiment.train)(config, console)


@command()
def resume(
    checkpoint: CheckpointArgument,
    overrides: Overrides = None,
    allow_changed_data: Annotated[bool, typer.Option(help="Go on although the data are not the same")] = False,
    allow_changed_processes: Annotated[
        bool, typer.Option(help="Go on although the number of devices is not the same")
    ] = False,
    device: DeviceOption = "auto",
) -> None:
    """Go on exactly where a checkpoint stopped."""
    experiment.resume(checkpoint, on_device(overrides, device), allow_changed_data, console, allow_changed_processes)


@command()
def evaluate(checkpoint: CheckpointArgument, overrides: Overrides = None, device: DeviceOption = "auto") -> None:
    """Test a checkpoint, on its own test split or on other data of the same modalities (data.root=...)."""
    experiment.evaluate(checkpoint, on_device(overrides, device), console)


@command()
def table(
    experiment_name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's name or a YAML file")],
    overrides: Overrides = None,
    methods: Annotated[str, typer.Option(help="Only these, with commas between. Empty: all of the table")] = "",
    checkpoint: Annotated[
        list[str] | None, typer.Option(metavar="METHOD=FILE", help="Take these weights instead of training")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the folder under runs/tables. Empty: the experiment's")] = "",
    device: DeviceOption = "auto",
) -> None:
    """Compare methods on the same test groups, misaligned alike. Training is done where no checkpoint is given.

    Interrupted, the same command goes on with what is missing.
    """
    overrides = on_device(overrides, device)
    experiment_name = settings.with_data(experiment_name, overrides)
    runs = Path(settings.load(experiment_name, overrides).runs)
    folder = name or Path(experiment_name).stem
    check_file_name(folder, "table")
    comparison.compare(
        settings.load_table(experiment_name),
        overrides,
        [method.strip() for method in methods.split(",") if method.strip()],
        dict(_pair(text, "METHOD=FILE", "bingo=runs/mscmr/checkpoints/best.ckpt") for text in checkpoint or ()),
        runs / "tables" / folder,
        console,
    )


@command()
def sweep(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A W&B sweep file (YAML) or the name of one of ours")],
    overrides: Overrides = None,
    local: Annotated[bool, typer.Option("--local", help="Without W&B and network; interrupted, it goes on")] = False,
    count: Annotated[int | None, typer.Option(min=1, help="Trials at most (on W&B: of each agent)")] = None,
    agents: Annotated[int, typer.Option(min=1, help="Trials at a time; the GPUs are shared out")] = 1,
    seed: Annotated[int | None, typer.Option(help="Of a random search with --local; 0 if not given")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="With --local; runs/sweeps/<name> if not given")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Search settings: each trial is a training, chosen by a W&B sweep or, with --local, by this command."""
    if not local and (seed is not None or output):
        raise BingoError("--seed and --output go with --local: W&B draws and keeps its trials itself. Leave them out")
    search = sweeping.load(file, on_device(overrides, device))
    if local:
        run_local(search, output or Path("runs") / "sweeps" / search.name, seed or 0, count, agents, console)
    else:
        sweeping.run_on_wandb(search, agents, count, console)


@command(name="scalability")
def run_scalability(
    experiment_name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's name or a YAML file")],
    checkpoint: Annotated[Path, typer.Option(help="runs/<name>/checkpoints/best.ckpt")],
    overrides: Overrides = None,
    images: Annotated[int, typer.Option(min=1, help="In the largest group")] = 1320,
    memory: MemoryOption = "1GB",
    name: Annotated[str, typer.Option(help="Of the folder under runs/scalability. Empty: the experiment's")] = "",
    device: DeviceOption = "auto",
) -> None:
    """Register merged test groups of growing size, streamed, and plot accuracy, time and memory (Fig. 4).

    The experiment gives the data, the checkpoint the method. Killed, it goes on by the same command.
    """
    if of_method := [
        text for text in overrides or () if text.startswith(("method=", "model.", "refine.", "intrinsic."))
    ]:
        raise BingoError(f"{' '.join(of_method)}: the method is the checkpoint's as it is. Leave it out")
    overrides = on_device(overrides, device)
    experiment_name = settings.with_data(experiment_name, overrides)
    config = settings.load(experiment_name, overrides)
    name = name or Path(experiment_name).stem
    check_file_name(name, "folder")
    folder = Path(config.runs) / "scalability" / name
    scalability.run(config, checkpoint, images, parse_bytes(memory), folder, console)


@command(name="estimate")
def run_estimate(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(metavar="[CHECKPOINT]", help="runs/<name>/checkpoints/best.ckpt; without it, the ready model"),
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="How many the group has")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Instead: a CSV file with the columns modality,image[,mask,label]")
    ] = None,
    shape: Annotated[str, typer.Option(help="With --images: voxels, e.g. 160x160. Empty: those of training")] = "",
    memory: MemoryOption = "1GB",
    device: DeviceOption = "auto",
) -> None:
    """Predict time, memory and disk of registering a large group on this machine, by timing a small one."""
    if (images is None) == (manifest is None):
        raise BingoError("say how large the group is, either by --images, e.g. --images 1320, or by --manifest")
    if manifest and shape:
        raise BingoError(
            f"--shape {shape} goes with --images: with --manifest the files tell it. Leave one of them out"
        )
    sizes, members = _sizes(shape), read_group(manifest) if manifest else []
    dims = dims_of(members[0]) if members else len(sizes) or 2
    model = Model.load(checkpoint, dims, [f"trainer.accelerator={device}"])
    size = parse_bytes(memory)
    if members:
        source = FileSource.unplaced(members, model)
        predicted = estimate(model.bingo, len(source), source[0].image.shape[1:], size, source)
        predicted = dataclasses.replace(predicted, files=probe_files(members, model, size))
    else:
        predicted = estimate(model.bingo, images or 0, sizes or model.config.data.roi, size)
    console.print(predicted.table())


def _sizes(text: str) -> list[int]:
    if not re.fullmatch(r"([1-9]\d*(x[1-9]\d*)*)?", text):
        raise BingoError(f"--shape {text} is no shape, e.g. 160x160")
    return [int(size) for size in text.split("x") if size]


@command()
def check(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A folder of images, a manifest (.csv) or an image")],
    label_ids: Annotated[
        str, typer.Option(help="The ids that label maps may hold, with commas between. Empty: any")
    ] = "",
    fix: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write mended copies here where that is safe; overwrites nothing")
    ] = None,
) -> None:
    """Read every image file and say what would fail or mislead, why it matters and how to mend it.

    The exit status is 1 where there is an error or a warning, else 0.
    """
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        checkup = checking.check(path, _ids(label_ids), fix, lambda files: progress.track(files, description="reading"))
    check_report.show(checkup, fix, console)
    raise typer.Exit(0 if checkup.clean else 1)


def _ids(text: str) -> set[int]:
    try:
        return {int(number) for number in text.split(",") if number}
    except ValueError as error:
        raise BingoError(f"--label-ids {text} is no list of whole numbers, e.g. 1,2,4") from error


@command()
def register(
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder that does not exist yet")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="runs/<name>/checkpoints/best.ckpt; without it, the ready model")
    ] = None,
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[MODALITY=FILE]...", help="The group, e.g. t1=a.nii.gz t2=b.nii.gz")
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="Instead: a CSV file with the columns modality,image[,mask,label]")
    ] = None,
    mask: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="An image's foreground; t2_2 is the second t2")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="A label map that is registered with its image")
    ] = None,
    transform: Annotated[
        str | None,
        typer.Option(
            help="Last stage: auto (what the evidence speaks for), rigid, affine, deformable, or network alone",
            show_default="auto; network with --affine or --refine",
        ),
    ] = None,
    reference: Annotated[str, typer.Option(metavar="NAME", help="Image that stays where it is; default: none")] = "",
    initial: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FILE", help="Linear ITK transform (.tfm, .mat, .txt, .h5) from which an image starts"
        ),
    ] = None,
    spacing: Annotated[
        float | None, typer.Option(metavar="MM", help="Voxel size of the results; default: the finest of the group")
    ] = None,
    like: Annotated[Path | None, typer.Option(metavar="FILE", help="Image whose grid the results get instead")] = None,
    affine: Annotated[
        str | None,
        typer.Option(
            help="Affine stage of --transform network and of --memory: auto, always or never", show_default="auto"
        ),
    ] = None,
    refine: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Steps of optimisation after the result of --transform network",
            show_default=f"{workflow.REFINE}; 0 for more than {workflow.REFINED_UP_TO[2]} slices or "
            f"{workflow.REFINED_UP_TO[3]} volumes or with --memory",
        ),
    ] = None,
    interpolation: Annotated[str, typer.Option(help=InterpolationHelp)] = "linear",
    jacobian: Annotated[bool, typer.Option("--jacobian", help="Write Jacobian determinants too")] = False,
    pairwise: Annotated[
        bool, typer.Option("--pairwise", help="Write each image on the grid of each other one too, with the transform")
    ] = False,
    memory: Annotated[
        str, typer.Option(help="Stream the group, however large, with so much for images in work, e.g. 500MB or 4GB")
    ] = "",
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Register the images of one group at their own resolution; write them, a template, transforms and a report.

    Sizes, voxels and orientations may differ. The exit status is 1 where the result is in doubt: see what is printed
    and the report. With --memory, killed, it goes on by the same command.
    """
    if bool(images) == (manifest is not None):
        raise BingoError("name the images either as MODALITY=FILE, e.g. t1=a.nii.gz t2=b.nii.gz, or by --manifest")
    pairs = [_pair(text, "MODALITY=FILE", "t1=a.nii.gz") for text in images or ()]
    members = read_group(manifest) if manifest else [Member(modality, path) for modality, path in pairs]
    names = names_of(member.modality for member in members)
    masks, labels = (dict(_pair(text, "NAME=FILE", "t1=a.nii.gz") for text in given or ()) for given in (mask, label))
    check_names("mask", masks, names)
    check_names("label map", labels, names)
    named = {
        name: dataclasses.replace(member, mask=masks.get(name, member.mask), label=labels.get(name, member.label))
        for name, member in zip(names, members, strict=True)
    }
    doubtful = False
    if memory:
        if refine:
            raise BingoError("--refine optimises all images at once and --memory streams them. Leave one of them out")
        if overwrite or pairwise:
            raise BingoError(
                f"--{'overwrite' if overwrite else 'pairwise'} does not go with --memory. Leave one of them out"
                + (", or remove the old folder yourself" if overwrite else "")
            )
        size = parse_bytes(memory)
        written = register_files(
            [*named.values()],
            output,
            size,
            checkpoint,
            affine=affine or "auto",
            interpolation=interpolation,
            jacobian=jacobian,
            device=device,
            console=console,
        )
    else:
        check_output(output, overwrite, RECORD, [path for member in named.values() for path in member.files])
        group = workflow.register(
            [(member.modality, member.image) for member in members],
            checkpoint,
            masks={name: member.mask for name, member in named.items() if member.mask},
            labels={name: member.label for name, member in named.items() if member.label},
            transform=transform,
            reference=reference or None,
            initial=dict(_pair(text, "NAME=FILE", "t2=start.tfm") for text in initial or ()),
            spacing_mm=spacing,
            like=like,
            interpolation=interpolation,
            affine=affine,
            refine=refine,
            device=device,
            console=console,
        )
        written = group.write(output, jacobian, console, pairwise=pairwise, overwrite=overwrite)
        doubtful = group.verdict is not None and group.verdict.doubtful
    console.print(f"written: {escape(str(written))}", soft_wrap=True)
    raise typer.Exit(1 if doubtful else 0)


def _pair(text: str, what: str, example: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise BingoError(f"'{text}' is not {what}, e.g. {example}")
    return name, Path(path)


@command()
def atlas(
    manifest: Annotated[Path, typer.Argument(help="A CSV file with the columns modality,image[,mask,label]")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder that does not exist yet")],
    checkpoint: Annotated[
        Path | None, typer.Option(help="runs/<name>/checkpoints/best.ckpt; without it, the ready model")
    ] = None,
    affine: Annotated[str, typer.Option(help="always, auto (images that are not roughly aligned) or never")] = "always",
    memory: MemoryOption = "1GB",
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
) -> None:
    """Make a population's unbiased template, with the probability of each label where label maps are given.

    The images are read one at a time; a population may have any size.
    """
    atlases.build(read_group(manifest), checkpoint, output, affine, parse_bytes(memory), console, device, overwrite)


@command()
def apply(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="An image, label map or landmarks")],
    registration: Annotated[Path, typer.Option(help="The folder that bingo register wrote")],
    source: Annotated[str, typer.Option("--from", help="The member whose space FILE is in, or template")],
    target: Annotated[str, typer.Option("--to", help="The member to move it to, or template")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write")],
    labels: Annotated[bool, typer.Option("--labels", help="FILE is a label map")] = False,
    space: Annotated[str | None, typer.Option(help="Of landmarks whose file does not say it: RAS or LPS")] = None,
    interpolation: Annotated[str | None, typer.Option(help=InterpolationHelp, show_default="linear")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file to write, where it exists")] = False,
) -> None:
    """Move an image, a label map or landmarks from one member of a registered group to another.

    The exit status is 1 where nothing of FILE lies there.
    """
    applied = application.apply(
        registration, source, target, path, output, labels, space, console, interpolation, overwrite
    )
    console.print(f"written: {escape(str(applied.path))}", soft_wrap=True)
    raise typer.Exit(0 if applied.arrived else 1)


@command()
def report(
    registration: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder that bingo register wrote")],
) -> None:
    """Write report.html into the folder: one page to judge the registration by. The original images are needed."""
    console.print(f"written: {escape(str(write_report(registration)))}", soft_wrap=True)


def main() -> None:
    """Run the command ``bingo``."""
    run(app)


def run(command: Callable[[], object]) -> None:
    """Run a command; whatever ends it is told in one line, without a traceback.

    Exit status: 2 for bad input, 128 + signal where it was stopped (130 for Ctrl-C, 143 for SIGTERM), 70 for an error
    that nobody foresaw, whose traceback goes to a log.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be UTF-8, and terminals may not know it
    try:
        with stopping():
            command()
    except BingoError as error:
        LOG.info("traceback", exc_info=error)
        _tell("error:", str(error))
        sys.exit(2)
    except Stopped as stop:
        if not stop.told:
            _tell("stopped by", str(stop).removeprefix("stopped by "))
        sys.exit(stop.code)
    except Exception as error:
        LOG.info("traceback", exc_info=error)
        _tell("unexpected error:", f"{describe(error)}. The traceback is in {write_log(error)}; please report it")
        sys.exit(70)


def _tell(kind: str, text: str) -> None:
    console = Console(stderr=True, emoji=False)
    console.print(f"[bold red]{kind}[/] {escape(text)}", soft_wrap=True, highlight=False)
