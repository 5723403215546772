"""What every data module inherits: the cache, the batches, the misalignment."""

from __future__ import annotations

import os
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bingo_pl.batch import GroupBatch
from bingo_pl.data_modules import base
from bingo_pl.data_modules.base import GroupDataModule
from bingo_pl.data_modules.cache import CachedGroup, load_group
from bingo_pl.data_modules.cases import Case, Split
from bingo_pl.data_modules.sampling import EqualSizeSampler, ResumableLoader
from bingo_pl.errors import BingoError
from bingo_pl.images.members import Member
from bingo_pl.seeding import generator

from .conftest import one_group

SHAPE = (12, 10)
SPACING = torch.tensor([[1.5, 0.5]])


class ToyDataModule(GroupDataModule):
    """One text file a case, ``<subject>.txt``, that holds the group's size."""

    layout = "Expected text files."
    dimensions = (2,)
    reads: Counter[str]

    def list_cases(self) -> dict[Split, list[Case]]:
        files = sorted(self.root.glob("*.txt"))
        if not files:
            raise self.not_found()
        return self.split_by_name([Case(f.stem, f.stem, (Member("a", f), Member("b", f))) for f in files])

    def read_case(self, case: Case) -> list[GroupBatch]:
        self.reads[case.name] += 1
        text = case.members[0].image.read_text()
        if not text.isdigit():
            raise BingoError(f"{case.name} is bad")
        images = torch.rand(1, int(text), 1, *SHAPE, generator=generator(case.name))
        modalities = torch.arange(int(text))[None] % 2
        return [GroupBatch(images, modalities, images > 0, (images * 3).short(), SPACING, (case.name,))]


def make(root: Path, **changes: Any) -> ToyDataModule:
    settings: dict[str, Any] = {
        "root": str(root),
        "modalities": ["a", "b"],
        "label_ids": [1, 2],
        "spacing_mm": 1.0,
        "roi": SHAPE,
        "splits": [4, 1, 1],
        "seed": 0,
        "batch_size": 2,
        "images_per_step": None,
        "ffd_spacings": [4.0],
        "ffd_strength": 0.3,
        "linear_strength": 0.0,
        "copies": 1,
        "draws_per_test_group": 3,
        "workers": 0,
        "cache_dir": str(root / "cache"),
        "fill_nonfinite": None,
    }
    data = ToyDataModule(**{**settings, **changes})
    data.reads = Counter()
    return data


def prepared(root: Path, stage: str = "test", **changes: Any) -> ToyDataModule:
    data = make(root, **changes)
    data.prepare_data()
    data.setup(stage)
    return data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for i in range(6):
        (tmp_path / f"s{i}.txt").write_text("3")
    return tmp_path


def test_a_second_preparation_reads_nothing(root: Path) -> None:
    make(root).prepare_data()
    again = make(root)
    again.prepare_data()
    assert not again.reads


@pytest.mark.parametrize("changes", [{"seed": 1}, {"splits": [3, 2, 1]}, {"ffd_strength": 0.1}, {"batch_size": 1}])
def test_settings_of_training_leave_the_cache_valid(root: Path, changes: dict[str, Any]) -> None:
    make(root).prepare_data()
    again = make(root, **changes)
    again.prepare_data()
    assert not again.reads


@pytest.mark.parametrize(
    "changes", [{"spacing_mm": 2.0}, {"label_ids": [1]}, {"fill_nonfinite": 0.0}, {"modalities": ["b", "a"]}]
)
def test_settings_of_preprocessing_change_the_fingerprint(root: Path, changes: dict[str, Any]) -> None:
    assert make(root, **changes).fingerprint() != make(root).fingerprint() == make(root).fingerprint()


def test_a_touched_file_changes_the_fingerprint_and_is_read_again_alone(root: Path) -> None:
    first = make(root)
    first.prepare_data()
    fingerprint = first.fingerprint()
    os.utime(root / "s2.txt", ns=(1, 1))
    with pytest.raises(BingoError, match="s2 is not preprocessed"):
        first.setup("fit")
    again = make(root)
    again.prepare_data()
    assert again.fingerprint() != fingerprint
    assert again.reads == {"s2": 1}


