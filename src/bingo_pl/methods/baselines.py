"""What BInGo is compared with: similarities minimised for each group, or by a network over many groups."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bingo_pl import seeding
from bingo_pl.batch import GroupBatch
from bingo_pl.errors import DivergenceError, InputError
from bingo_pl.methods.attention_unet import AttResUNet
from bingo_pl.methods.losses import Similarity, voxel_share
from bingo_pl.methods.priors import group_bending
from bingo_pl.methods.registrar import Registrar, Registration, Result
from bingo_pl.spatial import Shape, compose, integrate, integrate_all, resize, resize_displacement

SMALLEST_LEVEL = 4
"""Voxels along an axis of the coarsest pyramid level."""
SMALLEST_SLOPE = 1e-3
"""Adam's epsilon, in nats per voxel of motion. Slopes are about 1, and their rounding 1e-6, which Adam would follow."""


@dataclass(frozen=True, eq=False, repr=False)
class VelocityRegistration(Registration):
    """A registration and the velocities it was made of."""

    velocity: Tensor
    """(B, N, D, *s) stationary, in voxels of its grid, of zero mean over each group."""

    @classmethod
    def of(cls, velocity: Tensor, squarings: int) -> VelocityRegistration:
        return cls(_integrate(velocity, squarings), _integrate(-velocity, squarings), velocity)


@dataclass(frozen=True, eq=False, repr=False)
class RefinedRegistration(VelocityRegistration):
    """A registration that improves on another; its velocity is what was added."""

    start: Registration
    """What the trained method made of the groups."""


