"""What alignment found, in RAS mm: a linear map a displacement on a lattice, for each image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.alignment.maps import Maps
from bingo_pl.spatial import compose

REFINEMENT = 2
"""Nodes of a written displacement for each node of the velocity: its inverse bends between nodes."""
INVERSE_STEPS = 5


@dataclass(frozen=True, eq=False)
class Fields:
    """The displacements of a group on one lattice, before its linear maps."""

    displacement: Tensor
    """(N, D, *S) in nodes: exactly what was optimised, interpolated linearly."""
    inverse: Tensor
    """(N, D, *S) in nodes."""
    to_mm: NDArray[np.float64]
    """(D, D + 1) from node indices to mm of the common space."""


def fields_of(maps: Maps) -> Fields | None:
    """The displacements of a group's maps; None where nothing is deformed."""
    if maps.velocity is None or maps.lattice is None:
        return None
    lattice = maps.lattice
    forward, backward = (_refined(maps.displacement(sign) / lattice.step_mm) for sign in (1, -1))
    for _ in range(INVERSE_STEPS):  # Chen 2008: what is left is taken back
        backward = backward - compose(forward, backward)
    dims = len(lattice.shape)
    to_mm = np.concatenate([np.eye(dims) * lattice.step_mm / REFINEMENT, lattice.first.double().numpy()[:, None]], 1)
    return Fields(forward, backward, to_mm)


def _refined(displacement: Tensor) -> Tensor:
    """(N, D, *s) -> nodes in between as well, in their units: the same piecewise linear field."""
    for axis in range(2, displacement.ndim):
        first = displacement
        last = torch.cat(
            [
                displacement.narrow(axis, 1, displacement.shape[axis] - 1),
                displacement.narrow(axis, displacement.shape[axis] - 1, 1),
            ],
            axis,
        )
        parts = [torch.lerp(first, last, step / REFINEMENT) for step in range(REFINEMENT)]
        displacement = torch.stack(parts, axis + 1).flatten(axis, axis + 1)
        displacement = displacement.narrow(axis, 0, displacement.shape[axis] - REFINEMENT + 1)
    return displacement * REFINEMENT
