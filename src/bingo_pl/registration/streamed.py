"""Registering image files of a group of any size, an image at a time from file to file: ``bingo register --memory``.

The same rules as in memory, `bingo_pl.registration.workflow`, and the same files, except for what needs all images at
once: the network's result is not refined, and uncertainty, what does not fit the group or its name, and the decoder's
pictures are not made.

The output folder holds ``unfinished/`` until all is done. The same command resumes a killed registration from it:

    volumes/      of a 4D file: which it was; its volumes themselves are in originals/
    placements/   each image's affine stage and foreground box
    sweeps/       see `bingo_pl.streaming.workspace`
    outputs/      each written image's entry of registration.json and its files' digests; the template's sum

All of it, and the images that were written, is checked before it is resumed from.
"""

from __future__ import annotations

import operator
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.markup import escape

from bingo_pl import config as settings
from bingo_pl.device import isolated
from bingo_pl.errors import BingoError
from bingo_pl.images.affine import Stage
from bingo_pl.images.grids import Grid
from bingo_pl.images.members import Member
from bingo_pl.images.record import sha256_of
from bingo_pl.images.resampling import check_interpolation
from bingo_pl.images.scans import File, names_of, read_scan
from bingo_pl.images.series import Series, Values, find, split
from bingo_pl.images.transforms import write_image
from bingo_pl.messages import doing
from bingo_pl.models.model import Model
from bingo_pl.registration.console import tell_grid, tell_overlaps, track, warn_of_copied_files, warn_of_one
from bingo_pl.registration.registered import MEAN, ORIGINALS, UNFINISHED, Registered, write_member, write_record
from bingo_pl.storage import resumable
from bingo_pl.storage.atomic import check_place, check_unused, remove_leftovers
from bingo_pl.storage.locking import held
from bingo_pl.streaming.estimate import READ, FileCosts
from bingo_pl.streaming.file_source import FileSource, dims_of, identity, place
from bingo_pl.streaming.stream import StreamedRegistration, register_stream
from bingo_pl.streaming.workspace import Plan, claim

VOLUMES, PLACEMENTS, SWEEPS, OUTPUTS = "volumes", "placements", "sweeps", "outputs"
REMOVED = ".unfinished.tmp"
"""What it is called while it is removed."""
WAYS = ("forward", "inverse")


@isolated()
def register_files(
    members: Sequence[Member],
    output: Path,
    memory_bytes: int,
    checkpoint: Path | None = None,
    *,
    affine: str = "auto",
    interpolation: str = "linear",
    jacobian: bool = False,
    device: str = "auto",
    values: Values | None = None,
    console: Console | None = None,
) -> Path:
    """Register the images of one group and write what `RegisteredGroup.write` writes, an image at a time.

    Args:
        members: the files. The first one gives the group its orientation, and its place where others need an affine
            stage.
        output: a folder that is new, empty or left by the same registration, which is then resumed.
        memory_bytes: for images in work and features, see `register_stream`. One image with its transforms, as large
            as it is given, comes on top.
        checkpoint: of a trained BInGo network, which must know every modality; None for the ready model.
        affine: ``auto``, ``always`` or ``never``, see `bingo_pl.images.affine`.
        interpolation: see `bingo_pl.register`.
        jacobian: write the Jacobian determinants too.
        device: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        values: of the volumes of a 4D file, see `bingo_pl.register`.
        console: where progress is reported; None for silence.

    Returns:
        The folder.

    Raises:
        BingoError: unusable images, an overlap that stays poor, modalities that the model does not know, too little
            memory, or a folder in use by something else or by another process, also by a registration with other files
            or settings.
    """
    output = output.absolute()
    check_interpolation(interpolation)
    console = console or Console(quiet=True)
    with held(output):
        return _register(
            members, output, memory_bytes, checkpoint, affine, interpolation, jacobian, device, values, console
        )


def _register(
    members: Sequence[Member],
    output: Path,
    memory_bytes: int,
    checkpoint: Path | None,
    affine: str,
    interpolation: str,
    jacobian: bool,
    device: str,
    values: Values | None,
    console: Console,
) -> Path:
    """`register_files`, alone in the folder."""
    work = output / UNFINISHED
    names = names_of(member.modality for member in members)  # one that cannot name a file is refused before the work
    series = find([(member.modality, member.image) for member in members], values)
    goes_on = _check_output(output)
    if series is not None:
        members, names = _volumes(series, members[0], affine, work, output), list(series.names)
    model = Model.load(checkpoint, dims_of(members[0]), [f"trainer.accelerator={device}"])
    bingo, file = model.bingo, File.of(model.path)
    if goes_on:
        console.print(f"resuming the registration in {escape(str(output))}", soft_wrap=True)
    elif len(members) == 1:
        warn_of_one(members[0].image, console)
    positions = track(range(len(members)), "aligning", console)
    try:
        placements, grid = place(members, model, affine, work / PLACEMENTS, positions)
    except BingoError:
        for empty in (work, output):
            with suppress(OSError):  # not empty
                empty.rmdir()
        raise
    stages = [placement.stage for placement in placements]
    if not goes_on:
        warn_of_copied_files([member.image for member in members], console)
    tell_overlaps([member.image for member in members], stages, console)
    tell_grid(grid, members[0].image, console)
    claim(work / OUTPUTS, _plan(members, file, affine, interpolation, jacobian))
    source = FileSource(members, model, grid, [stage.affine for stage in stages])
    with doing("registering", console):
        result = register_stream(bingo, source, memory_bytes, work / SWEEPS)
    continued = series is not None
    entries = _write_images(members, names, stages, grid, result, output, interpolation, continued, jacobian, console)
    if series is not None:
        series.write(output, grid)
    write_record(output, file, settings.to_tree(model.config), grid, entries, series=series)
    console.print(
        "not done for a streamed group: refinement, uncertainty, reconstructions, what does not fit the group or its "
        "name",
        soft_wrap=True,
    )
    from bingo_pl.report.page import write_report  # Matplotlib, which registering does not need

    write_report(output)
    work.rename(output / REMOVED)  # at once, so that a kill leaves no half of it to resume from
    shutil.rmtree(output / REMOVED)
    return output