def test_a_moved_cohort_stays_valid(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    fingerprint = make(root).fingerprint()
    assert make(root.rename(tmp_path_factory.mktemp("elsewhere") / "moved")).fingerprint() == fingerprint


def test_an_interrupted_write_leaves_no_trace_and_is_repeated(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(content: object, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            make(root).prepare_data()
    assert not [path for path in (root / "cache").rglob("*") if path.is_file()]
    data = prepared(root)
    assert len(data.reads) == 6


def test_what_is_cached_is_what_was_read(root: Path) -> None:
    data = prepared(root)
    (case,) = data.cases["test"]
    for batch in data.test_dataloader():
        (expected,) = data.read_case(case)
        assert torch.equal(batch.images, expected.images)
        assert torch.equal(batch.modalities, expected.modalities)
        assert torch.equal(batch.labels, expected.labels)
        assert torch.equal(batch.masks, expected.masks)
        assert torch.equal(batch.spacing, expected.spacing)


def test_all_bad_cases_are_reported_at_once(root: Path) -> None:
    for name in ("s1", "s4"):
        (root / f"{name}.txt").write_text("x")
    with pytest.raises(BingoError) as error:
        make(root).prepare_data()
    assert sorted(str(error.value).splitlines()) == ["s1 is bad", "s4 is bad"]


def test_an_unwritable_cache_is_named(root: Path) -> None:
    with pytest.raises(BingoError, match=r"cannot write .*data\.cache_dir"):
        make(root, cache_dir=str(root / "s0.txt")).prepare_data()


def damaged(root: Path, name: str, content: bytes | None) -> ToyDataModule:
    """A module whose cached test case has a file of other content, or none."""
    data = prepared(root)
    path = data.cache.groups(data.cases["test"][0])[0].path.with_name(name)
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    return make(root)


@pytest.mark.parametrize("content", [b"", b"{", b"3", b"[3]", b'[{"name": "a"}]', b"\xff\xfe"])
def test_a_damaged_index_is_named(root: Path, content: bytes) -> None:
    data = damaged(root, "index.json", content)
    data.prepare_data()
    with pytest.raises(BingoError, match=r"index\.json: the preprocessed group cannot be read .*Delete .*cache_dir"):
        data.setup("test")


@pytest.mark.parametrize("content", [None, b"", b"text", b"PK\x03\x04 and no more", pickle.dumps([1, 2])])
def test_a_damaged_group_is_named(root: Path, content: bytes | None) -> None:
    data = damaged(root, "0.pt", content)
    data.prepare_data()
    with pytest.raises(BingoError, match=r"0\.pt: the preprocessed group cannot be read .*Delete .*cache_dir"):
        read_all(data)


def test_a_damaged_group_is_named_by_a_loaders_process_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "MEMORY_BYTES", 0)
    damaged(root, "0.pt", b"text")
    with pytest.raises(BingoError) as error:
        read_all(make(root, workers=1))
    assert re.match(r"/.*0\.pt: the preprocessed group cannot be read", str(error.value))
    assert "Traceback" not in str(error.value)


def read_all(data: ToyDataModule) -> list[GroupBatch]:
    data.setup("test")
    return list(data.test_dataloader())


def test_another_user_may_read_a_cache_where_the_user_allows_it(root: Path) -> None:
    before = os.umask(0o027)
    try:
        prepared(root)
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (root / "cache").rglob("*") if path.is_file()}
    assert modes == {0o640}


def test_a_group_of_another_user_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepared(root)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BingoError, match=r"0\.pt: .*another user's.*data\.cache_dir"):
        data.cache.groups(data.cases["test"][0])


SIZES = [3, 2, 3, 3, 2, 4, 3, 2, 3]


def batches(sampler: EqualSizeSampler, epoch: int = 0) -> list[list[int]]:
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    return drawn


