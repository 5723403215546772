"""Displacements in 2D and 3D: warp, compose, integrate, invert, resize, differentiate.

Every function takes flattened images or fields, (K, C, *S) or (K, D, *S), and is differentiable.
Sampling positions are voxel indices (``align_corners=True``); resizing keeps the field of view, voxel
edge to voxel edge, so that a stride-16 feature stays above the 16 voxels it was computed from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bingo_pl.errors import DivergenceError

Shape = Sequence[int]
Padding = Literal["border", "zeros"]
LINEAR = {2: "bilinear", 3: "trilinear"}
FURTHEST = 1e6
"""Voxels that anything moves: no image is so long."""


def identity(shape: Shape, like: Tensor) -> Tensor:
    """Voxel coordinates (D, *S) of a grid, with the dtype and device of ``like``."""
    axes = [torch.arange(size, dtype=like.dtype, device=like.device) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def sample(image: Tensor, points: Tensor, mode: str = "bilinear", padding: Padding = "border") -> Tensor:
    """Interpolate at voxel coordinates.

    Args:
        image: (K, C, *S).
        points: (K, D, *T) voxel coordinates in ``image``, array-axis order; *T is free.
        mode: ``"bilinear"`` (trilinear in 3D) or ``"nearest"``.
        padding: what lies outside: the border voxel's value or zeros.

    Returns:
        (K, C, *T).
    """
    grid = _unit_grid(points, _unit_scale(image.shape[2:], points))
    return F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=True)


def _unit_scale(shape: Shape, like: Tensor) -> Tensor:
    """Voxels to the units of grid_sample, whose grids span [-1, 1]: (D, 1, ...)."""
    units = [2 / max(size - 1, 1) for size in shape]
    return torch.tensor(units, dtype=like.dtype, device=like.device).reshape(-1, *[1] * len(units))


def _unit_grid(points: Tensor, scale: Tensor) -> Tensor:
    """Voxel coordinates (K, D, *S) as the grid (K, *S, D) that grid_sample reads, components in reverse order."""
    return (points * scale - 1).movedim(1, -1).flip(-1)


def warp(image: Tensor, displacement: Tensor, mode: str = "bilinear", padding: Padding = "border") -> Tensor:
    """``warped(p) = image(p + displacement(p))``.

    Args:
        image: (K, C, *S).
        displacement: (K, D, *S).
        mode: ``"bilinear"`` or ``"nearest"``.
        padding: ``"border"`` for images, ``"zeros"`` for features.
    """
    grid = _displaced_grid(displacement, image.shape[2:])
    return F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=True)


def _displaced_grid(displacement: Tensor, shape: Shape) -> Tensor:
    """Where a displacement (K, D, *T) points to in an image of ``shape``, as grid_sample reads it: (K, *T, D).

    Axis by axis, and with the components apart in memory, grid_sample and the backward pass have least to do.
    """
    components = []
    for axis, (part, size) in enumerate(zip(displacement.unbind(1), shape, strict=True)):
        unit = 2 / max(size - 1, 1)
        own = torch.arange(part.shape[1 + axis], dtype=part.dtype, device=part.device) * unit - 1
        components.append(torch.add(own.reshape(-1, *[1] * (len(shape) - 1 - axis)), part, alpha=unit))
    return torch.stack(components[::-1], dim=1).movedim(1, -1)


def check_motion(motion: Tensor) -> None:
    """Raises `DivergenceError` where velocities or displacements lead nowhere: NaN, infinite or beyond any image.

    PyTorch takes such coordinates for places in memory.
    """
    if not motion.detach().abs().max() <= FURTHEST:  # NaN is not
        raise DivergenceError(
            "the method gives velocities that are not finite, or longer than any image: its weights, its steps or the "
            "images are not usable"
        )


def warp_labels(labels: Tensor, displacement: Tensor) -> Tensor:
    """Warp integer or boolean (K, C, *S) by the nearest voxel; ids and dtype are kept."""
    return warp(labels.to(displacement.dtype), displacement, mode="nearest").to(labels.dtype)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The displacement of ``(id + outer) o (id + inner)``: warping by it is warping by ``outer``, then by ``inner``."""
    return inner + warp(outer, inner)


