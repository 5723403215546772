"""Label maps, painted in new random contrasts each time they are used: what the ready model is trained on.

The contrasts are drawn with the batches rather than written to files, so that no contrast is ever seen twice.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
import torchio as tio
from torch import Tensor

from bingo_pl.batch import GroupBatch
from bingo_pl.data_modules.base import GroupDataModule, visible
from bingo_pl.data_modules.cases import Case, Split, to_spacing
from bingo_pl.images.members import Member
from bingo_pl.images.reading import read_image, read_labels
from bingo_pl.phantoms.painting import paint
from bingo_pl.seeding import generator

SIZES = (3, 4, 5)
"""Images in a group; the groups of all label maps take them in turn."""
SLICES = (0.35, 0.5, 0.65)
"""Where a volume is cut in 2D, along each axis, as a share of its length."""
SMALLEST_BODY = 0.1
"""Share of a slice that must be body."""


class AnatomiesDataModule(GroupDataModule):
    """A group is one label map in several random contrasts, all of the one modality in ``modalities``.

    The contrasts of training groups are new in every epoch, those of validation and test are fixed, as the misalignment
    is. In 2D a volume is cut along each axis into slices, each a group. The body is the foreground.
    """

    layout = "Expected label maps <root>/<name>.nii.gz, 3D, with ids of data.label_ids; 0 is outside the body."
    dimensions = (2, 3)

    def list_cases(self) -> dict[Split, list[Case]]:
        files = visible(self.root.glob("*.nii.gz"))
        if not files:
            raise self.not_found()
        return self.split_by_name([self._case(file, SIZES[i % len(SIZES)]) for i, file in enumerate(files)])

    def read_case(self, case: Case) -> list[GroupBatch]:
        """The groups of one label map: their ``labels`` say all, their ``images`` are blank until they are painted."""
        settings = self.preprocessing
        file = case.members[0].image
        subject = tio.Subject(labels=read_labels(file, read_image(file), self.label_ids))
        resampled = to_spacing(subject, [settings.spacing_mm] * 3, file)(subject)["labels"].data[0]
        if len(settings.roi) == 3:
            return [self._group(resampled, case, case.name)]
        groups = []
        for axis, size in enumerate(resampled.shape):
            for share in SLICES:
                plane = resampled.select(axis, round(share * (size - 1)))
                if (plane > 0).float().mean() >= SMALLEST_BODY:
                    groups.append(self._group(plane, case, f"{case.name}_{'xyz'[axis]}{round(100 * share)}"))
        return groups

    def misalign_for_training(self, batch: GroupBatch, epoch: int) -> GroupBatch:
        """New contrasts, then as in any cohort."""
        return super().misalign_for_training(self._paint(batch, epoch), epoch)

    def misalign_for_evaluation(self, batch: GroupBatch, split: Split) -> GroupBatch:
        """The contrasts fixed by the seed, the split and each group's name, then as in any cohort."""
        return super().misalign_for_evaluation(self._paint(batch, split), split)

    def _case(self, file: Path, size: int) -> Case:
        name = file.name.removesuffix(".nii.gz")
        return Case(name, name, (Member(self.modalities[0], file),) * size)

    def _group(self, labels: Tensor, case: Case, name: str) -> GroupBatch:
        """A group of the label map (*S) cropped or padded to the ROI."""
        roi = self.preprocessing.roi
        size = len(case.members)
        volume = tio.LabelMap(tensor=labels.reshape(1, *labels.shape, *[1] * (3 - labels.ndim)))
        placed = tio.CropOrPad((*roi, *[1] * (3 - len(roi))), copy=False)(volume).data.reshape(1, 1, 1, *roi)
        everyone = placed.short().expand(1, size, 1, *roi).contiguous()
        return GroupBatch(
            images=torch.zeros(everyone.shape),
            modalities=torch.zeros(1, size, dtype=torch.long),
            masks=everyone > 0,
            labels=everyone,
            spacing=torch.full((1, len(roi)), self.preprocessing.spacing_mm),
            names=(name,),
        )

    def _paint(self, batch: GroupBatch, occasion: int | Split) -> GroupBatch:
        images = [
            paint(labels[0, 0], batch.size, generator(self.seed, "paint", occasion, name))
            for labels, name in zip(batch.labels, batch.names, strict=True)
        ]
        return replace(batch, images=torch.stack(images))
