"""Models as files: what is saved comes back, nothing else is taken for a model, and the package's own ones register."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from bingo_pl import BingoError, config
from bingo_pl.evaluation.metrics import groupwise_warping_index
from bingo_pl.methods.registrar import Registrar
from bingo_pl.models import ready_model, registry
from bingo_pl.training import experiment

from .conftest import GroupMaker

TINY = ("data.roi=[16,16]", "model.channels=[4,8]", "model.velocity_scales=[1,0]", "data.root=/of/this/machine")


@pytest.fixture
def trained(make_group: GroupMaker) -> tuple[Registrar, config.Config]:
    """A model with running statistics of its own, and a motion that is not zero."""
    settings = config.load("ready_2d", TINY)
    registrar = registry.build(settings)
    with torch.no_grad():
        for parameter in registrar.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        registrar(make_group((0, 0, 0), (16, 16)))
    return registrar.eval(), settings


def test_what_is_saved_registers_as_before(
    trained: tuple[Registrar, config.Config], make_group: GroupMaker, tmp_path: Path
) -> None:
    registrar, settings = trained
    ready_model.save(registrar, settings, tmp_path / "model.safetensors", "A card.")
    again, known = ready_model.read(tmp_path / "model.safetensors")
    batch = make_group((0, 0, 0), (16, 16))
    with torch.no_grad():
        expected = registrar(batch).displacement
        assert torch.equal(again(batch).displacement, expected)
    assert expected.abs().max() > 0
    assert not again.training
    assert ready_model.takes_any(known)
    assert not ready_model.reconstructs(known)


def test_a_model_file_tells_people_what_it_is_and_nothing_of_the_machine(
    trained: tuple[Registrar, config.Config], tmp_path: Path
) -> None:
    registrar, settings = trained
    ready_model.save(registrar, replace(settings, runs="/of/this/machine"), tmp_path / "model.safetensors", "A card.")
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        header = json.loads(file.metadata()["bingo_pl"])
    assert header["card"] == "A card."
    assert header["config"]["data"]["modalities"] == [ready_model.ANY]
    assert "/of/this/machine" not in str(header)


def test_equal_models_are_equal_files(trained: tuple[Registrar, config.Config], tmp_path: Path) -> None:
    for name in "ab":
        ready_model.save(*trained, tmp_path / f"{name}.safetensors", "A card.")
    again, known = ready_model.read(tmp_path / "a.safetensors")
    ready_model.save(again, known, tmp_path / "c.safetensors", "A card.")
    contents = {(tmp_path / f"{name}.safetensors").read_bytes() for name in "abc"}
    assert len(contents) == 1


@pytest.mark.parametrize("place", [0, 100, -1])
def test_a_damaged_model_is_refused(place: int, trained: tuple[Registrar, config.Config], tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    ready_model.save(*trained, path, "A card.")
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(BingoError, match="make model"):
        ready_model.read(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"config": "{}"}, tmp_path / "pickled.ckpt")
    (tmp_path / "empty.safetensors").touch()
    for file in tmp_path.iterdir():
        with pytest.raises(BingoError, match="make model"):
            ready_model.read(file)


def test_where_there_is_no_ready_model_the_message_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ready_model, "FOLDER", tmp_path)
    with pytest.raises(BingoError, match=r"no ready 3D model.*bingo_pl.training.make_model 3"):
        ready_model.load(3)


MADE = [dims for dims in (2, 3) if ready_model.location(dims).is_file()]


@pytest.mark.parametrize("dims", MADE)
def test_the_ready_model_registers_what_it_has_never_seen(dims: int, make_group: GroupMaker) -> None:
    """Smooth images with folds of their intensities, which no training image is like."""
    registrar, settings = ready_model.load(dims)
    assert ready_model.takes_any(settings)
    batch = make_group((0, 1, 2), (48,) * dims, groups=2)
    batch = replace(batch, modalities=torch.zeros_like(batch.modalities))
    assert batch.truth is not None
    with torch.no_grad():
        displacement = registrar(batch).displacement
    before = groupwise_warping_index(torch.zeros_like(displacement), batch.truth, batch.masks)
    after = groupwise_warping_index(displacement, batch.truth, batch.masks)
    assert (after < 0.9 * before).all()  # noise alone makes it larger


def test_guided_by_the_truth_alone_the_loss_of_the_images_is_not_computed(
    make_group: GroupMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = experiment.build_task(config.load("ready_2d", TINY))
    monkeypatch.setattr(task.registrar, "loss", pytest.fail)
    assert task.training_step(make_group((0, 0, 0), (16, 16)), 0).isfinite()


def test_the_models_of_the_package_are_small() -> None:
    assert MADE, "make model"
    assert sum(ready_model.location(dims).stat().st_size for dims in MADE) <= 20e6
