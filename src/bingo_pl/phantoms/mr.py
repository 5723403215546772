"""How a synthetic scene becomes an MR image: tissues, sequences, smooth random fields, acquisition.

A *scene* is a painter's list of layers, each a tissue and its coverage in [0, 1] (partial volume at its edge);
a later layer hides what lies below it. A *sequence* gives each tissue one signed signal, so that the layers mix
as magnetisation does, before the magnitude is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

Array = NDArray[np.floating]  # float32 throughout, but numpy's stubs lose it
Scene = list[tuple[str, Array]]


@dataclass(frozen=True)
class Points:
    """Positions in a body and three random patterns there; arrays broadcast against each other."""

    u: Array
    v: Array
    w: Array
    """Coordinates in mm."""
    coarse: Array
    fine: Array
    grain: Array
    """Zero mean, unit variance; they change over about 2 cm, 4 mm and 2 mm."""


@dataclass(frozen=True)
class Tissue:
    """Relaxation of one tissue."""

    t1: float
    """Longitudinal relaxation time, ms."""
    t2: float
    """Transverse relaxation time, ms."""
    density: float
    """Proton density relative to water."""
    uptake: float = 0.0
    """Late gadolinium concentration relative to blood."""
    texture: float = 0.03
    """Standard deviation of the signal inside the tissue, relative."""

    def enhanced(self, rate: float) -> Tissue:
        """The same tissue after contrast agent adds ``rate * uptake`` (1/s) to 1/T1."""
        return replace(self, t1=1e3 / (1e3 / self.t1 + rate * self.uptake))


def jitter(tissues: Mapping[str, Tissue], rng: np.random.Generator, spread: float = 0.04) -> dict[str, Tissue]:
    """One subject's tissues: T1, T2 and density varied independently by ``spread`` (relative)."""

    def vary(tissue: Tissue) -> Tissue:
        a, b, c = np.exp(spread * rng.standard_normal(3))
        return replace(tissue, t1=tissue.t1 * a, t2=tissue.t2 * b, density=tissue.density * c)

    return {name: vary(tissue) for name, tissue in tissues.items()}


def bssfp(tissue: Tissue, repetition: float, flip: float) -> float:
    """Balanced steady state at TE = TR/2; ``repetition`` in ms, ``flip`` in degrees (Freeman and Hill 1971)."""
    e1, e2 = np.exp(-repetition / tissue.t1), np.exp(-repetition / tissue.t2)
    cos, sin = np.cos(np.radians(flip)), np.sin(np.radians(flip))
    return float(tissue.density * sin * (1 - e1) * np.sqrt(e2) / (1 - (e1 - e2) * cos - e1 * e2))


def inversion_recovery(tissue: Tissue, repetition: float, inversion: float, echo: float) -> float:
    """Signed signal after an inversion pulse; all times in ms. ``echo`` decays with T2 (about 0 for gradient echo)."""
    recovered = 1 - 2 * np.exp(-inversion / tissue.t1) + np.exp(-repetition / tissue.t1)
    return float(tissue.density * recovered * np.exp(-echo / tissue.t2))


def nulling_time(tissue: Tissue, repetition: float) -> float:
    """The inversion time, ms, at which `inversion_recovery` of the tissue is zero."""
    return float(tissue.t1 * np.log(2 / (1 + np.exp(-repetition / tissue.t1))))


def spin_echo(tissue: Tissue, repetition: float, echo: float) -> float:
    """Spin echo signal; times in ms."""
    return float(tissue.density * (1 - np.exp(-repetition / tissue.t1)) * np.exp(-echo / tissue.t2))


