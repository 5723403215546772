"""The parameters of a group's maps, common space to each image: linear ones by their logarithms, velocities on a grid.

Nothing in a group is a reference: the mean of the parameters over its images is kept at zero, unless one image is held
still by name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bingo_pl.spatial import integrate, sample

SQUARINGS = 6


@dataclass(frozen=True, eq=False)
class Linear:
    """Affine maps y = M (x - c) + c + t of N images."""

    matrix: Tensor
    """(N, D, D)."""
    offset: Tensor
    """(N, D) mm: y = matrix x + offset."""

    @classmethod
    def identity(cls, images: int, dims: int) -> Linear:
        return cls(torch.eye(dims).expand(images, dims, dims).clone(), torch.zeros(images, dims))

    @classmethod
    def exponential(cls, parameters: Tensor, centre: Tensor, radius: float) -> Linear:
        """Maps about a point.

        Args:
            parameters: (N, D, D + 1) mm: how far a point at ``radius`` moves to first order, and the translation. The
                matrix is the exponential of the first part.
            centre: (D,) mm.
            radius: mm.
        """
        matrix = torch.linalg.matrix_exp(parameters[..., :-1] / radius)
        return cls(matrix, parameters[..., -1] + centre - torch.einsum("nij,j->ni", matrix, centre))

    def __matmul__(self, first: Linear) -> Linear:
        """The maps ``self`` after ``first``."""
        return Linear(self.matrix @ first.matrix, torch.einsum("nij,nj->ni", self.matrix, first.offset) + self.offset)

    def inverse(self) -> Linear:
        matrix = torch.linalg.inv(self.matrix)
        return Linear(matrix, -torch.einsum("nij,nj->ni", matrix, self.offset))

    def of(self, image: int) -> Linear:
        """The map of one image."""
        return Linear(self.matrix[image : image + 1], self.offset[image : image + 1])

    def detach(self) -> Linear:
        return Linear(self.matrix.detach(), self.offset.detach())

    def __call__(self, points: Tensor) -> Tensor:
        """(P, D) or (N, P, D) -> (N, P, D)."""
        return points @ self.matrix.transpose(1, 2) + self.offset[:, None]


@dataclass(frozen=True, eq=False)
class Lattice:
    """A regular grid along the axes of the common space, on which velocities have their nodes."""

    first: Tensor
    """(D,) mm, the first node."""
    step_mm: float
    shape: tuple[int, ...]

    @classmethod
    def around(cls, low: Tensor, high: Tensor, step_mm: float) -> Lattice:
        """Nodes that cover a box of mm, one step of room around it."""
        sizes = [int(torch.ceil((b - a) / step_mm)) + 3 for a, b in zip(low, high, strict=True)]
        spare = torch.tensor([(size - 1) * step_mm for size in sizes]) - (high - low)
        return cls(low - spare / 2, step_mm, tuple(sizes))

    def to_nodes(self, points: Tensor) -> Tensor:
        """mm (..., D) to indices."""
        return (points - self.first) / self.step_mm

    def read(self, fields: Tensor, points: Tensor) -> Tensor:
        """Interpolate fields (N, C, *s) at points (P, D) or (N, P, D): (N, P, C)."""
        return _read(fields, self.to_nodes(points))

    def points(self) -> Tensor:
        """(*s, D) mm of the nodes."""
        axes = [first + self.step_mm * torch.arange(size) for first, size in zip(self.first, self.shape, strict=True)]
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)


def _read(fields: Tensor, index: Tensor) -> Tensor:
    """Interpolate fields (N, C, *s) at indices (P, D) or (N, P, D): (N, P, C)."""
    where = index.expand(len(fields), -1, -1).transpose(1, 2)
    line = [1] * (fields.ndim - 3)
    return sample(fields, where.reshape(*where.shape, *line)).flatten(2).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class Warp:
    """Maps of N images that are known already, and their inverses: what a network made of a group."""

    spacing: Tensor
    """(D,) mm a voxel of the grid that they are known on; its first voxel is the origin."""
    forward: Tensor
    """(N, D, *s) mm."""
    backward: Tensor
    """(N, D, *s) mm, of the inverse."""

    def __call__(self, points: Tensor) -> Tensor:
        """(P, D) or (N, P, D) -> (N, P, D)."""
        return points + _read(self.forward, points / self.spacing)

    def inverse(self, points: Tensor) -> Tensor:
        return points + _read(self.backward, points / self.spacing)


@dataclass(frozen=True, eq=False)
class Maps:
    """The maps of a group's N images: a linear one after a known one, if any, after the exponential of a velocity."""

    linear: Linear
    lattice: Lattice | None = None
    velocity: Tensor | None = None
    """(N, D, *s) mm, mean over the images 0; None where nothing is deformed."""
    known: Warp | None = None

    @property
    def size(self) -> int:
        return len(self.linear.matrix)

    def with_velocity(self, lattice: Lattice) -> Maps:
        """The same maps (nearly: velocities are interpolated) with their velocity on a lattice."""
        if self.velocity is None:
            dims = self.linear.offset.shape[1]
            return replace(self, lattice=lattice, velocity=torch.zeros(self.size, dims, *lattice.shape))
        assert self.lattice is not None
        points = lattice.points().flatten(0, -2)
        values = self.lattice.read(self.velocity, points)
        return replace(self, lattice=lattice, velocity=values.transpose(1, 2).unflatten(2, lattice.shape).contiguous())

    def inserted(self, index: int, linear: Linear) -> Maps:
        """The maps of a group that has one more image, which is not deformed; ``linear`` is its map."""

        def inserted(values: Tensor, own: Tensor) -> Tensor:
            return torch.cat([values[:index], own, values[index:]])

        assert self.known is None
        whole = Linear(inserted(self.linear.matrix, linear.matrix), inserted(self.linear.offset, linear.offset))
        velocity = self.velocity
        if velocity is not None:
            velocity = inserted(velocity, torch.zeros_like(velocity[:1]))
        return Maps(whole, self.lattice, velocity)

    def displacement(self, sign: int = 1) -> Tensor:
        """(N, D, *s) mm of exp(sign * velocity) on the lattice."""
        assert self.velocity is not None
        assert self.lattice is not None
        step = self.lattice.step_mm
        return integrate(sign * self.velocity / step, SQUARINGS) * step

    def deformed(self, points: Tensor) -> Tensor:
        """Points (P, D) of the common space before the linear map: (N, P, D)."""
        moved = points.expand(self.size, -1, -1)
        if self.velocity is not None:
            assert self.lattice is not None
            moved = moved + self.lattice.read(self.displacement(), points)
        return moved if self.known is None else self.known(moved)

    def __call__(self, points: Tensor) -> Tensor:
        """Points (P, D) of the common space in each image: (N, P, D) mm."""
        return self.linear(self.deformed(points))

    def inverse(self, points: Tensor) -> Tensor:
        """Points of each image, (P, D) or (N, P, D) mm, in the common space."""
        back = self.linear.inverse()(points)
        if self.known is not None:
            back = self.known.inverse(back)
        if self.velocity is None:
            return back
        assert self.lattice is not None
        return back + self.lattice.read(self.displacement(-1), back)

    def detach(self) -> Maps:
        velocity = None if self.velocity is None else self.velocity.detach()
        return replace(self, linear=self.linear.detach(), velocity=velocity)


def centred(parameters: Tensor, reference: int | None) -> Tensor:
    """Parameters (N, ...) less their mean over the images, or less those of the image that is held still."""
    return parameters - (
        parameters.mean(0, keepdim=True) if reference is None else parameters[reference : reference + 1]
    )


def bending(fields: Tensor, step: float) -> Tensor:
    """Mean bending energy of fields (N, D, *s) mm on a grid of ``step`` mm: squared second derivatives, mm^-2."""
    total = fields.new_zeros(())
    axes = range(2, fields.ndim)
    for i in axes:
        if fields.shape[i] > 2:
            total = total + (fields.diff(n=2, dim=i) / step**2).square().sum(1).mean()
        for j in range(i + 1, fields.ndim):
            if fields.shape[i] > 1 and fields.shape[j] > 1:
                total = total + 2 * (fields.diff(dim=i).diff(dim=j) / step**2).square().sum(1).mean()
    return total
