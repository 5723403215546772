"""Written transforms, applied by SimpleITK alone, do what our own warping does."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation
from torch import Tensor

from bingo_pl import BingoError
from bingo_pl.images.fields import forward_and_inverse
from bingo_pl.images.grids import LPS, Grid
from bingo_pl.images.transforms import FieldTransform, read_transform, write_transform
from bingo_pl.seeding import generator
from bingo_pl.spatial import free_form_displacement, identity, integrate, sample
from tests.conftest import smooth

RANGE_TOLERANCE = 1e-5
"""Of the intensity range. Headers and NIfTI fields are float32; 7e-7 was measured, 1e-3 is promised."""
RETURN_TOLERANCE = 0.06
"""Voxels of the group grid: both fields are interpolated linearly. 0.04 was measured, 0.1 is promised."""


def make_grid(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float] = (1, 1, 1),
    degrees: tuple[float, float, float] = (0, 0, 0),
    flips: tuple[int, int, int] = (1, 1, 1),
    centre: tuple[float, float, float] = (12, -30, 40),
) -> Grid:
    """A grid around a centre in RAS mm."""
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix() * np.multiply(spacing, flips)
    affine[:3, 3] = centre - affine[:3, :3] @ (np.array(shape) - 1) / 2
    return Grid(shape, affine)


GROUP = make_grid((24, 20, 18), (1.5, 1.5, 1.5))
PAIRS = {
    "isotropic": (GROUP, GROUP),
    "anisotropic": (make_grid((24, 20, 10), (1, 1.5, 4)), make_grid((24, 20, 10), (1, 1.5, 4))),
    "oblique": (make_grid((20, 20, 16), (1, 1, 2), (20, -15, 30)), make_grid((20, 20, 16), (1, 1, 2), (20, -15, 30))),
    "left-handed": (make_grid((20, 22, 16), flips=(-1, 1, 1)), make_grid((20, 22, 16), flips=(-1, 1, 1))),
    "flipped": (GROUP, make_grid((24, 20, 18), (1.5, 1.5, 1.5), flips=(-1, -1, 1))),
    "different grid": (GROUP, make_grid((40, 25, 9), (1, 2, 5), (-25, 10, 60), (1, -1, 1), (14, -32, 41))),
    "2D": (make_grid((28, 24, 1), (1.5, 2, 1)), make_grid((28, 24, 1), (1.5, 2, 1))),
    "2D, oblique, flipped, different grid": (
        make_grid((28, 24, 1), (1.5, 2, 1), (0, 0, 30)),
        make_grid((50, 40, 1), (1, 1.2, 1), (0, 0, -20), (1, -1, 1)),
    ),
}
TILT = {2: (0, 0, 8), 3: (6, -5, 8)}


def affine_stage(group: Grid) -> NDArray[np.float64]:
    """A rotation about the group's middle with scaling and a shift; within the plane in 2D."""
    dims = 3 - (group.shape[2] == 1)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", TILT[dims], degrees=True).as_matrix()
    affine[:dims, :dims] *= 1.1
    middle = (group.affine @ [*(np.array(group.shape) - 1) / 2, 1])[:3]
    affine[:3, 3] = middle - affine[:3, :3] @ middle
    affine[:2, 3] += (2.3, -1.7)
    return affine


def draw(group: Grid, size: float = 2.0) -> tuple[Tensor, Tensor]:
    """A smooth random diffeomorphism of a few voxels and its inverse, (D, *S) each, moving the border too."""
    shape = [length for length in group.shape if length > 1]
    control = torch.randn(1, len(shape), *[(n - 1) // 8 + 4 for n in shape], generator=generator("control", *shape))
    velocity = free_form_displacement(size * control.double(), 8, shape)
    return integrate(velocity)[0], integrate(-velocity)[0]


def warp_to_group(image: Tensor, case: Case) -> tuple[Tensor, Tensor]:
    """An image (*S) on its own grid, registered by our own interpolation, and where that is in its field of view."""
    displacement, dims = case.displacement, len(case.displacement)
    affine = np.eye(4) if case.affine is None else case.affine
    to_own = torch.from_numpy(np.linalg.inv(case.own.affine) @ affine @ case.group.affine)
    points = (identity(displacement.shape[1:], displacement) + displacement).flatten(1)
    points = to_own[:dims, :dims] @ points + to_own[:dims, 3:]
    last = torch.tensor([n - 1 for n in image.shape])[:, None]
    inside = ((points >= 0) & (points <= last)).all(0).reshape(displacement.shape[1:])
    points = points.reshape(1, *displacement.shape)
    return sample(image[None, None], points)[0, 0], inside


def sitk_field(path: Path) -> sitk.Transform:
    """What a user of SimpleITK does with a NIfTI displacement field."""
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(path), sitk.sitkVectorFloat64))


