"""A registered group in memory, and as the folder that ``bingo register`` writes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor

from bingo_pl import __version__
from bingo_pl.images.affine import Stage
from bingo_pl.images.fields import forward_and_inverse
from bingo_pl.images.grids import Grid
from bingo_pl.images.record import RECORD
from bingo_pl.images.resampling import resample_image, resample_labels, resample_voxels, to_array
from bingo_pl.images.scans import File, Scan
from bingo_pl.images.series import Series
from bingo_pl.images.transforms import FieldTransform, affine_transform, flat, write_image, write_itk, write_transform
from bingo_pl.images.written import FILES, check_output, digests_of
from bingo_pl.messages import doing
from bingo_pl.registration.console import track
from bingo_pl.registration.verdict import Verdict, Way
from bingo_pl.spatial import jacobian_determinant
from bingo_pl.storage.atomic import replacing
from bingo_pl.storage.folders import replacing_folder

ORIGINALS = "originals"
"""Images that were no files are written here, so that the report and the transforms have something to refer to."""
LINEAR_STEP = 16
"""Voxels between the samples of a linear map."""
LINEAR_MARGIN = 5
"""Samples of it around the image: programs that interpolate by splines mirror a field at its end, and err there."""
UNFINISHED = "unfinished"
"""The folder in the output folder of a streamed group, while there is something to do."""
SHOWN = 8
"""Images of a group that it prints."""
MEAN = Path("template") / "mean.nii.gz"
PAIRWISE = "pairwise"
"""Each folder in it is the space of one image."""


@dataclass(frozen=True, eq=False)
class Registered:
    """One image of the group; arrays are (X, Y, Z) on the group grid."""

    scan: Scan
    digests: Mapping[Path, str]
    """Of the files that the scan was read from, see `Scan.digests`."""
    stage: Stage
    """Affine, before the network."""
    forward: FieldTransform
    """Group to image, LPS mm: SimpleITK's ``forward.transform`` resamples the image onto the group grid."""
    inverse: FieldTransform
    """Image to group."""
    grid: Grid
    """Of the group."""
    field: Grid
    """Where the displacement is: the group grid, or a coarser one."""
    displacement: Tensor
    """(D, *S) in voxels of `field`, without the affine stage."""
    determinant: NDArray[np.float32]
    """(X, Y, Z) on `field`, of the Jacobian of the forward transform: 1 keeps the volume, below 0 folds."""
    interpolation: str = "linear"
    """Of its intensities, one of `INTERPOLATIONS`."""
    continued: bool = False
    """Beyond its field of view come the intensities of its border, not its least one: those of a series stay alike."""
    reconstruction: NDArray[np.float32] | None = None
    """The decoder's image of the common anatomy in this image's contrast; None for methods without a decoder."""
    uncertainty_mm: NDArray[np.float32] | None = None
    """Root of the summed variance of the displacement, NaN where it is unknown; None for methods without a velocity
    posterior, or one that nothing taught, see `displacement_uncertainty`."""
    disagreement: float | None = None
    """Larger fits the group less; None for methods without experts."""
    belongs: bool | None = None
    misnaming: float | None = None
    """How much less it looks like its modality than like the likeliest other one, see `evaluation.appearance`; None
    where that is unknown."""
    looks_like: str | None = None
    """The modality it looks like, where that is clearly not the one it was given as."""
    error_mm: float | None = None
    """Predicted, see `bingo_pl.alignment.error`; None where the network alone registered, and of an image
    that stayed where it was because it does not show what the others show."""
    agreement: float | None = None
    """Of its experts with the others', at most 1; None where the network alone registered."""

    def __repr__(self) -> str:
        error = "" if self.error_mm is None else f", predicted error {self.error_mm:.2g} mm"
        doubt = ", does not fit the others" if self.belongs is False else ""
        doubt += "" if self.looks_like is None else f", looks like {self.looks_like}"
        return f"{self.scan.name} ({self.scan.title}): folding {self.folding_percent:.2g} %{error}{doubt}"

    @classmethod
    def linear(cls, scan: Scan, digests: Mapping[Path, str], stage: Stage, grid: Grid) -> Registered:
        """An image moved by its affine stage alone."""
        coarse = _coarse(grid)
        forward = FieldTransform(affine_transform(stage.affine), coarse)
        backward = FieldTransform(affine_transform(np.linalg.inv(stage.affine)), _coarse(scan.grid))
        return cls._moved(scan, digests, stage, forward, backward, torch.zeros(3, *coarse.shape), coarse, grid)

    @classmethod
    def of(
        cls,
        scan: Scan,
        digests: Mapping[Path, str],
        stage: Stage,
        displacement: Tensor,
        inverse: Tensor,
        field: Grid,
        grid: Grid | None = None,
    ) -> Registered:
        """An image moved by its affine stage and its displacement.

        Args:
            scan: the image.
            digests: of its files.
            stage: affine, from the group to the image.
            displacement: (D, *S) before the affine stage, in voxels of ``field``, on the CPU.
            inverse: (D, *S) of the displacement.
            field: where the displacement is.
            grid: of the group; None: that of the displacement.
        """
        transforms = forward_and_inverse(displacement, inverse, field, scan.grid, stage.affine if stage.moves else None)
        return cls._moved(scan, digests, stage, *transforms, displacement, field, field if grid is None else grid)

    @classmethod
    def _moved(
        cls,
        scan: Scan,
        digests: Mapping[Path, str],
        stage: Stage,
        forward: FieldTransform,
        backward: FieldTransform,
        displacement: Tensor,
        field: Grid,
        grid: Grid,
    ) -> Registered:
        determinant = np.linalg.det(stage.affine) * jacobian_determinant(displacement[None])[0].double()
        return cls(
            scan=scan,
            digests=digests,
            stage=stage,
            forward=forward,
            inverse=backward,
            grid=grid,
            field=field,
            displacement=displacement,
            determinant=on_grid(determinant, field),
        )

    @property
    def image(self) -> NDArray[np.float32]:
        """(X, Y, Z) registered, intensities as given; resampled when asked for, so that a group takes no memory."""
        return self.resampled(self.scan.image.numpy()[0], self.forward.transform, self.grid)

    @property
    def label(self) -> NDArray | None:
        """(X, Y, Z) registered, ids and dtype as given, resampled when asked for; None without a label map."""
        if self.scan.label is None:
            return None
        return to_array(resample_labels(self.scan.grid.to_sitk(self.scan.label), self.forward.transform, self.grid))

    @property
    def folding_percent(self) -> float:
        """Voxels whose determinant is not positive; NaN is not."""
        return float(100 * (~(self.determinant > 0)).mean())

    def jacobian(self) -> NDArray[np.float32]:
        """(X, Y, Z) the determinant on the group grid."""
        if self.field is self.grid:
            return self.determinant
        volume = self.field.to_sitk(self.determinant)
        far = float(np.linalg.det(self.stage.affine))
        return to_array(resample_image(volume, sitk.Transform(3, sitk.sitkIdentity), self.grid, outside=far))

    def unit(self) -> NDArray[np.float32]:
        """(X, Y, Z) registered, intensities from 0 to 1: its part of the template."""
        return self.resampled(self.scan.unit.numpy()[0], self.forward.transform, self.grid)

    def resampled(self, voxels: NDArray, transform: sitk.Transform, grid: Grid) -> NDArray[np.float32]:
        """(X, Y, Z) the image's own voxels on a grid, by a transform of its points to those of the image."""
        return resample_voxels(voxels, self.scan.grid, transform, grid, self.interpolation, self.continued)


