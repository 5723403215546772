"""Laws of the methods that BInGo is compared with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

from bingo_pl import BingoError, seeding
from bingo_pl.batch import GroupBatch
from bingo_pl.evaluation.metrics import groupwise_warping_index
from bingo_pl.methods.attention_unet import AttResUNet
from bingo_pl.methods.baselines import Amortised, Descent, Iterative, Refined
from bingo_pl.methods.losses import SIMILARITIES, Similarity, voxel_share
from bingo_pl.methods.priors import group_bending
from bingo_pl.methods.registrar import Registrar, Registration
from bingo_pl.misalign import draw_displacements
from bingo_pl.seeding import generator
from bingo_pl.spatial import compose, invert

from .conftest import GroupMaker

every_similarity = pytest.mark.parametrize("similarity", list(SIMILARITIES))


def quick(similarity: str = "ape") -> Iterative:
    return Iterative(Similarity(similarity), 10.0, Descent(0.1, steps=20), levels=2)


def moving(similarity: str = "ape", dims: int = 2) -> Amortised:
    """A small network whose velocities are not zero."""
    torch.manual_seed(0)
    network = AttResUNet(dims, 3, channels=(4, 8, 8))
    torch.nn.init.normal_(network.velocity.weight, std=0.1)
    return Amortised(network, Similarity(similarity))


@every_similarity
@pytest.mark.parametrize("modalities", [(0, 1), (0, 1, 2), (0, 0, 1, 2)])
def test_iterative_registers_groups(make_group: GroupMaker, similarity: str, modalities: tuple[int, ...]) -> None:
    batch = make_group(modalities=modalities)
    assert batch.truth is not None
    result = quick(similarity)(batch)
    before = groupwise_warping_index(torch.zeros_like(result.displacement), batch.truth, batch.masks)
    after = groupwise_warping_index(result.displacement, batch.truth, batch.masks)
    assert (after < before).all()


@every_similarity
def test_iterative_lowers_its_loss(make_group: GroupMaker, similarity: str) -> None:
    batch, method = make_group(), quick(similarity)
    result = method(batch)
    still = dataclasses.replace(
        result, displacement=torch.zeros_like(result.displacement), velocity=torch.zeros_like(result.velocity)
    )
    before, after = method.loss(batch, still), method.loss(batch, result)
    assert set(after) == {"similarity", "bending"}
    assert before["bending"] == 0
    assert after["similarity"] + method.stiffness * after["bending"] < before["similarity"]


@every_similarity
def test_iterative_leaves_identical_images_alone(make_group: GroupMaker, similarity: str) -> None:
    batch = make_group().select(torch.zeros(2, 3, dtype=torch.long))
    # Equal gradients cancel but for rounding. Copies lie in so sharp a minimum that Adam, whose steps are 0.1 voxel,
    # swings about it for a while.
    assert quick(similarity)(batch).displacement.square().mean().sqrt() < 0.05


def test_iterative_leaves_a_single_image_alone(make_group: GroupMaker) -> None:
    assert quick()(make_group(modalities=(1,))).displacement.abs().max() == 0


def test_iterative_is_repeatable_bit_for_bit_and_needs_no_gradients_of_the_caller(make_group: GroupMaker) -> None:
    batch = make_group(groups=1)
    plain = quick()(batch)
    with torch.no_grad():
        again = quick()(batch)
    with torch.inference_mode():  # also of tensors made there, as by Lightning's transfer to the device
        inferred = quick()(dataclasses.replace(batch, images=batch.images.clone(), masks=batch.masks.clone()))
    assert torch.equal(plain.displacement, again.displacement)
    assert torch.equal(plain.displacement, inferred.displacement)


def test_iterative_registers_each_group_of_a_batch_by_itself(make_group: GroupMaker) -> None:
    both, alone = quick()(make_group(groups=2)), quick()(make_group(groups=1))
    # Adam divides by the size of its gradients, so rounding grows over the steps.
    torch.testing.assert_close(both.displacement[:1], alone.displacement, atol=1e-2, rtol=0)


@pytest.mark.parametrize(
    ("shape", "voxels"),
    [((100, 200), 20_000), ((16, 16, 16), 4096), ((32, 32, 32), 10_000), ((100, 100, 100), 100_000)],
)
def test_a_draw_looks_at_a_slice_or_a_tenth_of_a_volume_but_not_at_too_few(shape: tuple[int, ...], voxels: int) -> None:
    assert voxel_share(shape) * math.prod(shape) == pytest.approx(voxels)


def test_iterative_draws_voxels_in_3d_from_its_generator(make_group: GroupMaker) -> None:
    batch = make_group(modalities=(0, 1), shape=(22, 23, 24), groups=1)
    method = Iterative(Similarity("ape"), 10.0, Descent(0.1, steps=5), levels=2)
    first, again, other = (method(batch, generator(seed)).displacement for seed in (0, 0, 1))
    assert first.shape == (1, 2, 3, 22, 23, 24)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_velocities_of_a_group_sum_to_zero_and_invert(make_group: GroupMaker) -> None:
    batch = make_group()
    for result in (quick()(batch), moving()(batch)):
        assert result.displacement.abs().max() > 0.1
        assert result.velocity.mean(1).abs().max() < 1e-5
    there_and_back = compose(result.displacement.flatten(0, 1), result.inverse.flatten(0, 1))
    inside = (..., slice(4, -4), slice(4, -4))  # paths from the border leave the grid
    # Interpolation of a rough velocity costs a share of the motion.
    assert there_and_back[inside].abs().mean() < 0.2 * result.displacement[inside].abs().mean()


def test_an_image_smaller_than_its_pyramid_is_an_error(make_group: GroupMaker) -> None:
    with pytest.raises(BingoError, match=r"\(8, 32\).*too small for 3.*fewer levels"):
        Iterative(Similarity("ape"), 10.0, Descent(0.1, steps=5))(make_group(shape=(8, 32)))


def test_an_unknown_similarity_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(BingoError, match=r"unknown similarity 'apf'.*'ape'.*cte"):
        Similarity("apf")


def test_a_single_bin_is_an_error() -> None:
    with pytest.raises(BingoError, match="1 bins: wanted at least 2"):
        Similarity("ape", bins=1)


@pytest.mark.parametrize(("dims", "modalities", "published"), [(3, 4, 22.955), (2, 3, 8.036)])
def test_attresunet_has_the_published_number_of_parameters(dims: int, modalities: int, published: float) -> None:
    """Table 1, in millions: BraTS and MS-CMR."""
    with torch.device("meta"):
        network = AttResUNet(dims, modalities)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert millions == pytest.approx(published, rel=0.03)


def test_an_untrained_network_does_not_move_images(make_group: GroupMaker) -> None:
    fresh = Amortised(AttResUNet(2, 3, channels=(4, 8, 8)), Similarity("ape"))
    assert fresh(make_group()).displacement.abs().max() == 0


@torch.no_grad()
def test_a_permutation_of_the_group_permutes_the_networks_result(make_group: GroupMaker) -> None:
    batch, method = make_group(), moving().eval()
    order = torch.tensor([[2, 0, 1], [1, 2, 0]])
    plain = method(batch)
    permuted = method(batch.select(order))
    assert plain.displacement.abs().max() > 0.01
    for group in range(2):
        assert torch.equal(permuted.displacement[group], plain.displacement[group, order[group]])


@every_similarity
def test_every_parameter_of_the_network_learns(make_group: GroupMaker, similarity: str) -> None:
    batch, method, g = make_group(), moving(similarity), generator(0)
    terms = method.loss(batch, method(batch, g), g)
    torch.stack(list(terms.values())).sum().backward()
    unused = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.abs().any()]
    assert unused == []


def test_training_lowers_the_similarity(make_group: GroupMaker) -> None:
    batch, method = make_group(), Amortised(AttResUNet(2, 3, channels=(4, 8, 8)), Similarity("ape"))
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-2)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        terms = method.loss(batch, method(batch))
        (terms["similarity"] + terms["bending"]).backward()
        optimizer.step()
        values.append(terms["similarity"].item())
    assert values[-1] < values[0] - 0.02


def test_the_network_runs_in_3d(make_group: GroupMaker) -> None:
    batch, method, g = make_group(shape=(8, 12, 8), groups=1), moving(dims=3), generator(0)
    result = method(batch, g)
    assert result.displacement.shape == (1, 3, 3, 8, 12, 8)
    assert all(torch.isfinite(term) for term in method.loss(batch, result, g).values())


@pytest.mark.parametrize("modalities", [(0, 1), (0, 1, 1), (0, 1, 2, 2)])
def test_an_incomplete_group_is_an_error_that_says_so(make_group: GroupMaker, modalities: tuple[int, ...]) -> None:
    with pytest.raises(BingoError, match=r"group 'group0'.*exactly one of each of \[0, 1, 2\]"):
        moving()(make_group(modalities=modalities))


def test_an_indivisible_size_is_an_error_that_says_what_to_do(make_group: GroupMaker) -> None:
    with pytest.raises(BingoError, match=r"divisible by 4.*data\.roi"):
        moving()(make_group(shape=(30, 32)))


class Still(Registrar):
    """A trained method that sees no motion."""

    def forward(self, batch: GroupBatch, generator: torch.Generator | None = None) -> Registration:
        nothing = batch.images.new_zeros(batch.groups, batch.size, len(batch.shape), *batch.shape)
        return Registration(nothing, nothing)

    def loss(
        self, batch: GroupBatch, result: Registration, generator: torch.Generator | None = None
    ) -> dict[str, torch.Tensor]:
        return {}


class Bent(Still):
    """A trained method that bends every image alike."""

    def forward(self, batch: GroupBatch, generator: torch.Generator | None = None) -> Registration:
        field = draw_displacements(1, tuple(batch.shape), (8,), 0.3, seeding.generator("bent"))
        field = field.expand(batch.groups, batch.size, *field.shape[1:])
        return Registration(field, invert(field.flatten(0, 1)).unflatten(0, field.shape[:2]))


def refined(start: Registrar, steps: int = 20, stride: int = 2) -> Refined:
    return Refined(start, Similarity("ape"), 20.0, Descent(0.1, steps), stride)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_refinement_comes_nearer_to_the_truth(make_group: GroupMaker, stride: int) -> None:
    batch = make_group()
    assert batch.truth is not None
    result = refined(Still(), stride=stride)(batch)
    assert result.velocity.shape[3:] == (-(-32 // stride),) * 2
    before = groupwise_warping_index(torch.zeros_like(result.displacement), batch.truth, batch.masks)
    assert (groupwise_warping_index(result.displacement, batch.truth, batch.masks) < before).all()


def test_a_volume_is_refined_on_a_grid_that_does_not_divide_it(make_group: GroupMaker) -> None:
    batch = make_group(modalities=(0, 1), shape=(13, 14, 15), groups=1)
    assert batch.truth is not None
    result = refined(Still())(batch)
    assert result.velocity.shape[3:] == (7, 7, 8)
    before = groupwise_warping_index(torch.zeros_like(result.displacement), batch.truth, batch.masks)
    assert groupwise_warping_index(result.displacement, batch.truth, batch.masks) < before


def test_refinement_of_no_steps_changes_nothing(make_group: GroupMaker) -> None:
    batch, start = make_group(), moving()
    result, plain = refined(start, steps=0)(batch), start(batch)
    # A composition with nothing samples the field at its own voxels, to rounding.
    torch.testing.assert_close(result.displacement, plain.displacement, atol=1e-5, rtol=0)
    torch.testing.assert_close(result.inverse, plain.inverse, atol=1e-5, rtol=0)


def test_refinement_leaves_the_weights_alone(make_group: GroupMaker) -> None:
    start = moving().eval()
    before = {name: value.clone() for name, value in start.state_dict().items()}
    with torch.inference_mode():
        refined(start)(make_group())
    assert all(torch.equal(before[name], value) for name, value in start.state_dict().items())
    assert all(parameter.grad is None for parameter in start.parameters())


@pytest.mark.parametrize("stride", [1, 2])
def test_a_refined_registration_inverts(make_group: GroupMaker, stride: int) -> None:
    result = refined(Still(), stride=stride)(make_group())
    there_and_back = compose(result.displacement.flatten(0, 1), result.inverse.flatten(0, 1))
    inside = (..., slice(4, -4), slice(4, -4))  # paths from the border leave the grid
    # Interpolation of a rough velocity costs a share of the motion.
    assert there_and_back[inside].abs().mean() < 0.2 * result.displacement[inside].abs().mean()


class Blind(Similarity):
    """Sees no difference."""

    def of_registered(
        self, images: torch.Tensor, displacement: torch.Tensor, share: float, generator: torch.Generator | None
    ) -> torch.Tensor:
        return displacement.new_zeros(len(displacement))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_each_pair_of_images_is_an_observation_against_stiffness(
    make_group: GroupMaker, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    energies = []

    def stay(_: Descent, energy: Callable[[torch.Tensor], torch.Tensor], start: torch.Tensor) -> torch.Tensor:
        energies.append(float(energy(start)))
        return start

    monkeypatch.setattr(Descent, "minimise", stay)
    batch, start = make_group(modalities=(0,) * size), Bent()
    Refined(start, Blind("ape"), 20.0, Descent(0.1, 1))(batch)
    bending = float(group_bending(start(batch).displacement))
    assert energies == [pytest.approx(20 * bending / max(size - 1, 1), rel=1e-3)]


def test_a_permutation_of_the_group_permutes_its_refinement(make_group: GroupMaker) -> None:
    batch, order = make_group(), torch.tensor([[2, 0, 1]] * 2)
    plain, permuted = refined(Still(), 5)(batch), refined(Still(), 5)(batch.select(order))
    wanted = plain.displacement[:, [2, 0, 1]]
    # Adam divides by the size of its gradients, so rounding grows over the steps.
    torch.testing.assert_close(permuted.displacement, wanted, atol=1e-2, rtol=0)
