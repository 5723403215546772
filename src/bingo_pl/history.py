"""`metrics.csv`: every logged number of a run, whole after every epoch and after a resume."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from pytorch_lightning.loggers.logger import Logger
from pytorch_lightning.utilities import rank_zero_only

from bingo_pl.atomic import replacing


class History(Logger):
    """A Lightning logger that keeps one CSV, a row a step.

    Lightning's own CSVLogger deletes the file of the run it resumes; this one continues it.

    Args:
        path: the CSV, created by `save`.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.rows: dict[int, dict[str, float]] = {}

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
        if self.rows:
            table = pd.DataFrame.from_dict(self.rows, orient="index").rename_axis("step").sort_index()
            with replacing(self.path) as temporary:
                table.to_csv(temporary)

    def resume(self, step: int) -> None:
        """Take up the rows before ``step`` that an interrupted run left; later ones will be computed again."""
        if self.path.is_file():
            table = pd.read_csv(self.path, index_col="step")
            rows = table[table.index < step].to_dict(orient="index")
            self.rows = {int(k): {name: x for name, x in row.items() if x == x} for k, row in rows.items()}
