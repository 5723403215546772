"""Groups of any size: BInGo's registration in sweeps over chunks of images, its memory the same for every group.

A group enters the model only through sums over its images, so each level takes two sweeps: one adds up what the images
say about the common structure, one predicts the velocity of each image from it and adds up the velocities, whose mean
is subtracted when they are read. In evaluation mode batch norm uses its running statistics, hence an image's features
do not depend on the images beside it and chunks give what the whole group at once would.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from bingo_pl.batch import GroupBatch
from bingo_pl.errors import InputError
from bingo_pl.methods.bingo import Bingo, DomainOrder
from bingo_pl.methods.posterior import ExpertSums, Gaussian
from bingo_pl.streaming.budget import Budget, level_shape
from bingo_pl.streaming.shard import Shard
from bingo_pl.streaming.workspace import Plan, Workspace


class StreamedImage(NamedTuple):
    """One image of a group."""

    image: Tensor
    """(1, *S) float, intensities scaled to about [0, 1]."""
    modality: int
    """Position in the data module's ``modalities``."""
    mask: Tensor
    """(1, *S) bool, its foreground."""


class GroupSource(Protocol):
    """A group whose images are made or read when they are asked for; each is asked for several times."""

    def __len__(self) -> int: ...

    def __getitem__(self, member: int) -> StreamedImage: ...

    def identity(self, member: int) -> str:
        """What tells an image from any other one, found without reading much; e.g. its path, size and date."""
        ...


@dataclass(frozen=True, eq=False)
class MemorySource:
    """A batch of one group, as a source."""

    batch: GroupBatch

    def __post_init__(self) -> None:
        assert self.batch.groups == 1, f"a source is one group, got {self.batch.groups}"

    def __len__(self) -> int:
        return self.batch.size

    def __getitem__(self, member: int) -> StreamedImage:
        batch = self.batch
        return StreamedImage(batch.images[0, member], int(batch.modalities[0, member]), batch.masks[0, member])

    def identity(self, member: int) -> str:
        return _digest([self.batch.images[0, member], self.batch.modalities[0, member]])


@dataclass(frozen=True, eq=False)
class StreamedRegistration:
    """The result for this process's images: velocities, from which displacements are made when they are asked for."""

    bingo: Bingo
    members: range
    """Positions in the group of this process's images."""
    shape: torch.Size
    """*S."""
    chunk: int
    workspace: Workspace

    def displacements(self) -> Iterator[tuple[int, Tensor]]:
        """Each image's position and its displacement (D, *S), as `Registration.displacement`, on the CPU."""
        return self._each(inverse=False)

    def inverses(self) -> Iterator[tuple[int, Tensor]]:
        """As `displacements`, but of `Registration.inverse`."""
        return self._each(inverse=True)

    @torch.no_grad()
    def both(self, member: int) -> tuple[Tensor, Tensor]:
        """Displacement and inverse (D, *S) of the image at a position in the group, on the CPU."""
        place = self.members.index(member)
        levels, device = len(self.bingo.velocity_scales), next(self.bingo.parameters()).device
        drawn = velocities(self.workspace, slice(place, place + 1), levels, device)
        ways = self.bingo.transform, self.bingo.inverse_transform
        forward, inverse = (transform(drawn, self.shape)[0].cpu() for transform in ways)
        return forward, inverse

    @torch.no_grad()
    def _each(self, inverse: bool) -> Iterator[tuple[int, Tensor]]:
        transform = self.bingo.inverse_transform if inverse else self.bingo.transform
        device = next(self.bingo.parameters()).device
        for images in chunks(len(self.members), self.chunk):
            drawn = velocities(self.workspace, images, len(self.bingo.velocity_scales), device)
            yield from zip(self.members[images], transform(drawn, self.shape).cpu(), strict=True)


def register_stream(
    bingo: Bingo,
    source: GroupSource,
    memory_bytes: int,
    folder: Path | None = None,
    chunk: int | None = None,
    shard: Shard | None = None,
) -> StreamedRegistration:
    """Register one group of any size, as `Bingo.forward` without a generator to float tolerance.

    Args:
        bingo: in evaluation mode.
        source: the group's images; the same group for every process.
        memory_bytes: what may be used for chunks, kept features and sums, beyond the network and the program. Features
            that do not fit are computed again in each sweep.
        folder: where velocities and sums are kept; a registration that was killed resumes from there, from its last
            chunk. None keeps them in memory, within ``memory_bytes``.
        chunk: images at a time; None takes what fits.
        shard: this process among those that share the group; None: it is alone.

    Returns:
        The result for this process's images.

    Raises:
        BingoError: an empty group, unusable images, too little memory, or a folder of another registration.
    """
    assert not bingo.training, "a group can be streamed in evaluation mode only"
    shard = shard or Shard()
    if not len(source):
        raise InputError("the group holds no image", "Give at least one")
    shape = source[0].image.shape[1:]
    bingo.check_shape(shape)
    members = shard.members(len(source))
    budget = Budget.of(bingo, shape, len(members), memory_bytes, folder is None, chunk)
    workspace = Workspace(
        None if folder is None else folder / f"rank_{shard.rank}",
        _plan(bingo, source, members, shape, budget.chunk, shard),
        [(bingo.dims, *level_shape(shape, scale)) for scale in bingo.velocity_scales],
    )
    _Sweeps(bingo, source, members, shape, budget, workspace, shard).run()
    return StreamedRegistration(bingo, members, shape, budget.chunk, workspace)


