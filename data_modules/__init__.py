"""The cohorts that can be trained on, by the name that ``data.dataset`` takes."""

from bingo_pl.data_modules.anatomies import AnatomiesDataModule
from bingo_pl.data_modules.base import GroupDataModule
from bingo_pl.data_modules.brats import BratsDataModule
from bingo_pl.data_modules.learn2reg import Learn2RegDataModule
from bingo_pl.data_modules.manifest import ManifestDataModule
from bingo_pl.data_modules.mscmr import MscmrDataModule

DATA_MODULES: dict[str, type[GroupDataModule]] = {
    "mscmr": MscmrDataModule,
    "brats": BratsDataModule,
    "manifest": ManifestDataModule,
    "learn2reg": Learn2RegDataModule,
    "anatomies": AnatomiesDataModule,
}
"""Data modules by name."""

__all__ = ["DATA_MODULES", "GroupDataModule"]