def probe_files(members: Sequence[Member], model: Model, memory_bytes: int) -> FileCosts:
    """Costs of affine stage and files of an image, from the first `READ` ones; raises as `register_files`."""
    first = members[:READ]
    with TemporaryDirectory() as folder:
        output = Path(folder)
        start = time.perf_counter()
        placements, grid = place(first, model, "auto", output / UNFINISHED / PLACEMENTS)
        seconds = time.perf_counter() - start
        stages = [placement.stage for placement in placements]
        source = FileSource(first, model, grid, [stage.affine for stage in stages])
        result = register_stream(model.bingo, source, memory_bytes)
        start = time.perf_counter()
        names = names_of(member.modality for member in first)
        _write_images(first, names, stages, grid, result, output, "linear", False, False, Console(quiet=True))
        seconds += time.perf_counter() - start
        shutil.rmtree(output / UNFINISHED)
        written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
    return FileCosts(seconds / len(first), written / len(first))


def _check_output(output: Path) -> bool:
    """Whether there is a registration to resume; what a kill has left half written is removed.

    Raises:
        BingoError: the folder is in use by something else.
    """
    check_place(output)
    work = output / UNFINISHED
    shutil.rmtree(output / REMOVED, ignore_errors=True)
    ours = work.is_dir() and {path.name for path in work.iterdir()} <= {VOLUMES, PLACEMENTS, SWEEPS, OUTPUTS}
    if ours:
        remove_leftovers(output)
    else:
        check_unused(output)
    return ours


def _volumes(series: Series, member: Member, affine: str, work: Path, output: Path) -> list[Member]:
    """The volumes of a 4D file as files of their own, which the results refer to."""
    claim(work / VOLUMES, Plan({"affine stage": affine, "volumes": ", ".join(series.names)}, [identity(member)]))
    return [replace(member, image=path) for path in split(series, output / ORIGINALS)]


def _plan(members: Sequence[Member], model: File, affine: str, interpolation: str, jacobian: bool) -> Plan:
    chosen = {
        "model": model.sha256,
        "affine stage": affine,
        "interpolation": interpolation,
        "Jacobians": str(jacobian),
    }
    return Plan(chosen, [identity(member) for member in members])


def _write_images(
    members: Sequence[Member],
    names: Sequence[str],
    stages: Sequence[Stage],
    grid: Grid,
    result: StreamedRegistration,
    output: Path,
    interpolation: str,
    continued: bool,
    jacobian: bool,
    console: Console,
) -> list[dict[str, Any]]:
    """Write the files of each image and the template; the images' entries of the record."""
    folder = output / UNFINISHED / OUTPUTS
    sums = folder / "template.pt"
    done, total = 0, torch.zeros(grid.shape, dtype=torch.float64)
    if sums.exists():
        content = resumable.read_tensors(sums)
        with resumable.understood(sums):
            done, total = operator.itemgetter("done", "total")(content)
    for i in track(range(len(members)), "writing", console):
        kept = folder / f"{i}.json"
        if i < done and _whole(kept, output, console):
            continue
        member = members[i]
        scan = read_scan(names[i], member.modality, member.image, member.mask, member.label)
        registered = Registered.of(scan, scan.digests(), stages[i], *result.both(i), grid)
        registered = replace(registered, interpolation=interpolation, continued=continued)
        entry = write_member(registered, grid, output, output, jacobian)
        resumable.write_json(kept, {"entry": entry, "files": _digests(names[i], output)})
        if i >= done:
            total = total + torch.from_numpy(registered.unit())
            resumable.write_tensors(sums, {"done": i + 1, "total": total})
    write_image((total / len(members)).float().numpy(), grid, output / MEAN)
    return [_entry(folder / f"{i}.json") for i in range(len(members))]


def _entry(path: Path) -> dict[str, Any]:
    content = resumable.read_json(path)
    with resumable.understood(path):
        entry: dict[str, Any] = content["entry"]
    return entry


def _digests(name: str, output: Path) -> dict[str, str]:
    """SHA-256 of the files of an image, by their paths in the output folder."""
    paths = [Path(folder.name) / f"{name}.nii.gz" for folder in output.iterdir() if folder.name != UNFINISHED]
    paths += [Path("transforms") / f"{name}_{way}{ending}" for way in WAYS for ending in (".h5", ".nii.gz")]
    return {str(path): sha256_of(output / path) for path in paths if (output / path).is_file()}


def _whole(kept: Path, output: Path, console: Console) -> bool:
    """Whether the files of an image are still what was written, which its file in the work folder tells."""
    content = resumable.read_json(kept)
    with resumable.understood(kept):
        files: dict[str, str] = dict(content["files"])
    for relative, digest in files.items():
        path = output / relative
        if not path.is_file() or sha256_of(path) != digest:
            console.print(f"{escape(str(path))} is missing or damaged; the image is written again", soft_wrap=True)
            return False
    return True
