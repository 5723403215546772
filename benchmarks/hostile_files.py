"""Damaged and odd files for `hostile`: images, checkpoints, settings. All are small; each writes one path."""

from __future__ import annotations

import gzip
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

Builder = Callable[[Path], object]
SHAPE = (16, 16, 1)
DISC = np.hypot(*(np.mgrid[:16, :16] - 8.0))[..., None] < 5
IMAGE = (DISC * 100 + np.random.default_rng(0).integers(0, 20, SHAPE)).astype(np.float32)
HEADER_BYTES = 352
# offsets into a NIfTI-1 header
SIZE, DIM, DATATYPE, BITPIX, PIXDIM, OFFSET, SLOPE, INTERCEPT, UNITS = 0, 40, 70, 72, 76, 108, 112, 116, 123
SFORM_CODE, SROW, MAGIC = 254, 280, 344


def save(path: Path, voxels: NDArray[Any] = IMAGE, affine: NDArray[Any] | None = None) -> Path:
    nib.save(nib.Nifti1Image(voxels, np.eye(4) if affine is None else affine), path)
    return path


def voxels(data: NDArray[Any]) -> Builder:
    return lambda path: save(path, data)


def field(offset: int, kind: str, *values: float) -> Builder:
    """A good file but for a header field."""

    def build(path: Path) -> None:
        content = bytearray(gzip.decompress(save(path).read_bytes()))
        struct.pack_into(f"<{len(values)}{kind}", content, offset, *values)
        path.write_bytes(gzip.compress(content))

    return build


def content(data: bytes) -> Builder:
    return lambda path: path.write_bytes(data)


def cut(path: Path) -> None:
    whole = save(path).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


def surplus(path: Path) -> None:
    """Sixteen megabytes of zeros after the image, which take 16 kB."""
    path.write_bytes(gzip.compress(gzip.decompress(save(path).read_bytes()) + bytes(2**24)))


def swapped(path: Path) -> None:
    """A good file, big-endian."""
    image = nib.Nifti1Image(IMAGE.astype(">f4"), np.eye(4), nib.Nifti1Header(endianness=">"))
    nib.save(image, path)


def flat(axis: int) -> Builder:
    """A good slice, stored with its axis of one voxel elsewhere than last."""
    return voxels(np.moveaxis(IMAGE, 2, axis))


def in_unit(code: int, scale: float) -> Builder:
    """A good file whose lengths are in another unit than millimetres."""

    def build(path: Path) -> None:
        image = nib.Nifti1Image(IMAGE, np.diag([scale, scale, scale, 1.0]))
        image.header["xyzt_units"] = code
        nib.save(image, path)

    return build


def link(target: str) -> Builder:
    return lambda path: path.symlink_to(target)


def fifo(path: Path) -> None:
    os.mkfifo(path)


def foreign_format(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(IMAGE[..., 0].astype(np.uint8)), str(path.with_name("picture.png")))
    path.with_name("picture.png").rename(path)


RGB = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
NAN, INF = float("nan"), float("inf")
BAD_IMAGES: Mapping[str, Builder] = {
    "empty": content(b""),
    "text": content(b"no image"),
    "empty gzip": content(gzip.compress(b"")),
    "truncated": cut,
    "picture": foreign_format,
    "folder": Path.mkdir,
    "link to nothing": link("nowhere"),
    "link to itself": link("bad.nii.gz"),
    "FIFO": fifo,
    "NaN": voxels(np.where(DISC, np.nan, IMAGE)),
    "infinite": voxels(np.where(DISC, np.inf, IMAGE)),
    "constant": voxels(np.full(SHAPE, 3.0)),
    "complex": voxels(IMAGE.astype(np.complex64)),
    "RGB": voxels(RGB),
    "time series": voxels(np.repeat(IMAGE[..., None], 3, axis=3)),
    "magic": field(MAGIC, "b", 0, 0, 0, 0),
    "number of axes": field(DIM, "h", 99),
    "no axes": field(DIM, "h", 0),
    "negative size": field(DIM + 2, "h", -16),
    "size of zero": field(DIM + 2, "h", 0),
    "39 TiB": field(DIM + 2, "h", 32767, 32767, 10000),
    "data type": field(DATATYPE, "h", 9999),
    "offset overflows": field(OFFSET, "f", 1e30),
    "offset negative": field(OFFSET, "f", -1e30),
    "offset NaN": field(OFFSET, "f", NAN),
    "voxel size NaN": field(PIXDIM + 4, "f", NAN),
    "voxel size infinite": field(PIXDIM + 4, "f", INF),
    "sform NaN": field(SROW, "f", NAN),
    "sform huge": field(SROW, "f", 1e38),
    "sform singular": field(SROW, "f", 0, 0, 0, 0),
    "sform sheared": field(SROW, "f", 1, 0.5, 0, 0),
    "intercept infinite": field(SLOPE, "f", 1, INF),
}
"""`check` finds something, and no other command takes them; but for those below."""
AS_LABELS = ("constant",)
"""May be a label map of one structure."""
MOVED = {"NaN": (0, 1, 2), "infinite": (0, 1, 2), "constant": (0, 1, 2), "sform huge": (1, 2)}
"""What `apply` may do, which moves whatever numbers there are, and doubts an image of which nothing is left."""
ODD_IMAGES: Mapping[str, Builder] = {
    "big-endian": swapped,
    "slice first": flat(0),
    "slice amid": flat(1),
    "binary 0 and 255": voxels((DISC * 255).astype(np.uint8)),
    "doubles": voxels(IMAGE.astype(np.float64)),
    "bool-like": voxels(DISC.astype(np.uint8)),
    "signed": voxels(-IMAGE.astype(np.int16)),
    "16 MB too many": surplus,
    "header size": field(SIZE, "i", 7),
    "slope infinite": field(SLOPE, "f", INF),
    "slope of zero": field(SLOPE, "f", 0),
    "trailing axes": voxels(IMAGE[..., None, None]),
    "micrometres": in_unit(3, 1000.0),
    "metres": in_unit(1, 0.001),
    "unknown unit": in_unit(0, 1.0),
}
"""Everybody takes them; `check` may warn."""
OTHER_PLANES = ("slice first", "slice amid")
"""Those of them that lie in another plane than the rest."""


