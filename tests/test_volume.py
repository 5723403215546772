"""Files that people really have: units, byte orders, formats, slices along any axis, headers that lie about sizes."""

from __future__ import annotations

import gzip
import os
import struct
import tracemalloc
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bingo_pl import memory
from bingo_pl.checking.check import Checkup, check
from bingo_pl.errors import BingoError
from bingo_pl.images.geometry import voxel_size_mm
from bingo_pl.images.grids import Grid
from bingo_pl.images.reading import read_image, read_labels, read_voxels
from bingo_pl.images.volume import open_volume

RAMP = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
AFFINE = np.array([[0.8, -1.2, 0, 10], [0.6, 1.6, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1.0]])
"""Turned; voxels of 1, 2 and 3 units, away from the origin."""
UNITS_MM = {"unknown": 1, "mm": 1, "micron": 1e-3, "meter": 1e3}
FORMS = [(1, 1), (1, 0), (0, 1), (0, 2), (1, 2)]
"""Codes of qform and sform."""


def save(path: Path, data: np.ndarray = RAMP, affine: np.ndarray = AFFINE, unit: str = "mm") -> Path:
    image = nib.Nifti1Image(data, affine)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, path)
    return path


def save_nrrd(path: Path, units: str, affine: np.ndarray = AFFINE, shape: tuple[int, ...] = RAMP.shape) -> Path:
    """Of ``space units`` as given; the affine is to RAS."""
    columns = " ".join(f"({','.join(map(str, column))})" for column in affine[:3, :3].T)
    fields = {
        "type": "short",
        "dimension": "3",
        "space": "right-anterior-superior",
        "sizes": " ".join(map(str, shape)),
        "space directions": columns,
        "space units": units,
        "space origin": f"({','.join(map(str, affine[:3, 3]))})",
        "endian": "little",
        "encoding": "raw",
    }
    header = "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
    path.write_bytes(f"NRRD0005\n{header}\n".encode() + RAMP.tobytes(order="F"))
    return path


def save_mha(path: Path, unit: str = "", turn: str = "1 0 0 0 1 0 0 0 1", sizes: str = "4 5 6") -> Path:
    path.write_bytes(
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nTransformMatrix = {turn}\n"
        f"Offset = 10 20 30\n{unit}ElementSpacing = 1 2 3\nDimSize = {sizes}\nElementType = MET_SHORT\n"
        "ElementDataFile = LOCAL\n".encode()
        + RAMP.tobytes(order="F")
    )
    return path


def look(path: Path) -> Checkup:
    return check(path, [], None, list)


@pytest.mark.parametrize("unit", UNITS_MM)
@pytest.mark.parametrize(("qform", "sform"), FORMS)
def test_nifti_lies_where_simpleitk_sees_it_whatever_its_unit(
    tmp_path: Path, unit: str, qform: int, sform: int
) -> None:
    image = nib.Nifti1Image(RAMP, AFFINE)
    image.set_qform(AFFINE, qform)
    image.set_sform(AFFINE, sform)
    image.header.set_xyzt_units(unit, "sec")
    nib.save(image, tmp_path / "x.nii")
    affine = read_image(tmp_path / "x.nii").affine
    assert voxel_size_mm(affine) == pytest.approx(np.array([1, 2, 3]) * UNITS_MM[unit], rel=1e-6)
    expected = Grid.of(sitk.ReadImage(str(tmp_path / "x.nii"))).affine
    np.testing.assert_allclose(affine, expected, rtol=1e-5, atol=1e-6 * UNITS_MM[unit])  # float32 header


def test_a_unit_that_nibabel_ignores_is_noted_and_fixed(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii", unit="micron")
    checkup = check(path, [], tmp_path / "fixed", list)
    (finding,) = checkup.findings
    assert (finding.problem.severity, "microns" in finding.problem.what) == ("note", True)
    assert checkup.clean
    fixed = nib.load(tmp_path / "fixed" / "x.nii")
    assert fixed.header.get_xyzt_units() == ("mm", "sec")
    np.testing.assert_allclose(fixed.affine, read_voxels(path)[1], rtol=1e-5, atol=1e-9)


def test_geometries_of_microscopic_images_are_compared_in_their_own_size(tmp_path: Path) -> None:
    moved = AFFINE.copy()
    moved[0, 3] += 50  # voxels, but only 0.05 mm
    image = nib.Nifti1Image(RAMP, AFFINE)
    image.set_qform(moved, 1)
    image.set_sform(AFFINE, 2)
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "x.nii")
    assert any("sform and qform differ by up to 0.05 mm" in finding.problem.what for finding in look(tmp_path).findings)


