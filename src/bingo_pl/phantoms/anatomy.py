"""Synthetic anatomies as label maps, to be painted in any contrast: brains, chests with hearts, random shapes.

The random shapes follow SynthMorph (Hoffmann et al., IEEE TMI 2022): smooth noise decides which label a voxel gets.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional

from bingo_pl.phantoms import brain as phantom_brain
from bingo_pl.phantoms import cardiac as phantom_cardiac
from bingo_pl.phantoms.mr import Array, Scene, SmoothField

LABELS = 24
"""Label ids are at most this; 0 is outside the body."""
SHAPE = (96, 96, 80)
"""Voxels of an anatomy."""
BREATH = 40
"""Over how many mm the motion of a chest changes."""


def draw(subject: int, spacing: float, rng: np.random.Generator) -> np.ndarray:
    """A label map (`SHAPE`, uint8) of voxels of ``spacing`` mm: of four subjects a brain, a chest and two of random
    shapes, each of a random size."""
    kind = (_brain, _chest, _shapes, _shapes)[subject % 4]
    return kind(spacing * rng.uniform(0.9, 1.6), rng)


def _brain(spacing: float, rng: np.random.Generator) -> np.ndarray:
    brain = phantom_brain.Brain(rng)
    p = np.stack(np.meshgrid(*_axes(spacing), indexing="ij"))
    scene, _, mask = brain.scene(p, spacing)
    return _flatten(scene, list(phantom_brain.TISSUES)) * mask


def _chest(spacing: float, rng: np.random.Generator) -> np.ndarray:
    """About the left ventricle, its axis along the third axis."""
    patient = phantom_cardiac.Patient(rng)
    x, y, z = _axes(spacing)
    turned = rng.uniform(-0.4, 0.4)
    u = np.cos(turned) * x - np.sin(turned) * y[:, None]
    v = np.sin(turned) * x + np.cos(turned) * y[:, None]
    w = (z + patient.heart.length / 2)[:, None, None]
    breath = [SmoothField(rng, BREATH) for _ in range(2)]
    everywhere = np.broadcast_to(u, (len(z), *u.shape)), np.broadcast_to(v, (len(z), *v.shape))
    at = patient.points(*everywhere, w, breath)
    heart, _ = patient.heart.scene(at, spacing)
    return _flatten([*patient.chest.scene(at, spacing), *heart], list(phantom_cardiac.TISSUES)).T


def _shapes(spacing: float, rng: np.random.Generator) -> np.ndarray:
    """Regions and small blobs in sheets and shells, in a random body or without an outside."""
    regions = int(rng.integers(3, LABELS - 6))
    cells = int(rng.integers(3, 9))
    labels = (_noise(regions, cells, rng) + 0.5 * _noise(regions, 2 * cells, rng)).argmax(0) + 1
    blobs, sheets = _noise(2, int(rng.integers(8, 24)), rng)
    labels[blobs > rng.uniform(0.8, 2)] = LABELS - 5
    labels[np.abs(sheets) < rng.uniform(0.02, 0.15)] = LABELS - 4
    if rng.uniform() < 0.8:
        radii = rng.uniform(0.45, 1.0, 3)
        u, v, w = (axis / (radius * axis.max()) for axis, radius in zip(_axes(spacing), radii, strict=True))
        depth = 1 - np.sqrt(u[:, None, None] ** 2 + v[:, None] ** 2 + w**2) + 0.1 * _noise(1, 5, rng)[0]
        for shell, thickness in enumerate(np.sort(rng.uniform(0, 0.2, rng.integers(0, 4)))[::-1]):
            labels[depth < thickness] = LABELS - 3 + shell
        labels[depth < 0] = 0
    return labels.astype(np.uint8)


def _noise(fields: int, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Smooth random fields (fields, \\*SHAPE) of unit variance where the grid of ``cells`` a side has its points."""
    coarse = torch.from_numpy(rng.standard_normal((1, fields, cells, cells, cells), dtype=np.float32))
    fine: np.ndarray = functional.interpolate(coarse, SHAPE, mode="trilinear", align_corners=True)[0].numpy()
    return fine


def _axes(spacing: float) -> list[Array]:
    """Voxel centres along each axis in mm, 0 in the middle."""
    return [(np.arange(size, dtype=np.float32) - (size - 1) / 2) * np.float32(spacing) for size in SHAPE]


def _flatten(scene: Scene, tissues: Sequence[str]) -> np.ndarray:
    """The uppermost tissue of each voxel, its position in ``tissues`` from 1, 0 where there is none."""
    labels = np.zeros(np.broadcast_shapes(*(cover.shape for _, cover in scene)), np.uint8)
    for name, cover in scene:
        labels[cover > 0.5] = tissues.index(name) + 1
    return labels