def tampered(change: Callable[[dict[str, Any]], object]) -> Builder:
    """The model that lies at the path, changed and saved again."""

    def build(path: Path) -> None:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        change(checkpoint)
        torch.save(checkpoint, path)

    return build


def _first(checkpoint: dict[str, Any], word: str = "") -> str:
    return next(name for name, tensor in checkpoint["state_dict"].items() if word in name and tensor.ndim > 1)


def _drop(checkpoint: dict[str, Any]) -> None:
    del checkpoint["state_dict"][_first(checkpoint)]


def _add(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["registrar.surplus"] = torch.zeros(3)


def _reshape(checkpoint: dict[str, Any]) -> None:
    name = _first(checkpoint)
    checkpoint["state_dict"][name] = checkpoint["state_dict"][name][:1, :1]


def _not_finite(checkpoint: dict[str, Any]) -> None:
    """In the decoder, which moves nothing: no library gets a coordinate that is none."""
    checkpoint["state_dict"][_first(checkpoint, "decoder")][:] = torch.nan


def flipped(path: Path) -> None:
    """One bit in the middle of the file, where the weights are."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def shortened(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


class _Trap:
    """Makes a file when it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("trapped",)


def trap(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": {}, "bingo_pl": _Trap()}))


def zipped_trap(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(_Trap(), protocol=2))
        archive.writestr("archive/version", "3")


def other_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")


def replaced(builder: Builder) -> Builder:
    def build(path: Path) -> None:
        path.unlink()
        builder(path)

    return build


BAD_MODELS: Mapping[str, Builder] = {
    "absent": Path.unlink,
    "empty": content(b""),
    "text": content(b"no weights"),
    "folder": replaced(Path.mkdir),
    "shortened": shortened,
    "bit flipped": flipped,
    "other archive": other_archive,
    "other pickle": lambda path: torch.save({"epoch": 1}, path),
    "a list": lambda path: torch.save([1, 2], path),
    "trap": trap,
    "zipped trap": zipped_trap,
    "no weights": tampered(lambda checkpoint: checkpoint.pop("state_dict")),
    "no settings": tampered(lambda checkpoint: checkpoint.pop("bingo_pl")),
    "tensor missing": tampered(_drop),
    "tensor too many": tampered(_add),
    "tensor of another shape": tampered(_reshape),
    "not finite": tampered(_not_finite),
}
"""Of a run or by itself."""
MODEL_FILE_HEADER = struct.pack("<Q", 2**60)
BAD_MODEL_FILES: Mapping[str, Builder] = {
    "empty": content(b""),
    "text": content(b"no weights at all"),
    "header too long": content(MODEL_FILE_HEADER + b"{}"),
    "header no JSON": content(struct.pack("<Q", 4) + b"[[[["),
    "no tensors": content(struct.pack("<Q", 2) + b"{}"),
}
"""``.safetensors``."""
BAD_YAML: Mapping[str, str] = {
    "base is itself": "base: bad.yaml\n",
    "base is a list": "base: [mscmr, brats]\n",
    "base is unknown": "base: nowhere\n",
    "base is a number": "base: 7\n",
    "base goes up": "base: ../../../etc/passwd\n",
    "list": "- data\n- model\n",
    "number": "7\n",
    "unclosed": "data: [1, 2\n",
    "tab": "data:\n\troot: x\n",
    "tag": "data: !!python/object/apply:os.mkdir [trapped]\n",
    "reference": "data: {root: '${oc.env:HOME}'}\n",
    "unknown section": "dota: {root: x}\n",
    "unknown setting": "data: {rot: x}\n",
    "wrong type": "data: {roi: wide}\n",
    "section is a number": "data: 7\n",
    "section is a list": "data: [root]\n",
    "null section": "data: null\n",
    "number as key": "7: 8\n",
    "nested aliases": "a: &a [x, x, x, x]\nb: &b [*a, *a, *a, *a]\nc: [*b, *b, *b, *b]\n",
    "control character": "data: {root: '\x01'}\n",
    "two documents": "seed: 1\n---\nseed: 2\n",
}
"""Settings that no command takes."""
