"""What the sections of the settings check their values by."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bingo_pl import plugins
from bingo_pl.errors import InputError, unknown_name

Rules = Mapping[str, tuple[object, str]]
"""Whether each setting holds, by its name, and what is wanted."""
SIMILARITIES = ("ape", "cte", "x_coreg")
"""Those of the package."""


def check(section: str, values: Any, rules: Rules) -> None:
    """Raises `BingoError` where a setting of a dataclass breaks a rule or holds a number that is not finite."""
    for field_ in dataclasses.fields(values):
        value = getattr(values, field_.name)
        numbers = value if isinstance(value, list) else [value]
        finite = all(math.isfinite(number) for number in numbers if isinstance(number, float))
        holds, wanted = rules.get(field_.name, (True, "")) if finite else (False, "finite numbers")
        if not holds:
            name = f"{section}.{field_.name}" if section else field_.name
            raise InputError(f"{name}={shown(value)} is invalid, wanted {wanted}")


def shown(value: object) -> str:
    """A value as one gives it on the command line."""
    if isinstance(value, list):
        return f"[{','.join(map(shown, value))}]"
    return "null" if value is None else str(value)


def distinct(names: Sequence[str]) -> bool:
    return 0 < len(names) == len(set(names))


def choose(setting: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise unknown_name(setting, value, known)


def choose_or_own(setting: str, value: str, known: Sequence[str], group: str) -> None:
    """Or another package's, see `bingo_pl.plugins.find`, which is not imported for that."""
    if value not in known and ":" not in value:
        choose(setting, value, [*known, *plugins.offered(group)])
