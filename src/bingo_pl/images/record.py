"""``registration.json``: what a folder of ``bingo register`` says about itself, read and checked."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bingo_pl.errors import BingoError, FileError, InputError
from bingo_pl.images.grids import Grid
from bingo_pl.storage.names import check_file_name
from bingo_pl.storage.regular import check_regular

RECORD = "registration.json"
ATLAS = "atlas.json"
"""What the folder of an atlas says of itself beside that."""
PASS, WARN, FAIL = LEVELS = ("pass", "warn", "fail")
"""Of a verdict."""
RESERVED = ("mean", "template")
"""What the group's own files and space are called."""
MOST = 32767
"""Voxels along an axis, of NIfTI's images."""
DAMAGES = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError, BingoError)
"""What reading an edited file may raise."""


@dataclass(frozen=True, eq=False)
class Entry:
    """An image of the group."""

    name: str
    """Of its files in the folder."""
    modality: str
    path: Path
    sha256: str
    label: Path | None
    label_sha256: str | None
    grid: Grid
    """Its own voxels."""
    stage: NDArray[np.float64]
    """(4, 4) RAS mm, group to image: the affine stage."""
    folding_percent: float
    disagreement: float | None
    """Of the image's expert with the group's, larger fits less; None where the method has no experts."""
    belongs: bool | None
    misnaming: float | None
    """How much less it looks like its modality than like the likeliest other one; None where that is unknown."""
    looks_like: str | None
    """Another modality, where it clearly looks like that."""

    error_mm: float | None = None
    """Predicted; None where the network alone registered."""

    @property
    def files(self) -> list[Path]:
        """That were registered."""
        return [self.path, *([] if self.label is None else [self.label])]

    def check_original(self) -> None:
        """Whether the original and its label map are still what was registered.

        Raises:
            BingoError: it is gone, unreadable or has changed.
        """
        _check("original", self.name, self.path, self.sha256)
        if self.label is not None:
            assert self.label_sha256 is not None
            _check("label map", self.name, self.label, self.label_sha256)


def _check(what: str, name: str, path: Path, sha256: str) -> None:
    try:
        found = sha256_of(path)
    except OSError as error:
        raise FileError(
            f"{path}: the {what} of '{name}' cannot be read ({error.strerror})",
            "The report shows images before registration too: put the file back where it was, or register again",
        ) from error
    if found != sha256:
        raise InputError(
            f"{path}: the {what} of '{name}' has changed since it was registered (SHA-256 {found[:12]}..., was "
            f"{sha256[:12]}...)",
            "Put the old file back, or register again",
        )


@dataclass(frozen=True)
class Stage:
    """What a stage of the alignment did."""

    kind: str
    moved_mm: float
    """How far it moved the images against each other."""
    kept: bool
    why: str


@dataclass(frozen=True, eq=False)
class Record:
    """A registered group."""

    folder: Path
    version: str
    """Of bingo_pl."""
    checkpoint: Path
    checkpoint_sha256: str
    settings: Mapping[str, Any]
    group: Grid
    entries: Sequence[Entry]
    kept: str | None = None
    """The last stage of the alignment that was kept, ``identity`` for none; None where the network alone registered."""
    stages: Sequence[Stage] = ()
    """Of the alignment, in order."""
    verdict: str | None = None
    """One of `LEVELS`; None where nothing was judged."""
    reasons: Sequence[str] = ()
    """Of the verdict, in words."""

    @property
    def worst_first(self) -> list[Entry]:
        """What does not fit the group, then what does not look like its modality, then by falling disagreement, then by
        falling share of folded voxels."""
        return sorted(
            self.entries,
            key=lambda e: (e.belongs is not False, e.looks_like is None, -(e.disagreement or 0), -e.folding_percent),
        )


