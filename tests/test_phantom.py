"""Laws of the synthetic cohorts; coarse spacings keep them fast."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk

from bingo_pl.errors import BingoError
from bingo_pl.phantoms import brain as phantom_brain
from bingo_pl.phantoms import cardiac as phantom_cardiac
from bingo_pl.phantoms import cohorts as phantom
from bingo_pl.phantoms.heart import LEFT, MYOCARDIUM, RIGHT

SPACING = {"mscmr": 1.8, "brats": 4.0, "manifest": 2.7}


def voxels(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def cohort(dataset: str, root: Path, subjects: int = 1, seed: int = 3) -> dict[str, np.ndarray]:
    phantom.write_cohort(dataset, root, subjects, seed, SPACING[dataset])
    return {str(path.relative_to(root)): voxels(path) for path in sorted(root.rglob("*.nii.gz"))}


@pytest.mark.parametrize("dataset", list(SPACING))
def test_a_subject_is_a_function_of_the_seed_and_not_of_the_count(dataset: str, tmp_path: Path) -> None:
    one, two = cohort(dataset, tmp_path / "one"), cohort(dataset, tmp_path / "two", subjects=2)
    other = cohort(dataset, tmp_path / "other", seed=4)
    assert set(one) < set(two)
    assert all(np.array_equal(one[name], two[name]) for name in one)
    shared = [name for name in set(one) & set(other) if not name.endswith(("manual.nii.gz", "label.nii.gz"))]
    assert not any(np.array_equal(one[name], other[name]) for name in shared)
    assert "SYNTHETIC" in (tmp_path / "one" / "README.txt").read_text()


def test_mscmr_has_the_layout_of_the_challenge(tmp_path: Path) -> None:
    files = cohort("mscmr", tmp_path / "c", subjects=2)
    assert set(files) == {
        f"patient{n}_{sequence}{end}.nii.gz"
        for n in (1, 2)
        for sequence in ("C0", "LGE", "T2")
        for end in ("", "_manual")
    }
    grids = {}
    for sequence in ("C0", "LGE", "T2"):
        image = sitk.ReadImage(str(tmp_path / "c" / f"patient1_{sequence}.nii.gz"))
        label = sitk.ReadImage(str(tmp_path / "c" / f"patient1_{sequence}_manual.nii.gz"))
        assert image.GetPixelID() == sitk.sitkInt16
        assert label.GetPixelID() == sitk.sitkUInt16
        assert image.GetSize() == label.GetSize()
        # float32 in the header: 1e-4 mm
        np.testing.assert_allclose(image.GetOrigin(), label.GetOrigin(), atol=1e-4)
        np.testing.assert_allclose(image.GetDirection(), label.GetDirection(), atol=1e-6)
        assert set(np.unique(sitk.GetArrayViewFromImage(label))) == {0, MYOCARDIUM, LEFT, RIGHT}
        middle = image.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in image.GetSize()])
        grids[sequence] = image.GetSize(), np.array(middle), np.array(image.GetDirection())
    assert grids["T2"][0][2] < min(grids["C0"][0][2], grids["LGE"][0][2])
    for _, middle, direction in grids.values():
        assert np.linalg.norm(middle - grids["C0"][1]) < 40  # the same place ...
        assert 0 <= np.abs(direction - grids["C0"][2]).max() < 0.2  # ... and view, within the headers' errors
    assert np.abs(grids["LGE"][2] - grids["C0"][2]).max() > 1e-3


def scan(patient: phantom_cardiac.Patient, sequence: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    stack = phantom_cardiac.draw_slice(patient, 0.4 * patient.heart.length, 1.8, rng)
    return phantom_cardiac.scan(patient, sequence, stack, rng)


@pytest.mark.parametrize("seed", range(6))
def test_contrasts_of_the_heart_are_those_of_the_sequences(seed: int) -> None:
    patient = phantom_cardiac.Patient(np.random.default_rng(seed))
    patient.heart.infarcted = False
    ratio = {}
    for sequence in phantom_cardiac.SEQUENCES:
        image, labels = scan(patient, sequence)
        ratio[sequence] = np.median(image[labels == LEFT]) / np.median(image[labels == MYOCARDIUM])
    assert ratio["C0"] > 1.5  # bright blood
    assert ratio["LGE"] > 2  # nulled myocardium
    assert ratio["T2"] < 0.7  # black blood


def test_pathology_is_bright_and_changes_no_label() -> None:
    patient = phantom_cardiac.Patient(np.random.default_rng(0))
    patient.heart.territory = (0.0, 0.8, 0.4, 0.4)
    patient.heart.acute = True
    for sequence in ("LGE", "T2"):
        patient.heart.infarcted = False
        healthy, labels = scan(patient, sequence)
        patient.heart.infarcted = True
        ill, same = scan(patient, sequence)
        assert np.array_equal(labels, same)
        wall = labels == MYOCARDIUM
        scale = np.median(ill[labels == RIGHT] / healthy[labels == RIGHT])  # images are scaled by their own brightest
        affected = wall & (ill > 1.1 * scale * healthy)
        assert affected.sum() > 0.1 * wall.sum()
        assert np.median(ill[affected]) > 1.2 * np.median(ill[wall & ~affected])


def test_brats_is_skull_stripped_and_labels_lie_in_the_brain(tmp_path: Path) -> None:
    files = cohort("brats", tmp_path / "b")
    case = "Phantom_001/Phantom_001_"
    images = [files[f"{case}{contrast}.nii.gz"] for contrast in phantom_brain.CONTRASTS]
    labels = files[f"{case}seg.nii.gz"]
    assert images[0].shape == (39, 60, 60)
    assert set(np.unique(labels)) <= {0, 1, 2, 4}
    assert (labels > 0).any()
    for image in images:
        assert np.array_equal(image > 0, images[0] > 0)
        assert (image[labels > 0] > 0).all()
    volume = (images[0] > 0).sum() * 4.0**3 / 1e6
    assert 0.9 < volume < 2.0  # litres: adult brains have 1.0 to 1.7


@pytest.mark.parametrize("seed", range(3))
def test_contrasts_of_the_brain_are_those_of_the_sequences(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tissues = phantom_brain.Brain(rng).tissues
    t1, t1ce, t2, flair = (phantom_brain.signals(contrast, tissues, rng) for contrast in phantom_brain.CONTRASTS)
    assert t1["white"] > t1["grey"] > t1["csf"]
    assert t2["csf"] > t2["grey"] > t2["white"]
    assert abs(flair["csf"]) < 0.2 * flair["white"] < flair["oedema"]
    assert t1ce["enhancing"] > 1.3 * max(t1ce["white"], t1["enhancing"])


def test_manifest_lists_2d_images_with_missing_and_repeated_modalities(tmp_path: Path) -> None:
    phantom.write_cohort("manifest", tmp_path / "m", subjects=5, seed=1, spacing=4.0)
    table = pd.read_csv(tmp_path / "m" / "manifest.csv")
    assert list(table) == ["split", "group", "subject", "modality", "image", "label"]
    assert set(table.split) == {"train", "val", "test"}
    assert (table.groupby("subject").split.nunique() == 1).all()
    counts = table.groupby(["group", "modality"]).size().unstack(fill_value=0)
    assert (counts == 0).any(axis=None)
    assert (counts == 2).any(axis=None)
    assert voxels(tmp_path / "m" / table.image[0]).shape == voxels(tmp_path / "m" / table.label[0]).shape == (1, 54, 54)


def test_ensure_cohort_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom, "user_cache_dir", lambda _: str(tmp_path))
    root = phantom.ensure_cohort("brats", 1, 0, 4.0)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    assert phantom.ensure_cohort("brats", 1, 0, 4.0) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert list(root.parent.iterdir()) == [root]


def test_a_killed_run_leaves_no_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(phantom, "user_cache_dir", lambda _: str(tmp_path))
    monkeypatch.setattr(phantom, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        phantom.ensure_cohort("brats", 1, 0, 4.0)
    assert list((tmp_path / "phantom").iterdir()) == []


@pytest.mark.parametrize(
    ("dataset", "subjects", "spacing", "message"),
    [("mscrm", 1, None, "mscmr"), ("brats", 0, None, "at least 1"), ("brats", 1, 0.01, "0.5 to 4")],
)
def test_bad_arguments_are_explained(
    dataset: str, subjects: int, spacing: float | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(BingoError, match=message):
        phantom.write_cohort(dataset, tmp_path, subjects, 0, spacing)


def test_a_cohort_is_not_mixed_with_other_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(BingoError, match="empty folder"):
        phantom.write_cohort("brats", tmp_path, 1, 0)
