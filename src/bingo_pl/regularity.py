"""Priors on velocities."""

from __future__ import annotations

from torch import Tensor

from bingo_pl.posterior import Gaussian


def velocity_kl(velocity: Gaussian, smoothness: float) -> Tensor:
    """KL of a velocity's posterior against the diffusion prior of VoxelMorph-diff (Dalca 2019), up to a constant.

    As in its authors' code, the roughness of the mean counts 1 / (2 D) of what the exact KL gives it.
    The prior's precision is ``smoothness`` times the Laplacian of the voxel grid, in the velocity's own voxels. First
    differences of a velocity are the same number at every resolution, and so is its price.

    Args:
        velocity: mean and variance (K, D, *S).
        smoothness: lambda, the prior's precision.

    Returns:
        Scalar, a mean over images and voxels.
    """
    dims = velocity.mean.ndim - 2
    neighbours = 2 * dims
    spread = (smoothness * neighbours * velocity.variance - velocity.variance.log()).mean()
    roughness = sum((velocity.mean.diff(dim=axis) ** 2).mean() for axis in range(2, 2 + dims))
    return dims / 2 * (spread + smoothness / neighbours * roughness)
