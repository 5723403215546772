"""A BIDS folder as the images of a population: whom each shows, its contrast, its label map and mask."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bingo_pl.errors import InputError
from bingo_pl.images.members import Member

EXTENSIONS = (".nii.gz", ".nii")
ENTITY = re.compile(r"[a-zA-Z]+-[a-zA-Z0-9+]+")
SHOWN = 3
"""Files that a message names."""


@dataclass(frozen=True)
class Pattern:
    """What a file's name holds: a suffix and, where that is not enough, some of its entities."""

    suffix: str
    entities: frozenset[str]

    @classmethod
    def of(cls, text: str) -> Pattern:
        """Of e.g. ``T1w`` or ``acq-highres_T1w``.

        Raises:
            BingoError: it is no such name.
        """
        *entities, suffix = text.strip().split("_")
        if not suffix.isalnum() or not all(ENTITY.fullmatch(entity) for entity in entities):
            raise InputError(
                f"'{text}' is no BIDS suffix", "Wanted: a suffix, e.g. T1w, or one with entities: acq-3d_T1w"
            )
        return cls(suffix, frozenset(entities))

    def fits(self, file: Path) -> bool:
        *entities, suffix = _stem(file).split("_")
        return suffix == self.suffix and self.entities <= set(entities)

    def __str__(self) -> str:
        return "_".join([*sorted(self.entities), self.suffix])


def read_bids(folder: Path, suffixes: Sequence[str], label: str = "", mask: str = "") -> list[Member]:
    """The images of a BIDS dataset, as a manifest would list them.

    A subject is a session of a person where there are sessions. Those without a suffix lack that contrast. Label maps
    and masks come from ``derivatives/``, and go with the subject's image of the first suffix that it has.

    Args:
        folder: of the dataset.
        suffixes: of the images, by which their modalities are called; with entities where that is not enough.
        label: likewise of label maps, e.g. ``desc-manual_dseg``; empty for none.
        mask: of masks, e.g. ``desc-brain_mask``.

    Raises:
        BingoError: no such folder, no image, or several for one subject and suffix.
    """
    wanted = [Pattern.of(text) for text in suffixes]
    beside = {kind: Pattern.of(text) for kind, text in (("label", label), ("mask", mask)) if text}
    if not wanted:
        raise InputError("no suffix says which images to take", "Name it, e.g. T1w")
    images, derived = _files(folder), _files(*sorted((folder / "derivatives").glob("*/")))
    members = []
    for subject, files in sorted(images.items()):
        found = {pattern: one for pattern in wanted if (one := _one(files, pattern, subject))}
        extra = {kind: _one(derived.get(subject, []), pattern, subject) for kind, pattern in beside.items()}
        for pattern, image in found.items():
            members.append(Member(pattern.suffix, image, extra.get("label"), extra.get("mask"), subject))
            extra = {}
    if not members:
        raise InputError(
            f"{folder}: no sub-<name>/[ses-<name>/]<type>/sub-<name>_..._{' or '.join(map(str, wanted))}.nii[.gz] in "
            "it",
            "Name the folder of a BIDS dataset, and suffixes that it has",
        )
    for kind, pattern in beside.items():
        if not any(getattr(member, kind) for member in members):
            raise InputError(f"{folder / 'derivatives'}: no {kind} ({pattern}) of any image", "Correct its suffix")
    return members


def _files(*roots: Path) -> Mapping[str, list[Path]]:
    """All volumes of each subject, or session, in some datasets."""
    files: dict[str, list[Path]] = {}
    for root in roots:
        for pattern in ("sub-*/*/*", "sub-*/ses-*/*/*"):
            for path in sorted(root.glob(pattern)):
                if path.name.endswith(EXTENSIONS) and path.name.startswith("sub-") and path.is_file():
                    files.setdefault(_subject(path), []).append(path)
    return files


def _subject(path: Path) -> str:
    """sub-<name>[_ses-<name>] of a file's name."""
    return "_".join(part for part in _stem(path).split("_") if part.startswith(("sub-", "ses-")))


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _one(files: Sequence[Path], pattern: Pattern, subject: str) -> Path | None:
    fitting = [path for path in files if pattern.fits(path)]
    if len(fitting) > 1:
        names = ", ".join(path.name for path in fitting[:SHOWN])
        raise InputError(
            f"{subject} has {len(fitting)} files of {pattern}: {names}",
            f"Say which by an entity, e.g. run-1_{pattern.suffix}",
        )
    return fitting[0] if fitting else None
