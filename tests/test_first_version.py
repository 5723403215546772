"""What the first version wrote is taken by this one: checkpoints, preprocessed images and folders of runs.

``data/first_version.tar.xz`` holds a cohort of six groups of two discs (16 x 16), its cache, and two runs of one epoch
that commit f755693 trained on it. In ``resumed`` is what that commit made of them in a second epoch.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from bingo_pl.config import Config
from bingo_pl.models.checkpoints import read_config
from bingo_pl.models.model import Model
from bingo_pl.training import experiment
from bingo_pl.training.experiment import build_data

ARCHIVE = Path(__file__).parent / "data" / "first_version.tar.xz"
RUNS = ["supervised", "unsupervised"]
ROUNDING = 1e-4
"""Relative; processors and versions of PyTorch round differently."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")  # with the dates of the files, by which the cache knows them
    return tmp_path


def places(old: Path) -> list[str]:
    return [f"data.root={old / 'cohort'}", f"data.cache_dir={old / 'cache'}"]


def listed(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def same_table(found: Path, wanted: Path) -> None:
    tables = [pd.read_csv(path).drop(columns="seconds", errors="ignore") for path in (found, wanted)]
    pd.testing.assert_frame_equal(*tables, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_resumed_as_the_first_version_resumed_it(old: Path, name: str) -> None:
    wanted = json.loads((old / "resumed" / "weights.json").read_text())
    last = old / "runs" / name / "checkpoints" / "last.ckpt"
    run = experiment.resume(last, [*places(old), "trainer.epochs=2"], False, Console(file=io.StringIO()))
    assert run == old / "runs" / name
    same_table(run / "metrics.csv", old / "resumed" / f"{name}.csv")
    if (torch.__version__, torch.backends.cpu.get_cpu_capability()) == (wanted["torch"], wanted["cpu"]):
        assert digest(last) == wanted["weights"][name], "bit-exact, on such a processor"


def digest(checkpoint: Path) -> str:
    """SHA-256 of the weights."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    names = b"".join(name.encode() + state[name].contiguous().numpy().tobytes() for name in sorted(state))
    return hashlib.sha256(names).hexdigest()


@pytest.mark.parametrize("name", RUNS)
def test_a_checkpoint_is_evaluated_to_the_figures_of_the_first_version(old: Path, name: str) -> None:
    run = old / "runs" / name
    given = (run / "test.csv").read_bytes()
    results = experiment.evaluate(run / "checkpoints" / "last.ckpt", places(old), Console(file=io.StringIO()))
    (old / "given.csv").write_bytes(given)
    same_table(results / "test.csv", old / "given.csv")


def test_its_cache_is_read_and_not_made_again(old: Path) -> None:
    before = listed(old / "cache")
    config: Config = read_config(old / "runs" / "supervised" / "checkpoints" / "last.ckpt")
    config.data.root, config.data.cache_dir = str(old / "cohort"), str(old / "cache")
    data = build_data(config, Console(file=io.StringIO()))
    data.prepare_data()
    data.setup("fit")
    assert listed(old / "cache") == before != {}
    assert next(iter(data.train_dataloader())).images.shape == (1, 2, 1, 16, 16)


@pytest.mark.parametrize("name", RUNS)
def test_its_checkpoints_register(old: Path, name: str) -> None:
    model = Model.load(old / "runs" / name / "checkpoints" / "last.ckpt")
    assert model.config.model.channels == [4, 4, 8]
    assert all(weights.isfinite().all() for weights in model.registrar.state_dict().values())
