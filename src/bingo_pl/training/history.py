"""`metrics.csv`: every logged number of a run, also after a resume."""

from __future__ import annotations

import csv
import time
from pathlib import Path
from typing import Any

import pandas as pd
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from bingo_pl.errors import FileError
from bingo_pl.storage.atomic import replacing
from bingo_pl.storage.csv_files import read_table

SECONDS = 10.0
"""Between writes of the file."""


class History(Logger):
    """A Lightning logger that keeps one CSV, a row a step, whole every few seconds and at the end.

    Lightning's own CSVLogger deletes the file of the run it resumes; this one continues it.

    Args:
        path: the CSV, created by `write`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, float]] = {}
        self.saved = 0.0

    @property
    def name(self) -> str:
        return "history"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The run's `config.yaml` has them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        assert step is not None
        self.rows.setdefault(step, {}).update(metrics)

    @rank_zero_only
    def save(self) -> None:
        """Write the file, at most every `SECONDS`: Lightning asks after every step, and the file grows."""
        if time.monotonic() - self.saved > SECONDS:
            self.write()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.write()

    def write(self) -> None:
        """Write the file now."""
        self.saved = time.monotonic()
        if self.rows:  # without pandas, which takes ten times as long, with every checkpoint
            names = dict.fromkeys(name for row in self.rows.values() for name in row)
            with replacing(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
                table = csv.DictWriter(file, ["step", *names], lineterminator="\n")
                table.writeheader()
                for step, row in sorted(self.rows.items()):
                    table.writerow(
                        {"step": step}
                        | {name: x if isinstance(x, int) else float(x) for name, x in row.items() if x == x}
                    )

    def resume(self, step: int) -> None:
        """Take up the rows before ``step`` that an interrupted run left; later ones will be computed again.

        Raises:
            BingoError: the file is empty or damaged.
        """
        if self.path.is_file():
            remedy = "Restore it, or delete it to resume without its rows"
            table = read_table(self.path, ["step"], remedy)
            if not all(pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes):
                raise FileError(f"{self.path} is damaged: it holds more than numbers", remedy)
            table = table.dropna(subset="step").set_index("step")
            rows = table[table.index < step].to_dict(orient="index")
            self.rows = {int(k): {name: x for name, x in row.items() if x == x} for k, row in rows.items()}
