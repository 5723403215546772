"""A synthetic abdomen: liver, spleen, kidneys and what lies around them, as T1-weighted MR and portal venous CT.

Coordinates are millimetres from the middle of the body: x to the right, y to the front, z up. Surfaces are distances
in mm, positive inside. People differ in size, in the place and shape of each organ, and in how they lie in the scanner;
between one person's MR and CT the breath moves the organs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from bingo_pl.phantoms.mr import Array, Scene, SmoothField, Tissue, acquire, coverage, jitter, mix, spin_echo, turn

LIVER, SPLEEN, RIGHT_KIDNEY, LEFT_KIDNEY = 1, 2, 3, 4  # label ids of Learn2Reg's AbdomenMRCT

# Typical values at 1.5 T, rounded, in the range of de Bazelaire 2004.
TISSUES = {
    "air": Tissue(1000, 10, 0.0, 0.0, 0.0),
    "lung": Tissue(1200, 10, 0.15, 0.0, 0.2),
    "skin fat": Tissue(340, 60, 0.90, 0.0, 0.03),
    "muscle": Tissue(1130, 35, 0.80, 0.0, 0.05),
    "inner fat": Tissue(340, 58, 0.85, 0.0, 0.08),
    "bowel": Tissue(1500, 60, 0.70, 0.0, 0.35),
    "bone": Tissue(550, 49, 0.55, 0.0, 0.10),
    "cord": Tissue(1900, 400, 0.95, 0.0, 0.02),
    "liver": Tissue(590, 46, 0.80, 0.0, 0.04),
    "spleen": Tissue(1060, 79, 0.85, 0.0, 0.03),
    "kidney": Tissue(970, 87, 0.88, 0.0, 0.05),
    "pelvis": Tissue(1900, 120, 0.90, 0.0, 0.10),
    "stomach": Tissue(2000, 200, 0.90, 0.0, 0.15),
    "vessel": Tissue(1440, 290, 0.45, 0.0, 0.05),
}
HOUNSFIELD = {
    "air": -1000,
    "lung": -820,
    "skin fat": -105,
    "muscle": 58,
    "inner fat": -100,
    "bowel": 25,
    "bone": 320,
    "cord": 30,
    "liver": 108,
    "spleen": 122,
    "kidney": 185,
    "pelvis": 60,
    "stomach": 15,
    "vessel": 150,
}
"""CT numbers some 70 s after contrast agent."""
CT_TEXTURE = {name: Tissue(1, 1, 1, 0.0, 0.1) for name in HOUNSFIELD} | {"bowel": Tissue(1, 1, 1, 0.0, 1.0)}
CT_PADDING = (-1024, -2000, -3024)
"""What scanners write outside their field of view."""


@dataclass(frozen=True)
class Organ:
    """An ellipsoid, before a person's deformation bends it."""

    centre: Array
    radii: Array
    tilt: float
    """Radians, in the plane of x and z."""

    def surface(self, p: Array) -> Array:
        """About the distance to it of points p (3, *S)."""
        x, y, z = p - self.centre.reshape(3, 1, 1, 1)
        x, z = turn(x, z, self.tilt)
        scaled = np.stack([x, y, z]) / self.radii.reshape(3, 1, 1, 1)
        return (1 - np.sqrt((scaled**2).sum(0))) * self.radii.min()


class Scan(NamedTuple):
    """One image of one person."""

    image: Array
    labels: np.ndarray
    mask: np.ndarray
    """Of the body in the field of view."""


