"""What alignment found, as displacements on a lattice that come before each image's linear map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.alignment.maps import Maps
from bingo_pl.spatial import compose, invert, sample

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


@dataclass(frozen=True, eq=False)
class Centred:
    """Displacements of a group whose mean is zero."""

    fields: Fields
    correction: Tensor
    """(D, *S) in nodes: from the space of these displacements to that of those before."""

    @classmethod
    def of(cls, fields: Fields) -> Centred:
        """Each displacement composed with the inverse of their mean (Guimond et al. 2000)."""
        mean = fields.displacement.double().mean(0, keepdim=True).float()
        correction = invert(mean)
        size = fields.displacement.shape
        moved = compose(fields.displacement, correction.expand(size))
        back = compose(mean.expand(size), fields.inverse)
        return cls(Fields(moved, back, fields.to_mm), correction[0])

    def corrected(self, points: Tensor) -> Tensor:
        """Points (P, D) mm of the centred space in the space before."""
        return points + read_field(self.correction, self.fields.to_mm, points)


def read_field(field: Tensor, to_mm: NDArray[np.float64], points: Tensor) -> Tensor:
    """Interpolate a displacement (D, *S) in nodes, see `Fields`, at points (P, D) mm: (P, D) mm."""
    to_nodes = torch.from_numpy(to_mm).float()
    index = torch.linalg.solve(to_nodes[:, :-1], (points - to_nodes[:, -1]).T)
    values = sample(field[None], index.reshape(1, len(field), -1, *[1] * (len(field) - 1)))
    return (to_nodes[:, :-1] @ values.reshape(len(field), -1)).T


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
