"""The cohorts' own rules: which files make a group, and on which grid it comes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

from bingo_pl.batch import UNLABELLED, GroupBatch
from bingo_pl.data_modules import DATA_MODULES, GroupDataModule, data_module
from bingo_pl.errors import BingoError

BRAIN = slice(8, 20), slice(6, 20), slice(10, 18)
"""Where the toy brain lies in its 24x24x24 volume."""


def save(path: Path, data: np.ndarray, affine: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, np.eye(4) if affine is None else affine), path)
    return path


def make(name: str, root: Path, **changes: Any) -> GroupDataModule:
    settings: dict[str, Any] = {
        "root": str(root),
        "modalities": ["t1", "t2"],
        "label_ids": [1, 2],
        "spacing_mm": 1.0,
        "roi": [16, 16, 16],
        "splits": [1, 0, 0],
        "seed": 0,
        "batch_size": 1,
        "images_per_step": None,
        "ffd_spacings": [4.0],
        "ffd_strength": 0.3,
        "linear_strength": 0.0,
        "copies": 1,
        "draws_per_test_group": 1,
        "workers": 0,
        "cache_dir": None,
        "fill_nonfinite": None,
    }
    return data_module(name)(**{**settings, **changes})


def read(data: GroupDataModule) -> list[GroupBatch]:
    """All groups, in memory."""
    return [batch for cases in data.cases.values() for case in cases for batch in data.read_case(case)]


# BraTS


def brain(seed: int) -> np.ndarray:
    """A skull-stripped image: noise in `BRAIN`, 0 elsewhere, some voxels below 0 as resampling leaves them."""
    image = np.zeros((24, 24, 24), np.float32)
    image[BRAIN] = np.random.default_rng(seed).uniform(100, 200, image[BRAIN].shape)
    image[8, 6, 10] = -5
    return image


@pytest.fixture
def brats(tmp_path: Path) -> Path:
    labels = np.zeros((24, 24, 24), np.uint8)
    labels[BRAIN] = 1
    labels[12:16, 12:16, 12:16] = 2
    for i, modality in enumerate(["t1", "t2"]):
        save(tmp_path / "c ü" / f"c ü_{modality}.nii.gz", brain(i))
    save(tmp_path / "c ü" / "c ü_seg.nii.gz", labels)
    return tmp_path


def test_brats_crops_around_the_brain_and_scales_its_intensities(brats: Path) -> None:
    (group,) = read(make("brats", brats))
    assert group.images.shape == (1, 2, 1, 16, 16, 16)
    assert group.modalities.tolist() == [[0, 1]]
    expected = np.zeros((16, 16, 16), bool)
    expected[2:14, 1:15, 4:12] = True  # BRAIN, centred
    np.testing.assert_array_equal(group.masks[0, 0, 0].numpy(), expected)
    np.testing.assert_array_equal((group.labels[0, 0, 0] > 0).numpy(), expected)
    assert (group.images.amin(), group.images.amax()) == (0, 1)
    assert (group.images[~group.masks] == 0).all()


def test_brats_resamples_to_the_spacing(brats: Path) -> None:
    (group,) = read(make("brats", brats, spacing_mm=2.0, roi=[8, 8, 8]))
    assert (group.labels == 2).sum(dim=(2, 3, 4, 5)).tolist() == [[8, 8]]  # 4x4x4 at 1 mm, aligned to even voxels
    assert group.spacing.tolist() == [[2, 2, 2]]


def test_brats_is_brought_to_one_orientation(brats: Path) -> None:
    (expected,) = read(make("brats", brats))
    for path in (brats / "c ü").iterdir():
        image = nib.load(path)
        flipped = np.diag([-1.0, -1, 1, 1])
        flipped[:2, 3] = 23
        save(path, np.asarray(image.dataobj)[::-1, ::-1].copy(), flipped)
    (group,) = read(make("brats", brats))
    torch.testing.assert_close(group.images, expected.images, rtol=0, atol=1e-5)
    assert torch.equal(group.labels, expected.labels)


def test_brats_maps_3_to_4_only_where_4_is_asked_for(brats: Path) -> None:
    path = brats / "c ü" / "c ü_seg.nii.gz"
    save(path, np.asarray(nib.load(path).dataobj) // 2 * 3)
    assert read(make("brats", brats, label_ids=[1, 2, 4]))[0].labels.unique().tolist() == [0, 4]
    assert read(make("brats", brats, label_ids=[1, 2, 3]))[0].labels.unique().tolist() == [0, 3]
    with pytest.raises(BingoError, match=r"seg\.nii\.gz: label ids \[3\]"):
        read(make("brats", brats))


def test_brats_allows_a_missing_modality_but_not_a_single_image(brats: Path) -> None:
    save(brats / "d" / "d_t1.nii", brain(0))
    save(brats / "d" / "d_t2.nii", brain(1))
    save(brats / "d" / "d_flair.nii", brain(2))
    data = make("brats", brats, modalities=["t1", "t2", "flair"], splits=[2, 0, 0])
    with pytest.warns(UserWarning, match=r"2 of 2 cases lack .*c ü \(flair\), d \(seg\)"):
        assert sorted(batch.size for batch in read(data)) == [2, 3]
    (brats / "d" / "d_t2.nii").unlink()
    with pytest.raises(BingoError, match=r"'d' has 1 image .*d_t1\.nii"):
        _ = make("brats", brats).cases


# manifest


def manifest(root: Path, lines: Sequence[str], header: str = "split,group,subject,modality,image,label") -> Path:
    (root / "manifest.csv").write_text("\n".join([header, *lines]))
    return root


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    """A 2D group with labels for its first image."""
    for i, shape in enumerate([(20, 16), (20, 16, 1)]):
        save(tmp_path / f"{i}.nii.gz", np.random.default_rng(i).uniform(0, 9, shape).astype(np.float32))
    save(tmp_path / "l.nii.gz", np.ones((20, 16, 1), np.uint8))
    return manifest(tmp_path, ["train,g,s,t1,0.nii.gz,l.nii.gz", "train,g,s,t2,1.nii.gz,"])


def test_manifest_keeps_the_grid_and_marks_missing_labels(pair: Path) -> None:
    for root in (pair, pair / "manifest.csv"):
        (group,) = read(make("manifest", root, roi=[20, 16], spacing_mm=0))
        assert group.names == ("g",)
        assert group.images.shape == (1, 2, 1, 20, 16)
        assert group.labels[0, 0].unique().tolist() == [1]
        assert group.labels[0, 1].unique().tolist() == [UNLABELLED]
        assert group.masks.all()  # no exact background: the whole field of view


def test_manifest_crops_and_pads_from_the_centre(pair: Path) -> None:
    (whole,), (part,) = (read(make("manifest", pair, roi=roi, spacing_mm=0)) for roi in ([20, 16], [10, 24]))
    torch.testing.assert_close(part.images[..., 4:20], whole.images[..., 5:15, :])
    assert not part.masks[..., :4].any()


def test_manifest_resamples_2d_in_plane(pair: Path) -> None:
    (group,) = read(make("manifest", pair, roi=[10, 8], spacing_mm=2.0))
    (whole,) = read(make("manifest", pair, roi=[20, 16], spacing_mm=1.0))
    torch.testing.assert_close(group.images[0], torch.nn.functional.avg_pool2d(whole.images[0, :, 0], 2)[:, None])


def test_manifest_says_how_large_its_voxels_are(tmp_path: Path) -> None:
    """The slice is flat along its second axis, and at an angle to the patient."""
    angle = np.eye(4)
    angle[:2, :2] = [[0.8, -0.6], [0.6, 0.8]]
    for i in range(2):
        data = np.random.default_rng(i).uniform(0, 9, (20, 1, 16)).astype(np.float32)
        save(tmp_path / f"{i}.nii", data, angle @ np.diag([0.5, 7, 1.5, 1]))
    manifest(tmp_path, ["train,g,s,t1,0.nii,", "train,g,s,t2,1.nii,"])
    for spacing, expected in ((0, [0.5, 1.5]), (2.0, [2, 2])):
        (group,) = read(make("manifest", tmp_path, roi=[20, 16], spacing_mm=spacing))
        torch.testing.assert_close(group.spacing, torch.tensor([expected], dtype=torch.float32))


def test_manifest_puts_a_group_on_the_grid_of_its_first_image(tmp_path: Path) -> None:
    ramp = np.broadcast_to(np.arange(24.0)[:, None, None], (24, 24, 24))
    save(tmp_path / "0.nii", ramp.astype(np.float32))
    moved = np.eye(4)
    moved[0, 3] = 3
    save(tmp_path / "1.nii", ramp[3:-3].astype(np.float32), moved)
    manifest(tmp_path, ["train,g,s,t1,0.nii,", "train,g,s,t2,1.nii,"])
    (group,) = read(make("manifest", tmp_path, roi=[24, 24, 24], spacing_mm=0))
    assert group.masks[0, 1, 0].any(dim=2).any(dim=1).nonzero().flatten().tolist() == list(range(3, 21))
    moved[0, 3] = 300
    save(tmp_path / "1.nii", ramp.astype(np.float32), moved)
    with pytest.raises(BingoError, match=r"1\.nii: does not overlap with .*0\.nii"):
        read(make("manifest", tmp_path, roi=[24, 24, 24], spacing_mm=0))


def test_manifest_uses_masks_and_allows_one_modality_twice(pair: Path) -> None:
    mask = np.zeros((20, 16, 1), np.uint8)
    mask[5:9] = 1
    save(pair / "m.nii", mask)
    lines = [
        "train,g,s,t1,0.nii.gz,,m.nii",
        "train,g,s,t1,1.nii.gz,,",
        "train,h,s,t2,0.nii.gz,,",
        "train,h,s,t2,1.nii.gz,,",
    ]
    manifest(pair, lines, "split,group,subject,modality,image,label,mask")
    group, _ = read(make("manifest", pair, roi=[20, 16], spacing_mm=0))
    assert group.modalities.tolist() == [[0, 0]]
    np.testing.assert_array_equal(group.masks[0, 0, 0].numpy(), mask[..., 0] > 0)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "lists no image"),
        (["train,g,s,t1,0.nii.gz,"], "'g' has 1 image"),
        (["train,g,s,t1,0.nii.gz,", "train,g,s,t1,0.nii.gz,"], r"lists 0\.nii\.gz more than once"),
        (["train,g,s,t1,0.nii.gz,", "test,g,s,t2,1.nii.gz,"], "'g' is in the splits"),
        (["train,g,s,tt1,0.nii.gz,", "train,g,s,t2,1.nii.gz,"], r"unknown modality .*'tt1'\. Did you mean 't1'"),
        (["tain,g,s,t1,0.nii.gz,", "train,g,s,t2,1.nii.gz,"], "Did you mean 'train'"),
        (["train,../g,s,t1,0.nii.gz,", "train,../g,s,t2,1.nii.gz,"], "cannot name a group"),
        (["train,,s,t1,0.nii.gz,", "train,,s,t2,1.nii.gz,"], "line 2 has no group"),
        (["train,g,s,t1,0.nii.gz,", "train,g,s,t2,nowhere.nii.gz,"], r"nowhere\.nii\.gz"),
    ],
)
def test_manifest_errors_say_where(pair: Path, lines: list[str], message: str) -> None:
    manifest(pair, lines)
    with pytest.raises(BingoError, match=message):
        make("manifest", pair, roi=[20, 16], spacing_mm=0, cache_dir=str(pair / "cache")).prepare_data()


def test_manifest_that_is_no_table_shows_the_columns(tmp_path: Path) -> None:
    data = make("manifest", tmp_path, roi=[20, 16])
    for content in (b"split,group\n1,2", b"", b"\xff\xfe\x00"):
        (tmp_path / "manifest.csv").write_bytes(content)
        with pytest.raises(BingoError, match="split,group,subject,modality,image,label"):
            data.list_cases()


def test_manifest_reports_a_dimension_that_does_not_fit_the_roi(pair: Path) -> None:
    with pytest.raises(BingoError, match=r"asks for 3D images\. Set data\.roi to 2 sizes"):
        read(make("manifest", pair, spacing_mm=0))


def test_manifest_warns_of_subjects_in_two_splits(pair: Path) -> None:
    lines = [f"{split},{split},s,{m},{i}.nii.gz," for split in ("train", "test") for i, m in enumerate(["t1", "t2"])]
    manifest(pair, lines)
    with pytest.warns(UserWarning, match="1 subjects are in more than one split"):
        _ = make("manifest", pair, roi=[20, 16]).cases


# MS-CMR

CARDIAC = {"modalities": ["C0", "LGE"], "label_ids": [200, 500, 600], "roi": [48, 48], "spacing_mm": 1.0}


def heart(
    spacing: float, slices: int, shift: tuple[float, float] = (0, 0), invert: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Stacks of a toy heart in a 96 mm field of view; the last slice shows no right ventricle."""
    points = np.stack(np.meshgrid(*[np.arange(0, 96, spacing)] * 2, indexing="ij"), axis=-1) - [44, 52] - shift
    body = np.linalg.norm(points / [1.2, 1], axis=-1) < 34
    left = np.linalg.norm(points, axis=-1)
    right = np.linalg.norm(points - [14, 6], axis=-1) < 9
    labels = np.where(left < 7, 500, np.where(left < 11, 200, np.where(right, 600, 0)))
    value = {0: 40.0, 200: 90.0, 500: 200.0, 600: 170.0}
    image = np.vectorize(value.get)(labels) * body + 8
    image = 260 - image if invert else image
    stack, maps = (np.repeat(x[..., None], slices, axis=2) for x in (image, labels))
    maps[..., -1][maps[..., -1] == 600] = 0
    return (stack + np.random.default_rng(slices).normal(0, 3, stack.shape)).astype(np.int16), maps.astype(np.int16)


