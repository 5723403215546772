"""What a registration reports while it works."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
from rich import progress
from rich.console import Console
from rich.markup import escape

from bingo_pl.images.affine import Stage
from bingo_pl.images.grids import Grid
from bingo_pl.images.record import FAIL, PASS, WARN, sha256_of
from bingo_pl.images.scans import Scan, describe
from bingo_pl.messages import report, warn
from bingo_pl.registration.verdict import Verdict, Way

Item = TypeVar("Item")

SHOWN = 3
"""Of what a warning lists."""
PICTURES = (".png", ".jpg", ".jpeg", ".bmp")
"""Of files that seldom say how large their pixels are."""


def track(items: Sequence[Item], description: str, console: Console) -> Iterator[Item]:
    """The items, with a progress bar in a terminal, reported to who listens."""
    hidden = not console.is_terminal
    for number, item in enumerate(progress.track(items, description, console=console, transient=True, disable=hidden)):
        report(description, number / len(items))
        yield item
    report(description, 1.0)


def tell_overlap(first: Scan, scan: Scan, stage: Stage, console: Console) -> None:
    """What the affine stage found for an image."""
    overlap = f"{stage.before:.0%} of the smaller foreground of {scan.name} and {first.name} overlaps"
    done = f"{stage.after:.0%} after the affine stage" if stage.tried else "no affine stage"
    console.print(f"{escape(overlap)}; {done}", soft_wrap=True)


def tell_overlaps(titles: Sequence[Path], stages: Sequence[Stage], console: Console) -> None:
    """What the affine stage found for a group too large to name each image."""
    tried = sum(stage.tried for stage in stages)
    least, title = min((stage.after, str(title)) for stage, title in zip(stages, titles, strict=True))
    console.print(
        f"{len(stages)} images, affine stage tried for {tried}; overlap with the first one at least {least:.0%} "
        f"({escape(title)})",
        soft_wrap=True,
    )


def tell_grid(grid: Grid, first: Path, console: Console) -> None:
    """The group grid, and the image (``first``) that gave it its axes."""
    console.print(f"group grid: {describe(grid)}, along the axes of {escape(str(first))}", soft_wrap=True)


def warn_of_one(title: Path, console: Console) -> None:
    """A group of one image."""
    warn(
        f"{title} is the only image: there is nothing to register it to, and it stays where it is. Name two images or "
        "more",
        console,
    )


def warn_of_one_person(console: Console) -> None:
    """A population of one."""
    warn("the images show one person, who is the template then. Name the images of two people or more", console)


def warn_of_copies(images: Iterable[tuple[str, str]], console: Console) -> None:
    """Images of the same content.

    Args:
        images: what messages call each, and its digest.
        console: where it is reported.
    """
    called: dict[str, list[str]] = {}
    for name, digest in images:
        called.setdefault(digest, []).append(name)
    copies = [names for names in called.values() if len(names) > 1]
    if copies:
        shown = "; ".join(" and ".join(names[:SHOWN]) for names in copies[:SHOWN])
        more = sum(len(names) for names in copies) - sum(len(names[:SHOWN]) for names in copies[:SHOWN])
        warn(
            f"the same image, which counts more than once and draws the group to itself: {shown}"
            f"{f' and {more} more' if more else ''}. Leave the copies out",
            console,
        )


def warn_of_copied_files(files: Sequence[Path], console: Console) -> None:
    """Files of the same content; only those of the same size are read."""
    sizes = [path.stat().st_size for path in files]
    number = Counter(sizes)
    alike = [path for path, size in zip(files, sizes, strict=True) if number[size] > 1]
    warn_of_copies(((str(path), sha256_of(path)) for path in alike), console)


def warn_of_pixels(scans: Sequence[Scan], console: Console) -> None:
    """Pictures, whose formats need not say how large a pixel is: 1 mm is what is read where they do not."""
    unknown = [
        str(scan.title) for scan in scans if scan.title.suffix.lower() in PICTURES and np.allclose(scan.grid.spacing, 1)
    ]
    if unknown:
        warn(
            f"{', '.join(unknown)}: no pixel size is stored, 1 mm is assumed, so mm here are pixels. Where the size is "
            "known, convert to NIfTI with it",
            console,
        )


def warn_of_misfit(scan: Scan, console: Console) -> None:
    """An image that does not belong to its group."""
    warn(
        f"{called(scan)} does not fit the others: another patient, another sequence, upside down, or "
        "registration failed. Look at it in the report",
        console,
    )


def called(scan: Scan) -> str:
    """An image's name and its file."""
    return scan.name if str(scan.title) == scan.name else f"{scan.name} ({scan.title})"


def warn_of_name(scan: Scan, looks_like: str, console: Console) -> None:
    """An image that looks like another modality than it was given as."""
    warn(
        f"{called(scan)} was given as {scan.modality} but looks like {looks_like}, by its contrast beside "
        f"the others. If it is one, register again and give it as {looks_like}",
        console,
    )


def report_way(way: Way, names: Sequence[str], error_mm: Sequence[float | None], console: Console) -> None:
    """What was done, what was kept and why, and how far off each image is likely to be."""
    for name, start in zip(names, way.starts, strict=True):
        if start != "headers":
            console.print(
                f"{escape(name)}: not where its header has it; started from its object ({escape(start)})",
                soft_wrap=True,
            )
    if len(names) == 1:
        return  # it moves against nothing
    for stage in way.stages:
        done = "kept" if stage.kept else "not kept"
        console.print(
            f"{escape(stage.kind)}: moves the images by {stage.moved_mm:.2g} mm against each other, {done}: "
            f"{escape(stage.why)}",
            soft_wrap=True,
        )
    taken_back = way.kept == "identity" and any(stage.kept for stage in way.stages)
    kept = "identity, all of this is taken back: the images do not show the same" if taken_back else way.kept
    errors = ", ".join(
        f"{name} {'unknown' if error is None else f'{error:.2g}'}" for name, error in zip(names, error_mm, strict=True)
    )
    console.print(f"kept: {escape(kept)}. Predicted error in mm: {escape(errors)}", soft_wrap=True)


def report_verdict(verdict: Verdict, console: Console) -> None:
    """What the figures say of the result."""
    style = {PASS: "bold green", WARN: "bold yellow", FAIL: "bold red"}[verdict.level]
    console.print(verdict.level.upper(), style=style)
    for reason in verdict.reasons:
        console.print("-", style=style, end=" ")
        console.print(escape(reason), soft_wrap=True)
