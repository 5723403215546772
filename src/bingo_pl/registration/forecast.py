"""What registering a group at its own resolution will cost on this machine: its cascade's plan, and small probes.

Each piece of the work is done once, for one image or a few steps, and counted as often as the plan has it. How far the
cascade goes depends on the images, so there are two figures: of a group that is aligned or moves rigidly, whose stages
end at the coarse deformation, and of one that is clearly deformed, see `Plan.passes`.
"""

from __future__ import annotations

import math
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np
import torch
from rich.table import Table
from torch import Tensor

from bingo_pl import config as settings
from bingo_pl.alignment import error, starts
from bingo_pl.alignment.cascade import EVIDENCE_POINTS, Cascade, Outcome, Plan
from bingo_pl.alignment.cloud import Cloud
from bingo_pl.alignment.experts import encoded_lattice
from bingo_pl.alignment.maps import Lattice, Linear, Maps
from bingo_pl.alignment.optimisation import Level, Sight, optimise
from bingo_pl.alignment.similarity import ALL_PAIRS
from bingo_pl.evaluation.uncertainty import hierarchical
from bingo_pl.images.members import Member
from bingo_pl.images.scans import File, Scan, check_dimensions, names_of, read_scan
from bingo_pl.memory import show_bytes
from bingo_pl.models.model import Model
from bingo_pl.registration.findings import findings_of_aligned
from bingo_pl.registration.native import Space, native_grid, place_scans, similarity_of
from bingo_pl.registration.registered import RegisteredGroup
from bingo_pl.streaming.estimate import show_seconds

MOST_READ = 8
"""Images that are read: the others are taken to be like these."""
STEPS = 4
"""Of an optimisation that is timed."""
EVIDENCE = 8
"""Looks at `EVIDENCE_POINTS` points: two a stage, and two at all images' agreement."""
PART = 0.5
"""Of the objects' box along each axis, that is encoded at the finer levels to time them."""
FLOAT = 4
HELD = 9
"""Bytes a voxel of each image: intensities, a mask, and the copy that alignment sees."""
WRITING = 24
"""Bytes a voxel of the group grid while it is written: the template and the volumes of one image in work."""
ENCODED = {2: 768, 3: 96}
"""Voxels along each axis of what is encoded to know the memory that this takes, by D."""
START = """
import sys, time
start = time.perf_counter()
from pathlib import Path
import bingo_pl.cli.register, bingo_pl.registration.workflow, bingo_pl.report.page
from bingo_pl.memory import peak_bytes
from bingo_pl.models.model import Model
dims, side = int(sys.argv[2]), int(sys.argv[3])
model = Model.load(Path(sys.argv[1]), dims, ["trainer.accelerator=cpu"])
print(time.process_time(), time.perf_counter() - start)
import numpy as np, torch
weights = torch.zeros(1, requires_grad=True)
weights.sum().backward()
torch.optim.Adam([weights], fused=True).step()  # loads what any optimisation needs
print(peak_bytes())
from bingo_pl.alignment.maps import Linear
from bingo_pl.alignment.volume import Picture
from bingo_pl.registration.native import similarity_of
picture = Picture(np.random.default_rng(0).random([side] * dims, np.float32), None, np.eye(dims, dims + 1))
box = torch.zeros(dims), torch.full([dims], float(side))
similarity_of(model).see(picture, 0, 1.0, Linear.identity(1, dims), box)
print(peak_bytes())
"""
"""What every registration begins with, in a process of its own: prints its processor seconds, the others, and memory;
then the memory once something was encoded."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Cost:
    """Of a piece of work, in seconds."""

    processor: float = 0.0
    """Of all threads together."""
    wall: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.processor + other.processor, self.wall + other.wall)

    def __mul__(self, times: float) -> Cost:
        return Cost(times * self.processor, times * self.wall)


@dataclass(frozen=True)
class Pieces:
    """A registration's parts, in order."""

    costs: dict[str, Cost]
    memory_bytes: float
    """Of the whole process at its peak."""

    @property
    def total(self) -> Cost:
        return sum(self.costs.values(), Cost())


@dataclass(frozen=True)
class Forecast:
    """What registering a group by default will cost."""

    images: int
    plan: Plan
    least: Pieces
    """Of a group that is aligned, or that rigid and affine maps align."""
    most: Pieces
    """Of a group that is clearly deformed."""
    disk_bytes: float

    def table(self) -> Table:
        """For the terminal."""
        title = f"{self.images} images, objects of {self.plan.size_mm:.3g} mm in voxels of {self.plan.image_mm:.2g} mm"
        table = Table("what", "aligned or rigid", "clearly deformed", title=title)
        courses = self.least, self.most
        for piece in self.least.costs:
            table.add_row(piece, *(show_seconds(course.costs[piece].processor) for course in courses))
        table.add_row("processor time in all", *(show_seconds(course.total.processor) for course in courses))
        table.add_row("time to wait", *(show_seconds(course.total.wall) for course in courses))
        table.add_row("memory", *(show_bytes(course.memory_bytes) for course in courses))
        table.add_row("disk for the results, about", *[show_bytes(self.disk_bytes)] * 2)
        return table


