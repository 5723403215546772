"""How much memory this machine has, asked before much of it is taken."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
CONTAINER_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where Linux states the memory of a container, by the version of its control groups."""


def total_bytes() -> float:
    """The memory of this machine or of the container on it; infinite where the system does not say."""
    try:
        total = float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # not a POSIX system
        total = float("inf")
    limits = [Path(path).read_text().strip() for path in CONTAINER_LIMITS if os.access(path, os.R_OK)]
    return min([total, *[float(limit) for limit in limits if limit.isdecimal()]])  # or "max"


def peak_bytes() -> float:
    """The most memory that this process has had so far; NaN where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(peak if sys.platform == "darwin" else 1024 * peak)


def shortage(needed: float) -> str:
    """What to say where so many bytes are more than there are, else nothing."""
    total = total_bytes()
    return "" if needed <= total else f"{show_bytes(needed)} of memory, but this machine has {show_bytes(total)}"


def show_bytes(size: float) -> str:
    """For a person, e.g. ``1.5 GB``."""
    unit = max((name for name, factor in UNITS.items() if factor <= max(size, 1)), key=lambda name: UNITS[name])
    return f"{size / UNITS[unit]:.3g} {unit}B"
