"""What the documentation shows works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bingo_pl import config
from bingo_pl.models import registry
from bingo_pl.studies.comparison import compare

from .conftest import write_cohort
from .test_experiment import SETTINGS
from .test_register import OBLIQUE
from .test_register import write as write_slice

DOCS = Path(__file__).parent.parent / "docs"


def test_the_worked_example_of_a_new_method_stands_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "METHODS", registry.METHODS.copy())
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


def test_the_readmes_python_example_runs_with_the_ready_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"```python\n(.*?)```", (DOCS.parent / "README.md").read_text(), re.DOTALL)
    (example,) = [text for text in examples if "import register" in text]
    monkeypatch.chdir(tmp_path)
    write_slice(Path("a.nii.gz"), OBLIQUE)
    labels = np.ones((40, 36, 1), np.uint8)
    nib.save(nib.Nifti1Image(labels, OBLIQUE), "a_seg.nii.gz")
    other = nib.load(write_slice(Path("b.nii.gz"), OBLIQUE, contrast=0.4))
    found = {"array": other.get_fdata(), "affine": other.affine}
    exec(example, found)
    assert found["warped"].shape == found["label"].shape == found["group"].grid.shape
    assert found["error_mm"] > 0
    assert set(np.unique(found["label"])) <= {0, 1}
    assert (tmp_path / "out" / "report.html").is_file()
