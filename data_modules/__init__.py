"""The cohorts that can be trained on, by the name that ``data.dataset`` takes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bingo_pl.data_modules.base import GroupDataModule

DATA_MODULES = {
    "mscmr": "bingo_pl.data_modules.mscmr:MscmrDataModule",
    "brats": "bingo_pl.data_modules.brats:BratsDataModule",
    "manifest": "bingo_pl.data_modules.manifest:ManifestDataModule",
    "learn2reg": "bingo_pl.data_modules.learn2reg:Learn2RegDataModule",
    "anatomies": "bingo_pl.data_modules.anatomies:AnatomiesDataModule",
}
"""Where each data module is. A cohort is added by its class and a line here."""

__all__ = ["DATA_MODULES", "GroupDataModule", "data_module"]


def data_module(name: str) -> "type[GroupDataModule]":
    """The data module of a name, ours or another package's, see `bingo_pl.plugins.find`.

    Raises:
        BingoError: unknown name.
    """
    from bingo_pl.plugins import DATASETS, find

    found: type[GroupDataModule] = find("dataset", name, DATA_MODULES, DATASETS)
    return found


def __getattr__(name: str) -> Any:
    """What needs Lightning is imported when it is asked for."""
    if name == "GroupDataModule":
        return import_module("bingo_pl.data_modules.base").GroupDataModule
    raise AttributeError(f"module 'bingo_pl.data_modules' has no attribute '{name}'")
