"""CSV files that this package wrote and reads again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from bingo_pl.errors import FileError


def read_table(path: Path, columns: Sequence[str], remedy: str) -> pd.DataFrame:
    """Read such a file.

    Args:
        path: the file.
        columns: what it must hold, among others.
        remedy: for the error, what to do where it does not.

    Raises:
        BingoError: it cannot be read, is empty or damaged, or lacks a column.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' own errors and those of encodings are ValueErrors
        raise FileError(f"{path} cannot be read ({str(error).strip()})", remedy) from error
    if missing := [column for column in columns if column not in table]:
        raise FileError(f"{path} is damaged: it has no column {', '.join(missing)}", remedy)
    return table
