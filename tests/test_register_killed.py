"""A registration that is killed while it writes leaves nothing that looks finished and is not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import pytest
import SimpleITK as sitk

from .test_register import OBLIQUE, make_checkpoint, write

SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from bingo_pl import register

def dies_in(function, call, half):
    def replacement(*arguments, **options):
        nonlocal call
        call -= 1
        if call == 0:
            half(*arguments, **options)
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)
    return replacement

torch.set_num_threads(1)
folder = Path(sys.argv[1])
group = register({"a": folder / "a.nii.gz", "b": folder / "b.nii.gz"}, folder / "model.ckpt", device="cpu", refine=0)
half = {
    "write_text": lambda path, text, **_: open(path, "w").write(text[: len(text) // 2]),
    "replace": lambda path, target: None,
}
for moment in sys.argv[2:]:
    function, call = moment.split("-")
    child = os.fork()
    if child == 0:
        setattr(Path, function, dies_in(getattr(Path, function), int(call), half[function]))
        group.write(folder / moment)
        os._exit(0)
    print(moment, os.waitpid(child, 0)[1], flush=True)
"""
BEFORE = ("write_text-2", "replace-2", "replace-6", "replace-10", "replace-13", "replace-22")
"""Killed in the n-th call of a method of Path; the last one would have given the folder its name."""
REPORT = "replace-23"
"""The report would have got its name."""
DONE = "replace-1000"


@pytest.mark.slow
def test_killed_at_any_moment_no_half_written_file_has_its_final_name(tmp_path: Path) -> None:
    make_checkpoint(tmp_path / "model.ckpt", 2)
    write(tmp_path / "a.nii.gz", OBLIQUE)
    write(tmp_path / "b.nii.gz", OBLIQUE, contrast=0.4)
    script = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path), *BEFORE, REPORT, DONE],
        capture_output=True,
        text=True,
        check=True,
    )
    status = {moment: int(code) for moment, code in (line.split() for line in script.stdout.splitlines())}
    assert status.pop(DONE) == 0
    assert set(status.values()) == {signal.SIGKILL}
    for moment in BEFORE:
        assert not (tmp_path / moment).exists(), moment
        assert list(tmp_path.glob(f".{moment}.*.tmp")), "it was killed while it wrote"
    check_whole(tmp_path / DONE)
    check_whole(tmp_path / REPORT)
    assert (tmp_path / DONE / "report.html").read_text().rstrip().endswith("</html>")
    assert not (tmp_path / REPORT / "report.html").exists()


def check_whole(folder: Path) -> None:
    """Every file that the record promises is there, and every file is readable."""
    names = [image["name"] for image in json.loads((folder / "registration.json").read_text())["images"]]
    for name in names:
        assert (folder / "registered" / f"{name}.nii.gz").is_file()
        assert (folder / "transforms" / f"{name}_inverse.nii.gz").is_file()
    for path in folder.rglob("*"):
        if path.name.endswith(".nii.gz"):
            assert nib.load(path).get_fdata().size
        elif path.suffix == ".h5":
            sitk.ReadTransform(str(path))
