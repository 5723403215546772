"""BInGo: learned groupwise registration of multimodal medical images.

Legend, valid in every file of the project:

    B   groups in a batch                  N   images in a group
    K   images, groups flattened (B * N)   C   channels
    D   spatial dimensions, 2 or 3         *S  spatial shape, D sizes

A *displacement* is a pull-back in voxels of its own grid, in array-axis order, shape (K, D, *S):
``warped(p) = image(p + displacement(p))``. Affine maps, free-form deformations and stationary
velocities are all turned into one before anything is warped. Names that end in ``_mm``
are in millimetres, ``spacing`` is in millimetres per voxel; everything else is in voxels.
"""

import random
from importlib import import_module
from typing import TYPE_CHECKING, Any

from bingo_pl import moved
from bingo_pl.errors import BingoError, BingoWarning

if TYPE_CHECKING:
    from bingo_pl.api import Model, atlas, check, estimate, train
    from bingo_pl.batch import UNLABELLED, GroupBatch
    from bingo_pl.phantoms.example import example
    from bingo_pl.registration.apply import apply
    from bingo_pl.registration.convert import convert
    from bingo_pl.registration.workflow import register
    from bingo_pl.training.task import RegistrationTask

__all__ = [
    "UNLABELLED",
    "BingoError",
    "BingoWarning",
    "GroupBatch",
    "Model",
    "RegistrationTask",
    "apply",
    "atlas",
    "check",
    "convert",
    "estimate",
    "example",
    "register",
    "train",
]

_HOMES = {
    "UNLABELLED": "bingo_pl.batch",
    "GroupBatch": "bingo_pl.batch",
    "Model": "bingo_pl.api",
    "RegistrationTask": "bingo_pl.training.task",
    "apply": "bingo_pl.registration.apply",
    "atlas": "bingo_pl.api",
    "check": "bingo_pl.api",
    "convert": "bingo_pl.registration.convert",
    "estimate": "bingo_pl.api",
    "example": "bingo_pl.phantoms.example",
    "register": "bingo_pl.registration.workflow",
    "train": "bingo_pl.api",
}

moved.install()


def __getattr__(name: str) -> Any:
    """What takes time to import is imported when it is asked for."""
    if name == "__version__":
        return import_module("importlib.metadata").version("bingo_pl")
    if name in _HOMES:
        numbers = random.getstate()
        home = import_module(_HOMES[name])
        random.setstate(numbers)  # rich draws some when it is imported
        return getattr(home, name)
    raise AttributeError(f"module 'bingo_pl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
