"""The one reader of manifests: CSV files with a line for each image, of one group or of a whole cohort."""

from __future__ import annotations

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bingo_pl.errors import BingoError
from bingo_pl.images.members import Member
from bingo_pl.images.problems import Problem, Severity, refuse
from bingo_pl.storage.names import check_file_name
from bingo_pl.storage.regular import check_regular

REFUSED = "the manifest is refused before anything else is done"


@dataclass(frozen=True)
class Columns:
    """What a kind of manifest holds."""

    needed: tuple[str, ...]
    filled: tuple[str, ...]
    """Those of the needed columns in which no cell may be empty."""
    optional: tuple[str, ...]
    others: bool
    """Whether further columns are allowed and left alone; else a misspelt name is an error."""
    layout: str
    """For messages: what is wanted."""

    def missing(self, names: Sequence[str]) -> list[str]:
        return [name for name in self.needed if name not in names]

    def unknown(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in (*self.needed, *self.optional)]

    def distance(self, names: Sequence[str]) -> int:
        """How many columns keep a table from being a manifest of this kind."""
        return len(self.missing(names)) + (0 if self.others else len(self.unknown(names)))


GROUP = Columns(
    ("modality", "image"),
    ("modality", "image"),
    ("mask", "label"),
    others=False,
    layout="Wanted: a header line with the columns modality,image and optionally mask,label, then a line for each "
    "image; paths are absolute or relative to the CSV file",
)
"""One group: what `bingo register` and `bingo estimate` take."""
PEOPLE = replace(
    GROUP,
    optional=("mask", "label", "subject"),
    layout=GROUP.layout.replace("mask,label", "mask,label,subject"),
)
"""A population: what `bingo atlas` takes. Images of one subject show the same person."""


@dataclass(frozen=True)
class Row:
    """One image."""

    line: int
    """Its number in the file, from 1."""
    cells: Mapping[str, str]
    """By column, without spaces around them; empty where the line is too short."""
    member: Member
    """Its files; their paths are absolute or begin with the manifest's folder."""


@dataclass(frozen=True)
class Manifest:
    """What a manifest lists and everything that is wrong with it."""

    path: Path
    columns: Columns
    rows: tuple[Row, ...] = ()
    """Those that name an image."""
    problems: tuple[Problem, ...] = ()

    def refuse(self) -> None:
        """Raises `BingoError` with the first problem that is an error."""
        refuse(self.path, *self.problems)


def read_group(path: Path, columns: Columns = GROUP) -> list[Member]:
    """The images of one group, or of another kind of manifest, in the manifest's order.

    Raises:
        BingoError: the file is missing, no such table, or a line lacks a modality or an image.
    """
    manifest = read_manifest(path, columns)
    manifest.refuse()
    return [row.member for row in manifest.rows]


def read_manifest(path: Path, *kinds: Columns) -> Manifest:
    """Read a manifest of one of the kinds: of that whose columns it has, else of the first.

    Nothing is raised: whatever is wrong is among its problems.
    """
    try:
        check_regular(path)
        text = path.read_text("utf-8-sig")
        if "\0" in text:
            raise csv.Error("it is no text")
        lines = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
        header = [name.strip() for name in next(lines, [])]
        numbered = [(lines.line_num, [cell.strip() for cell in cells]) for cells in lines]
    except (ValueError, OSError, csv.Error) as error:  # UnicodeDecodeError is a ValueError
        problem = Problem("error", f"cannot be read as CSV ({error})", REFUSED, kinds[0].layout)
        return Manifest(path, kinds[0], problems=(problem,))
    columns = min(kinds, key=lambda kind: kind.distance(header)) if any(header) else kinds[0]
    filled = [(number, cells) for number, cells in numbered if any(cells)]
    if wrong := _wrong_columns(header, columns) or _wrong_lines(header, filled, columns):
        return Manifest(path, columns, problems=(wrong,))
    tables = [(number, dict.fromkeys(header, "") | dict(zip(header, cells, strict=False))) for number, cells in filled]
    rows = tuple(Row(number, cells, _member(path.parent, cells)) for number, cells in tables if cells["image"])
    problems = [*_unused_columns(header, columns), *_empty_cells(tables, columns)]
    if columns in (GROUP, PEOPLE):
        problems += [*_names_of_no_file(rows), *repeated_images(rows, "warning")]
    return Manifest(path, columns, rows, tuple(problems))


def repeated_images(rows: Sequence[Row], severity: Severity, prefix: str = "") -> Iterator[Problem]:
    """Files that more than one row of a group names, however they spell it; ``prefix`` begins the message."""
    lines: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        lines[os.path.normpath(row.member.image)].append(row)
    for same in lines.values():
        if len(same) > 1:
            numbers = ", ".join(str(row.line) for row in same)
            yield Problem(
                severity,
                f"{prefix}lists {same[0].cells['image']} more than once (lines {numbers})",
                "an image that counts twice pulls the group to itself",
                "Remove the duplicate lines",
            )


def _wrong_columns(header: Sequence[str], columns: Columns) -> Problem | None:
    names = ", ".join(header) or "none"
    twice = sorted({name for name in header if header.count(name) > 1})
    if missing := columns.missing(header):
        what = f"has no column {', '.join(missing)}, only {names}"
    elif not columns.others and (unknown := columns.unknown(header)):
        what = f"has the columns {names}; unknown: {', '.join(unknown)}"
    elif twice:
        what = f"has more than one column {', '.join(twice)}"
    else:
        return None
    return Problem("error", what, REFUSED, columns.layout)


def _wrong_lines(header: Sequence[str], lines: Sequence[tuple[int, list[str]]], columns: Columns) -> Problem | None:
    """No line at all, or one with more cells than columns: it would be read shifted."""
    if not lines:
        return Problem("error", "lists no image", REFUSED, columns.layout)
    for number, cells in lines:
        if any(cells[len(header) :]):
            return Problem(
                "error",
                f"line {number} has {len(cells)} cells, but there are {len(header)} columns",
                REFUSED,
                'Put cells that hold a comma between double quotes, e.g. "a,b.nii.gz", or correct the header line',
            )
    return None


def _unused_columns(header: Sequence[str], columns: Columns) -> Iterator[Problem]:
    if unknown := columns.unknown(header):
        yield Problem(
            "note",
            f"its columns {', '.join(unknown)} are not used",
            "only those that are known are read",
            "Nothing need be done, unless a name is misspelt",
        )


def _empty_cells(lines: Sequence[tuple[int, Mapping[str, str]]], columns: Columns) -> Iterator[Problem]:
    for column in columns.filled:
        for number, cells in lines:
            if not cells[column]:
                yield Problem("error", f"line {number} has no {column}", REFUSED, "Fill it in or remove the line")


def _names_of_no_file(rows: Sequence[Row]) -> Iterator[Problem]:
    """Of modalities, by which the files of a registration are named."""
    for modality in dict.fromkeys(row.member.modality for row in rows):
        try:
            check_file_name(modality or "empty", "modality")  # an empty cell has been named with its line
        except BingoError as error:
            yield Problem.refused(error, Path(), "a name with a slash would write into another folder")


def _member(folder: Path, cells: Mapping[str, str]) -> Member:
    """One line's files; `/` leaves absolute paths as they are."""
    label, mask = (folder / cells[column] if cells.get(column) else None for column in ("label", "mask"))
    return Member(cells["modality"], folder / cells["image"], label, mask, cells.get("subject", ""))
