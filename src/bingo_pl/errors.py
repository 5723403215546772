"""Errors that are meant for people: what is wrong, and what to do about it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

FROM_WORKER = re.compile(r"^Caught \w+ in DataLoader worker process .*\n[\w.]+Error: ", re.DOTALL)
"""What torch puts before the message of an error that a loader's process raised: the traceback."""


class BingoError(Exception):
    """An error for people, which the command line prints without a traceback.

    Its subclasses are Python's own kinds too: ``except ValueError`` catches an `InputError`.

    Args:
        what: what is wrong: what was found, and what was wanted. No full stop at its end.
        remedy: what to do about it, a sentence without a full stop; empty where ``what`` says it.
    """

    def __init__(self, what: str = "", remedy: str = "") -> None:
        self.what = FROM_WORKER.sub("", what)
        self.remedy = remedy
        end = "\n" if "\n" in self.what else ". "  # below a list of what is wrong, on a line of its own
        super().__init__(self.what + end + remedy if remedy else self.what)

    def __str__(self) -> str:
        return str(self.args[0])  # KeyError would put it in quotes


class InputError(BingoError, ValueError):
    """An argument, a setting, an option or what a file holds cannot be used."""


class FileError(BingoError, OSError):
    """A file or folder is missing, damaged, in the way, or cannot be read or written."""


class UnknownNameError(BingoError, KeyError):
    """A name that is not in a list."""


class DivergenceError(BingoError, ArithmeticError):
    """Numbers of a method that are not finite, or so large that nothing can be sampled there: it diverged."""


ORIGIN = re.compile(r"^.*(ITK ERROR|sitk::ERROR): (\w+\(0x[0-9a-f]+\): )?", re.DOTALL)
"""What ITK puts before the reason of an error: where in its sources it was raised, and at which address."""


def reason_of(error: BaseException) -> str:
    """The reason that a library gives for an error, in one line."""
    return " ".join(ORIGIN.sub("", str(error)).split())


class BingoWarning(UserWarning):
    """A result to look at, or an input that was understood in one of several ways."""


def some(names: Sequence[str], limit: int = 10) -> str:
    """Names for a message, the first ``limit`` and a count."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def some_lines(lines: Sequence[str], limit: int, indent: str = "") -> str:
    """Lines for a message, each indented, the first ``limit`` and a count."""
    more = [f"... and {len(lines) - limit} more"] if len(lines) > limit else []
    return "\n".join(indent + line for line in [*lines[:limit], *more])


def unknown_name(kind: str, name: str, known: Iterable[str], before: str = "") -> UnknownNameError:
    """The error for a name that is not in a list, with the nearest known name.

    Args:
        kind: what the name names, e.g. ``"setting"``.
        name: the name that was given.
        known: the names that would have been understood.
        before: what comes before "unknown", e.g. ``"mask given for an "``.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    return UnknownNameError(f"{before}unknown {kind} '{name}'", f"{hint}Known: {', '.join(names)}")
