"""The atlas of people who differ, at the images' own resolution: ``bingo atlas`` by default.

All subjects are brought together by `bingo_pl.alignment.population`, their displacements centred, and what they agree
on is written with each one's transforms, so that ``bingo apply`` goes through the atlas as through any registration.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.markup import escape
from torch import Tensor

from bingo_pl import __version__
from bingo_pl import config as settings
from bingo_pl.alignment.population import gather
from bingo_pl.atlases.cohort import Cohort, Placed
from bingo_pl.atlases.consensus import Stack, pairwise_dice
from bingo_pl.atlases.pooling import LEAST_COVERAGE, Pool, sharpness
from bingo_pl.atlases.template import RECORD
from bingo_pl.errors import InputError, unknown_name
from bingo_pl.evaluation.uncertainty import hierarchical
from bingo_pl.images.grids import Grid
from bingo_pl.images.members import Member
from bingo_pl.images.record import sha256_of
from bingo_pl.images.resampling import resample_labels, to_array
from bingo_pl.images.scans import File, describe, names_of
from bingo_pl.images.transforms import affine_transform, write_image
from bingo_pl.images.written import FILES, check_output, digests_of
from bingo_pl.messages import doing
from bingo_pl.models.model import Model
from bingo_pl.registration.console import called, track, warn_of_copies, warn_of_one_person
from bingo_pl.registration.native import check_spacing, native_grid
from bingo_pl.registration.registered import Registered, write_member, write_record
from bingo_pl.report.cohort import lines_of, people_of
from bingo_pl.report.strips import MEAN, MOMENTS, SIDE_OF_MEAN, Strips
from bingo_pl.storage.atomic import replacing
from bingo_pl.storage.folders import replacing_folder
from bingo_pl.storage.locking import held
from bingo_pl.streaming.file_source import dims_of

TRANSFORMS = ("rigid", "affine", "deformable")
FEATURES = "features.pt"
"""What newcomers are compared with: `bingo_pl.alignment.population.Template`."""
TABLE = "images.tsv"
COLUMNS = (
    "name",
    "subject",
    "modality",
    "path",
    "agreement_affine",
    "agreement",
    "repeatability_mm",
    "displacement_mm",
    "folding_percent",
    "dice_affine",
    "dice",
    "pairwise_dice_affine",
    "pairwise_dice",
)
"""Of that table."""
UNSEEN = np.iinfo(np.int32).min
"""In place of a label where an image shows nothing."""
MOST_PAIRED = 200
"""Images with labels of which all pairs are compared, which takes time in the square of their number."""
LEAST_DETERMINANT = 1e-3
"""Where a map folds, its logarithm is that of this."""


@dataclass(frozen=True, eq=False)
class Choices:
    """What a user decides about an atlas."""

    transform: str = "deformable"
    """The last stage, one of `TRANSFORMS`."""
    spacing_mm: float | None = None
    """Voxel size of the template; None: the finest of the images."""
    images: bool = False
    """Write each registered image and its registered labels too."""
    jacobian: bool = False
    """Write maps of the logarithm of each subject's Jacobian determinant."""

    def __post_init__(self) -> None:
        if self.transform not in TRANSFORMS:
            raise unknown_name("transform", self.transform, TRANSFORMS)
        if self.spacing_mm is not None and not (np.isfinite(self.spacing_mm) and self.spacing_mm > 0):
            raise InputError(f"a spacing of {self.spacing_mm} mm: wanted a number above 0", "Correct it")


