"""The one exception that is meant for people."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

FROM_WORKER = re.compile(r"^Caught \w+ in DataLoader worker process .*\n[\w.]+Error: ", re.DOTALL)
"""What torch puts before the message of an error that a loader's process raised: the traceback."""


class BingoError(Exception):
    """Bad input: the message says what, got, wanted and what to do. The command line prints it without a traceback."""

    def __init__(self, message: str = "") -> None:
        super().__init__(FROM_WORKER.sub("", message))


ORIGIN = re.compile(r"^.*(ITK ERROR|sitk::ERROR): (\w+\(0x[0-9a-f]+\): )?", re.DOTALL)
"""What ITK puts before the reason of an error: where in its sources it was raised, and at which address."""


def reason_of(error: BaseException) -> str:
    """The reason that a library gives for an error, in one line."""
    return " ".join(ORIGIN.sub("", str(error)).split())


class BingoWarning(UserWarning):
    """A result to look at, or an input that was understood in one of several ways."""


class DivergenceError(BingoError):
    """Numbers of a method that are not finite, or so large that nothing can be sampled there: it diverged."""


def unknown_name(kind: str, name: str, known: Iterable[str], before: str = "") -> BingoError:
    """The error for a name that is not in a list, with the nearest known name.

    Args:
        kind: what the name names, e.g. ``"setting"``.
        name: the name that was given.
        known: the names that would have been understood.
        before: what comes before "unknown", e.g. ``"mask given for an "``.
    """
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return BingoError(f"{before}unknown {kind} '{name}'.{hint} Known: {', '.join(names)}")
