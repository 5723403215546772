"""A synthetic head: the brain of `brain` with skull, scalp, eyes and neck, scanned by MR or CT at any grid.

Coordinates are those of `brain`. What lies around the brain follows its shape, so that every head is another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from bingo_pl.phantoms import brain as phantom_brain
from bingo_pl.phantoms import cardiac as phantom_cardiac
from bingo_pl.phantoms.brain import Brain, ellipsoid
from bingo_pl.phantoms.mr import Array, Scene, SmoothField, acquire, coverage, mix

TISSUES = {
    **{name: phantom_cardiac.TISSUES[name] for name in ("air", "fat", "muscle", "bone", "marrow")},
    **phantom_brain.TISSUES,
}
LABELS = {
    "grey": 1,
    "white": 2,
    "thalamus": 3,
    "nucleus": 3,
    "pallidum": 3,
    "folia": 4,
    "csf": 5,
    "oedema": 6,
    "enhancing": 6,
    "necrosis": 6,
}
"""Label ids: cortex, white matter, deep nuclei, cerebellar cortex, fluid, tumour with its oedema. 0 is all else."""
HOUNSFIELD = {
    "air": -1000,
    "fat": -90,
    "muscle": 55,
    "bone": 1100,
    "marrow": 350,
    "csf": 8,
    "grey": 38,
    "white": 28,
    "thalamus": 36,
    "nucleus": 37,
    "pallidum": 40,
    "folia": 38,
    "vein": 55,
    "oedema": 20,
    "enhancing": 45,
    "necrosis": 14,
}
FIELD_MM = 190.0, 226.0, 192.0
"""Field of view of every scan along x, y and z."""
CENTRE_MM = 0.0, 0.0, -6.0
"""Its centre: the neck is cut off below."""
SCALP, SKIN, SKULL, DIPLOE, DURA = 15.0, 13.0, 8.5, (4.5, 6.5), 2.5
"""Depths in mm outside the brain."""


@dataclass(frozen=True)
class Plan:
    """How the voxels of a scan lie in the scanner."""

    spacing: float
    """Voxel size within slices in mm."""
    slab: int = 1
    """Distance and thickness of the slices, in voxels."""
    tilt: float = 0.0
    """Of the slices about the axis from left to right, in degrees."""
    shift_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """From the usual field of view."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y and z."""
        x, y, z = (round(extent / self.spacing) for extent in FIELD_MM)
        return x, y, z // self.slab

    def affine(self, slab: int) -> np.ndarray:
        """(4, 4) from voxel index, of slices of ``slab`` voxels, to RAS mm in the scanner."""
        sine, cosine = np.sin(np.radians(self.tilt)), np.cos(np.radians(self.tilt))
        sizes = np.array([self.spacing, self.spacing, self.spacing * slab])
        matrix = np.eye(4)
        matrix[:3, :3] = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) * sizes
        sub_slices = self.shape[2] * self.slab
        middle = (np.array([self.shape[0], self.shape[1], sub_slices // slab]) - 1) / 2
        matrix[:3, 3] = np.add(CENTRE_MM, self.shift_mm) - matrix[:3, :3] @ middle
        return matrix


class Head:
    """One person's head, drawn at construction; ``healthy``: without a tumour."""

    def __init__(self, rng: np.random.Generator, healthy: bool = False) -> None:
        self.brain = Brain(rng, healthy)
        self.bumps, self.strands = SmoothField(rng, 25), SmoothField(rng, 7)
        self.tissues = {**TISSUES, **self.brain.tissues}

    def scan_mr(self, contrast: str, plan: Plan, motion: np.ndarray, rng: np.random.Generator) -> tuple[Array, Array]:
        """Image (int16) and labels (uint8) of one of `brain.CONTRASTS`, each (*plan.shape).

        Args:
            contrast: the sequence.
            plan: its grid.
            motion: (4, 4) from RAS mm in the scanner to the head's coordinates.
            rng: the source of the draws.
        """
        level = phantom_brain.signals(contrast, self.tissues, rng) | {"air": 0.0}
        magnetisation, labels = self._sample(level, plan, motion, rng)
        sizes = plan.spacing, plan.spacing, plan.spacing * plan.slab
        image = acquire(magnetisation, sizes, (0.4, 0.4, 0.4 if plan.slab == 1 else 0), rng.uniform(30, 45), 0.1, rng)
        return (image * np.float32(1000 / np.percentile(image[labels > 0], 99))).round().astype(np.int16), labels

    def scan_ct(self, plan: Plan, motion: np.ndarray, rng: np.random.Generator) -> tuple[Array, Array]:
        """Image (int16, Hounsfield units) and labels as of `scan_mr`."""
        density, labels = self._sample({name: float(value) for name, value in HOUNSFIELD.items()}, plan, motion, rng, 0)
        return (density + rng.normal(0, 9, density.shape)).round().clip(-1024, 3071).astype(np.int16), labels

    def _sample(
        self, level: dict[str, float], plan: Plan, motion: np.ndarray, rng: np.random.Generator, rough: float = 1.0
    ) -> tuple[Array, np.ndarray]:
        """Signal and labels; slices are averages over their thickness."""
        shape = (*plan.shape[:2], plan.shape[2] * plan.slab)
        matrix = (motion @ plan.affine(1)).astype(np.float32)
        index = np.stack(np.meshgrid(*(np.arange(size, dtype=np.float32) for size in shape), indexing="ij"))
        p = np.tensordot(matrix[:3, :3], index, 1) + matrix[:3, 3].reshape(3, 1, 1, 1)
        scene = self._scene(p, plan.spacing)
        texture = np.float32(rough) * (self.brain.grain(*p) * rng.uniform(0.5, 0.8) + 0.6 * SmoothField(rng, 6)(*p))
        air = np.full(shape, level["air"], np.float32)
        signal = mix(scene, level, texture, self.tissues, air)
        ids = np.zeros(shape, np.uint8)
        for name, cover in scene:
            ids[cover > 0.5] = LABELS.get(name, 0)
        shares = np.stack(
            [_thick((ids == label).astype(np.float32), plan.slab) for label in range(max(LABELS.values()) + 1)]
        )
        return _thick(signal, plan.slab), shares.argmax(0).astype(np.uint8)

    def _scene(self, p: Array, spacing: float) -> Scene:
        """Layers at points p (3, *S) in mm, a grid of this spacing."""
        inside, _, mask = self.brain.scene(p, spacing)
        outside = ndimage.distance_transform_edt(~mask).astype(np.float32) * np.float32(spacing)
        bumps, strands = self.bumps(*p), self.strands(*p)
        neck = ellipsoid(p, (0, 14, -58), (60, 80, 72)) + 2 * bumps
        mirrored = np.stack([np.abs(p[0]), p[1], p[2]])
        skin = np.maximum(SCALP + bumps - outside, neck)
        muscle = np.maximum(np.minimum(SKIN - 2 + 2 * strands - outside, 4 - p[2]), neck - 7 + 4 * strands)
        diploe = np.minimum(outside - DIPLOE[0], DIPLOE[1] + 0.4 * bumps - outside)
        layers: Scene = [
            ("fat", coverage(skin, spacing)),
            ("muscle", coverage(muscle, spacing)),
            ("air", coverage(ellipsoid(mirrored, (6, 58, -48), (7, 26, 16)), spacing)),
            ("bone", coverage(SKULL + 0.6 * bumps - outside, spacing)),
            ("marrow", coverage(diploe, spacing)),
            ("csf", coverage(ellipsoid(mirrored, (31, 84, -25), (12, 12, 12)), spacing)),
            ("csf", coverage(DURA - outside, spacing)),
        ]
        within = mask.astype(np.float32)
        return [*layers, *((name, cover * within) for name, cover in inside)]


def _thick(fine: Array, slab: int) -> Array:
    """Averages over ``slab`` voxels along the last axis."""
    averaged: Array = fine.reshape(*fine.shape[:2], -1, slab).mean(-1)
    return averaged
