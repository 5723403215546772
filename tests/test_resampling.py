"""Images and points move the same way between any two members."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from bingo_pl.images.grids import Grid
from bingo_pl.images.resampling import (
    INTERPOLATIONS,
    TEMPLATE,
    Member,
    low_passed,
    map_points,
    pull_back,
    resample_image,
    resample_labels,
    resample_voxels,
)
from bingo_pl.images.transforms import write_transform
from tests.test_transforms import GROUP, make_case, make_grid

A, B = (make_case(name, with_affine) for name, with_affine in (("different grid", True), ("flipped", False)))
MEMBERS = {
    "a": (Member(A.forward.transform, A.inverse.transform), A.own),
    "b": (Member(B.forward.transform, B.inverse.transform), B.own),
    "template": (TEMPLATE, GROUP),
}
MIDDLE = np.array([12.0, -30, 40])
"""RAS mm, well inside of every grid."""


def places(grid: Grid) -> NDArray[np.float64]:
    """RAS mm (X, Y, Z, 3) of every voxel."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in grid.shape], indexing="ij"), axis=-1)
    return index @ grid.affine[:3, :3].T + grid.affine[:3, 3]


def centre_of_mass(image: sitk.Image) -> NDArray[np.float64]:
    weights = sitk.GetArrayFromImage(image).swapaxes(0, 2)[..., None]
    return (places(Grid.of(image)) * weights).sum((0, 1, 2)) / weights.sum()


@pytest.mark.parametrize("source", MEMBERS)
@pytest.mark.parametrize("target", MEMBERS)
def test_a_blob_and_its_centre_land_together(source: str, target: str) -> None:
    """Within a tenth of a voxel of 1.5 mm. The blob, on a fine grid, is small so that it stays round under the warp."""
    (from_member, _), (to_member, _) = MEMBERS[source], MEMBERS[target]
    (centre,) = map_points([MIDDLE], TEMPLATE, from_member)
    fine = make_grid((60, 60, 60), (0.3, 0.3, 0.3), (10, 20, 30), centre=tuple(centre.round()))
    blob = np.exp(-((places(fine) - centre) ** 2).sum(-1) / (2 * 1.2**2))
    (landed,) = map_points([centre], from_member, to_member)
    target_grid = make_grid((40, 40, 40), (0.5, 0.5, 0.5), flips=(-1, 1, 1), centre=tuple(landed.round()))
    moved = resample_image(fine.to_sitk(blob), pull_back(from_member, to_member), target_grid)
    assert np.linalg.norm(centre_of_mass(moved) - landed) < 0.15


def test_there_and_back_is_where_we_were() -> None:
    points = MIDDLE + np.random.default_rng(0).uniform(-8, 8, (50, 3))
    for member, _ in MEMBERS.values():
        moved = map_points(map_points(points, MEMBERS["a"][0], member), member, MEMBERS["a"][0])
        assert np.linalg.norm(moved - points, axis=1).mean() < 0.15  # mm, a tenth of a voxel


def test_images_come_out_on_the_targets_own_grid() -> None:
    (a, a_grid), (b, b_grid) = MEMBERS["a"], MEMBERS["b"]
    moved = resample_image(a_grid.to_sitk(np.zeros(a_grid.shape, np.int16)), pull_back(a, b), b_grid)
    np.testing.assert_allclose(Grid.of(moved).affine, b_grid.affine, atol=1e-9)
    assert moved.GetSize() == b_grid.shape
    assert moved.GetPixelID() == sitk.sitkFloat32


def test_outside_of_an_image_is_its_least_intensity() -> None:
    air = GROUP.to_sitk(np.full(GROUP.shape, -1024, np.int16))
    far = make_grid((3, 3, 3), centre=(500, 500, 500))
    assert (sitk.GetArrayFromImage(resample_image(air, TEMPLATE.forward, far)) == -1024).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32])
def test_labels_keep_dtype_and_ids(dtype: type[np.generic]) -> None:
    (a, a_grid), (b, b_grid) = MEMBERS["a"], MEMBERS["b"]
    ids = np.array([0, 3, 104], dtype)
    labels = ids[np.random.default_rng(0).integers(3, size=a_grid.shape)]
    moved = sitk.GetArrayFromImage(resample_labels(a_grid.to_sitk(labels), pull_back(a, b), b_grid))
    assert moved.dtype == dtype
    assert set(np.unique(moved)) == set(ids)


