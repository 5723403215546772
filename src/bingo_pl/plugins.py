"""What a setting can name: our own by a word, others' by ``package.module:name`` or an entry point of a package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from bingo_pl.errors import BingoError, unknown_name


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
    others = {entry.name: entry.value for entry in entry_points(group=group)}
    if name not in others:
        raise unknown_name(kind, name, {*own, *others})
    return _imported(kind, others[name])


def _imported(kind: str, place: str) -> Any:
    module, _, path = place.partition(":")
    try:
        found = import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise BingoError(
            f"the {kind} '{place}' cannot be imported ({error}). Wanted: package.module:name, of a package that is "
            "installed beside bingo_pl or lies in a folder of PYTHONPATH. Correct the name, or install it"
        ) from error
    return found
