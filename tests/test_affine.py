"""Images that were moved by known maps come back; what does not show the same place is refused."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from bingo_pl import BingoError
from bingo_pl.images import itk_alignment
from bingo_pl.images.affine import affine_stage, overlap
from bingo_pl.images.grids import Grid
from bingo_pl.images.scans import Scan, read_scan

from .test_resampling import places
from .test_transforms import make_grid

CENTRE = np.array([12.0, -30, 40])
"""RAS mm."""
LUMPS = np.random.default_rng(1).uniform(-18, 18, (30, 3)) * (1, 1.2, 0.9)
GRIDS = {
    2: make_grid((60, 64, 1), (1.5, 1.5, 3), (10, -20, 15)),
    3: make_grid((40, 44, 36), (2, 2, 2.2), (10, -20, 15)),
}


def head(points_mm: NDArray, contrast: str) -> NDArray:
    """An ellipsoid with lumps at places RAS mm (..., 3), 0 outside of it, in one of two contrasts."""
    offset = points_mm - CENTRE
    lumps = sum(np.exp(-((offset - lump) ** 2).sum(-1) / (2 * 5**2)) for lump in LUMPS)
    inside = ((offset / (28, 34, 26)) ** 2).sum(-1) < 1
    return np.where(inside, {"a": 0.2 + lumps, "b": 1.5 - 0.6 * lumps}[contrast], 0.0)


def move(grid: Grid, millimetres: float, degrees: float, scale: float = 1.0) -> NDArray:
    """A (4, 4) map of RAS mm about the head; within the plane of a 2D grid."""
    turn = Rotation.from_rotvec(np.deg2rad(degrees) * grid.directions[:, 2]).as_matrix()
    direction = grid.directions @ ([0.8, -0.6, 0] if grid.shape[2] == 1 else [0.7, -0.5, 0.5])
    affine = np.eye(4)
    affine[:3, :3] = scale * turn if grid.shape[2] > 1 else turn
    affine[:3, 3] = CENTRE - affine[:3, :3] @ CENTRE + millimetres * direction / np.linalg.norm(direction)
    return affine


def image(grid: Grid, contrast: str, moved: NDArray | None = None) -> tuple[NDArray, NDArray]:
    """The head on a grid, after a map."""
    back = np.linalg.inv(np.eye(4) if moved is None else moved)
    return head(places(grid) @ back[:3, :3].T + back[:3, 3], contrast), grid.affine


def scan(grid: Grid, contrast: str, moved: NDArray | None = None) -> Scan:
    return read_scan(contrast, contrast, image(grid, contrast, moved), None, None)


def error_mm(first: Scan, affine: NDArray, truth: NDArray) -> float:
    """Mean distance over the foreground of where two maps lead."""
    points = first.foreground_points(2_000) @ first.grid.affine[:3, :3].T + first.grid.affine[:3, 3]
    difference = affine - truth
    return float(np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1).mean())


@pytest.mark.parametrize(
    ("dims", "millimetres", "degrees", "scale"), [(2, 12, 8, 1), (2, 30, 20, 1), (2, 15, -20, 1), (3, 40, 20, 1.05)]
)
def test_a_known_map_is_found_across_contrasts(dims: int, millimetres: float, degrees: float, scale: float) -> None:
    """Within half a voxel, which is easy for the network then."""
    grid = GRIDS[dims]
    truth = move(grid, millimetres, degrees, scale)
    first, moved = scan(grid, "a"), scan(grid, "b", truth)
    stage = affine_stage(first, moved, "auto")
    assert stage.tried
    assert stage.before < stage.after
    assert error_mm(first, np.eye(4), truth) > 8
    assert error_mm(first, stage.affine, truth) < 0.5 * grid.spacing[0]


@pytest.mark.parametrize("slices", [2, 3])
def test_a_known_map_is_found_in_slabs_of_few_slices(slices: int) -> None:
    grid = make_grid((40, 44, slices), (2, 2, 5), (10, -20, 15))
    truth = np.eye(4)
    truth[:3, :3] = Rotation.from_rotvec(np.deg2rad(15) * grid.directions[:, 2]).as_matrix()
    truth[:3, 3] = CENTRE - truth[:3, :3] @ CENTRE + grid.directions @ [14, -8, 0]
    first, moved = scan(grid, "a"), scan(grid, "b", truth)
    stage = affine_stage(first, moved, "auto")
    assert error_mm(first, np.eye(4), truth) > 10
    assert error_mm(first, stage.affine, truth) < 0.5 * grid.spacing[0]


def test_a_stage_that_fails_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(itk_alignment, "_thickened", lambda slab: slab)  # ITK smooths no slab of 3 slices
    grid = make_grid((40, 44, 3), (2, 2, 5))
    with pytest.warns(UserWarning, match=r"a step of the affine stage stopped.*number of pixels"):
        affine_stage(scan(grid, "a"), scan(grid, "b", move(grid, 20, 0)), "always")


def test_a_slice_stays_in_its_plane() -> None:
    grid = GRIDS[2]
    affine = affine_stage(scan(grid, "a"), scan(grid, "b", move(grid, 20, 10)), "auto").affine
    normal = grid.directions[:, 2]
    np.testing.assert_allclose(affine[:3, :3].T @ normal, normal, atol=1e-9)
    assert abs(normal @ affine[:3, 3]) < 1e-9


def test_equal_inputs_give_equal_maps_however_many_threads_there_are() -> None:
    grid, threads = GRIDS[2], sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(8)
    try:
        maps = [affine_stage(scan(grid, "a"), scan(grid, "b", move(grid, 20, 10)), "auto").affine for _ in range(3)]
        assert sitk.ProcessObject.GetGlobalDefaultNumberOfThreads() == 8, "a caller's setting stays"
    finally:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
    np.testing.assert_array_equal(maps, [maps[0]] * 3)


@pytest.mark.parametrize(("mode", "tried"), [("auto", False), ("never", False), ("always", True)])
def test_aligned_images_are_touched_only_on_request(mode: str, tried: bool) -> None:
    grid = GRIDS[2]
    first, other = scan(grid, "a"), scan(grid, "b", move(grid, 0.5, 0))
    stage = affine_stage(first, other, mode)
    assert stage.tried == tried
    assert np.array_equal(stage.affine, np.eye(4)) != tried


def test_never_leaves_what_is_far_apart() -> None:
    grid = GRIDS[3]
    stage = affine_stage(scan(grid, "a"), scan(grid, "b", move(grid, 15, 5)), "never")
    assert not stage.tried
    assert np.array_equal(stage.affine, np.eye(4))


@pytest.mark.parametrize("mode", ["auto", "never"])
def test_another_place_is_refused(mode: str) -> None:
    """Another slice: no map within the plane brings it nearer."""
    grid = GRIDS[2]
    above = grid.part(np.array([0, 0, 4]), np.ones(3), grid.shape)
    with pytest.raises(BingoError, match=r"b: only 0% .* wanted 50%\. Check"):
        affine_stage(scan(grid, "a"), scan(above, "b"), mode)


def test_overlap_is_the_share_of_the_smaller_foreground() -> None:
    grid = make_grid((20, 10, 10))
    whole, half, quarter = np.ones(grid.shape), np.zeros(grid.shape), np.zeros(grid.shape)
    half[:10], quarter[8:13] = 1, 1
    noise = np.random.default_rng(0).random(grid.shape), grid.affine
    first, second, third = (read_scan("a", "a", noise, (m, grid.affine), None) for m in (whole, half, quarter))
    assert overlap(first, second, np.eye(4)) == overlap(second, first, np.eye(4)) == 1
    assert overlap(second, third, np.eye(4)) == overlap(third, second, np.eye(4)) == 0.4
    shift = np.eye(4)
    shift[0, 3] = -3
    assert overlap(third, second, shift) == 1