def integrate(velocity: Tensor, steps: int = 7) -> Tensor:
    """The displacement of ``exp(velocity)`` by scaling and squaring (Arsigny 2006).

    Args:
        velocity: (K, D, *S) stationary velocity, voxels per unit time. ``integrate(-velocity)`` is the inverse.
        steps: squarings; the error is of first order in ``2 ** -steps``.
    """
    return integrate_all([velocity], velocity.shape[2:], steps)


def _run(function: Callable[..., Tensor], *inputs: Any) -> Tensor:
    return function(*inputs)


def integrate_all(
    velocities: Sequence[Tensor], shape: Shape, steps: int = 7, run: Callable[..., Tensor] = _run
) -> Tensor:
    """The displacement of ``exp(v_1) o exp(v_2) o ...`` on one grid: `integrate`, `resize_displacement`, `compose`.

    Each velocity is integrated on its own grid, which costs a coarse one next to nothing; docs/speed.md has what this
    changes. All stays in the units and axis order of grid_sample, to which the small velocities are converted, and so
    has fewer passes over the large fields than these functions by themselves.

    Args:
        velocities: at least one, (K, D, *s) each, s its own.
        shape: *S of the result.
        steps: squarings.
        run: calls what it is given on the rest of its arguments: the squarings of each velocity. A caller that is short
            of memory has the backward pass compute them again.

    Returns:
        (K, D, *S).

    Raises:
        DivergenceError: velocities are not finite.
    """
    for velocity in velocities:
        check_motion(velocity)
    like = velocities[0]
    scale = _unit_scale(shape, like)
    sizes = {tuple(shape), *(tuple(velocity.shape[2:]) for velocity in velocities)}
    starts = {size: _unit_grid(identity(size, like)[None], _unit_scale(size, like)) for size in sizes}
    whole = None
    for velocity in velocities:
        own = _unit_scale(velocity.shape[2:], velocity)
        small = run(_square, (velocity * (own / 2**steps)).flip(1), starts[tuple(velocity.shape[2:])], steps)
        displacement = resize(small * (_ratios(velocity, shape) * scale / own).flip(0), shape)
        whole = displacement if whole is None else _compose_in_units(whole, displacement, starts[tuple(shape)])
    assert whole is not None
    return whole.flip(1) / scale


def _square(displacement: Tensor, start: Tensor, steps: int) -> Tensor:
    for _ in range(steps):
        displacement = _compose_in_units(displacement, displacement, start)
    return displacement


def _compose_in_units(outer: Tensor, inner: Tensor, start: Tensor) -> Tensor:
    grid = start + inner.movedim(1, -1)
    return F.grid_sample(outer, grid, padding_mode="border", align_corners=True).add_(inner)


def invert(displacement: Tensor, iterations: int = 30) -> Tensor:
    """The inverse displacement by fixed-point iteration ``v <- -u(id + v)`` (Chen 2008).

    Converges where the displacement is a contraction (its derivatives are below one).
    """
    inverse = -displacement
    for _ in range(iterations):
        inverse = -warp(displacement, inverse)
    return inverse


def resize(image: Tensor, shape: Shape) -> Tensor:
    """Linear interpolation of (K, C, *S) to the grid ``shape`` over the same field of view."""
    if tuple(image.shape[2:]) == tuple(shape):
        return image
    return F.interpolate(image, size=tuple(shape), mode=LINEAR[image.ndim - 2], align_corners=False)


def halve(image: Tensor) -> Tensor:
    """Mean of every 2 x 2 (x 2) voxels of (K, C, *S), S even."""
    return {2: F.avg_pool2d, 3: F.avg_pool3d}[image.ndim - 2](image, 2)