def chunks(size: int, chunk: int) -> Iterator[slice]:
    """The slices of ``chunk`` images that make up ``size``."""
    for start in range(0, size, chunk):
        yield slice(start, min(start + chunk, size))


def velocities(workspace: Workspace, images: slice, levels: int, device: torch.device) -> list[Tensor]:
    """The velocities (K, D, *s) of the first levels, without the group's mean."""
    return [(workspace.read(level, images) - workspace.results[2 * level + 1]).to(device) for level in range(levels)]


class _Sweeps:
    """The sweeps of one process: even ones accumulate a level's experts, odd ones predict its velocities."""

    def __init__(
        self,
        bingo: Bingo,
        source: GroupSource,
        members: range,
        shape: torch.Size,
        budget: Budget,
        workspace: Workspace,
        shard: Shard,
    ) -> None:
        self.bingo = bingo
        self.source = source
        self.members = members
        self.shape = shape
        self.budget = budget
        self.workspace = workspace
        self.shard = shard
        self.device = next(bingo.parameters()).device
        self.kept: dict[int, dict[int, Tensor]] = {}
        """Features of each scale with a velocity, by the chunk's first image."""

    @torch.no_grad()
    def run(self) -> None:
        finished = self.shard.least(len(self.workspace.results))
        self.workspace.forget(finished)  # a process may have been killed before the others; they wait for it
        for sweep in range(finished, 2 * len(self.bingo.velocity_scales)):
            level, predicting = divmod(sweep, 2)
            work = self._predict if predicting else self._accumulate
            done, sums = self.workspace.begin(sweep)
            for images in chunks(len(self.members), self.budget.chunk):
                if images.stop > done:
                    sums = sums + work(level, images).cpu().double()  # a float32 sum of 100,000 images loses digits
                    self.workspace.save(sweep, images.stop, sums)
            assert isinstance(sums, Tensor)
            total = self.shard.total(sums)
            if predicting:
                self.workspace.finish((total / len(self.source)).float())
            else:
                self.workspace.finish(ExpertSums(total[0], total[1], len(self.source)).posterior().mean[0].float())
            self.shard.least(sweep)  # so that nobody saves sums of the next sweep while others may need this one's

    def _accumulate(self, level: int, images: slice) -> Tensor:
        """The sums (2, 1, 1, C / 2, *s) of the images' experts."""
        own = self._own(level, images)
        sums = ExpertSums.of(Gaussian(own.mean[None], own.variance[None]))
        return torch.stack([sums.precision, sums.weighted_mean])

    def _predict(self, level: int, images: slice) -> Tensor:
        """Keeps the images' velocities; their sum (D, *s)."""
        own = self._own(level, images).mean
        common = self.workspace.results[2 * level].to(self.device)
        velocity, _ = self.bingo.predict(level, common.expand(len(own), *common.shape[1:]), own)
        self.workspace.write(level, images, velocity)
        return velocity.sum(0)

    def _own(self, level: int, images: slice) -> Gaussian:
        """The images' experts (K, C / 2, *s), seen through the velocities of the levels before."""
        feature = self._features(images)[self.bingo.velocity_scales[level]]
        return self.bingo.own_expert(feature, velocities(self.workspace, images, level, self.device))

    def _features(self, images: slice) -> dict[int, Tensor]:
        """Features (K, C, *s) of each scale that has a velocity."""
        if images.start in self.kept:
            return self.kept[images.start]
        batch, modalities = self._read(images)
        order = DomainOrder.of(modalities[None], self.bingo.modalities)
        by_domain = self.bingo.features(order.sort(batch[None]), order.counts)
        features = {scale: order.unsort(feature)[0] for scale, feature in by_domain.items()}
        if images.stop <= self.budget.kept:
            self.kept[images.start] = features
        return features

    def _read(self, images: slice) -> tuple[Tensor, Tensor]:
        """Images (K, 1, *S) and modalities (K,).

        Raises:
            BingoError: an image does not fit the group or the network.
        """
        streamed = [self.source[member] for member in self.members[images]]
        for member, one in zip(self.members[images], streamed, strict=True):
            self._check(member, one)
        modalities = torch.tensor([one.modality for one in streamed], device=self.device)
        return torch.stack([one.image for one in streamed]).to(self.device), modalities

    def _check(self, member: int, one: StreamedImage) -> None:
        problem = None
        if one.image.shape != (1, *self.shape):
            problem = f"has the shape {tuple(one.image.shape[1:])}, the first one {tuple(self.shape)}. Resample it"
        elif not 0 <= one.modality < self.bingo.modalities:
            problem = f"has modality {one.modality}, the network knows 0 to {self.bingo.modalities - 1}. Correct it"
        elif not torch.isfinite(one.image).all():
            problem = "has NaN or Inf voxels, wanted finite ones. Correct it or leave it out"
        if problem:
            raise InputError(f"image {member} of the group ({self.source.identity(member)}) {problem}")


def _plan(bingo: Bingo, source: GroupSource, members: range, shape: Sequence[int], chunk: int, shard: Shard) -> Plan:
    settings = {
        "network": _digest(bingo.state_dict().values()),
        "velocity scales": str(bingo.velocity_scales),
        "squarings": str(bingo.squarings),
        "image size": str(tuple(shape)),
        "images": str(len(source)),
        "images a chunk": str(chunk),
        "process": f"{shard.rank} of {shard.ranks}",
    }
    return Plan(settings, [source.identity(member) for member in members])


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
