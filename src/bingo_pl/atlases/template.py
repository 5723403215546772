"""The atlas of a population: an unbiased template with its label prior. The command ``bingo atlas``.

The network's displacements have a mean of nearly zero; what is left is taken out by composing each with the inverse of
the mean (Guimond et al. 2000), after which it is zero up to rounding. Images are read one at a time, several times.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from bingo_pl import __version__
from bingo_pl.atlases.centring import Population, read
from bingo_pl.atlases.pooling import LEAST_COVERAGE, Pool, View, dice, sharpness, view
from bingo_pl.device import isolated
from bingo_pl.errors import unknown_name
from bingo_pl.images.affine import MODES
from bingo_pl.images.grids import Grid
from bingo_pl.images.members import Member
from bingo_pl.images.record import ATLAS, sha256_of
from bingo_pl.images.scans import names_of
from bingo_pl.images.transforms import write_image
from bingo_pl.images.written import FILES, check_output, digests_of
from bingo_pl.messages import doing
from bingo_pl.models.model import Model
from bingo_pl.registration.console import track, warn_of_one_person
from bingo_pl.spatial import compose, invert
from bingo_pl.storage.folders import replacing_folder
from bingo_pl.storage.locking import held
from bingo_pl.streaming.file_source import FileSource, dims_of
from bingo_pl.streaming.stream import register_stream

RECORD = ATLAS
Displacements = Callable[[], Iterable[tuple[int, Tensor]]]
"""Gives each image's position and displacement (D, *S) again."""


