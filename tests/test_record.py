"""A ``registration.json`` that was edited by hand is refused by name, with no traceback."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bingo_pl import BingoError
from bingo_pl.images.record import RECORD, read_record
from bingo_pl.registration.apply import apply
from bingo_pl.report.page import write_report

GOOD: dict[str, Any] = {
    "bingo_pl": "0.1.0",
    "checkpoint": {"path": "/models/best.ckpt", "sha256": "0" * 64},
    "settings": {"method": "bingo"},
    "group": {"shape": [8, 8, 1], "affine_ras_mm": np.eye(4).tolist()},
    "images": [
        {
            "name": name,
            "modality": name,
            "path": f"/data/{name}.nii.gz",
            "sha256": "0" * 64,
            "mask": None,
            "mask_sha256": None,
            "label": "/data/label.nii.gz",
            "label_sha256": "0" * 64,
            "shape": [8, 8, 1],
            "affine_ras_mm": np.eye(4).tolist(),
            "stage_affine_ras_mm": np.eye(4).tolist(),
            "folding_percent": 0.0,
            "disagreement": 0.1,
            "belongs": True,
            "misnaming": 0.1,
            "looks_like": None,
        }
        for name in "ab"
    ],
}
WRONG: tuple[Any, ...] = (
    None,
    True,
    "x",
    "",
    "\x00",
    "../x",
    -1,
    0,
    10**30,
    1e400,
    float("nan"),
    [],
    [1],
    [[]],
    {},
    {"a": 1},
    "x" * 5000,
)
REMOVED = object()


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of all values; of lists the first entry."""
    yield path
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))[:1] if isinstance(tree, list) else []
    for key in keys:
        yield from places(tree[key], (*path, key))


def edited(path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    tree = copy.deepcopy(GOOD)
    inner: Any = tree
    for key in path[:-1]:
        inner = inner[key]
    if value is REMOVED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return tree


def moved(folder: Path) -> None:
    apply(folder, "a", "b", folder / "x.csv", folder / "y.csv", False, None)


def test_every_value_that_was_edited_is_read_or_refused_by_name(tmp_path: Path) -> None:
    file, refused = tmp_path / RECORD, 0
    file.write_text(json.dumps(GOOD))
    assert [entry.name for entry in read_record(tmp_path).entries] == ["a", "b"]
    for path in places(GOOD):
        for value in (*WRONG, *([REMOVED] if path else [])):
            file.write_text(json.dumps(edited(path, value)))
            try:
                read_record(tmp_path)
            except BingoError as error:
                refused += RECORD in str(error)
                continue
            for use in (write_report, moved):
                with pytest.raises(BingoError):  # there is no other file
                    use(tmp_path)
    assert refused > 500


def test_what_is_no_record_is_refused_by_name(tmp_path: Path) -> None:
    for text in (b"", b"{", b"[]", b"null", b"3", b'"x"', b"[" * 10_000, b'{"bingo_pl": ', b"\xff"):
        (tmp_path / RECORD).write_bytes(text)
        with pytest.raises(BingoError, match=RECORD):
            read_record(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("group", "shape"), [8, 8, -1]),
        (("group", "shape"), [8, 8, 10**9]),
        (("images", 0, "shape"), [0, 8, 1]),
        (("images", 0, "shape"), [8.5, 8, 1]),
        (("images", 0, "affine_ras_mm"), np.zeros((4, 4)).tolist()),
        (("images", 0, "path"), "a\x00b"),
        (("images", 0, "name"), "b"),
        (("images", 0, "name"), "template"),
        (("images", 0, "folding_percent"), float("nan")),
    ],
)
def test_values_that_mean_nothing_are_refused(tmp_path: Path, path: tuple[Any, ...], value: Any) -> None:
    (tmp_path / RECORD).write_text(json.dumps(edited(path, value)))
    with pytest.raises(BingoError, match=rf"{RECORD}: is damaged"):
        read_record(tmp_path)
