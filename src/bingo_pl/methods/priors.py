"""Priors on velocities."""

from __future__ import annotations

from torch import Tensor

from bingo_pl.methods.posterior import Gaussian


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


def bending_energy(displacement: Tensor) -> Tensor:
    """Squared second derivatives of a displacement or velocity (Rueckert 1999); affine maps are free.

    Args:
        displacement: (K, D, *S) in voxels, at least 3 a side.

    Returns:
        Scalar: sum over components and over all D x D second derivatives, mean over images and voxels.
    """
    axes = range(2, displacement.ndim)
    energy = displacement.new_zeros(())
    for i in axes:
        for j in range(i, displacement.ndim):
            twice = 1 if i == j else 2  # the Hessian is symmetric
            energy = energy + twice * (displacement.diff(dim=i).diff(dim=j) ** 2).mean()
    return len(axes) * energy


def group_bending(field: Tensor) -> Tensor:
    """N times the bending energy of fields (B, N, D, *S), a sum over groups."""
    return field.shape[0] * field.shape[1] * bending_energy(field.flatten(0, 1))
