"""Laws of the hierarchical VAE."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor

from bingo_pl import BingoError
from bingo_pl.methods.bingo import Bingo
from bingo_pl.methods.losses import Similarity
from bingo_pl.methods.networks import DomainNorm, VelocityHead
from bingo_pl.methods.posterior import ExpertSums, Gaussian
from bingo_pl.methods.priors import bending_energy
from bingo_pl.methods.similarity import ape
from bingo_pl.seeding import generator
from bingo_pl.spatial import compose, identity, warp

from .conftest import GroupMaker

CHANNELS = (4, 8, 8)
SCALES = (2, 1, 0)


def moving(**settings: Any) -> Bingo:
    """A small network whose velocities are not zero."""
    torch.manual_seed(0)
    bingo = Bingo(2, 3, CHANNELS, SCALES, head_depth=1, **settings)
    for head in bingo.heads:
        assert isinstance(head, VelocityHead)
        torch.nn.init.normal_(head.velocity.weight, std=0.05)
    return bingo


@pytest.fixture
def model(make_group: GroupMaker) -> Bingo:
    """`moving`, with the batch statistics of one group, ready for evaluation."""
    bingo = moving()
    norms = [module for module in bingo.modules() if isinstance(module, DomainNorm)]
    for norm in norms:
        norm.momentum = 1.0
    batch = make_group()
    bingo.loss(batch, bingo(batch))
    return bingo.eval()


def millions(model: Bingo) -> float:
    return sum(parameter.numel() for parameter in model.parameters()) / 1e6


def test_the_default_architecture_has_the_published_number_of_parameters() -> None:
    """Table 1: 13.429 M for BraTS (3D, four modalities), 4.516 M for MS-CMR (2D, three)."""
    assert millions(Bingo(dims=3, modalities=4)) == pytest.approx(13.429, rel=0.01)
    assert millions(Bingo(dims=2, modalities=3)) == pytest.approx(4.516, rel=0.01)


@torch.no_grad()
def test_a_permutation_of_the_group_permutes_the_result(model: Bingo, make_group: GroupMaker) -> None:
    batch = make_group(modalities=(0, 1, 2, 1))
    order = torch.tensor([3, 1, 0, 2])
    plain = model(batch)
    permuted = model(batch.select(order.expand(2, -1)))
    assert plain.displacement.abs().max() > 0.1
    # The sums over the group round differently; nothing else may change.
    torch.testing.assert_close(permuted.displacement, plain.displacement[:, order], atol=1e-4, rtol=0)
    torch.testing.assert_close(permuted.inverse, plain.inverse[:, order], atol=1e-4, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("modalities", [(1,), (0, 2), (0, 1, 2), (0, 0, 1, 2, 2, 2, 1, 0, 1, 2, 1, 0)])
def test_one_network_registers_groups_of_any_size_and_make_up(
    model: Bingo, make_group: GroupMaker, modalities: tuple[int, ...]
) -> None:
    result = model(make_group(modalities=modalities))
    assert result.displacement.shape == (2, len(modalities), 2, 32, 32)
    assert torch.isfinite(result.displacement).all()


def test_a_scale_with_two_velocities_goes_on_from_the_first(make_group: GroupMaker) -> None:
    """Each level's velocity is what `own_expert` and `predict` give when all before is composed again."""
    torch.manual_seed(0)
    bingo = Bingo(2, 3, CHANNELS, (1, 1, 0, 0), head_depth=1).eval()
    for head in bingo.heads:
        assert isinstance(head, VelocityHead)
        torch.nn.init.normal_(head.velocity.weight, std=100)  # the features of a network without statistics are small
    batch = make_group(groups=1)
    result = bingo(batch)
    features = bingo.encoder(batch.images[0], [1, 1, 1])
    drawn: list[torch.Tensor] = []
    for level, velocity in enumerate(result.velocities):
        own = bingo.own_expert(features[bingo.velocity_scales[level]], drawn)
        sums = ExpertSums.of(Gaussian(own.mean[None], own.variance[None]))
        mean, _ = bingo.predict(level, sums.posterior().mean[0].expand_as(own.mean), own.mean)
        drawn.append(mean - mean.mean(0))
        # Displacements of voxels in single precision, through a network.
        torch.testing.assert_close(velocity.mean[0], drawn[-1], atol=1e-4, rtol=0)
        assert velocity.mean.abs().max() > 0.05