def build(
    members: Sequence[Member],
    checkpoint: Path | None,
    output: Path,
    choices: Choices,
    console: Console,
    device: str = "auto",
    overwrite: bool = False,
) -> Path:
    """Make the atlas of a population and write it.

    Args:
        members: its images. Those of one subject must lie on each other; label maps and masks are optional.
        checkpoint: of a trained method; None for the ready model.
        output: a folder that does not exist yet.
        choices: what is made.
        console: where progress and results are reported.
        device: ``auto``, ``cpu``, ``gpu`` or ``mps``.
        overwrite: replace ``output`` where it is a folder that was written whole.

    Returns:
        The folder, see docs/atlas.md.

    Raises:
        BingoError: unusable images, more than fit in memory, or a folder in use.
    """
    check_output(output, overwrite, RECORD, [path for member in members for path in member.files])
    names = names_of(member.modality for member in members)  # one that cannot name a file is refused before the work
    model = Model.load(checkpoint, dims_of(members[0]), [f"trainer.accelerator={device}"])
    for member in members:
        model.index(member.modality)
    output = output.absolute()
    with held(output):
        cohort = Cohort.read(members, names, model, console)
        contents = [scan.content(digests) for scan, digests in zip(cohort.scans, cohort.digests, strict=True)]
        if len(cohort.people) == 1:
            warn_of_one_person(console)
        warn_of_copies(zip(map(called, cohort.scans), contents, strict=True), console)
        if choices.spacing_mm is not None:
            check_spacing(cohort.scans, choices.spacing_mm)
        with doing("aligning", console) as begin:
            bingo = hierarchical(model.registrar)
            gathered = gather(cohort.subjects(model), bingo, choices.transform, begin)
        placed = Placed.of(cohort, gathered)
        order = _by_content(cohort)  # the first gives the axes and, of slices, the plane
        affines = [placed.affines[i] for i in order]
        grid = native_grid([cohort.scans[i] for i in order], affines, choices.spacing_mm)
        grid.fitting(16.0, "the template", "Give a larger spacing")
        console.print(f"atlas grid: {describe(grid)}", soft_wrap=True)
        with replacing_folder(output, overwrite) as temporary:
            _write(placed, grid, model, choices, temporary, output, console)
    console.print(f"written: {escape(str(output))}", soft_wrap=True)
    return output


@dataclass(frozen=True, eq=False)
class _Consensus:
    """What the images agree on under some maps."""

    pool: Pool
    templates: dict[str, NDArray[np.float32]]
    """(X, Y, Z) of each modality, and ``mean`` of all under the empty name."""
    dice: list[float]
    """Of each image's labels with the most probable ones; NaN without labels."""
    pairwise: list[float]
    """With the labels of all other people."""
    sharpness: float
    """Of the mean template, per mm."""

    @classmethod
    def of(cls, placed: Placed, grid: Grid, deformed: bool, console: Console) -> _Consensus:
        cohort = placed.cohort
        modalities = sorted({scan.modality for scan in cohort.scans})
        pool = Pool(grid.shape, modalities, cohort.label_ids)
        labels: dict[int, NDArray[np.int32]] = {}
        with TemporaryDirectory(prefix="bingo_atlas_") as folder:
            stacks = {
                modality: Stack(Path(folder) / str(k), sum(s.modality == modality for s in cohort.scans), grid.shape)
                for k, modality in enumerate(modalities)
            }
            for i in track(_by_content(cohort), "averaging", console):
                seen, modality = placed.view(i, grid, deformed), cohort.scans[i].modality
                pool.add(modality, seen)
                stacks[modality].add(seen)
                if seen.labels is not None:
                    ids = np.asarray(cohort.label_ids, np.int32)[seen.labels.argmax(0).numpy()]
                    labels[i] = np.where(seen.weight.numpy() > LEAST_COVERAGE, ids, UNSEEN).ravel()
            templates = {modality: stack.robust_mean() for modality, stack in stacks.items()}
        weights = {modality: weight.float().numpy() for modality, (weight, _) in pool.sums.items()}
        total = np.maximum(sum(weights.values()), LEAST_COVERAGE)
        mean = np.sum([templates[modality] * weights[modality] for modality in modalities], axis=0) / total
        templates[""] = mean.astype(np.float32)
        scores, pairs = (np.full(len(cohort.scans), np.nan) for _ in range(2))
        if labels:
            likely = pool.most_probable().ravel()
            for i, ids in labels.items():
                there = np.where(ids == UNSEEN, UNSEEN, likely)
                scores[i] = pairwise_dice([ids, there], cohort.label_ids[1:])[0]
            if len(labels) <= MOST_PAIRED:
                owners = [placed.owners[i] for i in labels]
                pairs[list(labels)] = pairwise_dice([*labels.values()], cohort.label_ids[1:], owners)
        clear = sharpness(templates[""], pool.coverage, grid)
        return cls(pool, templates, scores.tolist(), pairs.tolist(), clear)


