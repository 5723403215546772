"""The command ``bingo``."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress

from bingo_pl import apply as application
from bingo_pl import check_report, comparison, experiment
from bingo_pl import config as settings
from bingo_pl.errors import BingoError
from bingo_pl.register import register_files
from data_modules import checking
from data_modules.preprocess import Member

app = typer.Typer(
    help="BInGo: learned groupwise registration of multimodal medical images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console()

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Settings that win over the experiment's, e.g. trainer.epochs=10"),
]
CheckpointArgument = Annotated[Path, typer.Argument(metavar="CHECKPOINT", help="runs/<name>/checkpoints/last.ckpt")]


@app.command()
def train(
    name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's name or a YAML file")],
    overrides: Overrides = None,
) -> None:
    """Train on a dataset, test the best checkpoint, write tables and figures to runs/<name>/.

    Without data.root, EXPERIMENT's phantom preset is trained on the embedded synthetic cohort.
    """
    name = settings.with_data(name, overrides or ())
    config = settings.load(name, overrides or ())
    experiment.train(dataclasses.replace(config, name=config.name or Path(name).stem), console)


@app.command()
def resume(
    checkpoint: CheckpointArgument,
    overrides: Overrides = None,
    allow_changed_data: Annotated[bool, typer.Option(help="Go on although the data are not the same")] = False,
) -> None:
    """Go on exactly where a checkpoint stopped."""
    experiment.resume(checkpoint, overrides or (), allow_changed_data, console)


@app.command()
def evaluate(checkpoint: CheckpointArgument, overrides: Overrides = None) -> None:
    """Test a checkpoint, on its own test split or on other data of the same modalities (data.root=...)."""
    experiment.evaluate(checkpoint, overrides or (), console)


@app.command()
def table(
    experiment_name: Annotated[str, typer.Argument(metavar="EXPERIMENT", help="An experiment's name or a YAML file")],
    overrides: Overrides = None,
    methods: Annotated[str, typer.Option(help="Only these, with commas between. Empty: all of the table")] = "",
    checkpoint: Annotated[
        list[str] | None, typer.Option(metavar="METHOD=FILE", help="Take these weights instead of training")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the folder under runs/tables. Empty: the experiment's")] = "",
) -> None:
    """Compare methods on the same test groups, misaligned alike. Training is done where no checkpoint is given.

    Interrupted, the same command goes on with what is missing.
    """
    experiment_name = settings.with_data(experiment_name, overrides or ())
    runs = Path(settings.load(experiment_name, overrides or ()).runs)
    folder = name or Path(experiment_name).stem
    if Path(folder).name != folder or folder in ("", ".", ".."):
        raise BingoError(f"'{folder}' cannot name a table; use letters, digits, '-' and '_'")
    comparison.compare(
        settings.load_table(experiment_name),
        overrides or (),
        [method.strip() for method in methods.split(",") if method.strip()],
        dict(_checkpoint(text) for text in checkpoint or ()),
        runs / "tables" / folder,
        console,
    )


@app.command()
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

    The exit status is 0 where all is well, 1 where there is a problem.
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


@app.command()
def register(
    images: Annotated[list[str], typer.Argument(metavar="MODALITY=FILE...", help="The group, e.g. t1=a.nii.gz")],
    checkpoint: Annotated[Path, typer.Option(help="runs/<name>/checkpoints/best.ckpt")],
    output: Annotated[Path, typer.Option(help="A folder that does not exist yet")],
    refine: Annotated[int, typer.Option(help="Steps of optimisation for this group after the network's result")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, gpu or mps")] = "auto",
) -> None:
    """Register image files of one group and write registered images, a template and transforms.

    The images must lie roughly over each other in space. Sizes, voxels and orientations may differ.
    """
    members = []
    for text in images:
        modality, equals, path = text.partition("=")
        if not equals:
            raise BingoError(f"'{text}' is not MODALITY=FILE, e.g. t1=a.nii.gz")
        members.append(Member(modality, Path(path)))
    overrides = [f"refine.steps={refine}", f"trainer.accelerator={device}"]
    register_files(checkpoint, members, output, overrides, console)


@app.command()
def apply(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="An image, label map or landmarks")],
    registration: Annotated[Path, typer.Option(help="The folder that bingo register wrote")],
    source: Annotated[str, typer.Option("--from", help="The member whose space FILE is in, or template")],
    target: Annotated[str, typer.Option("--to", help="The member to move it to, or template")],
    output: Annotated[Path, typer.Option(help="The file to write")],
    labels: Annotated[bool, typer.Option("--labels", help="FILE is a label map")] = False,
    space: Annotated[str | None, typer.Option(help="Of landmarks whose file does not say it: RAS or LPS")] = None,
) -> None:
    """Move an image, a label map or landmarks from one member of a registered group to another."""
    written = application.apply(registration, source, target, path, output, labels, space)
    console.print(f"written: {written}")


def _checkpoint(text: str) -> tuple[str, Path]:
    method, equals, path = text.partition("=")
    if not equals:
        raise BingoError(f"--checkpoint {text} is not METHOD=FILE, e.g. bingo=runs/mscmr/checkpoints/best.ckpt")
    return method, Path(path)


def main() -> None:
    """Run the command; bad input ends with its message and exit status 2, without a traceback."""
    try:
        app()
    except BingoError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(2)
