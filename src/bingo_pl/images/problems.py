"""What can be wrong with a file, in the words that readers raise and `bingo check` prints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Literal

from bingo_pl.errors import BingoError, InputError

Severity = Literal["error", "warning", "note"]
"""error: reading, training or registration would fail; warning: it would mislead; note: fine, but good to know."""


class Fix(Enum):
    """The changes to a file that need no person's decision, in the order in which they are made."""

    GEOMETRY = auto()
    """qform, sform and voxel sizes are set to the geometry that this program uses."""
    SLOPE = auto()
    """A meaningless intensity slope becomes 1, as which this program reads it."""
    AXES = auto()
    """Trailing axes of one voxel are dropped."""
    IDS = auto()
    """Label ids that are whole but for rounding become integers."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong; sentences without a full stop."""

    severity: Severity
    what: str
    why: str
    """Why it matters."""
    remedy: str
    """What a person can do."""
    fix: Fix | None = None
    """How `bingo check --fix` fixes it; None where a person must decide."""

    @classmethod
    def refused(cls, error: BingoError, path: Path, why: str) -> Problem:
        """What another part of the program raises about a file."""
        return cls("error", error.what.removeprefix(f"{path}: "), why, error.remedy)

    def error(self, path: Path) -> BingoError:
        return InputError(f"{path}: {self.what}", self.remedy)


def refuse(path: Path, *problems: Problem | None) -> None:
    """Raise the first problem that is an error."""
    for problem in problems:
        if problem is not None and problem.severity == "error":
            raise problem.error(path)


def found(problems: Iterable[Problem | None]) -> list[Problem]:
    return [problem for problem in problems if problem is not None]
