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

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bingo_pl.errors import BingoError

if TYPE_CHECKING:
    from bingo_pl.batch import UNLABELLED, GroupBatch
    from bingo_pl.registration.workflow import register

__all__ = ["UNLABELLED", "BingoError", "GroupBatch", "register"]

_HOMES = {
    "UNLABELLED": "bingo_pl.batch",
    "GroupBatch": "bingo_pl.batch",
    "register": "bingo_pl.registration.workflow",
}


def __getattr__(name: str) -> Any:
    """What takes time to import is imported when it is asked for."""
    if name == "__version__":
        return import_module("importlib.metadata").version("bingo_pl")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'bingo_pl' has no attribute '{name}'")
