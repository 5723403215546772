"""What saves memory or time leaves the numbers: gradient checkpointing, half precision, accumulation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bingo_pl import BingoError, GroupBatch, config
from bingo_pl.batch import collate
from bingo_pl.methods.bingo import Bingo, BingoRegistration
from bingo_pl.methods.recomputation import recompute_activations
from bingo_pl.seeding import generator
from bingo_pl.training import experiment

from .conftest import GroupMaker

HALF = 2e-2
"""Relative: bfloat16 has eight bits, a relative rounding of 2 ** -9 at each of some ten layers."""


@pytest.fixture
def batch(make_group: GroupMaker) -> GroupBatch:
    return replace(make_group((0, 1, 1), (16, 16, 16)), truth=None)


def network() -> Bingo:
    torch.manual_seed(0)
    bingo = Bingo(3, 2, (4, 8, 8), (2, 1, 0), head_depth=1, squarings=3, cross_reconstruction=0.5)
    for parameter in bingo.heads.parameters():  # heads start without motion
        torch.nn.init.normal_(parameter, std=0.02)
    return bingo


def terms(bingo: Bingo, batch: GroupBatch) -> tuple[BingoRegistration, dict[str, Tensor]]:
    result = bingo(batch, generator("noise"))
    return result, bingo.loss(batch, result, generator("noise"))


def step(batch: GroupBatch, thrifty: bool) -> tuple[dict[str, Any], int]:
    """Gradients and running statistics, and the bytes that were kept for the backward pass."""
    bingo = network()
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x), recompute_activations(thrifty):
        total = torch.stack(list(terms(bingo, batch)[1].values())).sum()
    total.backward()
    return {**{n: p.grad for n, p in bingo.named_parameters()}, **dict(bingo.named_buffers())}, sum(kept.values())


def test_gradient_checkpointing_keeps_less_and_changes_nothing(batch: GroupBatch) -> None:
    (expected, plain), (got, thrifty) = (step(batch, wanted) for wanted in (False, True))
    torch.testing.assert_close(got, expected)
    assert thrifty < 0.6 * plain  # images and fields, which are kept in either case, are much of so narrow a network's


def test_gradient_checkpointing_is_refused_where_it_would_do_nothing() -> None:
    settings = config.load("mscmr", ["method=ape_attresunet", "trainer.gradient_checkpointing=true"])
    with pytest.raises(BingoError, match="is for method bingo, not for ape_attresunet"):
        experiment.build_task(settings)


def test_half_precision_is_for_convolutions_only(batch: GroupBatch) -> None:
    expected, exact = terms(network(), batch)
    with torch.autocast("cpu", torch.bfloat16):
        result, half = terms(network(), batch)
    fields = [result.displacement, result.inverse, *(x for velocity in result.velocities for x in velocity)]
    assert {x.dtype for x in (*fields, *half.values())} == {torch.float32}
    assert half["reconstruction"] != exact["reconstruction"]
    assert expected.displacement.abs().max() > 0.1
    torch.testing.assert_close(half, exact, rtol=HALF, atol=0)


def test_two_batches_accumulated_are_as_one_where_norms_are_fixed(batch: GroupBatch) -> None:
    """Every term is a mean over groups. In training the norms see a batch at a time."""
    bingo = network().eval()
    names = ("images", "modalities", "masks", "labels", "spacing", "names")
    parts = [replace(batch, **{name: getattr(batch, name)[i : i + 1] for name in names}) for i in range(2)]
    whole, *halves = (bingo.loss(part, bingo(part)) for part in (collate(parts), *parts))
    for name, value in whole.items():
        torch.testing.assert_close((halves[0][name] + halves[1][name]) / 2, value)
