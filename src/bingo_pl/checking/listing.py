"""What `bingo check` looks at and what it finds: files with their roles, groups, problems."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bingo_pl.images.members import Member
from bingo_pl.images.naming import FORMATS
from bingo_pl.images.problems import Problem


@dataclass(frozen=True)
class Finding:
    """A problem and where it is."""

    where: str
    """A file, a group or a line of a manifest."""
    problem: Problem
    change: str = ""
    """What was changed in the corrected copy; empty where there is none."""


@dataclass(frozen=True)
class Group:
    """Images that are registered together."""

    name: str
    members: tuple[Member, ...]
    annotations: Mapping[Path, tuple[Path, ...]]
    """Label maps and masks, and of each the images to which it may belong."""
    stated: bool
    """By a manifest; else guessed from names."""
    fewest: int = 2
    """Images without which the group is of no use."""

    @classmethod
    def listed(cls, name: str, members: Iterable[Member], fewest: int) -> Group:
        """As a manifest states it."""
        members = tuple(members)
        annotations: dict[Path, tuple[Path, ...]] = {}
        for member in members:
            for path in (member.label, member.mask):
                if path is not None:
                    annotations[path] = (*annotations.get(path, ()), member.image)
        return cls(name, members, annotations, stated=True, fewest=fewest)


@dataclass
class Listing:
    """What there is to look at."""

    folder: Path
    """What relative paths are relative to."""
    roles: dict[Path, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Every file, and what it is used as: image, label, mask or probability."""
    groups: list[Group] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def add(self, group: Group) -> None:
        self.groups.append(group)
        for member in group.members:
            for path, role in ((member.image, "image"), (member.label, "label"), (member.mask, "mask")):
                if path is not None:
                    self.roles[path].add(role)

    def name(self, path: Path) -> str:
        """How messages call a file."""
        return os.path.relpath(path, self.folder)


def foreign(suffix: str) -> Problem:
    """A format that is not among `FORMATS`."""
    return Problem(
        "warning",
        f"the format {suffix or '(no suffix)'} is not one of {' '.join(FORMATS)}",
        "it is not read, or not reliably: other formats may hold one slice of a volume, or no place in space",
        "Convert it to .nii.gz, e.g. with dcm2niix (DICOM) or SimpleITK",
    )