def resize_displacement(displacement: Tensor, shape: Shape) -> Tensor:
    """`resize` for displacements and velocities, whose values scale with the number of voxels."""
    return resize(displacement * _ratios(displacement, shape), shape)


def _ratios(displacement: Tensor, shape: Shape) -> Tensor:
    """Voxels of the grid ``shape`` per voxel of (K, D, *S): (D, 1, ...)."""
    ratios = [new / old for new, old in zip(shape, displacement.shape[2:], strict=True)]
    return torch.tensor(ratios, dtype=displacement.dtype, device=displacement.device).reshape(-1, *[1] * len(ratios))


def jacobian(displacement: Tensor) -> Tensor:
    """Jacobian matrices of ``id + displacement`` by central differences, one-sided at the border.

    Args:
        displacement: (K, D, *S).

    Returns:
        (K, *S, D, D); ``[..., i, j]`` is the derivative of component i along axis j.
    """
    axes = tuple(range(2, displacement.ndim))
    gradients = torch.stack(torch.gradient(displacement, dim=axes), dim=-1).movedim(1, -2)
    return gradients + torch.eye(len(axes), dtype=displacement.dtype, device=displacement.device)


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """Local volume change (K, *S) of ``id + displacement``: 1 keeps, below 0 folds."""
    return torch.linalg.det(jacobian(displacement))


def bspline_basis(size: int, spacing: float, like: Tensor) -> Tensor:
    """Weights (size, control points) of the uniform cubic B-spline along one axis.

    Control point ``i`` sits at voxel ``(i - 1) * spacing``; there are as many as reach every voxel.
    """
    position = torch.arange(size, dtype=like.dtype, device=like.device) / spacing
    first = position.floor().clamp(max=max((size - 1) // spacing, 0))
    t = position - first
    cubic = torch.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3], dim=1) / 6
    basis = like.new_zeros(size, bspline_control_points(size, spacing))
    return basis.scatter(1, first.long()[:, None] + torch.arange(4, device=like.device), cubic)


def bspline_control_points(size: int, spacing: float) -> int:
    """How many control points an axis of ``size`` voxels needs."""
    return int((size - 1) // spacing) + 4


def free_form_displacement(control: Tensor, spacing: float, shape: Shape) -> Tensor:
    """Cubic B-spline free-form deformation (Rueckert 1999).

    Args:
        control: (K, D, *n) displacements of the control points in voxels, with n from `bspline_control_points`.
        spacing: distance of the control points in voxels.
        shape: *S of the result.

    Returns:
        (K, D, *S).
    """
    field = control
    for size in shape:  # each pass consumes the first spatial axis and appends its result as the last
        field = torch.tensordot(field, bspline_basis(size, spacing, control), dims=([2], [1]))
    return field


def linear_displacement(parameters: Tensor, shape: Shape) -> Tensor:
    """The displacement of linear maps about the centre of the image; that of ``-parameters`` is the inverse's.

    Args:
        parameters: (..., D, D + 1), the logarithm of the homogeneous matrix: how far a point at half the longest side
            moves along each axis, and the translation, both in voxels.
        shape: *S.

    Returns:
        (..., D, *S).
    """
    dims = len(shape)
    half = max(shape) / 2
    scale = parameters.new_tensor([*[1 / half] * dims, 1.0])
    logarithm = torch.cat([parameters * scale, parameters.new_zeros(*parameters.shape[:-2], 1, dims + 1)], dim=-2)
    matrix = torch.linalg.matrix_exp(logarithm)[..., :dims, :]
    centre = parameters.new_tensor([(size - 1) / 2 for size in shape])
    points = identity(shape, parameters).flatten(1) - centre[:, None]  # (D, V)
    moved = matrix[..., :dims] @ points + matrix[..., dims:]
    return (moved - points).unflatten(-1, tuple(shape))
