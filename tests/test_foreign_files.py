"""Files that people really have, registered and applied: units, byte orders, slices along any axis, sizes."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchio as tio
from numpy.typing import NDArray

from bingo_pl import BingoError, memory, register
from bingo_pl.data_modules.cases import to_spacing
from bingo_pl.images.grids import Grid
from bingo_pl.images.intensity import foreground, rescale
from bingo_pl.images.resampling import low_passed, to_array
from bingo_pl.images.scans import Images, grid_around, group_grid, read_scan
from bingo_pl.images.transforms import FieldTransform, read_transform, write_transform
from bingo_pl.registration.apply import apply

from .conftest import smooth
from .test_register import OBLIQUE, make_checkpoint, report_without_pictures, write
from .test_transforms import make_case, make_grid, map_all, points_in

__all__ = ["report_without_pictures"]  # a fixture
UNITS_MM = {"mm": 1.0, "micron": 1e-3, "meter": 1e3}
OTHER = OBLIQUE @ np.diag([0.9, 1.2, 1, 1.0])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model.ckpt", 2)


def in_unit(path: Path, unit: str) -> Path:
    """The same image with its header in another unit of length."""
    image = nib.load(path)
    affine = image.affine.copy()
    affine[:3] /= UNITS_MM[unit]
    changed = nib.Nifti1Image(np.asanyarray(image.dataobj), affine)
    changed.header.set_xyzt_units(unit)
    nib.save(changed, path)
    return path


@pytest.fixture(scope="module")
def plain(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registration of two slices, all in mm."""
    folder = tmp_path_factory.mktemp("plain")
    images = {"a": write(folder / "a.nii.gz", OBLIQUE), "b": write(folder / "b.nii.gz", OTHER, 0.4, (44, 30))}
    return register(images, model, refine=0).write(folder / "out")


@pytest.mark.parametrize("units", [("micron", "micron"), ("meter", "meter"), ("mm", "micron")])
def test_units_change_no_registration_and_simpleitk_repeats_it(
    model: Path, plain: Path, tmp_path: Path, units: tuple[str, str]
) -> None:
    paths = {
        "a": in_unit(write(tmp_path / "a.nii.gz", OBLIQUE), units[0]),
        "b": in_unit(write(tmp_path / "b.nii.gz", OTHER, 0.4, (44, 30)), units[1]),
    }
    group = register(paths, model, refine=0)
    out = group.write(tmp_path / "out")
    for name, path in paths.items():
        written = out / "registered" / f"{name}.nii.gz"
        ours, in_mm = nib.load(written), nib.load(plain / "registered" / f"{name}.nii.gz")
        np.testing.assert_allclose(ours.get_fdata(), in_mm.get_fdata(), atol=1)  # of 1000; headers are float32
        assert ours.header.get_xyzt_units()[0] == "mm"
        transform = sitk.ReadTransform(str(out / "transforms" / f"{name}_forward.h5"))
        original = sitk.ReadImage(str(path), sitk.sitkFloat32)
        lowest, target = float(sitk.GetArrayViewFromImage(original).min()), sitk.ReadImage(str(written))
        own = Grid.of(original)  # finer than the model's
        smooth = own.to_sitk(low_passed(to_array(original), own, transform, Grid.of(target)))
        theirs = sitk.Resample(smooth, target, transform, sitk.sitkLinear, lowest)
        np.testing.assert_allclose(sitk.GetArrayFromImage(theirs).T, ours.get_fdata(), atol=1)


def test_further_files_in_another_unit_go_to_the_same_place(plain: Path, tmp_path: Path) -> None:
    further = write(tmp_path / "a.nii.gz", OBLIQUE)
    apply(plain, "a", "b", further, tmp_path / "mm.nii.gz", False, None)
    apply(plain, "a", "b", in_unit(further, "micron"), tmp_path / "micron.nii.gz", False, None)
    mm, micron = (nib.load(tmp_path / f"{unit}.nii.gz") for unit in ("mm", "micron"))
    np.testing.assert_allclose(micron.get_fdata(), mm.get_fdata(), atol=1)  # of 1000
    np.testing.assert_array_equal(micron.affine, mm.affine)


