"""The beginning of a file, as far as somebody knows that it is needed: no more is unpacked than that."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import IO

GZIP = 31
"""zlib's code for gzip with its header and checksum."""
LARGEST_GZIP_RATIO = 1032
"""Nothing is compressed further by gzip."""


def plain_reader(file: IO[bytes]) -> Callable[[int], bytes]:
    """Reads the first bytes of a file, at most as many as asked for."""

    def first(size: int) -> bytes:
        file.seek(0)
        return file.read(size)

    return first


def gzip_reader(file: IO[bytes]) -> Callable[[int], bytes]:
    """The same of the content of a gzip file, of one member or more; no more than that is unpacked."""
    packed = file.read()

    def first(size: int) -> bytes:
        parts, left = [], packed
        while left and size > 0:
            member = zlib.decompressobj(wbits=GZIP)
            parts.append(member.decompress(left, size))
            size -= len(parts[-1])
            if size > 0 and not member.eof:
                raise EOFError("compressed data ends early")
            left = member.unused_data.lstrip(b"\0")  # gzip allows padding
        return b"".join(parts)

    return first