def test_features_that_no_velocity_reads_are_not_computed(make_group: GroupMaker) -> None:
    bingo = Bingo(2, 3, CHANNELS, (2, 1)).eval()
    images, counts = make_group(groups=1).images[0], [1, 1, 1]
    every = bingo.encoder(images, counts)
    bingo.encoder.up.first[-1].register_forward_pre_hook(lambda *_: pytest.fail("the finest scale was computed"))
    features = bingo.features(images, counts)
    assert features.keys() == {1, 2}
    assert all(torch.equal(feature, every[scale]) for scale, feature in features.items())


def test_both_ways_through_the_last_convolution_give_the_same(make_group: GroupMaker) -> None:
    """A variance that does not reach the features is computed apart, but only where there are gradients."""
    bingo = moving(velocity_noise=False)
    batch = make_group()
    apart = bingo(batch).velocities
    with torch.no_grad():
        together = bingo(batch).velocities
    for first, second in zip(apart, together, strict=True):
        torch.testing.assert_close(first.mean, second.mean, atol=1e-5, rtol=0)
        torch.testing.assert_close(first.variance, second.variance)


@torch.no_grad()
def test_a_group_of_one_stays_where_it_is(model: Bingo, make_group: GroupMaker) -> None:
    assert model(make_group(modalities=(1,))).displacement.abs().max() < 1e-5


@torch.no_grad()
def test_duplicates_do_not_move_the_result(model: Bingo, make_group: GroupMaker) -> None:
    batch = make_group()
    twice = model(batch.select(torch.tensor([0, 0, 1, 1, 2, 2]).expand(2, -1)))
    torch.testing.assert_close(twice.displacement[:, ::2], model(batch).displacement, atol=1e-4, rtol=0)