class Abdomen:
    """One person's anatomy, drawn at construction."""

    def __init__(self, rng: np.random.Generator) -> None:
        normal = rng.normal
        self.size = np.exp(np.clip(normal(0, 0.07, 3), -0.15, 0.15)).astype(np.float32)
        self.fat, self.wall = rng.uniform(6, 28), normal(13, 1.5)
        self.bend = [SmoothField(rng, 45) for _ in range(3)]
        self.coarse, self.fine = SmoothField(rng, 14), SmoothField(rng, 5)
        self.tissues = jitter(TISSUES, rng, 0.04)
        self.hounsfield = {name: value + normal(0, 0.08) * max(value, 0) for name, value in HOUNSFIELD.items()}

        def organ(centre: tuple[float, ...], radii: tuple[float, ...], tilt: float, spread: float) -> Organ:
            scale = np.exp(normal(0, 0.10, 3))
            return Organ(np.array(centre) + normal(0, spread, 3), np.array(radii) * scale, tilt + normal(0, 0.12))

        self.liver = organ((58, 12, 48), (78, 66, 66), 0.15, 10)
        self.left_lobe = organ((0, 45, 66), (62, 30, 34), -0.1, 8)
        self.spleen = organ((-92, -38, 52), (25, 38, 48), -0.3, 11)
        self.right_kidney = organ((56, -46, -28), (27, 25, 52), 0.18, 10)
        self.left_kidney = organ((-56, -44, -8), (27, 25, 54), -0.18, 10)
        self.stomach = organ((-52, 32, 44), (34, 36, 48), -0.3, 12)
        self.dome = normal(92, 9)

    def scene(self, p: Array, breath: float, spacing: float) -> tuple[Scene, np.ndarray, np.ndarray]:
        """Layers, labels (uint8) and body (bool) at points p (3, *S) in mm, a grid of this spacing.

        Args:
            p: the points.
            breath: by how many mm the diaphragm has moved up.
            spacing: in mm.
        """
        q = p / self.size.reshape(3, 1, 1, 1)
        x, y, _ = q
        body = (1 - np.sqrt((x / 165) ** 2 + (y / 118) ** 2)) * 118
        cavity = body - self.fat - self.wall
        inner: Array = q + 7 * np.stack([bend(*q) for bend in self.bend])
        inner[2] -= breath * np.clip((inner[2] + 80) / 150, 0, 1.2)  # the upper organs move most
        diaphragm = self.dome - (0.0035 * ((np.abs(inner[0]) - 55) ** 2 + inner[1] ** 2)) - inner[2]
        below = np.minimum(cavity - 2, diaphragm - 3)
        liver = np.minimum(np.maximum(self.liver.surface(inner), self.left_lobe.surface(inner)), below)
        kidneys = {
            RIGHT_KIDNEY: np.minimum(self.right_kidney.surface(inner), below),
            LEFT_KIDNEY: np.minimum(self.left_kidney.surface(inner), below),
        }
        liver = np.minimum(liver, -kidneys[RIGHT_KIDNEY] - 3)
        spleen = np.minimum(self.spleen.surface(inner), below)
        spleen = np.minimum(spleen, np.minimum(-kidneys[LEFT_KIDNEY], -liver) - 3)
        stomach = np.minimum(self.stomach.surface(inner), np.minimum(below, np.minimum(-liver, -spleen) - 2))
        scene = self._frame(q, body, cavity, diaphragm, spacing)
        organs = {"stomach": stomach, "liver": liver, "spleen": spleen}
        scene += [(name, coverage(surface, spacing)) for name, surface in organs.items()]
        for surface in kidneys.values():
            scene += [("kidney", coverage(surface, spacing)), ("pelvis", coverage(surface - 17, spacing))]
        air = np.minimum(stomach - 4, inner[1] - self.stomach.centre[1] - 10)  # it rises to the front
        scene.append(("air", coverage(air, spacing)))
        surfaces = {LIVER: liver, SPLEEN: spleen, **kidneys}
        labels = np.select([surface > 0 for surface in surfaces.values()], list(surfaces), 0)
        return scene, labels.astype(np.uint8), body > 0

    def _frame(self, q: Array, body: Array, cavity: Array, diaphragm: Array, spacing: float) -> Scene:
        """The body without the organs: fat, wall, spine, lungs, bowel, great vessels."""
        x, y, z = q
        spine = 1 - np.hypot(x / 24, (y + 72) / 20)
        disc = np.abs((z / 34) % 1 - 0.5) > 0.42
        canal = 8 - np.hypot(x, y + 96)
        rib = np.minimum(4 - np.abs(cavity + 6), 4 - np.abs(((z + 0.35 * y) % 26) - 13))
        bowel = np.minimum(np.minimum(cavity - 6, diaphragm - 6), np.minimum(y + 40, 5 * self.coarse(*q) - 1))
        aorta = np.maximum(10 - np.hypot(x + 12, y + 44), 11 - np.hypot(x - 16, y + 42))
        return [
            ("skin fat", coverage(body, spacing)),
            ("muscle", coverage(body - self.fat, spacing)),
            ("inner fat", coverage(cavity, spacing)),
            ("muscle", coverage(np.minimum(30 - np.hypot(np.abs(x) - 42, y + 78), body - self.fat), spacing)),
            ("bowel", coverage(bowel, spacing)),
            ("lung", coverage(np.minimum(cavity - 2, -diaphragm), spacing)),
            ("bone", coverage(np.where(disc, -5.0, spine * 20), spacing)),
            ("bone", coverage(np.minimum(rib, z + 10), spacing)),
            ("cord", coverage(canal, spacing)),
            ("vessel", coverage(aorta, spacing)),
        ]


def as_totalsegmentator(labels: np.ndarray) -> np.ndarray:
    """The label ids that TotalSegmentator gives these organs: 1 spleen, 2 and 3 right and left kidney, 5 liver."""
    return np.array([0, 5, 1, 2, 3], labels.dtype)[labels]


def scan_mr(person: Abdomen, p: Array, breath: float, spacing: float, rng: np.random.Generator) -> Scan:
    """A T1-weighted breath-hold: coil sensitivity, Rician noise, and slices that end within the body."""
    scene, labels, body = person.scene(p, breath, spacing)
    repetition, echo = rng.uniform(110, 170), rng.uniform(2.3, 4.8)
    signals = {name: spin_echo(tissue, repetition, echo) for name, tissue in person.tissues.items()}
    magnetisation = mix(scene, signals, person.fine(*p), person.tissues, np.zeros(labels.shape, np.float32))
    image = acquire(magnetisation, (spacing,) * 3, (0.4, 0.4, 0.7), rng.uniform(20, 40), 0.2, rng)
    z = p[2]
    seen = (z > rng.uniform(-150, -125)) & (z < rng.uniform(115, 140))
    image *= 700 / np.percentile(image[body & seen], 99)
    return Scan(np.where(seen, image, 0), labels * seen, body & seen)


def scan_ct(person: Abdomen, p: Array, breath: float, spacing: float, rng: np.random.Generator) -> Scan:
    """A contrast-enhanced CT in Hounsfield units; outside its round field of view it has a padding value."""
    scene, labels, body = person.scene(p, breath, spacing)
    below = np.full(labels.shape, HOUNSFIELD["air"], np.float32)
    image = mix(scene, person.hounsfield, person.fine(*p), CT_TEXTURE, below)
    blurred = ndimage.gaussian_filter(image, 0.4)
    noisy = blurred + rng.normal(0, rng.uniform(8, 16), labels.shape)
    seen = np.hypot(p[0] - rng.normal(0, 6), p[1] - rng.normal(0, 6)) < rng.uniform(168, 185)
    return Scan(np.where(seen, noisy, rng.choice(CT_PADDING)), labels * seen, body & seen)
