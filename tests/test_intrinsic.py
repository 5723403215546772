"""Laws of the optimisation of a model's own experts for each group."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from bingo_pl import BingoError
from bingo_pl import config as settings
from bingo_pl.alignment.experts import encode, encoded_lattice
from bingo_pl.alignment.maps import Lattice, Linear, Maps, Warp
from bingo_pl.alignment.registrar import Intrinsic
from bingo_pl.alignment.volume import Picture
from bingo_pl.batch import GroupBatch
from bingo_pl.evaluation.metrics import groupwise_warping_index
from bingo_pl.methods.bingo import Bingo
from bingo_pl.methods.frozen import frozen
from bingo_pl.methods.networks import DomainNorm, Encoder
from bingo_pl.methods.registrar import Registrar, Registration
from bingo_pl.models import ready_model, registry
from bingo_pl.seeding import generator
from bingo_pl.spatial import compose, sample

from .conftest import GroupMaker, one_group


def make(dims: int, *overrides: str) -> Registrar:
    model, config = ready_model.load(dims)
    return registry.refined(model, settings.override(config, ["intrinsic.steps=10", *overrides])).eval()


def misaligned(make_group: GroupMaker, *modalities: int, shape: tuple[int, ...] = (32, 32)) -> GroupBatch:
    """Groups in several contrasts, all of the ready model's only modality."""
    batch = make_group(modalities=modalities, shape=shape, groups=2 if len(shape) == 2 else 1)
    return replace(batch, modalities=torch.zeros_like(batch.modalities))


def gwi(batch: GroupBatch, displacement: torch.Tensor) -> torch.Tensor:
    assert batch.truth is not None
    return groupwise_warping_index(displacement, batch.truth, batch.masks)


def share_left(batch: GroupBatch, result: Registration) -> torch.Tensor:
    return gwi(batch, result.displacement) / gwi(batch, torch.zeros_like(result.displacement))


@pytest.mark.parametrize("overrides", [[], ["intrinsic.from_network=true"], ["intrinsic.edges=1"]])
def test_a_known_deformation_is_undone(make_group: GroupMaker, overrides: list[str]) -> None:
    batch = misaligned(make_group, 0, 1, 2)
    assert (share_left(batch, make(2, *overrides)(batch)) < 0.6).all()


def test_it_finds_more_than_the_network_that_it_starts_from(make_group: GroupMaker) -> None:
    batch = misaligned(make_group, 0, 1, 2)
    result = make(2, "intrinsic.from_network=true")(batch)
    assert (gwi(batch, result.displacement) < gwi(batch, result.start.displacement)).all()


def test_volumes_are_registered(make_group: GroupMaker) -> None:
    batch = misaligned(make_group, 0, 1, shape=(32, 16, 16))
    result = make(3, "intrinsic.voxels=[2,1]", "intrinsic.nodes=[8,4]", "intrinsic.mirrored=false")(batch)
    assert (share_left(batch, result) < 0.8).all()


def test_voxels_need_not_be_squares(make_group: GroupMaker) -> None:
    batch = misaligned(make_group, 0, 1, 2)
    batch = replace(batch, spacing=torch.tensor([[0.7, 1.1]]).expand(batch.groups, -1))
    assert (share_left(batch, make(2)(batch)) < 0.6).all()


def test_the_unit_of_length_changes_nothing(make_group: GroupMaker) -> None:
    batch = misaligned(make_group, 0, 1)
    large = replace(batch, spacing=64 * batch.spacing)  # a power of two, which rounds as 1 does
    torch.testing.assert_close(make(2)(large).displacement, make(2)(batch).displacement, atol=1e-3, rtol=0)


@pytest.mark.parametrize("from_network", ["true", "false"])
def test_the_inverse_leads_back(make_group: GroupMaker, from_network: str) -> None:
    result = make(2, f"intrinsic.from_network={from_network}")(misaligned(make_group, 0, 1, 2))
    there_and_back = compose(result.displacement.flatten(0, 1), result.inverse.flatten(0, 1))
    inside = (..., slice(6, -6), slice(6, -6))  # paths from the border leave the grid
    assert there_and_back[inside].abs().mean() < 0.03 * result.displacement[inside].abs().mean()


def test_no_image_is_a_reference(make_group: GroupMaker) -> None:
    result = make(2)(misaligned(make_group, 0, 1, 2))
    assert result.velocity.mean(1).abs().max() < 1e-5
    assert result.velocity.abs().max() > 0.5


def test_a_result_repeats_also_where_the_caller_wants_no_gradients(make_group: GroupMaker) -> None:
    batch, method = misaligned(make_group, 0, 1), make(2)
    plain = method(batch)
    with torch.inference_mode():
        again = method(batch)
    assert torch.equal(plain.displacement, again.displacement)
    assert torch.equal(plain.inverse, again.inverse)


def test_a_group_does_not_see_the_others_of_its_batch(make_group: GroupMaker) -> None:
    batch, method = misaligned(make_group, 0, 1), make(2)
    torch.testing.assert_close(method(one_group(batch, 1)).velocity[0], method(batch).velocity[1])