@dataclass(frozen=True, eq=False)
class RegisteredGroup:
    """The result of `bingo_pl.register`."""

    members: Mapping[str, Registered]
    """By name, in order: the modality, numbered where there are several images of one."""
    grid: Grid
    """The group grid."""
    model: File
    settings: Mapping[str, Any]
    way: Way | None = None
    """What was done and what was kept; None where the network alone registered."""
    verdict: Verdict | None = None
    """What the figures say of the result; None where the network alone registered."""
    series: Series | None = None
    """The 4D image whose volumes these are, if they are; written as one again."""

    def __repr__(self) -> str:
        """At most ten lines."""
        verdict = "" if self.verdict is None else f"; {self.verdict.level.upper()}"
        kept = "network" if self.way is None else self.way.kept
        lines = [f"{len(self.members)} images registered ({kept}) on {self.grid}{verdict}"]
        lines += [f"- {member!r}" for member in [*self.members.values()][:SHOWN]]
        more = len(self.members) - SHOWN
        return "\n".join([*lines, f"- and {more} more"] if more > 0 else lines)

    def __getitem__(self, name: str) -> Registered:
        return self.members[name]

    def interpolated(self, interpolation: str) -> RegisteredGroup:
        """The same group, its images interpolated otherwise, see `INTERPOLATIONS`; those of a series are continued."""
        how: dict[str, Any] = {"interpolation": interpolation, "continued": self.series is not None}
        return replace(self, members={name: replace(member, **how) for name, member in self.members.items()})

    @cached_property
    def template(self) -> NDArray[np.float32]:
        """(X, Y, Z) mean of the registered images, each from 0 to 1."""
        template = np.zeros(self.grid.shape, np.float32)
        for member in self.members.values():
            template += member.unit() / np.float32(len(self.members))
        return template

    def write(
        self,
        folder: Path | str,
        jacobian: bool = False,
        console: Console | None = None,
        *,
        pairwise: bool = False,
        overwrite: bool = False,
    ) -> Path:
        """Write everything, an image at a time, all or nothing, then ``report.html``.

        Args:
            folder: must not exist, or be empty.
            jacobian: write the Jacobian determinants too.
            console: where progress is shown.
            pairwise: write each image on the grid of each other one too, see `write_pairs`.
            overwrite: the folder may also hold a registration, which is replaced if all of it was written here and has
                not changed since.

        Raises:
            BingoError: the folder is in use or cannot be written.
        """
        from bingo_pl.report.page import write_report  # Matplotlib, which registering does not need

        folder, console = Path(folder).absolute(), console or Console(quiet=True)
        inputs = [path for member in self.members.values() for path in member.digests]
        inputs += [] if self.series is None or self.series.source is None else [self.series.source.path]
        check_output(folder, overwrite, RECORD, inputs)
        with replacing_folder(folder, overwrite) as temporary:
            write_image(self.template, self.grid, temporary / MEAN)
            members = track([*self.members.values()], "writing", console)
            entries = [write_member(member, self.grid, temporary, folder, jacobian) for member in members]
            if self.series is not None:
                self.series.write(temporary, self.grid)
            if pairwise:
                for target in self.members.values():
                    write_pairs(target, [*self.members.values()], temporary / PAIRWISE / target.scan.name)
            write_record(temporary, self.model, self.settings, self.grid, entries, self.way, self.verdict, self.series)
        with doing("making the report", console):
            write_report(folder, [member.scan for member in self.members.values()])
        return folder


