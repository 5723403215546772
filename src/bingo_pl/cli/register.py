"""The command ``register``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from bingo_pl.cli.common import Device, InterpolationName, NewFolder, Overwrite, console, pair, pairs_of
from bingo_pl.errors import InputError
from bingo_pl.registration.choices import REFINE, REFINED_UP_TO
from bingo_pl.storage.regular import exists


def register(
    output: NewFolder,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Checkpoint, runs/<name>/checkpoints/best.ckpt; default: the ready model")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[[MODALITY=]FILE]...",
            help="Group, e.g. t1=a.nii.gz t2=b.nii.gz, or p1_t1.nii.gz p1_t2.nii.gz; or one 4D file",
        ),
    ] = None,
    manifest: Annotated[
        Path | None, typer.Option(help="CSV file instead, with the columns modality,image[,mask,label]")
    ] = None,
    mask: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="Foreground of an image; t2_2 is the second t2")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FILE", help="Label map that is registered with its image")
    ] = None,
    transform: Annotated[
        Literal["auto", "rigid", "affine", "deformable", "network"] | None,
        typer.Option(
            help="Last stage; auto: as far as the evidence supports it; network: the network alone",
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
    values: Annotated[
        str | None,
        typer.Option(
            help="Values of a 4D file's volumes, by which they are named: 100,180,260 or a text file, e.g. FSL's .bval",
            show_default="indices from 0",
        ),
    ] = None,
    affine: Annotated[
        Literal["auto", "always", "never"] | None,
        typer.Option(help="Affine stage of --transform network and of --memory", show_default="auto"),
    ] = None,
    refine: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Number of optimisation steps after the result of --transform network",
            show_default=f"{REFINE}; 0 for more than {REFINED_UP_TO[2]} slices or "
            f"{REFINED_UP_TO[3]} volumes or with --memory",
        ),
    ] = None,
    interpolation: Annotated[InterpolationName, typer.Option(help="Interpolation of intensities")] = "linear",
    jacobian: Annotated[bool, typer.Option("--jacobian", help="Write Jacobian determinants too")] = False,
    pairwise: Annotated[
        bool, typer.Option("--pairwise", help="Write each image on the grid of each other one too, with the transform")
    ] = False,
    memory: Annotated[
        str, typer.Option(help="Memory budget for a group of any size, which is then streamed, e.g. 500MB or 4GB")
    ] = "",
    device: Device = "auto",
    overwrite: Overwrite = False,
) -> None:
    """Register the images of one group at their own resolution; write them, a template, transforms and a report.

    The volumes of a 4D file are a group. Sizes, voxels and orientations may differ. The exit status is 1 where the
    result is in doubt: see what is printed and the report. Killed with --memory, it resumes by the same command.
    """
    from bingo_pl.images.manifest import read_group
    from bingo_pl.images.members import Member
    from bingo_pl.images.record import RECORD
    from bingo_pl.images.scans import check_names, names_of
    from bingo_pl.images.series import find
    from bingo_pl.images.written import check_output
    from bingo_pl.registration import workflow
    from bingo_pl.registration.streamed import register_files
    from bingo_pl.streaming.budget import parse_bytes

    if bool(images) == (manifest is not None):
        raise InputError("name the images either as arguments, e.g. t1=a.nii.gz t2=b.nii.gz, or by --manifest")
    pairs = [_image(text) for text in images or ()]
    members = read_group(manifest) if manifest else [Member(modality, path) for modality, path in pairs]
    series = find([(member.modality, member.image) for member in members], values)
    names = names_of(member.modality for member in members)
    masks, labels = pairs_of(mask, "--mask", "t1=a.nii.gz"), pairs_of(label, "--label", "t1=a.nii.gz")
    starts = pairs_of(initial, "--initial", "t2=start.tfm")
    known = names if series is None else [*names, *series.names]
    check_names("mask", masks, known)
    check_names("label map", labels, known)
    named = {
        name: dataclasses.replace(member, mask=masks.get(name, member.mask), label=labels.get(name, member.label))
        for name, member in zip(names, members, strict=True)
    }
    doubtful = False
    if memory:
        if refine:
            raise InputError("--refine optimises all images at once and --memory streams them", "Leave one of them out")
        if overwrite or pairwise:
            raise InputError(
                f"--{'overwrite' if overwrite else 'pairwise'} does not go with --memory",
                "Leave one of them out" + (", or remove the old folder yourself" if overwrite else ""),
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
            values=values,
            console=console,
        )
    else:
        read = [path for member in named.values() for path in member.files]
        check_output(output, overwrite, RECORD, [*read, *starts.values(), *([] if like is None else [like])])
        group = workflow.register(
            [(member.modality, member.image) for member in members],
            checkpoint,
            masks=masks | {name: member.mask for name, member in named.items() if member.mask},
            labels=labels | {name: member.label for name, member in named.items() if member.label},
            transform=transform,
            reference=reference or None,
            initial=starts,
            spacing_mm=spacing,
            like=like,
            values=values,
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


def _image(text: str) -> tuple[str, Path]:
    """(modality, image) from MODALITY=FILE, or from a file's name."""
    from bingo_pl.images.series import named

    if "=" in text:
        return pair(text, "MODALITY=FILE", "t1=a.nii.gz")
    if not exists(Path(text)):
        raise InputError(
            f"'{text}' is not MODALITY=FILE, e.g. t1=a.nii.gz, and there is no file of that name", "Correct it"
        )
    return named(text)
