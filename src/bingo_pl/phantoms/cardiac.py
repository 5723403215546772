"""Synthetic short-axis cardiac MR of one patient: a heart in a chest, scanned by three sequences.

Coordinates are millimetres of the patient's heart: u to the right of the image, v down, w from base to apex; the
left ventricle's axis is near u = v = 0 and its base at w = 0. Surfaces are distances in mm, positive inside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bingo_pl.phantoms.chest import Chest
from bingo_pl.phantoms.heart import Heart
from bingo_pl.phantoms.mr import (
    Array,
    Points,
    SmoothField,
    Tissue,
    acquire,
    bssfp,
    inversion_recovery,
    jitter,
    mix,
    nulling_time,
    spin_echo,
    upsample,
)

SEQUENCES = ("C0", "LGE", "T2")
SNR = {"C0": (22, 40), "LGE": (12, 25), "T2": (14, 28)}
"""Range of the signal to noise ratio of each sequence."""

# Typical values at 1.5 T, rounded, in the range of Stanisz 2005 and de Bazelaire 2004; uptake: partition coefficients.
TISSUES = {
    "air": Tissue(1000, 30, 0.0),
    "lung": Tissue(1150, 45, 0.13, 0.3, 0.25),
    "vessel": Tissue(1500, 200, 0.6, 0.9),
    "wall": Tissue(900, 20, 0.15),
    "fat": Tissue(290, 75, 0.95, 0.03, 0.05),
    "muscle": Tissue(1000, 42, 0.80, 0.22, 0.06),
    "bone": Tissue(800, 20, 0.10, 0.1),
    "marrow": Tissue(500, 58, 0.62, 0.25, 0.10),
    "disc": Tissue(1000, 60, 0.6, 0.2),
    "csf": Tissue(3800, 900, 1.0, 0.0),
    "liver": Tissue(580, 46, 0.80, 0.55, 0.04),
    "spleen": Tissue(1050, 78, 0.85, 0.6, 0.04),
    "stomach": Tissue(1400, 80, 0.8, 0.1, 0.20),
    "blood": Tissue(1550, 240, 0.95, 1.0, 0.05),
    "venous": Tissue(1550, 190, 0.95, 1.0, 0.06),
    "myocardium": Tissue(990, 50, 0.80, 0.45, 0.05),
    "oedema": Tissue(1150, 68, 0.86, 0.50, 0.05),
    "infarct": Tissue(1200, 70, 0.87, 1.02, 0.06),
    "scar": Tissue(1130, 58, 0.82, 1.02, 0.06),
}


class Patient:
    """One person: tissues, heart, chest, and a smooth deformation so that no contour is ideal."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.tissues = jitter(TISSUES, rng)
        self.heart = Heart(rng)
        self.chest = Chest(rng, self.heart.outer)
        self.prescription = rng.normal(0, 0.1)  # in-plane rotation of all stacks, radians
        self.slice_step = rng.uniform(8, 10)  # mm
        self.bends = [SmoothField(rng, 32) for _ in range(2)], [SmoothField(rng, 11) for _ in range(2)]
        self.coarse, self.fine, self.grain = SmoothField(rng, 22), SmoothField(rng, 4), SmoothField(rng, 2.2)

    def points(self, u: Array, v: Array, w: Array, breath: list[SmoothField]) -> Points:
        """Where the points (slices, rows, columns) of a scan lie in the undeformed anatomy; ``w`` is (slices, 1, 1).

        What is smooth is evaluated at every fourth point and interpolated.
        """
        shape = u.shape[1:]
        rows, columns = (np.linspace(0, n - 1, n // 4 + 2).round().astype(int) for n in shape)
        sparse = u[:, rows[:, None], columns], v[:, rows[:, None], columns], w
        moves = [
            3.5 * large(*sparse) + 0.8 * small(*sparse) + BREATH_MM * still(*sparse)
            for large, small, still in zip(*self.bends, breath, strict=True)
        ]
        move_u, move_v, coarse = upsample(np.stack([*moves, self.coarse(*sparse)]), shape)
        u, v = u + move_u, v + move_v
        return Points(u, v, w, coarse, self.fine(u, v, w), self.grain(u, v, w))


DRIFT_MM, BREATH_MM = 0.3, 0.4
"""Standard deviations of a slice's shift and of the smooth motion between sequences.

Small, so that the misalignment that is synthesised on top, whose ground truth is known, is nearly all there is.
"""


@dataclass(frozen=True)
class Stack:
    """Where a sequence's slices lie."""

    shape: tuple[int, int, int]
    """Columns (along u), rows (along v), slices (along w)."""
    spacing: tuple[float, float, float]
    """Between voxel centres, mm."""
    centre: tuple[float, float, float]
    """Heart coordinates of the centre of the first slice, mm."""
    angle: float
    """In-plane rotation, radians."""
    thickness: float
    """Of a slice, mm."""

    def affine(self) -> np.ndarray:
        """(4, 4) from array index to heart coordinates in mm."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        axes = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) * self.spacing
        matrix = np.eye(4)
        middle = [(self.shape[0] - 1) / 2, (self.shape[1] - 1) / 2, 0]
        matrix[:3, :3], matrix[:3, 3] = axes, np.array(self.centre) - axes @ middle
        return matrix

    def grid(self, columns: slice, rows: slice, offsets: np.ndarray, drift: np.ndarray) -> tuple[Array, Array, Array]:
        """u and v (K, rows, columns), w (K, 1, 1): a part of every slice, K = slices * offsets, in mm.

        Args:
            columns: the part along u.
            rows: the part along v.
            offsets: positions within the slice's thickness, mm.
            drift: (2, slices) how far each slice lies from its place along u and v, mm.
        """
        matrix = self.affine().astype(np.float32)
        i, j = (axis.T[None].astype(np.float32) for axis in np.ogrid[columns, rows])
        u, v = (matrix[a, 0] * i + matrix[a, 1] * j + matrix[a, 3] for a in (0, 1))
        w = matrix[2, 3] + matrix[2, 2] * np.arange(self.shape[2])[:, None] + offsets
        moves = np.repeat(drift, len(offsets), axis=1).astype(np.float32)[..., None, None]
        return u + moves[0], v + moves[1], w.astype(np.float32).reshape(-1, 1, 1)


def draw_stack(sequence: str, patient: Patient, spacing: float, rng: np.random.Generator) -> Stack:
    """A protocol's slices over the left ventricle; ``spacing`` in mm within the slice.

    All sequences follow one plan of the patient's, as at a scanner; T2 takes every second slice of it.
    """
    field, length = rng.uniform(235, 265), patient.heart.length
    planned = round(0.95 * length / patient.slice_step)
    first = (length - (planned - 1) * patient.slice_step) / 2 + rng.normal(0, 0.5)
    if sequence == "T2":
        first, step, slices = first + patient.slice_step, 2 * patient.slice_step, (planned - 1) // 2
    else:
        step, slices = patient.slice_step, planned
    shape = round(field / spacing), round(field * rng.uniform(0.82, 1.0) / spacing), slices
    u, v = rng.normal(8, 4, 2).tolist()
    angle = patient.prescription + rng.normal(0, 0.03)
    return Stack(shape, (spacing, spacing, step), (u, v, first), angle, patient.slice_step * rng.uniform(0.75, 1.0))


def draw_slice(patient: Patient, place: float, spacing: float, rng: np.random.Generator) -> Stack:
    """A single slice ``place`` mm from the base, of any sequence; ``spacing`` in mm within the slice."""
    side = round(216 / spacing)
    u, v = rng.normal(4, 2, 2).tolist()
    angle = patient.prescription + rng.normal(0, 0.03)
    return Stack((side, side, 1), (spacing, spacing, 8.0), (u, v, place), angle, 8.0)


def signals(sequence: str, tissues: dict[str, Tissue], rng: np.random.Generator) -> dict[str, float]:
    """The signed signal of each tissue in one of `SEQUENCES`, with the scanner's settings drawn from ``rng``."""
    if sequence == "C0":
        repetition, flip = rng.uniform(2.7, 3.4), rng.uniform(48, 65)
        level = {name: bssfp(tissue, repetition, flip) for name, tissue in tissues.items()}
        return level | {"fat": -level["fat"]}  # opposed phase at TE = TR/2: dark lines between fat and water
    if sequence == "LGE":
        rate, repetition = rng.uniform(2.0, 2.8), rng.uniform(1400, 1900)
        enhanced = {name: tissue.enhanced(rate) for name, tissue in tissues.items()}
        inversion = nulling_time(enhanced["myocardium"], repetition) * rng.uniform(1.0, 1.06)
        return {name: inversion_recovery(tissue, repetition, inversion, 2.0) for name, tissue in enhanced.items()}
    echo, repetition = rng.uniform(60, 80), rng.uniform(1500, 2000)
    level = {name: spin_echo(tissue, repetition, echo) for name, tissue in tissues.items()}
    flow, fat = rng.uniform(0.08, 0.2), rng.uniform(0.15, 0.4)  # black-blood preparation, fat suppression
    weakened = {"blood": flow, "venous": 1.4 * flow, "vessel": 2 * flow, "fat": fat, "marrow": 0.6}
    return {name: value * weakened.get(name, 1.0) for name, value in level.items()}


def scan(patient: Patient, sequence: str, stack: Stack, rng: np.random.Generator) -> tuple[Array, np.ndarray]:
    """Image (float, about 0 to 1000) and labels (uint16) of one sequence, each of the stack's shape.

    The chest is sampled at the middle of each slice, the heart at several depths.
    """
    level = signals(sequence, patient.tissues, rng)
    drift = rng.normal(0, DRIFT_MM, (2, stack.shape[2]))  # breath-holds differ between slices, and between sequences
    image, labels = acquire_slices(patient, level, stack, drift, SNR[sequence], rng)
    return image * np.float32(1000 / np.percentile(image, 99.5)), labels


def acquire_slices(
    patient: Patient,
    level: dict[str, float],
    stack: Stack,
    drift: Array,
    snr: tuple[float, float],
    rng: np.random.Generator,
) -> tuple[Array, np.ndarray]:
    """Image (float) and labels (uint16), each of the stack's shape, of any sequence.

    Args:
        patient: who is scanned.
        level: the signed signal of each tissue.
        stack: where the slices lie.
        drift: (2, slices) how far each slice lies from its place along u and v, mm.
        snr: range of the signal to noise ratio.
        rng: the source of the draws.
    """
    width, slices = stack.spacing[0], stack.shape[2]
    breath, angle = [SmoothField(rng, 40) for _ in range(2)], rng.uniform(0, 2 * np.pi)

    def texture(at: Points) -> Array:  # each sequence sees its own mixture of the same fine structure
        return np.float32(np.cos(angle)) * at.grain + np.float32(np.sin(angle)) * at.fine + at.coarse / 2

    whole = slice(0, stack.shape[0]), slice(0, stack.shape[1])
    at = patient.points(*stack.grid(*whole, np.zeros(1), drift), breath)
    image = mix(patient.chest.scene(at, width), level, texture(at), patient.tissues, np.zeros_like(at.u))

    part = _around_heart(stack)
    samples = 3 if stack.thickness > 11 else 2
    depths = ((np.arange(samples) + 0.5) / samples - 0.5) * stack.thickness
    at = patient.points(*stack.grid(*part, depths, drift), breath)
    scene, shares = patient.heart.scene(at, width)
    view = image[:, part[1], part[0]]
    heart = mix(scene, level, texture(at), patient.tissues, np.repeat(view, samples, axis=0))

    def average(x: Array) -> Array:
        return x.reshape(slices, samples, *x.shape[1:]).mean(1)

    view[:] = average(heart)
    labels = np.zeros(image.shape, np.uint16)
    for label, share in shares.items():
        labels[:, part[1], part[0]][average(share) > 0.5] = label
    acquired = acquire(image, stack.spacing[::-1], (0, 0.55, 0.45), rng.uniform(*snr), 0.25, rng)
    return acquired.T, labels.T


def _around_heart(stack: Stack) -> tuple[slice, slice]:
    """The columns and rows within 75 mm of the middle of both ventricles."""
    centre = np.linalg.solve(stack.affine(), [-12, 0, stack.centre[2], 1])[:2]
    low, high = centre - 75 / stack.spacing[0], centre + 75 / stack.spacing[0]
    columns, rows = (slice(max(0, int(a)), min(n, int(b))) for a, b, n in zip(low, high, stack.shape[:2], strict=True))
    return columns, rows
