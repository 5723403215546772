"""Learn2Reg's AbdomenMRCT: abdominal MR and CT of different people, a population to be registered as one group."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torchio as tio
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from bingo_pl.batch import GroupBatch
from bingo_pl.data_modules.base import GroupDataModule
from bingo_pl.data_modules.cache import CachedGroup
from bingo_pl.data_modules.cases import SPLITS, Case, Split, to_group, to_spacing
from bingo_pl.data_modules.pairing import CrossSubjectSampler, Pairs, merge
from bingo_pl.errors import BingoWarning, InputError, some, unknown_name
from bingo_pl.images.intensity import foreground
from bingo_pl.images.members import Member
from bingo_pl.images.problems import Problem, refuse
from bingo_pl.images.reading import read_image, read_labels, read_mask, unknown_ids

MODALITIES = {"MR": "0000", "CT": "0001"}
"""Modalities and their codes in the file names."""
CT_WINDOW_HU = (-200.0, 300.0)
"""Soft tissue; air and whatever a scanner writes outside its field of view become 0."""
MR_PERCENTILE = 99.0
"""Of the foreground's intensities, becomes 1."""
MERGED_PAIRS = (1, 2, 4, 8)
"""How many pairs make a group, as in the paper's Table 2."""
LIVER = 1
TOTALSEGMENTATOR = {5: 1, 1: 2, 2: 3, 3: 4}
"""The challenge's ids by TotalSegmentator's, whose other structures are background here."""
TOTALSEGMENTATOR_IDS = range(1, 118)

Images = tuple[Member, ...]
"""One person's."""


