"""Any cohort that a CSV file describes, 2D or 3D: one line an image."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import torchio as tio
from pytorch_lightning.utilities import rank_zero_warn

from bingo_pl.batch import GroupBatch
from bingo_pl.data_modules.base import SPLITS, GroupDataModule, Split, some
from bingo_pl.data_modules.manifest_file import REFUSED, Columns, Manifest, Row, read_manifest, repeated_images
from bingo_pl.data_modules.preprocess import Case, Member, read_subject, to_group, to_spacing
from bingo_pl.data_modules.problems import Problem
from bingo_pl.errors import BingoError, unknown_name

COHORT = Columns(
    ("split", "group", "subject", "modality", "image", "label"),
    ("split", "group", "subject", "modality", "image"),
    ("mask",),
    others=True,
    layout="Expected manifest.csv in data.root, or its path as data.root, with a header line and the columns "
    "split,group,subject,modality,image,label and optionally mask. split is train, val or test; the lines of one "
    "group have the same group; label and mask may be empty; paths are relative to the CSV file or absolute.",
)
"""Groups for training, validation and test."""


class ManifestDataModule(GroupDataModule):
    """Groups as the manifest lists them, on the grid of their first image.

    ``spacing_mm`` <= 0 keeps that grid; else 3D groups are brought to RAS orientation and resampled isotropically, 2D
    groups are resampled in-plane. The ROI is cropped from the centre or padded. ``splits`` is ignored.
    """

    layout = COHORT.layout
    dimensions = (2, 3)
    may_keep_grid = True

    def list_cases(self) -> dict[Split, list[Case]]:
        path = self.root / "manifest.csv" if self.root.is_dir() else self.root
        if not path.is_file():
            raise self.not_found()
        manifest = with_cohort_problems(read_manifest(path, COHORT))
        manifest.refuse()
        for problem in manifest.problems:
            if problem.severity == "warning":
                rank_zero_warn(f"{path}: {problem.what}: {problem.why}")
        for modality in {row.member.modality for row in manifest.rows} - set(self.modalities):
            raise unknown_name(f"modality in {path} (data.modalities)", modality, self.modalities)
        cases: dict[Split, list[Case]] = {split: [] for split in SPLITS}
        for name, rows in groups_of(manifest).items():
            case = Case(name, rows[0].cells["subject"], tuple(row.member for row in rows))
            cases[_split(rows[0])].append(case)
        return cases

    def read_case(self, case: Case) -> list[GroupBatch]:
        settings = self.preprocessing
        subject = read_subject(case, settings)
        flat = [axis for axis, size in enumerate(subject.spatial_shape) if size == 1]
        dimension = len(settings.roi)
        if (dimension == 2 and not flat) or (dimension == 3 and flat):
            raise BingoError(
                f"{case.members[0].image}: has {subject.spatial_shape} voxels, but data.roi={[*settings.roi]} "
                f"asks for {dimension}D images. Set data.roi to {5 - dimension} sizes, or list {dimension}D images"
            )
        roi = list(settings.roi)
        spacing = [settings.spacing_mm] * 3
        axes = [0, 1, 2]
        if dimension == 2:
            axis = axes.pop(flat[-1])
            roi.insert(axis, 1)
            spacing[axis] = subject.spacing[axis]
        steps: list[tio.Transform] = []
        if settings.spacing_mm > 0:
            steps = [tio.ToCanonical(copy=False)] if dimension == 3 else []
            steps += [to_spacing(subject, spacing, case.members[0].image)]
        steps += [tio.CropOrPad(tuple(roi), copy=False)]
        return [to_group(tio.Compose(steps, copy=False)(subject), case, settings, axes)]


def groups_of(manifest: Manifest) -> dict[str, list[Row]]:
    """A cohort's rows by group, both in the manifest's order."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in manifest.rows:
        groups[row.cells["group"]].append(row)
    return groups


def with_cohort_problems(manifest: Manifest) -> Manifest:
    """The manifest, and beside the problems of its table those of its splits, groups and subjects."""
    problems = [*manifest.problems, *_unknown_splits(manifest.rows), *_shared_subjects(manifest.rows)]
    for name, rows in groups_of(manifest).items():
        problems += _group_problems(name, rows)
    return dataclasses.replace(manifest, problems=tuple(problems))


def _unknown_splits(rows: Sequence[Row]) -> Iterator[Problem]:
    for split in sorted({row.cells["split"] for row in rows} - {*SPLITS, ""}):
        yield Problem("error", str(unknown_name("split", split, SPLITS)), REFUSED, f"Correct it to {', '.join(SPLITS)}")


def _shared_subjects(rows: Sequence[Row]) -> Iterator[Problem]:
    splits = defaultdict(set)
    for row in rows:
        splits[row.cells["subject"]].add(row.cells["split"])
    if shared := [subject for subject, parts in splits.items() if subject and len(parts) > 1]:
        yield Problem(
            "warning",
            f"{len(shared)} subjects are in more than one split: {some(shared)}",
            "what was seen in training is no test: its figures are too good",
            "Keep each subject in one split",
        )


def _group_problems(name: str, rows: Sequence[Row]) -> Iterator[Problem]:
    """Of a group's lines alone; what its images show together is for `bingo_pl.data_modules.checking.check`."""
    member = Member("", Path())
    try:
        Case(name, name, (member, member))
    except BingoError as error:
        if name:  # an empty cell has been named with its line
            yield Problem.refused(error, Path(), "a name with ../ would write outside of the output folder")
    if len(splits := dict.fromkeys(row.cells["split"] for row in rows)) > 1:
        yield Problem("error", f"group '{name}' is in the splits {', '.join(splits)}", REFUSED, "Keep it in one")
    yield from repeated_images(rows, "error", f"group '{name}' ")


def _split(row: Row) -> Split:
    """Of a manifest that has been checked."""
    return next(split for split in SPLITS if split == row.cells["split"])
