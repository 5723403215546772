"""One's own images: files in, registered images and transforms out. The command ``bingo register``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import torchio as tio
from rich.console import Console
from torch import Tensor

from bingo_pl import __version__, experiment, methods
from bingo_pl import config as settings
from bingo_pl.atomic import replacing
from bingo_pl.batch import UNLABELLED, GroupBatch
from bingo_pl.config import Config
from bingo_pl.errors import BingoError
from bingo_pl.grids import Grid
from bingo_pl.lightning import device_of
from bingo_pl.registrar import Registrar
from bingo_pl.resampling import resample_image, resample_labels
from bingo_pl.transforms import FieldTransform, forward_and_inverse, write_image, write_transform
from data_modules.preprocess import Member, foreground, rescale
from data_modules.reading import read_image, read_mask

RECORD = "registration.json"
"""Written last: a folder that has it is whole."""
IDENTITY = sitk.Transform(3, sitk.sitkIdentity)


@dataclass(frozen=True, eq=False)
class Scan:
    """An image of the group as it was read."""

    name: str
    """Its modality, numbered where the group has several of one."""
    member: Member
    image: tio.ScalarImage
    """(1, X, Y, Z), the file's intensities."""
    mask: tio.LabelMap
    """(1, X, Y, Z), its foreground."""

    @property
    def grid(self) -> Grid:
        return Grid(self.image.spatial_shape, self.image.affine)


def register_files(
    checkpoint: Path, members: Sequence[Member], output: Path, overrides: Sequence[str], console: Console
) -> Path:
    """Register a group of image files with a trained model and write what came of it.

    Args:
        checkpoint: of a trained method.
        members: the images, of modalities that the model knows, in any number and order.
        output: a folder that does not exist or is empty.
        overrides: settings, e.g. ``refine.steps=20`` or ``trainer.accelerator=cpu``.
        console: where progress is told.

    Returns:
        The folder: ``registered/``, ``template/``, ``transforms/`` and, last, ``registration.json``.

    Raises:
        BingoError: unusable images, modalities the model does not know, or an output folder in use.
    """
    config = settings.override(settings.from_tree(experiment.read_provenance(checkpoint)["config"]), overrides)
    _check_modalities(members, config)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise BingoError(f"{output} is in use. Name a folder that does not exist yet, so that no result is overwritten")
    scans = read_scans(members)
    registrar = _load(checkpoint, config)
    grid = group_grid(scans, config.data.spacing_mm, len(config.data.roi), _stride(config))
    console.print(f"group grid: {describe(grid)}, along the axes of {scans[0].member.image}")
    batch = to_batch(scans, grid, config).to(device_of(config))
    with torch.no_grad():
        result = registrar(batch)
        pictures = registrar.explain(batch, result)
    fields = [
        forward_and_inverse(u, v, grid, scan.grid)
        for scan, u, v in zip(scans, result.displacement[0], result.inverse[0], strict=True)
    ]
    _write(scans, grid, fields, pictures, output)
    _write_record(scans, grid, config, checkpoint, output)
    console.print(f"written: {output}")
    return output


def group_grid(scans: Sequence[Scan], spacing_mm: float, dims: int, stride: int) -> Grid:
    """The grid on which a group is registered.

    It lies along the axes of the first image, has the voxels that the model was trained on (those of the first image
    where it was trained on the files' own grids), holds the foregrounds of all images, and is rounded up, about its
    centre, to sizes that the network takes. 2D groups keep the first image's one slice.

    Raises:
        BingoError: the images are not D-dimensional.
    """
    for scan in scans:
        if (2 if scan.image.spatial_shape[2] == 1 else 3) != dims:
            raise BingoError(
                f"{scan.member.image} has {scan.image.spatial_shape} voxels, but the model registers {dims}D images"
                f"{' (one voxel along the third axis)' if dims == 2 else ''}. Use a {5 - dims}D model or other images"
            )
    first = scans[0].grid
    step = np.ones(3)
    if spacing_mm > 0:
        step[:dims] = spacing_mm / first.spacing[:dims]
    boxes = [
        _foreground_box(scan).corners(np.linalg.inv(first.affine) @ _foreground_box(scan).affine) for scan in scans
    ]
    low, high = np.concatenate(boxes).min(0), np.concatenate(boxes).max(0)
    shape = np.ones(3, int)
    shape[:dims] = np.ceil(((high - low) / step)[:dims] / stride).astype(int) * stride
    start = (low + high) / 2 - step * (shape - 1) / 2
    start[dims:] = 0
    x, y, z = shape.tolist()
    return first.part(start, step, (x, y, z))


