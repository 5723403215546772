"""A registered group in memory, and as the folder that ``bingo register`` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor

from bingo_pl import __version__
from bingo_pl.atomic import replacing_folder
from bingo_pl.files.affine import Stage
from bingo_pl.files.grids import Grid
from bingo_pl.files.record import RECORD
from bingo_pl.files.scans import File, Scan
from bingo_pl.files.transforms import FieldTransform, write_image, write_transform
from bingo_pl.report.page import write_report

ORIGINALS = "originals"
"""Images that were no files are written here, so that the report and the transforms have something to refer to."""


@dataclass(frozen=True, eq=False)
class Registered:
    """One image of the group; arrays are (X, Y, Z) on the group grid."""

    scan: Scan
    stage: Stage
    """Affine, before the network."""
    forward: FieldTransform
    """Group to image, LPS mm: SimpleITK's ``forward.transform`` resamples the image onto the group grid."""
    inverse: FieldTransform
    """Image to group."""
    displacement: Tensor
    """(D, *S) in voxels of the group grid, without the affine stage."""
    determinant: NDArray[np.float32]
    """Of the Jacobian of the forward transform: 1 keeps the volume, below 0 folds."""
    image: NDArray[np.float32]
    """Registered; intensities as given."""
    label: NDArray | None
    """Registered, ids and dtype as given; None without a label map."""
    reconstruction: NDArray[np.float32] | None
    """The decoder's image of the common anatomy in this image's contrast; None for methods without a decoder."""
    uncertainty_mm: NDArray[np.float32] | None
    """Root of the summed variance of the displacement; None for methods without a velocity posterior."""
    disagreement: float | None
    """Larger fits the group less; None for methods without experts."""
    belongs: bool | None

    @property
    def folding_percent(self) -> float:
        """Voxels whose determinant is not positive."""
        return float(100 * (self.determinant <= 0).mean())


@dataclass(frozen=True, eq=False)
class RegisteredGroup:
    """The result of `bingo_pl.register`."""

    members: Mapping[str, Registered]
    """By name, in order: the modality, numbered where there are several images of one."""
    grid: Grid
    """The group grid."""
    template: NDArray[np.float32]
    """(X, Y, Z) mean of the registered images, each from 0 to 1."""
    model: File
    settings: Mapping[str, Any]

    def __getitem__(self, name: str) -> Registered:
        return self.members[name]

    def write(self, folder: Path | str, jacobian: bool = False, console: Console | None = None) -> Path:
        """Write everything, all or nothing, then ``report.html``.

        Args:
            folder: must not exist, or be empty.
            jacobian: write the Jacobian determinants too.
            console: where progress is shown.

        Raises:
            BingoError: the folder is in use or cannot be written.
        """
        folder = Path(folder).absolute()
        console = console or Console(quiet=True)
        with replacing_folder(folder) as temporary:
            write_image(self.template, self.grid, temporary / "template" / "mean.nii.gz")
            members = track(
                self.members.values(), "writing", console=console, transient=True, disable=not console.is_terminal
            )
            images = [self._write_member(member, temporary, folder, jacobian) for member in members]
            record = {
                "bingo_pl": __version__,
                "checkpoint": {"path": str(self.model.path), "sha256": self.model.sha256},
                "settings": self.settings,
                "group": {"shape": self.grid.shape, "affine_ras_mm": self.grid.affine.tolist()},
                "images": images,
            }
            (temporary / RECORD).write_text(json.dumps(record, indent=2), encoding="utf-8")
        write_report(folder)
        return folder

    def _write_member(self, member: Registered, folder: Path, final: Path, jacobian: bool) -> dict[str, Any]:
        """Write the files of an image into ``folder``, which is to become ``final``; its entry in the record."""
        scan = member.scan
        volumes = {
            "registered": member.image,
            "template": member.reconstruction,
            "uncertainty": member.uncertainty_mm,
            "labels": member.label,
            "jacobian": member.determinant if jacobian else None,
        }
        for kind, volume in volumes.items():
            if volume is not None:
                write_image(volume, self.grid, folder / kind / f"{scan.name}.nii.gz")
        write_transform(member.forward, folder / "transforms" / f"{scan.name}_forward")
        write_transform(member.inverse, folder / "transforms" / f"{scan.name}_inverse")
        image = _original(scan, "", scan.file, scan.image.numpy()[0], folder, final)
        mask = _original(scan, "_mask", scan.mask_file, scan.mask.numpy()[0], folder, final) if scan.masked else None
        label = None if scan.label is None else _original(scan, "_label", scan.label_file, scan.label, folder, final)
        return {
            "name": scan.name,
            "modality": scan.modality,
            "path": str(image.path),
            "sha256": image.sha256,
            "mask": None if mask is None else str(mask.path),
            "label": None if label is None else str(label.path),
            "shape": scan.image.spatial_shape,
            "affine_ras_mm": scan.image.affine.tolist(),
            "stage_affine_ras_mm": member.stage.affine.tolist(),
            "folding_percent": member.folding_percent,
            "disagreement": member.disagreement,
            "belongs": member.belongs,
        }


def _original(scan: Scan, suffix: str, file: File | None, voxels: NDArray, folder: Path, final: Path) -> File:
    """The file of an image, its mask or its label map; written into ``folder``, to become ``final``, if it has none."""
    if file is not None:
        return file
    path = Path(ORIGINALS) / f"{scan.name}{suffix}.nii.gz"
    write_image(voxels, scan.grid, folder / path)
    return File(final / path, File.of(folder / path).sha256)
