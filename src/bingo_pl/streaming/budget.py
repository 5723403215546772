"""How a streamed registration spends the memory it is given."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from bingo_pl.errors import InputError
from bingo_pl.memory import UNITS, show_bytes
from bingo_pl.methods.bingo import Bingo

FLOAT = 4
"""Bytes."""
LARGEST_CHUNK = {"cpu": 32, "cuda": 256}
"""Images at a time; on a CPU more are no faster, they only leave the caches, a GPU is idle with few small ones."""
BESIDE_FEATURES = {2: (14, 7), 3: (10, 4)}
"""How often the finest features are in memory at the encoder's peak, beside those of every scale, by dimensions: where
a velocity reads them, and where none does, so that only the way down makes them. Measured, with what the heap
leaves unused between them, a third to a half."""
CHANNEL_BLOCK = 16
"""Channels that a convolution computes at a time; fewer take the memory of so many."""


@dataclass(frozen=True)
class Budget:
    """Images at a time, and of how many images the features are kept between sweeps."""

    chunk: int
    kept: int
    """The first ones; a multiple of the chunk, or all."""

    @classmethod
    def of(
        cls, bingo: Bingo, shape: Sequence[int], images: int, memory_bytes: int, velocities: bool, chunk: int | None
    ) -> Budget:
        """Half of what is left after the group's sums goes to the chunk, the rest to features.

        Args:
            bingo: the network.
            shape: *S.
            images: of this process.
            memory_bytes: the budget.
            velocities: whether they are in memory too.
            chunk: images at a time; None takes what fits, at most the device's `LARGEST_CHUNK`.

        Raises:
            BingoError: not one image fits.
        """
        fixed = sum_bytes(bingo, shape) + velocities * images * velocity_bytes(bingo, shape)
        free = memory_bytes - fixed
        working = working_bytes(bingo, shape)
        if chunk is None:
            largest = LARGEST_CHUNK.get(next(bingo.parameters()).device.type, LARGEST_CHUNK["cpu"])
            chunk = min(max(int(free / 2 // working), 1), largest, images)
        if free < chunk * working:
            where = "" if not velocities else ", or name a folder for the velocities"
            raise InputError(
                f"a memory of {show_bytes(memory_bytes)} is too little: {show_bytes(fixed)} for what the group has in "
                f"common and {show_bytes(chunk * working)} for {chunk} images at a time are needed",
                f"Give more{where}",
            )
        kept = int((free - chunk * working) // feature_bytes(bingo, shape))
        return cls(chunk, images if kept >= images else kept // chunk * chunk)


def parse_bytes(text: str) -> int:
    """``4GB``, ``500 MB``, ``1.5G`` or plain bytes; the units are powers of ten.

    Raises:
        BingoError: it is no size, or not positive.
    """
    match = re.fullmatch(r"\s*(\d+\.?\d*)\s*([KMGT]?)B?\s*", text, re.IGNORECASE)
    size = round(float(match[1]) * UNITS[match[2].upper()]) if match else 0
    if size <= 0:
        raise InputError(f"'{text}' is no size of memory", "Give a number and a unit, e.g. 500MB or 4GB")
    return size


def level_shape(shape: Sequence[int], scale: int) -> tuple[int, ...]:
    """*s of a scale."""
    return tuple(size // 2**scale for size in shape)


def velocity_bytes(bingo: Bingo, shape: Sequence[int]) -> int:
    """Velocities of an image."""
    return FLOAT * bingo.dims * sum(math.prod(level_shape(shape, scale)) for scale in bingo.velocity_scales)


def feature_bytes(bingo: Bingo, shape: Sequence[int]) -> int:
    """Features of an image that can be kept between sweeps."""
    return sum(_scale_bytes(bingo, shape, scale) for scale in set(bingo.velocity_scales))


def sum_bytes(bingo: Bingo, shape: Sequence[int]) -> int:
    """What the group has in common, whatever its size: sums in double precision, those of a chunk beside them."""
    largest = max(_scale_bytes(bingo, shape, scale) for scale in bingo.velocity_scales)
    results = sum(_scale_bytes(bingo, shape, scale) // 2 for scale in bingo.velocity_scales)
    return 6 * largest + results + velocity_bytes(bingo, shape)


def working_bytes(bingo: Bingo, shape: Sequence[int]) -> int:
    """Peak while an image is in work: the encoder's finest convolutions, or a displacement's composition."""
    encoding = sum(_scale_bytes(bingo, shape, scale) for scale in range(len(bingo.channels)))
    beside = BESIDE_FEATURES[bingo.dims][min(bingo.velocity_scales[-1], 1)]
    encoding += FLOAT * beside * max(bingo.channels[0], CHANNEL_BLOCK) * math.prod(shape)
    moving = FLOAT * bingo.dims * math.prod(shape) * (len(bingo.velocity_scales) + 6)
    return max(encoding, moving)


def _scale_bytes(bingo: Bingo, shape: Sequence[int], scale: int) -> int:
    return FLOAT * bingo.channels[scale] * math.prod(level_shape(shape, scale))
