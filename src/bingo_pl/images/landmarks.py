"""Landmark files: tables (`.csv`), Slicer's point lists (`.fcsv`) and Slicer's markups (`.mrk.json`).

Points are RAS mm inside the program, whatever the file's own space and unit. A file is written in the format, space and
unit in which it was read; everything in it but the coordinates survives. So do points that Slicer marks as not placed:
they have no place that could be moved.

A table's first line names its columns. The coordinates are in x, y, z, whose space the user must name, or in r, a, s or
l, p, s, as Slicer exports them, in mm.
"""

from __future__ import annotations

import copy
import csv
import io
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bingo_pl.errors import BingoError, FileError, InputError
from bingo_pl.images.units import named_unit_mm
from bingo_pl.storage.atomic import replacing
from bingo_pl.storage.regular import check_regular

SIGNS = {"RAS": (1, 1, 1), "LPS": (-1, -1, 1)}
"""Of the coordinates, to RAS and back."""
OLD_NAMES = {"0": "RAS", "1": "LPS"}
"""How older versions of Slicer write a space."""
COORDINATES = {("x", "y", "z"): None, ("r", "a", "s"): "RAS", ("l", "p", "s"): "LPS"}
"""The columns that hold coordinates, and the space that they name."""
DEFINED = "defined"
"""Slicer's word for a point that was placed; in its tables a column that is 0 or 1."""
FCSV_LAST = "associatednodeid"
"""The last column that Slicer names in `.fcsv`."""
UNDEFINED_CODES = ("0", "1", "3")
"""How `.fcsv` says, in the column after the last named one, that a point is undefined, in preview or missing."""
POINT_LISTS = ("Fiducial", "Line", "Angle", "Curve", "ClosedCurve")
"""The markups that consist of their control points; a plane or a box has axes of its own."""


@dataclass(frozen=True, eq=False)
class Landmarks(ABC):
    """A landmark file in memory."""

    points_mm: NDArray[np.float64]
    """(P, 3) RAS."""

    def moved(self, points_mm: NDArray[np.float64]) -> Landmarks:
        """The same landmarks at other places, (P, 3) RAS mm."""
        assert points_mm.shape == self.points_mm.shape, f"{points_mm.shape} points for {self.points_mm.shape}"
        return replace(self, points_mm=points_mm)

    @abstractmethod
    def text(self) -> str:
        """What the file holds."""


def read_landmarks(path: Path, space: str | None = None) -> Landmarks:
    """Read a landmark file of any format.

    Args:
        path: ``.csv``, ``.fcsv`` or ``.mrk.json``.
        space: ``"RAS"`` or ``"LPS"``, needed where the file does not say it.

    Raises:
        BingoError: the file is missing or malformed, or its space is unknown or not the one given.
    """
    try:
        check_regular(path)
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read as text ({error})", "Correct the path, or save it as UTF-8") from error
    name = path.name.lower()
    if name.endswith(".mrk.json"):
        return _read_markups(path, text, space)
    if name.endswith(".fcsv"):
        return _read_fcsv(path, text, space)
    if name.endswith(".csv"):
        heading, _, body = text.partition("\n")
        return _read_table(path, heading, f"{heading}\n", body, space)
    raise InputError(
        f"{path}: unknown kind of landmark file. Wanted: .csv, .fcsv or .mrk.json", "Save the points as one of them"
    )


def write_landmarks(landmarks: Landmarks, path: Path) -> None:
    """Write landmarks in the format in which they were read, whole or not at all.

    Raises:
        BingoError: the file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_text(landmarks.text(), encoding="utf-8")


@dataclass(frozen=True, eq=False)
class TableLandmarks(Landmarks):
    """Comma-separated values below a heading."""

    heading: str
    """All lines before the points."""
    rows: tuple[tuple[str, ...], ...]
    """Which may be longer than the header: Slicer 5 appends two columns to `.fcsv` without naming them."""
    placed: tuple[int, ...]
    """(P,) the rows that have a place."""
    columns: tuple[int, ...]
    """(3,) where a row has its coordinates."""
    space: str

    def text(self) -> str:
        file = io.StringIO()
        file.write(self.heading)
        writer = csv.writer(file, lineterminator="\n")
        places = dict(zip(self.placed, _in_space(self.points_mm, self.space), strict=True))
        for number, row in enumerate(self.rows):
            moved = dict(zip(self.columns, places.get(number, ()), strict=False))  # none where it has no place
            writer.writerow([moved.get(column, value) for column, value in enumerate(row)])
        return file.getvalue()


def _read_fcsv(path: Path, text: str, space: str | None) -> TableLandmarks:
    lines = text.splitlines(keepends=True)
    heading = [line for line in lines if line.startswith("#")]
    said = {key.strip(): value.strip() for key, _, value in (line[1:].partition("=") for line in heading)}
    space = _space(path, said.get("CoordinateSystem"), space)
    body = [line for line in lines if not line.startswith("#")]
    return _read_table(path, said.get("columns", ""), "".join(heading), "".join(body), space)


def _read_table(path: Path, header: str, heading: str, body: str, space: str | None) -> TableLandmarks:
    names = [name.strip().lower() for name in next(csv.reader([header]), [])]
    triple = next((triple for triple in COORDINATES if set(triple) <= set(names)), None)
    if triple is None:
        raise InputError(
            f"{path}: has no columns x, y, z. Got: {', '.join(names) or 'none'}",
            "Name the columns, separated by commas, in the first line (.csv) or after '# columns =' (.fcsv)",
        )
    space = _space(path, COORDINATES[triple], space)
    columns = tuple(names.index(name) for name in triple)
    rows = tuple(tuple(row) for row in csv.reader(io.StringIO(body)) if row)
    placed = tuple(number for number, row in enumerate(rows) if _is_placed(names, row))
    points = [
        _point(path, number + 1, ["".join(rows[number][column : column + 1]) for column in columns], space)
        for number in placed
    ]
    return TableLandmarks(np.reshape(points, (-1, 3)), heading, rows, placed, columns, space)


def _is_placed(names: list[str], row: tuple[str, ...]) -> bool:
    """Whether a row has a place, as far as Slicer says it: in a column of its name, or behind `.fcsv`'s last column."""
    if DEFINED in names:
        return row[names.index(DEFINED) :][:1] != ("0",)
    return names[-1:] != [FCSV_LAST] or row[len(names) :][:1] not in [(code,) for code in UNDEFINED_CODES]


