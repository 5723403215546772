"""Commands on registered groups and large ones: ``estimate``, ``atlas``, ``apply``, ``report``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from bingo_pl.cli.common import Device, InterpolationName, Overwrite, console
from bingo_pl.errors import InputError
from bingo_pl.storage.regular import exists


def estimate(
    checkpoint: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CHECKPOINT]", help="Checkpoint, runs/<name>/checkpoints/best.ckpt; default: the ready model"
        ),
    ] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Number of images in the group")] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV file instead, with the columns modality,image[,mask,label]")
    ] = None,
    shape: Annotated[
        str, typer.Option(help="Size of the images in voxels, with --images, e.g. 160x160. Empty: that of training")
    ] = "",
    memory: Annotated[
        str,
        typer.Option(
            help="Memory budget of a streamed registration, e.g. 500MB or 4GB", show_default="none; with --images 1GB"
        ),
    ] = "",
    device: Device = "auto",
) -> None:
    """Predict time, memory and disk of registering a group on this machine, by timing small pieces of it.

    With --manifest, of what bingo register does by default; with --memory too, or of --images, of a streamed group.
    """
    from bingo_pl import api

    if (images is None) == (manifest is None):
        raise InputError("say how large the group is, either by --images, e.g. --images 1320, or by --manifest")
    if manifest and shape:
        raise InputError(
            f"--shape {shape} goes with --images: with --manifest the files give it", "Leave one of them out"
        )
    predicted = api.estimate(
        manifest or images or 0, checkpoint, shape=_sizes(shape), memory=memory or None, device=device
    )
    console.print(predicted.table())


def _sizes(text: str) -> list[int]:
    if not re.fullmatch(r"([1-9]\d*(x[1-9]\d*)*)?", text):
        raise InputError(f"--shape {text} is no shape, e.g. 160x160")
    return [int(size) for size in text.split("x") if size]


def atlas(
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder that does not exist yet; with --add, that of the atlas")
    ],
    manifest: Annotated[
        Path | None,
        typer.Argument(
            metavar="MANIFEST",
            help="CSV file with the columns modality,image[,mask,label,subject]",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint, runs/<name>/checkpoints/best.ckpt; default: the ready model")
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(metavar="[MODALITY=]FILE", help="Image of one more person to bring to a finished atlas"),
    ] = None,
    bids: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="BIDS dataset instead of a manifest", show_default=False)
    ] = None,
    suffix: Annotated[
        str, typer.Option(metavar="NAMES", help="Images of --bids to take, e.g. T1w,FLAIR or acq-3d_T1w")
    ] = "",
    bids_label: Annotated[
        str, typer.Option(metavar="NAME", help="Label maps in the derivatives of --bids, e.g. desc-manual_dseg")
    ] = "",
    bids_mask: Annotated[
        str, typer.Option(metavar="NAME", help="Masks in the derivatives of --bids, e.g. desc-brain_mask")
    ] = "",
    transform: Annotated[Literal["rigid", "affine", "deformable"], typer.Option(help="Last stage")] = "deformable",
    spacing: Annotated[
        float | None, typer.Option(metavar="MM", help="Voxel size of the template; default: the finest of the images")
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="Write each registered image and its labels too")] = False,
    jacobian: Annotated[
        bool, typer.Option("--jacobian", help="Write maps of the logarithm of the Jacobian determinant too")
    ] = False,
    affine: Annotated[
        Literal["always", "auto", "never"] | None,
        typer.Option(
            help="Affine stage of the network alone, which then registers; auto: for images not roughly aligned",
            show_default="always with --memory",
        ),
    ] = None,
    memory: Annotated[
        str, typer.Option(help="Memory budget for a population of any size, which is then streamed, e.g. 4GB")
    ] = "",
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Make a population's unbiased template, with the probability of each label where label maps are given.

    People are registered at their images' own resolution. With --memory or --affine the network alone registers, at its
    own resolution; images are then read one at a time, and a population may have any size.
    """
    from bingo_pl import api
    from bingo_pl.atlases.newcomers import add_people
    from bingo_pl.images.bids import read_bids

    if bool(add) + (manifest is not None) + (bids is not None) != 1:
        raise InputError(
            "name either a MANIFEST or --bids to make an atlas of, or by --add who comes to a finished one"
        )
    if bids is None and (suffix or bids_label or bids_mask):
        raise InputError("--suffix, --bids-label and --bids-mask go with --bids", "Leave them out, or name its folder")
    if add:
        if affine or memory or spacing or overwrite or transform != "deformable":
            raise InputError(
                "--add goes without --affine, --memory, --spacing, --overwrite and --transform: the atlas's hold",
                "Leave them out",
            )
        newcomers = [_newcomer(text) for text in add]
        add_people(output, newcomers, checkpoint, images, jacobian, console, device)
        return
    people = read_bids(bids, [name for name in suffix.split(",") if name], bids_label, bids_mask) if bids else manifest
    assert people is not None
    api.atlas(
        people,
        output,
        checkpoint,
        transform=transform,
        spacing_mm=spacing,
        images_too=images,
        jacobian=jacobian,
        affine=affine,
        memory=memory or None,
        device=device,
        overwrite=overwrite,
        console=console,
    )


def _newcomer(text: str) -> tuple[str, Path]:
    """(modality, image); no modality where the text is a file's name."""
    name, equals, path = text.partition("=")
    return ("", Path(text)) if not equals or exists(Path(text)) else (name, Path(path))


def apply(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Image, label map or landmarks")],
    registration: Annotated[Path, typer.Option(help="Folder that bingo register wrote")],
    source: Annotated[str, typer.Option("--from", help="Member whose space FILE is in, or template")],
    target: Annotated[str, typer.Option("--to", help="Member to move it to, or template")],
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write")],
    labels: Annotated[bool, typer.Option("--labels", help="Treat FILE as a label map")] = False,
    space: Annotated[
        Literal["RAS", "LPS"] | None, typer.Option(help="Space of landmarks whose file does not say it")
    ] = None,
    interpolation: Annotated[
        InterpolationName | None, typer.Option(help="Interpolation of intensities", show_default="linear")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file to write, where it exists")] = False,
) -> None:
    """Move an image, a label map or landmarks from one member of a registered group to another.

    The exit status is 1 where nothing of FILE lies there.
    """
    from bingo_pl.registration import apply as application

    applied = application.apply(
        registration, source, target, path, output, labels, space, console, interpolation, overwrite
    )
    console.print(f"written: {escape(str(applied.path))}", soft_wrap=True)
    raise typer.Exit(0 if applied.arrived else 1)


def convert(
    registration: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder that bingo register wrote")],
    source: Annotated[str, typer.Option("--from", help="Member whose images are moved, or template")],
    target: Annotated[str, typer.Option("--to", help="Member to which they are moved, or template")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="File to write: FSL's matrix (.mat), FSL's warp (.nii.gz) or FreeSurfer's linear map (.lta)",
        ),
    ],
) -> None:
    """Write what moves images from one member of a registered group to another in the format of FSL or FreeSurfer."""
    from bingo_pl.registration import convert as conversion

    console.print(f"written: {escape(str(conversion.convert(registration, source, target, output)))}", soft_wrap=True)


def report(
    registration: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder that bingo register or bingo atlas wrote")
    ],
) -> None:
    """Write report.html into the folder: one page to judge it by. Of a registration the original images are needed."""
    from bingo_pl.report.page import write_report

    console.print(f"written: {escape(str(write_report(registration)))}", soft_wrap=True)
