"""Laws of linear maps and of registration by rigid, affine and free-form stages."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from bingo_pl.evaluation.metrics import groupwise_warping_index
from bingo_pl.methods.baselines import Descent
from bingo_pl.methods.losses import Similarity
from bingo_pl.methods.population import IterativePopulation, rigid
from bingo_pl.seeding import generator
from bingo_pl.spatial import compose, identity, jacobian_determinant, linear_displacement, warp

from .conftest import GroupMaker

shapes = pytest.mark.parametrize("shape", [(20, 24), (10, 12, 14)])


def draw(shape: tuple[int, ...], size: float = 1.0) -> Tensor:
    dims = len(shape)
    return size * torch.randn(2, 3, dims, dims + 1, generator=generator("linear", dims), dtype=torch.float64)


def quick() -> IterativePopulation:
    return IterativePopulation(Similarity("ape"), 1.0, Descent(0.2, steps=25), levels=2, spacing=8)


@shapes
def test_opposite_parameters_undo_each_other(shape: tuple[int, ...]) -> None:
    there, back = (linear_displacement(sign * draw(shape), shape).flatten(0, 1) for sign in (1, -1))
    # A linear field is interpolated exactly; points that leave the grid are not.
    kept = there.new_zeros(shape, dtype=torch.bool)
    kept[tuple([slice(4, -4)] * len(shape))] = True
    assert compose(there, back)[:, :, kept].abs().max() < 1e-9


@shapes
def test_rigid_maps_keep_distances(shape: tuple[int, ...]) -> None:
    field = linear_displacement(rigid(draw(shape)), shape)
    moved = (identity(shape, field) + field).flatten(3)
    points = identity(shape, field).flatten(1)
    far = (moved[..., :1] - moved).norm(dim=2)
    torch.testing.assert_close(far, (points[:, :1] - points).norm(dim=0).expand_as(far))


@shapes
def test_parameters_are_motions_in_voxels(shape: tuple[int, ...]) -> None:
    """To first order: the translation moves all points by itself, an entry of the matrix those at half the side."""
    parameters = torch.zeros(1, 1, len(shape), len(shape) + 1, dtype=torch.float64)
    parameters[..., 0, -1] = 0.5
    torch.testing.assert_close(
        linear_displacement(parameters, shape)[0, 0, 0], torch.full(shape, 0.5, dtype=torch.float64)
    )
    stretched = torch.zeros_like(parameters)
    stretched[..., 0, 0] = 1e-3
    slope = linear_displacement(stretched, shape)[0, 0, 0].diff(dim=0)
    torch.testing.assert_close(slope, torch.full_like(slope, 1e-3 / (max(shape) / 2)), atol=1e-7, rtol=0)


def test_copies_that_were_moved_apart_linearly_come_together(make_group: GroupMaker) -> None:
    batch = make_group(shape=(64, 64)).select(torch.zeros(2, 2, dtype=torch.long))
    one = torch.tensor([[0.0, 1.5, 2.0], [-1.5, 1.0, -1.0]])
    truth = linear_displacement(torch.stack([one, -one]).expand(2, -1, -1, -1), batch.shape)
    images = warp(batch.images.flatten(0, 1), truth.flatten(0, 1)).unflatten(0, (2, 2))
    result = quick()(dataclasses.replace(batch, images=images, truth=truth))
    before = groupwise_warping_index(torch.zeros_like(truth), truth, batch.masks)
    assert (groupwise_warping_index(result.displacement, truth, batch.masks) < 0.1 * before).all()


def test_groups_are_registered_and_the_inverse_undoes(make_group: GroupMaker) -> None:
    batch = make_group()
    assert batch.truth is not None
    result = quick()(batch)
    before = groupwise_warping_index(torch.zeros_like(result.displacement), batch.truth, batch.masks)
    assert (groupwise_warping_index(result.displacement, batch.truth, batch.masks) < before).all()
    assert (jacobian_determinant(result.displacement.flatten(0, 1)) > 0).all()
    there_and_back = compose(result.displacement.flatten(0, 1), result.inverse.flatten(0, 1))
    inside = (..., slice(6, -6), slice(6, -6))
    assert there_and_back[inside].abs().max() < 0.1  # linear interpolation of a B-spline
    terms = quick().loss(batch, result)
    assert set(terms) == {"similarity", "bending"}
    assert terms["bending"] > 0


def test_a_single_image_does_not_move(make_group: GroupMaker) -> None:
    assert quick()(make_group(modalities=(1,))).displacement.abs().max() < 1e-5
