"""`bingo check` knows label maps and masks by their folders, and the images that they belong to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from .test_checking import AFFINE, LABELS, RAMP, look, save, shifted

LAYOUTS: dict[str, tuple[list[str], str]] = {
    "nnU-Net": (
        ["imagesTr/liver_lesion_001_0000", "imagesTr/liver_lesion_001_0001", "imagesTr/liver_lesion_002_0000"],
        "labelsTr/liver_lesion_001",
    ),
    "nnU-Net, test": (["imagesTs/a_0000", "imagesTs/a_0001"], "labelsTs/a"),
    "learn2reg": (
        ["imagesTr/AbdomenMRCT_0001_0000", "imagesTr/AbdomenMRCT_0001_0001", "imagesTs/AbdomenMRCT_0001_0001"],
        "labelsTr/AbdomenMRCT_0001_0001",
    ),
    "learn2reg, TotalSegmentator": (["imagesTs/AbdomenMRCT_0009_0000"], "TSlabelsTs/AbdomenMRCT_0009_0000"),
    "learn2reg, masks": (["imagesTr/AbdomenMRCT_0001_0000"], "masksTr/AbdomenMRCT_0001_0000"),
    "Decathlon": (["images/hippocampus_003", "images/hippocampus_004"], "labels/hippocampus_003"),
    "folders of cases": (["images/case/t1", "images/case/t2"], "labels/case/t1"),
    "one folder": (["case/t1", "case/t2"], "case/seg"),
    "BIDS": (["sub-01/anat/sub-01_T1w", "sub-01/anat/sub-01_T2w"], "derivatives/x/sub-01/anat/sub-01_dseg"),
    "BIDS, one image's": (
        ["rawdata/sub-01/ses-1/anat/sub-01_ses-1_T1w", "rawdata/sub-01/ses-2/anat/sub-01_ses-2_T1w"],
        "derivatives/labels/sub-01/ses-1/anat/sub-01_ses-1_T1w_desc-manual_dseg",
    ),
    "BIDS, mask": (["sub-01/anat/sub-01_T1w"], "derivatives/fmriprep/sub-01/anat/sub-01_space-T1w_desc-brain_mask"),
}
"""Images, and the label map or mask that belongs to the first ones, without suffix."""


def write_layout(root: Path, key: str, annotation: np.ndarray, affine: np.ndarray = AFFINE) -> str:
    images, name = LAYOUTS[key]
    for i, image in enumerate(images):
        save(root / f"{image}.nii.gz", RAMP + i)
    save(root / f"{name}.nii.gz", annotation, affine)
    return f"{name}.nii.gz"


@pytest.mark.parametrize("key", LAYOUTS)
def test_label_maps_and_masks_in_folders_of_their_own_are_known_and_paired(tmp_path: Path, key: str) -> None:
    write_layout(tmp_path / "good", key, LABELS)
    assert [finding for finding in look(tmp_path / "good").findings if finding.problem.severity != "note"] == []
    name = write_layout(tmp_path / "interpolated", key, LABELS * 0.5)
    (finding,) = [found for found in look(tmp_path / "interpolated").findings if found.problem.severity != "note"]
    assert finding.where == name
    assert "probably interpolated" in finding.problem.what
    name = write_layout(tmp_path / "moved", key, LABELS, shifted(5))
    (finding,) = [found for found in look(tmp_path / "moved").findings if found.problem.severity != "note"]
    assert finding.where == name
    assert "5.0 mm from its image" in finding.problem.what


@pytest.mark.parametrize("suffix", ["Tr", "Ts"])
def test_label_maps_in_a_folder_are_no_group_of_images(tmp_path: Path, suffix: str) -> None:
    """They may be equal, empty or alone; within their folder alone, too."""
    for code in ("0000", "0001"):
        save(tmp_path / f"labels{suffix}" / f"AbdomenMRCT_0001_{code}.nii.gz", LABELS)
        save(tmp_path / f"masks{suffix}" / f"AbdomenMRCT_0001_{code}.nii.gz", LABELS)
    for path in (tmp_path, tmp_path / f"labels{suffix}", tmp_path / f"labels{suffix}" / "AbdomenMRCT_0001_0000.nii.gz"):
        assert look(path).findings == ()


def test_label_maps_of_another_space_or_name_are_not_compared_but_noted(tmp_path: Path) -> None:
    save(tmp_path / "sub-01" / "anat" / "sub-01_T1w.nii.gz")
    folder = tmp_path / "derivatives" / "fmriprep" / "sub-01" / "anat"
    save(folder / "sub-01_space-MNI152NLin6Asym_dseg.nii.gz", LABELS[1:], shifted(50))
    save(folder / "sub-01_label-GM_probseg.nii.gz", RAMP / 1000)
    (finding,) = look(tmp_path).findings
    assert (finding.where, finding.problem.severity) == (
        "derivatives/fmriprep/sub-01/anat/sub-01_space-MNI152NLin6Asym_dseg.nii.gz",
        "note",
    )
    assert "belongs to no image" in finding.problem.what


def test_every_annotation_of_an_image_is_compared_with_it(tmp_path: Path) -> None:
    save(tmp_path / "imagesTs" / "a_0000.nii.gz")
    for folder in ("labelsTs", "TSlabelsTs", "masksTs"):
        save(tmp_path / folder / "a_0000.nii.gz", LABELS, shifted(5))
    assert sorted(finding.where for finding in look(tmp_path).findings) == [
        f"{folder}/a_0000.nii.gz" for folder in ("TSlabelsTs", "labelsTs", "masksTs")
    ]


def test_a_population_of_single_images_is_no_warning(tmp_path: Path) -> None:
    for number in range(4):
        for code in ("0000", "0001") if number == 0 else ("0001",):
            save(tmp_path / "imagesTr" / f"AbdomenMRCT_{number:04d}_{code}.nii.gz", RAMP + int(code))
    assert look(tmp_path).clean
