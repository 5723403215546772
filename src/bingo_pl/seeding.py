"""Randomness without state: a generator is a function of what it is for.

A draw depends on the seed, a purpose and a position (a step, a group's name) and on nothing that
happened before, so that a resumed run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def generator(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator seeded by a key, e.g. ``generator(config.seed, "misalign", step)``."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest) >> 1)


def numpy_generator(*key: int | float | str) -> np.random.Generator:
    """The same for NumPy."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest))