def to_batch(scans: Sequence[Scan], grid: Grid, config: Config) -> GroupBatch:
    """The group on its grid: intensities from 0 to 1, no labels, no truth."""
    dims = len(config.data.roi)
    shape = grid.shape[:dims]

    def stack(images: Sequence[sitk.Image]) -> Tensor:
        arrays = [torch.from_numpy(sitk.GetArrayFromImage(image).T.copy()).reshape(1, 1, *shape) for image in images]
        return torch.stack(arrays, dim=1)

    images = stack([resample_image(_to_sitk(rescale(scan.image, scan.member.image)), IDENTITY, grid) for scan in scans])
    masks = stack([resample_labels(_to_sitk(scan.mask), IDENTITY, grid) for scan in scans]) > 0
    for scan, mask in zip(scans, masks[0], strict=True):
        if not mask.any():
            raise BingoError(f"{scan.member.image}: nothing of it lies on the group grid. Correct its header or mask")
    return GroupBatch(
        images=images.float(),
        modalities=torch.tensor([[config.data.modalities.index(scan.member.modality) for scan in scans]]),
        masks=masks,
        labels=torch.full(images.shape, UNLABELLED, dtype=torch.int16),
        spacing=torch.tensor(grid.spacing[None, :dims], dtype=torch.float32),
        names=("group",),
    )


def describe(grid: Grid) -> str:
    """Sizes for a person."""
    return f"{' x '.join(map(str, grid.shape))} voxels of {' x '.join(f'{size:.3g}' for size in grid.spacing)} mm"


def _check_modalities(members: Sequence[Member], config: Config) -> None:
    known = config.data.modalities
    for member in members:
        if member.modality not in known:
            raise BingoError(
                f"{member.image}: the model does not know the modality '{member.modality}'. It was trained on "
                f"{', '.join(known)}: name one of them if the image is like it, or train a model with this modality"
            )


def read_scans(members: Sequence[Member]) -> list[Scan]:
    if not members:
        raise BingoError("no image to register. Give MODALITY=FILE for each image, e.g. t1=a.nii.gz t2=b.nii.gz")
    seen: dict[str, int] = {}
    scans = []
    for member in members:
        seen[member.modality] = count = seen.get(member.modality, 0) + 1
        image = read_image(member.image)
        if member.mask is None:
            mask = tio.LabelMap(tensor=foreground(image.data).to(torch.uint8), affine=image.affine)
        else:
            mask = read_mask(member.mask, image)
        name = member.modality if count == 1 else f"{member.modality}_{count}"
        scans.append(Scan(name, member, image, mask))
    return scans


def _load(checkpoint: Path, config: Config) -> Registrar:
    task = experiment.build_task(config)
    experiment.load_weights(task, checkpoint, config)
    return methods.refined(task.registrar, config).to(device_of(config)).eval()


def _stride(config: Config) -> int:
    """What sizes are divisible by: the network's, and that of an attention residual U-Net."""
    return max(2 ** (len(config.model.channels) - 1), 16)


def _foreground_box(scan: Scan) -> Grid:
    """The part of an image's grid that holds its foreground."""
    indices = np.argwhere(scan.mask.numpy()[0] > 0)
    first, last = indices.min(0), indices.max(0)
    x, y, z = (last - first + 1).tolist()
    return scan.grid.part(first, np.ones(3), (x, y, z))


def _to_sitk(image: tio.Image) -> sitk.Image:
    return Grid(image.spatial_shape, image.affine).to_sitk(image.numpy()[0])


def _write(
    scans: Sequence[Scan],
    grid: Grid,
    fields: Sequence[tuple[FieldTransform, FieldTransform]],
    pictures: dict[str, Tensor],
    output: Path,
) -> None:
    total = np.zeros(grid.shape)
    for scan, (forward, inverse) in zip(scans, fields, strict=True):
        registered = resample_image(_to_sitk(scan.image), forward.transform, grid)
        write_image(sitk.GetArrayFromImage(registered).T, grid, output / "registered" / f"{scan.name}.nii.gz")
        write_transform(forward, output / "transforms" / f"{scan.name}_forward")
        write_transform(inverse, output / "transforms" / f"{scan.name}_inverse")
        unit = rescale(scan.image, scan.member.image)
        total += sitk.GetArrayFromImage(resample_image(_to_sitk(unit), forward.transform, grid)).T
    write_image((total / len(scans)).astype(np.float32), grid, output / "template" / "mean.nii.gz")
    for scan, picture in zip(scans, pictures.get("reconstruction", torch.empty(1, 0))[0], strict=False):
        array = picture.cpu().numpy().reshape(grid.shape)
        write_image(array, grid, output / "template" / f"{scan.name}.nii.gz")


def _write_record(scans: Sequence[Scan], grid: Grid, config: Config, checkpoint: Path, output: Path) -> None:
    record = {
        "bingo_pl": __version__,
        "checkpoint": {"path": str(checkpoint.resolve()), "sha256": _hash(checkpoint)},
        "settings": settings.to_tree(config),
        "group": {"shape": grid.shape, "affine_ras_mm": grid.affine.tolist()},
        "images": [
            {
                "name": scan.name,
                "modality": scan.member.modality,
                "path": str(scan.member.image.resolve()),
                "sha256": _hash(scan.member.image),
                "shape": scan.image.spatial_shape,
                "affine_ras_mm": scan.image.affine.tolist(),
            }
            for scan in scans
        ],
    }
    with replacing(output / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2))


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
