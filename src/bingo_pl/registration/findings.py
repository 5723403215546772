"""What a model says of a registered group: what does not belong or looks like another modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.batch import UNLABELLED, GroupBatch
from bingo_pl.evaluation import appearance, uncertainty
from bingo_pl.images.grids import Grid
from bingo_pl.images.resampling import resample_image, to_array
from bingo_pl.images.scans import Scan, group_grid
from bingo_pl.methods.bingo import BingoRegistration
from bingo_pl.methods.registrar import Registration
from bingo_pl.models import ready_model
from bingo_pl.models.model import Model
from bingo_pl.registration.memory import check_memory
from bingo_pl.registration.registered import Registered, on_grid


def to_batch(
    sampled: Sequence[tuple[NDArray[np.float32], NDArray[np.bool_]]], scans: Sequence[Scan], grid: Grid, model: Model
) -> GroupBatch:
    """Images from 0 to 1 and foregrounds (X, Y, Z) on a grid as a group: no labels, no ground truth."""
    shape = (len(scans), 1, *grid.shape[: model.dims])
    images, masks = (torch.from_numpy(np.stack(each)).reshape(shape)[None] for each in zip(*sampled, strict=True))
    return GroupBatch(
        images=images,
        modalities=torch.tensor([[model.index(scan.modality) for scan in scans]]),
        masks=masks,
        labels=torch.full(images.shape, UNLABELLED, dtype=torch.int16),
        spacing=torch.tensor(grid.spacing[None, : model.dims], dtype=torch.float32),
        names=("group",),
    )


def with_findings(
    members: Sequence[Registered], model: Model, batch: GroupBatch, result: Registration, grid: Grid
) -> list[Registered]:
    """The members with what the model says of them.

    Args:
        members: the images.
        model: that is asked.
        batch: the group as it sees it, on its device.
        result: the registration of the batch.
        grid: of the batch.
    """
    reconstructs = ready_model.reconstructs(model.config)
    with torch.no_grad():
        pictures = model.registrar.explain(batch, result) if reconstructs else {}
    disagreements = uncertainty.disagreement(model.registrar, batch, result)
    fits = None if disagreements is None else uncertainty.belongs(disagreements)
    unlike = appearance.unlikeness(model.registrar, batch, result) if reconstructs else None
    misnamings = None if unlike is None else appearance.misnaming(unlike, batch.modalities)
    likeliest = batch.modalities if unlike is None else appearance.looks_like(unlike, batch.modalities)
    found = []
    for i, member in enumerate(members):
        named, like = int(batch.modalities[0, i]), int(likeliest[0, i])
        found.append(
            replace(
                member,
                reconstruction=_drawn(pictures["reconstruction"][0, i], grid, member) if pictures else None,
                disagreement=None if disagreements is None else float(disagreements[0, i]),
                belongs=None if fits is None else bool(fits[0, i]),
                misnaming=None if misnamings is None else float(misnamings[0, i]),
                looks_like=None if like == named else model.config.data.modalities[like],
            )
        )
    return found


def findings_of_aligned(members: Mapping[str, Registered], model: Model, voxel_mm: float) -> dict[str, Registered]:
    """`with_findings` of images that were aligned without the network.

    The model sees them as a group that needs no registration, at its own resolution or, if it was taught none, at
    voxels of ``voxel_mm``.
    """
    if uncertainty.hierarchical(model.registrar) is None:
        return dict(members)
    scans = [member.scan for member in members.values()]
    affines = [member.stage.affine for member in members.values()]
    spacing = voxel_mm if ready_model.takes_any(model.config) else model.config.data.spacing_mm
    grid = group_grid(scans, affines, spacing, model.dims, model.stride)
    check_memory(model, grid, len(scans))
    sampled = [member.scan.sampled_through(member.forward.transform, grid) for member in members.values()]
    batch = to_batch(sampled, scans, grid, model).to(model.device)
    still = torch.zeros(1, len(scans), model.dims, *batch.shape, device=model.device)
    found = with_findings([*members.values()], model, batch, BingoRegistration(still, still, ()), grid)
    return dict(zip(members, found, strict=True))


def _drawn(picture: Tensor, grid: Grid, member: Registered) -> NDArray[np.float32]:
    """A picture of the model on the grid of the registered images."""
    values = on_grid(picture, grid)
    if values.shape == member.grid.shape and np.allclose(grid.affine, member.grid.affine):
        return values
    return to_array(resample_image(grid.to_sitk(values), sitk.Transform(3, sitk.sitkIdentity), member.grid))
