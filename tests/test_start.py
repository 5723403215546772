"""Training from the weights of another model: what the new network does before its first step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bingo_pl import BingoError, config
from bingo_pl.methods.bingo import Bingo
from bingo_pl.methods.registrar import Registrar
from bingo_pl.models import ready_model, registry
from bingo_pl.models.checkpoints import PROVENANCE
from bingo_pl.models.transfer import start_from
from bingo_pl.training import experiment

from .conftest import GroupMaker

NETWORK = ("model.channels=[4,8]", "model.velocity_scales=[1,0]", "model.squarings=5")
PLANE = ("data.roi=[16,16]", *NETWORK)
SPACE = ("data.roi=[16,16,8]", *NETWORK)
Trained = tuple[Registrar, Path]


@pytest.fixture
def trained(make_group: GroupMaker, tmp_path: Path) -> Trained:
    """A 2D model of one modality that moves images, and its file."""
    settings = config.load("ready_2d", PLANE)
    registrar = registry.build(settings)
    with torch.no_grad():
        for parameter in registrar.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        for _ in range(30):  # until the running statistics are those of the images
            registrar(make_group((0, 0, 0), (16, 16)))
    ready_model.save(registrar, settings, tmp_path / "model.safetensors", "A card.")
    return registrar.eval(), tmp_path / "model.safetensors"


@torch.no_grad()
def test_a_volume_of_equal_slices_is_registered_as_one_slice(trained: Trained, make_group: GroupMaker) -> None:
    plane, file = trained
    space = registry.build(config.load("ready_3d", SPACE))
    start_from(space, str(file))
    batch = make_group((0, 0, 0), (16, 16), groups=1)
    expected = plane(batch).displacement
    thick = replace(
        batch,
        **{
            name: getattr(batch, name)[..., None].expand(-1, -1, -1, 16, 16, 8)
            for name in ("images", "masks", "labels")
        },
        spacing=torch.ones(1, 3),
        truth=None,
    )
    got = space.eval()(thick).displacement
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(got[:, :, :2], expected[..., None].expand(-1, -1, -1, -1, -1, 8), atol=1e-4, rtol=0)
    assert got[:, :, 2].abs().max() == 0


@torch.no_grad()
def test_every_modality_starts_as_the_only_one_of_the_other_model(trained: Trained, make_group: GroupMaker) -> None:
    one, file = trained
    three = registry.build(config.load("mscmr", PLANE))
    start_from(three, str(file))
    batch = make_group((0, 1, 2), (16, 16))
    expected = one(replace(batch, modalities=torch.zeros_like(batch.modalities))).displacement
    torch.testing.assert_close(three.eval()(batch).displacement, expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_a_network_with_fewer_velocities_takes_the_first(trained: Trained, make_group: GroupMaker) -> None:
    both, file = trained
    first = registry.build(config.load("ready_2d", [*PLANE, "model.velocity_scales=[1]"]))
    start_from(first, str(file))
    assert isinstance(both, Bingo)
    batch = make_group((0, 0, 0), (16, 16))
    expected = both(batch).velocities[0].mean
    torch.testing.assert_close(first.eval()(batch).velocities[0].mean, expected, atol=1e-6, rtol=0)


def test_training_starts_from_a_checkpoint_of_a_run(tmp_path: Path) -> None:
    settings = config.load("mscmr", [*PLANE, "seed=1"])
    task = experiment.build_task(settings)
    path = tmp_path / "best.ckpt"
    torch.save({"state_dict": task.state_dict(), PROVENANCE: {"config": config.to_tree(settings)}}, path)
    other = registry.build(config.load("mscmr", PLANE))
    start_from(other, str(path))
    for name, tensor in other.state_dict().items():
        assert torch.equal(tensor, task.registrar.state_dict()[name])


def test_the_package_starts_3d_from_2d() -> None:
    settings = config.load("ready_3d")
    assert settings.trainer.start == "ready_2d"
    registrar = registry.build(settings)
    start_from(registrar, settings.trainer.start)
    assert isinstance(registrar, Bingo)
    assert registrar.heads[0].velocity.weight[2].abs().max() == 0  # type: ignore[union-attr,index]


@pytest.mark.parametrize(
    ("experiment_name", "settings", "wanted"),
    [
        ("ready_2d", ["data.roi=[16,16]", "model.channels=[4,16]", "model.velocity_scales=[1,0]"], "model.channels"),
        ("ready_2d", ["data.roi=[16,16]", "model.channels=[4,8]", "model.velocity_scales=[1,0,0]"], "velocity_scales"),
        ("ready_2d", ["data.roi=[16,16]", "model.channels=[4,8]", "model.velocity_scales=[0]"], "velocity_scales"),
        ("mscmr", ["method=ape_attresunet", "data.roi=[16,16]"], "for method bingo"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(
    experiment_name: str, settings: list[str], wanted: str, trained: Trained
) -> None:
    with pytest.raises(BingoError, match=wanted):
        start_from(registry.build(config.load(experiment_name, settings)), str(trained[1]))


@pytest.mark.parametrize("source", ["absent.ckpt", "absent.safetensors", "ready_4d"])
def test_weights_that_are_not_there_are_refused(source: str) -> None:
    with pytest.raises(BingoError, match=r"no checkpoint at|is no model"):
        start_from(registry.build(config.load("ready_2d", PLANE)), source)
