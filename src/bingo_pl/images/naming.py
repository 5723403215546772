"""What names of files and folders say: image, label map or mask, of which case, which modality.

Known are ``<case>_<modality>``, nnU-Net's and Learn2Reg's folders (``imagesTr/case_0000.nii.gz``,
``labelsTr/case.nii.gz``, ``masksTr``) and BIDS (``sub-01/anat/sub-01_T1w.nii.gz``,
``derivatives/<pipeline>/sub-01/anat/sub-01_dseg.nii.gz``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

from bingo_pl.errors import InputError
from bingo_pl.storage.regular import is_folder

FORMATS = (".nii", ".nii.gz", ".mha", ".mhd", ".nrrd", ".nhdr", ".mgz", ".mgh")
"""One file a volume, with its place in space."""
LABEL_WORDS = frozenset(
    {"seg", "dseg", "segmentation", "label", "labels", "manual", "lesion", "lesions", "gt", "goldstandard"}
)
MASK_WORDS = frozenset({"mask", "brainmask"})
"""A file with such a word in its name is a label map or a mask: `patient1_C0_manual`, `case_seg`, `t1_mask`."""
PROBABILITY_WORDS = frozenset({"probseg"})
"""Neither: BIDS' probabilities of a structure."""
_PART = "tr|ts|te|val|train|training|test|testing|validation"
_FOLDERS = {
    "label": r"(ts)?(manual|lesion|organ)?(labels?|labelmaps?|segs?|segmentations?|annotations?|gts?|groundtruths?)",
    "mask": r"(brain|body|foreground)?masks?",
    "image": r"images?|imgs?|rawdata|sourcedata",
}
"""What folders of one kind of file are called, without spaces, dashes and the part of the cohort (`labelsTr`)."""
_OF_ANNOTATIONS = ("desc", "label", "seg", "atlas", "res", "den")
"""BIDS entities that an image's derivatives have and the image has not."""
_OF_CASES = ("sub", "ses", "space")
"""BIDS entities by which images are registered together."""
_OWN_SPACE = re.compile(r"space-(orig|native|individual|scanner|[A-Z][A-Za-z0-9]*w)")
"""The space of the person's own images: no other than without the entity."""


def role_of(path: Path, root: Path | None = None) -> str:
    """What a file is: image, label, mask or probability; folders below and including ``root`` count.

    Without ``root`` the folder that holds the file counts.
    """
    folders = path.parent.relative_to(root).parts if root else ()
    names = [(root or path.parent).resolve().name, *folders]
    kinds = [(kind, part) for name in reversed(names) for kind, part in [_folder(name)] if kind]
    kind, part = kinds[0] if kinds else ("", "")
    if kind == "image" and part:  # imagesTr holds nothing else, whatever a case is called
        return "image"
    words = set(re.split(r"[^a-z0-9]+", path.name.lower()))
    if words & PROBABILITY_WORDS:
        return "probability"
    if kind == "label" or words & LABEL_WORDS:
        return "label"
    return "mask" if kind == "mask" or words & MASK_WORDS else "image"


def place_of(folder: Path, root: Path) -> tuple[str, ...]:
    """Where a folder lies, the same for those of images and of their label maps beside each other."""
    folders = list(folder.relative_to(root).parts)
    if "derivatives" in folders:
        start = folders.index("derivatives")
        of_pipeline = 2 if folders[start + 1 : start + 2] and not folders[start + 1].startswith("sub-") else 1
        del folders[start : start + of_pipeline]
    parts = [part if kind else name for name in folders for kind, part in [_folder(name)]]
    return tuple(part for part in parts if part)


def ending(path: Path, suffixes: tuple[str, ...]) -> str:
    """The longest of the suffixes that a file's name ends with, or nothing."""
    return max((suffix for suffix in suffixes if path.name.lower().endswith(suffix)), key=len, default="")


def stem_of(path: Path) -> str:
    """The name without its suffix; of label maps and masks also without what says that it is one."""
    return path.name[: len(path.name) - len(ending(path, FORMATS))]


def without_role(stem: str) -> str:
    """What a label map's or mask's name says of its image."""
    if stem.startswith("sub-"):
        entities = stem.split("_")
        stem = "_".join(entity for entity in entities if entity.partition("-")[0] not in _OF_ANNOTATIONS)
    words = "|".join(sorted(LABEL_WORDS | MASK_WORDS))
    return re.sub(rf"(?i)(^|[^a-z0-9])({words})(?![a-z0-9])", "", stem)


def has_channels(stems: Collection[str]) -> bool:
    """Whether the names of a folder end with nnU-Net's channels, ``_0000`` and so on, instead of modalities."""
    return any(stem.endswith("_0000") for stem in stems)


def case_and_modality(stem: str, channels: bool) -> tuple[str, str]:
    """Of an image's name; the case is empty where the name is a modality alone.

    A number is no modality, unless it is one of nnU-Net's ``channels``: `hippocampus_003` is a case.
    """
    if stem.startswith("sub-"):
        entities = [entity for entity in stem.split("_") if not _OWN_SPACE.fullmatch(entity)]
        of_case = [entity for entity in entities if entity.partition("-")[0] in _OF_CASES]
        return "_".join(of_case), "_".join(entity for entity in entities if entity not in of_case)
    case, _, modality = stem.rpartition("_")
    if case and modality.isdecimal() and not (channels and len(modality) == 4):
        return stem, "image"
    return case, modality


def modality_of(path: Path) -> str:
    """What the name of an image says of its modality: t1 of ``t1.nii.gz`` and of ``patient1_t1.nii.gz``.

    Raises:
        BingoError: by its name the file is no image.
    """
    if is_folder(path):
        raise InputError(f"{path}: a folder", f"Name the images in it, e.g. {path}/*.nii.gz")
    role = role_of(path)
    if role in ("label", "mask"):
        raise InputError(
            f"{path}: by its name a {role}",
            f"Leave it out, or give it with its image: --{role} NAME={path.name}. If it is an image, name its "
            f"modality: MODALITY={path.name}",
        )
    if role != "image":
        raise InputError(
            f"{path}: by its name a map of {role}", f"Leave it out, or name its modality: MODALITY={path.name}"
        )
    return case_and_modality(stem_of(path), channels=False)[1]


def _folder(name: str) -> tuple[str, str]:
    """The kind of files that a folder of this name holds, or nothing, and the part of the cohort, or nothing."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    for kind, pattern in _FOLDERS.items():
        if match := re.fullmatch(rf"(?P<first>{_PART})?({pattern})(?P<last>{_PART})?", plain):
            part = match["last"] or match["first"] or ""
            return kind, "val" if part.startswith("val") else part[:2]
    return "", ""
