"""Moving further files by a written registration: right places, right grids, ids kept."""

from __future__ import annotations

import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bingo_pl import BingoError, register
from bingo_pl.registration.apply import apply

from .test_register import OBLIQUE, make_checkpoint, report_without_pictures, write

__all__ = ["report_without_pictures"]  # a fixture


@pytest.fixture(scope="module")
def registration(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("apply")
    other = OBLIQUE @ np.diag([0.9, 1.2, 1, 1.0])
    images = {
        "a": write(folder / "a.nii.gz", OBLIQUE),
        "b": write(folder / "b.nii.gz", other, contrast=0.4, shape=(44, 30)),
    }
    return register(images, make_checkpoint(folder / "model.ckpt", 2), refine=0).write(folder / "out")


def blob(path: Path, centre: tuple[float, float]) -> np.ndarray:
    """A Gaussian on a's grid, its centre in RAS mm."""
    x, y = np.meshgrid(np.arange(40), np.arange(36), indexing="ij")
    values = np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / (2 * 2.5**2)).astype(np.float32)
    nib.save(nib.Nifti1Image(values[..., None], OBLIQUE), path)
    centre_mm: np.ndarray = (OBLIQUE @ [*centre, 0, 1])[:3]
    return centre_mm


@pytest.mark.parametrize("target", ["b", "template"])
def test_a_blob_and_its_centre_land_together(registration: Path, tmp_path: Path, target: str) -> None:
    centre = blob(tmp_path / "blob.nii.gz", (20, 17))
    moved = nib.load(apply(registration, "a", target, tmp_path / "blob.nii.gz", tmp_path / "out.nii.gz", False, None))
    weights = np.maximum(moved.get_fdata() - 0.05, 0)  # the far tail is not symmetric after a deformation
    indices = np.stack(np.meshgrid(*[np.arange(size) for size in weights.shape], indexing="ij"), -1)
    mean = (indices * weights[..., None]).sum((0, 1, 2)) / weights.sum()
    image_centre = (moved.affine @ [*mean, 1])[:3]
    pd.DataFrame([centre], columns=["x", "y", "z"]).to_csv(tmp_path / "p.csv", index=False)
    apply(registration, "a", target, tmp_path / "p.csv", tmp_path / "q.csv", False, "RAS")
    point = pd.read_csv(tmp_path / "q.csv")[["x", "y", "z"]].to_numpy()[0]
    assert np.linalg.norm(image_centre - point) < 0.1 * min(moved.header.get_zooms())


def test_labels_keep_dtype_and_ids_and_take_the_target_s_grid(registration: Path, tmp_path: Path) -> None:
    labels = np.zeros((40, 36, 1), np.uint16)
    labels[8:20, 8:20], labels[20:32, 8:20] = 7, 600
    nib.save(nib.Nifti1Image(labels, OBLIQUE), tmp_path / "labels.nii.gz")
    moved = nib.load(apply(registration, "a", "b", tmp_path / "labels.nii.gz", tmp_path / "out.nii.gz", True, None))
    assert moved.get_data_dtype() == np.uint16
    assert set(np.unique(np.asanyarray(moved.dataobj))) == {0, 7, 600}
    target = nib.load(registration.parent / "b.nii.gz")
    assert moved.shape == target.shape
    np.testing.assert_allclose(moved.affine, target.affine, atol=1e-4)


def test_points_there_and_back_are_where_they_were(registration: Path, tmp_path: Path) -> None:
    points = np.array([(OBLIQUE @ [x, y, 0, 1])[:3] for x, y in [(12, 12), (20, 18), (26, 22)]])
    pd.DataFrame(points, columns=["x", "y", "z"]).to_csv(tmp_path / "p.csv", index=False)
    apply(registration, "a", "b", tmp_path / "p.csv", tmp_path / "q.csv", False, "LPS")
    apply(registration, "b", "a", tmp_path / "q.csv", tmp_path / "r.csv", False, "LPS")
    back = pd.read_csv(tmp_path / "r.csv")[["x", "y", "z"]].to_numpy()
    assert np.linalg.norm(back - points, axis=1).max() < 0.1


def test_points_where_nothing_was_registered_are_counted(registration: Path, tmp_path: Path) -> None:
    points = np.array([(OBLIQUE @ [x, y, z, 1])[:3] for x, y, z in [(20, 18, 0), (20, 18, 4), (500, 18, 0)]])
    pd.DataFrame(points, columns=["x", "y", "z"]).to_csv(tmp_path / "p.csv", index=False)
    console = Console(file=io.StringIO(), width=200)
    apply(registration, "a", "b", tmp_path / "p.csv", tmp_path / "q.csv", False, "RAS", console)
    assert "2 of 3 points lie outside the group grid" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_space_is_for_landmarks(registration: Path, tmp_path: Path) -> None:
    with pytest.raises(BingoError, match="--space LPS is for landmarks"):
        apply(registration, "a", "b", registration.parent / "a.nii.gz", tmp_path / "out.nii.gz", False, "LPS")
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("source", "file", "output", "labels", "message"),
    [
        ("c", "b.nii.gz", "x.nii.gz", False, "unknown member 'c'.*template"),
        ("a", "no.nii.gz", "x.nii.gz", False, "no.nii.gz"),
        ("a", "b.nii.gz", "x.mha", False, "written as .nii.gz"),
        ("a", "b.nii.gz", "b.nii.gz", False, "exists"),
        ("a", "no.csv", "x.csv", True, "leave --labels out"),
    ],
)
def test_bad_requests_are_explained(
    registration: Path, source: str, file: str, output: str, labels: bool, message: str
) -> None:
    folder = registration.parent
    with pytest.raises(BingoError, match=message):
        apply(registration, source, "b", folder / file, folder / output, labels, None)


def test_an_unfinished_registration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BingoError, match="no finished registration"):
        apply(tmp_path, "a", "b", tmp_path / "x.nii.gz", tmp_path / "y.nii.gz", False, None)