def write_patient(root: Path, shift: tuple[float, float], offset_mm: float = 0) -> Path:
    for modality, spacing, thickness, slices, move in (("C0", 1.5, 8, 4, shift), ("LGE", 1.0, 12, 3, (0, 0))):
        image, labels = heart(spacing, slices, move, invert=modality == "LGE")
        affine = np.diag([spacing, spacing, thickness, 1.0])
        affine[2, 3] = offset_mm if modality == "C0" else 0
        save(root / f"patient1_{modality}.nii.gz", image, affine)
        save(root / f"patient1_{modality}_manual.nii.gz", labels, affine)
    return root


def overlap(group: GroupBatch) -> float:
    first, second = group.labels[0, :, 0] > 0
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def test_mscmr_matches_positions_where_all_labels_show(tmp_path: Path) -> None:
    # C0 at 0, 8, 16, 24 mm and LGE at 0, 12, 24 mm: LGE's last slice and C0's last have no right ventricle
    groups = read(make("mscmr", write_patient(tmp_path, (0, 0)), **CARDIAC))
    assert [group.names[0] for group in groups] == ["patient1_s00", "patient1_s01"]
    assert groups[0].images.shape == (1, 2, 1, 48, 48)
    assert groups[0].spacing.tolist() == [[1, 1]]
    assert groups[0].labels.unique().tolist() == [0, 200, 500, 600]