class Learn2RegDataModule(GroupDataModule):
    """Training on one MR and one CT of different people a step; tests on groups of 1, 2, 4 and 8 merged test pairs.

    The pairs of MR and CT of one person serve for testing (the last ``splits[2]``; those of ``imagesTs`` come last) and
    validation (``splits[1]`` before them, which are merged as test pairs are, and all of them to one group). All other
    people are for training, ``splits[0]`` of them at most, with an MR, a CT or both. Training images are deformed at
    random. Nothing is known of how one body truly maps to another, so validation and test images stay as they are, and
    so there is ground truth only for several ``copies`` of each training image (`bingo_pl.data_modules.copies`).

    Each image is resampled on its own grid about its own centre: the challenge has aligned them roughly, in voxels.
    """

    layout = (
        "Expected <root>/imagesTr/AbdomenMRCT_<NNNN>_0000.nii.gz (MR) and _0001.nii.gz (CT), pairs 0001 to 0008 and "
        "unpaired images; imagesTs with the pairs 0009 to 0016; the same names in labelsTr and labelsTs (1 liver, "
        "2 spleen, 3 right and 4 left kidney) or TSlabelsTs (TotalSegmentator's ids), masksTr and masksTs. The archive "
        "AbdomenMRCT.zip is linked at learn2reg.grand-challenge.org/Datasets (Abdomen MR-CT)."
    )
    dimensions = (3,)
    of_one_anatomy = False

    def list_cases(self) -> dict[Split, list[Case]]:
        """A case is a person in training, a group of merged pairs in validation and test."""
        self._check_population()
        subjects = self._find_subjects()
        if not subjects:
            raise self.not_found()
        most, validation, testing = self.splits
        pairs = [name for name, members in subjects.items() if len(members) == len(MODALITIES)]
        if len(pairs) < validation + testing:
            raise InputError(
                f"{self.root}: found {len(pairs)} people with MR and CT ({some(pairs) or 'none'}), but data.splits="
                f"{[*self.splits]} asks for {validation} to validate and {testing} to test",
                self.layout,
            )
        held_out = pairs[len(pairs) - validation - testing :]
        training = [name for name in subjects if name not in held_out][:most]
        val, test = held_out[:validation], held_out[validation:]
        return {
            "train": [Case(name, name, subjects[name], fewest=1) for name in training],
            "val": _merged_groups(val, subjects, sorted({*MERGED_PAIRS, len(val)})),
            "test": _merged_groups(test, subjects, MERGED_PAIRS),
        }

    def read_case(self, case: Case) -> list[GroupBatch]:
        """A training case's images singly, named ``<case>_<modality>``; a merged group's as one batch."""
        images = [self._read_member(case, member) for member in case.members]
        return images if case.fewest == 1 else [merge(images, case.name)]

    def misalign_for_evaluation(self, batch: GroupBatch, split: Split) -> GroupBatch:
        """The batch as it is: people are misaligned enough."""
        return batch

    def _find_groups(self) -> dict[Split, list[CachedGroup]]:
        return {split: [group for case in self.cases[split] for group in self.cache.groups(case)] for split in SPLITS}

    def _dataset(self, split: Split) -> Dataset[GroupBatch]:
        images = super()._dataset(split)
        return Pairs(images) if split == "train" else images

    def _sampler(
        self, split: Split, shuffle_seed: int | None, rank: int = 0, world_size: int = 1
    ) -> Sampler[list[Any]]:
        if split != "train":
            return super()._sampler(split, shuffle_seed, rank, world_size)
        people, modalities = zip(*(group.name.rsplit("_", 1) for group in self.groups["train"]), strict=True)
        positions = [self.modalities.index(modality) for modality in modalities]
        return CrossSubjectSampler(positions, people, self.batch_size, self.seed, rank, world_size)

    def _check_population(self) -> None:
        for modality in self.modalities:
            if modality not in MODALITIES:
                raise unknown_name("modality of AbdomenMRCT (data.modalities)", modality, MODALITIES)
        wanted = {
            "modalities": (len(self.modalities), 2, "both, MR and CT"),
            "images_per_step": (self.images_per_step, 2, "2, one MR and one CT of different people"),
            "draws_per_test_group": (self.draws_per_test_group, 1, "1, since test images are not misaligned"),
            "splits": (min(self.splits[1], 1), 1, "at least one pair for validation, since none can stand in"),
        }
        for name, (value, right, meaning) in wanted.items():
            if value != right:
                raise InputError(f"data.{name}={getattr(self, name)} does not suit a population, wanted {meaning}")

    def _find_subjects(self) -> dict[str, Images]:
        """Everybody's images, named ``Tr0001``: those of imagesTr before those of imagesTs, each by number."""
        modality_of = {code: modality for modality, code in MODALITIES.items()}
        found: dict[str, list[Member]] = defaultdict(list)
        unlabelled = []
        for path in sorted(self.root.glob("images*/AbdomenMRCT_*.nii.gz")):
            match = re.fullmatch(r"images(Tr|Ts)/AbdomenMRCT_(\d{4})_(000[01])\.nii\.gz", "/".join(path.parts[-2:]))
            if match is None:
                continue
            part, number, code = match.groups()
            beside = [self.root / f"{folder}{part}" / path.name for folder in ("labels", "TSlabels", "masks")]
            labels, others, mask = (file if file.is_file() else None for file in beside)
            found[part + number].append(Member(modality_of[code], path, labels or others, mask))
            if not (labels or others):
                unlabelled.append(f"{part + number}_{code}")
        if unlabelled:
            rank_zero_warn(
                f"{len(unlabelled)} images have no label map and no Dice: {some(unlabelled)}", category=BingoWarning
            )
        return {name: tuple(members) for name, members in found.items()}

    def _read_member(self, case: Case, member: Member) -> GroupBatch:
        """One image on the ROI's grid, a group of its own."""
        settings = self.preprocessing
        image = read_image(member.image, settings.fill_nonfinite)
        entries: dict[str, tio.Image] = {}
        if member.modality == "CT":
            image.set_data(_windowed(image.data, member.image))
        if member.mask is None:
            entries["mask0"] = tio.LabelMap(tensor=foreground(image.data).to(torch.uint8), affine=image.affine)
        else:
            entries["mask0"] = read_mask(member.mask, image)
        if member.modality == "MR":
            image.set_data(_normalised(image.data, entries["mask0"].data > 0, member.image))
        if member.label is not None:
            entries[f"labels:{member.label}"] = read_organs(member.label, image, settings.label_ids)
        subject = tio.Subject(image0=image, **entries)
        steps = [
            tio.ToCanonical(copy=False),
            to_spacing(subject, [settings.spacing_mm] * 3, member.image),
            tio.CropOrPad(settings.roi, copy=False),
        ]
        subject = tio.Compose(steps, copy=False)(subject)
        single = Case(f"{case.name}_{member.modality}", case.subject, (member,), fewest=1)
        return to_group(subject, single, settings, axes=range(3))


