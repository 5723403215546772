"""A synthetic brain with a tumour: folded cortex, ventricles, deep nuclei, cerebellum, four MR contrasts.

Coordinates are millimetres from the centre of the brain: x to the right, y to the front, z up. Surfaces are
distances in mm, positive inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np

from bingo_pl.phantoms.mr import (
    Array,
    Scene,
    SmoothField,
    Tissue,
    acquire,
    coverage,
    inversion_recovery,
    jitter,
    mix,
    nulling_time,
    spin_echo,
)

NECROSIS, OEDEMA, ENHANCING = 1, 2, 4  # label ids of BraTS
CONTRASTS = ("t1", "t1ce", "t2", "flair")

# Typical values at 3 T, rounded, in the range of Wansapura 1999, Gelman 2001 (nuclei) and Badve 2017 (tumour).
TISSUES = {
    "csf": Tissue(4000, 900, 1.00, 0.0, 0.02),
    "grey": Tissue(1400, 92, 0.83, 0.02),
    "white": Tissue(850, 74, 0.71, 0.01),
    "thalamus": Tissue(1150, 78, 0.79, 0.02),
    "nucleus": Tissue(1250, 74, 0.81, 0.02),
    "pallidum": Tissue(1000, 58, 0.77, 0.02),
    "folia": Tissue(1250, 90, 0.81, 0.02, 0.05),
    "vein": Tissue(1700, 60, 0.60, 0.5, 0.05),
    "oedema": Tissue(1550, 135, 0.86, 0.03, 0.06),
    "enhancing": Tissue(1450, 112, 0.85, 0.35, 0.12),
    "necrosis": Tissue(2200, 190, 0.92, 0.08, 0.10),
}


def ellipsoid(p: Array, centre: Sequence[float], radii: Sequence[float]) -> Array:
    """About the distance to an ellipsoid, for points p (3, *S)."""
    c, r = (np.asarray(a, np.float32).reshape(3, 1, 1, 1) for a in (centre, radii))
    return (1 - np.sqrt((((p - c) / r) ** 2).sum(0))) * np.float32(min(radii))


def _tube(p: Array, start: Sequence[float], end: Sequence[float], radius: float) -> Array:
    """Distance to the surface of a capsule."""
    a, d = (np.asarray(v, np.float32).reshape(3, 1, 1, 1) for v in (start, np.subtract(end, start)))
    along = np.clip(((p - a) * d).sum(0) / (d * d).sum(), 0, 1)
    return radius - np.sqrt((((p - a) - along * d) ** 2).sum(0))


def _union(*surfaces: Array) -> Array:
    """Smooth union: the corner between two surfaces is filled over about 3 mm."""
    total = np.exp(surfaces[0] / 3)
    for surface in surfaces[1:]:
        total = total + np.exp(np.minimum(surface, 60) / 3)
    return 3 * np.log(total)


def _sheet(field: Array, spacing: float) -> Array:
    """Distance in mm to the zero level of a field."""
    slope = np.sqrt(sum(g * g for g in np.gradient(field, spacing)))
    return np.abs(field) / (slope + np.float32(1e-3))


class Brain:
    """One person's brain, and a tumour unless ``healthy``, drawn at construction."""

    def __init__(self, rng: np.random.Generator, healthy: bool = False) -> None:
        normal, uniform = rng.normal, rng.uniform
        self.tissues = jitter(TISSUES, rng, 0.03)
        self.scale = 0.95 * np.exp(np.clip(normal(0, 0.035, 3), -0.08, 0.08)).astype(np.float32)
        self.ventricle = normal(0, 1.2) + 1.0
        self.atrophy, self.ribbon = uniform(0.5, 1.3), normal(4.1, 0.3)
        self.bend = [SmoothField(rng, 30) for _ in range(3)]
        self.folds = SmoothField(rng, 3.2), SmoothField(rng, 3.2)
        self.depth, self.coarse = SmoothField(rng, 20), SmoothField(rng, 14)
        self.fine, self.grain = SmoothField(rng, 5), SmoothField(rng, 3)
        side = rng.choice([-1, 1])
        self.tumour = np.array([side * uniform(20, 42), uniform(-45, 40), uniform(-5, 38)], np.float32)
        self.radius, self.rim = uniform(9, 21), uniform(2.5, 5.0)
        self.core, self.oedema = uniform(0.1, 0.8), uniform(6, 22)
        self.push, self.reach = 0.0 if healthy else 0.28 * self.radius, 2.2 * self.radius + 8
        self.healthy = healthy

    def later(self, growth: float) -> Brain:
        """The same brain when its tumour has infiltrated ``growth`` times as far without pushing anything away."""
        brain = copy(self)
        brain.radius = growth * self.radius
        return brain

    def anatomical(self, p: Array) -> tuple[Array, Array]:
        """Where points p (3, *S) in mm lie in the average head, and their distances (*S) from the tumour's centre."""
        away = p - self.tumour.reshape(3, 1, 1, 1)
        distance = np.sqrt((away**2).sum(0)) + np.float32(1e-3)
        q = p - away / distance * (self.push * np.exp(-((distance / self.reach) ** 2)))  # mass effect
        return (q + 3.0 * np.stack([bend(*q) for bend in self.bend])) / self.scale.reshape(3, 1, 1, 1), distance

    def locate(self, places: Array) -> Array:
        """The points (P, 3) in mm of this head at ``places`` (P, 3) of the average one: the inverse of `anatomical`."""
        target = np.asarray(places, np.float32).T.reshape(3, -1, 1, 1)
        p = target.copy()
        for _ in range(50):
            p += 0.7 * (target - self.anatomical(p)[0])
        found: Array = p.reshape(3, -1).T
        return found

    def scene(self, p: Array, spacing: float) -> tuple[Scene, np.ndarray, np.ndarray]:
        """Layers, labels (uint16) and brain mask (bool) at points p (3, *S) in mm, a grid of this spacing."""
        q, distance = self.anatomical(p)
        fine = self.fine(*p)
        mirrored = q.copy()
        mirrored[0] = np.abs(q[0])
        cerebrum, cerebellum, stem = self._hull(mirrored)
        hull = np.maximum(np.maximum(cerebrum, cerebellum), stem)
        upper = self._cerebrum(q, mirrored, cerebrum, spacing)
        deep = self._deep(mirrored, fine, spacing)
        background: Scene = [("csf", np.ones_like(hull))]
        mask = hull > 0
        lower = self._hindbrain(mirrored, cerebellum, stem, spacing)
        scene = [*background, *upper, *lower, *deep]
        if self.healthy:
            return scene, np.zeros(mask.shape, np.uint16), mask
        (_, brain), (_, white), (_, ventricle) = upper[0], upper[1], deep[-1]
        tumour, labels = self._tumour(p, distance, brain, white * (1 - ventricle), fine, spacing)
        return [*scene, *tumour], labels * mask, mask

    def _hull(self, m: Array) -> tuple[Array, Array, Array]:
        m = m.copy()
        m[0] *= 1 + 0.0022 * (m[1] + 15)  # narrower in front
        upper = ellipsoid(m, (15, -2, 8), (53, 86, 59))
        temporal = ellipsoid(m, (42, 8, -24), (25, 46, 20))
        occipital = ellipsoid(m, (22, -50, 0), (36, 38, 34))
        floor = m[2] + 26 - 0.0045 * np.clip(m[1] - 10, 0, None) ** 2
        upper = np.minimum(_union(upper, occipital), floor)
        cerebrum = _union(upper, temporal)
        cerebellum = _union(ellipsoid(m, (22, -54, -37), (30, 27, 21)), ellipsoid(m, (0, -54, -36), (12, 24, 20)))
        stem = _union(
            _tube(m, (0, -24, -62), (0, -18, -20), 10),
            _tube(m, (0, -16, -18), (12, -8, -2), 11),
            ellipsoid(m, (0, -14, -30), (17, 13, 14)),
        )
        return cerebrum, cerebellum, stem

    def _cerebrum(self, q: Array, m: Array, cerebrum: Array, spacing: float) -> Scene:
        x, y, z = m
        callosum = np.sqrt(((y + 2) / 38) ** 2 + ((z - 2) / 25) ** 2) * 25 - 25  # outside its arch: fissure
        gap = np.float32(0.5 + 0.4 * self.atrophy)
        fissure = np.where((callosum > 0), np.maximum(x - gap, -callosum), np.float32(30))
        depth = np.minimum(cerebrum, fissure)
        rho = np.clip(1 - cerebrum / 60, 0.3, 1.2)
        radial = 1 / (0.3 + 0.7 * rho)  # sulci run towards the surface
        folds = self.folds[0](*(m * radial)) + np.float32(0.6) * self.folds[1](*(q * radial))
        sheet = _sheet(folds, spacing)
        reach = 15 + 5 * self.depth(*q)
        sulcus = np.hypot(sheet, np.clip(depth - reach, 0, None))
        sylvian = np.hypot(
            np.abs(z + 6 - 0.22 * (y + 20) - 0.15 * (x - 40)), np.clip(np.maximum(34 - x, np.abs(y - 8) - 28), 0, None)
        )
        sulcus = np.minimum(sulcus, sylvian)
        open_sulcus = sulcus - (0.1 + 0.45 * self.atrophy * np.clip(1 - depth / 25, 0.2, 1))
        cortex = np.minimum(depth - 0.8, open_sulcus)
        white = np.minimum(cortex - self.ribbon * (1 + 0.12 * self.coarse(*q)), depth - 0.8 - self.ribbon)
        middle = np.minimum(ellipsoid(m, (0, -4, 0), (20, 40, 25)), cerebrum - 3)  # callosum and around the nuclei
        white = np.maximum(white, middle)
        brain = coverage(np.minimum(cortex, cerebrum - 0.5), spacing)
        vein = coverage(np.minimum(3.2 - np.hypot(x, cerebrum - 2.5), z + 5), spacing)
        return [("grey", brain), ("white", coverage(white, spacing)), ("vein", vein)]

    def _hindbrain(self, m: Array, cerebellum: Array, stem: Array, spacing: float) -> Scene:
        _, y, z = m
        ripple = np.sin((np.hypot(y + 40, z + 34) + 1.5 * self.coarse(*m)) * np.float32(2 * np.pi / 5.5))
        folia = coverage(cerebellum - 0.8, spacing)
        arbor = np.minimum(ellipsoid(m, (15, -48, -35), (21, 18, 11)) + 2.5 * ripple, cerebellum - 4)
        fourth = ellipsoid(m, (0, -35, -32), (8, 5, 11))
        cleft = coverage(0.6 - np.abs(ripple) * 3 - 0.12 * (cerebellum - 5), spacing) * 0.5
        return [
            ("csf", coverage(0.9 - np.abs(cerebellum), spacing) * (z < -8)),
            ("folia", folia * (1 - cleft)),
            ("white", coverage(arbor, spacing)),
            ("white", coverage(stem - 0.5, spacing)),
            ("csf", coverage(fourth, spacing)),
        ]

    def _deep(self, m: Array, fine: Array, spacing: float) -> Scene:
        v = self.ventricle
        horns = [
            _tube(m, (9, 32, 8), (10, 14, 17), 3.6 + v),
            _tube(m, (10, 14, 17), (13, -14, 20), 3.2 + v),
            _tube(m, (13, -14, 20), (24, -34, 8), 4.0 + v),
            _tube(m, (24, -34, 8), (20, -58, 6), 2.0 + 0.8 * v),
            _tube(m, (24, -34, 8), (33, -10, -17), 1.6 + 0.5 * v),
        ]
        ventricle = np.minimum(_union(*horns), m[0] - 1.5) + 0.4 * fine
        third = ellipsoid(m, (0, -3, -2), (2.2 + 0.4 * v, 14, 12)) + 0.3 * fine
        caudate = np.maximum(ellipsoid(m, (13.5, 20, 9), (6.5, 11, 10)), _tube(m, (16, 12, 18), (20, -20, 20), 2.6))
        surfaces = {
            "thalamus": ellipsoid(m, (11, -14, 6), (10, 15, 10)),
            "nucleus": np.maximum(caudate, ellipsoid(m, (26, 6, 2), (6, 17, 10))),
            "pallidum": ellipsoid(m, (19.5, 2, 0), (4.5, 9, 6.5)),
            "csf": np.maximum(ventricle, third),
        }
        return [(name, coverage(surface + 0.5 * fine * (name != "csf"), spacing)) for name, surface in surfaces.items()]

    def _tumour(
        self, p: Array, distance: Array, brain: Array, white: Array, fine: Array, spacing: float
    ) -> tuple[Scene, np.ndarray]:
        coarse = self.coarse(*p)
        solid = self.radius * (1 + 0.16 * coarse) + 1.5 * fine - distance
        core = solid - self.rim * (1 + 0.5 * fine) - (1 - self.core) * 5
        reach = coverage(solid + self.oedema * (1 + 0.45 * coarse) + 2 * fine, 4)
        side = coverage(p[0] * np.sign(self.tumour[0]) - 2, 4)
        surround = reach * side * (0.15 * brain + 0.85 * white)  # oedema spares the cortex
        return [
            ("oedema", 0.9 * surround),
            ("enhancing", coverage(solid, spacing)),
            ("necrosis", coverage(core, spacing)),
        ], np.select([core > 0, solid > 0, surround > 0.5], [NECROSIS, ENHANCING, OEDEMA], 0).astype(np.uint16)


