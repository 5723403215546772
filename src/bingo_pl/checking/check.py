"""Look at every file before anything is trained or registered: what would fail, what would mislead, how to fix it."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bingo_pl.checking.fixing import fix
from bingo_pl.checking.folder_listing import list_folder
from bingo_pl.checking.group_pitfalls import Seen, cohort_findings, group_findings
from bingo_pl.checking.listing import Finding, Listing
from bingo_pl.checking.manifest_listing import list_manifest
from bingo_pl.checking.pitfalls import header_pitfalls, image_pitfalls, label_pitfalls, mask_pitfalls
from bingo_pl.errors import FileError, InputError
from bingo_pl.images.naming import FORMATS, ending, role_of
from bingo_pl.images.problems import Fix, Problem, Severity, found
from bingo_pl.images.volume import Volume, open_volume
from bingo_pl.storage.atomic import check_place

Track = Callable[[Collection[Path]], Iterable[Path]]
"""Shows how far a loop over files is."""
SHOWN = 8
"""Findings that a checkup prints."""


@dataclass(frozen=True)
class Checkup:
    """What was found."""

    findings: tuple[Finding, ...]
    files: int
    """How many were looked at."""
    fixed: int
    """Number of corrected copies written."""

    def __repr__(self) -> str:
        """At most ten lines."""
        counts = ", ".join(f"{self.count(severity)} {severity}s" for severity in ("error", "warning", "note"))
        lines = [f"{self.files} files looked at: {counts}"]
        lines += [f"- {one.problem.severity}: {one.where}: {one.problem.what}" for one in self.findings[:SHOWN]]
        more = len(self.findings) - SHOWN
        return "\n".join([*lines, f"- and {more} more"] if more > 0 else lines)

    def count(self, severity: Severity) -> int:
        return sum(finding.problem.severity == severity for finding in self.findings)

    @property
    def clean(self) -> bool:
        """Whether there is nothing but notes."""
        return self.count("error") + self.count("warning") == 0


def check(path: Path, label_ids: Collection[int], copies: Path | None, track: Track) -> Checkup:
    """Look at every file once.

    Args:
        path: an image, a folder of images at any depth, or a manifest.
        label_ids: the foreground ids that label maps may hold; empty where any may.
        copies: the folder for corrected copies of files, where it is safe to fix them; nothing in it is overwritten.
        track: wraps the loop over the files, e.g. in a progress bar.

    Raises:
        BingoError: there is nothing to look at, or a copy cannot be written.
    """
    if copies is not None:
        check_place(copies / "copy")
    listing = list_files(path)
    findings = list(listing.findings)
    seen: dict[Path, Seen] = {}
    fixed = 0
    for file in track(listing.roles):
        volume = open_volume(file)
        problems = [*volume.problems, *found(_pitfalls(volume, listing.roles[file], label_ids))]
        changes = _fix(volume, problems, listing, copies) if copies else {}
        fixed += bool(changes)
        findings += [Finding(listing.name(file), problem, _change(problem, changes)) for problem in problems]
        if (facts := Seen.of(volume)) is not None:
            seen[file] = facts
    for group in listing.groups:
        findings += group_findings(group, listing, seen)
    findings += cohort_findings(listing.groups)
    return Checkup(tuple(findings), len(listing.roles), fixed)


def list_files(path: Path) -> Listing:
    """All image files below a folder, of a manifest, or the one file.

    Raises:
        BingoError: there is nothing to look at.
    """
    if os.path.isdir(path):  # pathlib's raises where a name is too long for any file
        listing = list_folder(path)
    elif not os.path.isfile(path):
        raise FileError(f"{path}: no such file or folder", "Name an image, a folder of images or a manifest (CSV)")
    elif ending(path, FORMATS):
        listing = Listing(path.parent)
        listing.roles[path].add(role_of(path))
    elif path.suffix.lower() == ".csv":
        listing = list_manifest(path)
    else:
        raise InputError(
            f"{path}: neither an image ({' '.join(FORMATS)}) nor a manifest (.csv)", "Name one of them, or a folder"
        )
    if not listing.roles and not listing.findings:
        raise InputError(f"{path}: holds no image ({' '.join(FORMATS)})", "Name a folder of images or a manifest")
    return listing


def _pitfalls(volume: Volume, roles: Collection[str], label_ids: Collection[int]) -> Iterator[Problem | None]:
    yield from header_pitfalls(volume)
    if volume.data is None:
        return
    if "image" in roles:
        yield from image_pitfalls(volume)
    if "label" in roles:
        yield from label_pitfalls(volume.data, label_ids)
    if "mask" in roles:
        yield from mask_pitfalls(volume.data)


def _fix(volume: Volume, problems: list[Problem], listing: Listing, copies: Path) -> dict[Fix, str]:
    """Write a copy without the problems that can be fixed, under the same relative path. What was changed."""
    fixes = {problem.fix for problem in problems if problem.fix}
    relative = Path(listing.name(volume.path))
    if volume.nifti is None or volume.data is None or not fixes or ".." in relative.parts:
        return {}
    if volume.nifti.surplus:  # a copy would hold no more than the header says, which is probably wrong
        return {}
    copy = copies / relative
    return {} if copy.exists() else fix(volume, fixes, copy)


def _change(problem: Problem, changes: dict[Fix, str]) -> str:
    return changes.get(problem.fix, "") if problem.fix else ""
