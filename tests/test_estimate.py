"""Laws of the estimate; its error is measured in docs/scalability.md."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from bingo_pl import BingoError, api, config
from bingo_pl.images.members import Member
from bingo_pl.models.model import Model
from bingo_pl.streaming.estimate import estimate
from bingo_pl.streaming.file_source import FileSource, place
from bingo_pl.streaming.stream import StreamedImage, register_stream

from .test_stream import PLENTY, displacements, moving


@pytest.fixture
def files(tmp_path: Path) -> list[Member]:
    """Three images of 40 x 36 voxels of 1.5 mm."""
    members = []
    for number in range(3):
        voxels = np.random.default_rng(number).random((40, 36, 1), dtype=np.float32)
        nib.save(nib.Nifti1Image(voxels, np.diag([1.5, 1.5, 5, 1])), tmp_path / f"{number}.nii.gz")
        members.append(Member(("t1", "t2")[number % 2], tmp_path / f"{number}.nii.gz"))
    return members


def model(*modalities: str) -> Model:
    settings = config.load("manifest", [f"data.modalities=[{','.join(modalities)}]", "data.spacing_mm=1.5"])
    return Model(moving(), settings, Path("model.ckpt"), torch.device("cpu"))


def test_files_become_a_group_on_one_grid_that_can_be_streamed(files: list[Member]) -> None:
    source = FileSource.unplaced(files, model("t1", "t2"))
    assert [source[member].modality for member in range(3)] == [0, 1, 0]
    assert source[2].image.shape == source[2].mask.shape == (1, 48, 48)
    assert displacements(register_stream(moving(), source, PLENTY)).shape == (3, 2, 48, 48)


def test_a_changed_file_is_another_image(files: list[Member], tmp_path: Path) -> None:
    source = FileSource.unplaced(files, model("t1", "t2"))
    register_stream(moving(), source, PLENTY, tmp_path / "work")
    files[1].image.write_bytes(files[0].image.read_bytes() + b"\0")
    with pytest.raises(BingoError, match=r"image 1: .*1\.nii\.gz \d+ bytes, \d+ -> .*1\.nii\.gz \d+ bytes, \d+"):
        register_stream(moving(), source, PLENTY, tmp_path / "work")


def test_an_unknown_modality_is_refused_before_anything_is_read(files: list[Member], tmp_path: Path) -> None:
    with pytest.raises(BingoError, match=r"does not know the modality 't2'.*t1, ct"):
        place(files, model("t1", "ct"), "auto", tmp_path / "placements")
    assert not (tmp_path / "placements").exists()


def test_time_and_disk_grow_with_the_group_and_memory_does_not() -> None:
    torch.manual_seed(0)
    small, large = (estimate(moving(), images, (16, 16), 2 * 10**5) for images in (100, 10_000))
    assert small.memory_bytes <= large.memory_bytes <= 2 * 10**5
    assert large.memory_bytes < 1.2 * small.memory_bytes
    assert large.disk_bytes > 30 * small.disk_bytes
    assert large.seconds > 10 * small.seconds


class SlowDisk(FileSource):
    def __getitem__(self, member: int) -> StreamedImage:
        time.sleep(0.2)
        return super().__getitem__(member)


def test_reading_is_part_of_the_time(files: list[Member]) -> None:
    source = SlowDisk.unplaced(files, model("t1", "t2"))
    assert estimate(moving(), 10_000, (16, 16), 2 * 10**5, source).seconds > 0.2 * 10_000


@pytest.mark.parametrize("shape", [(64,), (16, 16, 16, 16), (0, 16)])
def test_a_shape_is_2d_or_3d(shape: tuple[int, ...]) -> None:
    with pytest.raises(BingoError, match=r"a shape of .*: images are 2D or 3D"):
        api.estimate(4, shape=shape)


@pytest.mark.parametrize("images", [-1, 0, [], [("a", 5)], [("a", (np.zeros(3), np.eye(4)))]])
def test_what_is_no_group_of_files_is_refused(images: Any) -> None:
    with pytest.raises(BingoError, match=r"at least one|no files|no image"):
        api.estimate(images)


def test_sizes_that_do_not_fit_the_network_are_refused() -> None:
    with pytest.raises(BingoError, match="divisible by its coarsest stride"):
        estimate(moving(), 10, (15, 16), PLENTY)
