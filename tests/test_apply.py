"""Moving further files by a written registration: right places, right grids, ids kept."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from bingo_pl import BingoError, register
from bingo_pl.cli import main
from bingo_pl.registration.apply import Applied, apply

from .test_register import OBLIQUE, make_checkpoint, report_without_pictures, write
from .test_startup import COMMAND, TRAINING, imported

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


def load(applied: Applied) -> nib.Nifti1Image:
    assert applied.arrived
    return nib.load(applied.path)


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
    moved = load(apply(registration, "a", target, tmp_path / "blob.nii.gz", tmp_path / "out.nii.gz", False, None))
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
    moved = load(apply(registration, "a", "b", tmp_path / "labels.nii.gz", tmp_path / "out.nii.gz", True, None))
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


def test_moving_points_does_without_torch(registration: Path, tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("r,a,s\n5,9,1\n")
    given = ["--registration", str(registration), "--from", "a", "--to", "b", "--output", str(tmp_path / "moved.csv")]
    late = TRAINING | {"torch", "torchio", "omegaconf", "safetensors"}
    assert imported(COMMAND, "apply", tmp_path / "points.csv", *given) & late == set()
    assert (tmp_path / "moved.csv").exists()


def test_points_where_nothing_was_registered_are_counted(registration: Path, tmp_path: Path) -> None:
    points = np.array([(OBLIQUE @ [x, y, z, 1])[:3] for x, y, z in [(20, 18, 0), (20, 18, 4), (500, 18, 0)]])
    pd.DataFrame(points, columns=["x", "y", "z"]).to_csv(tmp_path / "p.csv", index=False)
    console = Console(file=io.StringIO(), width=200)
    apply(registration, "a", "b", tmp_path / "p.csv", tmp_path / "q.csv", False, "RAS", console)
    assert "2 of 3 points lie outside the group grid" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_space_is_for_landmarks(registration: Path, tmp_path: Path) -> None:
    with pytest.raises(BingoError, match="space LPS is for landmarks"):
        apply(registration, "a", "b", registration.parent / "a.nii.gz", tmp_path / "out.nii.gz", False, "LPS")
    assert not (tmp_path / "out.nii.gz").exists()


@pytest.mark.parametrize(
    ("source", "file", "output", "labels", "message"),
    [
        ("c", "b.nii.gz", "x.nii.gz", False, "unknown member 'c'.*template"),
        ("a", "no.nii.gz", "x.nii.gz", False, "no.nii.gz"),
        ("a", "b.nii.gz", "x.mha", False, "written as .nii.gz"),
        ("a", "b.nii.gz", "b.nii.gz", False, "exists"),
        ("a", "no.csv", "x.csv", True, "leave labels out"),
        ("a", "no.csv", "x.nii.gz", False, "landmarks of .csv are written as .csv"),
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


def moved(
    registration: Path, source: str, path: Path, labels: bool = False, space: str | None = None
) -> tuple[Applied, str]:
    """What becomes of a file that is moved to b, and what is said about it."""
    console = Console(file=io.StringIO(), width=500)
    output = path.with_name(f"out{''.join(path.suffixes)}")
    applied = apply(registration, source, "b", path, output, labels, space, console)
    return applied, console.file.getvalue()  # type: ignore[attr-defined]


def save(path: Path, values: np.ndarray, affine: np.ndarray = OBLIQUE) -> Path:
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


@pytest.mark.parametrize("labels", [False, True])
def test_a_result_that_is_all_background_is_a_warning_and_a_status(
    registration: Path,
    tmp_path: Path,
    labels: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    away = OBLIQUE.copy()
    away[:3, 3] += 1000
    path = save(tmp_path / "[away].nii.gz", np.arange(40 * 36, dtype=np.int16).reshape(40, 36, 1) % 7, away)
    options = ["--labels"] if labels else []
    out = tmp_path / "out.nii.gz"
    monkeypatch.setattr(
        sys,
        "argv",
        f"bingo apply {path} --registration {registration} --from a --to b --output {out}".split() + options,
    )
    with pytest.raises(SystemExit) as exit:
        main()
    said = capsys.readouterr().out
    assert exit.value.code == 1
    assert f"out.nii.gz is all background: nothing of {path} lies on the grid of b" in said
    assert out.exists()


def test_points_of_which_none_arrives_are_a_status_too(registration: Path, tmp_path: Path) -> None:
    near, far = (OBLIQUE @ [20, 18, 0, 1])[:3], (OBLIQUE @ [900, 18, 0, 1])[:3]
    for points, arrived in (([near, far], True), ([far, far], False)):
        pd.DataFrame(points, columns=["x", "y", "z"]).to_csv(tmp_path / "p.csv", index=False)
        applied, said = moved(registration, "a", tmp_path / "p.csv", space="RAS")
        assert applied.arrived is arrived
        assert "lie outside the group grid" in said
        applied.path.unlink()


def test_interpolated_labels_are_refused_and_rounding_is_undone(registration: Path, tmp_path: Path) -> None:
    ids = (np.indices((40, 36, 1)).sum(0) // 8 * 3).astype(np.float32)
    with pytest.raises(BingoError, match=r"floats\.nii\.gz.*whole numbers.*nearest neighbour"):
        moved(registration, "a", save(tmp_path / "floats.nii.gz", ids + np.float32(0.3)), labels=True)
    with pytest.raises(BingoError, match=r"large\.nii\.gz.*label ids from 0 to 27000000000"):
        moved(registration, "a", save(tmp_path / "large.nii.gz", ids.astype(np.float64) * 1e9), labels=True)
    applied, _ = moved(registration, "a", save(tmp_path / "ids.nii.gz", ids * np.float32(1 + 1e-6)), labels=True)
    whole = nib.load(applied.path)
    assert whole.get_data_dtype() == np.int32
    assert {*np.unique(np.asanyarray(whole.dataobj))} <= {*ids.astype(int).ravel().tolist()}


def test_a_file_that_is_not_on_the_grid_it_claims_to_be_from_is_named(registration: Path, tmp_path: Path) -> None:
    own = nib.load(registration.parent / "b.nii.gz")
    path = save(tmp_path / "mine.nii.gz", np.asanyarray(own.dataobj), own.affine)
    _, said = moved(registration, "a", path)
    assert f"{path}, 44 x 30 x 1 voxels" in said
    assert "is not on the grid of a, but on that of b" in said
    (tmp_path / "out.nii.gz").unlink()
    _, said = moved(registration, "b", path)
    assert said == ""


@pytest.mark.parametrize(("name", "warned"), [("a_seg.nii.gz", True), ("a.nii.gz", False)])
def test_a_label_map_that_is_moved_as_an_image_is_named(
    registration: Path, tmp_path: Path, name: str, warned: bool
) -> None:
    blob(tmp_path / name, (20, 17))
    said = Console(file=io.StringIO(), width=1000)
    apply(registration, "a", "b", tmp_path / name, tmp_path / "out.nii.gz", console=said)
    assert ("by its name a label, but moved as an image" in said.file.getvalue()) == warned  # type: ignore[attr-defined]