def test_every_group_comes_once_an_epoch_among_groups_of_its_size() -> None:
    sampler = EqualSizeSampler(SIZES, 2, shuffle_seed=0)
    for epoch in range(3):
        drawn = batches(sampler, epoch)
        assert sorted(i for batch in drawn for i in batch) == list(range(len(SIZES)))
        assert all(len({SIZES[i] for i in batch}) == 1 and len(batch) <= 2 for batch in drawn)


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    a, b = (EqualSizeSampler(SIZES, 2, shuffle_seed=0) for _ in range(2))
    assert batches(a, 5) == batches(b, 5) != batches(b, 6)
    assert batches(a, 5) != batches(EqualSizeSampler(SIZES, 2, shuffle_seed=1), 5)
    fixed = EqualSizeSampler(SIZES, 2, shuffle_seed=None)
    assert batches(fixed, 0) == batches(fixed, 1)


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_ranks_together_make_the_batches_of_one_process(world_size: int) -> None:
    whole = batches(EqualSizeSampler(SIZES, 2 * world_size, 0))
    shards = [batches(EqualSizeSampler(SIZES, 2, 0, rank, world_size)) for rank in range(world_size)]
    for batch, *parts in zip(whole, *shards, strict=True):
        together = [i for part in parts for i in part]
        assert set(together) == set(batch)
        assert len(together) == max(len(batch), world_size), "repeated only where there are fewer groups than ranks"
        assert {len(part) for part in parts} <= {len(together) // world_size, -(-len(together) // world_size)}


@pytest.mark.parametrize("workers", [0, 1])
def test_an_interrupted_epoch_goes_on_behind_the_batches_that_were_given(root: Path, workers: int) -> None:
    def names(loader: DataLoader[GroupBatch], epoch: int) -> Iterator[tuple[str, ...]]:
        loader.batch_sampler.sampler.set_epoch(epoch)  # type: ignore[union-attr]  # as Lightning does
        return (batch.names for batch in loader)

    data = prepared(root, batch_size=2, workers=workers)
    whole = [list(names(data.train_dataloader(), epoch)) for epoch in (3, 4)]
    interrupted, resumed = (cast(ResumableLoader, data.train_dataloader()) for _ in range(2))
    begun = names(interrupted, 3)
    assert next(begun) == whole[0][0]
    resumed.load_state_dict(interrupted.state_dict())
    assert list(names(resumed, 3)) == whole[0][1:]
    assert list(names(resumed, 4)) == whole[1], "the next epoch is whole again"
    del begun
    with pytest.raises(BingoError, match=r"after 1 of an epoch's 2 batches, which are 4 now.*best\.ckpt"):
        cast(ResumableLoader, prepared(root, batch_size=1).train_dataloader()).load_state_dict(interrupted.state_dict())


def truth(batch: GroupBatch) -> Tensor:
    assert batch.truth is not None
    return batch.truth


def test_misalignment_depends_on_the_group_and_not_on_its_batch(root: Path) -> None:
    data = prepared(root)
    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.spacing, SPACING.expand(batch.groups, -1))
    for draw in (lambda x: data.misalign_for_training(x, 3), lambda x: data.misalign_for_evaluation(x, "val")):
        together = draw(batch)
        for b in range(batch.groups):
            torch.testing.assert_close(together.images[b], draw(one_group(batch, b)).images[0], rtol=0, atol=1e-6)
        assert not torch.equal(truth(together)[0], truth(together)[1])


def test_training_misalignment_changes_with_epoch_and_seed_only(root: Path) -> None:
    data = prepared(root)
    batch = next(iter(data.train_dataloader()))
    first = truth(data.misalign_for_training(batch, 1))
    data.misalign_for_training(batch, 7)
    assert torch.equal(first, truth(data.misalign_for_training(batch, 1)))
    assert not torch.equal(first, truth(data.misalign_for_training(batch, 2)))
    assert not torch.equal(first, truth(make(root, seed=1).misalign_for_training(batch, 1)))


def test_test_groups_are_drawn_several_times(root: Path) -> None:
    data = prepared(root)
    drawn = [data.misalign_for_evaluation(batch, "test") for batch in data.test_dataloader()]
    (case,) = data.cases["test"]
    assert [batch.names for batch in drawn] == [(f"{case.name}#{k}",) for k in range(3)]
    assert not torch.equal(truth(drawn[0]), truth(drawn[1]))


def test_partial_learning_draws_distinct_members_of_each_group(root: Path) -> None:
    data = prepared(root, images_per_step=2)
    batch = next(iter(data.train_dataloader()))
    seen = set()
    for epoch in range(20):
        chosen = data.misalign_for_training(replace(batch, modalities=torch.arange(3).expand(batch.groups, 3)), epoch)
        assert all(len(set(group)) == 2 for group in chosen.modalities.tolist())
        seen |= {tuple(group) for group in chosen.modalities.tolist()}
    assert seen == {(0, 1), (0, 2), (1, 2)}


def test_groups_too_small_for_partial_learning_are_left_out_by_name(root: Path) -> None:
    small = make(root).cases["train"][0].name
    (root / f"{small}.txt").write_text("2")
    with pytest.warns(UserWarning, match=f"left out: {small}"):
        data = prepared(root, images_per_step=3)
    assert small not in {group.name for group in data.groups["train"]}


