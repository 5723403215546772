"""How far off a registration from files is, in millimetres: real contrasts, each deformed by a known map.

``python benchmarks/from_files.py OpenMS_019 --checkpoint runs/brats_cpu/checkpoints/best.ckpt``. The
contrasts of one head, which lie over each other, are deformed, resampled to voxels of different sizes and orientations,
written and registered by `bingo_pl.register`. What is left is measured by the transforms alone, in space.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import numpy as np
import pandas as pd
import SimpleITK as sitk
import typer
from numpy.typing import NDArray
from rich.console import Console

from bingo_pl import cli, register
from bingo_pl.config import DataConfig
from bingo_pl.images.fields import forward_and_inverse
from bingo_pl.images.grids import Grid
from bingo_pl.images.reading import read_voxels
from bingo_pl.images.transforms import write_image
from bingo_pl.misalign import draw_displacements
from bingo_pl.seeding import generator

CONTRASTS = ("t1", "t1ce", "t2", "flair")
DEFORMATION_MM = 4.0
"""Voxels of the grid on which deformations are drawn: those of the experiment `brats_cpu`."""
FILES = (((1.0, 1.0, 1.0), "LPS"), ((1.2, 1.2, 3.0), "RAS"), ((1.0, 2.0, 1.0), "PIR"), ((1.5, 1.5, 1.5), "LIP"))
"""Voxel sizes in mm and orientation of each contrast's file; the grids are turned about z by `DEGREES` more."""
DEGREES = (0.0, 4.0, -6.0, 10.0)
POINTS = 5_000
console = Console()


def main(
    case: Annotated[Path, typer.Argument(metavar="CASE", help="A folder <case>/<case>_{t1,t1ce,t2,flair}.nii.gz")],
    checkpoint: Annotated[Path | None, typer.Option(help="A trained model; without it the ready one")] = None,
    transform: Annotated[str, typer.Option(help="Last stage: auto, rigid, affine, deformable, network")] = "auto",
    refine: Annotated[int | None, typer.Option(help="Steps of optimisation after --transform network")] = None,
    groups: Annotated[int, typer.Option(help="Deformations of the case, each registered")] = 3,
    output: Annotated[Path | None, typer.Option(help="CSV for a row a group")] = None,
) -> None:
    """Print gWI in mm before and after registration, for each deformation and in the mean."""
    rows = []
    for number in range(groups):
        with TemporaryDirectory() as folder:
            images, truth, points = deform(case, Path(folder), number)
            start = time.process_time()
            group = register(images, checkpoint, transform=transform, refine=refine)
            seconds = time.process_time() - start
            after = warping_index(points, [group[name].forward.transform for name in CONTRASTS], truth)
            before = warping_index(points, [sitk.Transform(3, sitk.sitkIdentity)] * len(CONTRASTS), truth)
            folding = max(member.folding_percent for member in group.members.values())
        predicted = [np.nan if m.error_mm is None else m.error_mm for m in group.members.values()]
        rows.append(
            {
                "group": number,
                "before_mm": before,
                "after_mm": after,
                "predicted_mm": float(np.mean(predicted)),
                "folding_percent": folding,
                "cpu_seconds": seconds,
            }
        )
        console.print(rows[-1])
    table = pd.DataFrame(rows)
    means = table.mean()
    console.print(
        f"gWI {means['before_mm']:.3f} -> {means['after_mm']:.3f} mm, "
        f"predicted {means['predicted_mm']:.3f} mm, ratio {means['after_mm'] / means['before_mm']:.3f}, "
        f"{means['cpu_seconds']:.0f} CPU seconds a group, folding at most {table['folding_percent'].max():.3f} %"
    )
    if output:
        table.to_csv(output, index=False)


def deform(case: Path, folder: Path, number: int) -> tuple[dict[str, Path], list[sitk.Transform], NDArray]:
    """Write the deformed contrasts.

    Returns:
        Files by contrast; for each the known map, LPS mm, from points of the file to the head; and points (P, 3) of the
        head's inside, LPS mm.
    """
    draw = generator("deformation", case.name, number)
    images: dict[str, Path] = {}
    truth: list[sitk.Transform] = []
    points = np.empty((0, 3))
    for contrast, (spacing_mm, orientation), degrees in zip(CONTRASTS, FILES, DEGREES, strict=True):
        data, affine = read_voxels(case / f"{case.name}_{contrast}.nii.gz")
        head = Grid(data.shape, affine)
        coarse = head.part(np.zeros(3), DEFORMATION_MM / head.spacing, _shape(head, DEFORMATION_MM))
        if not truth:
            displacements = draw_displacements(
                len(CONTRASTS), coarse.shape, DataConfig().ffd_spacings, DataConfig().ffd_strength, draw
            )
            points = _inside(data, head, number)
        u = displacements[len(truth)]
        known, _ = forward_and_inverse(u, -u, coarse, head)
        image = head.to_sitk(data.astype(np.float32))
        target = _file_grid(image, spacing_mm, orientation, degrees)
        deformed = sitk.Resample(image, target, known.transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32)
        images[contrast] = folder / f"{contrast}.nii.gz"
        write_image(sitk.GetArrayFromImage(deformed).T, Grid.of(deformed), images[contrast])
        truth.append(known.transform)
    return images, truth, points


def warping_index(points: NDArray, forward: list[sitk.Transform], truth: list[sitk.Transform]) -> float:
    """gWI in mm: RMS length of what is left at points (P, 3), up to a map common to the group; mean over images."""
    where = [_moved(known, _moved(transform, points)) for transform, known in zip(forward, truth, strict=True)]
    left = np.stack(where) - np.mean(where, axis=0)
    return float(np.sqrt((left**2).sum(2).mean(1)).mean())


def _moved(transform: sitk.Transform, points: NDArray) -> NDArray:
    return np.array([transform.TransformPoint(point) for point in points.tolist()])


def _inside(data: NDArray, head: Grid, number: int) -> NDArray:
    """Random points (P, 3) of the skull-stripped head, LPS mm."""
    voxels = np.argwhere(data > 0)
    chosen = voxels[np.random.default_rng(number).choice(len(voxels), POINTS, replace=False)]
    ras = chosen @ head.affine[:3, :3].T + head.affine[:3, 3]
    return ras * (-1, -1, 1)


def _shape(head: Grid, spacing_mm: float) -> tuple[int, int, int]:
    x, y, z = (int(np.ceil(size * step / spacing_mm)) for size, step in zip(head.shape, head.spacing, strict=True))
    return x, y, z


def _file_grid(image: sitk.Image, spacing_mm: tuple[float, float, float], code: str, degrees: float) -> sitk.Image:
    """An empty image that covers the head with other voxels, turned about its centre."""
    oriented = sitk.DICOMOrient(image, code)
    sizes = np.ceil(np.multiply(oriented.GetSize(), oriented.GetSpacing()) / spacing_mm).astype(int).tolist()
    turn = sitk.Euler3DTransform()
    turn.SetRotation(0.0, 0.0, np.deg2rad(degrees))
    rotation = np.reshape(turn.GetMatrix(), (3, 3))
    direction = rotation @ np.reshape(oriented.GetDirection(), (3, 3))
    centre = oriented.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in oriented.GetSize()])
    grid = sitk.Image(sizes, sitk.sitkFloat32)
    grid.SetSpacing(spacing_mm)
    grid.SetDirection(direction.ravel().tolist())
    half = direction @ (np.array(spacing_mm) * (np.array(sizes) - 1) / 2)
    grid.SetOrigin((np.array(centre) - half).tolist())
    return grid


if __name__ == "__main__":
    cli.run(lambda: typer.run(main))