def forecast(members: Sequence[Member], model: Model) -> Forecast:
    """Time the pieces of a registration and count them as its plan does.

    Args:
        members: the group, of which `MOST_READ` images are read.
        model: whose experts compare them.

    Raises:
        BingoError: unusable images, or modalities that the model does not know.
    """
    names = names_of(member.modality for member in members)
    for member in members:
        model.index(member.modality)
    program = Program.of(model)
    size = len(members)
    some = list(zip(names, members, strict=True))[:MOST_READ]

    def read() -> list[Scan]:
        return [read_scan(name, one.modality, one.image, one.mask, one.label) for name, one in some]

    scans, reading = timed(read)
    check_dimensions(scans, model.dims)
    probe = Probe(scans, size, model)
    return probe.forecast(program, reading * (size / len(scans)))


class Probe:
    """The pieces of a group's registration, each timed once.

    Args:
        scans: its first images.
        size: N, of all.
        model: whose experts compare them.
    """

    def __init__(self, scans: Sequence[Scan], size: int, model: Model) -> None:
        self.scans, self.size, self.model = scans, size, model
        self.space = Space.of(scans[0])
        self.grid = native_grid(scans, [np.eye(4)] * len(scans), None)
        self.share = size / len(scans)
        cascade, cost = timed(self._cascade)
        self.preparing = cost * self.share
        self.cascade = cascade
        self.plan = replace(cascade.plan, images=size)
        self.cloud: Cloud = cascade.outlines.cloud(Maps(Linear.identity(len(scans), model.dims)))
        self.many = min(size, ALL_PAIRS + 2)
        self.steps: dict[Level, Cost] = {}
        self.first = timed(self._first)[1]
        self.seen, self.seeing_coarse = self._see(self.plan.coarse_mm, self.cloud.box)
        self.held_bytes = {self.plan.coarse_mm: _bytes(self.seen)}
        """Of what is seen of an image, by the voxels of the level."""

    def forecast(self, program: Program, reading: Cost) -> Forecast:
        """The sum of all pieces."""
        cold, written = self._writing(None)
        rigid, _ = self._writing(None)
        node = self.plan.finer().level("deformable", self.plan.finer().fine_mm).node_mm
        deformed, _ = self._writing(node)
        look = self._start()
        courses = []
        for clearly, each in ((False, rigid), (True, deformed)):
            costs = {
                "start of the program": program.start,
                "reading": reading,
                "looking for a start": self.preparing + self.first + look,
                "seeing the images": self._views(clearly),
                "optimising": self._optimising(clearly),
                "resampling, writing, report": cold + rigid * -1.0 + each * self.size,
            }
            courses.append(Pieces(costs, program.memory_bytes + self._memory_bytes(clearly, program)))
        return Forecast(self.size, self.plan, courses[0], courses[1], self.size * written)

    def _cascade(self) -> Cascade:
        pictures = [self.space.picture(scan) for scan in self.scans]
        modalities = [self.model.index(scan.modality) for scan in self.scans]
        return Cascade(pictures, modalities, similarity_of(self.model), "auto", None, lambda text: None)

    def _first(self) -> None:
        """What is slower the first time, when libraries are loaded and tuned, as small as can be."""
        voxel = 2 * self.plan.size_mm / starts.ACROSS
        self.seen, _ = self._see(voxel, self.cloud.box)
        for kind in ("rigid", "deformable"):
            sight, maps = self._group()
            level = Level(kind, voxel, 1, 1e-3, 100, self.plan.size_mm / 2)
            optimise(sight, maps, level, self.cloud, self.cascade.generator)

    def _see(self, voxel_mm: float, box: tuple[Tensor, Tensor]) -> tuple[Sight, Cost]:
        """The first image at a level, and what that costs."""
        still = Linear.identity(1, self.model.dims)
        view = self.cascade.pictures[:1], self.cascade.modalities[:1], voxel_mm, still, box
        return timed(lambda: Sight.of(self.cascade.both, *view))

    def _start(self) -> Cost:
        """All images together, as their headers have them: twice seen, and a few steps."""
        voxel = max(picture.size_mm for picture in self.cascade.small) / starts.ACROSS
        one = self.cascade.small[:1], self.cascade.modalities[:1], voxel, Linear.identity(1, self.model.dims)
        _, seeing = timed(lambda: Sight.of(self.cascade.similarity, *one, self.cloud.box))
        level = Level("rigid", voxel, starts.STEPS, 0.4 * voxel, starts.POINTS)
        return seeing * (2 * self.size) + self._step(level) * level.steps

    def _views(self, clearly: bool) -> Cost:
        """Each image once at each level."""
        total = self.seeing_coarse * self.size
        for voxel in sorted({level.voxel_mm for level in self.plan.passes(clearly)} - {self.plan.coarse_mm}):
            low, high = self.cloud.box
            middle, half = (low + high) / 2, PART * (high - low) / 2
            part = middle - half, middle + half
            seen, cost = self._see(voxel, part)
            larger = self._voxels(voxel, self.cloud.box) / self._voxels(voxel, part)
            self.held_bytes[voxel] = larger * _bytes(seen)
            total = total + cost * (self.size * larger)
        return total

    def _voxels(self, voxel_mm: float, box: tuple[Tensor, Tensor]) -> int:
        """That are encoded."""
        bingo = hierarchical(self.model.registrar)
        return math.prod(encoded_lattice(*box, voxel_mm, 1 if bingo is None else bingo.stride).shape)

    def _optimising(self, clearly: bool) -> Cost:
        """All passes, that which tells the error, and the evidence."""
        passes = self.plan.passes(clearly)
        last = passes[-1]
        kind, finest = "deformable" if clearly else "rigid", min(level.voxel_mm for level in passes)
        again = Level(kind, finest, error.STEPS, 0.25 * finest, error.POINTS, last.node_mm if clearly else 0.0, 1.0)
        total = Cost()
        for level in [*passes, again]:
            total = total + self._step(level) * level.steps
        sight, maps = self._group()
        first, second = torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long)
        points = self.cloud.draw(EVIDENCE_POINTS, self.cascade.generator)
        with torch.no_grad():
            _, looking = timed(lambda: sight.pairwise(maps, points, first, second))
        return total + looking * (EVIDENCE * self.size / self.many)

    def _step(self, level: Level) -> Cost:
        """One of all images."""
        like = replace(level, steps=STEPS, voxel_mm=0.0, rate_mm=1e-3)
        if like not in self.steps:
            sight, maps = self._group()
            _, cost = timed(lambda: optimise(sight, maps, like, self.cloud, self.cascade.generator))
            self.steps[like] = cost * (self.size / self.many / STEPS)
        return self.steps[like]

    def _group(self) -> tuple[Sight, Maps]:
        """As many images as are compared in a step, all of them the first one."""
        sight = Sight(self.seen.similarity, [self.seen.volumes[0]] * self.many)
        return sight, Maps(Linear.identity(self.many, self.model.dims))

    def _writing(self, node_mm: float | None) -> tuple[Cost, float]:
        """Of the first image, with what a deformation adds where there are nodes; and the bytes on disk."""
        scan, maps = self.scans[0], Maps(Linear.identity(1, self.model.dims))
        if node_mm is not None:
            maps = maps.with_velocity(Lattice.around(*self.cloud.box, node_mm))
            assert maps.velocity is not None
            drawn = torch.randn(maps.velocity.shape, generator=torch.Generator().manual_seed(0))
            maps = replace(maps, velocity=0.1 * node_mm * drawn)
        outcome = Outcome(maps, "identity", [], [None], [1.0], [0.0], self.plan)
        with TemporaryDirectory() as folder:
            output = Path(folder) / "group"

            def write() -> None:
                placed, _ = place_scans([scan], scan.digests(), outcome, self.space, lambda affines: self.grid)
                members = findings_of_aligned(placed, self.model, self.plan.coarse_mm)
                file = File.of(self.model.path)
                RegisteredGroup(members, self.grid, file, settings.to_tree(self.model.config)).write(output)

            _, cost = timed(write)
            written = sum(path.stat().st_size for path in output.rglob("*") if path.is_file())
        return cost, float(written)

    def _memory_bytes(self, clearly: bool, program: Program) -> float:
        """Beyond the program: images, what is seen of them at all levels, and the largest piece of work."""
        held = HELD * self.share * sum(math.prod(scan.grid.shape) for scan in self.scans)
        levels = {level.voxel_mm for level in self.plan.passes(clearly)}
        views = self.size * sum(self.held_bytes[voxel] for voxel in levels)
        encoding = program.encoding_bytes * self._voxels(min(levels), self.cloud.box)
        return held + max(views + encoding, WRITING * math.prod(self.grid.shape))


def _bytes(sight: Sight) -> float:
    """What is kept of the one image that is seen."""
    return float(sum(FLOAT * volume.values.numel() for volume in sight.volumes[0]))


def timed(work: Callable[[], Result]) -> tuple[Result, Cost]:
    """Do something by both clocks."""
    processor, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, Cost(time.process_time() - processor, time.perf_counter() - wall)


@dataclass(frozen=True)
class Program:
    """What every registration takes, whatever its images."""

    start: Cost
    """Until the model is loaded."""
    memory_bytes: float
    """Then."""
    encoding_bytes: float
    """For each voxel that is encoded, while it is."""

    @classmethod
    def of(cls, model: Model) -> Program:
        """Measured in a process of its own: this one may have done all sorts of things before."""
        side = ENCODED[model.dims]
        command = [sys.executable, "-c", START, *map(str, (model.path, model.dims, side))]
        answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        processor, wall, before, after = map(float, answer)
        return cls(Cost(processor, wall), before, (after - before) / side**model.dims)
