"""BraTS 2021 and every cohort in its layout: co-registered, skull-stripped 3D brain images."""

from __future__ import annotations

from pathlib import Path

import torch
import torchio as tio
from pytorch_lightning.utilities import rank_zero_warn

from bingo_pl.batch import GroupBatch
from bingo_pl.data_modules.base import GroupDataModule, visible
from bingo_pl.data_modules.cases import Case, Split, read_subject, to_group, to_spacing
from bingo_pl.errors import BingoWarning, some
from bingo_pl.images.members import Member


class BratsDataModule(GroupDataModule):
    """One group a case: its modalities, resampled and cropped around the brain. Modalities may be missing in a case."""

    layout = (
        "Expected <root>/<case>/<case>_<modality>.nii.gz (or .nii) with the modalities of data.modalities, e.g. t1, "
        "t1ce, t2, flair, and the label map <case>_seg.nii.gz; <root> is e.g. the BraTS2021_Training_Data folder. The "
        "BraTS 2021 images (RSNA-ASNR-MICCAI) are available after registration at Synapse, www.synapse.org, project "
        "syn25829067."
    )
    dimensions = (3,)

    @property
    def relabel(self) -> dict[int, int]:
        """Some distributions call the enhancing tumour (4) 3."""
        return {3: 4} if 4 in self.label_ids and 3 not in self.label_ids else {}

    def list_cases(self) -> dict[Split, list[Case]]:
        folders = [path for path in visible(self.root.glob("*")) if path.is_dir()]
        cases = []
        incomplete = []
        for folder in folders:
            label = _file(folder, "seg")
            images = {modality: _file(folder, modality) for modality in self.modalities}
            members = tuple(Member(modality, path, label) for modality, path in images.items() if path is not None)
            if not members:
                continue
            cases.append(Case(folder.name, folder.name, members))
            missing = [modality for modality, path in {**images, "seg": label}.items() if path is None]
            if missing:
                incomplete.append(f"{folder.name} ({', '.join(missing)})")
        if not cases:
            raise self.not_found()
        if incomplete:
            rank_zero_warn(
                f"{len(incomplete)} of {len(cases)} cases lack images or labels and are used without: "
                f"{some(incomplete)}",
                category=BingoWarning,
            )
        return self.split_by_name(cases)

    def read_case(self, case: Case) -> list[GroupBatch]:
        settings = self.preprocessing
        subject = read_subject(case, settings)
        masks = [subject[f"mask{i}"].data for i in range(len(case.members))]
        subject.add_image(tio.LabelMap(tensor=torch.stack(masks).amax(dim=0), affine=subject["mask0"].affine), "brain")
        # no smoothing before the resampling: from 1 to 2 mm, linear interpolation is the mean of 8 voxels
        steps = [
            tio.ToCanonical(copy=False),
            to_spacing(subject, [settings.spacing_mm] * 3, case.members[0].image),
            tio.CropOrPad(settings.roi, mask_name="brain", copy=False),
        ]
        return [to_group(tio.Compose(steps, copy=False)(subject), case, settings, axes=range(3))]


def _file(folder: Path, suffix: str) -> Path | None:
    """``<folder>/<folder's name>_<suffix>.nii[.gz]`` if there is one."""
    candidates = [folder / f"{folder.name}_{suffix}{ending}" for ending in (".nii.gz", ".nii")]
    return next((path for path in candidates if path.is_file()), None)
