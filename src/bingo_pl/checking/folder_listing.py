"""Image files below a folder, and the groups that their names suggest."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from bingo_pl.checking.listing import Finding, Group, Listing, foreign
from bingo_pl.images.members import Member
from bingo_pl.images.naming import (
    FORMATS,
    case_and_modality,
    ending,
    has_channels,
    place_of,
    role_of,
    stem_of,
    without_role,
)
from bingo_pl.images.problems import Problem

FOREIGN = (".dcm", ".ima", ".hdr", ".img", ".mif", ".mnc", ".par", ".rec", ".nii.bz2", ".nii.zst")
"""Medical images in other formats. Other files beside images, such as tables and texts, are none of our business."""
UNPAIRED = Problem(
    "note",
    "belongs to no image here, by its name",
    "whether it lies on its image's grid is not known",
    "Nothing need be done, unless the name is wrong",
)
"""Of a label map or mask."""


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
        listing.roles[file].add(role_of(file, root))
    _add_groups(listing, files)
    return listing


Candidates = tuple[str, tuple[Path, ...]]
"""A case, and those of its images to which a label map or mask may belong."""


class _Folder:
    """The images of one folder by case; a name that is a modality alone has no case but the folder."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.cases: dict[str, tuple[Member, ...]] = {}
        self._by_name: dict[str, Candidates] = {}
        channels = has_channels([stem_of(path) for path in paths])
        for path in paths:
            case, modality = case_and_modality(stem_of(path), channels)
            case = case or path.parent.name
            self.cases[case] = (*self.cases.get(case, ()), Member(modality, path))
        for case in self.cases:
            self._by_name[case] = self._all_of(case)
        for case, members in self.cases.items():
            self._by_name |= {stem_of(member.image): (case, (member.image,)) for member in members}

    def candidates(self, stem: str) -> Candidates | None:
        """By a label map's or mask's name: the image of this name, else the images of the case of this name.

        A name of nothing else than that it is one belongs to all images where they are of one case.
        """
        if not stem:
            return self._all_of(next(iter(self.cases))) if len(self.cases) == 1 else None
        case, modality = case_and_modality(stem, channels=False)
        return self._by_name.get(stem) or (None if modality else self._by_name.get(case))

    def _all_of(self, case: str) -> Candidates:
        return case, tuple(member.image for member in self.cases[case])


def _add_groups(listing: Listing, files: Sequence[Path]) -> None:
    """Groups of the images in one folder that are of one case, with the label maps and masks that belong to them.

    Those belong to images in their own folder, else in a folder of images that lies as theirs does.
    """
    images: dict[Path, list[Path]] = defaultdict(list)
    for file in files:
        if "image" in listing.roles[file]:
            images[file.parent].append(file)
    folders = {folder: _Folder(paths) for folder, paths in images.items()}
    alike: dict[tuple[str, ...], list[Path]] = defaultdict(list)
    for folder in folders:
        alike[place_of(folder, listing.folder)].append(folder)
    owned: dict[tuple[Path, str], dict[Path, tuple[Path, ...]]] = defaultdict(dict)
    for file in files:
        if listing.roles[file] & {"label", "mask"}:
            nearby = dict.fromkeys((file.parent, *alike[place_of(file.parent, listing.folder)]))
            owner = _owner(file, {folder: folders[folder] for folder in nearby if folder in folders})
            if owner is not None:
                folder, (case, candidates) = owner
                owned[folder, case][file] = candidates
            elif folders and without_role(stem_of(file)):  # `seg.nii.gz` beside several cases names none
                listing.findings.append(Finding(listing.name(file), UNPAIRED))
    for folder, content in folders.items():
        for case, members in content.cases.items():
            listing.groups.append(Group(case, members, owned[folder, case], stated=False))


def _owner(file: Path, folders: Mapping[Path, _Folder]) -> tuple[Path, Candidates] | None:
    """The folder, case and images to which a label map or mask belongs, by its name as it is or without its role."""
    for stem in (stem_of(file), without_role(stem_of(file))):
        for folder, content in folders.items():
            if (candidates := content.candidates(stem)) is not None:
                return folder, candidates
    return None