def _write(
    placed: Placed, grid: Grid, model: Model, choices: Choices, folder: Path, output: Path, console: Console
) -> None:
    """Write everything into ``folder``, which is to become ``output``."""
    cohort, gathered = placed.cohort, placed.gathered
    before, after = (_Consensus.of(placed, grid, deformed, console) for deformed in (False, True))
    mean = torch.stack([placed.displacement(i, grid).double() for i in range(len(cohort.people))]).mean(0).float()
    _write_consensus(cohort, after, grid, mean, folder)
    pictures = Strips.of(folder, grid)
    for moment, found in zip(MOMENTS, (before, after), strict=True):
        still = sitk.Transform(3, sitk.sitkIdentity)
        pictures.write(moment, MEAN, grid.to_sitk(found.templates[""]), still, SIDE_OF_MEAN)
    placed.template().write(folder / FEATURES)
    entries, images = [], []
    likely = grid.to_sitk(after.pool.most_probable()) if len(cohort.label_ids) > 1 else None
    subjects = list(cohort.people)
    for i in track(range(len(cohort.scans)), "writing", console):
        member, owner = placed.registered(i, grid), placed.owners[i]
        entries.append(write_member(member, grid, folder, output, jacobian=False, images=choices.images))
        write_maps(
            member,
            grid,
            None if likely is None else to_array(resample_labels(likely, member.inverse.transform, member.scan.grid)),
            choices.jacobian,
            folder,
        )
        draw_member(member, pictures)
        moved = _length_mm(placed.displacement(owner, grid), grid)
        images.append(
            entries[-1]
            | {
                "subject": subjects[owner].split(" ", 1)[1],
                "agreement": gathered.agreement[owner],
                "agreement_affine": gathered.agreement_affine[owner],
                "repeatability_mm": gathered.repeatability_mm[owner],
                "displacement_mm": float(moved.mean()),
                "dice_affine": _or_none(before.dice[i]),
                "dice": _or_none(after.dice[i]),
                "pairwise_dice_affine": _or_none(before.pairwise[i]),
                "pairwise_dice": _or_none(after.pairwise[i]),
            }
        )
    record = {
        "bingo_pl": __version__,
        "checkpoint": {"path": str(model.path), "sha256": sha256_of(model.path)},
        "transform": choices.transform,
        "grid": {"shape": grid.shape, "affine_ras_mm": grid.affine.tolist()},
        "space": {"dims": cohort.space.dims, "frame_ras_mm": cohort.space.frame.tolist()},
        "label_ids": cohort.label_ids if len(cohort.label_ids) > 1 else None,
        "mean_displacement_mm": float(_length_mm(mean, grid)[after.pool.coverage >= LEAST_COVERAGE].max()),
        "dice_affine": _mean_or_none(before.dice),
        "dice": _mean_or_none(after.dice),
        "pairwise_dice_affine": _mean_or_none(before.pairwise),
        "pairwise_dice": _mean_or_none(after.pairwise),
        "sharpness_affine_per_mm": before.sharpness,
        "sharpness_per_mm": after.sharpness,
        "images": images,
    }
    write_record(folder, File.of(model.path), settings.to_tree(model.config), grid, entries)
    write_atlas_record(folder, record)
    write_page(folder, console)
    report_figures(record, console)


def write_atlas_record(folder: Path, record: Mapping[str, Any], files: Mapping[str, str] | None = None) -> None:
    """Write ``atlas.json``, and its figures of each image as ``images.tsv``.

    Args:
        folder: of the atlas.
        record: its content, but for the files.
        files: SHA-256 of the other files that are the atlas's, by their paths in it; None: of all that are there.

    Raises:
        BingoError: one cannot be written.
    """
    with replacing(folder / TABLE) as temporary:
        table = pd.DataFrame(record["images"]).reindex(columns=COLUMNS)
        table.to_csv(temporary, sep="\t", index=False, errors="backslashreplace")  # paths need not be UTF-8
    known = digests_of(folder, RECORD) if files is None else {**files, TABLE: sha256_of(folder / TABLE)}
    tree = {**record, FILES: known}
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(tree, indent=2), encoding="utf-8")


