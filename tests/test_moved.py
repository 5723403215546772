"""Old names of modules: they lead to the very objects of the new ones, with a DeprecationWarning, and only they do."""

from __future__ import annotations

import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import bingo_pl
from bingo_pl.images.grids import Grid
from bingo_pl.moved import MOVED, PACKAGES

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("old", sorted(MOVED))
def test_an_old_name_leads_to_what_is_there_now(old: str) -> None:
    sys.modules.pop(f"bingo_pl.{old}", None)
    with pytest.warns(DeprecationWarning, match=f"bingo_pl.{old} is now bingo_pl.{MOVED[old][0]}") as caught:
        found = import_module(f"bingo_pl.{old}")
    assert sum(str(one.message).startswith("bingo_pl.") for one in caught) == 1
    homes = [import_module(f"bingo_pl.{home}") for home in MOVED[old]]
    for home in homes:
        assert home.__spec__ is not None
        assert home.__spec__.name == home.__name__
        for name in (name for name, value in vars(home).items() if getattr(value, "__module__", "") == home.__name__):
            assert getattr(found, name) is getattr(home, name)
    if len(homes) == 1:
        assert found is homes[0]


@pytest.mark.parametrize("code", ["from bingo_pl.{} import {}", "import bingo_pl.{0}.{1}; bingo_pl.{0}.{1}"])
def test_an_old_name_is_warned_of_where_it_is_imported(code: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import bingo_pl\n\n" + code.format("files", "grids"))
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stderr.startswith(f"{script}:3: DeprecationWarning: bingo_pl.files.grids is now bingo_pl.images.grids")


def test_pickles_that_name_old_modules_load() -> None:
    grid = Grid((2, 3, 4), np.diag([1.0, 2.0, 3.0, 1.0]))
    old = pickle.dumps(grid, 0).replace(b"bingo_pl.images.grids", b"bingo_pl.files.grids")
    assert b"files" in old
    sys.modules.pop("bingo_pl.files.grids", None)
    with pytest.warns(DeprecationWarning, match="is now bingo_pl.images.grids"):
        loaded = pickle.loads(old)
    assert type(loaded) is Grid
    assert (loaded.affine == grid.affine).all()


def test_the_package_of_data_modules_that_was_beside_ours_is_ours_only_where_nobody_has_one(tmp_path: Path) -> None:
    code = (
        "import warnings; warnings.simplefilter('ignore'); import bingo_pl; import data_modules as d;"
        "from data_modules.phantoms import mr as old; from bingo_pl.phantoms import mr as new; assert old is new;"
        "from data_modules.preprocess import Case as old; from bingo_pl.data_modules.cases import Case as new;"
        "assert old is new; assert 'mscmr' in d.DATA_MODULES"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    (tmp_path / "data_modules").mkdir()
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "No module named 'data_modules.phantoms'" in done.stderr


def test_no_module_has_an_old_name_and_no_file_asks_for_one() -> None:
    (source,) = map(Path, bingo_pl.__path__)
    assert [old for old in MOVED if (source / f"{old.replace('.', '/')}.py").exists()] == []
    files = [
        file for room in ("src", "data_modules", "benchmarks", "docs", "tests") for file in (ROOT / room).rglob("*")
    ]
    texts = {file: file.read_text() for file in files if file.suffix in {".py", ".md"}}
    asking = [
        f"{file.relative_to(ROOT)}: {old}"
        for file, text in texts.items()
        for old in (*MOVED, *(package for package in PACKAGES if not (source / package.replace(".", "/")).exists()))
        if f"bingo_pl.{old} import" in text or f"import bingo_pl.{old}" in text or f"`bingo_pl.{old}`" in text
        if file != Path(__file__)
    ]
    assert asking == []
