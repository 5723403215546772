"""What the documentation shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from bingo_pl import config, methods
from bingo_pl.comparison import compare

from .test_experiment import SETTINGS, write_cohort

DOCS = Path(__file__).parent.parent / "docs"


def test_the_worked_example_of_a_new_method_stands_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "METHODS", methods.METHODS.copy())
    (example,) = re.findall(r"```python\n(.*?)```", (DOCS / "methods.md").read_text(), re.DOTALL)
    exec(example, {})
    (tmp_path / "cohort").mkdir()
    places = (f"data.root={write_cohort(tmp_path / 'cohort')}", f"data.cache_dir={tmp_path / 'cache'}")
    folder = compare(
        config.load_table("manifest"),
        [*SETTINGS, *places],
        ["centre_of_mass"],
        {},
        tmp_path / "table",
        Console(quiet=True),
    )
    groups = pd.read_csv(folder / "groups.csv")
    assert list(groups["method"].unique()) == ["none", "centre_of_mass"]
    assert groups["gwi"].notna().all()
