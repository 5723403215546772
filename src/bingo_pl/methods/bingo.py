"""BInGo: the hierarchical Bayesian auto-encoder for groupwise registration (Wang, Luo, Zhuang, IPMI 2023)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bingo_pl.batch import GroupBatch
from bingo_pl.errors import InputError
from bingo_pl.methods.losses import Similarity, voxel_share
from bingo_pl.methods.networks import Decoder, DomainNorm, Encoder, VelocityHead, in_windows
from bingo_pl.methods.posterior import ExpertSums, Gaussian, expert, kl_divergence
from bingo_pl.methods.priors import group_bending, velocity_kl
from bingo_pl.methods.recomputation import recomputed
from bingo_pl.methods.registrar import Registrar, Registration
from bingo_pl.spatial import Shape, compose, integrate_all, resize_displacement, warp

LARGEST_LOG_VARIANCE = 12.0
"""Of a velocity, either way: a standard deviation of 0.002 to 400 voxels. Beyond, its logarithm or square overflows."""


FEWEST_NODES = 3
"""A grid of fewer along an axis has none whose neighbours are all on it."""


@dataclass(frozen=True)
class Taught:
    """What the velocities were taught on, and so what they can say anything of."""

    shape: tuple[int, ...]
    """*S of the training images."""
    reach: float
    """Of the variances: the largest misalignment along an axis, in voxels; 0 where nothing taught them."""


@dataclass(frozen=True, eq=False, repr=False)
class BingoRegistration(Registration):
    """A registration and the velocities it was made of."""

    velocities: tuple[Gaussian, ...]
    """q(v^l | x, v^<l), coarsest level first; (B, N, D, *s) in voxels of the level's own grid."""