class SimilarityRegistrar(Registrar[Result]):
    """A method that minimises a similarity of the registered images, and the bending energy of what it bends them by.

    Args:
        similarity: what is minimised.
        squarings: steps of scaling and squaring.
    """

    def __init__(self, similarity: Similarity, squarings: int) -> None:
        super().__init__()
        self.similarity = similarity
        self.squarings = squarings

    def loss(self, batch: GroupBatch, result: Result, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``similarity``, a mean over groups, and ``bending``, N times the bending energy of `bent`."""
        share = voxel_share(batch.shape)
        similarity = self.similarity.of_registered(batch.images, result.displacement, share, generator)
        return {"similarity": similarity.mean(), "bending": group_bending(self.bent(result)) / batch.groups}

    @abstractmethod
    def bent(self, result: Result) -> Tensor:
        """(B, N, D, *s) velocities or displacements whose bending energy is charged."""


class VelocityRegistrar(SimilarityRegistrar[VelocityRegistration]):
    """A method of one velocity an image."""

    def bent(self, result: VelocityRegistration) -> Tensor:
        return result.velocity


@dataclass(frozen=True)
class Descent:
    """Adam on the velocities of groups that do not see each other."""

    learning_rate: float
    """In voxels of the velocities' grid."""
    steps: int

    def minimise(self, energy: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
        """The velocities (B, N, D, *S), of zero mean over each group and without gradient.

        Args:
            energy: of such velocities, a scalar, the sum over groups.
            start: velocities (B, N, D, *S).

        Raises:
            DivergenceError: the energy is not finite, or the velocities.
        """
        velocity = start.clone().requires_grad_()
        optimizer = torch.optim.Adam([velocity], lr=self.learning_rate, eps=SMALLEST_SLOPE)
        for _ in range(self.steps):
            optimizer.zero_grad()
            value = energy(_without_mean(velocity))
            if not value.isfinite():
                raise DivergenceError(
                    f"the optimisation diverged: its energy is {value:g}",
                    "Use a lower learning rate (iterative."
                    f"learning_rate, refine.learning_rate; here {self.learning_rate:g})",
                )
            # A sum over voxels, so that slopes do not depend on their number.
            (start.shape[3:].numel() * value).backward()
            optimizer.step()
        return _without_mean(velocity.detach())


class Iterative(VelocityRegistrar):
    """Minimises the similarity of each group separately, from coarse to fine images. It has nothing to train.

    Args:
        similarity: what is minimised.
        stiffness: alpha, the weight of N times the velocities' bending energy in full-resolution voxels. The published
            one is not known: choose it on validation groups.
        descent: at each level.
        levels: of the image pyramid; each halves the resolution. A level starts from the resized velocities of the one
            before.
        squarings: steps of scaling and squaring.
    """

    def __init__(
        self, similarity: Similarity, stiffness: float, descent: Descent, levels: int = 3, squarings: int = 7
    ) -> None:
        super().__init__(similarity, squarings)
        self.stiffness = stiffness
        self.descent = descent
        self.levels = levels

    def forward(self, batch: GroupBatch, generator: torch.Generator | None = None) -> VelocityRegistration:
        """Optimise. See `Registrar.forward`; None draws the same voxels every time.

        Raises:
            BingoError: the images are too small for the pyramid.
        """
        if generator is None:
            generator = seeding.generator("voxels", device=batch.images.device)
        # Adam needs derivatives also where the caller has turned them off, as Lightning's test loop does.
        with torch.inference_mode(False), torch.enable_grad():
            velocity = self._optimise(batch.images.clone(), generator)
        return VelocityRegistration.of(velocity, self.squarings)

    def _optimise(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """The velocities (B, N, D, *S), without gradient."""
        pyramid = image_pyramid(images, self.levels)
        coarsest = pyramid[-1].shape[3:]
        velocity = images.new_zeros(*images.shape[:2], len(coarsest), *coarsest)
        for level in reversed(range(self.levels)):
            shape, stride = pyramid[level].shape[3:], 2**level
            share = voxel_share(images.shape[3:], stride)
            energy = functools.partial(self._energy, pyramid[level], share, stride, generator)
            start = resize_displacement(velocity.flatten(0, 1), shape).unflatten(0, images.shape[:2])
            velocity = self.descent.minimise(energy, start)
        return velocity

    def _energy(
        self, images: Tensor, share: float, stride: int, generator: torch.Generator, velocity: Tensor
    ) -> Tensor:
        similarity = self.similarity.of_registered(images, _integrate(velocity, self.squarings), share, generator).sum()
        # In voxels of stride s a velocity is s times smaller and its second derivatives are s times larger.
        return similarity + self.stiffness / stride**2 * group_bending(velocity)


class Refined(VelocityRegistrar):
    """Improves what a trained method gives, for each group separately: phi = phi_start o exp(w), w of least
    dissimilarity

    The weights of the method stay as they are. A composition keeps the map a diffeomorphism and knows its inverse.

    Args:
        start: the trained method.
        similarity: what is minimised.
        stiffness: weight of N times the bending energy of the whole displacement, in voxels, not of w alone: it smooths
            what the method was not sure of. For a pair; among more images every pair is an observation, and each
            image is in N - 1 of them, so it weighs 1 / (N - 1) of that.
        descent: from w = 0, on the grid of w.
        stride: of the grid of w, in voxels. A coarse one is faster and follows less noise.
        squarings: steps of scaling and squaring of w, which is small.
    """

    def __init__(
        self,
        start: Registrar,
        similarity: Similarity,
        stiffness: float,
        descent: Descent,
        stride: int = 2,
        squarings: int = 4,
    ) -> None:
        super().__init__(similarity, squarings)
        self.start = start
        self.stiffness = stiffness
        self.descent = descent
        self.stride = stride

    def forward(self, batch: GroupBatch, generator: torch.Generator | None = None) -> RefinedRegistration:
        """Register, then optimise; the velocity of the result is w, not the whole. See `Registrar.forward`."""
        with torch.no_grad():
            start = self.start(batch)
        if generator is None:
            generator = seeding.generator("voxels", device=batch.images.device)
        with torch.inference_mode(False), torch.enable_grad():
            images, displacement = batch.images.clone(), start.displacement.clone()
            share = voxel_share(batch.shape)
            stiffness = self.stiffness / max(batch.size - 1, 1)

            def energy(velocity: Tensor) -> Tensor:
                whole = compose_groups(displacement, self._motion(velocity, batch.shape))
                similarity = self.similarity.of_registered(images, whole, share, generator).sum()
                return similarity + stiffness * group_bending(whole)

            grid = [-(-size // self.stride) for size in batch.shape]
            velocity = self.descent.minimise(energy, displacement.new_zeros(*displacement.shape[:3], *grid))
        return RefinedRegistration(
            start=start,
            displacement=compose_groups(start.displacement, self._motion(velocity, batch.shape)),
            inverse=compose_groups(self._motion(-velocity, batch.shape), start.inverse),
            velocity=velocity,
        )

    def _motion(self, velocity: Tensor, shape: Shape) -> Tensor:
        """exp(w) at full resolution: displacements (B, N, D, *S)."""
        return integrate_all([velocity.flatten(0, 1)], shape, self.squarings).unflatten(0, velocity.shape[:2])

    def explain(self, batch: GroupBatch, result: Registration) -> dict[str, Tensor]:
        """What the trained method saw in the groups as they are registered now."""
        return self.start.explain(batch, result)


class Amortised(VelocityRegistrar):
    """Trains a network to give the velocities of complete groups: one image of each modality.

    Args:
        network: stacked images to velocities.
        similarity: what is minimised.
        squarings: steps of scaling and squaring.
    """

    def __init__(self, network: AttResUNet, similarity: Similarity, squarings: int = 7) -> None:
        super().__init__(similarity, squarings)
        self.network = network

    def forward(self, batch: GroupBatch, generator: torch.Generator | None = None) -> VelocityRegistration:
        """One pass through the network. See `Registrar.forward`.

        Raises:
            BingoError: a group is not one image of each modality, or a size is not divisible by the network's stride.
        """
        self._check(batch)
        order = batch.modalities.argsort(1)
        stacked = batch.select(order).images.squeeze(2)
        velocity = _without_mean(self.network(stacked).to(batch.images.dtype))
        back = order.argsort(1).reshape(*order.shape, *[1] * (velocity.ndim - 2))
        return VelocityRegistration.of(torch.take_along_dim(velocity, back, dim=1), self.squarings)

    def _check(self, batch: GroupBatch) -> None:
        wanted = list(range(self.network.modalities))
        for name, modalities in zip(batch.names, batch.modalities.tolist(), strict=True):
            if sorted(modalities) != wanted:
                raise InputError(
                    f"group '{name}' has images of modalities {modalities}, but the network takes exactly one of each "
                    f"of {wanted}",
                    "Register complete groups (no data.images_per_step), or use BInGo or an iterative "
                    "method, which take any group",
                )
        if any(size % self.network.stride for size in batch.shape):
            raise InputError(
                f"image size {tuple(batch.shape)} is not divisible by {self.network.stride}, the network's coarsest "
                "stride",
                "Pad or crop the images (data.roi)",
            )


def image_pyramid(images: Tensor, levels: int) -> list[Tensor]:
    """Images (B, N, 1, *s) of each level, finest first; each level has half the resolution of the one before.

    Raises:
        BingoError: the images are too small.
    """
    shape = tuple(images.shape[3:])
    if min(shape) / 2 ** (levels - 1) < SMALLEST_LEVEL:
        raise InputError(
            f"images of {shape} voxels are too small for {levels} pyramid levels: the coarsest would have fewer than "
            f"{SMALLEST_LEVEL} voxels along an axis",
            "Use fewer levels (iterative.levels)",
        )
    pyramid = [images]
    for _ in range(levels - 1):
        half = [(size + 1) // 2 for size in pyramid[-1].shape[3:]]
        pyramid.append(resize(pyramid[-1].flatten(0, 1), half).unflatten(0, images.shape[:2]))
    return pyramid


def _integrate(velocity: Tensor, squarings: int) -> Tensor:
    """`integrate` for groups (B, N, D, *S)."""
    return integrate(velocity.flatten(0, 1), squarings).unflatten(0, velocity.shape[:2])


def compose_groups(first: Tensor, second: Tensor) -> Tensor:
    """`compose` for groups (B, N, D, *S)."""
    return compose(first.flatten(0, 1), second.flatten(0, 1)).unflatten(0, first.shape[:2])


def _without_mean(velocity: Tensor) -> Tensor:
    """Nothing else holds the common space of a group in place."""
    return velocity - velocity.mean(1, keepdim=True)
