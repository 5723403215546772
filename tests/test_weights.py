"""Checkpoints and model files that were changed or damaged end in one clear error in everything that reads them."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors import safe_open
from torch import Tensor

from bingo_pl import BingoError, config
from bingo_pl.models import ready_model
from bingo_pl.models.model import Model
from bingo_pl.models.transfer import start_from
from bingo_pl.storage import sealed
from bingo_pl.studies.rows import Row, ready
from bingo_pl.training import experiment
from bingo_pl.training.make_model import pack

from .conftest import write_cohort
from .test_experiment import settings, weights

QUIET = Console(quiet=True)
NORM = "registrar.encoder.down.first.0.norm.weight"
BIAS = "registrar.heads.0.velocity.bias"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    (folder / "cohort").mkdir()
    write_cohort(folder / "cohort")
    return experiment.train(settings(folder, "run", "trainer.epochs=1"), QUIET)


@pytest.fixture
def checkpoint(run: Path, tmp_path: Path) -> Path:
    """The last one of a copy of the run."""
    shutil.copytree(run, tmp_path / "run")
    return tmp_path / "run" / "checkpoints" / "last.ckpt"


def own_settings(path: Path) -> config.Config:
    return config.load(str(path.parent.parent / "config.yaml"))


COMMANDS: dict[str, Callable[[Path], object]] = {
    "evaluate": lambda path: experiment.evaluate(path, (f"runs={path.parent}",), QUIET),
    "resume": lambda path: experiment.resume(path, ("trainer.epochs=2",), False, QUIET),
    "register, atlas": lambda path: Model.load(path, overrides=["trainer.accelerator=cpu"]),
    "table": lambda path: ready(Row("bingo", own_settings(path)), path, path.parent, QUIET),
    "make model": lambda path: pack(path, path.parent / "model.safetensors"),
    "start": lambda path: start_from(experiment.build_task(own_settings(path)).registrar, str(path)),
}
every_command = pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)


def change(path: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Write a checkpoint again, changed, with a digest that fits."""
    content = torch.load(path, weights_only=True)
    edit(content)
    with path.open("w+b") as file:
        sealed.write(content, file)


EDITS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda state: state.pop(BIAS), "missing: .*heads.0.velocity.bias|does not fit"),
    "extra": (lambda state: state.update(extra=torch.ones(1)), "not in the network: extra"),
    "shape": (lambda state: state.update({BIAS: torch.ones(3)}), r"velocity.bias of \(3,\) instead|does not fit"),
    "nan": (lambda state: state[NORM].fill_(torch.nan), "not finite .*norm.weight"),
    "infinite": (lambda state: state[BIAS].fill_(-torch.inf), "not finite .*velocity.bias"),
}


TAKEN = ("extra", "start")
"""A start takes what it knows, e.g. the first velocities of many."""


@pytest.mark.parametrize(("edit", "name"), [pair for pair in itertools.product(EDITS, COMMANDS) if pair != TAKEN])
def test_weights_that_do_not_fit_are_refused(edit: str, name: str, checkpoint: Path) -> None:
    act, message = EDITS[edit]
    change(checkpoint, lambda content: act(content["state_dict"]))
    with pytest.raises(BingoError, match=message):
        COMMANDS[name](checkpoint)


@every_command
def test_a_flipped_bit_of_the_weights_is_refused(command: Callable[[Path], object], checkpoint: Path) -> None:
    stored = weights(checkpoint)[BIAS].numpy().tobytes()
    content = bytearray(checkpoint.read_bytes())
    content[content.index(stored) + 2] ^= 1
    checkpoint.write_bytes(content)
    with pytest.raises(BingoError, match="SHA-256"):
        command(checkpoint)


@every_command
def test_a_checkpoint_of_an_earlier_version_is_taken(command: Callable[[Path], object], checkpoint: Path) -> None:
    torch.save(torch.load(checkpoint, weights_only=True), checkpoint)
    assert sealed.SEAL not in checkpoint.read_bytes()
    command(checkpoint)


def test_every_checkpoint_of_a_run_has_its_digest(run: Path) -> None:
    files = sorted((run / "checkpoints").iterdir())
    assert [file.name for file in files] == ["best.ckpt", "last.ckpt"]
    for file in files:
        assert file.read_bytes()[-sealed.LENGTH :].startswith(sealed.SEAL)


@pytest.mark.parametrize("entry", ["bingo_pl", "state_dict"])
@pytest.mark.parametrize("value", [None, 3, {}, {"config": 3}])
def test_what_lacks_settings_or_weights_is_no_checkpoint(entry: str, value: object, checkpoint: Path) -> None:
    change(checkpoint, lambda content: content.update({entry: value}))
    with pytest.raises(BingoError, match=r"not a checkpoint|missing"):
        experiment.evaluate(checkpoint, (f"runs={checkpoint.parent}",), QUIET)


OF_RESUME: dict[str, Callable[[dict[str, Any]], object]] = {
    "'data' is missing": lambda content: content["bingo_pl"].pop("data"),
    "'loops' is missing": lambda content: content.pop("loops"),
    "'optimizer_states' is missing": lambda content: content.pop("optimizer_states"),
    "of another shape: the optimiser's exp_avg of": lambda content: moments(content).update(exp_avg=torch.ones(3, 7)),
    "not finite: the optimiser's exp_avg_sq of": lambda content: moments(content)["exp_avg_sq"].fill_(torch.inf),
    "optimiser's state cannot be read": lambda content: moments(content).pop("exp_avg_sq"),
    r"cannot be read \(ValueError": lambda content: content["optimizer_states"][0]["param_groups"].pop(),
    r"cannot be read \(IndexError": lambda content: content["optimizer_states"].clear(),
}


def moments(content: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = content["optimizer_states"][0]["state"][0]
    return state


@pytest.mark.parametrize("message", OF_RESUME)
def test_a_resume_checks_what_the_optimiser_goes_on_with(message: str, checkpoint: Path) -> None:
    change(checkpoint, OF_RESUME[message])
    with pytest.raises(BingoError, match=f"no training can be resumed from .*{message}"):
        COMMANDS["resume"](checkpoint)


def test_a_model_file_of_weights_that_are_not_finite_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    task = experiment.trained_task(own_settings(checkpoint), checkpoint)
    task.state_dict()[BIAS].fill_(torch.nan)
    path = tmp_path / "model.safetensors"
    ready_model.save(task.registrar, own_settings(checkpoint), path, "A card.")
    with safe_open(path, framework="pt") as file:
        assert file.get_tensor(BIAS.removeprefix("registrar.")).isnan().all()
    for read in (ready_model.read, Model.load, lambda path: start_from(task.registrar, str(path))):
        with pytest.raises(BingoError, match=r"not finite \(.*velocity.bias"):
            read(path)
