"""Units of length in image headers. All lengths inside the program are millimetres.

NIfTI states one unit as a code (`xyzt_units`), which SimpleITK, ANTs and TorchIO obey and nibabel's affine does not.
NRRD (`space units`) and MetaImage (`DistanceUnits`) state them as names, which ITK and all that is built on it ignore
(measured with SimpleITK 2.5.7).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

CODES_MM = {1: 1e3, 3: 1e-3}
"""NIfTI's meter and micron. 2 is mm; 0, unknown, and codes without a meaning are taken for it, as by ITK."""
SPACE_BITS = 7
"""Of `xyzt_units`; the others hold the unit of time."""
NAMES_MM = {
    "nm": 1e-6,
    "nanometer": 1e-6,
    "um": 1e-3,
    "micron": 1e-3,
    "micrometer": 1e-3,
    "mm": 1.0,
    "millimeter": 1.0,
    "cm": 10.0,
    "centimeter": 10.0,
    "m": 1e3,
    "meter": 1e3,
}
UNSTATED = ("", "?", "???", "unknown", "none")
"""How headers say that they do not know their unit."""


def nifti_unit_mm(header: nib.Nifti1Header) -> float:
    """The unit of the lengths in a NIfTI header."""
    return CODES_MM.get(int(header["xyzt_units"]) & SPACE_BITS, 1.0)


def named_unit_mm(name: str) -> float | None:
    """The unit of a name, in English of either spelling or as a symbol; None for an unknown one."""
    plain = name.strip().lower().replace("µ", "u").replace("μ", "u").replace("metre", "meter")
    if plain in UNSTATED:
        return 1.0
    return NAMES_MM.get(plain) or NAMES_MM.get(plain.removesuffix("s"))


def in_mm(affine: NDArray, units_mm: Sequence[float]) -> NDArray[np.float64]:
    """An affine (4, 4) in millimetres.

    Args:
        affine: index to space, in the units.
        units_mm: of the axes of space, at most three; those that are left out are in mm.
    """
    return np.array([*units_mm, *[1.0] * (4 - len(units_mm))])[:, None] * affine


def nrrd_units(path: Path) -> list[str]:
    """The names of the units of an NRRD file's space, or of its array axes where it states no space; may be empty."""
    with path.open("rb") as file:
        lines = [line.decode("utf-8", "replace") for line in itertools.takewhile(bytes.strip, file)]
    fields = {key.strip().lower(): value for key, _, value in (line.partition(":") for line in lines)}
    stated = fields.get("space units" if "space directions" in fields else "units", "")
    return re.findall(r'"([^"]*)"', stated)
