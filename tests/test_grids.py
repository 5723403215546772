from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bingo_pl import BingoError
from bingo_pl.images.grids import Grid

LEFT_HANDED_OBLIQUE = np.array([[-1.6, 0, 0.9, 5], [0, 3, 0, -7], [1.2, 0, 1.2, 11], [0, 0, 0, 1.0]])


def test_nibabel_and_simpleitk_agree_where_each_voxel_is(tmp_path: Path) -> None:
    array = np.arange(4 * 3 * 2, dtype=np.int16).reshape(4, 3, 2)
    grid = Grid(array.shape, LEFT_HANDED_OBLIQUE)
    sitk.WriteImage(grid.to_sitk(array), str(tmp_path / "image.nii"))
    written = nib.load(tmp_path / "image.nii")
    np.testing.assert_allclose(written.affine, LEFT_HANDED_OBLIQUE, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), array)


def test_a_grid_survives_simpleitk() -> None:
    grid = Grid((4, 3, 2), LEFT_HANDED_OBLIQUE)
    back = Grid.of(grid.to_sitk(np.zeros(grid.shape)))
    assert back.shape == grid.shape
    np.testing.assert_allclose(back.affine, grid.affine, atol=1e-12)


@pytest.mark.parametrize(
    ("affine", "problem"),
    [
        (np.diag([1.0, 0, 1, 1]), "singular"),
        (np.diag([1e38, 1, 1, 1]), r"impossible, with voxels of 1e\+38 x 1 x 1 mm"),
        (np.diag([1.0, np.nan, 1, 1]), "not finite"),
        (np.array([[1, 0.1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), "sheared"),
    ],
)
def test_affines_that_are_no_image_geometry_are_refused(affine: np.ndarray, problem: str) -> None:
    with pytest.raises(BingoError, match=problem):
        Grid((4, 3, 2), affine)


def test_the_canonical_grid_holds_the_same_voxels_in_nibabels_canonical_order() -> None:
    array = np.arange(4 * 3 * 2).reshape(4, 3, 2)
    turned = nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.int16), LEFT_HANDED_OBLIQUE))
    grid = Grid(array.shape, LEFT_HANDED_OBLIQUE).canonical()
    assert grid.shape == turned.shape
    np.testing.assert_allclose(grid.affine, turned.affine, atol=1e-12)
