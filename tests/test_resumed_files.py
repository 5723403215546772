"""What a streamed registration is resumed from is what was written there, or it is refused by name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bingo_pl import BingoError
from bingo_pl.registration import registered, streamed
from bingo_pl.registration.registered import UNFINISHED
from bingo_pl.registration.streamed import register_files
from bingo_pl.storage import resumable
from bingo_pl.streaming import workspace
from bingo_pl.streaming.stream import MemorySource, register_stream
from bingo_pl.streaming.velocity_file import VelocityFile
from bingo_pl.studies import scalability

from .conftest import GroupMaker
from .test_stream import Counting, displacements, enough_for, moving
from .test_streamed import MEMORY, contents, inputs, report_without_pictures

__all__ = ["inputs", "report_without_pictures"]  # fixtures


@pytest.fixture
def source(make_group: GroupMaker) -> MemorySource:
    return MemorySource(make_group(modalities=(0, 1, 2, 1, 0), shape=(16, 16), groups=1))


def least(source: MemorySource) -> int:
    """Bytes for two images at a time, none of which is kept, so that every sweep asks for all of them."""
    return enough_for(moving(), source.batch, kept=0)


def interrupted(source: MemorySource, folder: Path, asked: int) -> Path:
    """The files of a registration that ended when it asked for an image."""
    with pytest.raises(KeyboardInterrupt):
        register_stream(moving(), Counting(source, asked), least(source), folder, chunk=2)
    return folder / "rank_0"


def resumed(source: MemorySource, folder: Path) -> Tensor:
    return displacements(register_stream(moving(), source, least(source), folder, chunk=2))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def grown(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(8))


def flipped(path: Path) -> None:
    """One bit, in the first image of a velocity file."""
    content = bytearray(path.read_bytes())
    content[min(len(content) // 2, 200)] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [cut, grown, flipped])
def test_a_damaged_file_is_never_resumed_from(
    source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(workspace, "SAVE_SECONDS", 0)
    kept = interrupted(source, tmp_path / "work", asked=1 + 5 * 3 + 5)  # in the second sweep that predicts
    for path in sorted(kept.iterdir()):
        whole = path.read_bytes()
        damage(path)
        if path.name == "velocity_2.npy" and damage is flipped:
            continue  # nothing of it was predicted, so nothing of it is resumed from
        with pytest.raises(BingoError, match=rf"{path.name}.*cannot be resumed.*Delete the folder"):
            resumed(source, tmp_path / "work")
        path.write_bytes(whole)
    assert torch.equal(resumed(source, tmp_path / "work"), resumed(source, tmp_path / "at_once"))


def test_a_velocity_file_that_went_missing_is_not_taken_for_zeros(source: MemorySource, tmp_path: Path) -> None:
    expected = resumed(source, tmp_path / "work")
    (tmp_path / "work" / "rank_0" / "velocity_0.npy").unlink()
    with pytest.raises(BingoError, match=r"velocity_0\.npy.*another SHA-256"):
        resumed(source, tmp_path / "work")
    assert torch.equal(resumed(source, tmp_path / "new"), expected)


def test_a_chunk_counts_as_done_once_it_is_on_the_disk(
    source: MemorySource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of every file that takes its place: it, and the velocities that it speaks for, were flushed before."""
    unsafe: set[int] = set()
    counted: list[str] = []
    write, write_bytes, fsync, replace = VelocityFile.write, Path.write_bytes, os.fsync, Path.replace

    def writing(file: VelocityFile, images: slice, content: bytes) -> None:
        unsafe.add(file.path.stat().st_ino)
        write(file, images, content)

    def writing_bytes(path: Path, content: bytes) -> int:
        size = write_bytes(path, content)
        unsafe.add(path.stat().st_ino)
        return size

    def flushing(descriptor: int) -> None:
        fsync(descriptor)
        unsafe.discard(os.fstat(descriptor).st_ino)

    def replacing(path: Path, target: Path) -> Path:
        assert not unsafe, f"{target.name} speaks for what may be lost"
        counted.append(target.name)
        return replace(path, target)

    monkeypatch.setattr(workspace, "SAVE_SECONDS", 0)
    monkeypatch.setattr(VelocityFile, "write", writing)
    monkeypatch.setattr(Path, "write_bytes", writing_bytes)
    monkeypatch.setattr(os, "fsync", flushing)
    monkeypatch.setattr(Path, "replace", replacing)
    resumed(source, tmp_path)
    assert counted.count("partial.pt") == 6 * 3
    assert {f"sweep_{sweep}.pt" for sweep in range(6)} <= {*counted}


@pytest.fixture
def begun(inputs: tuple[list[Any], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A registration of files that was interrupted when it had written two images of three."""
    members, model = inputs
    monkeypatch.setattr(workspace, "SAVE_SECONDS", 0)
    calls = iter(range(3))

    def write_two(*arguments: Any) -> dict[str, Any]:
        if next(calls) == 2:
            raise KeyboardInterrupt
        return registered.write_member(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(streamed, "write_member", write_two)
        with pytest.raises(KeyboardInterrupt):
            register_files(members, tmp_path / "out", MEMORY, model, device="cpu")
    return tmp_path / "out"


def test_every_file_of_an_unfinished_registration_is_checked(inputs: tuple[list[Any], Path], begun: Path) -> None:
    members, model = inputs
    kept = [path for path in (begun / UNFINISHED).rglob("*") if path.is_file()]
    unused = {"partial.pt"}  # that of the last sweep, which is finished
    assert len(kept) > 10
    for path in kept:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        if path.name not in unused:
            with pytest.raises(BingoError, match=f"{path.name}.*cannot be resumed"):
                register_files(members, begun, MEMORY, model, device="cpu")
        path.write_bytes(whole)
    assert (register_files(members, begun, MEMORY, model, device="cpu") / "registration.json").exists()


def test_a_written_image_that_was_damaged_is_written_again(
    inputs: tuple[list[Any], Path], begun: Path, tmp_path: Path
) -> None:
    members, model = inputs
    expected = contents(register_files(members, tmp_path / "whole", MEMORY, model, device="cpu"))
    cut(begun / "registered" / "a.nii.gz")
    (begun / "transforms" / "b_inverse.h5").unlink()
    assert contents(register_files(members, begun, MEMORY, model, device="cpu")) == expected


def test_hand_edited_plans_are_refused_by_name(source: MemorySource, tmp_path: Path) -> None:
    resumed(source, tmp_path)
    plan = tmp_path / "rank_0" / "plan.json"
    for text in ("", "{}", "[]", "null", "{", '{"settings": 5, "members": [1]}', "\udcff", "[" * 10_000):
        plan.write_text(text, errors="surrogateescape")
        with pytest.raises(BingoError, match=r"plan\.json.*cannot be resumed"):
            resumed(source, tmp_path)
    resumable.write_json(plan, {"settings": {"network": "another"}, "members": []})
    with pytest.raises(BingoError, match="network: another -> "):
        resumed(source, tmp_path)


@pytest.mark.parametrize("table", ["", "images\n3\n", "images,group,elephants\n1,2,3\n"])
def test_a_table_of_sizes_that_was_edited_is_refused_by_name(tmp_path: Path, table: str) -> None:
    path = tmp_path / "scalability.csv"
    path.write_text(table)
    with pytest.raises(BingoError, match=r"scalability\.csv.*cannot be resumed"):
        scalability._read_csv(path)