@isolated()
def build(
    members: Sequence[Member],
    checkpoint: Path | None,
    output: Path,
    affine: str,
    memory_bytes: int,
    console: Console,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Make the atlas of a population and write it.

    Args:
        members: its images; label maps and masks are optional. An image counts within its mask, else within its grid.
        checkpoint: of a BInGo model; None for the ready model.
        output: a folder that does not exist yet. Beside it, in ``<output>.work``, lies what a killed run has found; the
            same command resumes from there and removes it in the end.
        affine: ``auto``, ``always`` or ``never``, see `bingo_pl.images.affine`.
        memory_bytes: for the streamed registration, beyond network, program and the sums over images.
        console: where progress and results are reported.
        device: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        overwrite: replace an atlas that was written here and has not changed since.

    Returns:
        The folder: ``template/``, ``coverage.nii.gz``, ``mean_displacement.nii.gz``, ``atlas.json``, with label maps
        ``labels.nii.gz``, ``label_prior.nii.gz``, ``label_prior.csv`` and ``label_coverage.nii.gz``.

    Raises:
        BingoError: unusable images, an overlap that stays poor, another method than BInGo, or a folder in use.
    """
    check_output(output, overwrite, RECORD, [path for member in members for path in member.files])
    if affine not in MODES:
        raise unknown_name("affine stage", affine, MODES)
    names_of(member.modality for member in members)  # one that cannot name a file is refused before the work begins
    work = output.absolute().with_name(f"{output.name}.work")
    model = Model.load(checkpoint, dims_of(members[0]), [f"trainer.accelerator={device}"])
    for member in members:
        model.index(member.modality)  # an unknown one is refused before the work begins
    if len(members) == 1:
        warn_of_one_person(console)
    with held(work):
        return _build(members, model, output, work, affine, memory_bytes, console, overwrite)


def _build(
    members: Sequence[Member],
    model: Model,
    output: Path,
    work: Path,
    affine: str,
    memory_bytes: int,
    console: Console,
    overwrite: bool,
) -> Path:
    """`build`, alone in the folder of work."""
    bingo = model.bingo
    population = Population.of(members, model, affine, work, console)
    source = FileSource(population.members, model, population.grid, population.affines)
    with doing("registering", console):
        result = register_stream(bingo, source, memory_bytes, work / f"sweeps_{population.digest()}")
    mean = _mean(u for _, u in result.displacements())
    correction = invert(mean[None])

    def unbiased() -> Iterator[tuple[int, Tensor]]:
        for position, displacement in result.displacements():
            yield position, compose(displacement[None], correction)[0]

    def unmoved() -> Iterator[tuple[int, Tensor]]:
        for position in range(len(members)):
            yield position, torch.zeros_like(mean)

    before = _pool(population, unmoved, "before the network", console)
    after = _pool(population, unbiased, "after it", console)
    record = _record(population, model, before, after, mean)
    _tell(record, console)
    _write(population, after, record, output, overwrite)
    shutil.rmtree(work)
    console.print(f"written: {escape(str(output))}", soft_wrap=True)
    return output


@dataclass(frozen=True, eq=False)
class _Pooled:
    """The images under some displacements, and how well they agree."""

    pool: Pool
    mean: Tensor
    """(D, *S) displacement."""
    moved_mm: list[float]
    """By how much each image is moved, on average."""
    dice: list[float]
    """Of each image with the most probable labels; NaN without a label map."""
    sharpness: float
    """Of the template, per mm."""


def _pool(population: Population, displacements: Displacements, when: str, console: Console) -> _Pooled:
    """Two passes over the images: one adds them up, one compares their labels with the result."""
    grid, label_ids = population.grid, population.label_ids
    pool = Pool(grid.shape, population.modalities, label_ids)
    moved_mm = [0.0] * len(population.members)

    def images(title: str) -> Iterator[tuple[int, Member, Tensor]]:
        members = track(population.members, f"{title} {when}", console)
        for member, (position, displacement) in zip(members, displacements(), strict=True):
            yield position, member, displacement

    def seen(position: int, member: Member, displacement: Tensor) -> View:
        return view(read(member), population.affines[position], grid, displacement, label_ids)

    def added() -> Iterator[Tensor]:
        for position, member, displacement in images("averaging"):
            pool.add(member.modality, seen(position, member, displacement))
            moved_mm[position] = float(_norm_mm(displacement, grid).mean())
            yield displacement

    mean = _mean(added())
    scores = [math.nan] * len(moved_mm)
    if population.labelled:
        labels = pool.most_probable()
        for position, member, displacement in images("comparing labels"):
            if member.label is not None:
                scores[position] = dice(seen(position, member, displacement), labels, label_ids)
    return _Pooled(pool, mean, moved_mm, scores, sharpness(pool.template(), pool.coverage, grid))


def _record(population: Population, model: Model, before: _Pooled, after: _Pooled, network: Tensor) -> dict[str, Any]:
    """The content of atlas.json."""
    grid = population.grid
    covered = after.pool.coverage >= LEAST_COVERAGE
    images = {
        one.row: {
            "path": str(one.member.image.resolve()),
            "sha256": one.digest,
            "modality": one.member.modality,
            "mask": None if one.member.mask is None else str(one.member.mask.resolve()),
            "label": None if one.member.label is None else str(one.member.label.resolve()),
            "affine_ras_mm": population.affines[position].tolist(),
            "overlap_before": population.stages[position].before,
            "overlap_after": population.stages[position].after,
            "displacement_mm": after.moved_mm[position],
            "dice_before": _or_none(before.dice[position]),
            "dice_after": _or_none(after.dice[position]),
        }
        for position, one in enumerate(population.seen)
    }
    return {
        "bingo_pl": __version__,
        "checkpoint": {"path": str(model.path), "sha256": sha256_of(model.path)},
        "grid": {"shape": grid.shape, "affine_ras_mm": grid.affine.tolist()},
        "reference_of_the_affine_stage": str(population.members[0].image.resolve()),
        "label_ids": population.label_ids if population.labelled else None,
        "mean_displacement_mm": {
            "atlas": _summary(_norm_mm(after.mean, grid)[covered]),
            "network_alone": _summary(_norm_mm(network, grid)[covered]),
            "affine_maps": _summary(_affine_norm_mm(population.affines, grid)[covered]),
        },
        "displacement_mm": float(np.mean(after.moved_mm)),
        "dice_before": _or_none(_nanmean(before.dice)),
        "dice_after": _or_none(_nanmean(after.dice)),
        "sharpness_before_per_mm": before.sharpness,
        "sharpness_after_per_mm": after.sharpness,
        "images": [images[row] for row in sorted(images)],
    }


def _tell(record: dict[str, Any], console: Console) -> None:
    atlas, network = record["mean_displacement_mm"]["atlas"], record["mean_displacement_mm"]["network_alone"]
    lines = [
        f"mean displacement of the group: {atlas['mean']:.2g} mm on average, {atlas['max']:.2g} mm at most; of the "
        f"network alone {network['mean']:.2g} and {network['max']:.2g} mm. Its images move by "
        f"{record['displacement_mm']:.2g} mm on average",
        f"sharpness of the template: {record['sharpness_before_per_mm']:.4f} per mm before the network, "
        f"{record['sharpness_after_per_mm']:.4f} after",
    ]
    if record["dice_after"] is not None:
        lines.append(
            f"Dice of the images' labels and the most probable ones: {record['dice_before']:.3f} before the network, "
            f"{record['dice_after']:.3f} after"
        )
    for line in lines:
        console.print(line, soft_wrap=True)


def _write(population: Population, after: _Pooled, record: dict[str, Any], output: Path, overwrite: bool) -> None:
    grid, pool = population.grid, after.pool
    names = names_of(population.modalities)  # a modality may be called mean
    volumes: dict[str, NDArray] = {
        "template/mean": pool.template(),
        **dict(zip((f"template/{name}" for name in names), pool.templates().values(), strict=True)),
        "coverage": pool.coverage,
        "mean_displacement": _norm_mm(after.mean, grid),
    }
    if population.labelled:
        volumes |= {
            "labels": pool.most_probable(),
            "label_prior": pool.prior(),
            "label_coverage": pool.label_coverage,
        }
    with replacing_folder(output, overwrite) as temporary:
        for name, volume in volumes.items():
            write_image(volume, grid, temporary / f"{name}.nii.gz")
        if population.labelled:
            import pandas as pd  # half a second

            table = pd.DataFrame({"volume": range(len(pool.label_ids)), "label": pool.label_ids})
            table.to_csv(temporary / "label_prior.csv", index=False)
        record = {**record, FILES: digests_of(temporary)}
        (temporary / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")


def _mean(displacements: Iterable[Tensor]) -> Tensor:
    """(D, *S) float32, summed in double precision."""
    total, count = torch.zeros((), dtype=torch.float64), 0
    for displacement in displacements:
        total, count = total + displacement.double(), count + 1
    return (total / count).float()


def _norm_mm(displacement: Tensor, grid: Grid) -> NDArray[np.float32]:
    """(X, Y, Z) length of a displacement (D, *S) in voxels of the grid."""
    to_mm = torch.from_numpy(grid.affine[:3, : len(displacement)]).float()
    length: NDArray[np.float32] = torch.tensordot(to_mm, displacement, dims=1).norm(dim=0).numpy()
    return length.reshape(grid.shape)


def _affine_norm_mm(affines: Sequence[NDArray], grid: Grid) -> NDArray[np.float64]:
    """(X, Y, Z) by how much affine maps (4, 4) RAS mm move a grid's voxels on average, as a vector's length."""
    moved = (np.mean(affines, axis=0) - np.eye(4)) @ grid.affine
    points = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"))
    length: NDArray[np.float64] = np.linalg.norm(
        np.tensordot(moved[:3, :3], points, axes=1) + moved[:3, 3].reshape(3, 1, 1, 1), axis=0
    )
    return length


def _summary(lengths: NDArray) -> dict[str, float]:
    return {"mean": float(lengths.mean()), "max": float(lengths.max())}


def _nanmean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else value