def test_a_nifti_field_in_another_unit_is_the_same_transform(tmp_path: Path) -> None:
    case = make_case("oblique", with_affine=False)
    write_transform(FieldTransform(case.forward.transform, case.forward.grid), tmp_path / "mm")
    field = nib.load(tmp_path / "mm.nii.gz")
    affine = field.affine.copy()
    affine[:3] *= 1000
    other = nib.Nifti1Image(field.get_fdata(dtype=np.float32), affine)
    other.header.set_intent(1007)
    other.header.set_xyzt_units("micron")
    nib.save(other, tmp_path / "micron.nii.gz")
    points = points_in(case.group)
    mm, micron = (map_all(read_transform(tmp_path / f"{unit}.nii.gz"), points) for unit in ("mm", "micron"))
    np.testing.assert_allclose(micron, mm, atol=1e-4)


@pytest.mark.parametrize("kind", [">i2", ">u4", ">f4", ">f8", ">i8"])
@pytest.mark.parametrize("labels", [False, True])
def test_any_byte_order_and_type_is_applied_and_registered(
    plain: Path, tmp_path: Path, kind: str, labels: bool
) -> None:
    data = (smooth((40, 36), "ids").numpy()[..., None] > 0.5).astype(kind)
    for name, stored in (("native", data.astype(np.float32)), ("foreign", data)):
        image = nib.Nifti1Image(stored, OBLIQUE, nib.Nifti1Header(endianness=">" if name == "foreign" else "<"))
        image.set_data_dtype(stored.dtype)
        nib.save(image, tmp_path / f"{name}.nii.gz")
        apply(plain, "a", "template", tmp_path / f"{name}.nii.gz", tmp_path / f"{name}_out.nii.gz", labels, None)
    native, foreign = (nib.load(tmp_path / f"{name}_out.nii.gz").get_fdata() for name in ("native", "foreign"))
    assert native.any()
    np.testing.assert_array_equal(foreign, native)
    source = (smooth((40, 36), "image").numpy().astype(np.float64), OBLIQUE)
    for label in ((data, OBLIQUE), tmp_path / "foreign.nii.gz"):
        scan = read_scan("a", "a", source, None, label)
        assert scan.label is not None
        assert scan.label.dtype.isnative
        np.testing.assert_array_equal(scan.label, data)


@pytest.mark.parametrize("axis", [0, 1])
def test_slices_along_another_axis_register_alike_from_files_and_memory(
    model: Path, plain: Path, tmp_path: Path, axis: int
) -> None:
    stored: dict[str, tuple[NDArray, NDArray]] = {}
    for name in "ab":
        image = nib.load(plain.parent / f"{name}.nii.gz")
        order = [0, 1]
        order.insert(axis, 2)
        stored[name] = (image.get_fdata(dtype=np.float32).transpose(order), image.affine[:, [*order, 3]])
        nib.save(nib.Nifti1Image(*stored[name]), tmp_path / f"{name}.nii.gz")
    ways: list[Images] = [
        {name: tmp_path / f"{name}.nii.gz" for name in stored},
        stored,
        {name: tio.ScalarImage(tensor=array[None], affine=affine) for name, (array, affine) in stored.items()},
    ]
    expected = nib.load(plain / "registered" / "b.nii.gz").get_fdata()
    for way in ways:
        registered = register(way, model, refine=0)["b"].image
        np.testing.assert_allclose(registered.astype(float), expected, atol=1)  # of 1000


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (-1, 7)])
def test_binary_images_are_images(tmp_path: Path, values: tuple[int, int]) -> None:
    inside = smooth((40, 36), "silhouette").numpy()[..., None] > 0.6
    scan = read_scan("a", "a", (np.where(inside, values[1], values[0]), OBLIQUE), None, None)
    np.testing.assert_array_equal(scan.unit.numpy()[0], inside)
    assert foreground(scan.image.data).all()


