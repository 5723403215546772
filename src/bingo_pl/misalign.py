"""Synthetic misalignment: cubic B-spline free-form deformations, linear maps, with their ground truth kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from bingo_pl.batch import GroupBatch
from bingo_pl.spatial import (
    Shape,
    bspline_control_points,
    compose,
    free_form_displacement,
    linear_displacement,
    warp,
    warp_labels,
)


def draw_displacements(
    size: int,
    shape: Shape,
    spacings: Sequence[float],
    strength: float,
    generator: torch.Generator,
    device: torch.device | str = "cpu",
    linear: float = 0.0,
) -> Tensor:
    """Independent random deformations for one group.

    One control point spacing is drawn for the group, then each control point moves by a uniform
    draw of up to ``strength`` times the spacing along each axis. A linear map may follow,
    phi = A o (id + f); beyond the grid A is continued as at its border.

    Args:
        size: N, images in the group.
        shape: *S.
        spacings: the control point spacings to choose from, in voxels.
        strength: largest control displacement over the spacing; below 0.4 a cubic B-spline cannot fold.
        generator: the only source of randomness, on the CPU so that every device sees the same draw.
        device: where the displacements are evaluated.
        linear: standard deviation in voxels of the parameters of `spatial.linear_displacement`; 0 draws none.

    Returns:
        (N, D, *S) displacements in voxels.
    """
    spacing = spacings[int(torch.randint(len(spacings), (1,), generator=generator))]
    control_shape = [bspline_control_points(extent, spacing) for extent in shape]
    uniform = torch.rand(size, len(shape), *control_shape, generator=generator)
    control = (2 * uniform - 1) * strength * spacing
    free_form = free_form_displacement(control.to(device), spacing, shape)
    if not linear:
        return free_form
    parameters = linear * torch.randn(size, len(shape), len(shape) + 1, generator=generator)
    return compose(linear_displacement(parameters.to(device), shape), free_form)


def misalign(batch: GroupBatch, displacements: Tensor) -> GroupBatch:
    """Warp images, masks and labels of a batch and keep the displacements as its ground truth.

    Args:
        batch: groups without a ground truth.
        displacements: (B, N, D, *S), see `draw_displacements`.
    """
    assert batch.truth is None, "the batch is misaligned already"
    flat = displacements.flatten(0, 1)
    group = (batch.groups, batch.size)
    return replace(
        batch,
        images=warp(batch.images.flatten(0, 1), flat).unflatten(0, group),
        masks=warp_labels(batch.masks.flatten(0, 1), flat).unflatten(0, group),
        labels=warp_labels(batch.labels.flatten(0, 1), flat).unflatten(0, group),
        truth=displacements,
    )
