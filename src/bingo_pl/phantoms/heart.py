"""A synthetic heart, from the valves to the apex; coordinates are those of `cardiac`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bingo_pl.phantoms.mr import Array, Points, Scene, coverage, ellipse, turn

MYOCARDIUM, LEFT, RIGHT = 200, 500, 600  # label ids of the MS-CMRSeg challenge


@dataclass(frozen=True)
class Left:
    """The left ventricle at some points: its two surfaces, its axis and the way from it."""

    x: Array
    y: Array
    """Distances in mm from the axis of the ventricle."""
    t: Array
    """Along the axis: 0 at the base, 1 at the apex of the cavity."""
    direction: NDArray[np.complexfloating]
    """Unit vector from the axis, x + iy."""
    endo: Array
    epi: Array
    """Distance to the inner and to the outer surface, positive inside."""
    radius: Array
    """Of the cavity in this direction, mm."""


class Heart:
    """One person's heart in end-diastole, healthy or with an infarct, drawn at construction."""

    def __init__(self, rng: np.random.Generator) -> None:
        normal, uniform = rng.normal, rng.uniform
        self.length = float(np.clip(normal(82, 6), 68, 98))  # of the left ventricle's cavity, mm
        self.cavity = float(np.clip(normal(24, 3.2), 17, 33))  # radius at the base
        self.wall = float(np.clip(normal(9.5, 1.6), 6.5, 14))
        self.modes = normal(0, [0.035, 0.02, 0.012, 0.01], (2, 2, 4)).astype(np.float32)
        self.tilt: list[float] = normal(0, 0.05, 2).tolist()  # of the axis against the stack
        self.right_width = float(np.clip(normal(27, 4.5), 17, 38))  # from septum to free wall
        self.right_height, self.right_angle = normal(1.02, 0.06), normal(-0.15, 0.15)
        papillary = normal([4.5, 0, 0.64], [0.6, 15, 0.05]), normal([4.5, 110, 0.64], [0.6, 15, 0.05])
        self.papillary: list[list[float]] = [p.tolist() for p in papillary]  # radius, angle, place
        self.trabeculae = uniform(0.5, 1.4)
        self.fat = uniform(0.3, 3.0)
        self.infarcted, self.acute = uniform() < 0.75, uniform() < 0.6
        self.territory = uniform(-np.pi, np.pi), uniform(0.4, 1.0), uniform(0.15, 0.8), uniform(0.2, 0.45)
        self.transmural = uniform(0.35, 1.0)

    @property
    def outer(self) -> float:
        """Radius of the left ventricle with its wall, mm."""
        return self.cavity + self.wall

    def scene(self, at: Points, width: float) -> tuple[Scene, dict[int, Array]]:
        """Layers for voxels of ``width`` mm, and the share of each label's structure in each voxel."""
        left = self._left(at)
        right = self._right(left)
        free_wall = right + 3
        groove = 6 * np.exp(-(right**2 + left.epi**2) / 90)
        heart = np.maximum(free_wall, left.epi)
        fat = heart + self.fat * (1 + at.coarse) + groove + 3 * np.exp(-left.t / 0.12)
        wall, cavity, venous = coverage(left.epi, width), coverage(left.endo, width), coverage(right, width)
        rough = coverage(1.5 * self.trabeculae - right + 1.5 * at.fine, 2) * coverage(2.5 * at.grain - 1, 1.5)
        scene = [
            ("wall", coverage(np.maximum(fat, heart) + 1.2, width)),
            ("fat", coverage(fat, width)),
            ("myocardium", coverage(free_wall, width)),
            ("venous", venous),
            ("myocardium", 0.8 * rough * venous),
            ("myocardium", wall),
            *self._infarct(left, at, wall),
            ("blood", cavity),
            *self._muscles(left, at, cavity, width),
        ]
        return scene, {LEFT: cavity, MYOCARDIUM: wall * (1 - cavity), RIGHT: venous * (1 - wall)}

    def _left(self, at: Points) -> Left:
        x, y = at.u - self.tilt[0] * (at.w - 40), at.v - self.tilt[1] * (at.w - 40)
        radius = np.hypot(x, y) + np.float32(1e-3)
        direction = (x + 1j * y) / radius
        t = at.w / self.length
        inner, outer = (self._lobes(direction, modes) for modes in self.modes)
        cavity = self.cavity * _taper(t) * (1 + inner)
        wall = self.outer * _taper(at.w / (self.length + 0.8 * self.wall)) * (1 + 0.5 * inner + outer)
        beyond = 2 * (t > 1)
        return Left(x, y, t, direction, cavity - radius - beyond, wall - radius + 0.4 * at.coarse, cavity)

    @staticmethod
    def _lobes(direction: NDArray[np.complexfloating], modes: Array) -> Array:
        """A Fourier series in the angle: modes (2, 4) are the amplitudes of cosine and sine."""
        total, power = np.zeros(direction.shape, np.float32), direction
        for cosine, sine in modes.T:
            total += cosine * power.real + sine * power.imag
            power = power * direction
        return total

    def _right(self, left: Left) -> Array:
        """Distance to the right ventricle's cavity: an ellipse that the left ventricle dents."""
        shrink = np.sqrt(np.clip(1 - np.clip(left.t / 0.88, 0, 1) ** 2, 1e-4, 1))
        septum = self.outer * np.maximum(_taper(left.t), 0.14)
        a, b = turn(left.x, left.y, self.right_angle)
        height = self.right_height * septum * (0.35 + 0.65 * shrink)
        cavity = ellipse(a + 0.45 * septum + 0.1 * b, b - 3, 0.55 * septum + self.right_width * shrink, height)
        return np.minimum(cavity, -left.epi) - 40 * (left.t > 0.88)

    def _infarct(self, left: Left, at: Points, wall: Array) -> Scene:
        """Scar from the inner surface outwards in one territory and, if acute, oedema around it."""
        if not self.infarcted:
            return []
        angle, half_width, middle, extent = self.territory
        away = np.abs(np.angle(left.direction * np.complex64(np.exp(-1j * angle))))
        region = np.minimum((half_width - away) * 25, (extent - np.abs(left.t - middle)) * self.length) + 2.5 * at.fine
        layer = -left.endo / np.maximum(left.epi - left.endo, 1)  # 0 at the inner surface, 1 at the outer
        scar = np.minimum(region, (self.transmural - layer) * self.wall + 0.8 * at.fine)
        if not self.acute:
            return [("scar", wall * coverage(scar, 3))]
        return [("oedema", wall * coverage(region + 5, 6)), ("infarct", wall * coverage(scar, 3))]

    def _muscles(self, left: Left, at: Points, cavity: Array, width: float) -> Scene:
        """Trabeculae and the two papillary muscles; they belong to the blood pool's label."""
        reach = 2.0 * self.trabeculae * (0.4 + left.t) - left.endo + at.fine
        rough = coverage(reach, 2) * coverage(2.5 * at.grain - 0.75, 1.5)
        scene: Scene = [("myocardium", 0.85 * rough * cavity)]
        for size, degrees, place in self.papillary:
            bulge = np.clip(1 - ((left.t - 0.52) / 0.3) ** 2, 0, None)
            px, py = (place * left.radius * f(np.radians(degrees)) for f in (np.cos, np.sin))
            muscle = size * bulge**0.3 - np.hypot(left.x - px, left.y - py) + 0.9 * at.fine - 2 * (bulge == 0)
            scene.append(("myocardium", coverage(muscle, width) * cavity))
        return scene


def _taper(t: Array) -> Array:
    """Radius of a ventricle along its axis, relative: 1 at the base (t = 0), 0 at the apex (t = 1)."""
    return np.sqrt(1 - np.clip(t, 0, 1) ** 2.4)
