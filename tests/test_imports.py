"""Imports go one way: between the packages in the order below, within them without a circle."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import bingo_pl
from bingo_pl import data_modules

# A package or module of the root knows only those before it.
ORDER = (
    ("errors", "memory", "moved", "seeding"),
    ("plugins", "spatial", "storage"),
    ("batch", "config", "crashes", "device", "messages", "signals"),
    ("images", "methods", "misalign"),
    ("alignment", "phantoms"),
    ("models",),
    ("evaluation", "figures", "streaming"),
    ("report",),
    ("registration",),
    ("atlases",),
    ("data_modules",),
    ("checking", "training"),
    ("studies", "sweeps"),
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
MODULES = {name.removesuffix(".__init__"): file for name, file in FILES.items() if name != "__init__"}
LIGHTNING = {"lightning", "lightning_fabric", "pytorch_lightning", "wandb"}


@functools.cache
def imports(file: Path) -> tuple[str, ...]:
    """The modules that a file imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            own = [f"{node.module}.{alias.name}".removeprefix("bingo_pl.") for alias in node.names]
            names += [name if name in MODULES else node.module.removeprefix("bingo_pl.") for name in own]
        elif isinstance(node, ast.Import):
            names += [alias.name.removeprefix("bingo_pl.") for alias in node.names]
    return tuple(names)


def imported(file: Path) -> set[str]:
    """The project's own modules that a file imports, `bingo_pl` left out of their names."""
    return set(imports(file)) & set(MODULES)


def reached(names: Iterable[str]) -> set[str]:
    """Modules and all that they import, directly or not."""
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        found |= waiting
        waiting = {other for name in waiting for other in imported(MODULES[name])} - found
    return found


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


@pytest.mark.parametrize("rooms", [{"models"}, {"registration"}, {"atlases"}], ids=lambda rooms: next(iter(rooms)))
def test_registering_needs_neither_training_nor_cohorts(rooms: set[str]) -> None:
    modules = reached(name for name in MODULES if room(name) in rooms)
    assert {room(name) for name in modules} & {"checking", "data_modules", "studies", "sweeps", "training"} == set()
    assert {room(name) for module in modules for name in imports(MODULES[module])} & LIGHTNING == set()


def test_omegaconf_is_known_to_one_file() -> None:
    users = [name for name, file in FILES.items() if "omegaconf" in file.read_text().lower()]
    assert users == ["config.loading"]


def test_the_general_task_knows_no_method_by_name() -> None:
    names = {name for name in MODULES if room(name) == "methods"} - {
        "methods.registrar",
        "methods.batch_norm",
        "methods.recomputation",
    }
    assert imported(MODULES["training.task"]) & names == set()


def test_lists_are_shortened_in_one_place() -> None:
    users = {name for name, file in FILES.items() if re.search(r"and \{len\(\w+\) - ", file.read_text())}
    assert users == {"errors"}
