"""Files in, files out: what SimpleITK alone makes of the written transforms is what was written beside them."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from rich.console import Console

from bingo_pl import BingoError, experiment
from bingo_pl.register import group_grid, read_scans, register_files
from data_modules.preprocess import Member

from .conftest import smooth
from .test_experiment import settings, write_cohort

QUIET = Console(quiet=True)
OBLIQUE = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -3], [0, 0, 2, 1], [0, 0, 0, 1.0]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("register")
    (folder / "cohort").mkdir()
    write_cohort(folder / "cohort")
    return folder


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    run = experiment.train(settings(folder, "model", "trainer.learning_rate=0.01"), QUIET)
    return run / "checkpoints" / "best.ckpt"


def write(path: Path, affine: np.ndarray, contrast: float = 0.0, shape: tuple[int, int] = (40, 36)) -> Path:
    anatomy = smooth(shape, "own", *shape).numpy()
    array = (1000 * np.abs(anatomy - contrast)).astype(np.float32)[..., None]
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


@pytest.fixture
def members(tmp_path: Path) -> list[Member]:
    """Two images on grids of their own: oblique, and flipped with other voxels."""
    flipped = OBLIQUE @ np.diag([-1.1, 0.9, 1, 1.0])
    flipped[:3, 3] = (OBLIQUE @ [38, 1, 0, 1])[:3]
    return [
        Member("a", write(tmp_path / "a.nii.gz", OBLIQUE)),
        Member("b", write(tmp_path / "b.nii.gz", flipped, contrast=0.4)),
    ]


def test_simpleitk_alone_repeats_the_registration(checkpoint: Path, members: list[Member], tmp_path: Path) -> None:
    out = register_files(checkpoint, members, tmp_path / "out", [], QUIET)
    for member in members:
        registered = sitk.ReadImage(str(out / "registered" / f"{member.modality}.nii.gz"))
        transform = sitk.ReadTransform(str(out / "transforms" / f"{member.modality}_forward.h5"))
        image = sitk.ReadImage(str(member.image))
        outside = float(sitk.GetArrayFromImage(image).min())
        again = sitk.Resample(image, registered, transform, sitk.sitkLinear, outside)
        difference = np.abs(sitk.GetArrayFromImage(again) - sitk.GetArrayFromImage(registered))
        assert difference.max() < 1e-3 * 1000  # of the intensities' range
        assert sitk.GetArrayFromImage(registered).std() > 100, "not an empty image"


def test_the_written_inverse_undoes_the_forward_transform(
    checkpoint: Path, members: list[Member], tmp_path: Path
) -> None:
    out = register_files(checkpoint, members, tmp_path / "out", [], QUIET)
    grid = sitk.ReadImage(str(out / "template" / "mean.nii.gz"))
    random = np.random.default_rng(0)
    inner = 0.25 + 0.5 * random.random((200, 3))
    points = [grid.TransformContinuousIndexToPhysicalPoint(p) for p in (inner * [*grid.GetSize()[:2], 0]).tolist()]
    for member in members:
        stem = str(out / "transforms" / member.modality)
        forward, inverse = (sitk.ReadTransform(f"{stem}_{way}.h5") for way in ("forward", "inverse"))
        back = [inverse.TransformPoint(forward.TransformPoint(point)) for point in points]
        assert np.linalg.norm(np.subtract(back, points), axis=1).mean() < 0.1 * min(grid.GetSpacing())


def test_the_record_names_the_inputs(checkpoint: Path, members: list[Member], tmp_path: Path) -> None:
    out = register_files(checkpoint, [*members, members[1]], tmp_path / "out", [], QUIET)
    record = json.loads((out / "registration.json").read_text())
    assert [image["name"] for image in record["images"]] == ["a", "b", "b_2"]
    assert record["images"][0]["path"] == str(members[0].image)
    assert len(record["checkpoint"]["sha256"]) == 64


def test_copies_of_an_image_are_not_moved_apart(checkpoint: Path, members: list[Member], tmp_path: Path) -> None:
    out = register_files(checkpoint, [members[0]] * 3, tmp_path / "out", [], QUIET)
    images = [nib.load(out / "registered" / f"{name}.nii.gz").get_fdata() for name in ("a", "a_2", "a_3")]
    assert np.abs(images[0] - images[1]).max() < 1
    assert np.abs(images[0] - images[2]).max() < 1


def test_the_group_grid_lies_along_the_first_image_and_holds_all_foregrounds(members: list[Member]) -> None:
    scans = read_scans(members)
    grid = group_grid(scans, spacing_mm=1.5, dims=2, stride=8)
    assert all(size % 8 == 0 for size in grid.shape[:2])
    assert grid.shape[2] == 1
    np.testing.assert_allclose(grid.spacing, [1.5, 1.5, 2.0])
    np.testing.assert_allclose(grid.directions, OBLIQUE[:3, :3] / [1, 1, 2])
    for scan in scans:
        corners = scan.grid.corners(np.linalg.inv(grid.affine) @ scan.grid.affine)
        assert (corners[:, :2] > -0.5 - 1e-6).all()
        assert (corners[:, :2] < np.array(grid.shape[:2]) - 0.5 + 1e-6).all()


@pytest.mark.parametrize("modality", ["t1", "A"])
def test_an_unknown_modality_is_refused(checkpoint: Path, members: list[Member], tmp_path: Path, modality: str) -> None:
    with pytest.raises(BingoError, match=f"does not know the modality '{modality}'.*a, b"):
        register_files(checkpoint, [Member(modality, members[0].image)], tmp_path / "out", [], QUIET)
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused(checkpoint: Path, members: list[Member], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(BingoError, match="in use"):
        register_files(checkpoint, members, tmp_path / "out", [], QUIET)


def test_volumes_are_refused_by_a_model_of_slices(checkpoint: Path, tmp_path: Path) -> None:
    volume = tmp_path / "volume.nii.gz"
    nib.save(nib.Nifti1Image(smooth((8, 8, 8), "volume").numpy(), np.eye(4)), volume)
    with pytest.raises(BingoError, match="the model registers 2D images"):
        register_files(checkpoint, [Member("a", volume)], tmp_path / "out", [], QUIET)
