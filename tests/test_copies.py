"""Laws of copies of training images: what their ground truth means, and what is made to look different."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bingo_pl.batch import GroupBatch, collate
from bingo_pl.data_modules.copies import copy_each, disguise, recoloured
from bingo_pl.errors import BingoError
from bingo_pl.evaluation.metrics import warping_residual
from bingo_pl.misalign import draw_displacements, misalign
from bingo_pl.seeding import generator
from bingo_pl.spatial import compose, invert

from .conftest import GroupMaker, one_group
from .test_data_base import make as make_toy

SHAPE = (16, 16, 16)
COPIES = 3


def pair(make_group: GroupMaker, groups: int = 2) -> GroupBatch:
    """Two images without ground truth."""
    batch = make_group(modalities=(0, 1), shape=SHAPE, groups=groups)
    return GroupBatch(batch.images, batch.modalities, batch.masks, batch.labels, batch.spacing, batch.names)


def draws(batch: GroupBatch) -> list[torch.Generator]:
    return [generator("disguise", name) for name in batch.names]


def test_the_truth_of_copies_knows_nothing_of_how_anatomies_differ(make_group: GroupMaker) -> None:
    copied = copy_each(pair(make_group), COPIES)
    fields = [draw_displacements(copied.size, SHAPE, (8,), 0.2, generator(g), linear=0.3) for g in range(copied.groups)]
    batch = misalign(copied, torch.stack(fields))
    assert batch.truth is not None
    undone = invert(batch.truth.flatten(0, 1)).unflatten(0, batch.truth.shape[:2])
    common = torch.tensor([1.0, 2.0]).repeat_interleave(COPIES).reshape(1, -1, 1, 1, 1, 1)  # one map an anatomy
    shift = common.expand_as(undone)
    registered = compose(undone.flatten(0, 1), shift.flatten(0, 1)).unflatten(0, undone.shape[:2])

    def residual(anatomies: torch.Tensor | None) -> torch.Tensor:
        assert batch.truth is not None
        return warping_residual(registered, batch.truth, anatomies)[..., 5:-5, 5:-5, 5:-5]

    before = warping_residual(torch.zeros_like(batch.truth), batch.truth, batch.anatomies)
    assert residual(batch.anatomies).abs().mean() < 0.05 * before.abs().mean()
    assert residual(None).abs().mean() > 0.45, "half of the voxel between the anatomies"


def test_one_anatomy_named_is_as_none_named(make_group: GroupMaker) -> None:
    batch = make_group()
    assert batch.truth is not None
    everyone = torch.full(batch.modalities.shape, 7)
    torch.testing.assert_close(
        warping_residual(torch.zeros_like(batch.truth), batch.truth, everyone),
        warping_residual(torch.zeros_like(batch.truth), batch.truth),
    )


def test_anatomies_follow_their_images(make_group: GroupMaker) -> None:
    copied = copy_each(pair(make_group), COPIES)
    assert copied.anatomies is not None
    assert copied.anatomies.tolist() == [[0, 0, 0, 1, 1, 1]] * 2
    assert torch.equal(copied.images[:, 0], copied.images[:, 2])
    chosen = copied.select(torch.tensor([[5, 0], [1, 2]]))
    assert chosen.anatomies is not None
    assert chosen.anatomies.tolist() == [[1, 0], [0, 0]]
    assert torch.equal(collate([copied, copied]).anatomies, copied.anatomies.repeat(2, 1))  # type: ignore[arg-type]


def test_copies_apart_are_groups_of_one_anatomy(make_group: GroupMaker) -> None:
    spacing = torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 3.0]])
    copied = replace(copy_each(pair(make_group), COPIES), spacing=spacing)
    apart = copied.parted(COPIES)
    assert (apart.groups, apart.size) == (4, COPIES)
    assert apart.names == ("group0", "group0", "group1", "group1")
    assert torch.equal(apart.images[3], copied.images[1, COPIES:])
    assert torch.equal(apart.modalities[2], copied.modalities[1, :COPIES])
    assert torch.equal(apart.spacing, spacing[[0, 0, 1, 1]])


def test_first_copies_keep_their_contrast_and_all_images_end_somewhere(make_group: GroupMaker) -> None:
    batch = copy_each(pair(make_group, groups=6), COPIES)
    hidden = disguise(batch, COPIES, 2, draws(batch))
    assert torch.equal(hidden.modalities[:, ::COPIES], batch.modalities[:, ::COPIES])
    assert not torch.equal(hidden.modalities, batch.modalities)
    assert not (hidden.masks & ~batch.masks).any()
    assert (hidden.images[~hidden.masks] == 0).all(), "the masks of these groups are full: what is cut is what is dark"
    assert 0.02 < (~hidden.masks).float().mean() < 0.4
    seen = hidden.masks[:, ::COPIES]
    ratio = (hidden.images[:, ::COPIES] / batch.images[:, ::COPIES].clamp(min=1e-6))[seen]
    assert 0.3 < ratio.min() < 1 < ratio.max() < 3, "a bias field alone"


def test_a_disguise_is_a_function_of_its_generators(make_group: GroupMaker) -> None:
    batch = copy_each(pair(make_group), COPIES)
    first, second = (disguise(batch, COPIES, 2, draws(batch)) for _ in range(2))
    assert torch.equal(first.images, second.images)
    swapped = collate([one_group(batch, 1), one_group(batch, 0)])
    again = disguise(swapped, COPIES, 2, draws(swapped))
    assert torch.equal(again.images.flip(0), first.images), "whatever else is in the batch"
    assert not torch.equal(first.images, disguise(batch, COPIES, 2, draws(swapped)).images)


def test_a_new_contrast_is_a_function_of_the_old() -> None:
    image = torch.linspace(0, 1, 16).expand(1, 16, 16)
    for key in range(5):
        new = recoloured(image, generator(key))
        assert 0 <= new.min() < new.max() < 1.5
        assert new.std(1).mean() < 0.06, "equal voxels differ by the noise alone"


def test_copies_of_one_anatomy_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        BingoError, match=r"data.copies=2 is invalid, wanted 1 where the images of a group show one anatomy"
    ):
        make_toy(tmp_path, copies=2)
