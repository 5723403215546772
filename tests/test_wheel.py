"""What is installed: one name, all of it, and no quarrel with a user's own folders."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = """
import data_modules, experiments  # the script's own
import bingo_pl
from bingo_pl import BingoError, Model, data_modules as ours, experiments as also_ours, register
from bingo_pl.config.loading import experiments as names
assert data_modules.MINE and experiments.MINE
assert ours.__name__ == "bingo_pl.data_modules" and ours is not data_modules
assert "mscmr" in names()
print(bingo_pl.__file__)
print(Model.load())
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from what git knows, in a process and folder of its own."""
    clean, built = tmp_path_factory.mktemp("clean"), tmp_path_factory.mktemp("built")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, tracked.split("\0")):
        if (source := ROOT / name).exists():
            (clean / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, clean / name, follow_symlinks=False)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(built)], cwd=clean, check=True, capture_output=True)
    return next(built.glob("*.whl"))


def test_it_holds_one_name(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"bingo_pl"}


def test_it_holds_every_module_and_experiment(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    folders = {
        "src/bingo_pl": "bingo_pl",
        "data_modules": "bingo_pl/data_modules",
        "experiments": "bingo_pl/experiments",
    }
    wanted = {
        f"{inside}/{path.relative_to(ROOT / folder).as_posix()}"
        for folder, inside in folders.items()
        for path in (ROOT / folder).rglob("*")
        if path.suffix in (".py", ".yaml", ".safetensors", ".typed")
    }
    assert len(wanted) > 200
    assert wanted - packed == set()


def test_a_script_beside_folders_of_the_same_names_imports_both(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in ("data_modules", "experiments"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("MINE = True\n")
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "script.py")], env={"PYTHONPATH": str(site)}, capture_output=True, text=True
    )
    assert done.stderr == ""
    place, *model = done.stdout.splitlines()
    assert place == str(site / "bingo_pl" / "__init__.py")
    assert any("ready_2d" in line for line in model)