def write_pairs(target: Registered, members: Sequence[Registered], folder: Path) -> None:
    """Write the other images, label maps and transforms as those of the group are, on an image's own grid.

    ``registered/NAME.nii.gz`` and ``labels/NAME.nii.gz``; ``transforms/NAME.h5`` takes points of the target to those of
    NAME, in LPS mm, which resamples NAME onto the target.

    Raises:
        BingoError: a file cannot be written.
    """
    grid = target.scan.grid
    for member in members:
        if member is target:
            continue
        name, transform = member.scan.name, flat([member.forward.transform, target.inverse.transform])
        write_itk(transform, folder / "transforms" / f"{name}.h5")
        image = member.resampled(member.scan.image.numpy()[0], transform, grid)
        write_image(image, grid, folder / "registered" / f"{name}.nii.gz")
        if member.scan.label is not None:
            label = resample_labels(member.scan.grid.to_sitk(member.scan.label), transform, grid)
            write_image(to_array(label), grid, folder / "labels" / f"{name}.nii.gz")


def write_member(
    member: Registered, grid: Grid, folder: Path, final: Path, jacobian: bool, images: bool = True
) -> dict[str, Any]:
    """Write the files of an image into ``folder``, which is to become ``final``; its entry in the record.

    Without ``images``, neither the registered image nor its registered labels are written.

    Raises:
        BingoError: a file cannot be written.
    """
    scan = member.scan
    volumes = {
        "registered": member.image if images else None,
        "template": member.reconstruction,
        "uncertainty": member.uncertainty_mm,
        "labels": member.label if images else None,
        "jacobian": member.jacobian() if jacobian else None,
    }
    for kind, volume in volumes.items():
        if volume is not None:
            write_image(volume, grid, folder / kind / f"{scan.name}.nii.gz")
    write_transform(member.forward, folder / "transforms" / f"{scan.name}_forward")
    write_transform(member.inverse, folder / "transforms" / f"{scan.name}_inverse")
    originals = {
        "": (scan.file, scan.image.numpy()[0]),
        "masks": (scan.mask_file, scan.mask.numpy()[0] if scan.masked else None),
        "labels": (scan.label_file, scan.label),
    }
    files = {
        kind: _original(member, kind, path, voxels, folder, final)
        for kind, (path, voxels) in originals.items()
        if voxels is not None
    }
    mask, label = files.get("masks"), files.get("labels")
    return {
        "name": scan.name,
        "modality": scan.modality,
        "path": str(files[""].path),
        "sha256": files[""].sha256,
        "mask": None if mask is None else str(mask.path),
        "mask_sha256": None if mask is None else mask.sha256,
        "label": None if label is None else str(label.path),
        "label_sha256": None if label is None else label.sha256,
        "shape": scan.image.spatial_shape,
        "affine_ras_mm": scan.image.affine.tolist(),
        "stage_affine_ras_mm": member.stage.affine.tolist(),
        "folding_percent": member.folding_percent,
        "disagreement": member.disagreement,
        "belongs": member.belongs,
        "misnaming": member.misnaming,
        "looks_like": member.looks_like,
        "interpolation": member.interpolation,
        "error_mm": member.error_mm,
        "agreement": member.agreement,
    }


