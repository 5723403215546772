"""Imports go one way: between the packages in the order below, within them without a circle."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import bingo_pl
from bingo_pl import data_modules

# A package or module of the root knows only those before it.
ORDER = (
    ("errors", "memory", "regular", "seeding", "sealed"),
    ("plugins", "spatial"),
    ("atomic", "batch", "config", "crashes", "csv_files", "device", "messages", "names", "signals"),
    ("locking", "misalign", "methods"),
    ("alignment",),
    ("data_modules",),
    ("files",),
    ("evaluation", "figures"),
    ("training", "report"),
    ("comparison", "streaming", "sweeps"),
    ("registration",),
    ("api",),
    ("cli",),
    ("__main__",),
)
LEVEL = {name: level for level, names in enumerate(ORDER) for name in names}
(SOURCE,) = map(Path, bingo_pl.__path__)
(DATA,) = map(Path, data_modules.__path__)
FILES = {
    **{".".join(file.relative_to(SOURCE).with_suffix("").parts): file for file in SOURCE.rglob("*.py")},
    **{".".join(file.relative_to(DATA.parent).with_suffix("").parts): file for file in DATA.rglob("*.py")},
}
MODULES = {name: file for name, file in FILES.items() if file.stem != "__init__"}


def imported(file: Path) -> set[str]:
    """The project's own modules that a file imports, `bingo_pl` left out of their names."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.removeprefix("bingo_pl.") for name in names} & set(MODULES)


def room(module: str) -> str:
    return module.partition(".")[0]


def test_every_module_has_its_place() -> None:
    assert {room(name) for name in MODULES} == set(LEVEL)


def test_packages_know_only_those_before_them() -> None:
    upwards = [
        f"{name} imports {other}"
        for name, file in MODULES.items()
        for other in imported(file)
        if room(other) != room(name) and LEVEL[room(other)] >= LEVEL[room(name)]
    ]
    assert upwards == []


def test_modules_import_without_a_circle() -> None:
    TopologicalSorter({name: imported(file) - {name} for name, file in MODULES.items()}).prepare()


def test_omegaconf_is_known_to_one_file() -> None:
    users = [name for name, file in FILES.items() if "omegaconf" in file.read_text().lower()]
    assert users == ["config"]
