"""A test cohort as one large group: its groups, each under several misalignments, merged."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from bingo_pl.batch import GroupBatch
from bingo_pl.data_modules.base import GroupDataModule
from bingo_pl.data_modules.cache import CachedGroup, load_group
from bingo_pl.errors import InputError
from bingo_pl.evaluation.streamed_metrics import Reference
from bingo_pl.seeding import generator
from bingo_pl.streaming.stream import StreamedImage


class Unit(NamedTuple):
    """A test group under one of its misalignments."""

    group: CachedGroup
    draw: int


class MergedGroups:
    """Test groups of a cohort as one group, read and misaligned when an image is asked for.

    Args:
        data: set up for the test.
        units: what is merged.
        modalities: the network's number of each of the data's modalities.
    """

    def __init__(self, data: GroupDataModule, units: Sequence[Unit], modalities: Sequence[int]) -> None:
        self.data = data
        self.modalities = tuple(modalities)
        self.units = tuple(units)
        self.starts = [0, *itertools.accumulate(unit.group.size for unit in self.units)]
        self._current: tuple[Unit, GroupBatch] | None = None

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, member: int) -> StreamedImage:
        batch, position = self._locate(member)
        modality = self.modalities[int(batch.modalities[0, position])]
        return StreamedImage(batch.images[0, position], modality, batch.masks[0, position])

    def reference(self, member: int) -> Reference:
        """What the image's registration is judged by."""
        batch, position = self._locate(member)
        assert batch.truth is not None
        name, _, _ = batch.names[0].rpartition("#")
        return Reference(batch.labels[0, position], batch.masks[0, position], batch.truth[0, position], name)

    def identity(self, member: int) -> str:
        unit, position = self._unit(member)
        return f"{unit.group.path.parent.name}/{unit.group.name}#{unit.draw} image {position}, seed {self.data.seed}"

    def _unit(self, member: int) -> tuple[Unit, int]:
        if not 0 <= member < len(self):
            raise IndexError(member)
        number = bisect.bisect_right(self.starts, member) - 1
        return self.units[number], member - self.starts[number]

    def _locate(self, member: int) -> tuple[GroupBatch, int]:
        """The misaligned unit, the last one kept since its images are asked for one after the other."""
        unit, position = self._unit(member)
        if self._current is None or self._current[0] != unit:
            batch = load_group(unit.group)
            named = replace(batch, names=(f"{unit.group.name}#{unit.draw}",))
            self._current = unit, self.data.misalign_for_evaluation(named, "test")
        return self._current[1], position


def draw_units(data: GroupDataModule, images: int) -> list[Unit]:
    """As many test groups and misalignments as make ``images`` images, in a random order that the seed fixes.

    Each group has equally many misalignments but for one, the first as in the test.

    Raises:
        BingoError: the test groups differ in size, so that merging equally many gives groups of different sizes.
    """
    groups = data.groups["test"]
    sizes = {group.size for group in groups}
    if len(sizes) != 1:
        raise InputError(
            f"{data.root}: the test groups have {', '.join(map(str, sorted(sizes)))} images; scalability merges groups "
            "of one size",
            "Leave incomplete groups out of the test split",
        )
    (size,) = sizes
    wanted = max(images // size, 1)
    units = [Unit(group, draw) for draw in range(math.ceil(wanted / len(groups))) for group in groups][:wanted]
    order = torch.randperm(len(units), generator=generator(data.seed, "scalability"))
    return [units[position] for position in order.tolist()]
