"""What alignment found, as displacements on a lattice that come before each image's linear map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.alignment.maps import Maps

REFINEMENT = 2
"""Nodes of a written displacement for each node of the velocity: its inverse bends between nodes."""


@dataclass(frozen=True, eq=False)
class Fields:
    """The displacements of a group on one lattice."""

    displacement: Tensor
    """(N, D, *S) in nodes: what was optimised, which is linear between nodes."""
    inverse: Tensor
    """(N, D, *S) in nodes: exp of minus the velocity, which writing improves between the nodes of that."""
    to_mm: NDArray[np.float64]
    """(D, D + 1) from node indices to mm of the common space."""


def fields_of(maps: Maps) -> Fields | None:
    """The displacements of a group's maps; None where nothing is deformed."""
    if maps.velocity is None or maps.lattice is None:
        return None
    lattice = maps.lattice
    forward, backward = (_refined(maps.displacement(sign) / lattice.step_mm) for sign in (1, -1))
    scale = np.eye(len(lattice.shape)) * lattice.step_mm / REFINEMENT
    return Fields(forward, backward, np.concatenate([scale, lattice.first.double().numpy()[:, None]], 1))


def _refined(displacement: Tensor) -> Tensor:
    """(N, D, *s) with nodes in between as well, in units of theirs: the same field."""
    for axis in range(2, displacement.ndim):
        size = displacement.shape[axis]
        position = torch.arange((size - 1) * REFINEMENT + 1) / REFINEMENT
        low = position.long().clamp(max=max(size - 2, 0))
        share = (position - low).reshape(-1, *[1] * (displacement.ndim - 1 - axis))
        first, second = (displacement.index_select(axis, (low + step).clamp(max=size - 1)) for step in (0, 1))
        displacement = torch.lerp(first, second, share)
    return displacement * REFINEMENT