@pytest.mark.parametrize(
    ("units", "factors"),
    [
        ('"mm" "mm" "mm"', (1, 1, 1)),
        ('"um" "µm" "microns"', (1e-3, 1e-3, 1e-3)),
        ('"m" "metres" "METER"', (1e3, 1e3, 1e3)),
        ('"mm" "mm" "cm"', (1, 1, 10)),
    ],
)
def test_nrrd_is_converted_to_mm_and_programs_that_do_not_are_named(
    tmp_path: Path, units: str, factors: tuple[float, ...]
) -> None:
    volume = open_volume(save_nrrd(tmp_path / "x.nrrd", units))
    assert volume.affine is not None
    np.testing.assert_allclose(volume.affine, np.diag([*factors, 1]) @ AFFINE, rtol=1e-6)
    converted = factors != (1, 1, 1)
    assert [problem.severity for problem in volume.problems] == ["warning"] * converted
    itk = Grid.of(sitk.ReadImage(str(tmp_path / "x.nrrd"))).affine  # what the warning says of SimpleITK
    np.testing.assert_allclose(itk, AFFINE, rtol=1e-6)


def test_units_of_metaimages_and_unknown_ones(tmp_path: Path) -> None:
    micron = open_volume(save_mha(tmp_path / "x.mha", "DistanceUnits = um\n"))
    plain = open_volume(save_mha(tmp_path / "y.mha"))
    assert micron.affine is not None
    assert plain.affine is not None
    np.testing.assert_allclose(micron.affine[:3], plain.affine[:3] * 1e-3)
    assert "converted to mm" in micron.problems[0].what
    assert plain.problems == ()
    unknown = open_volume(save_nrrd(tmp_path / "x.nrrd", '"furlong" "furlong" "furlong"'))
    assert "'furlong', here taken for mm" in unknown.problems[0].what


@pytest.mark.parametrize("kind", [">i2", ">f4", ">f8", ">u4"])
@pytest.mark.parametrize("nifti", [nib.Nifti1Image, nib.Nifti2Image])
def test_big_endian_files_are_read_in_this_machines_byte_order(tmp_path: Path, kind: str, nifti: type) -> None:
    image = nifti(RAMP.astype(kind), AFFINE, nifti.header_class(endianness=">"))  # type: ignore[attr-defined]
    image.set_data_dtype(kind)
    nib.save(image, tmp_path / "x.nii")
    data, affine = read_voxels(tmp_path / "x.nii")
    assert data.dtype == np.dtype(kind).newbyteorder("=")
    np.testing.assert_array_equal(data, RAMP)
    np.testing.assert_allclose(affine, AFFINE, rtol=1e-6)


def test_freesurfers_files_are_read(tmp_path: Path) -> None:
    for name in ("x.mgz", "x.mgh"):
        nib.save(nib.MGHImage(RAMP.astype(np.float32), AFFINE), tmp_path / name)
        read = read_image(tmp_path / name)
        np.testing.assert_array_equal(read.numpy()[0], RAMP)
        np.testing.assert_allclose(read.affine, AFFINE, atol=1e-5)
    assert look(tmp_path / "x.mgz").clean
    assert look(tmp_path).files == 2


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("suffix", ["nii.gz", "nrrd", "mha"])
def test_a_slice_is_a_slice_along_whatever_axis_it_is_stored(tmp_path: Path, axis: int, suffix: str) -> None:
    data = np.arange(1, 31, dtype=np.int16).reshape(np.insert([5, 6], axis, 1).tolist())
    nifti = save(tmp_path / "a.nii.gz", data)
    path = tmp_path / f"x.{suffix}"
    sitk.WriteImage(sitk.ReadImage(str(nifti)), str(path))
    image = read_image(path)
    assert image.spatial_shape == (5, 6, 1)
    sample = sitk.ReadImage(str(path))
    for index in np.ndindex(5, 6, 1):  # every voxel is where SimpleITK has it
        place = image.affine @ [*index, 1] * [-1, -1, 1, 1]
        assert sample[sample.TransformPhysicalPointToIndex(place[:3].tolist())] == image.numpy()[0][index]
    labels = read_labels(save(tmp_path / "l.nii.gz", data % 2), image, [1])
    np.testing.assert_array_equal(labels.numpy(), image.numpy() % 2)


def test_a_copy_of_a_slice_keeps_its_axes(tmp_path: Path) -> None:
    path = save(
        tmp_path / "x_seg.nii", (RAMP[:1] % 2).astype(np.float32)[..., None] * np.float32(1.0001), unit="micron"
    )
    assert check(path, [], tmp_path / "fixed", list).fixed == 1
    fixed = nib.load(tmp_path / "fixed" / "x_seg.nii")
    np.testing.assert_array_equal(np.asanyarray(fixed.dataobj), RAMP[:1] % 2)
    np.testing.assert_allclose(fixed.affine[:3], AFFINE[:3] * 1e-3, rtol=1e-5)


