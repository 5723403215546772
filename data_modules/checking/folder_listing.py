"""Image files below a folder, and the groups that their names suggest."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from data_modules.checking.listing import FORMATS, Finding, Group, Listing, ending, foreign
from data_modules.preprocess import Member
from data_modules.problems import Problem

FOREIGN = (".dcm", ".ima", ".hdr", ".img", ".mif", ".mnc", ".par", ".rec", ".nii.bz2", ".nii.zst")
"""Medical images in other formats. Other files beside images, such as tables and texts, are none of our business."""
LABEL_WORDS = frozenset({"seg", "segmentation", "label", "labels", "manual", "lesion", "lesions", "gt", "goldstandard"})
MASK_WORDS = frozenset({"mask", "brainmask"})
"""A file with such a word in its name is a label map or a mask: `patient1_C0_manual`, `case_seg`, `t1_mask`."""


def list_folder(root: Path) -> Listing:
    """All image files below a folder; a folder that cannot be opened is a finding."""
    listing = Listing(root)
    files: list[Path] = []
    others: Counter[tuple[str, str]] = Counter()

    def unreadable(error: OSError) -> None:
        problem = Problem(
            "error", f"cannot be opened ({error.strerror})", "its images are not seen", "Correct its permissions"
        )
        listing.findings.append(Finding(listing.name(Path(error.filename)), problem))

    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        names = [name for name in names if not name.startswith(".")]  # macOS leaves ._x.nii.gz beside x.nii.gz
        files += [Path(folder) / name for name in sorted(names) + folders if ending(Path(name), FORMATS)]
        others.update((folder, suffix) for name in names if (suffix := ending(Path(name), FOREIGN)))
    for (folder, suffix), count in others.items():
        where = f"{listing.name(Path(folder))}: {count} file{'s' * (count > 1)}"
        listing.findings.append(Finding(where, foreign(suffix)))
    for file in files:
        listing.roles[file].add(role_of(file))
    for group in _guess_groups(files):
        listing.groups.append(group)
    return listing


def _guess_groups(files: list[Path]) -> Iterator[Group]:
    """By names ``<case>_<modality>``; a name without an underscore is a modality, its folder the case.

    A label map or mask belongs to the image whose name it has without the words that say what it is, else to the
    images of the case of this name.
    """
    cases: dict[tuple[Path, str], dict[str, Path]] = defaultdict(dict)
    for file in files:
        if role_of(file) == "image":
            case, _, modality = _stem(file).rpartition("_")
            cases[file.parent, case or file.parent.name][modality] = file
    annotations: dict[tuple[Path, str, str], Path] = {
        (file.parent, _without_role(_stem(file)), role_of(file)): file for file in files if role_of(file) != "image"
    }
    for (folder, case), images in cases.items():

        def annotation(stem: str, role: str, folder: Path = folder, case: str = case) -> Path | None:
            return annotations.get((folder, stem, role)) or annotations.get((folder, case, role))

        members = [
            Member(modality, image, annotation(_stem(image), "label"), annotation(_stem(image), "mask"))
            for modality, image in images.items()
        ]
        yield Group(case, tuple(members), stated=False)


def _stem(path: Path) -> str:
    return path.name[: -len(ending(path, FORMATS))]


def role_of(path: Path) -> str:
    """What a file's name says that it is: image, label or mask."""
    words = set(re.split(r"[^a-z0-9]+", path.name.lower()))
    return "label" if words & LABEL_WORDS else "mask" if words & MASK_WORDS else "image"


def _without_role(stem: str) -> str:
    words = "|".join(sorted(LABEL_WORDS | MASK_WORDS))
    return re.sub(rf"(?i)(^|[^a-z0-9])({words})(?![a-z0-9])", "", stem)
