"""The calls of `hostile` on registration and atlases at the images' own resolution, and on what came with them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmarks import hostile_files as files
from benchmarks.hostile_call import GROUP, IMAGE, NEW, Call, Change, both, built, text
from benchmarks.hostile_files import Builder

NATIVE = ("register", "--transform", "rigid")
PEOPLE = ("atlas", "people.csv", "--transform", "rigid")
ADD = ("atlas", "--output", "atlas", "--add")
OVERWRITE = (*NATIVE, "--output", "out", "--overwrite")
SERIES = np.stack([files.IMAGE[..., 0] * (1 + number / 3) for number in range(4)], -1)[:, :, None]
POPULATION = "modality,image,label\n" + "".join(
    f"a,cohort/{number}_a.nii.gz,cohort/{number}_label.nii.gz\n" for number in range(3)
)
VALUES = {
    "too few": "1,2",
    "not finite": "nan,1,2,3",
    "that leave the folder": "../../x,a,b,c",
    "in an absent file": "nowhere.bval",
    "in a folder": "cohort",
    "in an image": IMAGE,
    "none": "",
    "too long": ",".join("x" * 240 for _ in range(4)),
}


def of_native() -> Iterator[Call]:
    """All of them."""
    for make in (images, series, starts, grids, overwriting, atlases):
        yield from make()


def images() -> Iterator[Call]:
    for key, build in files.BAD_IMAGES.items():
        if key == "time series":  # a group of its own
            continue
        change = built("bad/bad.nii.gz", build)
        yield _call(f"{key}, register", (*NATIVE, *NEW, "a=bad/bad.nii.gz", GROUP[1]), (2,), change)
    for key, build in files.ODD_IMAGES.items():
        change = built("odd/odd.nii.gz", build)
        first = "a=odd/odd.nii.gz" if key in files.OTHER_PLANES else GROUP[0]
        yield _call(f"{key}, register", (*NATIVE, *NEW, first, "b=odd/odd.nii.gz"), (0, 1), change)
    yield _call("an image twice", (*NATIVE, *NEW, GROUP[0], GROUP[0]), (0, 1))
    yield _call("one image", (*NATIVE, *NEW, GROUP[0]), (0, 1))
    yield _call("pairwise", (*NATIVE, *NEW, "--pairwise", *GROUP), (0, 1))
    for option in ("--mask", "--label", "--initial"):
        yield _call(f"{option} twice", (*NATIVE, *NEW, option, f"a={IMAGE}", option, f"a={IMAGE}", *GROUP))


def series() -> Iterator[Call]:
    good = built("series.nii.gz", files.voxels(SERIES))
    for key, values in VALUES.items():
        yield _call(f"values {key}", (*NATIVE, *NEW, "series.nii.gz", "--values", values), (2,), good)
    yield _call("series", (*NATIVE, *NEW, "series.nii.gz"), (0, 1), good)
    yield _call("series beside an image", (*NATIVE, *NEW, "a=series.nii.gz", GROUP[1]), (2,), good)
    yield _call("series with a start", (*NATIVE, *NEW, "a=series.nii.gz", "--initial", "a=x.tfm"), (2,), good)
    wrapped = built("series.nii.gz", files.voxels((SERIES * 400).astype(np.uint16).view(np.int16)))
    yield _call("wrapped series", (*NATIVE, *NEW, "series.nii.gz"), (0, 1), wrapped)
    streamed = ("register", *NEW, "--memory", "100MB", "s=series.nii.gz")
    yield _call("wrapped series, streamed", streamed, (0,), wrapped)
    empty = SERIES.copy()
    empty[..., 2] = 0
    yield _call(
        "series with an empty volume",
        (*NATIVE, *NEW, "series.nii.gz"),
        (2,),
        built("series.nii.gz", files.voxels(empty)),
    )


def starts() -> Iterator[Call]:
    matrices: dict[str, tuple[float, ...]] = {
        "without an inverse": (0,) * 9,
        "out of the plane": (1, 0, 0, 0, 0, -1, 0, 1, 0),
        "away": (1, 0, 0, 0, 1, 0, 0, 0, 1),
    }
    for key, matrix in matrices.items():
        offset = (1e5, 0, 0) if key == "away" else (0, 0, 0)
        yield _call(
            f"start {key}",
            (*NATIVE, *NEW, "--initial", "b=x.tfm", *GROUP),
            (2,),
            built("x.tfm", _start(matrix, offset)),
        )
    for key, build in {"text": files.content(b"none"), "empty": files.content(b""), "FIFO": files.fifo}.items():
        yield _call(f"start is {key}", (*NATIVE, *NEW, "--initial", "b=x.tfm", *GROUP), (2,), built("x.tfm", build))
    yield _call("start of nobody", (*NATIVE, *NEW, "--initial", "z=x.tfm", *GROUP))


def grids() -> Iterator[Call]:
    for spacing in ("0", "-1", "nan", "inf", "1e-7", "1e7"):
        yield _call(f"spacing {spacing}", (*NATIVE, *NEW, f"--spacing={spacing}", *GROUP))
    for key, build in {**files.BAD_IMAGES, **files.ODD_IMAGES}.items():
        shows = (
            key in ("NaN", "infinite", "constant", "complex", "sform huge", "intercept infinite")
            or key in files.ODD_IMAGES
        )
        wanted = (0, 1, 2) if shows else (2,)  # the grid may be good whatever the image shows
        yield _call(
            f"like {key}", (*NATIVE, *NEW, "--like", "like.nii.gz", *GROUP), wanted, built("like.nii.gz", build)
        )
    yield _call("like and spacing", (*NATIVE, *NEW, "--like", IMAGE, "--spacing", "1", *GROUP))


def overwriting() -> Iterator[Call]:
    """Only what a command wrote itself is replaced."""
    notes = text("out/notes.txt", "somebody's work")
    yield _call("overwrite somebody's file", (*OVERWRITE, *GROUP), (2,), notes)
    yield _call("overwrite somebody's folder", (*OVERWRITE, *GROUP), (2,), built("out/mine", Path.mkdir))
    yield _call("overwrite a changed image", (*OVERWRITE, *GROUP), (2,), text("out/registered/a.nii.gz", "x"))
    for key, given in {"an image": (), "a grid": ("--like", "out/registered/a.nii.gz")}.items():
        group = (*GROUP, "c=out/registered/a.nii.gz") if not given else GROUP
        yield _call(f"overwrite what is read as {key}", (*OVERWRITE, *given, *group))
    yield _call(
        "overwrite by an atlas", (*PEOPLE, "--output", "out", "--overwrite"), (2,), text("people.csv", POPULATION)
    )
    full = _call("overwrite, disk full", (*OVERWRITE, *GROUP))
    yield replace(full, file_limit=3000)
    apply = ("apply", "--registration", "out", "--from", "a", "--to", "b", "--overwrite")
    yield _call("apply onto the registration", (*apply, IMAGE, "--output", "out/registered/b.nii.gz"))


def atlases() -> Iterator[Call]:
    people = text("people.csv", POPULATION)
    for key, build in list(files.BAD_IMAGES.items())[::4]:
        bad = both(people, lambda work: (work / "cohort/0_a.nii.gz").unlink(), built("cohort/0_a.nii.gz", build))
        yield _call(f"{key}, atlas", (*PEOPLE, *NEW), (2,), bad)
    twice = text("people.csv", POPULATION + "a,cohort/0_a.nii.gz,\n")
    yield _call("a person twice, atlas", (*PEOPLE, *NEW), (0,), twice)
    yield replace(_call("atlas, disk full", (*PEOPLE, *NEW), (2,), people), file_limit=3000)
    yield _call("added to nothing", (*ADD, IMAGE))
    yield _call("added to a registration", ("atlas", "--output", "out", "--add", IMAGE))
    yield _call("BIDS of no dataset", ("atlas", "--bids", "cohort", "--suffix", "T1w", *NEW))


def _start(matrix: tuple[float, ...], offset: tuple[float, ...]) -> Builder:
    return lambda path: sitk.WriteTransform(sitk.AffineTransform(matrix, offset), str(path))


def _call(name: str, command: tuple[str, ...], wanted: tuple[int, ...] = (2,), change: Change | None = None) -> Call:
    call = Call("native", name, command, wanted)
    return call if change is None else replace(call, change=change)
