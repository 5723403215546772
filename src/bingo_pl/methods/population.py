"""Iterative registration of populations, whose images lie differently: rigid, then affine, then free-form."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bingo_pl import seeding
from bingo_pl.batch import GroupBatch
from bingo_pl.methods.baselines import (
    Descent,
    SimilarityRegistrar,
    compose_groups,
    image_pyramid,
)
from bingo_pl.methods.losses import Similarity, voxel_share
from bingo_pl.methods.priors import group_bending
from bingo_pl.methods.registrar import Registration
from bingo_pl.spatial import (
    Shape,
    bspline_control_points,
    check_motion,
    free_form_displacement,
    invert,
    linear_displacement,
    resize_displacement,
)


@dataclass(frozen=True, eq=False, repr=False)
class FreeFormRegistration(Registration):
    """A registration by linear maps and free-form deformations, phi = A o (id + f)."""

    free_form: Tensor
    """f (B, N, D, *S) in voxels."""


class IterativePopulation(SimilarityRegistrar[FreeFormRegistration]):
    """Minimises the similarity of each group separately over rigid maps, then affine ones, then free-form deformations.

    Each stage starts from the result of the one before and goes from coarse to fine images. The parameters' means over
    a group are removed, so that the common space stays in the middle. The paper's baselines on Learn2Reg.

    Args:
        similarity: what is minimised.
        stiffness: weight of N times the free-form deformations' bending energy in voxels.
        descent: at each level of each stage.
        levels: of the image pyramid.
        spacing: of the control points in voxels.
    """

    def __init__(
        self, similarity: Similarity, stiffness: float, descent: Descent, levels: int = 3, spacing: float = 10.0
    ) -> None:
        super().__init__(similarity, squarings=0)
        self.stiffness = stiffness
        self.descent = descent
        self.levels = levels
        self.spacing = spacing

    def forward(self, batch: GroupBatch, generator: torch.Generator | None = None) -> FreeFormRegistration:
        """Optimise. See `Registrar.forward`; None draws the same voxels every time.

        Raises:
            BingoError: the images are too small for the pyramid.
        """
        if generator is None:
            generator = seeding.generator("voxels", device=batch.images.device)
        shape = batch.shape
        with torch.inference_mode(False), torch.enable_grad():
            pyramid = image_pyramid(batch.images.clone(), self.levels)
            descend = functools.partial(self._descend, pyramid, generator)
            linear = batch.images.new_zeros(batch.groups, batch.size, len(shape), len(shape) + 1)
            linear = rigid(descend(lambda x: linear_displacement(rigid(x), shape), linear))
            linear = descend(lambda x: linear_displacement(x, shape), linear)
            start = linear_displacement(linear, shape)
            control = [bspline_control_points(length, self.spacing) for length in shape]
            points = batch.images.new_zeros(batch.groups, batch.size, len(shape), *control)
            points = descend(
                lambda x: compose_groups(start, self._free_form(x, shape)),
                points,
                lambda x: self.stiffness * group_bending(self._free_form(x, shape)),
            )
        free_form = self._free_form(points, shape)
        undone = invert(free_form.flatten(0, 1)).unflatten(0, free_form.shape[:2])
        return FreeFormRegistration(
            displacement=compose_groups(start, free_form),
            inverse=compose_groups(undone, linear_displacement(-linear, shape)),
            free_form=free_form,
        )

    def bent(self, result: FreeFormRegistration) -> Tensor:
        return result.free_form

    def _free_form(self, points: Tensor, shape: Shape) -> Tensor:
        """Displacements (B, N, D, *S) of control points (B, N, D, *n)."""
        return free_form_displacement(points.flatten(0, 1), self.spacing, shape).unflatten(0, points.shape[:2])

    def _descend(
        self,
        pyramid: Sequence[Tensor],
        generator: torch.Generator,
        displacement: Callable[[Tensor], Tensor],
        start: Tensor,
        penalty: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """The parameters of one stage, from coarse to fine images.

        Args:
            pyramid: images (B, N, 1, *s), finest first.
            generator: draws the voxels that the similarity looks at.
            displacement: of parameters (B, N, ...), at full resolution.
            start: parameters.
            penalty: of parameters, a sum over groups; None where they are free.
        """
        for level in reversed(range(self.levels)):
            images = pyramid[level]
            share = voxel_share(pyramid[0].shape[3:], 2**level)

            def energy(parameters: Tensor, images: Tensor = images, share: float = share) -> Tensor:
                check_motion(parameters)
                whole = displacement(parameters)
                check_motion(whole)
                field = resize_displacement(whole.flatten(0, 1), images.shape[3:]).unflatten(0, whole.shape[:2])
                similarity = self.similarity.of_registered(images, field, share, generator).sum()
                return similarity if penalty is None else similarity + penalty(parameters)

            start = self.descent.minimise(energy, start)
        return start


def rigid(parameters: Tensor) -> Tensor:
    """Parameters (..., D, D + 1) of `spatial.linear_displacement` with the stretching left out."""
    matrix, translation = parameters[..., :-1], parameters[..., -1:]
    return torch.cat([(matrix - matrix.mT) / 2, translation], dim=-1)
