"""Whether a group fits in memory, asked before it is registered there."""

from __future__ import annotations

import math

from bingo_pl.images.grids import Grid
from bingo_pl.methods.baselines import Refined
from bingo_pl.methods.bingo import Bingo
from bingo_pl.models.model import Model
from bingo_pl.streaming.budget import working_bytes


def check_memory(model: Model, grid: Grid, images: int) -> None:
    """See that this machine has the memory that registering a group at once takes at least.

    Args:
        model: which registers it.
        grid: of the group.
        images: in it.

    Raises:
        BingoError: it has not. On a GPU nothing is known of it.
    """
    network = model.registrar.start if isinstance(model.registrar, Refined) else model.registrar
    if model.device.type != "cpu" or not isinstance(network, Bingo):
        return
    shape = grid.shape[: model.dims]
    voxel_bytes = images * working_bytes(network, shape) / math.prod(shape)
    remedy = (
        "Stream the group (bingo register --memory 4GB), crop the images or give masks, or register fewer at a time"
    )
    grid.fitting(voxel_bytes, f"the group grid of {images} images", remedy)