def read_record(folder: Path) -> Record:
    """Read ``registration.json``.

    Raises:
        BingoError: it is missing or damaged, or another version of bingo_pl has written it.
    """
    path = folder / RECORD
    try:
        check_regular(path)
        content = json.loads(path.read_text(encoding="utf-8"))
        record = Record(
            folder=folder,
            version=_text(content["bingo_pl"]),
            checkpoint=Path(_text(content["checkpoint"]["path"])),
            checkpoint_sha256=_text(content["checkpoint"]["sha256"]),
            settings=dict(content["settings"]),
            group=_grid(content["group"]),
            entries=[_entry(image) for image in content["images"]],
            kept=None if content.get("alignment") is None else _text(content["alignment"]["kept"]),
            stages=[_stage(stage) for stage in (content.get("alignment") or {}).get("stages", [])],
            verdict=None if content.get("verdict") is None else _level(content["verdict"]["level"]),
            reasons=[_text(reason) for reason in (content.get("verdict") or {"reasons": []})["reasons"]],
        )
        _check_apart([*RESERVED, *(entry.name for entry in record.entries)])
    except FileNotFoundError as error:
        raise FileError(
            f"{folder} is no finished registration: {RECORD} is missing", "Name a folder that bingo register wrote"
        ) from error
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror})", "Correct its permissions") from error
    except DAMAGES as error:
        raise FileError(
            f"{path}: is damaged or from another version of bingo_pl ({type(error).__name__}: {error})",
            "Register again",
        ) from error
    if not record.entries:
        raise FileError(f"{path}: names no image", "Register again")
    return record


def _entry(image: Mapping[str, Any]) -> Entry:
    name = _text(image["name"])
    check_file_name(name, "file")
    if image["belongs"] not in (True, False, None):
        raise ValueError(f"belongs is {image['belongs']}, wanted true, false or null")
    return Entry(
        name=name,
        modality=_text(image["modality"]),
        path=Path(_text(image["path"])),
        sha256=_text(image["sha256"]),
        label=None if image["label"] is None else Path(_text(image["label"])),
        label_sha256=None if image["label"] is None else _text(image["label_sha256"]),
        grid=_grid(image),
        stage=_affine(image["stage_affine_ras_mm"]),
        folding_percent=_number(image["folding_percent"]),
        disagreement=None if image["disagreement"] is None else _number(image["disagreement"]),
        belongs=image["belongs"],
        misnaming=None if image["misnaming"] is None else _number(image["misnaming"]),
        looks_like=None if image["looks_like"] is None else _text(image["looks_like"]),
        error_mm=None if image.get("error_mm") is None else float(image["error_mm"]),
    )


def _stage(stage: Mapping[str, Any]) -> Stage:
    return Stage(_text(stage["kind"]), _number(stage["moved_mm"]), stage["kept"] is True, _text(stage["why"]))


def _check_apart(names: Sequence[str]) -> None:
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ValueError(f"{times} images or spaces are called '{name}'")


def _text(value: Any) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ValueError(f"wanted text, got {str(value)[:100]!r}")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f"wanted a finite number, got {str(value)[:100]!r}")
    return float(value)


def _level(value: Any) -> str:
    if value not in LEVELS:
        raise ValueError(f"a verdict is {value}, wanted one of {', '.join(LEVELS)}")
    return str(value)


def sha256_of(path: Path) -> str:
    """The SHA-256 (hexadecimal) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _grid(entry: Mapping[str, Any]) -> Grid:
    x, y, z = entry["shape"]
    for size in (x, y, z):
        if type(size) is not int or not 1 <= size <= MOST:
            raise ValueError(f"wanted three sizes from 1 to {MOST}, got {str(entry['shape'])[:100]}")
    return Grid((x, y, z), _affine(entry["affine_ras_mm"]))


def _affine(rows: Any) -> NDArray[np.float64]:
    affine = np.array(rows, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise ValueError(f"an affine has 4 x 4 finite numbers, got {rows}")
    return affine
