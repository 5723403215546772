"""Files of `torch.save` that carry a digest of themselves, so that a flipped bit is an error and never another number.

PyTorch writes ZIP archives and checks none of their checksums. The comment that may end an archive holds the SHA-256 of
all bytes before it, so any program that reads files of `torch.save` reads these too. A file without it, from an earlier
version, is checked by its archive's own CRC-32s.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zipfile
from collections.abc import Mapping
from os import SEEK_END
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from bingo_pl.errors import some

SEAL = b"bingo_pl sha256 "
LENGTH = len(SEAL) + 64
"""Bytes of the comment: `SEAL` and a hexadecimal digest."""
BLOCK = 1 << 20
LISTED = 3
"""How many tensors an error names."""


class DamagedFileError(ValueError):
    """A file that does not hold what was written, or never was one of `torch.save`; the text says why."""


def write(content: object, file: IO[bytes]) -> None:
    """Write tensors and plain values, and their digest, to an empty file that is open for reading and writing.

    Raises:
        OSError: the disk takes no more.
    """
    try:
        torch.save(content, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # which PyTorch hides behind an error of its own
            raise error.__context__ from error
        raise
    file.seek(-2, SEEK_END)  # the length of the comment, the last field of an archive
    file.write(struct.pack("<H", LENGTH))
    end = file.seek(0, SEEK_END)
    digest = _sha256(file, end)
    file.seek(end)
    file.write(SEAL + digest)


def load(path: Path, *, unsealed: bool = True) -> Any:
    """What `write` or `torch.save` wrote, on the CPU. Only tensors and plain values are unpickled.

    Args:
        unsealed: whether a file without a digest is taken, as `torch.save` writes it.

    Raises:
        DamagedFileError: the file cannot be read, or is not as it was written.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, SEEK_END)
            file.seek(max(size - LENGTH, 0))
            seal = file.read()
            if seal.startswith(SEAL) and seal != SEAL + _sha256(file, size - LENGTH):
                raise DamagedFileError("its bytes do not have the SHA-256 that was written with them")
            if not seal.startswith(SEAL) and not unsealed:
                raise DamagedFileError("its SHA-256 is missing at its end")
            if not seal.startswith(SEAL) and (bad := zipfile.ZipFile(file).testzip()):
                raise DamagedFileError(f"{bad} in it does not have the CRC-32 that was written with it")
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except DamagedFileError:
        raise
    except Exception as error:  # unpickling raises whatever the bytes provoke
        raise DamagedFileError(_reason(error)) from error


def nonfinite(tensors: Mapping[str, object]) -> str:
    """The names of the tensors that hold NaN or an infinity, as a list for people; empty where all are finite."""
    found = {name: x.detach() for name, x in tensors.items() if isinstance(x, Tensor)}
    if math.isfinite(sum(float(x.sum()) for x in found.values())):
        return ""  # quickly; a sum of finite numbers may be infinite too
    bad = [name for name, x in found.items() if not x.isfinite().all()]
    return some(bad, LISTED)


def _sha256(file: IO[bytes], length: int) -> bytes:
    """Of the first bytes of a file, hexadecimal."""
    file.seek(0)
    digest = hashlib.sha256()
    while length and (block := file.read(min(BLOCK, length))):
        digest.update(block)
        length -= len(block)
    return digest.hexdigest().encode()


def _reason(error: Exception) -> str:
    """The first line of an error: PyTorch's continue for a page about how to unpickle what must not be."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}" if lines[0] else type(error).__name__
