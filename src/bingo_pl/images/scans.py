"""The images of one group as they are given, each on its own grid, and the grid on which they meet."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import SimpleITK as sitk
import torch
import torchio as tio
from numpy.typing import NDArray

from bingo_pl.errors import InputError, unknown_name
from bingo_pl.images.grids import Grid
from bingo_pl.images.in_memory import Image, voxels_of
from bingo_pl.images.intensity import Window, foreground
from bingo_pl.images.reading import read_voxels, stored_ids, to_ids, to_image, to_mask
from bingo_pl.images.record import RESERVED, sha256_of
from bingo_pl.images.resampling import resample_image, resample_mask, to_array
from bingo_pl.images.transforms import affine_transform
from bingo_pl.images.volume import as_native, slice_last
from bingo_pl.storage.names import check_file_name

Source: TypeAlias = Path | str | Image
"""An image: its file, or what it is in memory, see `bingo_pl.images.in_memory.Image`."""
Images: TypeAlias = Mapping[str, Source] | Sequence[tuple[str, Source] | Path | str]
"""Images by modality; pairs where there are several of one; files whose names say it."""
FEWEST_VOXELS = 2
"""Of the model, along the longest axis, that an object must span: of less nothing is left."""
FLOAT = 4
"""Bytes."""


@dataclass(frozen=True, eq=False)
class File:
    """A file as it was read or written."""

    path: Path
    """Absolute."""
    sha256: str

    @classmethod
    def of(cls, path: Path) -> File:
        return cls(path.resolve(), sha256_of(path))


@dataclass(frozen=True, eq=False)
class Scan:
    """An image of the group."""

    name: str
    """Its modality, numbered where the group has several of one."""
    modality: str
    image: tio.ScalarImage
    """(1, X, Y, Z), the intensities as given."""
    window: Window
    """What maps these to [0, 1]."""
    mask: tio.LabelMap
    """(1, X, Y, Z), its foreground."""
    masked: bool
    """The mask was given."""
    label: NDArray | None
    """(X, Y, Z) ids in the dtype as given; int32 where that is no integer of 32 bits at most."""
    file: Path | None
    """Absolute; None where the image was given in memory, as below."""
    mask_file: Path | None
    label_file: Path | None

    @property
    def unit(self) -> tio.ScalarImage:
        """The image from 0 to 1, background 0; computed when asked for, so that it takes no memory."""
        return tio.ScalarImage(tensor=self.window.unit(self.image.data), affine=self.image.affine)

    @property
    def title(self) -> Path:
        """What names the image in messages."""
        return Path(self.name) if self.file is None else self.file

    def digests(self) -> dict[Path, str]:
        """SHA-256 (hexadecimal) of the files that it was read from."""
        files = (self.file, self.mask_file, self.label_file)
        return {path: sha256_of(path) for path in files if path is not None}

    def content(self, digests: Mapping[Path, str]) -> str:
        """What tells the image from others: the digest of its file or, where it has none, of its voxels."""
        if self.file is not None:
            return digests[self.file]
        return hashlib.sha256(self.image.affine.tobytes() + self.image.numpy().tobytes()).hexdigest()

    def sampled(self, affine: NDArray, grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """`sampled_through` a linear map (4, 4) RAS mm, from the group to the image."""
        return self.sampled_through(affine_transform(affine), grid)

    def sampled_through(self, transform: sitk.Transform, grid: Grid) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What a model sees of it: intensities from 0 to 1 and foreground (X, Y, Z) on the group grid.

        Args:
            transform: LPS mm, from the group to the image.
            grid: of the group.

        Raises:
            BingoError: no foreground lies on the grid.
        """
        unit = resample_image(self.grid.to_sitk(self.unit.numpy()[0]), transform, grid)
        inside = resample_mask(self.grid.to_sitk(self.mask.numpy()[0]), transform, grid)
        if not inside.any():
            raise InputError(f"{self.title}: nothing of it lies on the group grid", "Correct its header or mask")
        return to_array(unit), inside

    @property
    def grid(self) -> Grid:
        return Grid(self.image.spatial_shape, self.image.affine)

    @property
    def dims(self) -> int:
        """D: images of one voxel along the third axis are 2D."""
        return 2 if self.grid.shape[2] == 1 else 3

    @property
    def foreground_voxels(self) -> int:
        """How many there are."""
        return int(np.count_nonzero(self.mask.numpy()))

    def foreground_points(self, most: int) -> NDArray[np.int64]:
        """(V, 3) indices of about ``most`` voxels of the foreground, evenly spread over it."""
        mask = self.mask.numpy()[0]
        places = np.flatnonzero(mask)
        places = places[:: -(-len(places) // most)]
        return np.stack(np.unravel_index(places, mask.shape), axis=1)

    def foreground_box(self) -> Grid:
        """The part of the image's grid that holds its foreground."""
        mask = self.mask.numpy()[0] > 0
        ends = [np.flatnonzero(mask.any(axis=tuple({0, 1, 2} - {axis})))[[0, -1]] for axis in range(3)]
        first, last = np.transpose(ends)
        x, y, z = (last - first + 1).tolist()
        return self.grid.part(first, np.ones(3), (x, y, z))


def as_pairs(images: Images) -> list[tuple[str, Source]]:
    """(modality, image) in order. Of a TorchIO subject its intensity images, by their names in it.

    Raises:
        BingoError: there is none.
    """
    if isinstance(images, tio.Subject):
        images = images.get_images_dict(intensity_only=True)
    given = images.items() if isinstance(images, Mapping) else images
    pairs: list[Any] = list(given) if isinstance(given, Iterable) else [given]
    if not all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise InputError(
            "the images do not say what they are",
            "Wanted: {modality: image}, or pairs (modality, image) where there "
            "are several of one, e.g. [('t1', 'a.nii.gz'), ('t1', 'b.nii.gz')]",
        )
    if not pairs:
        raise InputError("no image to register", "Give MODALITY=FILE for each image, e.g. t1=a.nii.gz t2=b.nii.gz")
    return pairs


def names_of(modalities: Iterable[str]) -> list[str]:
    """Each image's name in the group: t1, t2, t2_2, ... They differ in more than capitals, as file systems may want.

    Raises:
        BingoError: a modality cannot name a file.
    """
    names: list[str] = []
    taken = {*RESERVED}
    numbered: dict[str, Iterator[str]] = {}
    for modality in modalities:
        if modality not in numbered:
            check_file_name(modality, "modality")
            numbered[modality] = _numbered(modality)  # counts on, so that large groups take no longer
        names.append(next(name for name in numbered[modality] if name.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names


def _numbered(modality: str) -> Iterator[str]:
    yield modality
    yield from (f"{modality}_{number}" for number in itertools.count(2))


def check_names(what: str, given: Iterable[str], names: Sequence[str]) -> None:
    """Raises `BingoError` where a mask or label map (``what``) is for no image of the group."""
    for name in given:
        if name not in names:
            raise unknown_name("image", name, names, f"{what} given for an ")


def read_scan(name: str, modality: str, image: Source, mask: Source | None, label: Source | None) -> Scan:
    """Read and check an image and what belongs to it.

    Raises:
        BingoError: unusable images, or a mask or label map that is not on the image's grid.
    """
    title, data, affine, file = _read(image, name)
    Grid(data.shape, affine)  # refuses what is no geometry
    scalar = to_image(title, data, affine)
    window = Window.of(scalar.data, title)
    mask_map = tio.LabelMap(tensor=foreground(scalar.data).to(torch.uint8), affine=affine)
    mask_file = label_file = ids = None
    if mask is not None:
        title, data, affine, mask_file = _read(mask, f"mask of {name}")
        mask_map = to_mask(title, data, affine, scalar)
    if label is not None:
        title, data, affine, label_file = _read(label, f"label map of {name}")
        ids = stored_ids(title, to_ids(title, data, affine, scalar), data.dtype)
    return Scan(name, modality, scalar, window, mask_map, mask is not None, ids, file, mask_file, label_file)


def read_grid(source: Source) -> Grid:
    """The grid of an image, whatever it shows.

    Raises:
        BingoError: the file is missing or damaged, or has no geometry.
    """
    _, data, affine, _ = _read(source, "like")
    return Grid(data.shape, affine)


def _read(source: Source, name: str) -> tuple[Path, NDArray, NDArray, Path | None]:
    """What messages call it, voxels (X, Y, Z), their RAS affine, and the absolute file where there is one."""
    title = Path(name)
    if isinstance(source, (str, Path)):
        path = Path(source)
        return path, *read_voxels(path), path.resolve()
    data, affine = voxels_of(source, name)
    return title, *slice_last(as_native(data), affine), None


def check_dimensions(scans: Sequence[Scan], dims: int) -> None:
    """Raises `BingoError` where an image is not D-dimensional."""
    for scan in scans:
        if scan.dims == dims:
            continue
        found = f"{scan.title} is {scan.dims}D, {scan.image.spatial_shape} voxels"
        if scans[0].dims == dims:
            raise InputError(
                f"{found}, but {scans[0].title} is {dims}D, {scans[0].image.spatial_shape} voxels: a group is of "
                "slices or of volumes",
                "Leave one of them out, or extract the slice",
            )
        raise InputError(
            f"{found}, but the model registers {dims}D images", f"Use a {scan.dims}D model or other images"
        )


def group_grid(scans: Sequence[Scan], stages: Sequence[NDArray], spacing_mm: float, dims: int, stride: int) -> Grid:
    """`grid_around` the foregrounds of images that all are in memory on it."""
    boxes = [scan.foreground_box() for scan in scans]
    grid = grid_around(scans[0].grid, boxes, stages, spacing_mm, dims, stride)
    remedy = "Register fewer images at a time, or stream them (bingo register --memory 4GB)"
    return grid.fitting(len(scans) * image_bytes(dims), f"the group grid of {len(scans)} images", remedy)


def grid_around(
    first: Grid,
    boxes: Sequence[Grid],
    stages: Sequence[NDArray],
    spacing_mm: float | NDArray[np.float64],
    dims: int,
    stride: int,
    remedy: str = "Correct wrong units or voxel sizes in the headers; else crop the images or give masks",
) -> Grid:
    """The grid on which a group is registered.

    It lies along the axes of the first image, has the voxels that the model was trained on (those of the first image
    where it was trained on the files' own grids), holds the foregrounds of all images, and is rounded up, about its
    centre, to sizes that the network takes. 2D groups keep the first image's one slice. The axes of 3D groups come in
    the order and sense nearest to right, anterior, superior where those of the training did: always but for files' own
    grids.

    Args:
        first: of the first image.
        boxes: the foreground box of each image, see `Scan.foreground_box`.
        stages: (4, 4) RAS mm for each, from the group to the image.
        spacing_mm: of the model, or (D,) of the canonical axes; 0 for the first image's own.
        dims: D.
        stride: what sizes are divisible by.
        remedy: what a person can do where the grid does not fit in memory.

    Raises:
        BingoError: the images are so large or so small that the model's voxels cannot sample them.
    """
    step = np.ones(3)
    wanted = np.broadcast_to(spacing_mm, dims)
    if wanted.min() > 0:
        first = first if dims == 2 else first.canonical()
        step[:dims] = wanted / first.spacing[:dims]
    corners = [
        box.corners(np.linalg.inv(stage @ first.affine) @ box.affine) for box, stage in zip(boxes, stages, strict=True)
    ]
    low, high = np.concatenate(corners).min(0), np.concatenate(corners).max(0)
    extent = ((high - low) / step)[:dims]
    if np.ndim(spacing_mm) == 0 and wanted.min() > 0 and extent.max() < FEWEST_VOXELS:
        raise InputError(
            f"the images show {extent.max() * wanted.max():.2g} mm, {extent.max():.2g} of the {wanted.max():g} mm "
            "voxels that the model was trained on: nothing would be left of them",
            "Correct the unit or the voxel size "
            "in their headers, or their masks, if these are wrong; else train a model for images of this size "
            "(data.spacing_mm)",
        )
    shape = np.ones(3, int)
    shape[:dims] = np.maximum(np.ceil(((high - low) / step)[:dims].round(6) / stride).astype(int), 1) * stride
    middle = (shape - 1) / 2
    # of a slab no thicker than a voxel, a voxel's centre, not a place between two that both miss it
    middle[:dims] = np.where(extent <= 1, shape[:dims] // 2, middle[:dims])
    start = (low + high) / 2 - step * middle
    start[dims:] = 0
    x, y, z = shape.tolist()
    return first.part(start, step, (x, y, z)).fitting(image_bytes(dims), "the group grid", remedy)


def image_bytes(dims: int) -> int:
    """What an image takes for each voxel of the group grid, at least: for itself, its displacement and the inverse."""
    return FLOAT * (1 + 2 * dims)


def describe(grid: Grid) -> str:
    """Sizes for a person."""
    return str(grid)
