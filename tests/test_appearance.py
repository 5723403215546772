"""Laws of what an image looks like. The networks are replaced by what a perfect training would make of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bingo_pl import GroupBatch
from bingo_pl.evaluation.appearance import MISNAMED, correlation, looks_like, misnaming, unlikeness
from bingo_pl.methods.baselines import Descent, Iterative, Refined
from bingo_pl.methods.bingo import Bingo
from bingo_pl.methods.losses import Similarity
from bingo_pl.methods.networks import Decoder, Encoder
from bingo_pl.methods.registrar import Registration
from bingo_pl.seeding import generator
from bingo_pl.spatial import warp

from .conftest import GroupMaker, one_group, smooth

CONTRASTS = (lambda z: z, lambda z: 1 - z, lambda z: z**20)
ANATOMIES = (lambda x: x, lambda x: 1 - x, lambda x: x ** (1 / 20))
"""Their inverses."""
SHAPE = (32, 32)


class PerfectEncoder(Encoder):
    """Takes a modality's contrast from an image; every voxel equally sure."""

    def forward(self, images: Tensor, counts: Sequence[int], finest: int = 0) -> list[Tensor]:
        parts = zip(ANATOMIES, images.split([*counts]), strict=True)
        means = torch.cat([anatomy(part) for anatomy, part in parts])
        return [torch.cat([means, torch.zeros_like(means)], dim=1)]


class PerfectDecoder(Decoder):
    """Gives it back."""

    def forward(self, structure: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
        parts = zip(CONTRASTS, structure[0].split([*counts]), strict=True)
        return torch.cat([contrast(part) for contrast, part in parts])


def perfect() -> Bingo:
    """One scale, one channel; it moves nothing."""
    model = Bingo(2, 3, (2,), (0,), head_depth=1)
    model.encoder, model.decoder = PerfectEncoder(2, 3, (2,)), PerfectDecoder(2, 3, (1,))
    return model.eval()


def network() -> Bingo:
    """Small, with random parameters, so that every modality has an appearance of its own."""
    model = Bingo(2, 3, (4, 8), (1, 0), head_depth=1)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator("parameter", number)))
    return model.eval()


def make_heads(modalities: Sequence[int], groups: int = 4) -> GroupBatch:
    """Aligned images of one anatomy each group, in the contrasts of their modalities."""
    anatomies = torch.stack([smooth(SHAPE, "head", group) for group in range(groups)])[:, None]
    images = torch.stack([CONTRASTS[modality](anatomies) for modality in modalities], dim=1)
    return GroupBatch(
        images=images,
        modalities=torch.tensor([*modalities]).expand(groups, -1),
        masks=torch.ones_like(images, dtype=torch.bool),
        labels=torch.zeros(images.shape, dtype=torch.int16),
        spacing=torch.ones(groups, 2),
        names=tuple(f"group{group}" for group in range(groups)),
    )


def judged(model: Bingo, batch: GroupBatch) -> Tensor:
    with torch.no_grad():
        found = unlikeness(model, batch, model(batch))
    assert found is not None
    return found


def test_images_look_like_what_they_are() -> None:
    batch = make_heads((0, 1, 2))
    unlike = judged(perfect(), batch)
    assert unlike.shape == (4, 3, 3)
    assert unlike.gather(2, batch.modalities[..., None]).max() < 1e-3  # rounding, which a root magnifies
    assert misnaming(unlike, batch.modalities).max() < -MISNAMED
    assert torch.equal(looks_like(unlike, batch.modalities), batch.modalities)


@pytest.mark.parametrize("member", range(3))
@pytest.mark.parametrize("shift", [1, 2])
def test_a_wrong_name_is_found_and_the_right_one_told(member: int, shift: int) -> None:
    """The image's own expert, which is wrong under the wrong name, has no say in how it should look."""
    right = make_heads((0, 1, 2, 0, 1))
    names = right.modalities.clone()
    names[:, member] = (names[:, member] + shift) % 3
    unlike = judged(perfect(), replace(right, modalities=names))
    assert looks_like(unlike, names)[:, member].tolist() == right.modalities[:, member].tolist()
    assert misnaming(unlike, names)[:, member].min() > MISNAMED


