"""The manifest of one group: a line an image. What ``bingo register --manifest`` takes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bingo_pl.errors import BingoError
from data_modules.preprocess import Member

NEEDED = ("modality", "image")
OPTIONAL = ("mask", "label")
LAYOUT = (
    f"Wanted: a header line with the columns {','.join(NEEDED)} and optionally {','.join(OPTIONAL)}, then a line for "
    "each image; paths are absolute or relative to the CSV file"
)


def read_group(path: Path) -> list[Member]:
    """The images of a group, in the manifest's order.

    Raises:
        BingoError: the file is missing, no such table, or a line lacks a modality or an image.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (ValueError, OSError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
        raise BingoError(f"{path}: cannot be read as CSV ({error}). {LAYOUT}") from error
    if wrong := set(NEEDED) - set(table) | set(table) - {*NEEDED, *OPTIONAL}:
        raise BingoError(
            f"{path}: has the columns {', '.join(table)}; missing or unknown: {', '.join(sorted(wrong))}. {LAYOUT}"
        )
    if table.empty:
        raise BingoError(f"{path}: lists no image. {LAYOUT}")
    table = table.apply(lambda column: column.str.strip())
    for column in NEEDED:
        if len(empty := table.index[table[column] == ""]):
            raise BingoError(f"{path}: line {empty[0] + 2} has no {column}. Fill it in or remove the line")
    return [_member(path.parent, line) for _, line in table.iterrows()]


def _member(folder: Path, line: pd.Series) -> Member:
    """One line's files; `/` leaves absolute paths as they are."""
    mask, label = (folder / line[column] if line.get(column) else None for column in OPTIONAL)
    return Member(line["modality"], folder / line["image"], label, mask)
