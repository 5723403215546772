"""Linear maps between two images, in 2D or 3D, by SimpleITK's Mattes mutual information."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import SimpleITK as sitk

HISTOGRAM_BINS = 32
SAMPLED_SHARE = 0.5
SAMPLING_SEED = 1
ITERATIONS = 50
FEWEST_VOXELS = 4
"""Along each axis, that ITK's smoothing needs; it raises for fewer."""


@dataclass(frozen=True, eq=False)
class Alignment:
    """The better of a start and what optimisation made of it."""

    transform: sitk.Transform
    """Points of the fixed image to points of the moving one."""
    start: float
    """Mutual information at the start."""
    similarity: float
    """That of ``transform``: the start's where nothing better was found."""
    failure: str = ""
    """Why the optimisation stopped, where it did."""


def align(fixed: sitk.Image, moving: sitk.Image, start: sitk.Transform) -> Alignment:
    """Optimise a linear map that can be written to; ``start`` itself is kept where that does not improve it.

    Equal inputs give equal results: one thread, seeded samples.

    Args:
        fixed: float32.
        moving: float32.
        start: its class (rigid, affine) says what is optimised.
    """
    fixed, moving = _thickened(fixed), _thickened(moving)
    start_cost = _cost(fixed, moving, start)
    result = type(start)(start)
    try:
        with _one_thread():
            _registration(result).Execute(fixed, moving)
    except RuntimeError as error:  # the images left each other
        return Alignment(start, -start_cost, -start_cost, " ".join(str(error).split()))
    cost = _cost(fixed, moving, result)
    if cost >= start_cost:
        return Alignment(start, -start_cost, -start_cost)
    return Alignment(result, -start_cost, -cost)


def best_start(fixed: sitk.Image, moving: sitk.Image, starts: Sequence[sitk.Transform]) -> sitk.Transform:
    """The transform under which the images are most similar."""
    return min(starts, key=lambda start: _cost(fixed, moving, start))


def _thickened(image: sitk.Image) -> sitk.Image:
    """A slab of few slices with its outermost ones repeated until there are `FEWEST_VOXELS`."""
    missing = [max(FEWEST_VOXELS - size, 0) for size in image.GetSize()]
    if not any(missing):
        return image
    return sitk.ZeroFluxNeumannPad(image, [count // 2 for count in missing], [count - count // 2 for count in missing])


def _registration(transform: sitk.Transform) -> sitk.ImageRegistrationMethod:
    """A registration that changes ``transform`` in place, with a seed, so that it repeats on `_one_thread`."""
    method = sitk.ImageRegistrationMethod()
    method.SetMetricAsMattesMutualInformation(HISTOGRAM_BINS)
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(SAMPLED_SHARE, SAMPLING_SEED)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(learningRate=2.0, minStep=0.01, numberOfIterations=ITERATIONS)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetShrinkFactorsPerLevel([4, 2, 1])
    method.SetSmoothingSigmasPerLevel([4, 2, 1])
    method.SetInitialTransform(transform, inPlace=True)
    return method


def _cost(fixed: sitk.Image, moving: sitk.Image, transform: sitk.Transform) -> float:
    """Negative mutual information; infinite where the images do not overlap."""
    try:
        with _one_thread():
            return float(_registration(transform).MetricEvaluate(fixed, moving))
    except RuntimeError:
        return float("inf")


@contextmanager
def _one_thread() -> Iterator[None]:
    """Several threads add up the metric in an order that changes; its own setting of their number does not reach it."""
    threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
