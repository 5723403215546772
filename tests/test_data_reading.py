"""Every kind of bad image file gets an error that names it, every good one comes out the same."""

from __future__ import annotations

import re
import struct
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torchio as tio

from bingo_pl.errors import BingoError
from bingo_pl.images.reading import read_image, read_labels, read_mask, read_series, read_voxels
from bingo_pl.images.transforms import read_transform

RAMP = np.arange(4 * 5 * 6).reshape(4, 5, 6)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
PIXDIM_OFFSET, SLOPE_OFFSET = 80, 112  # bytes into a NIfTI-1 header: pixdim[1], scl_slope


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def patch_header(path: Path, offset: int, value: float) -> Path:
    content = bytearray(path.read_bytes())
    struct.pack_into("<f", content, offset, value)
    path.write_bytes(content)
    return path


@pytest.fixture
def image(tmp_path: Path) -> tio.ScalarImage:
    return read_image(save(tmp_path / "image.nii.gz", RAMP.astype(np.int16)))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_any_real_type_is_read_alike(tmp_path: Path, dtype: str) -> None:
    read = read_image(save(tmp_path / "a b ü.nii.gz", RAMP.astype(dtype)))
    np.testing.assert_array_equal(read.numpy()[0], RAMP)
    np.testing.assert_array_equal(read.affine, AFFINE)


@pytest.mark.parametrize("shape", [(4, 30), (4, 30, 1), (4, 5, 6, 1), (4, 5, 6, 1, 1)])
def test_trailing_ones_are_dropped_and_2d_gets_a_third_axis(tmp_path: Path, shape: tuple[int, ...]) -> None:
    read = read_image(save(tmp_path / "x.nii", RAMP.reshape(shape).astype(np.float32)))
    assert read.spatial_shape == (*shape, 1)[:3]


def test_formats_of_itk_are_read_like_nifti(tmp_path: Path) -> None:
    nifti = save(tmp_path / "x.nii.gz", RAMP.astype(np.float32))
    for suffix in ("mha", "nrrd"):
        sitk.WriteImage(sitk.ReadImage(str(nifti)), str(tmp_path / f"x.{suffix}"))
        read = read_image(tmp_path / f"x.{suffix}")
        np.testing.assert_array_equal(read.numpy()[0], RAMP)
        np.testing.assert_allclose(read.affine, AFFINE, atol=1e-6)  # float32 header


@pytest.mark.parametrize("slope", [0.0, float("nan")])
def test_a_meaningless_slope_means_no_scaling(tmp_path: Path, slope: float) -> None:
    path = patch_header(save(tmp_path / "x.nii", RAMP.astype(np.int16)), SLOPE_OFFSET, slope)
    np.testing.assert_array_equal(read_image(path).numpy()[0], RAMP)


def test_nonfinite_voxels_are_counted_or_filled(tmp_path: Path) -> None:
    data = RAMP.astype(np.float32)
    data[0, 0, :2] = np.nan, np.inf
    path = save(tmp_path / "x.nii", data)
    with pytest.raises(BingoError, match=r"x\.nii: 2 of 120 voxels are NaN or Inf"):
        read_image(path)
    assert read_image(path, fill_nonfinite=7).numpy()[0, 0, 0, :2].tolist() == [7, 7]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (np.full((4, 5, 6), 3.0), "every voxel is 3"),
        (RAMP.reshape(4, 5, 3, 2).astype(np.float32), "Split a 4D file"),
        (RAMP.astype(np.complex64), "one real number per voxel"),
        (np.zeros((4, 5, 6), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")]), "one real number per voxel"),
    ],
)
def test_images_that_cannot_be_used_are_refused_by_name(tmp_path: Path, data: np.ndarray, message: str) -> None:
    with pytest.raises(BingoError, match=rf"x\.nii: .*{message}"):
        read_image(save(tmp_path / "x.nii", data))


@pytest.mark.parametrize("spacing", [0.0, -1.0, float("nan")])
def test_an_impossible_voxel_size_is_refused(tmp_path: Path, spacing: float) -> None:
    path = patch_header(save(tmp_path / "x.nii", RAMP.astype(np.int16)), PIXDIM_OFFSET, spacing)
    with pytest.raises(BingoError, match=r"x\.nii: .*pixdim"):
        read_image(path)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.mha"])
def test_damaged_and_missing_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    with pytest.raises(BingoError, match="no such file"):
        read_image(path)
    path.write_bytes(b"no image")
    with pytest.raises(BingoError, match="cannot be read"):
        read_image(path)


