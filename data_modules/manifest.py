"""Any cohort that a CSV file describes, 2D or 3D: one line an image."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torchio as tio
from pytorch_lightning.utilities import rank_zero_warn

from bingo_pl.batch import GroupBatch
from bingo_pl.errors import BingoError, unknown_name
from data_modules.base import SPLITS, GroupDataModule, Split, some
from data_modules.preprocess import Case, Member, read_subject, to_group, to_spacing

COLUMNS = ("split", "group", "subject", "modality", "image", "label")


class ManifestDataModule(GroupDataModule):
    """Groups as the manifest lists them, on the grid of their first image.

    ``spacing_mm`` <= 0 keeps that grid; else 3D groups are brought to RAS orientation and resampled isotropically, 2D
    groups are resampled in-plane. The ROI is cropped from the centre or padded. ``splits`` is ignored.
    """

    layout = (
        "Expected manifest.csv in data.root, or its path as data.root, with a header line and the columns "
        f"{','.join(COLUMNS)} and optionally mask. split is train, val or test; the lines of one group have the "
        "same group; label and mask may be empty; paths are relative to the CSV file or absolute."
    )
    dimensions = (2, 3)
    may_keep_grid = True

    def list_cases(self) -> dict[Split, list[Case]]:
        path = self.root / "manifest.csv" if self.root.is_dir() else self.root
        if not path.is_file():
            raise self.not_found()
        table = self._read_table(path)
        _warn_of_shared_subjects(table)
        cases: dict[Split, list[Case]] = {split: [] for split in SPLITS}
        for name, lines in table.groupby("group", sort=False):
            if lines["split"].nunique() > 1:
                raise BingoError(
                    f"{path}: group '{name}' is in the splits {', '.join(lines['split'].unique())}; keep it in one"
                )
            repeated = lines["image"][lines["image"].duplicated()]
            if len(repeated):
                raise BingoError(
                    f"{path}: group '{name}' lists {repeated.iloc[0]} more than once. Remove the duplicate lines"
                )
            members = tuple(_member(path.parent, line) for _, line in lines.iterrows())
            cases[lines["split"].iloc[0]].append(Case(str(name), lines["subject"].iloc[0], members))
        return cases

    def read_case(self, case: Case) -> list[GroupBatch]:
        settings = self.preprocessing
        subject = read_subject(case, settings)
        flat = [axis for axis, size in enumerate(subject.spatial_shape) if size == 1]
        dimension = len(settings.roi)
        if (dimension == 2 and not flat) or (dimension == 3 and flat):
            raise BingoError(
                f"{case.members[0].image}: has {subject.spatial_shape} voxels, but data.roi={[*settings.roi]} "
                f"asks for {dimension}D images. Set data.roi to {5 - dimension} sizes, or list {dimension}D images"
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

    def _read_table(self, path: Path) -> pd.DataFrame:
        """The manifest's lines, all text, with known splits and modalities and no empty cell where one is needed."""
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
        except (ValueError, OSError) as error:  # pandas' parser errors and UnicodeDecodeError are ValueErrors
            raise BingoError(f"{path}: cannot be read as CSV ({error}). {self.layout}") from error
        if missing := [column for column in COLUMNS if column not in table]:
            raise BingoError(
                f"{path}: has no column {', '.join(missing)}, only {', '.join(table.columns)}. {self.layout}"
            )
        if table.empty:
            raise BingoError(f"{path}: lists no image. {self.layout}")
        for column in ("split", "group", "subject", "modality", "image"):
            empty = table.index[table[column].str.strip() == ""]
            if len(empty):
                raise BingoError(f"{path}: line {empty[0] + 2} has no {column}. Fill it in or remove the line")
        for split in set(table["split"]) - set(SPLITS):
            raise unknown_name(f"split in {path}", split, SPLITS)
        for modality in set(table["modality"]) - set(self.modalities):
            raise unknown_name(f"modality in {path} (data.modalities)", modality, self.modalities)
        return table


def _member(folder: Path, line: pd.Series) -> Member:
    """One line's files; `/` leaves absolute paths as they are."""
    label, mask = (folder / line[column] if line.get(column) else None for column in ("label", "mask"))
    return Member(line["modality"], folder / line["image"], label, mask)


def _warn_of_shared_subjects(table: pd.DataFrame) -> None:
    splits = table.groupby("subject")["split"].nunique()
    if len(shared := splits.index[splits > 1]):
        rank_zero_warn(
            f"{len(shared)} subjects are in more than one split, so test figures are optimistic: {some(list(shared))}"
        )
