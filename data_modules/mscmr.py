"""MS-CMRSeg 2019: short-axis cardiac slices of three MR sequences, matched, aligned and cropped around the heart."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torchio as tio
from pytorch_lightning.utilities import rank_zero_warn

from bingo_pl.batch import UNLABELLED, GroupBatch
from bingo_pl.data_modules.base import GroupDataModule, visible
from bingo_pl.data_modules.cases import Case, Split
from bingo_pl.errors import BingoWarning, InputError, some
from bingo_pl.images.intensity import rescale
from bingo_pl.images.members import Member
from bingo_pl.images.reading import read_image, read_labels
from bingo_pl.images.slices import Plane, align, match_slices

HEART_RADIUS_MM = 50.0
"""Half of the largest extent of both ventricles in a short-axis slice, with a margin for the misalignment."""


class MscmrDataModule(GroupDataModule):
    """One group a slice position: the slices of all sequences there, aligned by affine maps.

    The sequence with the fewest slices is the reference. A position counts if every labelled sequence shows every label
    there. The headers do not relate the sequences reliably, hence the alignment; labels never steer it. The one
    resampling goes from each slice straight to the ROI, centred on the heart's labels.
    """

    layout = (
        "Expected <root>/patient<N>_<sequence>.nii.gz (or .nii) with the sequences of data.modalities, C0, LGE and T2, "
        "and the label maps patient<N>_<sequence>_manual.nii.gz (200 myocardium, 500 left and 600 right ventricle), "
        "flat or one folder deep. The images of the MS-CMRSeg challenge 2019 are available on request from its page at "
        "Fudan University (group of Xiahai Zhuang, zmiclab)."
    )
    dimensions = (2,)

    def list_cases(self) -> dict[Split, list[Case]]:
        files = self._find_files()
        cases, excluded = [], []
        for patient in sorted(files):
            found = files[patient]
            members = tuple(
                Member(m, found[m, ""], found.get((m, "_manual"))) for m in self.modalities if (m, "") in found
            )
            if len(members) < 2 or not any(member.label for member in members):
                excluded.append(patient)
            else:
                cases.append(Case(patient, patient, members))
        if not cases:
            raise self.not_found()
        if excluded:
            rank_zero_warn(
                f"{len(excluded)} patients have fewer than two sequences or no label map and are left out: "
                f"{some(excluded)}",
                category=BingoWarning,
            )
        return self.split_by_name(cases)

    def read_case(self, case: Case) -> list[GroupBatch]:
        stacks, labels = self._read_stacks(case)
        reference = min(range(len(stacks)), key=lambda i: stacks[i].spatial_shape[2])
        plane = Plane.of(stacks[reference])
        for member, stack in zip(case.members, stacks, strict=True):
            if not plane.is_parallel_to(stack):
                raise InputError(
                    f"{member.image}: its slices are not parallel to those of {case.members[reference].image}",
                    "Correct the headers; slices must run along the third array axis",
                )
        matches = [match_slices(plane, stacks[reference], stack) for stack in stacks]
        groups = []
        for k in range(stacks[reference].spatial_shape[2]):
            if not all(k in match for match in matches):
                continue
            positions = [match[k] for match in matches]
            if self._shows_heart(labels, positions):
                groups.append(self._group(case, plane, stacks, labels, positions, reference))
        if not groups:
            rank_zero_warn(
                f"{case.name} is left out: no slice position at which every labelled sequence shows every label",
                category=BingoWarning,
            )
        return groups

    def _find_files(self) -> dict[str, dict[tuple[str, str], Path]]:
        """Files by patient, and by sequence and suffix ("" for images, "_manual" for labels)."""
        pattern = re.compile(rf"(.+)_({'|'.join(map(re.escape, self.modalities))})(|_manual)\.nii(\.gz)?")
        files: dict[str, dict[tuple[str, str], Path]] = defaultdict(dict)
        for path in visible([*self.root.glob("*"), *self.root.glob("*/*")]):
            if match := pattern.fullmatch(path.name):
                patient, modality, suffix, _ = match.groups()
                if (modality, suffix) in files[patient]:
                    raise InputError(
                        f"{path} and {files[patient][modality, suffix]} have the same role", "Remove one of them"
                    )
                files[patient][modality, suffix] = path
        return files

    def _read_stacks(self, case: Case) -> tuple[list[tio.ScalarImage], list[tio.LabelMap | None]]:
        stacks: list[tio.ScalarImage] = []
        labels: list[tio.LabelMap | None] = []
        for member in case.members:
            image = read_image(member.image, self.preprocessing.fill_nonfinite)
            labels.append(
                None if member.label is None else read_labels(member.label, image, self.label_ids, self.relabel)
            )
            stacks.append(rescale(image, member.image))
        return stacks, labels

    def _shows_heart(self, labels: list[tio.LabelMap | None], positions: list[int]) -> bool:
        """Whether each labelled sequence holds all label ids at its position."""
        present = [set(np.unique(x.numpy()[..., k])) for x, k in zip(labels, positions, strict=True) if x is not None]
        return all(ids.issuperset(self.label_ids) for ids in present)

    def _group(
        self,
        case: Case,
        plane: Plane,
        stacks: list[tio.ScalarImage],
        labels: list[tio.LabelMap | None],
        positions: list[int],
        reference: int,
    ) -> GroupBatch:
        """Align the slices at one position to the reference's and resample them to the ROI."""
        name = f"{case.name}_s{positions[reference]:02d}"
        slices = [plane.slice(stack, k) for stack, k in zip(stacks, positions, strict=True)]
        maps = [None if x is None else plane.slice(x, k) for x, k in zip(labels, positions, strict=True)]
        transforms = [
            sitk.AffineTransform(2)
            if i == reference
            else align(slices[reference], slices[i], f"{name} {case.members[i].modality}")
            for i in range(len(slices))
        ]
        order = [reference, *range(len(maps))]  # the reference's labels where it has some, else the first there are
        labelled = next(i for i in order if maps[i] is not None)
        heart = sitk.Resample(maps[labelled], slices[reference], transforms[labelled], sitk.sitkNearestNeighbor)
        grid = self._grid(heart)
        unlabelled = torch.full(self.preprocessing.roi, UNLABELLED, dtype=torch.int16)

        def stack(tensors: list[torch.Tensor]) -> torch.Tensor:
            return torch.stack(tensors)[None, :, None]

        return GroupBatch(
            images=stack([_resample(x, grid, t, sitk.sitkLinear) for x, t in zip(slices, transforms, strict=True)]),
            modalities=torch.tensor([[self.modalities.index(member.modality) for member in case.members]]),
            masks=stack(
                [
                    heart_region(grid) & (_resample(_ones(x), grid, t) > 0)
                    for x, t in zip(slices, transforms, strict=True)
                ]
            ),
            labels=stack(
                [unlabelled if x is None else _resample(x, grid, t) for x, t in zip(maps, transforms, strict=True)]
            ),
            spacing=torch.full((1, 2), self.preprocessing.spacing_mm, dtype=torch.float32),
            names=(name,),
        )

    def _grid(self, heart: sitk.Image) -> sitk.Image:
        """The ROI's grid in the reference plane, centred on the labels of a slice."""
        y, x = np.nonzero(sitk.GetArrayViewFromImage(heart))
        centre = np.array(heart.TransformContinuousIndexToPhysicalPoint([float(x.mean()), float(y.mean())]))
        roi, spacing = np.array(self.preprocessing.roi), self.preprocessing.spacing_mm
        grid = sitk.Image(roi.tolist(), sitk.sitkUInt8)
        grid.SetSpacing([spacing, spacing])
        grid.SetOrigin((centre - spacing * (roi - 1) / 2).tolist())
        return grid


def heart_region(grid: sitk.Image) -> torch.Tensor:
    """The foreground (*S): a disc of `HEART_RADIUS_MM` about the centre of the ROI, which is that of the heart.

    Air, lung and the border of the ROI show nothing by which a registration could be judged or guided.
    """
    axes = zip(grid.GetSize(), grid.GetSpacing(), strict=True)
    offsets = [spacing * (torch.arange(size) - (size - 1) / 2) for size, spacing in axes]
    return torch.stack(torch.meshgrid(*offsets, indexing="ij")).norm(dim=0) < HEART_RADIUS_MM


def _resample(
    image: sitk.Image, grid: sitk.Image, transform: sitk.Transform, how: int = sitk.sitkNearestNeighbor
) -> torch.Tensor:
    """A slice on the ROI's grid (*S), 0 outside its field of view."""
    resampled = sitk.Resample(image, grid, transform, how, 0.0, image.GetPixelID())
    return torch.from_numpy(sitk.GetArrayFromImage(resampled).T.copy())


def _ones(image: sitk.Image) -> sitk.Image:
    """The field of view of a slice."""
    ones = sitk.Image(image.GetSize(), sitk.sitkUInt8) + 1
    ones.CopyInformation(image)
    return ones