def points_in(grid: Grid, count: int = 1000) -> NDArray[np.float64]:
    """Random points (count, 3) in a grid's field of view, LPS mm."""
    index = np.random.default_rng(0).uniform(0, np.array(grid.shape) - 1, (count, 3))
    return (index @ grid.affine[:3, :3].T + grid.affine[:3, 3]) @ LPS[:3, :3]


def map_all(transform: sitk.Transform, points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([transform.TransformPoint(point) for point in points.tolist()])


def distance_in_voxels(first: NDArray[np.float64], second: NDArray[np.float64], grid: Grid) -> NDArray[np.float64]:
    return np.linalg.norm((first - second) @ LPS[:3, :3] @ np.linalg.inv(grid.affine[:3, :3]).T, axis=1)


@dataclass(frozen=True)
class Case:
    group: Grid
    own: Grid
    displacement: Tensor
    affine: NDArray[np.float64] | None
    forward: FieldTransform
    inverse: FieldTransform


def make_case(name: str, with_affine: bool, size: float = 2.0) -> Case:
    group, own = PAIRS[name]
    affine = affine_stage(group) if with_affine else None
    displacement, inverse = draw(group, size)
    return Case(group, own, displacement, affine, *forward_and_inverse(displacement, inverse, group, own, affine))


@pytest.fixture(params=itertools.product(PAIRS, (False, True)), ids=lambda p: f"{p[0]}{', affine' * p[1]}")
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(*request.param)


def test_simpleitk_alone_agrees_with_our_warp(case: Case, tmp_path: Path) -> None:
    write_transform(case.forward, tmp_path / "forward")
    image = smooth(tuple(n for n in case.own.shape if n > 1), "image").double()
    nib.save(nib.Nifti1Image(image.reshape(case.own.shape).numpy(), case.own.affine), tmp_path / "image.nii")
    nib.save(nib.Nifti1Image(np.zeros(case.group.shape, np.uint8), case.group.affine), tmp_path / "group.nii")
    expected, inside = warp_to_group(image, case)
    assert inside.float().mean() > 0.5

    moving, fixed = (sitk.ReadImage(str(tmp_path / f"{name}.nii")) for name in ("image", "group"))
    for transform in (sitk.ReadTransform(str(tmp_path / "forward.h5")), sitk_field(tmp_path / "forward.nii.gz")):
        resampled = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear))
        error = torch.from_numpy(resampled.swapaxes(0, 2)).reshape(expected.shape) - expected
        assert error[inside].abs().max() < RANGE_TOLERANCE * (image.max() - image.min())


def test_forward_then_inverse_returns(case: Case, tmp_path: Path) -> None:
    write_transform(case.forward, tmp_path / "forward")
    write_transform(case.inverse, tmp_path / "inverse")
    in_group, in_image = points_in(case.group), points_in(case.own)
    for suffix in (".h5", ".nii.gz"):
        forward, inverse = (read_transform(tmp_path / f"{name}{suffix}") for name in ("forward", "inverse"))
        there_and_back = map_all(inverse, map_all(forward, in_group))
        assert distance_in_voxels(there_and_back, in_group, case.group).mean() < RETURN_TOLERANCE
        back_and_there = map_all(forward, map_all(inverse, in_image))
        assert distance_in_voxels(back_and_there, in_image, case.group).mean() < RETURN_TOLERANCE


def test_strong_displacements_return_better_than_the_networks_inverse() -> None:
    """The inverse of a scaling and squaring is not exact; ours must not inherit that."""
    case = make_case("isotropic", with_affine=False, size=6)
    points = points_in(case.group)
    returned = map_all(case.inverse.transform, map_all(case.forward.transform, points))
    assert case.displacement.abs().max() > 5
    assert distance_in_voxels(returned, points, case.group).mean() < RETURN_TOLERANCE


