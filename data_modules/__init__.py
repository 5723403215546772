"""The cohorts that can be trained on, by the name that ``data.dataset`` takes."""

from data_modules.anatomies import AnatomiesDataModule
from data_modules.base import GroupDataModule
from data_modules.brats import BratsDataModule
from data_modules.learn2reg import Learn2RegDataModule
from data_modules.manifest import ManifestDataModule
from data_modules.mscmr import MscmrDataModule

DATA_MODULES: dict[str, type[GroupDataModule]] = {
    "mscmr": MscmrDataModule,
    "brats": BratsDataModule,
    "manifest": ManifestDataModule,
    "learn2reg": Learn2RegDataModule,
    "anatomies": AnatomiesDataModule,
}
"""Data modules by name."""

__all__ = ["DATA_MODULES", "GroupDataModule"]
