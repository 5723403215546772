"""The inside of a synthetic chest, as the short-axis plane cuts it: what surrounds the heart.

Coordinates are those of `cardiac`. The plane is oblique: left in the image is the front of the body, right
is its back, down is the belly.
"""

from __future__ import annotations

import numpy as np

from bingo_pl.phantoms.mr import Array, Points, Scene, coverage, ellipse, turn


class Chest:
    """One person's chest wall, lungs, upper abdomen, spine and aorta, drawn at construction.

    Args:
        rng: the source of the draws.
        floor: distance from the heart's axis to its lower surface, mm; the diaphragm lies below.
    """

    def __init__(self, rng: np.random.Generator, floor: float) -> None:
        normal, uniform = rng.normal, rng.uniform
        self.body: list[float] = normal([38, 30, 122, 150], [5, 6, 6, 7]).tolist()  # centre, semi-axes
        self.body_angle = normal(-0.25, 0.12)
        self.skin_fat, self.muscle = uniform(5, 22), uniform(13, 18)
        self.rib_phase, self.rib_distance = uniform(0, 1), uniform(30, 40)
        self.diaphragm = floor + normal(6, 2.5)
        self.liver_edge, self.liver_slope = normal(40, 16), uniform(0.1, 0.6)
        self.stomach: list[float] = normal([70, 78, 31, 23], [7, 6, 5, 4]).tolist()
        self.gas = uniform(-0.8, 0.5)  # height of the fluid's level in the stomach, relative
        self.aorta: list[float] = normal([70, 34, 11.5], [4, 5, 1.2]).tolist()
        self.spine: list[float] = normal([105, 38, -0.25], [4, 5, 0.08]).tolist()

    def scene(self, at: Points, width: float) -> Scene:
        """Layers from the skin inwards, for voxels of ``width`` mm."""
        x, y = turn(at.u - self.body[0], at.v - self.body[1], self.body_angle)
        depth = ellipse(x, y, self.body[2], self.body[3])
        muscle = depth - self.skin_fat * (1 + 0.3 * at.coarse)
        cavity = muscle - self.muscle * (1 + 0.1 * at.coarse)
        along = np.arctan2(y, x) * (125 / self.rib_distance) + self.rib_phase + at.w / 34 + 0.12 * at.coarse
        along = along - np.floor(along) - 0.5  # of the way from rib to rib
        middle = cavity + 0.42 * self.muscle
        rib = (0.95 + 0.15 * at.coarse - np.hypot(along * (self.rib_distance / 8), middle / 5)) * 5
        between = coverage(2.2 + at.fine - np.abs(middle), width) * 0.7
        return [
            ("fat", coverage(depth, width)),
            ("muscle", coverage(muscle + 0.8 * at.fine, width)),
            ("fat", between),
            ("bone", coverage(rib, width)),
            ("marrow", coverage(rib - 1.5, width)),
            ("lung", coverage(cavity, width)),
            ("vessel", coverage(np.minimum((at.fine - 1.7) * 3, cavity - 3), width)),
            *self._abdomen(at, cavity, width),
            *self._back(at, width),
        ]

    def _abdomen(self, at: Points, cavity: Array, width: float) -> Scene:
        u, v, fine, coarse = at.u, at.v, at.fine, at.coarse
        top = self.diaphragm + 0.0030 * (u + 25) ** 2 - 0.12 * (at.w - 40)
        below = np.minimum(v - top + 2 * coarse, cavity)
        organs = below - 3
        liver = np.minimum(organs, self.liver_edge - u - self.liver_slope * (v - 60) + 5 * coarse)
        su, sv, sa, sb = self.stomach
        stomach = np.minimum(ellipse(u - su, v - sv - 0.1 * at.w, sa, sb) + 2 * coarse + fine, organs)
        spleen = np.minimum(ellipse(u - 112, v - 104, 42, 50) + 2 * coarse, organs)
        return [
            ("muscle", coverage(below, width)),
            ("fat", coverage(below - 2.5, width)),
            ("liver", coverage(liver, width)),
            ("vessel", coverage(np.minimum((fine - 1.9) * 2.5, liver - 6), width)),
            ("spleen", coverage(spleen, width)),
            ("muscle", coverage(stomach, width)),
            ("stomach", coverage(stomach - 3, width)),
            ("air", coverage(np.minimum(stomach - 3, sv + self.gas * sb - v), width)),
        ]

    def _back(self, at: Points, width: float) -> Scene:
        au, av, radius = self.aorta
        su, sv, angle = self.spine
        x, y = turn(at.u - su, at.v - sv, angle)
        aorta = radius - np.hypot(at.u - au - 0.05 * at.w, (at.v - av + 0.1 * at.w) * 0.85)
        column = ellipse(x, y, 17, 60) + 0.8 * at.fine
        level = y + 0.3 * at.w
        vertebra = np.minimum(column, 12.5 - np.abs(level - 31 * np.round(level / 31)))
        canal = np.minimum(7 - np.abs(x - 27), column + 12)
        cord = np.minimum(3.5 - np.abs(x - 27), canal)
        return [
            ("muscle", coverage(ellipse(x - 30, y, 50, 95) + 3 * at.coarse, width)),
            ("fat", coverage(ellipse(x + 2, y, 25, 64) + 2 * at.coarse, width)),
            ("disc", coverage(column, width)),
            ("bone", coverage(vertebra, width)),
            ("marrow", coverage(vertebra - 1.3, width)),
            ("fat", coverage(canal + 2, width)),
            ("csf", coverage(canal, width)),
            ("muscle", coverage(cord, width)),
            ("wall", coverage(aorta + 1.5, width)),
            ("blood", coverage(aorta, width)),
        ]
