"""The metrics file continues over a resume and is not rewritten at every step."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from bingo_pl.training.history import History


def test_a_resumed_history_keeps_the_rows_before_the_checkpoint_and_computes_the_rest_again(tmp_path: Path) -> None:
    first, second = History(tmp_path / "metrics.csv"), History(tmp_path / "metrics.csv")
    for step in range(5):
        first.log_metrics({"train/total": step / 3}, step)
    first.log_metrics({"val/gwi": 0.1}, 2)
    first.write()
    whole = first.path.read_text()
    second.resume(3)
    assert list(second.rows) == [0, 1, 2]
    for step in (3, 4):
        second.log_metrics({"train/total": step / 3}, step)
    second.finalize("success")
    assert second.path.read_text() == whole
    assert pd.read_csv(second.path)["val/gwi"].notna().tolist() == [False, False, True, False, False]


def test_steps_in_quick_succession_are_written_together(tmp_path: Path) -> None:
    history = History(tmp_path / "metrics.csv")
    for step in range(3):
        history.log_metrics({"train/total": 1.0}, step)
        history.save()
    assert len(pd.read_csv(history.path)) == 1
    history.finalize("success")
    assert len(pd.read_csv(history.path)) == 3
