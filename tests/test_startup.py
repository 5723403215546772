"""What starts quickly imports nothing that takes long: see `benchmarks.startup` for the seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

TRAINING = {
    "contourpy",
    "lightning_fabric",
    "matplotlib",
    "monai",
    "pandas",
    "pytorch_lightning",
    "torchmetrics",
    "wandb",
}
"""And reports."""
IMAGES = {"nibabel", "numpy", "omegaconf", "safetensors", "scipy", "SimpleITK", "torch", "torchio"}


def imported(code: str, *arguments: str | Path) -> set[str]:
    """The packages that a new process has imported at the end of the code."""
    code = f"import sys\ntry:\n    {code}\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
    code += "print('\\n' + ' '.join({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


COMMAND = "import bingo_pl.__main__ as bingo; bingo.main()"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["register", "--help"], ["train", "--help"]],
    ids=" ".join,
)
def test_help_imports_no_library_of_images_or_training(arguments: list[str]) -> None:
    assert imported(COMMAND, *arguments) & (TRAINING | IMAGES) == set()


def test_the_package_alone_imports_nothing() -> None:
    assert imported("import bingo_pl") & (TRAINING | IMAGES | {"rich", "typer"}) == set()


def test_registering_and_loading_a_model_import_no_library_of_training() -> None:
    code = "from bingo_pl import Model, apply, check, register; Model.load()"
    assert imported(code) & TRAINING == set()


def test_checking_images_imports_no_library_of_training(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).random((8, 8, 8), np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "t1.nii.gz")
    assert imported(COMMAND, "check", tmp_path / "t1.nii.gz") & TRAINING == set()
