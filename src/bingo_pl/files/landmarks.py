"""Landmark files: tables (`.csv`), Slicer's point lists (`.fcsv`) and Slicer's markups (`.mrk.json`).

Points are RAS mm inside the program, whatever the file's own space. A file is written in the format and space in which
it was read; everything in it but the coordinates survives.

A table's first line names its columns. The coordinates are in x, y, z, whose space the user must name, or in r, a, s or
l, p, s, as Slicer exports them.
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

from bingo_pl.atomic import replacing
from bingo_pl.errors import BingoError

SIGNS = {"RAS": (1, 1, 1), "LPS": (-1, -1, 1)}
"""Of the coordinates, to RAS and back."""
OLD_NAMES = {"0": "RAS", "1": "LPS"}
"""How older versions of Slicer write a space."""
COORDINATES = {("x", "y", "z"): None, ("r", "a", "s"): "RAS", ("l", "p", "s"): "LPS"}
"""The columns that hold coordinates, and the space that they name."""
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
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BingoError(f"{path}: cannot be read as text ({error}). Correct the path, or save it as UTF-8") from error
    if path.name.endswith(".mrk.json"):
        return _read_markups(path, text, space)
    if path.suffix == ".fcsv":
        return _read_fcsv(path, text, space)
    if path.suffix == ".csv":
        heading, _, body = text.partition("\n")
        return _read_table(path, heading, f"{heading}\n", body, space)
    raise BingoError(
        f"{path}: unknown kind of landmark file. Wanted: .csv, .fcsv or .mrk.json. Save the points as one of them"
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
    """(P,) which may be longer than the header: Slicer 5 appends two columns to `.fcsv` without naming them."""
    columns: tuple[int, ...]
    """(3,) where a row has its coordinates."""
    space: str

    def text(self) -> str:
        file = io.StringIO()
        file.write(self.heading)
        writer = csv.writer(file, lineterminator="\n")
        for row, point in zip(self.rows, _in_space(self.points_mm, self.space), strict=True):
            moved = dict(zip(self.columns, point, strict=True))
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
        raise BingoError(
            f"{path}: has no columns x, y, z. Got: {', '.join(names) or 'none'}. Name the columns, separated by "
            "commas, in the first line (.csv) or after '# columns =' (.fcsv)"
        )
    space = _space(path, COORDINATES[triple], space)
    columns = tuple(names.index(name) for name in triple)
    rows = tuple(tuple(row) for row in csv.reader(io.StringIO(body)) if row)
    points = [
        _point(path, number, ["".join(row[column : column + 1]) for column in columns], space)
        for number, row in enumerate(rows, 1)
    ]
    return TableLandmarks(np.reshape(points, (-1, 3)), heading, rows, columns, space)


@dataclass(frozen=True, eq=False)
class MarkupLandmarks(Landmarks):
    """Slicer's markups; the points of all lists one after the other."""

    document: dict[str, Any]
    """The file."""
    spaces: tuple[str, ...]
    """(P,) each point's."""

    def text(self) -> str:
        document = copy.deepcopy(self.document)
        controls = [control for markup in document["markups"] for control in _placed(markup)]
        for control, point, space in zip(controls, self.points_mm, self.spaces, strict=True):
            control["position"] = _in_space(point, space)
        return json.dumps(document, indent=4, ensure_ascii=False) + "\n"


def _read_markups(path: Path, text: str, space: str | None) -> MarkupLandmarks:
    try:
        document = json.loads(text)
        found = [
            (control.get("position"), _space(path, markup.get("coordinateSystem"), space))
            for markup in document["markups"]
            for control in _placed(markup)
        ]
        kinds = {markup["type"] for markup in document["markups"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BingoError(
            f"{path}: is no markups file of Slicer ({error!r}). Save the points from Slicer again"
        ) from error
    if others := sorted(kinds - set(POINT_LISTS)):
        raise BingoError(
            f"{path}: has markups of type {', '.join(others)}, whose shape is more than its points. "
            f"Wanted: {', '.join(POINT_LISTS)}. Save the points as a list of their own"
        )
    points = [_point(path, number, position, space) for number, (position, space) in enumerate(found, 1)]
    return MarkupLandmarks(np.reshape(points, (-1, 3)), document, tuple(space for _, space in found))


def _placed(markup: dict[str, Any]) -> list[dict[str, Any]]:
    """The control points that have a position; Slicer also keeps those yet to be placed."""
    return [control for control in markup["controlPoints"] if control.get("positionStatus", "defined") == "defined"]


def _space(path: Path, stated: str | None, given: str | None) -> str:
    """The space of a file: what it says, or what the user says."""
    stated = OLD_NAMES.get(str(stated), stated)
    for space in (stated, given):
        if space is not None and space not in SIGNS:
            raise BingoError(f"{path}: cannot use coordinates in '{space}'. Wanted: RAS or LPS. Convert them")
    if stated and given and stated != given:
        raise BingoError(f"{path}: says that its points are in {stated}, but {given} was given. Leave that out")
    space = stated or given
    if space is None:
        raise BingoError(
            f"{path}: does not say in which space its points are. Say it (--space): RAS (nibabel) or LPS (ITK, ANTs)"
        )
    return space


def _point(path: Path, number: int, values: object, space: str) -> NDArray[np.float64]:
    """The coordinates (3,) of a file in RAS."""
    try:
        point = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError):
        point = np.empty(0)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise BingoError(f"{path}: point {number} is at {values}. Wanted: three numbers, in mm. Correct the file")
    return point * SIGNS[space]


def _in_space(points_mm: NDArray[np.float64], space: str) -> list[Any]:
    """RAS as a file holds it, to the nanometre; adding 0 turns -0.0 into 0.0."""
    return (np.round(points_mm * SIGNS[space], 6) + 0.0).tolist()
