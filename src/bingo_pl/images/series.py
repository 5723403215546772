"""A 4D file is a group: its volumes are the images, and the registered images are one 4D file again."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import nibabel as nib
import numpy as np
import torchio as tio
from numpy.typing import NDArray

from bingo_pl.errors import FileError, InputError
from bingo_pl.images.grids import Grid
from bingo_pl.images.in_memory import parts_of
from bingo_pl.images.naming import modality_of
from bingo_pl.images.problems import refuse
from bingo_pl.images.reading import read_series, warn_of_wrap, wrapped_among
from bingo_pl.images.record import MOST
from bingo_pl.images.scans import File, Source, names_of
from bingo_pl.images.transforms import COMPRESSION
from bingo_pl.images.volume import UNREADABLE, as_native, open_volume
from bingo_pl.storage.atomic import replacing
from bingo_pl.storage.regular import check_regular, is_file

Values: TypeAlias = Sequence[float | str] | Path | str
"""What differs from volume to volume: inversion times, b-values, ...; or a text file of them."""
SPACE = 3
"""Axes of a volume; the one behind them counts volumes."""
ENDINGS = (".nii", ".nii.gz", ".mgh", ".mgz")
"""Formats with a fourth axis."""
DEFAULT_NAME = "series"
"""What a series is called that nobody named."""


@dataclass(frozen=True)
class Series:
    """The volumes of one 4D image, in order."""

    modality: str
    """Of them all; the registered series is named by it."""
    names: tuple[str, ...]
    """Of the volumes: the modality with a value or an index, from 0."""
    values: tuple[float | str, ...] | None
    source: File | None
    """None where it was given in memory."""
    step: float = 1.0
    """From volume to volume, as the file has it."""
    unit: str = "unknown"
    """Of the step, in nibabel's words, e.g. ``sec``."""

    @classmethod
    def of(cls, modality: str, source: Source, values: Values | None) -> Series:
        """The series in a 4D image.

        Raises:
            BingoError: values that are not as many as the volumes, or cannot name files.
        """
        count = count_volumes(source)
        if count > MOST:
            raise InputError(f"{_title(modality, source)}: {count} volumes, NIfTI holds {MOST}", "Split the file")
        read = None if values is None else read_values(values)
        if read is None:
            width = len(str(count - 1))
            tags = [f"{number:0{width}d}" for number in range(count)]
        else:
            tags = [f"{value:.12g}" if isinstance(value, float) else value for value in read]
        if len(tags) != count:
            lost = isinstance(values, (str, Path)) and not is_file(Path(values)) and len(tags) == 1
            raise InputError(
                f"{_title(modality, source)}: {count} volumes but {len(tags)} values"
                + (f", since there is no file {values}" if lost else ""),
                "Correct its path" if lost else "Give one value for each volume",
            )
        names = tuple(names_of(f"{modality}_{tag}" for tag in tags))
        kept = None if read is None else tuple(read)
        if not isinstance(source, (str, Path)):
            return cls(modality, names, kept, None)
        path = Path(source)
        header = nib.load(path).header
        steps = header.get_zooms()[SPACE:]
        unit = header.get_xyzt_units()[1] if isinstance(header, nib.Nifti1Header) else "msec"
        step = float(steps[0]) if steps and math.isfinite(steps[0]) else 1.0
        return cls(modality, names, kept, File.of(path), step, unit)

    @property
    def registered(self) -> Path:
        """Where in the output folder it is written."""
        return Path("registered") / f"{self.modality}.nii.gz"

    def to_tree(self) -> dict[str, Any]:
        """For ``registration.json``."""
        source = None if self.source is None else {"path": str(self.source.path), "sha256": self.source.sha256}
        values = None if self.values is None else list(self.values)
        return {"modality": self.modality, "names": list(self.names), "values": values, "source": source} | {
            "registered": str(self.registered)
        }

    def for_each(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What was given for the series by its modality, given for each volume; what was given by name stays."""
        for_all = dict.fromkeys(self.names, given[self.modality]) if self.modality in given else {}
        return for_all | {name: value for name, value in given.items() if name != self.modality}

    def write(self, folder: Path, grid: Grid) -> None:
        """Write the registered volumes, which are files in an output folder, as one 4D file too, one at a time.

        Raises:
            BingoError: the file cannot be written.
        """
        header = nib.Nifti1Header(endianness="<")
        header.set_data_dtype(np.float32)
        header.set_data_shape((*grid.shape, len(self.names)))
        header.set_zooms((*grid.spacing, self.step))
        header.set_sform(grid.affine, code=1)
        header.set_qform(grid.affine, code=1)
        header.set_xyzt_units("mm", self.unit)
        header["magic"], header["vox_offset"] = b"n+1", header.single_vox_offset
        with (
            replacing(folder / self.registered) as temporary,
            temporary.open("wb") as file,
            gzip.GzipFile("", "wb", COMPRESSION, file, mtime=0) as packed,
        ):
            packed.write(header.binaryblock.ljust(header.single_vox_offset, b"\0"))
            for name in self.names:
                volume = nib.load(folder / self.registered.with_name(f"{name}.nii.gz"))
                packed.write(np.asarray(volume.dataobj, "<f4").tobytes("F"))


def unfold(
    pairs: Sequence[tuple[str, Source]], values: Values | None = None
) -> tuple[Series | None, list[tuple[str, Source]]]:
    """The images of a group: those that are given, or the volumes of the one that is 4D.

    Args:
        pairs: (modality, image).
        values: of the volumes.

    Returns:
        The series, None where there is no 4D image, and (modality, image) pairs.

    Raises:
        BingoError: a 4D image beside others, values without one, or an unusable file.
    """
    series = find(pairs, values)
    if series is None:
        return None, list(pairs)
    source = pairs[0][1]
    if isinstance(source, (str, Path)):
        data, affine = read_series(Path(source))
    elif isinstance(source, tio.Image):
        data, affine = source.numpy().transpose(1, 2, 3, 0), source.affine
    else:
        data, affine = parts_of(source, series.modality)
    return series, [(series.modality, (data[..., number], affine)) for number in range(len(series.names))]


def find(pairs: Sequence[tuple[str, Source]], values: Values | None = None) -> Series | None:
    """The series that a group is, if any; raises as `unfold`. Only headers are read."""
    fourth = [(modality, source) for modality, source in pairs if count_volumes(source) > 1]
    if not fourth:
        if values is not None:
            raise InputError("values name the volumes of a 4D image, but none was given", "Leave them out")
        return None
    modality, source = fourth[0]
    if len(pairs) > 1:
        raise InputError(
            f"{_title(modality, source)}: holds {count_volumes(source)} volumes, which are a group of their own",
            "Register it alone, or split it into one file per volume to register those with other images",
        )
    return Series.of(modality, source, values)


def named(path: Path | str) -> tuple[str, Path]:
    """(modality, image) of a file that was given without a modality: its name says it; a 4D file is `DEFAULT_NAME`.

    Raises:
        BingoError: by its name the file is no image.
    """
    path = Path(path)
    return (DEFAULT_NAME if count_volumes(path) > 1 else modality_of(path)), path


def count_volumes(source: Source) -> int:
    """Volumes of an image: 1 for anything that is not 4D, or that cannot be read, which reading it will tell."""
    if isinstance(source, tio.Image):
        return int(source.num_channels)
    if isinstance(source, tuple):
        return _count(np.shape(source[0])) if source else 1
    if isinstance(source, nib.spatialimages.SpatialImage):
        return _count(source.shape)
    if not isinstance(source, (str, Path)):
        return 1
    path = Path(source)
    if not path.name.lower().endswith(ENDINGS) or not is_file(path):
        return 1
    try:
        return _count(nib.load(path).shape)
    except UNREADABLE:
        return 1


def _count(shape: Sequence[int]) -> int:
    return shape[SPACE] if len(shape) > SPACE and max(shape[SPACE + 1 :], default=1) == 1 else 1


def read_values(values: Values) -> list[float | str]:
    """Values as numbers, or words where they are none, from a sequence, text with commas, or a file.

    Files are FSL's ``.bval``, or any text of a value a line or with spaces, commas or tabs between; a first line of
    words over numbers is a header.

    Raises:
        BingoError: the file cannot be read, or a value is not finite.
    """
    if isinstance(values, (str, Path)):
        path = Path(values)
        if isinstance(values, Path) or is_file(path):
            try:
                check_regular(path)
                text = path.read_text("utf-8-sig")
            except (OSError, ValueError) as error:
                why = "it is no text" if isinstance(error, UnicodeError) else error
                raise FileError(f"{path}: the values cannot be read ({why})", "Give them as 100,180,260") from error
        else:
            text = values
        words: list[float | str] = [_number(word) for word in re.split(r"[\s,;]+", text.strip()) if word]
        if len(words) > 1 and isinstance(words[0], str) and all(isinstance(word, float) for word in words[1:]):
            del words[0]
    else:
        words = [_number(str(value)) for value in values]
    for word in words:
        if isinstance(word, float) and not math.isfinite(word):
            raise InputError(f"a volume's value is {word}: wanted finite numbers, or words", "Correct it")
    return words


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def split(series: Series, folder: Path) -> list[Path]:
    """Write each volume of a series' file as a file of its own, one at a time; those that are there already stay.

    Raises:
        BingoError: the file is damaged, its header is wrong, or nothing can be written.
    """
    assert series.source is not None
    source = series.source.path
    paths = [folder / f"{name}.nii.gz" for name in series.names]
    if all(path.exists() for path in paths):
        return paths
    wrap = wrapped_among(lambda: (as_native(data) for data, _ in _volumes(source)))
    if wrap:
        warn_of_wrap(source, wrap)
    for number, (path, (data, image)) in enumerate(zip(paths, _volumes(source), strict=True)):
        if path.exists():
            continue
        with replacing(path) as temporary:
            content = _volume(as_native(data).view(np.uint16) if wrap else data, image).to_bytes()
            temporary.write_bytes(gzip.compress(content, COMPRESSION, mtime=0))
        if number == 0:
            refuse(source, *open_volume(path).problems)
    return paths


def _volumes(source: Path) -> Iterator[tuple[NDArray, nib.spatialimages.SpatialImage]]:
    """The volumes of a file, one at a time, beside what it is as a whole. What is compressed is read once."""
    try:
        image = nib.load(source, keep_file_open=True)
        for number in range(image.shape[SPACE]):
            yield np.asanyarray(image.dataobj[..., number]), image
    except UNREADABLE as error:
        raise FileError(
            f"{source}: cannot be read, the file is damaged ({error})", "Copy or convert it again"
        ) from error


def _volume(data: NDArray, series: nib.spatialimages.SpatialImage) -> nib.Nifti1Image:
    """A volume as an image of its own, with the header of its series."""
    if data.dtype.kind == "f":
        data = data.astype(np.float32)
    if not isinstance(series, nib.Nifti1Image):
        return nib.Nifti1Image(data, series.affine)
    header = series.header.copy()
    header.set_data_dtype(data.dtype)
    header.set_data_shape(data.shape)
    header.set_slope_inter(1, 0)
    return nib.Nifti1Image(data, None, header)


def _title(modality: str, source: Source) -> str:
    return str(source) if isinstance(source, (str, Path)) else modality