@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz"])
def test_a_truncated_file_is_refused(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 99, (20, 20, 20)).astype(np.int16)  # does not compress to nothing
    path = save(tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(BingoError, match="cannot be read"):
        read_image(path)


def test_disagreeing_geometries_are_reported_and_the_sform_is_used(tmp_path: Path) -> None:
    nifti = nib.Nifti1Image(RAMP.astype(np.int16), AFFINE)
    moved = AFFINE.copy()
    moved[0, 3] = 10
    nifti.set_qform(moved, 1)
    nifti.set_sform(AFFINE, 2)
    nib.save(nifti, tmp_path / "x.nii")
    with pytest.warns(UserWarning, match=r"x\.nii: sform and qform differ by up to 10\.0 mm; the sform"):
        read = read_image(tmp_path / "x.nii")
    np.testing.assert_array_equal(read.affine, AFFINE)


def test_a_sheared_sform_yields_to_the_qform_or_is_refused(tmp_path: Path) -> None:
    sheared = AFFINE.copy()
    sheared[0, 1] = 1
    nifti = nib.Nifti1Image(RAMP.astype(np.int16), AFFINE)
    nifti.set_sform(sheared, 2)
    for code, path in ((1, tmp_path / "q.nii"), (0, tmp_path / "s.nii")):
        nifti.set_qform(AFFINE, code)
        nib.save(nifti, path)
    with pytest.warns(UserWarning, match="the qform is used"):
        np.testing.assert_array_equal(read_image(tmp_path / "q.nii").affine, AFFINE)
    with pytest.raises(BingoError, match="sheared"):
        read_image(tmp_path / "s.nii")


def test_labels_are_rounded_relabelled_and_checked(tmp_path: Path, image: tio.ScalarImage) -> None:
    path = save(tmp_path / "l.nii", (RAMP % 4 * 1.0000001).astype(np.float64))
    labels = read_labels(path, image, [1, 2, 4], {3: 4})
    np.testing.assert_array_equal(labels.numpy()[0], np.array([0, 1, 2, 4])[RAMP % 4])
    assert set(np.unique(read_labels(path, image, [1, 2], {3: 0}).numpy())) == {0, 1, 2}
    with pytest.raises(BingoError, match=r"l\.nii: label ids \[3\]"):
        read_labels(path, image, [1, 2, 4])
    with pytest.raises(BingoError, match="interpolated"):
        read_labels(save(tmp_path / "f.nii", RAMP / 2), image, [1])


def test_labels_must_lie_on_the_grid_of_their_image(tmp_path: Path, image: tio.ScalarImage) -> None:
    ones = np.ones((4, 5, 6), np.uint8)
    with pytest.raises(BingoError, match=r"\(4, 5, 5\) voxels, its image \(4, 5, 6\)"):
        read_labels(save(tmp_path / "l.nii", ones[..., 1:]), image, [1])
    moved = AFFINE.copy()
    moved[2, 3] = 0.4  # less than half of the smallest voxel size: header noise
    read = read_labels(save(tmp_path / "l.nii", ones, moved), image, [1])
    np.testing.assert_array_equal(read.affine, image.affine)
    moved[2, 3] = 5
    with pytest.raises(BingoError, match=r"5\.0 mm from its image"):
        read_labels(save(tmp_path / "l.nii", ones, moved), image, [1])


def test_an_empty_mask_is_refused(tmp_path: Path, image: tio.ScalarImage) -> None:
    with pytest.raises(BingoError, match="mask is empty"):
        read_mask(save(tmp_path / "m.nii", np.zeros((4, 5, 6), np.uint8)), image)


@pytest.mark.filterwarnings("error")
def test_numbers_beyond_single_precision_are_named(tmp_path: Path) -> None:
    values = np.ones((4, 4, 4))
    values[0, 0] = 1e300
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "x.nii")
    with pytest.raises(BingoError, match=r"4 of 64 voxels are beyond 3\.4e38"):
        read_image(tmp_path / "x.nii")


@pytest.mark.parametrize("ending", ["tfm", "nrrd"])
def test_what_itk_says_is_its_reason_alone(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"x.{ending}").write_text("no such thing")
    with pytest.raises(BingoError, match="cannot be read") as told:
        read_transform(tmp_path / "x.tfm") if ending == "tfm" else read_image(tmp_path / "x.nrrd")
    assert not re.search(r"SimpleITK|0x|\.cxx|\n", str(told.value))


@pytest.mark.parametrize("volumes", [1, 3])
def test_values_that_wrapped_are_read_as_unsigned_with_a_warning_and_strong_edges_are_none(
    tmp_path: Path, volumes: int
) -> None:
    """Smooth intensities up to 50,000 in signed 16 bits; the same ones, squeezed into them, with padding and noise."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, size) for size in (20, 18, 8)), indexing="ij")
    true = np.repeat((50_000 * np.exp(-2 * (x**2 + y**2 + z**2)))[..., None], volumes, -1)
    read = read_voxels if volumes == 1 else read_series
    nib.save(nib.Nifti1Image(true.astype(np.int32).astype(np.int16), np.eye(4)), tmp_path / "w.nii.gz")
    with pytest.warns(UserWarning, match=r"w\.nii\.gz: .*wrapped") as told:
        values, _ = read(tmp_path / "w.nii.gz")
    assert len(told) == 1
    np.testing.assert_array_equal(values.reshape(true.shape), true.astype(int))
    draw = np.random.default_rng(0)
    body = (true > 15_000) * draw.integers(0, 2**16, true.shape)
    for sound in (true * 65_000 / 50_000, body, draw.integers(0, 2**16, true.shape), (true > 9000) * 65_535):
        nib.save(nib.Nifti1Image((sound - 2**15).astype(np.int16), np.eye(4)), tmp_path / "s.nii.gz")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            read(tmp_path / "s.nii.gz")
