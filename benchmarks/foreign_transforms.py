"""Points moved by ANTs, nitransforms and greedy through the files of a registration. See README.md.

Runs in an environment of its own, without bingo_pl: ``python foreign_transforms.py JOB.json``. The job lists transform
files, points (RAS mm) and where these should go; printed is a line of JSON for each file and tool.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import ants
import nibabel as nib
import nitransforms
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from picsl_greedy import Greedy3D

LPS = np.array([-1.0, -1.0, 1.0])
GRID = 48
"""Voxels along each axis of the images that greedy resamples: it moves images, not points."""


def by_ants(file: Path, points: NDArray) -> NDArray:
    """``antsApplyTransformsToPoints``, in LPS mm."""
    table = pd.DataFrame(points * LPS, columns=["x", "y", "z"])
    moved = ants.apply_transforms_to_points(3, table, [str(file)], whichtoinvert=[False])
    return moved[["x", "y", "z"]].to_numpy() * LPS


def by_nitransforms(file: Path, points: NDArray) -> NDArray:
    """A field, or the chain of a composite, in RAS mm."""
    if file.suffix == ".h5":
        return nitransforms.manip.load(str(file), fmt="itk").map(points)
    return nitransforms.nonlinear.DenseFieldTransform.from_filename(str(file), fmt="itk").map(points)


def by_greedy(file: Path, points: NDArray) -> NDArray:
    """Images of the coordinates, resampled onto a grid around the points and read there; both interpolations are
    linear, and the coordinates are, so that what is read is where each voxel comes from."""
    low, high = points.min(0), points.max(0)
    affine = np.diag([*((high - low) / (GRID - 1)), 1.0])
    affine[:3, 3] = low
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder) / "reference.nii.gz"
        nib.save(nib.Nifti1Image(np.zeros((GRID,) * 3, np.float32), affine), reference)
        wide = affine.copy()
        wide[:3, :3] *= 3
        wide[:3, 3] = low - (high - low)
        places = np.moveaxis(np.indices((GRID,) * 3), 0, -1)
        moved = []
        for axis in range(3):
            source, target = Path(folder) / f"{axis}.nii.gz", Path(folder) / f"moved_{axis}.nii.gz"
            values = (places @ wide[:3, :3].T + wide[:3, 3])[..., axis]
            nib.save(nib.Nifti1Image(values.astype(np.float32), wide), source)
            Greedy3D().execute(f"-d 3 -rf {reference} -ri LINEAR -rm {source} {target} -r {file}")
            moved.append(nib.load(target).get_fdata())
    index = np.rint((points - low) / np.diag(affine)[:3]).astype(int)
    return np.stack(moved, -1)[tuple(index.T)]


TOOLS: dict[str, tuple[str, Callable[[Path, NDArray], NDArray], tuple[str, ...]]] = {
    "ANTs": ("antspyx", by_ants, (".h5", ".nii.gz")),
    "nitransforms": ("nitransforms", by_nitransforms, (".h5", ".nii.gz")),
    "greedy": ("picsl_greedy", by_greedy, (".nii.gz",)),
}
"""Package, reader, and the formats that the tool knows."""


def main(job: Path) -> None:
    """Compare and print."""
    for entry in json.loads(job.read_text()):
        file, points, wanted = Path(entry["file"]), np.array(entry["points"]), np.array(entry["moved"])
        for tool, (package, move, endings) in TOOLS.items():
            if not file.name.endswith(endings):
                continue
            row = {"kind": entry["kind"], "what": entry["what"], "tool": f"{tool} {version(package)}"}
            try:
                errors = np.linalg.norm(move(file, points) - wanted, axis=1)
                row |= {"mean_mm": float(errors.mean()), "max_mm": float(errors.max())}
            except Exception as error:  # what a tool cannot read is a row too
                row |= {"failure": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
            print("ROW", json.dumps(row), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