def _write_consensus(cohort: Cohort, found: _Consensus, grid: Grid, mean: Tensor, folder: Path) -> None:
    pool = found.pool
    modalities = [modality for modality in found.templates if modality]
    volumes: dict[str, NDArray] = {
        "template/mean": found.templates[""],
        **{
            f"template/{name}": found.templates[modality]
            for name, modality in zip(names_of(modalities), modalities, strict=True)
        },
        "coverage": pool.coverage,
        "mean_displacement": _length_mm(mean, grid),
    }
    if len(cohort.label_ids) > 1:
        volumes |= {
            "labels": pool.most_probable(),
            "label_prior": pool.prior(),
            "label_coverage": pool.label_coverage,
        }
        table = pd.DataFrame({"volume": range(len(pool.label_ids)), "label": pool.label_ids})
        table.to_csv(folder / "label_prior.csv", index=False)
    for name, volume in volumes.items():
        write_image(volume, grid, folder / f"{name}.nii.gz")


def write_maps(member: Registered, grid: Grid, labels: NDArray | None, jacobian: bool, folder: Path) -> None:
    """Write what an atlas has of an image beyond its registration.

    Args:
        member: the image.
        grid: of the atlas.
        labels: the atlas's most probable ones on the image's own grid; None where it has none.
        jacobian: write the logarithm of the Jacobian determinant.
        folder: of the atlas.
    """
    if labels is not None:
        write_image(labels, member.scan.grid, folder / "propagated" / f"{member.scan.name}.nii.gz")
    if jacobian:
        determinant = np.log(np.maximum(member.jacobian(), LEAST_DETERMINANT))
        write_image(determinant.astype(np.float32), grid, folder / "log_jacobian" / f"{member.scan.name}.nii.gz")


def draw_member(member: Registered, pictures: Strips) -> None:
    """Draw an image of an atlas by its affine map alone and at the end.

    Raises:
        BingoError: a picture cannot be written.
    """
    unit = member.scan.grid.to_sitk(member.scan.unit.numpy()[0])
    transforms = (affine_transform(member.stage.affine), member.forward.transform)
    for moment, transform in zip(MOMENTS, transforms, strict=True):
        pictures.write(moment, member.scan.name, unit, transform)


def write_page(folder: Path, console: Console) -> None:
    """Write ``report.html`` into the folder of an atlas.

    Raises:
        BingoError: a file in it is missing or damaged, or the page cannot be written.
    """
    from bingo_pl.report.page import write_report  # Matplotlib, which aligning does not need

    with doing("making the report", console):
        write_report(folder)


def report_figures(record: Mapping[str, Any], console: Console) -> None:
    """Show what ``atlas.json`` says of the group, and who stands out."""
    lines = [
        f"sharpness of the template: {record['sharpness_affine_per_mm']:.4f} per mm after the affine stage, "
        f"{record['sharpness_per_mm']:.4f} at the end",
        f"mean displacement of the group: {record['mean_displacement_mm']:.2g} mm at most",
    ]
    for key, what in (("dice", "the most probable labels"), ("pairwise_dice", "all others' labels")):
        if record[key] is not None:
            lines.append(
                f"Dice with {what}: {record[f'{key}_affine']:.3f} after the affine stage, {record[key]:.3f} at the end"
            )
    for line in [*lines, *map(escape, lines_of(people_of(record["images"])))]:
        console.print(line, soft_wrap=True)


def _by_content(cohort: Cohort) -> list[int]:
    """All images in an order that does not depend on the manifest's."""
    return [i for images in cohort.people.values() for i in images]


def _length_mm(displacement: Tensor, grid: Grid) -> NDArray[np.float32]:
    """(X, Y, Z) of a displacement (D, *S) in voxels of the grid."""
    to_mm = torch.from_numpy(grid.affine[:3, : len(displacement)]).float()
    length: NDArray[np.float32] = torch.tensordot(to_mm, displacement, dims=1).norm(dim=0).numpy()
    return length.reshape(grid.shape)


def _or_none(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def _mean_or_none(values: Sequence[float]) -> float | None:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else None