def test_a_group_grid_that_does_not_fit_is_refused_before_it_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).random((8, 8, 8))
    scans = [read_scan(name, name, (noise, np.diag([1000.0, 1000, 1000, 1])), None, None) for name in "ab"]
    stages = [np.eye(4)] * 2
    with pytest.raises(BingoError, match=r"group grid would have 800000 x .* of 0\.01 x .* at least 14\.3 EB of"):
        group_grid(scans, stages, 0.01, 3, 16)
    boxes = [scan.foreground_box() for scan in scans]
    grid = group_grid(scans, stages, 500.0, 3, 16)
    monkeypatch.setattr(memory, "total_bytes", lambda: 1.5 * 28 * 16**3)  # room for one image
    assert grid_around(scans[0].grid, boxes, stages, 500.0, 3, 16).shape == grid.shape
    with pytest.raises(BingoError, match=r"group grid of 2 images .*at least .* of memory"):
        group_grid(scans, stages, 500.0, 3, 16)


def test_a_group_that_the_network_cannot_take_at_once_is_refused_before_it_starts(
    model: Path, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = {name: plain.parent / f"{name}.nii.gz" for name in "ab"}
    monkeypatch.setattr(
        memory, "total_bytes", lambda: 5e5
    )  # for the images, but not for what the network makes of them
    with pytest.raises(BingoError, match=r"group grid of 2 images would have 32 x 32 .* of memory.* Stream the group"):
        register(images, model, refine=0, device="cpu")
    monkeypatch.undo()
    register(images, model, refine=0, device="cpu")


@pytest.mark.parametrize("slices", [2, 3, 4, 5])
def test_a_slab_thinner_than_the_models_voxels_is_on_the_group_grid(slices: int) -> None:
    noise = np.random.default_rng(0).random((20, 20, slices))
    scan = read_scan("a", "a", (noise, np.diag([1.0, 1, 1, 1])), None, None)
    grid = group_grid([scan], [np.eye(4)], 4.0, 3, 16)
    image, inside = scan.sampled(np.eye(4), grid)
    assert inside.any(axis=(0, 1)).sum() >= 1
    assert image[inside].std() > 0.1


def test_images_far_smaller_than_the_models_voxels_are_refused() -> None:
    noise = np.random.default_rng(0).random((8, 8, 8))
    scan = read_scan("a", "a", (noise, np.diag([0.1, 0.1, 0.1, 1])), None, None)
    with pytest.raises(BingoError, match=r"show 0\.8 mm, 0\.4 of the 2 mm voxels"):
        group_grid([scan], [np.eye(4)], 2.0, 3, 16)


def test_an_inverse_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "total_bytes", lambda: 1e4)
    with pytest.raises(BingoError, match="inverse displacement over the image would have"):
        make_case("oblique", with_affine=False)


def test_training_resamples_nothing_that_does_not_fit() -> None:
    image = tio.ScalarImage(tensor=torch.rand(1, 9, 9, 9), affine=np.diag([1000.0, 1000, 1000, 1]))
    subject = tio.Subject(image0=rescale(image, Path("x.nii")))
    with pytest.raises(BingoError, match=r"x\.nii: shows 9e\+03 x .* takes .* of memory, but this machine has"):
        to_spacing(subject, [0.1] * 3, Path("x.nii"))
    assert to_spacing(subject, [500.0] * 3, Path("x.nii"))(subject).spatial_shape == (18, 18, 18)


def test_the_grid_of_a_file_says_its_size_in_words() -> None:
    assert str(make_grid((4, 5, 6), (0.5, 1, 2))) == "4 x 5 x 6 voxels of 0.5 x 1 x 2 mm"
