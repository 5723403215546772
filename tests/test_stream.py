"""Laws of streamed registration: it is the registration of the whole group, in little memory, whatever happens."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bingo_pl import BingoError, GroupBatch
from bingo_pl.device import isolated
from bingo_pl.evaluation.scoring import peak_memory_bytes, watch_memory
from bingo_pl.methods.bingo import Bingo
from bingo_pl.methods.networks import DomainNorm, VelocityHead
from bingo_pl.streaming import workspace
from bingo_pl.streaming.budget import Budget, parse_bytes, working_bytes
from bingo_pl.streaming.stream import GroupSource, MemorySource, StreamedImage, StreamedRegistration, register_stream

from .conftest import GroupMaker, knows_peak_memory

PLENTY = 10**9
TOLERANCE = 1e-4
"""Voxels; the sums round in another order, and convolutions of other batches in their last digit."""
MODALITIES = (0, 1, 2, 1, 0, 2, 2)
SHAPES = {2: (32, 32), 3: (8, 12, 8)}


def moving(dims: int = 2) -> Bingo:
    """A small network with statistics and velocities that are not trivial, ready for evaluation."""
    torch.manual_seed(0)
    bingo = Bingo(dims, 3, (4, 8, 8), (2, 1, 1), head_depth=1)
    for module in bingo.modules():
        if isinstance(module, VelocityHead):
            torch.nn.init.normal_(module.velocity.weight, std=0.3)
        if isinstance(module, DomainNorm):
            torch.nn.init.uniform_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
    return bingo.eval()


def group(make_group: GroupMaker, dims: int = 2) -> GroupBatch:
    return make_group(modalities=MODALITIES, shape=SHAPES[dims], groups=1)


def displacements(result: StreamedRegistration) -> Tensor:
    return torch.stack([displacement for _, displacement in result.displacements()])


@torch.no_grad()
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("chunk", [1, 3, 7, None])
def test_streamed_equals_in_memory(make_group: GroupMaker, dims: int, chunk: int | None) -> None:
    bingo, batch = moving(dims), group(make_group, dims)
    whole = bingo(batch)
    streamed = register_stream(bingo, MemorySource(batch), PLENTY, chunk=chunk)
    assert whole.displacement.abs().max() > 0.1
    torch.testing.assert_close(displacements(streamed), whole.displacement[0], atol=TOLERANCE, rtol=0)
    inverses = torch.stack([inverse for _, inverse in streamed.inverses()])
    torch.testing.assert_close(inverses, whole.inverse[0], atol=TOLERANCE, rtol=0)


@dataclass
class Counting:
    """Counts how often an image is asked for, and fails once, at a given request."""

    source: GroupSource
    fails_at: int = -1
    asked: int = 0

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, member: int) -> StreamedImage:
        self.asked += 1
        if self.asked == self.fails_at:
            raise KeyboardInterrupt
        return self.source[member]

    def identity(self, member: int) -> str:
        return self.source.identity(member)


def test_features_are_kept_as_far_as_the_budget_goes_and_change_nothing(make_group: GroupMaker, tmp_path: Path) -> None:
    bingo, batch = moving(), group(make_group)
    results, asked = [], []
    for number, memory in enumerate((PLENTY, enough_for(bingo, batch, kept=4), enough_for(bingo, batch, kept=0))):
        source = Counting(MemorySource(batch))
        results.append(displacements(register_stream(bingo, source, memory, tmp_path / str(number), chunk=2)))
        asked.append(source.asked - 1)  # the first image tells the shape
    assert asked == [7, 4 + 3 * 6, 7 * 6]
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def enough_for(bingo: Bingo, batch: GroupBatch, kept: int) -> int:
    """The least memory, in steps of 1 kB, that keeps the features of so many images in chunks of two."""
    for memory in range(0, PLENTY, 1000):
        try:
            if Budget.of(bingo, batch.shape, batch.size, memory, False, 2).kept >= kept:
                return memory
        except BingoError:
            continue
    raise AssertionError("unreachable")


@torch.no_grad()
def encode(shape: tuple[int, ...], images: int, scales: tuple[int, ...]) -> tuple[int, int]:
    """Bytes that encoding takes, and that are set aside for it."""
    bingo, group = Bingo(len(shape), 1, (16, 16, 16), scales, head_depth=1).eval(), torch.rand(images, 1, *shape)
    bingo.features(group, [images])
    before = watch_memory(group.device)
    assert before is not None
    bingo.features(group, [images])
    return peak_memory_bytes(group.device) - before, images * working_bytes(bingo, shape)


@knows_peak_memory
def test_images_in_work_take_the_memory_that_is_set_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that maps and returns every tensor by itself: what a heap holds depends on what was there before."""
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "65536")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        for shape, images in (((192, 192), 16), ((48, 48, 48), 4)):
            for scales in ((2, 1), (2, 0)):
                taken, aside = fresh.submit(encode, shape, images, scales).result()
                assert 0.4 * aside < taken < aside, f"{taken:,} of {aside:,} bytes for {shape}, velocities {scales}"


