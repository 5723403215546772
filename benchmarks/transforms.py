"""Every transform that ``bingo register`` writes, read by other programs and compared at points. See README.md."""

from __future__ import annotations

import json
import subprocess
import venv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import pandas as pd
import SimpleITK as sitk
import typer
from numpy.typing import NDArray
from rich.console import Console

from bingo_pl import cli, register
from bingo_pl.images.grids import LPS, Grid
from bingo_pl.images.transforms import flat
from bingo_pl.registration.registered import RegisteredGroup

KINDS = ("rigid", "affine", "deformable", "network")
POINTS = 8
"""Along each axis of a lattice over the foreground."""
HERE = Path(__file__).parent
console = Console()


def lattice(grid: Grid) -> NDArray[np.float64]:
    """(P, 3) RAS mm, over the middle half of a grid along the axes of space."""
    corners = grid.corners(grid.affine, edge=0)
    middle, half = (corners.max(0) + corners.min(0)) / 2, (corners.max(0) - corners.min(0)) / 4
    # as many steps as greedy's images have, a whole number of them apart
    axes = [middle[axis] + half[axis] * (2 * np.round(np.linspace(0, 47, POINTS)) / 47 - 1) for axis in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def moved(transform: sitk.Transform, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """RAS mm, by SimpleITK."""
    flips = np.diag(LPS)[:3]
    return np.array([transform.TransformPoint(point) for point in (points * flips).tolist()]) * flips


def jobs(group: RegisteredGroup, folder: Path, kind: str) -> list[dict[str, Any]]:
    """Each file that was written, points of the space that it starts from, and where the group in memory has them."""
    found = []

    def add(file: Path, what: str, transform: sitk.Transform, start: Grid) -> None:
        points = lattice(start)
        entry = {"kind": kind, "what": what, "file": str(file)}
        found.append({**entry, "points": points.tolist(), "moved": moved(transform, points).tolist()})

    for name, member in group.members.items():
        for way, field, start in (
            ("forward", member.forward, group.grid),
            ("inverse", member.inverse, member.scan.grid),
        ):
            for ending in (".h5", ".nii.gz"):
                add(folder / "transforms" / f"{name}_{way}{ending}", f"{way}{ending}", field.transform, start)
        for other, target in group.members.items():
            if other != name:
                through = flat([member.forward.transform, target.inverse.transform])
                add(folder / "pairwise" / other / "transforms" / f"{name}.h5", "pairwise.h5", through, target.scan.grid)
    return found


def by_simpleitk(job: dict[str, Any]) -> dict[str, Any]:
    """A file read back by SimpleITK."""
    file = job["file"]
    if file.endswith(".h5"):
        transform = sitk.ReadTransform(file)
    else:
        transform = sitk.DisplacementFieldTransform(sitk.ReadImage(file, sitk.sitkVectorFloat64))
    errors = np.linalg.norm(moved(transform, np.array(job["points"])) - job["moved"], axis=1)
    tool = f"SimpleITK {sitk.Version_VersionString()}"
    return {"kind": job["kind"], "what": job["what"], "tool": tool, "mean_mm": errors.mean(), "max_mm": errors.max()}


def by_others(found: list[dict[str, Any]], folder: Path, python: Path | None) -> list[dict[str, Any]]:
    """The files read by the other programs, in an environment that is made for them unless one is named."""
    if python is None:
        venv.create(folder / "environment", with_pip=True)
        python = folder / "environment" / "bin" / "python"
        requirements = HERE / "transforms_requirements.txt"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)
    (folder / "job.json").write_text(json.dumps(found))
    script = HERE / "foreign_transforms.py"
    done = subprocess.run([python, script, folder / "job.json"], check=True, stdout=subprocess.PIPE, text=True)
    return [json.loads(line[4:]) for line in done.stdout.splitlines() if line.startswith("ROW ")]


def compare(
    images: Annotated[list[str], typer.Argument(metavar="MODALITY=FILE...", help="Volumes of one person")],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV file to write")],
    python: Annotated[
        Path | None, typer.Option(help="Of an environment with transforms_requirements.txt; else one is made")
    ] = None,
) -> None:
    """Register with each kind of transform, write everything, and compare what each program makes of the files."""
    pairs = [(name, Path(path)) for name, _, path in (text.partition("=") for text in images)]
    with TemporaryDirectory() as folder:
        found = []
        for kind in KINDS:
            group = register(pairs, transform=kind)
            found += jobs(group, group.write(Path(folder) / kind, pairwise=True), kind)
        rows = pd.DataFrame([*map(by_simpleitk, found), *by_others(found, Path(folder), python)])
    rows.to_csv(output, index=False)
    shown = rows.groupby(["tool", "kind", "what"], sort=False).agg({"mean_mm": "mean", "max_mm": "max"})
    console.print(shown.to_string())
    if "failure" in rows:
        console.print(rows.groupby("tool").failure.value_counts().to_string())


if __name__ == "__main__":
    cli.run(lambda: typer.run(compare))