def test_labels_and_the_image_of_a_ball_agree() -> None:
    (a, a_grid), (b, b_grid) = MEMBERS["a"], MEMBERS["b"]
    ball = np.linalg.norm(places(a_grid) - MIDDLE, axis=-1) < 10
    image = resample_image(a_grid.to_sitk(ball.astype(np.float32)), pull_back(a, b), b_grid)
    labels = resample_labels(a_grid.to_sitk(ball.astype(np.uint8)), pull_back(a, b), b_grid)
    difference = (sitk.GetArrayFromImage(image) > 0.5) != sitk.GetArrayFromImage(labels)
    assert difference.mean() < 1e-3  # ties of one half


def test_members_are_read_from_files(tmp_path: Path) -> None:
    write_transform(A.forward, tmp_path / "t1.5_forward")
    write_transform(A.inverse, tmp_path / "t1.5_inverse")
    read, points = Member.read(tmp_path / "t1.5"), MIDDLE[None]
    np.testing.assert_array_equal(map_points(points, read, TEMPLATE), map_points(points, MEMBERS["a"][0], TEMPLATE))


def test_no_points_are_no_points() -> None:
    assert map_points(np.empty((0, 3)), MEMBERS["a"][0], TEMPLATE).shape == (0, 3)


@pytest.mark.parametrize("source", MEMBERS)
@pytest.mark.parametrize("target", MEMBERS)
def test_labels_are_those_of_simpleitk(source: str, target: str) -> None:
    """Which interpolates each label by itself; shares that are equal but for rounding may fall either way."""
    (from_member, from_grid), (to_member, to_grid) = MEMBERS[source], MEMBERS[target]
    ids = np.random.default_rng(0).integers(4, size=[size // 3 + 1 for size in from_grid.shape]) * 60
    labels = from_grid.to_sitk(ids.repeat(3, 0).repeat(3, 1).repeat(3, 2)[tuple(map(slice, from_grid.shape))])
    transform = pull_back(from_member, to_member)
    ours = sitk.GetArrayFromImage(resample_labels(labels, transform, to_grid))
    theirs = sitk.Resample(labels, to_grid.blank(), transform, sitk.sitkLabelLinear, 0, labels.GetPixelID())
    assert (ours == sitk.GetArrayFromImage(theirs)).mean() > 0.999
    assert len(np.unique(ours)) == 4


def test_of_equal_shares_the_lowest_label_wins() -> None:
    grid, between = make_grid((2, 2, 1)), make_grid((1, 1, 1))
    labels = grid.to_sitk(np.array([[9, 4], [7, 2]], np.uint8)[..., None])
    (voxel,) = sitk.GetArrayFromImage(resample_labels(labels, TEMPLATE.forward, between)).ravel()
    assert voxel == 2


def test_the_time_for_labels_does_not_grow_with_their_number() -> None:
    """Of 1,000 ids it was 30 times that of 2."""
    grid, seconds = make_grid((48, 48, 48)), []
    member, _ = MEMBERS["a"]
    for number in (2, 1000):
        ids = (np.indices(grid.shape).reshape(3, -1).T @ [7, 31, 101] // 9 % number).reshape(grid.shape)
        labels = grid.to_sitk(ids.astype(np.int16))
        start = time.process_time()
        resample_labels(labels, pull_back(member, TEMPLATE), grid)
        seconds.append(time.process_time() - start)
    assert seconds[1] < 4 * seconds[0]


def wave(grid: Grid, length_mm: float) -> NDArray[np.float32]:
    """(X, Y, Z) a wave along each axis of an axis-aligned grid, from 0 to 1."""
    places = np.indices(grid.shape) * grid.spacing.reshape(3, 1, 1, 1) + grid.affine[:3, 3].reshape(3, 1, 1, 1)
    whole = np.cos(2 * np.pi * places[[size > 1 for size in grid.shape]] / length_mm).mean(0)
    return ((1 + whole) / 2).astype(np.float32)


@pytest.mark.parametrize("depth", [1, 22])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_finer_interpolations_keep_more_detail_and_none_goes_below_the_least(interpolation: str, depth: int) -> None:
    """Half a voxel aside, a wave of seven voxels: its error, a share of the range, by what each is known to lose."""
    grid = make_grid((24, 26, depth))
    aside = grid.part(np.array([0.5, 0.5, 0.5 if depth > 1 else 0]), np.ones(3), (20, 20, max(depth - 4, 1)))
    low = wave(grid, 7).min()
    moved = resample_voxels(wave(grid, 7), grid, TEMPLATE.forward, aside, interpolation)
    assert moved.min() >= low
    inner = (slice(4, -4), slice(4, -4), slice(4, -4) if depth > 1 else slice(None))
    error = np.abs(moved - wave(aside, 7).clip(low))[inner].max()
    assert error < {"nearest": 0.3, "linear": 0.15, "bspline": 0.02, "lanczos": 0.02}[interpolation]
    if interpolation == "nearest":
        assert np.isin(moved, wave(grid, 7)).all()


@pytest.mark.parametrize("depth", [1, 32])
def test_what_coarser_voxels_cannot_hold_does_not_return_as_something_else(depth: int) -> None:
    """A wave of 2.1 voxels, read every third: alone it beats over the whole range; the mean is what should be seen."""
    grid = make_grid((60, 64, depth))
    coarse = grid.part(np.ones(3) * (depth > 1) + [1, 1, 0], np.array([3, 3, 3]), (18, 19, max(depth // 3 - 1, 1)))
    fine = wave(grid, 2.1)
    alone = sitk.GetArrayFromImage(resample_image(grid.to_sitk(fine), TEMPLATE.forward, coarse))
    seen = resample_voxels(fine, grid, TEMPLATE.forward, coarse)
    assert np.ptp(alone) > 0.6
    assert np.abs(seen - 0.5)[1:-1, 1:-1].max() < 0.1


def test_voxels_of_the_same_size_are_not_smoothed() -> None:
    """Nor finer ones, nor where the grid is turned."""
    grid = make_grid((24, 26, 22), (1, 1, 2))
    turned = make_grid((20, 20, 40), (1, 1, 1), (30, 20, 45))
    voxels = wave(grid, 5)
    for target in (grid, turned):
        assert low_passed(voxels, grid, TEMPLATE.forward, target) is voxels


def test_slices_that_slide_along_each_other_stay_sharp() -> None:
    """However far, and whichever way they are cut; a grid that is coarser in their plane smooths them there alone."""
    grid = make_grid((24, 26, 3), (1, 1.5, 8))
    slide = sitk.AffineTransform((1, 0, 0.7, 0, 1, -0.4, 0, 0, 1), (0, 0, 0), (0, 0, 0))
    voxels = wave(grid, 5)
    assert low_passed(voxels, grid, slide, grid) is voxels
    coarse = grid.part(np.zeros(3), np.array([3, 1, 1]), (8, 26, 3))
    expected = low_passed(voxels, grid, TEMPLATE.forward, coarse)
    np.testing.assert_allclose(low_passed(voxels, grid, slide, coarse), expected, atol=1e-5)


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_an_image_is_continued_beyond_its_border_where_that_is_wanted(interpolation: str, depth: int) -> None:
    grid = make_grid((12, 10, depth))
    wide = grid.part(np.array([-6, -6, -2]), np.ones(3), (24, 22, depth + 4))
    voxels = wave(grid, 7) + 1
    voxels[5, 5] = 0
    beyond = ((6, 6), (6, 6), (2, 2))
    moved = resample_voxels(voxels, grid, TEMPLATE.forward, wide, interpolation, continued=True)
    np.testing.assert_allclose(moved, np.pad(voxels, beyond, "edge"), atol=1e-4)
    moved = resample_voxels(voxels, grid, TEMPLATE.forward, wide, interpolation)
    np.testing.assert_allclose(moved, np.pad(voxels, beyond), atol=1e-4)


def test_cubic_splines_of_two_slices_read_nothing_beyond_them() -> None:
    """Whatever was in memory: between two slices, and half a voxel beyond, lies what they are mirrored to."""
    grid = make_grid((8, 8, 2))
    voxels = np.stack([np.full((8, 8), 1.0), np.full((8, 8), 3.0)], -1).astype(np.float32)
    for place, expected in ((0.0, 1), (0.5, 2), (1.0, 3)):
        at = grid.part(np.array([0, 0, place]), np.ones(3), (8, 8, 1))
        np.testing.assert_allclose(resample_voxels(voxels, grid, TEMPLATE.forward, at, "bspline"), expected, atol=1e-4)
    halves = [grid.part(np.array([0, 0, place]), np.ones(3), (8, 8, 1)) for place in (0.6, 1.4)]
    inner, outer = (resample_voxels(voxels, grid, TEMPLATE.forward, half, "bspline") for half in halves)
    np.testing.assert_allclose(inner, outer, atol=1e-4)
