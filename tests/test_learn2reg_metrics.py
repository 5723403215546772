"""Learn2Reg's metrics against their published definitions, written again here with SciPy, and its field format."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from bingo_pl.errors import BingoError
from bingo_pl.evaluation.learn2reg import dice, hd95_l2r, pairwise_field, sdlogj_l2r, write_field
from bingo_pl.images.grids import Grid
from bingo_pl.images.transforms import affine_transform


def cube(start: int, stop: int, label: int = 1) -> np.ndarray:
    labels = np.zeros((16, 16, 16), np.int16)
    labels[start:stop, 4:12, 4:12] = label
    return labels


def smooth_field(strength: float) -> np.ndarray:
    noise = np.random.default_rng(0).standard_normal((3, 14, 13, 12))
    return strength * np.stack([ndimage.gaussian_filter(component, 2) for component in noise])


def test_dice_is_twice_the_overlap_over_the_sizes() -> None:
    assert dice(cube(4, 12), cube(4, 12), cube(8, 16), [1]) == 0.5


def test_a_class_counts_where_fixed_and_moving_have_it() -> None:
    fixed, moving = cube(4, 8) + cube(8, 12, 2), cube(4, 8) + cube(8, 12, 3)
    assert dice(fixed, moving, fixed, [1, 2, 3]) == 1  # 2 and 3 are each missing in one of them
    assert dice(fixed, moving, np.zeros_like(fixed), [1, 2]) == 0  # lost by the warp
    assert np.isnan(dice(fixed, moving, fixed, [4]))
    assert hd95_l2r(fixed, moving, np.zeros_like(fixed), [1]) == np.inf


def test_hd95_of_equal_labels_is_zero_and_of_moved_ones_their_shift() -> None:
    assert hd95_l2r(cube(4, 12), cube(4, 12), cube(4, 12), [1]) == 0
    # Of a cube of 8 voxels, each end is 1/6 of the surface, far more than 5 %.
    assert hd95_l2r(cube(4, 12), cube(4, 12), cube(7, 15), [1]) == 3


def test_hd95_does_not_see_five_percent_of_the_surface() -> None:
    spike = cube(4, 12)
    spike[12:15, 8, 8] = 1  # 12 of 396 faces
    assert hd95_l2r(cube(4, 12), cube(4, 12), spike, [1]) == 0


def test_hd95_counts_the_surface_of_organs_at_the_edge_of_the_image() -> None:
    assert hd95_l2r(cube(0, 8), cube(0, 8), cube(3, 11), [1]) == 3


def test_hd95_agrees_with_surface_points_found_by_scipy() -> None:
    """Random blobs: unweighted percentiles of the same points differ only by how area is spread over them."""
    fixed, warped = (
        (ndimage.gaussian_filter(np.random.default_rng(seed).standard_normal((24, 24, 24)), 3) > 0).astype(np.int16)
        for seed in (1, 2)
    )
    surfaces = []
    for labels in (fixed, warped):
        sums = ndimage.convolve(np.pad(labels, 2), np.ones((2, 2, 2), int), mode="constant")
        surfaces.append((sums > 0) & (sums < 8))
    found = [
        np.percentile(ndimage.distance_transform_edt(~other)[own], 95) for own, other in (surfaces, surfaces[::-1])
    ]
    # between neighbouring points of a surface distances change by at most sqrt(3)
    assert hd95_l2r(fixed, fixed, warped, [1]) == pytest.approx(max(found), abs=0.75)


def test_sdlogj_is_the_published_one() -> None:
    """Central differences by correlation, 3 added, two voxels cut off at each end."""
    field = smooth_field(20)
    derivative = np.array([-0.5, 0, 0.5])
    jacobian = np.empty((*field.shape[1:], 3, 3))
    for i in range(3):
        for j in range(3):
            jacobian[..., i, j] = ndimage.correlate1d(field[i], derivative, axis=j, mode="constant") + (i == j)
    determinant = np.linalg.det(jacobian)[2:-2, 2:-2, 2:-2]
    assert determinant.min() < 0, "some of it folds"
    expected = np.log((determinant + 3).clip(1e-9, 1e9))
    assert sdlogj_l2r(torch.from_numpy(field)[None]).item() == pytest.approx(expected.std())
    mask = np.random.default_rng(1).random(field.shape[1:]) > 0.5
    masked = np.ma.MaskedArray(expected, ~mask[2:-2, 2:-2, 2:-2]).std()
    assert sdlogj_l2r(torch.from_numpy(field)[None], torch.from_numpy(mask)[None, None]).item() == pytest.approx(masked)


def test_a_field_pulls_the_moving_voxels_to_the_fixed_ones() -> None:
    """As the evaluation does it: SciPy's map_coordinates at identity + field, here through two known affine maps."""
    fixed = Grid((10, 9, 8), np.array([[2.0, 0, 0, -5], [0, 2, 0, 3], [0, 0, 2, 1], [0, 0, 0, 1]]))
    moving = Grid((8, 9, 10), np.array([[0, 0, -1.5, 20], [0, 2, 0, 0], [1.8, 0, 0, 2], [0, 0, 0, 1.0]]))
    to_group, to_moving = np.eye(4), np.eye(4)
    to_group[:3, 3] = 1, -2, 3
    to_moving[:3, :3] += 0.1 * np.random.default_rng(0).standard_normal((3, 3))
    field = pairwise_field(affine_transform(to_group), affine_transform(to_moving), fixed, moving)
    index = np.stack(np.meshgrid(*map(np.arange, fixed.shape), indexing="ij"), axis=-1)
    total = np.linalg.inv(moving.affine) @ to_moving @ to_group @ fixed.affine
    np.testing.assert_allclose(index + field, index @ total[:3, :3].T + total[:3, 3], atol=1e-4)  # float32


def test_no_motion_is_a_field_of_zeros() -> None:
    grid = Grid((6, 5, 4), np.diag([-2.0, 2, 2, 1]))
    still = sitk.TranslationTransform(3)
    np.testing.assert_allclose(pairwise_field(still, still, grid, grid), 0, atol=1e-6)


def test_fields_are_written_under_the_challenges_names_and_shape(tmp_path: Path) -> None:
    field = np.random.default_rng(0).standard_normal((6, 5, 4, 3)).astype(np.float32)
    path = write_field(field, "0009", "0009", np.diag([2.0, 2, 2, 1]), tmp_path)
    assert path == tmp_path / "disp_0009_0009.nii.gz"
    np.testing.assert_array_equal(nib.load(path).get_fdata(dtype=np.float32), field)
    with pytest.raises(BingoError, match="four digits"):
        write_field(field, "../9", "0009", np.eye(4), tmp_path)
