"""What a setting can name: our own by a word, others' by ``package.module:name`` or an entry point of a package."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from bingo_pl.errors import BingoError, InputError, unknown_name

METHODS, DATASETS, SIMILARITIES = GROUPS = ("bingo_pl.methods", "bingo_pl.datasets", "bingo_pl.similarities")
"""Entry points."""
NAMING = (("", "method"), ("data", "dataset"), ("model", "similarity"), ("refine", "similarity"))
"""The settings, section and name, that can name code."""
TRUSTED = "BINGO_PLUGINS"


def find(kind: str, name: str, own: Mapping[str, Any], group: str) -> Any:
    """What a setting names.

    Args:
        kind: what the name names, e.g. ``"method"``.
        name: a key of ``own``, ``package.module:name``, or an entry point of ``group``. Ours win over entry points.
        own: our own, or where each is (``package.module:name``).
        group: of entry points, e.g. ``"bingo_pl.methods"``.

    Raises:
        BingoError: no such name, or its module cannot be imported or does not have it.
    """
    if name in own:
        found = own[name]
        return _imported(kind, found) if isinstance(found, str) else found
    if ":" in name:
        return _imported(kind, name)
    others = offered(group)
    if name not in others:
        raise unknown_name(kind, name, {*own, *others})
    return _imported(kind, others[name])


def offered(group: str) -> dict[str, str]:
    """Where what other packages offer is (``package.module:name``), by the names of their entry points."""
    return {entry.name: entry.value for entry in entry_points(group=group)}


def check_trusted(tree: Mapping[str, Any], source: object) -> None:
    """Refuse a file's settings that name a module which nobody has asked for: importing it would run its code.

    Trusted are packages that offer entry points to bingo_pl, modules that are imported already, and the packages that
    the environment variable `TRUSTED` lists, with commas between.

    Args:
        tree: settings, of a checkpoint or model.
        source: its file, for the message.

    Raises:
        BingoError: a module that is not trusted.
    """
    trusted = {package.strip() for package in os.environ.get(TRUSTED, "").split(",")}
    trusted |= {value.partition(".")[0].partition(":")[0] for group in GROUPS for value in offered(group).values()}
    for section, key in NAMING:
        part = tree.get(section) if section else tree
        name = part.get(key) if isinstance(part, Mapping) else None
        module = name.partition(":")[0] if isinstance(name, str) and ":" in name else ""
        if module and module not in sys.modules and module.partition(".")[0] not in trusted:
            raise InputError(
                f"{source} names code of another package, {name}, which would be run",
                f"If you trust it: {TRUSTED}={module.partition('.')[0]} in the environment, or import it before",
            )


def _imported(kind: str, place: str) -> Any:
    module, _, path = place.partition(":")
    try:
        found = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except BingoError:
        raise
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(
            f"the {kind} '{place}' cannot be imported ({error}). Wanted: package.module:name, of a package that is "
            "installed beside bingo_pl or lies in a folder of PYTHONPATH",
            "Correct the name, or install it",
        ) from error
    return found
