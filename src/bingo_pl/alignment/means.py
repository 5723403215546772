"""The mean of affine maps: the bi-invariant one of Pennec and Arsigny (2013), whatever the coordinates."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import expm, logm

from bingo_pl.errors import InputError

ITERATIONS = 50
"""Of the mean, which needs about five."""
TOLERANCE = 1e-9
"""Of a change of the mean, mm at most."""


def centred_affines(affines: Sequence[NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    """Maps (D + 1, D + 1) from one space, composed with one map so that their bi-invariant mean is the identity.

    Raises:
        BingoError: maps that differ by half a turn, or mirror, have no mean.
    """
    mean = np.eye(len(affines[0]))
    for _ in range(ITERATIONS):
        step = np.mean([logm(np.linalg.inv(mean) @ affine) for affine in affines], axis=0)
        if np.abs(step.imag).max() > TOLERANCE:
            raise InputError(
                "the images' affine maps have no mean: some are turned by half a turn or mirrored against others",
                "Correct the headers of those",
            )
        mean = mean @ expm(step.real)
        if np.abs(step).max() < TOLERANCE:
            break
    return [affine @ np.linalg.inv(mean) for affine in affines]