def test_an_empty_validation_split_is_replaced_and_said(root: Path) -> None:
    with pytest.warns(UserWarning, match="TRAINING groups"):
        data = prepared(root, "fit", splits=[4, 0, 1])
    with warnings.catch_warnings(action="error"):  # said once
        data.setup("fit")
    names: Sequence[str] = [name for batch in data.val_dataloader() for name in batch.names]
    assert sorted(names) == sorted(case.name for case in data.cases["train"])


def test_images_are_read_once_however_often_they_are_set_up_and_used(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line checks the data before Lightning trains and tests; here training groups validate, too."""
    loaded: Counter[str] = Counter()

    def load(group: CachedGroup) -> GroupBatch:
        loaded[group.name] += 1
        return load_group(group)

    monkeypatch.setattr(base, "load_group", load)
    with pytest.warns(UserWarning, match="TRAINING groups"):
        data = prepared(root, "fit", splits=[4, 0, 1])
    for stage in ("fit", "test"):
        data.setup(stage)
        for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
            assert len(list(loader)) == len(loader)
    assert loaded == {case.name: 1 for cases in data.cases.values() for case in cases}


def test_splits_do_not_depend_on_the_seed_and_do_not_overlap(root: Path) -> None:
    cases = make(root).cases
    assert cases == make(root, seed=5).cases
    assert len({case.name for split in cases.values() for case in split}) == 6


def test_impossible_splits_and_roots_say_what_to_set(root: Path) -> None:
    with pytest.raises(BingoError, match=r"found 6 usable subjects.*asks for 9.*data\.splits=\[4, 1, 1\]"):
        make(root, splits=[7, 1, 1]).prepare_data()
    with pytest.raises(BingoError, match="the test split has no group"):
        prepared(root, splits=[4, 1, 0])
    with pytest.raises(BingoError, match=r"does not exist\. Expected text files"):
        make(root / "nowhere").prepare_data()


@pytest.mark.parametrize(
    "changes",
    [
        {"roi": [8, 8, 8]},
        {"spacing_mm": 0.0},
        {"label_ids": [0]},
        {"splits": [1, 1]},
        {"images_per_step": 1},
        {"modalities": ["a", "a"]},
    ],
)
def test_impossible_settings_are_refused_by_name(root: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(BingoError, match=rf"data\.{next(iter(changes))}="):
        make(root, **changes)


def test_a_modality_without_any_image_is_named(root: Path) -> None:
    with pytest.raises(BingoError, match="no image of modality c"):
        prepared(root, "fit", modalities=["a", "b", "c"])


@pytest.mark.parametrize("name", ["../x", "a/b", "a\\b", ".hidden", "", "a#1"])
def test_names_that_are_unsafe_as_files_are_refused(name: str) -> None:
    with pytest.raises(BingoError, match="cannot name a group"):
        Case(name, "s", (Member("a", Path("x")), Member("b", Path("y"))))


class Recorder(pl.LightningModule):
    """Notes what reaches the training and validation steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_seen: list[tuple[tuple[str, ...], float]] = []
        self.val_seen: list[tuple[tuple[str, ...], float]] = []

    def training_step(self, batch: GroupBatch, index: int) -> Tensor:
        self.train_seen.append((batch.names, float(truth(batch).sum())))
        return self.weight * 0

    def validation_step(self, batch: GroupBatch, index: int) -> None:
        self.val_seen.append((batch.names, float(truth(batch).sum())))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(data: GroupDataModule, folder: Path, epochs: int, resume: Path | None = None) -> Recorder:
    module = Recorder()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        use_distributed_sampler=False,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=folder,
    )
    trainer.fit(module, datamodule=data, ckpt_path=resume)
    return module


@pytest.mark.filterwarnings("ignore")
def test_in_lightning_training_draws_are_new_validation_draws_fixed_and_a_resumed_run_repeats(root: Path) -> None:
    whole = fit(make(root), root / "whole", epochs=3)
    assert len(set(whole.train_seen)) == len(whole.train_seen) == 6  # 3 epochs of 4 groups in batches of 2
    assert [names for names, _ in whole.train_seen[:2]] != [names for names, _ in whole.train_seen[2:4]]
    assert len(set(whole.val_seen)) == 1
    fit(make(root), root / "part", epochs=1)
    (checkpoint,) = (root / "part").rglob("*.ckpt")
    assert fit(make(root), root / "part", epochs=3, resume=checkpoint).train_seen == whole.train_seen[2:]
