"""The learned intrinsic similarity: means of BInGo's own experts, at the images' resolution."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy
import torch
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.alignment.maps import Lattice, Linear
from bingo_pl.alignment.volume import Picture, Volume, reduced
from bingo_pl.methods.networks import Encoder


def encode(
    encoder: Encoder, scale: int, picture: Picture, lattice: Lattice, linear: Linear, mirrored: Sequence[int] = ()
) -> Volume:
    """The means of an image's experts, each channel standardised.

    The image is encoded as it lies in the common space, so that the encoder, which turns with nothing, sees the images
    of a group alike.

    Args:
        encoder: the network, for the image's modality.
        scale: which of its scales is read; voxels of scale s are 2**s times as large as those that are encoded.
        picture: the image.
        lattice: the voxels that are encoded, sizes divisible by the network's stride.
        linear: the map of this image alone, common space to image.
        mirrored: axes of the common space; along each the mirrored image is encoded as well. The encoder turns with
            nothing, so this adds channels that make other errors.

    Returns:
        Read at points of the image.
    """
    values = torch.from_numpy(_seen(picture, lattice, linear))
    means = torch.cat([_means(encoder, values, scale, axes) for axes in [(), *((axis,) for axis in mirrored)]])
    shape = tuple(means.shape[1:])
    means = means.flatten(1)
    means = (means - means.mean(1, keepdim=True)) / (means.std(1, keepdim=True) + 1e-6)
    step = lattice.step_mm * 2**scale
    first = lattice.first + (2**scale - 1) / 2 * lattice.step_mm
    back = linear.inverse()  # image to common space, then to the index of a feature
    to_index = torch.cat([back.matrix[0], (back.offset[0] - first)[:, None]], 1) / step
    return Volume(means.T.contiguous(), shape, to_index)


def _means(encoder: Encoder, values: Tensor, scale: int, axes: tuple[int, ...]) -> Tensor:
    """(C, *s) of an image *S that is seen mirrored along axes."""
    seen = values.flip(axes).to(next(encoder.parameters()).device)
    with torch.no_grad():
        features = encoder(seen[None, None], [1], scale)[0]
    means = features[0, : features.shape[1] // 2]  # what `expert` says, without variances
    return means.float().flip([axis + 1 for axis in axes]).to(values.device)


def _seen(picture: Picture, lattice: Lattice, linear: Linear) -> NDArray[np.float32]:
    """The image at the voxels of a lattice; beyond its border, the border's values."""
    values, to_index = reduced(picture.unit, picture.to_index, lattice.step_mm)
    matrix = to_index[:, :-1] @ linear.matrix[0].double().numpy()
    offset = matrix @ lattice.first.double().numpy() + to_index[:, :-1] @ linear.offset[0].double().numpy()
    seen: NDArray[np.float32] = scipy.ndimage.affine_transform(
        values, matrix * lattice.step_mm, offset + to_index[:, -1], lattice.shape, order=1, mode="nearest"
    )
    return seen


def encoded_lattice(low: Tensor, high: Tensor, voxel_mm: float, stride: int) -> Lattice:
    """Voxels that hold a box of mm, sizes divisible by ``stride``."""
    sizes = [max(int(np.ceil(float(b - a) / voxel_mm / stride)), 1) * stride for a, b in zip(low, high, strict=True)]
    middle = (low + high) / 2
    first = middle - voxel_mm * (torch.tensor(sizes) - 1) / 2
    return Lattice(first, voxel_mm, tuple(sizes))
