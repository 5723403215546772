"""Rows of the comparison: what is measured, and how."""

from __future__ import annotations

import gc
import math
import mmap
import platform
from dataclasses import asdict, fields
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bingo_pl import GroupBatch
from bingo_pl.evaluation import metrics, scoring
from bingo_pl.evaluation.scoring import Scores, score, score_group, score_unregistered, timed
from bingo_pl.methods.registrar import Registrar, Registration
from bingo_pl.spatial import invert

from .conftest import GroupMaker, knows_peak_memory


def resident(size: int) -> Tensor:
    """Bytes mapped by themselves: a heap that keeps what was freed may serve a tensor, and no peak shows then."""
    return torch.frombuffer(mmap.mmap(-1, size), dtype=torch.uint8).fill_(1)


class Oracle(Registrar):
    """Knows the ground truth, and takes memory to think."""

    def __init__(self, memory_bytes: int = 0) -> None:
        super().__init__()
        self.memory_bytes = memory_bytes
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.eval()

    def forward(self, batch: GroupBatch, generator: torch.Generator | None = None) -> Registration:
        if self.memory_bytes:
            resident(self.memory_bytes)
        assert batch.truth is not None
        inverse = self.weight * invert(batch.truth.flatten(0, 1)).unflatten(0, (batch.groups, batch.size))
        return Registration(displacement=inverse, inverse=batch.truth)

    def loss(
        self, batch: GroupBatch, result: Registration, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        raise NotImplementedError


def test_the_fields_are_the_columns_of_the_comparison() -> None:
    assert ",".join(field.name for field in fields(Scores)) == (
        "method,group,size,dice,gwi,hd95_mm,assd_mm,folding_percent,sdlogj,seconds,peak_memory_mb"
    )


def test_a_good_registration_is_better_in_every_respect(make_group: GroupMaker) -> None:
    batch = make_group(groups=1)
    before = score_unregistered(batch, [1])
    after, result = score("oracle", Oracle(), batch, [1])
    assert (after.method, after.group, after.size) == ("oracle", "group0", 3)
    assert after.dice > before.dice
    assert after.gwi < before.gwi
    assert after.hd95_mm < before.hd95_mm
    assert after.assd_mm < before.assd_mm
    assert after.sdlogj > 0
    assert after.seconds > 0
    assert not result.displacement.requires_grad


def test_an_unregistered_group_is_one_that_does_not_move(make_group: GroupMaker) -> None:
    scores = score_unregistered(make_group(groups=1), [1])
    assert scores.method == "none"
    assert (scores.folding_percent, scores.sdlogj) == (0, 0)
    assert math.isnan(scores.seconds)
    assert math.isnan(scores.peak_memory_mb)


def test_the_rows_of_both_tables_agree(make_group: GroupMaker) -> None:
    batch = make_group(groups=1)
    row = score_group(Oracle(), batch, [1])
    before, (after, _) = score_unregistered(batch, [1]), score("oracle", Oracle(), batch, [1])
    assert (row.dice_before, row.gwi_before) == (before.dice, before.gwi)
    assert (row.dice_after, row.gwi_after, row.folding_percent) == (after.dice, after.gwi, after.folding_percent)


def test_distances_are_in_the_batch_s_millimetres(make_group: GroupMaker) -> None:
    batch = make_group(groups=1)
    twice = GroupBatch(**{**vars(batch), "spacing": 2 * batch.spacing})
    in_voxels, in_mm = score_unregistered(batch, [1]), score_unregistered(twice, [1])
    assert in_mm.hd95_mm == pytest.approx(2 * in_voxels.hd95_mm)
    assert in_mm.assd_mm == pytest.approx(2 * in_voxels.assd_mm)
    assert (in_mm.dice, in_mm.gwi) == (in_voxels.dice, in_voxels.gwi)


def test_half_precision_does_not_reach_the_metrics(make_group: GroupMaker) -> None:
    batch = make_group(groups=1)
    expected = score_group(Oracle(), batch, [1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {**asdict(score_group(Oracle(), batch, [1])), "seconds": 0} == {**asdict(expected), "seconds": 0}


@knows_peak_memory
def test_peak_memory_is_that_of_the_call_alone(make_group: GroupMaker) -> None:
    batch = make_group(groups=1)
    hungry, modest = Oracle(200_000_000), Oracle()
    _, _, least = timed(modest, batch)
    _, _, most = timed(hungry, batch)
    _, _, again = timed(modest, batch)
    assert most - least == pytest.approx(200, abs=20)  # MB; the allocator may keep or return some of its own
    assert again == pytest.approx(least, abs=20)


@knows_peak_memory
def test_garbage_left_by_others_does_not_hide_the_peak(make_group: GroupMaker) -> None:
    garbage: list[object] = [resident(300_000_000)]
    garbage.append(garbage)
    del garbage
    hungry = Oracle(200_000_000)
    hungry.register_forward_pre_hook(lambda *_: (gc.collect(), None)[1])
    _, _, megabytes = timed(hungry, make_group(groups=1))
    assert megabytes > 180


@knows_peak_memory
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be made to give back what it keeps")
def test_memory_that_others_have_freed_counts_when_it_is_used_again(make_group: GroupMaker) -> None:
    def pieces() -> list[Tensor]:
        return [torch.ones(16_000) for _ in range(3_000)]

    before, last = pieces(), torch.ones(16_000)
    del before  # what lies below the last piece stays with the process
    hungry = Oracle()
    hungry.register_forward_pre_hook(lambda *_: (pieces(), None)[1])
    _, _, megabytes = timed(hungry, make_group(groups=1))
    assert megabytes > 180
    assert last.all()


def test_peak_memory_that_cannot_be_known_is_nan(
    make_group: GroupMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scoring, "PROCESS", tmp_path / "nowhere")
    scores, _ = score("oracle", Oracle(), make_group(groups=1), [1])
    assert math.isnan(scores.peak_memory_mb)
    assert scores.seconds > 0


def test_groups_without_labels_or_truth_have_no_value_there(make_group: GroupMaker) -> None:
    batch = make_group(groups=1)
    bare = GroupBatch(**{**vars(batch), "labels": torch.full_like(batch.labels, -1), "truth": None})
    scores = score_unregistered(bare, [1])
    assert all(math.isnan(value) for value in (scores.dice, scores.gwi, scores.hd95_mm, scores.assd_mm))
    assert metrics.sdlogj(torch.zeros(1, 2, 2, 4, 4)).item() == scores.sdlogj == 0