def test_mscmr_aligns_sequences_that_the_headers_misplace(tmp_path: Path) -> None:
    (group, *_) = read(make("mscmr", write_patient(tmp_path / "p", (5, -4)), **CARDIAC))
    assert overlap(group) > 0.9  # 0.64 by the headers; 1.5 mm voxels against 1 mm ones cannot reach 1
    heart_voxels = (group.labels[0, 1, 0] > 0).nonzero().float()  # the reference is LGE, with fewer slices
    torch.testing.assert_close(heart_voxels.mean(dim=0), torch.full((2,), 23.5), rtol=0, atol=0.6)  # centred


def test_mscmr_repeats_exactly(tmp_path: Path) -> None:
    data = make("mscmr", write_patient(tmp_path, (5, -4)), **CARDIAC)
    assert torch.equal(read(data)[0].images, read(data)[0].images)


def test_mscmr_leaves_out_what_does_not_match_by_name(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="patient1 is left out: no slice position"):
        assert read(make("mscmr", write_patient(tmp_path, (0, 0), offset_mm=500), **CARDIAC)) == []
    save(tmp_path / "patient2_C0.nii.gz", np.ones((4, 4, 2), np.int16))
    with pytest.warns(UserWarning, match="1 patients have fewer than two sequences .*: patient2"):
        _ = make("mscmr", tmp_path, **CARDIAC).cases


