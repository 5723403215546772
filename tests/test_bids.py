"""A BIDS folder is a population."""

from __future__ import annotations

from pathlib import Path

import pytest

from bingo_pl import BingoError
from bingo_pl.images.bids import read_bids
from bingo_pl.images.members import Member

from .test_cli import run

FILES = (
    "sub-01/anat/sub-01_T1w.nii.gz",
    "sub-01/anat/sub-01_FLAIR.nii",
    "sub-01/anat/sub-01_T1w.json",
    "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_acq-3d_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_acq-2d_T1w.nii.gz",
    "sub-02/ses-b/anat/sub-02_ses-b_FLAIR.nii.gz",
    "derivatives/manual/sub-01/anat/sub-01_desc-manual_dseg.nii.gz",
    "derivatives/manual/sub-02/ses-b/anat/sub-02_ses-b_desc-manual_dseg.nii.gz",
    "derivatives/strip/sub-01/anat/sub-01_desc-brain_mask.nii.gz",
)


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_subjects_are_sessions_and_contrasts_may_be_missing(dataset: Path) -> None:
    found = read_bids(dataset, ["acq-3d_T1w", "FLAIR"], "dseg", "desc-brain_mask")
    paths = [dataset / name for name in FILES]
    assert found == [
        Member("FLAIR", paths[1], paths[7], paths[9], "sub-01"),
        Member("T1w", paths[4], paths[8], None, "sub-02_ses-b"),
        Member("FLAIR", paths[6], None, None, "sub-02_ses-b"),
    ]


def test_several_files_for_one_are_refused(dataset: Path) -> None:
    with pytest.raises(BingoError, match=r"sub-02_ses-b has 2 files of T1w: .*acq-2d_T1w.*Say which by an entity"):
        read_bids(dataset, ["T1w"])


@pytest.mark.parametrize(
    ("suffixes", "label", "message"),
    [
        (["bold"], "", "Name the folder of a BIDS dataset"),
        (["../T1w"], "", "is no BIDS suffix"),
        ([], "", "no suffix says"),
        (["FLAIR"], "probseg", "no label"),
    ],
)
def test_what_is_not_there_is_named(dataset: Path, suffixes: list[str], label: str, message: str) -> None:
    with pytest.raises(BingoError, match=message):
        read_bids(dataset, suffixes, label)


def test_the_command_takes_a_dataset_instead_of_a_manifest(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its files, which are empty, are what is read next."""
    out = ["--output", str(dataset / "atlas")]
    assert run(monkeypatch, "atlas", "--bids", str(dataset), "--suffix", "FLAIR", *out) == 2
    assert "sub-01_FLAIR.nii" in "".join(capsys.readouterr().err.split())
    assert run(monkeypatch, "atlas", "people.csv", "--bids", str(dataset), *out) == 2
    assert "either a MANIFEST" in " ".join(capsys.readouterr().err.split())
    assert run(monkeypatch, "atlas", "people.csv", "--suffix", "T1w", *out) == 2
    assert "go with --bids" in " ".join(capsys.readouterr().err.split())