class SmoothField:
    """A smooth random function of position in mm: zero mean, unit variance, periodic.

    Args:
        rng: the source of the draw.
        scale: distance in mm over which the field changes, one standard deviation of its smoothing.
    """

    def __init__(self, rng: np.random.Generator, scale: float) -> None:
        self.step = scale / 1.5
        size = int(np.clip(320 / self.step, 12, 48))  # fine fields repeat, which nobody sees
        noise = ndimage.gaussian_filter(rng.standard_normal((size,) * 3), 1.5, mode="wrap")
        self.values = ((noise - noise.mean()) / noise.std()).astype(np.float32)

    def __call__(self, *points: Array) -> Array:
        """Values at points given as one array of mm coordinates for each axis (broadcast against each other)."""
        index = np.stack(np.broadcast_arrays(*points)) / np.float32(self.step)
        return ndimage.map_coordinates(self.values, index, order=1, mode="grid-wrap")


def upsample(coarse: Array, shape: Sequence[int]) -> Array:
    """Images (..., h, w) resized to ``shape`` by linear interpolation; the corners stay where they are."""
    planes = torch.from_numpy(coarse).reshape(1, -1, *coarse.shape[-2:])
    fine: Array = functional.interpolate(planes, tuple(shape), mode="bilinear", align_corners=True).numpy()
    return fine.reshape(*coarse.shape[:-2], *shape)


def ellipse(x: Array, y: Array, a: Array | float, b: Array | float) -> Array:
    """About the distance in mm to an ellipse around 0 with semi-axes a and b, positive inside."""
    return (1 - np.hypot(x / a, y / b)) * np.minimum(a, b)


def turn(x: Array, y: Array, angle: float) -> tuple[Array, Array]:
    """Coordinates in axes that are rotated by ``angle`` radians."""
    c, s = math.cos(angle), math.sin(angle)
    return c * x + s * y, c * y - s * x


def coverage(distance: Array, width: float) -> Array:
    """Share of a voxel inside a surface, from the distance to it (mm, positive inside) and the voxel size in mm."""
    return np.clip(distance / np.float32(width) + np.float32(0.5), 0, 1)


def mix(
    scene: Scene, signals: Mapping[str, float], texture: Array, roughness: Mapping[str, Tissue], below: Array
) -> Array:
    """Paint the layers of a scene over each other: the signed signal of every voxel.

    Args:
        scene: layers, the lowest first.
        signals: each tissue's signed signal.
        texture: unit variance pattern that varies each tissue's signal by its `Tissue.texture`.
        roughness: the tissues.
        below: what the scene is painted on.
    """
    image = below.copy()
    for name, cover in scene:
        signal = np.float32(signals[name]) * (1 + np.float32(roughness[name].texture) * texture)
        image += cover * (signal - image)
    return image


def acquire(
    magnetisation: Array,
    spacing: Sequence[float],
    blur: Sequence[float],
    snr: float,
    bias: float,
    rng: np.random.Generator,
) -> Array:
    """Point spread, coil sensitivity, Rician noise.

    Args:
        magnetisation: signed signal, any shape.
        spacing: voxel size in mm along each axis.
        blur: standard deviation of the point spread in voxels along each axis.
        snr: signal to noise ratio of the 90th percentile.
        bias: relative strength of the coil sensitivity, a smooth factor.
        rng: the source of the draws.

    Returns:
        The magnitude image, same shape.
    """
    image = ndimage.gaussian_filter(magnetisation, blur)
    signal = np.abs(image)
    level = float(np.percentile(signal[signal > 0], 90))
    image *= sensitivity(image.shape, spacing, bias, rng)
    noise = rng.standard_normal((2, *image.shape), dtype=np.float32) * np.float32(level / snr)
    return np.hypot(image + noise[0], noise[1])


def sensitivity(shape: Sequence[int], spacing: Sequence[float], strength: float, rng: np.random.Generator) -> Array:
    """A coil's smooth multiplicative sensitivity: the exponential of random low cosines, (\\*shape)."""
    log = np.zeros(tuple(shape), np.float32)
    for axis, (size, step) in enumerate(zip(shape, spacing, strict=True)):
        position = (np.arange(size) - size / 2) * step / 100  # 100 mm: about the distance over which a coil fades
        amplitude, phase = rng.normal(0, strength), rng.uniform(0, 2 * np.pi)
        wave = (amplitude * np.sin(position + phase)).astype(np.float32)
        log += wave.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return np.exp(log)