@dataclass(frozen=True, eq=False)
class MarkupLandmarks(Landmarks):
    """Slicer's markups; the points of all lists one after the other."""

    document: dict[str, Any]
    """The file."""
    spaces: tuple[str, ...]
    """(P,) each point's."""
    units_mm: tuple[float, ...]
    """(P,)."""

    def text(self) -> str:
        document = copy.deepcopy(self.document)
        controls = [control for markup in document["markups"] for control in _placed(markup)]
        for control, point, space, unit_mm in zip(controls, self.points_mm, self.spaces, self.units_mm, strict=True):
            control["position"] = _in_space(point, space, unit_mm)
        return json.dumps(document, indent=4, ensure_ascii=False) + "\n"


def _read_markups(path: Path, text: str, space: str | None) -> MarkupLandmarks:
    try:
        document = json.loads(text)
        found = [
            (control.get("position"), _space(path, markup.get("coordinateSystem"), space), _unit_mm(path, markup))
            for markup in document["markups"]
            for control in _placed(markup)
        ]
        kinds = {markup["type"] for markup in document["markups"]}
    except BingoError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path}: is no markups file of Slicer ({error!r})", "Save the points from Slicer again"
        ) from error
    if others := sorted(kinds - set(POINT_LISTS)):
        raise InputError(
            f"{path}: has markups of type {', '.join(others)}, whose shape is more than its points. "
            f"Wanted: {', '.join(POINT_LISTS)}",
            "Save the points as a list of their own",
        )
    points = [_point(path, number, *each) for number, each in enumerate(found, 1)]
    spaces, units_mm = tuple(space for _, space, _ in found), tuple(unit for _, _, unit in found)
    return MarkupLandmarks(np.reshape(points, (-1, 3)), document, spaces, units_mm)


def _placed(markup: dict[str, Any]) -> list[dict[str, Any]]:
    """The control points that have a position; Slicer also keeps those yet to be placed."""
    return [control for control in markup["controlPoints"] if control.get("positionStatus", DEFINED) == DEFINED]


def _unit_mm(path: Path, markup: dict[str, Any]) -> float:
    """Of a list's coordinates; Slicer writes a name, or a code, its system and its meaning."""
    stated = markup.get("coordinateUnits", "mm")
    name = stated[0] if isinstance(stated, list) and stated else stated
    unit_mm = named_unit_mm(str(name))
    if unit_mm is None:
        raise InputError(f"{path}: has coordinates in the unit '{name}'. Wanted: mm, cm, m, um or nm", "Convert them")
    return unit_mm


def _space(path: Path, stated: str | None, given: str | None) -> str:
    """The space of a file: what it says, or what the user says."""
    stated = OLD_NAMES.get(str(stated), stated)
    for space in (stated, given):
        if space is not None and space not in SIGNS:
            raise InputError(f"{path}: cannot use coordinates in '{space}'. Wanted: RAS or LPS", "Convert them")
    if stated and given and stated != given:
        raise InputError(f"{path}: says that its points are in {stated}, but {given} was given", "Leave that out")
    space = stated or given
    if space is None:
        raise InputError(
            f"{path}: does not say in which space its points are", "Say it (space): RAS (nibabel) or LPS (ITK, ANTs)"
        )
    return space


def _point(path: Path, number: int, values: object, space: str, unit_mm: float = 1.0) -> NDArray[np.float64]:
    """The coordinates (3,) of a file in RAS mm."""
    try:
        point = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError):
        point = np.empty(0)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise InputError(f"{path}: point {number} is at {values}. Wanted: three numbers, in mm", "Correct the file")
    return point * SIGNS[space] * unit_mm


def _in_space(points_mm: NDArray[np.float64], space: str, unit_mm: float = 1.0) -> list[Any]:
    """RAS mm as a file holds it, to the nanometre or better; adding 0 turns -0.0 into 0.0."""
    decimals = max(round(np.log10(unit_mm)), 0) + 6
    return (np.round(points_mm * SIGNS[space] / unit_mm, decimals) + 0.0).tolist()