@pytest.mark.parametrize("with_affine", [False, True])
def test_outside_the_group_the_transform_neither_tears_nor_folds(with_affine: bool) -> None:
    """Along a line out of the group every step of 0.1 mm leads on; far away only the affine stage is left."""
    case = make_case("isotropic", with_affine)
    ray = np.linspace(points_in(case.group, 1)[0], [200.0, 150.0, 100.0], 3000)
    affine = np.eye(4) if case.affine is None else case.affine
    for transform, stage in ((case.forward, affine), (case.inverse, np.linalg.inv(affine))):
        moved = map_all(transform.transform, ray)
        steps = np.diff(moved, axis=0)
        length = np.linalg.norm(ray[1] - ray[0])
        assert np.linalg.norm(steps, axis=1).max() < 2 * length
        assert (steps @ (moved[-1] - moved[0]) > 0).all()
        far = ray[-1] @ LPS[:3, :3] @ stage[:3, :3].T + stage[:3, 3]
        np.testing.assert_allclose(moved[-1], far @ LPS[:3, :3], atol=1e-9)


def test_a_displacement_is_exact_at_the_voxels_of_the_group() -> None:
    case = make_case("different grid", with_affine=True)
    voxel = (5, 7, 11)
    moved = np.array(voxel) + case.displacement[:, *voxel].numpy()
    expected = LPS @ case.affine @ case.group.affine @ [*moved, 1]
    point = (LPS @ case.group.affine @ [*voxel, 1])[:3]
    np.testing.assert_allclose(case.forward.transform.TransformPoint(point.tolist()), expected[:3], atol=1e-9)


def test_nifti_field_has_the_documented_layout(tmp_path: Path) -> None:
    case = make_case("2D", with_affine=False)
    write_transform(case.forward, tmp_path / "forward")
    field = nib.load(tmp_path / "forward.nii.gz")
    assert field.shape[3:] == (1, 3)
    assert int(field.header["intent_code"]) == 1007
    assert field.get_data_dtype() == np.float32
    assert field.header.get_xyzt_units()[0] == "mm"
    np.testing.assert_allclose(field.get_sform(), field.get_qform(), atol=1e-5)
    assert not field.get_fdata()[..., 2].any()


def test_both_files_say_the_same(tmp_path: Path) -> None:
    case = make_case("oblique", with_affine=True)
    write_transform(case.forward, tmp_path / "forward")
    points = points_in(case.group)
    exact, sampled = (map_all(read_transform(tmp_path / f"forward{suffix}"), points) for suffix in (".h5", ".nii.gz"))
    np.testing.assert_allclose(sampled, exact, atol=1e-5)  # mm; float32


@pytest.mark.parametrize("with_affine", [False, True])
def test_the_file_is_a_flat_composite_whatever_its_parts(with_affine: bool, tmp_path: Path) -> None:
    """Programs that read composites alone read all."""
    write_transform(make_case("2D", with_affine).forward, tmp_path / "forward")
    parts = sitk.CompositeTransform(sitk.ReadTransform(str(tmp_path / "forward.h5")))
    kinds = [type(parts.GetNthTransform(i).Downcast()) for i in range(parts.GetNumberOfTransforms())]
    assert kinds == [sitk.AffineTransform] * with_affine + [sitk.DisplacementFieldTransform]


def test_an_interrupted_write_leaves_the_old_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case("2D", with_affine=False)
    (tmp_path / "forward.h5").write_text("old")

    def half(transform: sitk.Transform, path: str) -> None:
        Path(path).write_text("hal")
        raise RuntimeError("disk is full")

    monkeypatch.setattr(sitk, "WriteTransform", half)
    with pytest.raises(BingoError, match=r"cannot write .*forward\.h5: disk is full"):
        write_transform(case.forward, tmp_path / "forward")
    assert [path.name for path in tmp_path.iterdir()] == ["forward.h5"]
    assert (tmp_path / "forward.h5").read_text() == "old"


@pytest.mark.parametrize("name", ["absent.h5", "damaged.h5", "damaged.nii.gz", "image.nii.gz", "flat.tfm"])
def test_unusable_files_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "damaged.h5").write_text("no transform")
    (tmp_path / "damaged.nii.gz").write_text("no image")
    nib.save(nib.Nifti1Image(np.zeros((4, 4, 4)), np.eye(4)), tmp_path / "image.nii.gz")
    sitk.WriteTransform(sitk.Euler2DTransform(), str(tmp_path / "flat.tfm"))
    with pytest.raises(BingoError, match=name):
        read_transform(tmp_path / name)