def test_sheared_geometries_of_any_format_are_errors_before_registration(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[:3, 1] += sheared[:3, 0]
    save_nrrd(tmp_path / "a.nrrd", "", sheared)
    save_mha(tmp_path / "b.mha", turn="1 0 0 0.5 1 0 0 0 1")
    findings = look(tmp_path).findings
    assert [finding.where for finding in findings if "is sheared" in finding.problem.what] == ["a.nrrd", "b.mha"]
    for name in ("a.nrrd", "b.mha"):
        with pytest.raises(BingoError, match=rf"{name}: the geometry of the header is sheared"):
            read_image(tmp_path / name)


@pytest.mark.parametrize(
    ("offset", "kind", "value"),
    [(108, "f", np.inf), (108, "f", np.nan), (108, "f", 1e38), (108, "f", -1e38), (40, "4h", (3, 32767, 32767, 32767))],
)
def test_one_header_that_overflows_stops_nothing(tmp_path: Path, offset: int, kind: str, value: float) -> None:
    good = save(tmp_path / "good.nii.gz")
    content = bytearray(gzip.decompress(good.read_bytes()))
    struct.pack_into(f"<{kind}", content, offset, *np.atleast_1d(value).tolist())
    (tmp_path / "bad.nii").write_bytes(content)
    (tmp_path / "bad.nii.gz").write_bytes(gzip.compress(content))
    checkup = look(tmp_path)
    assert checkup.files == 3
    assert sorted({finding.where for finding in checkup.findings if finding.problem.severity == "error"}) == [
        "bad.nii",
        "bad.nii.gz",
    ]


def test_gzip_is_unpacked_as_far_as_the_header_says(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz", RAMP % 9)
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(50_000_000)))  # 50 kB
    tracemalloc.start()
    volume = open_volume(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(volume.data, RAMP % 9)
    assert volume.nifti is not None
    assert volume.nifti.surplus
    assert peak < 2e6


def test_gzip_may_have_several_members_and_padding(tmp_path: Path) -> None:
    """As pigz, bgzip and tapes write it."""
    path = save(tmp_path / "x.nii.gz")
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(b"".join(gzip.compress(content[i : i + 100]) for i in range(0, len(content), 100)) + bytes(512))
    volume = open_volume(path)
    np.testing.assert_array_equal(volume.data, RAMP)
    assert volume.problems == ()
    assert volume.nifti is not None
    assert not volume.nifti.surplus


def test_a_checksum_that_is_wrong_is_damage(tmp_path: Path) -> None:
    path = save(tmp_path / "x.nii.gz")
    content = bytearray(path.read_bytes())
    content[-6] ^= 1
    path.write_bytes(content)
    with pytest.raises(BingoError, match="cannot be read"):
        read_image(path)


def test_an_image_that_does_not_fit_is_refused_with_its_size_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [
        save(tmp_path / "x.nii.gz"),
        save_nrrd(tmp_path / "x.nrrd", ""),
        save_mha(tmp_path / "x.mha"),
        tmp_path / "x.mgz",
    ]
    nib.save(nib.MGHImage(RAMP.astype(np.float32), AFFINE), files[-1])
    monkeypatch.setattr(memory, "total_bytes", lambda: 500.0)  # a toy computer
    for path in files:
        with pytest.raises(BingoError, match=rf"{path.name}: takes .* of memory, but this machine has 500 B"):
            read_image(path)
    monkeypatch.undo()
    huge = save_mha(tmp_path / "huge.mha", sizes="400000 500000 60000")
    with pytest.raises(BingoError, match=r"huge\.mha: takes 96 PB of memory"):
        read_image(huge)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_pipes_and_hidden_files_in_a_folder_wait_for_nobody(tmp_path: Path) -> None:
    save(tmp_path / "x.nii.gz")
    (tmp_path / "._x.nii.gz").write_bytes(b"what macOS leaves beside files")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "y.nii.gz").write_bytes(b"")
    for suffix in ("nii", "nii.gz", "mha"):
        os.mkfifo(tmp_path / f"pipe.{suffix}")
    checkup = look(tmp_path)
    assert checkup.files == 4
    assert [finding.where for finding in checkup.findings if "is a pipe" in finding.problem.what] == [
        "pipe.mha",
        "pipe.nii",
        "pipe.nii.gz",
    ]


def test_a_manifest_may_shout(tmp_path: Path) -> None:
    save(tmp_path / "x.nii.gz")
    save(tmp_path / "y.nii.gz", RAMP + 1)
    lines = ["split,group,subject,modality,image,label", "train,g,s,a,x.nii.gz,", "train,g,s,b,y.nii.gz,"]
    (tmp_path / "U.CSV").write_text("\n".join(lines) + "\n")
    assert look(tmp_path / "U.CSV").files == 2
