"""Names that become names of files and folders."""

from __future__ import annotations

import os

from bingo_pl.errors import InputError

LONGEST = 180
"""Bytes of a name: file systems take 255, and ``_inverse.nii.gz`` and the like are added to it."""
SEPARATORS = "/\\"
"""Of folders, here or on another system."""
ALLOWED = (
    "Wanted: letters, digits, spaces and signs such as '-', '_', '+' and '*', no slash or backslash, no dot in front, "
    f"no space at an end, at most {LONGEST} bytes"
)


def check_file_name(name: str, what: str) -> None:
    """Refuse a name that a file or folder of its own cannot have, or that would lead out of the folder meant for it.

    Every name that comes from outside (a modality, a run, a group, a method, ...) passes here before any work.

    Args:
        name: without an extension.
        what: it names, e.g. ``"modality"``.

    Raises:
        BingoError: the name is empty, too long, holds a separator or an invisible character, or begins with a dot.
    """
    reasons = {
        "it is empty": not name.strip(),
        f"it holds {' or '.join(repr(s) for s in SEPARATORS if s in name)}": any(s in name for s in SEPARATORS),
        "it begins with a dot": name.startswith("."),
        "it begins or ends with a space": name != name.strip(),
        "it holds an invisible character": not name.isprintable(),
        f"it has {len(os.fsencode(name)) if name.isprintable() else 0} bytes": _too_long(name),
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        shown = name if len(name) <= LONGEST else f"{name[:40]}..."
        raise InputError(
            f"{shown!r} cannot name a {what}: files and folders are named by it, and {reason}. {ALLOWED}", "Rename it"
        )


def _too_long(name: str) -> bool:
    return name.isprintable() and len(os.fsencode(name)) > LONGEST