def write_record(
    folder: Path,
    model: File,
    settings: Mapping[str, Any],
    grid: Grid,
    entries: Sequence[Mapping[str, Any]],
    way: Way | None = None,
    verdict: Verdict | None = None,
    series: Series | None = None,
) -> None:
    """Write ``registration.json``, which makes the folder a finished registration.

    Args:
        folder: where it goes.
        model: that registered the group.
        settings: of the model.
        grid: of the group.
        entries: what `write_member` gave for each image.
        way: what was done and kept; None where the network alone registered.
        verdict: what the figures say; None where nothing was judged.
        series: the 4D image whose volumes the images are; None where they are images of their own.

    Raises:
        BingoError: it cannot be written.
    """
    record = {
        "bingo_pl": __version__,
        "checkpoint": {"path": str(model.path), "sha256": model.sha256},
        "settings": settings,
        "group": {"shape": grid.shape, "affine_ras_mm": grid.affine.tolist()},
        "images": entries,
        FILES: digests_of(folder, UNFINISHED, RECORD),
        "alignment": None if way is None else asdict(way),
        "verdict": None if verdict is None else asdict(verdict),
        "series": None if series is None else series.to_tree(),
    }
    with replacing(folder / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2), encoding="utf-8")


def _original(member: Registered, kind: str, path: Path | None, voxels: NDArray, folder: Path, final: Path) -> File:
    """The file of an image, its mask or its label map; written into ``folder``, to become ``final``, if it has none."""
    if path is not None:
        return File(path, member.digests[path])
    relative = Path(ORIGINALS) / kind / f"{member.scan.name}.nii.gz"
    write_image(voxels, member.scan.grid, folder / relative)
    return File(final / relative, File.of(folder / relative).sha256)


def _coarse(grid: Grid) -> Grid:
    """A grid of few voxels that covers another one, on which linear maps are sampled for formats that need it."""
    nodes = [3 if size == 1 else int(np.ceil((size + 1) / LINEAR_STEP)) + 1 for size in grid.shape]
    step = np.array([1.0 if size == 1 else (size + 1) / (n - 1) for size, n in zip(grid.shape, nodes, strict=True)])
    margin = np.where(np.array(grid.shape) == 1, 0, LINEAR_MARGIN)
    x, y, z = (np.array(nodes) + 2 * margin).tolist()
    return grid.part(-1 - step * margin, step, (x, y, z))


def on_grid(values: Tensor, grid: Grid) -> NDArray[np.float32]:
    """One number a voxel of the group, as (X, Y, Z)."""
    return values.detach().cpu().float().numpy().reshape(grid.shape)
