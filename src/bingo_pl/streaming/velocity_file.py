"""The velocities of one level of a group in a file, larger than memory, and what tells that they are whole."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from bingo_pl.storage.atomic import replacing, to_disk
from bingo_pl.storage.resumable import damaged

BLOCK = 2**24
"""Bytes that are read at once for a digest."""


class VelocityFile:
    """A ``.npy`` file of float32, read and written an image at a time.

    It is not mapped into memory: a map's pages count as memory of the process, and one that is cut short or finds the
    disk full kills it.

    Args:
        path: where it is, or is made.
        shape: (N, D, *s), N images.

    Raises:
        BingoError: the file cannot be made, or has another size or shape.
    """

    def __init__(self, path: Path, shape: Sequence[int]) -> None:
        self.path = path
        self.shape = tuple(shape)
        self.image_bytes = 4 * math.prod(shape[1:])
        if not path.exists():
            self._allocate()
        with path.open("rb") as file:
            self.start = self._read_header(file)
        wanted, size = self.start + shape[0] * self.image_bytes, path.stat().st_size
        if size != wanted:
            raise damaged(path, f"it has {size} bytes instead of {wanted}")

    def read(self, images: slice) -> Tensor:
        """(K, D, *s)."""
        shape = (images.stop - images.start, *self.shape[1:])
        offset = self.start + images.start * self.image_bytes
        values = np.fromfile(self.path, "<f4", math.prod(shape), offset=offset)
        if values.size != math.prod(shape):
            raise damaged(self.path, "it was cut short while it was in use")
        return torch.from_numpy(values.reshape(shape))

    def write(self, images: slice, content: bytes) -> None:
        """The bytes of (K, D, *s) float32."""
        with self.path.open("r+b") as file:
            file.seek(self.start + images.start * self.image_bytes)
            file.write(content)

    def flush(self) -> None:
        """Returns once what was written survives a power failure."""
        to_disk(self.path)

    def digest(self, images: int) -> hashlib._Hash:
        """The SHA-256 of the first images, which can be updated by further ones."""
        digest, left = hashlib.sha256(), images * self.image_bytes
        with self.path.open("rb") as file:
            file.seek(self.start)
            while left and (block := file.read(min(BLOCK, left))):
                digest.update(block)
                left -= len(block)
        return digest

    def _allocate(self) -> None:
        """Zeros, written out, so that a full disk is noticed before the work."""
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": self.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for _ in range(self.shape[0]):
                file.write(bytes(self.image_bytes))

    def _read_header(self, file: BinaryIO) -> int:
        """Where the values begin."""
        try:
            np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0(file)
        except ValueError as error:
            raise damaged(self.path, str(error)) from error
        if header != (self.shape, False, np.dtype("<f4")):
            raise damaged(self.path, f"it holds {header[2]} of the shape {header[0]}, wanted float32 of {self.shape}")
        return file.tell()
