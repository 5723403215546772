"""Any cohort that a CSV file describes, 2D or 3D: one line an image."""

from __future__ import annotations

import torchio as tio
from pytorch_lightning.utilities import rank_zero_warn

from bingo_pl.batch import GroupBatch
from bingo_pl.data_modules.base import GroupDataModule
from bingo_pl.data_modules.cases import SPLITS, Case, Split, read_subject, to_group, to_spacing
from bingo_pl.data_modules.manifest_cohort import COHORT, groups_of, with_cohort_problems
from bingo_pl.errors import BingoWarning, InputError, unknown_name
from bingo_pl.images.manifest import Row, read_manifest
from bingo_pl.storage.regular import is_file, is_folder


class ManifestDataModule(GroupDataModule):
    """Groups as the manifest lists them, on the grid of their first image.

    ``spacing_mm`` <= 0 keeps that grid; else 3D groups are brought to RAS orientation and resampled isotropically, 2D
    groups are resampled in-plane. The ROI is cropped from the centre or padded. ``splits`` is ignored.
    """

    layout = COHORT.layout
    dimensions = (2, 3)
    may_keep_grid = True

    def list_cases(self) -> dict[Split, list[Case]]:
        path = self.root / "manifest.csv" if is_folder(self.root) else self.root
        if not is_file(path):
            raise self.not_found()
        manifest = with_cohort_problems(read_manifest(path, COHORT))
        manifest.refuse()
        for problem in manifest.problems:
            if problem.severity == "warning":
                rank_zero_warn(f"{path}: {problem.what}: {problem.why}", category=BingoWarning)
        for modality in {row.member.modality for row in manifest.rows} - set(self.modalities):
            raise unknown_name(f"modality in {path} (data.modalities)", modality, self.modalities)
        cases: dict[Split, list[Case]] = {split: [] for split in SPLITS}
        for name, rows in groups_of(manifest).items():
            case = Case(name, rows[0].cells["subject"], tuple(row.member for row in rows))
            cases[_split(rows[0])].append(case)
        return cases

    def read_case(self, case: Case) -> list[GroupBatch]:
        settings = self.preprocessing
        subject = read_subject(case, settings)
        flat = [axis for axis, size in enumerate(subject.spatial_shape) if size == 1]
        dimension = len(settings.roi)
        if (dimension == 2 and not flat) or (dimension == 3 and flat):
            raise InputError(
                f"{case.members[0].image}: has {subject.spatial_shape} voxels, but data.roi={[*settings.roi]} "
                f"asks for {dimension}D images",
                f"Set data.roi to {5 - dimension} sizes, or list {dimension}D images",
            )
        roi = list(settings.roi)
        spacing = [settings.spacing_mm] * 3
        axes = [0, 1, 2]
        if dimension == 2:
            axis = axes.pop(flat[-1])
            roi.insert(axis, 1)
            spacing[axis] = subject.spacing[axis]
        steps: list[tio.Transform] = []
        if settings.spacing_mm > 0:
            steps = [tio.ToCanonical(copy=False)] if dimension == 3 else []
            steps += [to_spacing(subject, spacing, case.members[0].image)]
        steps += [tio.CropOrPad(tuple(roi), copy=False)]
        return [to_group(tio.Compose(steps, copy=False)(subject), case, settings, axes)]


def _split(row: Row) -> Split:
    """Of a manifest that has been checked."""
    return next(split for split in SPLITS if split == row.cells["split"])