def signals(contrast: str, tissues: dict[str, Tissue], rng: np.random.Generator) -> dict[str, float]:
    """The signal of each tissue in one contrast of `CONTRASTS`, with the scanner's settings drawn from rng."""
    if contrast == "flair":
        repetition, echo = rng.uniform(8500, 10000), rng.uniform(95, 125)
        inversion = 0.97 * nulling_time(tissues["csf"], repetition)
        return {name: inversion_recovery(t, repetition, inversion, echo) for name, t in tissues.items()}
    if contrast == "t2":
        repetition, echo = rng.uniform(4500, 6000), rng.uniform(85, 110)
    else:
        repetition, echo = rng.uniform(480, 650), rng.uniform(8, 12)
    if contrast == "t1ce":
        rate = rng.uniform(3.0, 5.0)
        tissues = {name: tissue.enhanced(rate) for name, tissue in tissues.items()}
    return {name: spin_echo(tissue, repetition, echo) for name, tissue in tissues.items()}


def scan(
    brain: Brain, shape: tuple[int, int, int], spacing: float, rng: np.random.Generator
) -> tuple[dict[str, Array], Array]:
    """The four contrasts on one grid, zero outside the brain, and the tumour's labels, each (\\*shape)."""
    axes = [(np.arange(n, dtype=np.float32) - (n - 1) / 2) * np.float32(spacing) for n in shape]
    p = np.stack(np.meshgrid(*axes, indexing="ij"))
    layers, labels, mask = brain.scene(p, spacing)
    pattern = brain.grain(*p)
    images = {}
    for contrast in CONTRASTS:
        level = signals(contrast, brain.tissues, rng)
        texture = pattern * rng.uniform(0.5, 0.8) + np.float32(0.6) * SmoothField(rng, 6)(*p)
        magnetisation = mix(layers, level, texture, brain.tissues, np.zeros(shape, np.float32))
        thick = 0.8 if contrast == "t1" else rng.uniform(0.8, 2.2)  # 2D sequences have thicker slices
        blur = (0.45 / min(spacing, 1.5), 0.45 / min(spacing, 1.5), 0.5 * thick / spacing)
        image = acquire(magnetisation, (spacing,) * 3, blur, rng.uniform(25, 50), 0.12, rng)
        image *= 1000 / np.percentile(image[mask], 99.5)
        images[contrast] = np.where(mask, np.maximum(image, 1), 0)
    return images, labels