def test_identical_images_and_a_single_one_stay(make_group: GroupMaker) -> None:
    batch = misaligned(make_group, 0, 0)
    alike = replace(batch, images=batch.images[:, :1].expand(-1, 2, -1, -1, -1))
    assert make(2)(alike).displacement.abs().max() < 0.05
    assert make(2)(misaligned(make_group, 0)).displacement.abs().max() == 0


def test_the_weights_stay(make_group: GroupMaker) -> None:
    method = make(2)
    before = {name: value.clone() for name, value in method.state_dict().items()}
    method(misaligned(make_group, 0, 1))
    assert all(torch.equal(before[name], value) for name, value in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())


def test_experts_of_a_mirrored_image_are_those_of_the_image_mirrored(make_group: GroupMaker) -> None:
    image = make_group(shape=(32, 48)).images[0, 0, 0].numpy()
    to_index = np.eye(2, 3)
    model, _ = ready_model.load(2)
    assert isinstance(model, Bingo)
    lattice = encoded_lattice(torch.tensor([-0.5, -0.5]), torch.tensor([31.5, 47.5]), 1.0, model.stride)
    pictures = (Picture(seen, None, to_index) for seen in (image, image[::-1].copy()))
    encoder, scale = frozen(model.encoder, 0), model.velocity_scales[-1]
    plain, mirrored = (encode(encoder, scale, seen, lattice, Linear.identity(1, 2), (0,)) for seen in pictures)
    values = plain.values.unflatten(0, plain.shape)
    first, second = values.flip(0).chunk(2, dim=2)
    torch.testing.assert_close(mirrored.values.unflatten(0, plain.shape), torch.cat([second, first], 2))
    assert not torch.allclose(first, second, atol=0.1)  # the encoder itself is not symmetric


@pytest.mark.parametrize("dims", [2, 3])
def test_a_frozen_encoder_gives_what_the_encoder_gives(dims: int) -> None:
    encoder = Encoder(dims, 2, (4, 6, 8)).eval()
    for module in encoder.modules():
        if isinstance(module, DomainNorm):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                torch.nn.init.uniform_(values, 0.5, 2, generator=generator("norms"))
    image = torch.rand(2, 1, *[8] * dims, generator=generator("image"))
    with torch.no_grad():
        wanted, given = encoder(image, [0, 2], 1), frozen(encoder, 1)(image, [2], 1)
    torch.testing.assert_close(given, wanted, rtol=1e-4, atol=1e-5)


def test_a_known_map_comes_between_velocity_and_linear_map_and_is_inverted(make_group: GroupMaker) -> None:
    start = make(2)(misaligned(make_group, 0, 1, 2)).start
    shifts, drift = torch.tensor([[1.0, 0.0], [0.0, 2.0], [-1.0, -2.0]]), torch.tensor([[2.0, 1], [-1, 1], [-1, -2]])
    lattice = Lattice.around(torch.zeros(2), torch.full((2,), 31.0), 8.0)
    maps = Maps(
        Linear(torch.eye(2).expand(3, 2, 2), shifts),
        lattice,
        drift[..., None, None].expand(3, 2, *lattice.shape),
        Warp(torch.ones(2), start.displacement[0], start.inverse[0]),
    )
    points = 8 + 16 * torch.rand(50, 2, generator=generator("points"))
    drifted = points + drift[:, None]
    known = drifted + sample(start.displacement[0], drifted.mT[..., None])[..., 0].mT
    torch.testing.assert_close(maps(points), known + shifts[:, None], atol=1e-3, rtol=0)
    there_and_back = maps.inverse(maps(points)) - points
    assert there_and_back.norm(dim=2).mean() < 0.05 * (known - drifted).norm(dim=2).mean()


def test_settings_reach_the_method() -> None:
    method = make(2, "intrinsic.voxels=[3]", "intrinsic.nodes=[5]", "intrinsic.bending=7", "intrinsic.points=9")
    assert isinstance(method, Intrinsic)
    (level,) = method.levels
    assert (level.voxel_mm, level.node_mm, level.stiffness, level.points, level.steps) == (3, 5, 7, 9, 10)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=ape"], "method 'ape' has no experts.*method=bingo"),
        (["refine.steps=3"], "both improve the result"),
        (["intrinsic.voxels=[]"], "intrinsic.voxels=.* wanted a positive number for each level"),
        (["intrinsic.nodes=[4,-1,2]"], "intrinsic.nodes=.* wanted a positive number for each of the 3 levels"),
        (["intrinsic.nodes=[4]"], "intrinsic.nodes=.* wanted a positive number for each of the 3 levels"),
        (["intrinsic.points=1"], "intrinsic.points=1 .*wanted at least 2, or 0"),
        (["intrinsic.bending=-1"], "intrinsic.bending=-1.0 .*wanted at least 0"),
        (["intrinsic.edges=-1"], "intrinsic.edges=-1.0 .*wanted at least 0"),
        (["intrinsic.steps=-1"], "intrinsic.steps=-1 .*wanted at least 0"),
        (["intrinsic.learning_rate=0"], "intrinsic.learning_rate=0.0 .*wanted a positive rate"),
    ],
)
def test_bad_settings_are_explained(overrides: list[str], message: str) -> None:
    with pytest.raises(BingoError, match=message):
        built(["intrinsic.steps=2", *overrides])


def built(overrides: list[str]) -> Registrar:
    config = settings.override(settings.Config(), overrides)
    return registry.refined(registry.build(config), config)