class Bingo(Registrar[BingoRegistration]):
    """The hierarchical VAE.

    Args:
        dims: D.
        modalities: number of modalities, each with its own normalisation.
        channels: width of each scale, finest (stride 1) first; a scale has half the resolution of the one before.
            Half of the channels are means of the structure's experts, half their variances.
        velocity_scales: the scales that have a velocity, coarsest first. A scale that is named again looks once more,
            at what is common to images that the velocities before have brought nearer.
        head_depth: convolutions of each velocity head before its last.
        squarings: steps of scaling and squaring.
        smoothness: precision of the velocity prior.
        second_pass: encode the registered images to obtain the experts (the paper's default) rather than warp
            the features of the original images.
        velocity_noise: sample velocities in training rather than use their means.
        cross_reconstruction: probability a training step decodes every image from another image's expert, which is
            a draw from the arithmetic mean of Eq. (4), instead of from the joint posterior. It keeps a modality from
            hiding in channels of its own.
        similarity: of the registered images, minimised beside the ELBO; None, as in the paper: no such term.
        taught: what the velocities are taught on; None where it is not known, and they are taken as they are.
    """

    def __init__(
        self,
        dims: int,
        modalities: int,
        channels: Sequence[int] = (16, 32, 64, 128, 256),
        velocity_scales: Sequence[int] = (4, 2, 0),
        head_depth: int = 4,
        squarings: int = 7,
        smoothness: float = 10.0,
        second_pass: bool = True,
        velocity_noise: bool = True,
        cross_reconstruction: float = 0.0,
        similarity: Similarity | None = None,
        taught: Taught | None = None,
    ) -> None:
        super().__init__()
        _check_architecture(channels, velocity_scales)
        self.dims = dims
        self.modalities = modalities
        self.channels = tuple(channels)
        self.velocity_scales = tuple(velocity_scales)
        self.stride = 2 ** (len(channels) - 1)
        self.squarings = squarings
        self.smoothness = smoothness
        self.second_pass = second_pass
        self.velocity_noise = velocity_noise
        self.cross_reconstruction = cross_reconstruction
        self.similarity = similarity
        self.taught = taught
        self.encoder = Encoder(dims, modalities, channels)
        self.decoder = Decoder(dims, modalities, [width // 2 for width in channels])
        prior_variance = 1 / (smoothness * 2 * dims)
        self.heads = nn.ModuleList(
            VelocityHead(dims, channels[scale], head_depth, math.log(prior_variance), velocity_noise)
            for scale in velocity_scales
        )
        if dims == 2:  # convolutions of few channels run 2 to 3 times faster on a CPU
            self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in the stubs

    def forward(self, batch: GroupBatch, generator: torch.Generator | None = None) -> BingoRegistration:
        """Step I, bottom-up inference of the velocities. See `Registrar.forward`.

        Raises:
            BingoError: an image size is not divisible by the network's stride.
        """
        self.check_shape(batch.shape)
        order = DomainOrder.of(batch.modalities, self.modalities)
        features = self.features(order.sort(batch.images), order.counts)
        noise = generator if self.velocity_noise else None
        velocities: list[Gaussian] = []
        drawn: list[Tensor] = []
        moved: Tensor | None = None
        for level, scale in enumerate(self.velocity_scales):
            moved = self._move_on(moved, drawn, features[scale].shape[2:])
            own = _expert_through(features[scale], moved)
            common = ExpertSums.of(order.unsort_all(own)).posterior().mean
            mean, log_variance = self.predict(level, order.share(common), own.mean)
            mean = order.unsort(mean)
            mean = mean - mean.mean(1, keepdim=True)  # nothing else holds the common space in place
            velocity = Gaussian(mean, order.unsort(log_variance).exp())
            velocities.append(velocity)
            drawn.append(order.sort(velocity.sample(noise)))
        return BingoRegistration(
            displacement=order.unsort(self.transform(drawn, batch.shape)),
            inverse=order.unsort(self.inverse_transform(drawn, batch.shape)),
            velocities=tuple(velocities),
        )

    def features(self, images: Tensor, counts: Sequence[int]) -> dict[int, Tensor]:
        """What velocities are read from: (K, C, *s) for each scale that has one.

        Finer features only serve the decoder. They are the most expensive ones, and are not computed.

        Args:
            images: (K, 1, *S) sorted by modality.
            counts: images of each modality.
        """
        finest = self.velocity_scales[-1]
        features = self.encoder(images, counts, finest)
        return {scale: features[scale - finest] for scale in set(self.velocity_scales)}

    def own_expert(self, features: Tensor, velocities: Sequence[Tensor]) -> Gaussian:
        """What images say about the common structure of a level, seen through the velocities before it.

        Args:
            features: (K, C, *s) of the level's scale, unregistered.
            velocities: of the levels before, (K, D, *s) each.

        Returns:
            (K, C / 2, *s).
        """
        return _expert_through(features, self._move_on(None, velocities, features.shape[2:]))

    def _move_on(self, moved: Tensor | None, velocities: Sequence[Tensor], shape: Shape) -> Tensor | None:
        """`transform`, None without velocities; ``moved`` is that of all but the last, maybe on another grid."""
        if not velocities:
            return None
        if moved is None or moved.shape[2:] != shape:
            return self.transform(velocities, shape)
        return compose(moved, self.transform(velocities[-1:], shape))

    def predict(self, level: int, common: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (K, D, *s) of a level's velocity, from the group's structure and an image's own.

        The mean still moves the group as a whole: that of the group has to be subtracted. A head that was trained on
        grids too small to have an inside makes nothing sensible of one: it sees windows of the size that it knows.
        """
        head, window = self.heads[level], self._window(level, common.shape[2:])
        if window == common.shape[2:]:
            mean, log_variance = recomputed(head, common, own)
        else:
            both = in_windows(lambda *parts: torch.cat(head(*parts), 1), (common, own), window)
            mean, log_variance = both.chunk(2, 1)
        return mean.float(), bounded(log_variance.float())  # half precision cannot hold a coordinate

    def _window(self, level: int, shape: Shape) -> Shape:
        """The part of a level's grid that its head knows the like of: as many nodes along an axis as it was trained on
        where that were too few, else all."""
        if self.taught is None:
            return shape
        seen = [size // 2 ** self.velocity_scales[level] for size in self.taught.shape]
        return torch.Size(
            min(size, nodes) if nodes < FEWEST_NODES else size for size, nodes in zip(shape, seen, strict=True)
        )

    def transform(self, velocities: Sequence[Tensor], shape: Shape) -> Tensor:
        """phi = phi^1 o ... o phi^L, phi^l = exp(v^l), as a displacement (K, D, *shape) on the grid ``shape``."""
        return integrate_all(velocities, shape, self.squarings, run=recomputed)

    def inverse_transform(self, velocities: Sequence[Tensor], shape: Shape) -> Tensor:
        """phi^-1 = exp(-v^L) o ... o exp(-v^1), as `transform`."""
        return self.transform([-velocity for velocity in reversed(velocities)], shape)

    def loss(
        self, batch: GroupBatch, result: BingoRegistration, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """The terms of the negative ELBO, Eq. (2) and (3): ``reconstruction``, ``kl_velocity`` and ``kl_structure``.

        And if there is one, ``similarity``, a mean over groups, with ``bending``, N times the bending energy of the
        displacements: the prior of the velocities alone lets a similarity bend images until they share more than they
        do when they are aligned.
        """
        order = DomainOrder.of(batch.modalities, self.modalities)
        experts = [order.unsort_all(q) for q in self.experts(batch, result, order)]
        posteriors = [ExpertSums.of(q).posterior() for q in experts]
        if (
            generator is not None
            and torch.rand((), generator=generator, device=generator.device) < self.cross_reconstruction
        ):
            structure = self._structure_of_others(experts, order, generator)
        else:
            structure = [order.share(q.sample(generator)) for q in posteriors]
        registered = self.decoder(structure, order.counts)
        reconstruction = warp(registered, order.sort(result.inverse))
        images = batch.groups * batch.size
        voxels = images * math.prod(batch.shape)
        kl_structure = [kl_divergence(q, p).sum() / voxels for q, p in zip(posteriors, experts, strict=True)]  # Eq. (6)
        kl_velocity = [
            velocity_kl(Gaussian(v.mean.flatten(0, 1), v.variance.flatten(0, 1)), self.smoothness)
            for v in result.velocities
        ]
        terms = {
            "reconstruction": F.l1_loss(reconstruction, order.sort(batch.images)),
            "kl_velocity": torch.stack(kl_velocity).mean(),
            "kl_structure": torch.stack(kl_structure).mean(),
        }
        if self.similarity is not None:
            share = voxel_share(batch.shape)
            measured = self.similarity.of_registered(batch.images, result.displacement, share, generator)
            terms |= {"similarity": measured.mean(), "bending": group_bending(result.displacement) / batch.groups}
        return terms

    def parameters_by_role(self) -> dict[str, list[nn.Parameter]]:
        """``motion``: the velocity heads; ``appearance``: the modalities' norms; ``network``: the shared rest."""
        motion = list(self.heads.parameters())
        norms = [module for module in self.modules() if isinstance(module, DomainNorm)]
        appearance = [parameter for norm in norms for parameter in norm.parameters()]
        special = {id(parameter) for parameter in motion + appearance}
        network = [parameter for parameter in self.parameters() if id(parameter) not in special]
        return {"network": network, "motion": motion, "appearance": appearance}

    def explain(self, batch: GroupBatch, result: Registration) -> dict[str, Tensor]:
        """The common structure z of every scale, coarsest first, and each registered image's reconstruction from it."""
        order = DomainOrder.of(batch.modalities, self.modalities)
        experts = [order.unsort_all(q) for q in self.experts(batch, result, order)]
        structure = [ExpertSums.of(q).posterior().mean for q in experts]
        registered = self.decoder([order.share(z) for z in structure], order.counts)
        levels = {f"common structure z, level {level}": z for level, z in enumerate(reversed(structure), start=1)}
        return {"reconstruction": order.unsort(registered), **levels}

    def experts(self, batch: GroupBatch, result: Registration, order: DomainOrder) -> list[Gaussian]:
        """Step II, top-down: q_m(z^l | x_m, v_m) of every scale, finest first, in the order of the domains."""
        images = order.sort(batch.images)
        displacement = order.sort(result.displacement)
        if self.second_pass:
            return [expert(feature) for feature in self.encoder(warp(images, displacement), order.counts)]
        features = self.encoder(images, order.counts)
        return [
            expert(warp(feature, resize_displacement(displacement, feature.shape[2:]), padding="zeros"))
            for feature in features
        ]

    def _structure_of_others(
        self, experts: Sequence[Gaussian], order: DomainOrder, generator: torch.Generator
    ) -> list[Tensor]:
        """For every image a draw from another image's expert: one component of the mixture in Eq. (4)."""
        size = experts[0].mean.shape[1]
        shift = int(torch.randint(1, max(size, 2), (1,), generator=generator, device=generator.device))
        return [
            order.sort(Gaussian(q.mean.roll(shift, 1), q.variance.roll(shift, 1)).sample(generator)) for q in experts
        ]

    def check_shape(self, shape: Shape) -> None:
        """Raises `BingoError` where images of spatial ``shape`` do not fit the network."""
        if len(shape) != self.dims or any(size % self.stride for size in shape):
            raise InputError(
                f"image size {tuple(shape)} does not fit the network: wanted {self.dims} sizes divisible by its "
                f"coarsest stride, {self.stride}",
                "Pad or crop the images (data.roi), or use fewer scales (model.channels)",
            )


def bounded(log_variance: Tensor) -> Tensor:
    """Within `LARGEST_LOG_VARIANCE`.

    Beyond, with the gradient of what is within where that leads back, or nothing would; else with none, or the network
    would continue to ever larger numbers, and what it says of grids that it was not trained on would be larger still.
    """
    bound: Tensor = _Bounded.apply(log_variance)
    return bound


class _Bounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_variance: Tensor) -> Tensor:
        within = log_variance.clamp(-LARGEST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)
        ctx.save_for_backward(log_variance - within)
        return within

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (beyond,) = ctx.saved_tensors
        return torch.where(beyond * slope < 0, 0, slope)  # a step goes against the slope


def _expert_through(features: Tensor, displacement: Tensor | None) -> Gaussian:
    return expert(features if displacement is None else warp(features, displacement, padding="zeros"))


def _check_architecture(channels: Sequence[int], velocity_scales: Sequence[int]) -> None:
    if not channels or any(width < 2 or width % 2 for width in channels):
        raise InputError(f"model.channels={[*channels]}: wanted even widths, half are means and half variances")
    falling = all(a >= b for a, b in itertools.pairwise(velocity_scales))
    if not velocity_scales or not falling or not 0 <= velocity_scales[-1] <= velocity_scales[0] < len(channels):
        raise InputError(
            f"model.velocity_scales={[*velocity_scales]}: wanted numbers that do not rise, from "
            f"{len(channels) - 1} (the coarsest of model.channels) to 0"
        )


@dataclass(frozen=True)
class DomainOrder:
    """The way from groups (B, N, ...) to images sorted by modality (K, ...) and back."""

    order: Tensor
    """(K,) position in the flattened groups of each sorted image."""
    counts: list[int]
    """Images of each modality."""
    size: int
    """N."""

    @classmethod
    def of(cls, modalities: Tensor, known: int) -> DomainOrder:
        flat = modalities.flatten()
        return cls(flat.argsort(stable=True), torch.bincount(flat, minlength=known).tolist(), modalities.shape[1])

    def sort(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)[self.order]

    def unsort(self, x: Tensor) -> Tensor:
        return x[self.order.argsort()].unflatten(0, (-1, self.size))

    def unsort_all(self, q: Gaussian) -> Gaussian:
        return Gaussian(self.unsort(q.mean), self.unsort(q.variance))

    def share(self, common: Tensor) -> Tensor:
        """What a group has in common (B, 1, ...), handed to each of its images."""
        return self.sort(common.expand(-1, self.size, *common.shape[2:]))
