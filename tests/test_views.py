import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from bingo_pl import UNLABELLED
from bingo_pl.figures import views
from bingo_pl.misalign import draw_displacements
from bingo_pl.spatial import identity, invert, warp, warp_labels

FLOAT32 = 1e-4  # single precision at coordinates of some tens of voxels


def constant(displacement: list[float], shape: tuple[int, ...]) -> Tensor:
    return torch.tensor(displacement).reshape(1, -1, *[1] * len(shape)).expand(1, -1, *shape)


def points(indicator: Tensor) -> np.ndarray:
    return np.concatenate(views.contours(indicator))


def disc(shape: tuple[int, ...], radius: float) -> Tensor:
    centre = torch.tensor([(size - 1) / 2 for size in shape]).reshape(-1, *[1] * len(shape))
    return (identity(shape, torch.zeros(1)) - centre).norm(dim=0) < radius


def test_contour_is_the_outline_in_array_axis_order() -> None:
    indicator = torch.zeros(20, 30)
    indicator[3:8, 10:25] = 1
    outline = points(indicator)
    assert outline.min(axis=0) == pytest.approx([2.5, 9.5])
    assert outline.max(axis=0) == pytest.approx([7.5, 24.5])


def test_contours_move_against_the_displacement() -> None:
    # warped(p) = image(p + u): what was at q is now at q - u. Exact for halves of voxels and straight edges.
    labels = torch.zeros(1, 1, 20, 30, dtype=torch.int16)
    labels[..., 6:12, 10:22] = 500
    before = views.indicators(labels, [500])
    after = warp(before, constant([2, -1.5], (20, 30)))
    for extreme in (np.min, np.max):
        moved = extreme(points(after[0, 0]), axis=0) - extreme(points(before[0, 0]), axis=0)
        assert moved == pytest.approx([-2, 1.5], abs=FLOAT32)


def test_contours_return_under_the_inverse_warp() -> None:
    original = disc((64, 64), 18)[None, None].to(torch.int16)
    displacement = draw_displacements(1, (64, 64), [15.0], 0.35, torch.Generator().manual_seed(0))
    misaligned = views.indicators(warp_labels(original, displacement), [1])
    returned = warp(misaligned, invert(displacement))
    truth = cKDTree(points(views.indicators(original, [1])[0, 0]))
    far = truth.query(points(misaligned[0, 0]))[0].max()
    near = truth.query(points(returned[0, 0]))[0].max()
    assert far > 2
    assert near < 1  # labels were misaligned by the nearest voxel, half a voxel wrong along each axis, 0.71 in all


def test_unlabelled_image_has_no_contours() -> None:
    labels = torch.full((2, 1, 8, 8), UNLABELLED, dtype=torch.int16)
    labels[1, 0, 2:5, 2:5] = 3
    indicators = views.indicators(labels, [1, 3])
    assert indicators.shape == (2, 2, 8, 8)
    assert [len(views.contours(indicator)) for indicator in indicators.flatten(0, 1)] == [0, 0, 0, 1]
    assert views.indicators(labels, []).shape == (2, 0, 8, 8)


def test_grid_lines_go_where_the_displacement_takes_them() -> None:
    displacement = constant([1, -2], (9, 7))[0]
    lines = views.grid_lines(displacement, 4)
    assert [len(line) for line in lines] == [7, 7, 7, 9, 9]
    assert np.allclose(lines[1], [[5, j - 2] for j in range(7)])
    assert np.allclose(lines[-1], [[i + 1, 2] for i in range(9)])


@pytest.mark.parametrize("shape", [(8, 9), (6, 7, 8)])
def test_log_jacobian_of_a_scaling(shape: tuple[int, ...]) -> None:
    displacement = 0.25 * identity(shape, torch.zeros(1))[None]
    expected = torch.full((1, *shape), len(shape) * np.log(1.25))
    torch.testing.assert_close(views.log_jacobian(displacement).double(), expected.double(), atol=FLOAT32, rtol=0)


def test_log_jacobian_of_a_fold_is_nan() -> None:
    displacement = torch.zeros(1, 2, 8, 8)
    displacement[:, 0] = -2 * identity((8, 8), displacement)[0]
    assert views.log_jacobian(displacement).isnan().all()


def test_checkerboards_complement_each_other() -> None:
    first, second = torch.rand(2, 10, 13)
    board = views.checkerboard(first, second, 4)
    torch.testing.assert_close(board + views.checkerboard(second, first, 4), first + second)
    assert board[:4, :4].equal(first[:4, :4])
    assert board[:4, 4:8].equal(second[:4, 4:8])


def test_colours_do_not_depend_on_the_channels_order() -> None:
    features = torch.randn(2, 5, 8, 9, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 6)[:, None, None]
    colours = views.principal_colours(features)
    assert colours.shape == (2, 8, 9, 3)
    assert colours.min() == 0
    assert colours.max() == 1
    torch.testing.assert_close(views.principal_colours(features[:, [3, 0, 4, 1, 2]]), colours, atol=1e-3, rtol=0)


def test_few_or_constant_channels_have_colours() -> None:
    assert (views.principal_colours(torch.rand(1, 2, 4, 4))[..., 2] == 0).all()
    assert (views.principal_colours(torch.ones(1, 4, 4, 4)) == 0).all()


def test_the_plane_of_an_image_is_the_image() -> None:
    (plane,) = views.planes(disc((20, 30), 5))
    image = torch.rand(3, 20, 30)
    assert plane.cut(image).equal(image)
    assert plane.window == ((-0.5, 19.5), (4.5, 24.5))  # rows 5-14 and columns 10-19, 5.5 voxels more, within the grid


def test_planes_of_a_volume_go_through_the_foreground() -> None:
    foreground = torch.zeros(16, 20, 24, dtype=torch.bool)
    foreground[3:6, 10:15, 20:23] = True
    index = identity((16, 20, 24), torch.zeros(1))
    last, middle, first = views.planes(foreground)
    assert [plane.fixed for plane in (last, middle, first)] == [[2], [1], [0]]
    assert last.cut(index)[2].unique() == 21
    assert middle.cut(index)[1].unique() == 12
    assert first.cut(index)[0].unique() == 4
    assert last.cut(index).shape == (3, 16, 20)


def test_planes_cut_coarse_volumes_at_the_same_place() -> None:
    foreground = torch.zeros(16, 16, 16, dtype=torch.bool)
    foreground[:, :, 13] = True
    coarse = identity((4, 4, 4), torch.zeros(1))
    assert views.planes(foreground)[0].cut(coarse)[2].unique() == 3  # voxel 13 lies in 12-15, the last of 4


@pytest.mark.parametrize(
    ("count", "expected"), [(1, [0]), (4, [0, 1, 2, 3]), (12, [0, 2, 4, 7, 9, 11]), (101, [0, 20, 40, 60, 80, 100])]
)
def test_evenly_keeps_both_ends(count: int, expected: list[int]) -> None:
    assert views.evenly(count, 6) == expected