def read_organs(path: Path, image: tio.ScalarImage, label_ids: Sequence[int]) -> tio.LabelMap:
    """Read a label map under the challenge's ids or TotalSegmentator's, as the test pairs' are in circulation.

    The liver's id tells them apart: the challenge has none above 4. Whichever it is, the liver must come out as the
    largest of the organs, else the ids are of a third scheme.

    Args:
        path: the file.
        image: the image that it labels; both must be on one grid.
        label_ids: the challenge's ids that may occur.

    Returns:
        (1, X, Y, Z) int16 under the challenge's ids.

    Raises:
        BingoError: as `bingo_pl.images.reading.read_labels`, or neither scheme fits.
    """
    labels = read_labels(path, image, TOTALSEGMENTATOR_IDS)
    if labels.data.max() > max(TOTALSEGMENTATOR.values()):
        table = torch.zeros(max(TOTALSEGMENTATOR_IDS) + 1, dtype=torch.int16)
        table[list(TOTALSEGMENTATOR)] = torch.tensor(list(TOTALSEGMENTATOR.values()), dtype=torch.int16)
        labels.set_data(table[labels.data.long()])
    refuse(path, unknown_ids(labels.data.numpy(), label_ids), _liver_not_largest(labels.data))
    return labels


def _liver_not_largest(labels: Tensor) -> Problem | None:
    ids, counts = labels[labels > 0].unique(return_counts=True)
    if not len(ids) or ids[counts.argmax()] == LIVER:
        return None
    sizes = ", ".join(f"{i}: {count}" for i, count in zip(ids.tolist(), counts.tolist(), strict=True))
    return Problem(
        "error",
        f"the largest labelled organ is {ids[counts.argmax()]}, but the liver is {LIVER} (voxels by id {sizes})",
        "the label ids are not the challenge's, so organs would be scored as one another",
        "Rewrite them as 1 liver, 2 spleen, 3 right kidney, 4 left kidney",
    )


def _windowed(hounsfield: Tensor, path: Path) -> Tensor:
    """`CT_WINDOW_HU` mapped to [0, 1]."""
    if hounsfield.min() >= 0:
        raise InputError(
            f"{path}: no voxel is negative, so these are no Hounsfield units, in which air is -1000 and fat -100",
            f"Put CT under the code {MODALITIES['CT']} and MR under {MODALITIES['MR']}",
        )
    low, high = CT_WINDOW_HU
    return ((hounsfield - low) / (high - low)).clamp(0, 1)


def _normalised(image: Tensor, mask: Tensor, path: Path) -> Tensor:
    """From the least value to `MR_PERCENTILE` of the foreground mapped to [0, 1]."""
    low, high = float(image.min()), float(image[mask].quantile(MR_PERCENTILE / 100))
    if high <= low:
        raise InputError(f"{path}: the foreground is constant", "Remove or replace the image")
    return ((image - low) / (high - low)).clamp(0, 1)


def _merged_groups(pairs: Sequence[str], subjects: Mapping[str, Images], sizes: Sequence[int]) -> list[Case]:
    """Groups of as many pairs as each of ``sizes`` says; pairs that do not fill the last one of a size are left out."""
    return [_merged(pairs[i : i + k], subjects) for k in sizes for i in range(0, len(pairs) - k + 1, k)]


def _merged(names: Sequence[str], subjects: Mapping[str, Images]) -> Case:
    """The pairs of several people as one group."""
    members = tuple(member for name in names for member in subjects[name])
    case = f"{len(members):02d}_images_{names[0]}_{names[-1]}"
    return Case(case, case, members)