def test_the_registered_image_is_looked_at() -> None:
    """Over its registered foreground: an image that was moved away looks as if it had never been moved."""
    still = make_heads((0, 1, 2, 0))
    inner = torch.zeros(SHAPE, dtype=torch.bool)
    inner[8:-8, 8:-8] = True
    still = replace(still, masks=inner.expand(still.masks.shape))
    there = torch.zeros(*still.images.shape[:2], 2, *SHAPE)
    there[:, 1] = 4.0
    moved = replace(
        still,
        images=warp(still.images.flatten(0, 1), there.flatten(0, 1)).unflatten(0, (4, 4)),
        masks=warp(still.masks.flatten(0, 1).float(), there.flatten(0, 1)).unflatten(0, (4, 4)) > 0.5,
    )
    expected = unlikeness(perfect(), still, Registration(0 * there, 0 * there))
    found = unlikeness(perfect(), moved, Registration(-there, there))
    assert expected is not None
    assert found is not None
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    unregistered = unlikeness(perfect(), moved, Registration(0 * there, 0 * there))
    assert unregistered is not None
    assert not torch.allclose(unregistered, expected, atol=0.01)


def test_a_permutation_of_the_group_permutes_the_answer(make_group: GroupMaker) -> None:
    batch = make_group(modalities=(0, 1, 2, 1))
    order = torch.tensor([[3, 1, 0, 2]]).expand(2, -1)
    model = network()
    plain, permuted = judged(model, batch), judged(model, batch.select(order))
    assert plain.std(dim=2).min() > 1e-3, "modalities look different"
    torch.testing.assert_close(permuted, plain[:, order[0]])


def test_groups_are_judged_each_by_itself(make_group: GroupMaker) -> None:
    batch = make_group()
    model = network()
    torch.testing.assert_close(judged(model, batch)[1:], judged(model, one_group(batch, 1)))


def test_where_nothing_can_be_told_nothing_is_said(make_group: GroupMaker) -> None:
    pair, batch = make_group(modalities=(0, 1)), make_group()
    still = Registration(torch.zeros(2, 3, 2, 32, 32), torch.zeros(2, 3, 2, 32, 32))
    assert unlikeness(network(), pair, network()(pair)) is None
    iterative = Iterative(Similarity("ape"), 1.0, Descent(0.1, 1), levels=1)
    assert unlikeness(iterative, batch, still) is None
    one = replace(batch, modalities=torch.zeros_like(batch.modalities))
    assert unlikeness(Bingo(2, 1, (4, 8), (1,), head_depth=1), one, still) is None


def test_a_refined_method_judges_by_the_one_it_starts_from(make_group: GroupMaker) -> None:
    batch, model = make_group(), network()
    refined = Refined(model, Similarity("ape"), 1.0, Descent(0.1, 1))
    result = model(batch)
    plain, after = (unlikeness(method, batch, result) for method in (model, refined))
    assert plain is not None
    assert after is not None
    assert torch.equal(plain, after)


def test_names_are_accused_beyond_the_bound_alone() -> None:
    unlike = torch.tensor([[[0.40, 0.10, 0.30], [0.20, 0.05, 0.30], [0.05, 0.10, 0.30]]])
    names = torch.zeros(1, 3, dtype=torch.long)
    torch.testing.assert_close(misnaming(unlike, names), torch.tensor([[0.3, 0.15, -0.05]]))
    assert looks_like(unlike, names).tolist() == [[1, 0, 0]]


def test_the_correlation_is_pearsons_of_the_region() -> None:
    first, second = (torch.stack([smooth(SHAPE, name)] * 2)[:, None] for name in ("first", "second"))
    region = torch.zeros(2, 1, *SHAPE, dtype=torch.bool)
    region[..., 4:20, 3:30] = True
    expected = torch.corrcoef(torch.stack([x[0, 0, 4:20, 3:30].flatten() for x in (first, second)]))[0, 1]
    torch.testing.assert_close(correlation(first, second, region), expected.expand(2))
    assert correlation(first, torch.zeros_like(first), region).tolist() == [0, 0], "constant"
    assert correlation(first, second, ~region & region).tolist() == [0, 0], "no region"
