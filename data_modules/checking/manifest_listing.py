"""What a manifest lists, and everything that is wrong with the manifest itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from bingo_pl.errors import BingoError, unknown_name
from data_modules.base import SPLITS, some
from data_modules.checking.listing import FORMATS, Finding, Group, Listing, ending, foreign
from data_modules.manifest import COLUMNS, ManifestDataModule
from data_modules.preprocess import Case, Member
from data_modules.problems import Problem

REFUSED = "the manifest is refused before training starts"


def list_manifest(path: Path) -> Listing:
    """The files and groups of a manifest with the columns of `data_modules.manifest`; its faults are findings."""
    listing = Listing(path.parent)
    layout = ManifestDataModule.layout
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (ValueError, OSError) as error:
        problem = Problem("error", f"cannot be read as CSV ({error})", REFUSED, layout)
        listing.findings.append(Finding(path.name, problem))
        return listing
    if missing := [column for column in COLUMNS if column not in table]:
        what = f"has no column {', '.join(missing)}, only {', '.join(table.columns)}"
        listing.findings.append(Finding(path.name, Problem("error", what, REFUSED, layout)))
        return listing
    if table.empty:
        listing.findings.append(Finding(path.name, Problem("error", "lists no image", REFUSED, layout)))
    listing.findings += [Finding(path.name, problem) for problem in _table_problems(table)]
    for name, lines in table[table["image"].str.strip() != ""].groupby("group", sort=False):
        listing.findings += [Finding(f"group {name}", problem) for problem in _group_problems(str(name), lines)]
        members = [_member(path.parent, line) for _, line in lines.drop_duplicates("image").iterrows()]
        listing.add(Group(str(name), tuple(members), stated=True))
    for file in listing.roles:
        if not ending(file, FORMATS):
            listing.findings.append(Finding(listing.name(file), foreign(file.suffix)))
    return listing


def _table_problems(table: pd.DataFrame) -> Iterator[Problem]:
    if unknown := [column for column in table.columns if column not in (*COLUMNS, "mask")]:
        yield Problem(
            "note",
            f"its columns {', '.join(unknown)} are not used",
            "only those that are known are read",
            "Nothing need be done, unless a name is misspelt",
        )
    for column in ("split", "group", "subject", "modality", "image"):
        for line in table.index[table[column].str.strip() == ""] + 2:
            yield Problem("error", f"line {line} has no {column}", REFUSED, "Fill it in or remove the line")
    for split in sorted(set(table["split"]) - {*SPLITS, ""}):
        error = unknown_name("split", split, SPLITS)
        yield Problem("error", str(error), REFUSED, f"Correct it to {', '.join(SPLITS)}")
    splits = table.groupby("subject")["split"].nunique()
    if len(shared := splits.index[splits > 1]):
        yield Problem(
            "warning",
            f"{len(shared)} subjects are in more than one split: {some(list(shared))}",
            "what was seen in training is no test: its figures are too good",
            "Keep each subject in one split",
        )


def _group_problems(name: str, lines: pd.DataFrame) -> Iterator[Problem]:
    """Of a group's lines alone; what its images show together is for `data_modules.checking.check`."""
    member = Member("", Path())
    try:
        Case(name, name, (member, member))
    except BingoError as error:
        yield Problem.refused(error, Path(), "a name with ../ would write outside of the output folder")
    if lines["split"].nunique() > 1:
        splits = ", ".join(lines["split"].unique())
        yield Problem("error", f"is in the splits {splits}", REFUSED, "Keep it in one")
    for image, repeated in lines.groupby("image", sort=False):
        if len(repeated) > 1:
            numbers = ", ".join(str(index + 2) for index in repeated.index)
            yield Problem(
                "error",
                f"lists {image} more than once (lines {numbers})",
                "an image that counts twice pulls the group to itself",
                "Remove the duplicate lines",
            )


def _member(folder: Path, line: pd.Series) -> Member:
    """One line's files, as `data_modules.manifest` reads them."""
    image, label, mask = (
        Path(os.path.normpath(folder / line[column])) if line.get(column) else None
        for column in ("image", "label", "mask")
    )
    assert image is not None
    return Member(line["modality"], image, label, mask)
