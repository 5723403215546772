"""A group of image files that are read when they are asked for, each resampled onto one grid."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
from torch import Tensor

from bingo_pl.errors import unknown_name
from bingo_pl.files.resampling import resample_image, resample_labels
from bingo_pl.files.scans import Scan, check_dimensions, group_grid, read_scan
from bingo_pl.streaming.stream import StreamedImage
from data_modules.preprocess import Member

IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


class FileSource:
    """Image files as a group to be streamed. They must lie roughly over each other in space.

    The grid is that of the first image's foreground at the model's voxel size: the other images are not read before.

    Args:
        members: the files; label maps are not read.
        modalities: names that the network knows, in its order.
        spacing_mm: of the model's voxels; 0 for those of the first image.
        dims: D.
        stride: what sizes have to be divisible by.

    Raises:
        BingoError: an unknown modality; the first image is unusable, others when they are asked for.
    """

    def __init__(
        self, members: Sequence[Member], modalities: Sequence[str], spacing_mm: float, dims: int, stride: int
    ) -> None:
        for member in members:
            if member.modality not in modalities:
                raise unknown_name(f"modality of {member.image}", member.modality, modalities)
        self.members = tuple(members)
        self.modalities = tuple(modalities)
        self.dims = dims
        self.grid = group_grid([self._read(0)], [np.eye(4)], spacing_mm, dims, stride)

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, member: int) -> StreamedImage:
        scan = self._read(member)
        unit = scan.grid.to_sitk(scan.unit.numpy()[0])
        mask = scan.grid.to_sitk(scan.mask.numpy()[0])
        return StreamedImage(
            self._voxels(resample_image(unit, IDENTITY, self.grid)).float(),
            self.modalities.index(scan.modality),
            self._voxels(resample_labels(mask, IDENTITY, self.grid)) > 0,
        )

    def identity(self, member: int) -> str:
        files = [path for path in (self.members[member].image, self.members[member].mask) if path is not None]
        return ", ".join(f"{path} {_state(path)}" for path in files)

    def _read(self, member: int) -> Scan:
        one = self.members[member]
        scan = read_scan(one.image.name, one.modality, one.image, one.mask, None)
        check_dimensions([scan], self.dims)
        return scan

    def _voxels(self, image: sitk.Image) -> Tensor:
        """(1, *S)."""
        array = torch.from_numpy(sitk.GetArrayFromImage(image).T.copy())
        return array.reshape(1, *self.grid.shape[: self.dims])


def _state(path: Path) -> str:
    """Size and modification time; a file that is gone is refused when it is read."""
    if not path.exists():
        return "missing"
    status = path.stat()
    return f"{status.st_size} bytes, {status.st_mtime_ns}"