def test_mscmr_takes_one_labelled_sequence(tmp_path: Path) -> None:
    (write_patient(tmp_path, (0, 0)) / "patient1_LGE_manual.nii.gz").unlink()
    (group, *_) = read(make("mscmr", tmp_path, **CARDIAC))
    assert group.labels[0, 1].unique().tolist() == [UNLABELLED]
    assert group.labels[0, 0].unique().tolist() == [0, 200, 500, 600]


@pytest.mark.parametrize(
    ("name", "settings", "first"), [("mscmr", CARDIAC, "patient1"), ("anatomies", {"splits": [4, 0, 0]}, "patient1_C0")]
)
def test_hidden_files_are_no_cases(tmp_path: Path, name: str, settings: dict[str, Any], first: str) -> None:
    """macOS leaves one beside each file on a disk of another system."""
    for path in list(write_patient(tmp_path, (0, 0)).iterdir()):
        path.with_name(f"._{path.name}").write_bytes(b"Mac OS X")
    assert min(case.name for case in make(name, tmp_path, **settings).cases["train"]) == first


@pytest.mark.parametrize("name", sorted(DATA_MODULES))
def test_an_empty_root_shows_the_layout_and_the_source(tmp_path: Path, name: str) -> None:
    pairs = {"modalities": ["MR", "CT"], "images_per_step": 2, "splits": [1, 1, 1]}
    changes = {"mscmr": CARDIAC, "learn2reg": pairs}.get(name, {})
    with pytest.raises(BingoError, match=r"no usable case.*Expected"):
        make(name, tmp_path, **changes).prepare_data()