@torch.no_grad()
def test_groups_of_a_batch_do_not_see_each_other(model: Bingo, make_group: GroupMaker) -> None:
    both, alone = make_group(groups=2), make_group(groups=1)
    torch.testing.assert_close(model(both).displacement[:1], model(alone).displacement, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_inverse_undoes_the_registration(model: Bingo, make_group: GroupMaker) -> None:
    result = model(make_group())
    there_and_back = compose(result.displacement.flatten(0, 1), result.inverse.flatten(0, 1))
    # Interpolating a motion as rough as an untrained head's costs a tenth of it; a trained one's costs a fiftieth.
    # The border is left out because its paths leave the grid.
    inside = (..., slice(4, -4), slice(4, -4))
    assert there_and_back[inside].abs().mean() < 0.15 * result.displacement[inside].abs().mean()


@torch.no_grad()
def test_velocities_of_a_group_sum_to_zero(model: Bingo, make_group: GroupMaker) -> None:
    for velocity in model(make_group()).velocities:
        assert velocity.mean.mean(1).abs().max() < 1e-5


@pytest.mark.parametrize("log_variance", [-1e3, 1e3])
def test_a_variance_that_ran_away_finds_back(make_group: GroupMaker, model: Bingo, log_variance: float) -> None:
    """The prior's KL stays finite, and its gradient leads towards the prior's variance."""
    biases = []
    for head in model.heads:
        assert isinstance(head, VelocityHead)
        assert isinstance(head.velocity.bias, Tensor)
        biases.append(head.velocity.bias)
        with torch.no_grad():
            biases[-1][model.dims :] = log_variance
    batch = make_group()
    kl = model.loss(batch, model(batch))["kl_velocity"]
    assert kl.isfinite()
    for slope in torch.autograd.grad(kl, biases):
        assert (slope[model.dims :] * log_variance > 0).all()


def test_an_untrained_network_does_not_move_images(make_group: GroupMaker) -> None:
    fresh = Bingo(dims=2, modalities=3, channels=CHANNELS, velocity_scales=SCALES)
    assert fresh(make_group()).displacement.abs().max() == 0


@pytest.mark.parametrize("second_pass", [True, False])
@pytest.mark.parametrize("cross", [0.0, 1.0])
def test_every_parameter_learns_from_the_elbo(make_group: GroupMaker, second_pass: bool, cross: float) -> None:
    bingo = moving(second_pass=second_pass, cross_reconstruction=cross)
    batch, g = make_group(), generator(0)
    terms = bingo.loss(batch, bingo(batch, g), g)
    assert set(terms) == {"reconstruction", "kl_velocity", "kl_structure"}
    torch.stack(list(terms.values())).sum().backward()
    unused = [name for name, p in bingo.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert unused == []


def test_the_draw_depends_on_the_generator_alone(make_group: GroupMaker) -> None:
    torch.manual_seed(0)
    bingo = Bingo(2, 3, CHANNELS, SCALES)
    batch = make_group()

    def terms(seed: int) -> dict[str, torch.Tensor]:
        g = generator("noise", seed)
        return bingo.loss(batch, bingo(batch, g), g)

    first, again, other = terms(0), terms(0), terms(1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["reconstruction"], other["reconstruction"])


def test_a_similarity_joins_the_elbo_and_changes_none_of_its_terms(make_group: GroupMaker) -> None:
    batch = make_group()
    plain, hybrid = moving(), moving(similarity=Similarity("ape", bins=16))
    terms = [bingo.loss(batch, bingo(batch, generator(0)), generator(1)) for bingo in (plain, hybrid)]
    assert {name: terms[1][name] for name in terms[0]} == terms[0]
    displacement = hybrid(batch, generator(0)).displacement
    registered = warp(batch.images.flatten(0, 1), displacement.flatten(0, 1)).unflatten(0, (2, 3))
    points = identity(batch.shape, displacement) + displacement
    inside = ((points > -0.5) & (points < 31.5)).all(2, keepdim=True).all(1, keepdim=True)
    torch.testing.assert_close(terms[1]["similarity"], ape(registered, inside, bins=16).mean())
    bending = 3 * 2 * bending_energy(displacement.flatten(0, 1)) / 2  # of 3 images, 2 groups
    torch.testing.assert_close(terms[1]["bending"], bending)
    (terms[1]["similarity"] + terms[1]["bending"]).backward()
    assert all(p.grad is not None and p.grad.abs().any() for p in hybrid.heads.parameters())


def test_identical_images_of_one_modality_have_no_intrinsic_dissimilarity(model: Bingo, make_group: GroupMaker) -> None:
    batch = make_group(modalities=(1, 2)).select(torch.zeros(2, 3, dtype=torch.long))
    assert model.loss(batch, model(batch))["kl_structure"].abs() < 1e-6


def test_explain_names_the_reconstruction_and_every_level_of_the_structure(
    model: Bingo, make_group: GroupMaker
) -> None:
    batch = make_group()
    pictures = model.explain(batch, model(batch))
    assert pictures["reconstruction"].shape == batch.images.shape
    assert [z.shape[2:] for name, z in pictures.items() if "level" in name] == [(4, 8, 8), (4, 16, 16), (2, 32, 32)]


def test_an_indivisible_size_is_an_error_that_says_what_to_do(model: Bingo, make_group: GroupMaker) -> None:
    with pytest.raises(BingoError, match=r"divisible by its coarsest stride, 4.*data\.roi"):
        model(make_group(shape=(30, 32)))


@pytest.mark.parametrize(
    ("channels", "scales"), [((4, 8), (2, 0)), ((4, 8), (0, 1)), ((4, 8), ()), ((3, 8), (1, 0)), ((), (0,))]
)
def test_an_impossible_architecture_is_an_error_that_names_the_setting(
    channels: tuple[int, ...], scales: tuple[int, ...]
) -> None:
    with pytest.raises(BingoError, match=r"model\.(channels|velocity_scales)=.*wanted"):
        Bingo(2, 3, channels, scales)


def test_a_3d_group_runs_through_the_same_code(make_group: GroupMaker) -> None:
    bingo = Bingo(3, 3, CHANNELS, SCALES, head_depth=1)
    batch, g = make_group(shape=(8, 12, 8), groups=1), generator(0)
    result = bingo(batch, g)
    assert result.displacement.shape == (1, 3, 3, 8, 12, 8)
    assert all(torch.isfinite(term) for term in bingo.loss(batch, result, g).values())


def test_domain_norm_normalises_each_modality_by_itself() -> None:
    norm = DomainNorm(domains=3, channels=2)
    x = torch.cat([torch.randn(4, 2, 8, 8) * 5 + 3, torch.randn(3, 2, 8, 8) - 7])
    y = norm(x, [4, 0, 3])
    for part in (y[:4], y[4:]):
        torch.testing.assert_close(part.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
        torch.testing.assert_close(part.var((0, 2, 3), correction=0), torch.ones(2), atol=1e-4, rtol=0)
    assert torch.equal(norm.running_mean[1], torch.zeros(2)), "an absent modality keeps its statistics"
    assert (norm.running_mean[2] < -0.5).all()


def test_batches_move_between_devices_whole(make_group: GroupMaker) -> None:
    batch = make_group()
    moved = batch.to("cpu")
    for field in dataclasses.fields(batch):
        value = getattr(batch, field.name)
        assert value is getattr(moved, field.name) or torch.equal(value, getattr(moved, field.name))