@pytest.mark.parametrize(("seconds", "lost"), [(0, 0), (1e6, 4)])
def test_a_registration_goes_on_after_an_interrupt_at_any_chunk(
    make_group: GroupMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, lost: int
) -> None:
    """Where no time passes only the first chunk of a registration is saved, so that up to two of a sweep are lost."""
    monkeypatch.setattr(workspace, "SAVE_SECONDS", seconds)
    bingo, batch = moving(), make_group(modalities=(0, 1, 2, 1, 0), shape=(16, 16), groups=1)
    plain, memory = MemorySource(batch), enough_for(bingo, batch, kept=0)
    whole = Counting(plain)
    expected = displacements(register_stream(bingo, whole, memory, tmp_path / "whole", chunk=2))
    starts = [1 + 5 * sweep + first for sweep in range(6) for first in (1, 3, 5)]
    assert starts[-1] == whole.asked
    for fails_at in starts:
        folder = tmp_path / str(fails_at)
        with pytest.raises(KeyboardInterrupt):
            register_stream(bingo, Counting(plain, fails_at), memory, folder, chunk=2)
        rest = Counting(plain)
        resumed = register_stream(bingo, rest, memory, folder, chunk=2)
        assert torch.equal(displacements(resumed), expected)
        again = rest.asked - 1 - (whole.asked - fails_at + 1)
        assert 0 <= again <= lost, "what was saved is not done again"


def test_a_gpu_computes_exact_convolutions_and_the_caller_s_choice_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else displacements depend on how many images are registered at a time (docs/scalability.md)."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    with isolated():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_a_finished_registration_reads_no_image_again(make_group: GroupMaker, tmp_path: Path) -> None:
    bingo, plain = moving(), MemorySource(group(make_group))
    first = displacements(register_stream(bingo, plain, PLENTY, tmp_path / "work"))
    again = Counting(plain)
    assert torch.equal(displacements(register_stream(bingo, again, PLENTY, tmp_path / "work")), first)
    assert again.asked == 1, "the first image tells the shape"


Change = Callable[[Bingo, GroupBatch], tuple[Bingo, GroupBatch, int]]


def _other_image(bingo: Bingo, batch: GroupBatch) -> tuple[Bingo, GroupBatch, int]:
    batch.images[0, 3, 0, 5, 5] += 0.1
    return bingo, batch, 2


def _other_network(bingo: Bingo, batch: GroupBatch) -> tuple[Bingo, GroupBatch, int]:
    with torch.no_grad():
        next(bingo.parameters()).mul_(1.1)
    return bingo, batch, 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_other_image, r"image 3: \w+ -> \w+"),
        (_other_network, r"network: \w+ -> \w+"),
        (lambda bingo, batch: (bingo, batch.select(torch.tensor([[0, 1]])), 2), r"images: 7 -> 2"),
        (lambda bingo, batch: (bingo, batch, 3), r"images a chunk: 2 -> 3"),
    ],
)
def test_going_on_with_something_else_is_refused_with_the_difference(
    make_group: GroupMaker, tmp_path: Path, change: Change, said: str
) -> None:
    bingo, batch = moving(), group(make_group)
    register_stream(bingo, MemorySource(batch), PLENTY, tmp_path / "work", chunk=2)
    bingo, batch, chunk = change(bingo, batch)
    with pytest.raises(BingoError, match=said):
        register_stream(bingo, MemorySource(batch), PLENTY, tmp_path / "work", chunk=chunk)


def test_a_folder_whose_plan_was_being_written_when_it_was_killed_can_be_used(
    make_group: GroupMaker, tmp_path: Path
) -> None:
    batch = group(make_group)
    (tmp_path / "rank_0").mkdir()
    (tmp_path / "rank_0" / ".plan.json.1234.tmp").write_text("{")
    result = register_stream(moving(), MemorySource(batch), PLENTY, tmp_path)
    assert torch.equal(displacements(result), displacements(register_stream(moving(), MemorySource(batch), PLENTY)))


def test_a_folder_of_something_else_is_left_alone(make_group: GroupMaker, tmp_path: Path) -> None:
    (tmp_path / "rank_0").mkdir()
    (tmp_path / "rank_0" / "thesis.txt").write_text("precious")
    with pytest.raises(BingoError, match="in use by something else"):
        register_stream(moving(), MemorySource(group(make_group)), PLENTY, tmp_path)
    assert [file.name for file in (tmp_path / "rank_0").iterdir()] == ["thesis.txt"]


def test_an_unusable_image_is_named(make_group: GroupMaker) -> None:
    batch = group(make_group)
    batch.images[0, 4] = torch.nan
    with pytest.raises(BingoError, match=r"image 4 of the group .* NaN or Inf"):
        register_stream(moving(), MemorySource(batch), PLENTY)


def test_too_little_memory_says_how_much_is_needed(make_group: GroupMaker) -> None:
    with pytest.raises(BingoError, match=r"a memory of 1 KB is too little: .* images at a time are needed"):
        register_stream(moving(), MemorySource(group(make_group)), 1000)


@pytest.mark.parametrize(("text", "size"), [("4GB", 4 * 10**9), ("500 mb", 5 * 10**8), ("1.5G", 15 * 10**8), ("7", 7)])
def test_sizes_of_memory_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "much", "-4GB", "0", "4 giga", "4e9"])
def test_what_is_no_size_of_memory_is_refused(text: str) -> None:
    with pytest.raises(BingoError, match="500MB or 4GB"):
        parse_bytes(text)
