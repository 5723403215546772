"""One reader of manifests: `bingo check`, training and registration say the same of a table."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from bingo_pl.errors import BingoError
from bingo_pl.images.manifest import read_group

from .test_checking import LABELS, RAMP, look, manifest, save, shifted
from .test_data_cohorts import make


def test_the_manifest_of_one_group_is_looked_at_as_register_reads_it(tmp_path: Path) -> None:
    header = "modality,image,mask,label\n"
    path = manifest(tmp_path, "t1,a.nii.gz,l.nii.gz,l.nii.gz", "", "t1,b.nii.gz", header=header)
    checkup = look(path)
    assert checkup.findings == ()
    assert checkup.files == 3
    save(tmp_path / "l.nii.gz", LABELS * 0.5)
    save(tmp_path / "b.nii.gz", RAMP + 1, shifted(500))
    found = {finding.where: finding.problem for finding in look(path).findings}
    assert "probably interpolated" in found["l.nii.gz"].what
    assert "does not overlap" in found["b.nii.gz"].what
    path = manifest(tmp_path, "t1,a.nii.gz", "t2,./a.nii.gz", header="modality,image\n")
    (finding,) = look(path).findings
    assert finding.problem.severity == "warning"
    assert "lists a.nii.gz more than once (lines 2, 3)" in finding.problem.what


def read_cohort(path: Path) -> object:
    return make("manifest", path).cases


KINDS: dict[Callable[[Path], object], str] = {
    read_cohort: "split,group,subject,modality,image,label",
    read_group: "modality,image,label",
}
"""Who reads a manifest, and its header line."""


def test_a_modality_that_cannot_name_a_file_is_named(tmp_path: Path) -> None:
    path = manifest(tmp_path, "T1/Gd,a.nii.gz", "t2,b.nii.gz", header="modality,image\n")
    (finding,) = look(path).findings
    assert finding.problem.severity == "error"
    assert "'T1/Gd' cannot name a modality" in finding.problem.what


BAD_TABLES = {
    "empty": "",
    "not text": "\x00",
    "header alone": "{header}\n",
    "unclosed quote": '{header}\n"a\n',
    "misspelt column": "{misspelt}\n{row}\n",
    "column twice": "{header},image\n{row},a.nii.gz\n",
    "too many cells": "{header}\n{row},,,,b.nii.gz\n",
    "no image": "{header}\n{row}\n\n{imageless}\n",
}


@pytest.mark.parametrize("key", BAD_TABLES)
@pytest.mark.parametrize("read", KINDS)
def test_check_training_and_registration_say_the_same_of_a_manifest(
    tmp_path: Path, read: Callable[[Path], object], key: str
) -> None:
    """The first error that `bingo check` lists is what the others raise, with the line of the file."""
    header = KINDS[read]
    cells = {"split": "train", "group": "g", "subject": "s", "modality": "t1", "image": "a.nii.gz", "label": ""}
    texts = {
        "header": header,
        "misspelt": header.replace("modality", "modalty"),
        "row": ",".join(cells[name] for name in header.split(",")),
        "imageless": ",".join({**cells, "image": ""}[name] for name in header.split(",")),
    }
    path = tmp_path / "list.csv"
    path.write_text(BAD_TABLES[key].format(**texts))
    with pytest.raises(BingoError) as refused:
        read(path)
    first = next(finding.problem for finding in look(path).findings if finding.problem.severity == "error")
    if key not in ("empty", "not text"):  # of either kind
        assert str(refused.value).startswith(f"{path}: {first.what}. ")
    assert key != "no image" or first.what == "line 4 has no image"
