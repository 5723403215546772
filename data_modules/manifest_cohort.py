"""The CSV file of a cohort: groups for training, validation and test, one line an image."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from bingo_pl.data_modules.cases import SPLITS, Case
from bingo_pl.errors import BingoError, some, unknown_name
from bingo_pl.images.manifest import REFUSED, Columns, Manifest, Row, repeated_images
from bingo_pl.images.members import Member
from bingo_pl.images.problems import Problem

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
    """Of a group's lines alone; what its images show together is for `bingo_pl.checking.check`."""
    member = Member("", Path())
    try:
        Case(name, name, (member, member))
    except BingoError as error:
        if name:  # an empty cell has been named with its line
            yield Problem.refused(error, Path(), "a name with ../ would write outside of the output folder")
    if len(splits := dict.fromkeys(row.cells["split"] for row in rows)) > 1:
        yield Problem("error", f"group '{name}' is in the splits {', '.join(splits)}", REFUSED, "Keep it in one")
    yield from repeated_images(rows, "error", f"group '{name}' ")
