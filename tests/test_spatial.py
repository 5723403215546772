"""Laws of the spatial core, in 2D and 3D, and agreement with MONAI and SimpleITK."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.networks.blocks import DVF2DDF, Warp
from torch import Tensor

from bingo_pl import spatial
from bingo_pl.misalign import draw_displacements
from bingo_pl.seeding import generator

SHAPES = [(20, 24), (12, 14, 10)]


def field(shape: tuple[int, ...], spacing: float = 6, strength: float = 0.3, seed: int = 0) -> Tensor:
    return draw_displacements(2, shape, (spacing,), strength, generator("test", seed)).double()


def interior(x: Tensor, margin: int = 4) -> Tensor:
    """The part of (K, C, *S) whose sampling positions stay inside the image."""
    for axis in range(2, x.ndim):
        x = x.narrow(axis, margin, x.shape[axis] - 2 * margin)
    return x


@pytest.mark.parametrize("shape", SHAPES)
def test_a_linear_image_is_warped_exactly(shape: tuple[int, ...]) -> None:
    displacement = field(shape)
    coordinates = spatial.identity(shape, displacement)[None].expand(2, *[-1] * (1 + len(shape)))
    warped = spatial.warp(coordinates, displacement)
    torch.testing.assert_close(interior(warped), interior(coordinates + displacement))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mode", ["bilinear", "nearest"])
def test_warp_agrees_with_monai(shape: tuple[int, ...], mode: str) -> None:
    image = torch.rand(2, 3, *shape, generator=generator(1))
    displacement = field(shape).float()
    # MONAI's native backend samples with align_corners=True only where USE_COMPILED is off, which is its default.
    oracle = Warp(mode=mode, padding_mode="border")(image, displacement)
    torch.testing.assert_close(spatial.warp(image, displacement, mode), oracle, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_warping_by_a_composition_is_warping_twice(shape: tuple[int, ...]) -> None:
    outer, inner = field(shape, seed=1), field(shape, seed=2)
    linear = spatial.identity(shape, outer).sum(0, keepdim=True)[None].expand(2, -1, *[-1] * len(shape))
    once = spatial.warp(linear, spatial.compose(outer, inner))
    twice = spatial.warp(spatial.warp(linear, outer), inner)
    torch.testing.assert_close(interior(once), interior(twice))


def rotation(angle: float, size: int) -> Tensor:
    """Displacement of the rotation by ``angle`` about the grid's centre; its velocity is ``angle * J (p - c)``."""
    centred = spatial.identity((size, size), torch.zeros((), dtype=torch.float64)) - (size - 1) / 2
    matrix = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]).double()
    return (torch.einsum("ij,jhw->ihw", matrix, centred) - centred)[None]


def test_exponential_of_a_rotation_converges_with_order_one() -> None:
    size, angle = 33, 0.2
    centred = spatial.identity((size, size), torch.zeros((), dtype=torch.float64)) - (size - 1) / 2
    velocity = angle * torch.stack([-centred[1], centred[0]])[None]
    truth = rotation(angle, size)
    errors = [interior(spatial.integrate(velocity, n) - truth, 8).abs().max().item() for n in (4, 5, 6, 7)]
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert all(ratio == pytest.approx(2, rel=0.05) for ratio in ratios)


@pytest.mark.parametrize("shape", SHAPES)
def test_exponential_agrees_with_monai(shape: tuple[int, ...]) -> None:
    velocity = field(shape).float()
    oracle = DVF2DDF(num_steps=7, mode="bilinear", padding_mode="border")(velocity)
    torch.testing.assert_close(spatial.integrate(velocity, 7), oracle, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", SHAPES)
def test_negative_velocity_inverts(shape: tuple[int, ...]) -> None:
    velocity = field(shape, strength=0.15)
    there_and_back = spatial.compose(spatial.integrate(velocity), spatial.integrate(-velocity))
    # First order in 2**-7 and linear interpolation of a field with 6 voxel detail: a few hundredths of a voxel.
    assert interior(there_and_back, 3).abs().max() < 0.06


@pytest.mark.parametrize("shape", SHAPES)
def test_integrating_all_is_integrating_resizing_and_composing(shape: tuple[int, ...]) -> None:
    """Against the slow way, level by level in voxels; in double precision only rounding differs, gradients too."""
    halved = tuple(size // 2 for size in shape)
    velocities = [field(halved, seed=1).requires_grad_(), field(shape, seed=2).requires_grad_()]
    levels = [spatial.resize_displacement(spatial.integrate(velocity, 5), shape) for velocity in velocities]
    slow, fast = spatial.compose(*levels), spatial.integrate_all(velocities, shape, 5)
    torch.testing.assert_close(fast, slow, atol=1e-9, rtol=0)
    weights = torch.rand(slow.shape, generator=generator(8), dtype=slow.dtype)
    slopes = [torch.autograd.grad((weights * result).sum(), velocities) for result in (fast, slow)]
    torch.testing.assert_close(*slopes, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("shape", [(96, 96), (48, 48, 48)])
def test_a_coarse_velocity_is_integrated_as_well_on_its_own_grid(shape: tuple[int, ...]) -> None:
    """As on the finest grid but for the error of linear interpolation, which both make: a small part of the motion."""
    halved = tuple(size // 2 for size in shape)
    velocity = field(halved, spacing=12, strength=0.15)
    fine = spatial.integrate(spatial.resize_displacement(velocity, shape))
    own = spatial.integrate_all([velocity], shape)
    assert interior(own - fine).norm(dim=1).mean() < 0.01 * interior(fine).norm(dim=1).mean()
    back = spatial.integrate_all([-velocity], shape)
    assert interior(spatial.compose(own, back)).norm(dim=1).mean() < 0.01 * interior(fine).norm(dim=1).mean()


@pytest.mark.parametrize("shape", SHAPES)
def test_warp_samples_where_the_displacement_points(shape: tuple[int, ...]) -> None:
    """An image of another size than the displacement's grid."""
    image = torch.rand(2, 3, *[size + 3 for size in shape], generator=generator(9), dtype=torch.float64)
    displacement = field(shape)
    points = spatial.identity(shape, displacement) + displacement
    torch.testing.assert_close(spatial.warp(image, displacement), spatial.sample(image, points))


@pytest.mark.parametrize("shape", SHAPES)
def test_fixed_point_inverse_undoes(shape: tuple[int, ...]) -> None:
    displacement = field(shape, strength=0.15)
    assert interior(spatial.compose(displacement, spatial.invert(displacement)), 3).abs().max() < 1e-4


@pytest.mark.parametrize("shape", SHAPES)
def test_resized_displacement_points_at_the_same_place(shape: tuple[int, ...]) -> None:
    """A constant displacement in units of the field of view stays what it was."""
    constant = torch.tensor([0.1 * size for size in shape]).reshape(1, -1, *[1] * len(shape)).expand(1, -1, *shape)
    larger = tuple(2 * size for size in shape)
    resized = spatial.resize_displacement(constant, larger)
    torch.testing.assert_close(resized[0].flatten(1)[:, 0], torch.tensor([0.1 * size for size in larger]))


def test_resize_keeps_a_coarse_voxel_above_the_voxels_it_covers() -> None:
    ramp = torch.arange(32.0).reshape(1, 1, 1, 32).expand(1, 1, 32, 32)
    coarse = torch.nn.functional.avg_pool2d(ramp, 8)
    torch.testing.assert_close(spatial.resize(coarse, (32, 32))[..., 4:-4], ramp[..., 4:-4])


@pytest.mark.parametrize("shape", SHAPES)
def test_jacobian_determinant_of_a_linear_map(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    matrix = 0.2 * torch.rand(dims, dims, generator=generator(3), dtype=torch.float64)
    coordinates = spatial.identity(shape, matrix)
    displacement = torch.einsum("ij,j...->i...", matrix, coordinates)[None]
    expected = torch.linalg.det(matrix + torch.eye(dims))
    torch.testing.assert_close(spatial.jacobian_determinant(displacement), expected.expand(1, *shape))


def test_jacobian_determinant_agrees_with_simpleitk() -> None:
    displacement = field((12, 14, 10))[:1]
    vectors = displacement[0].flip(0).movedim(0, -1).numpy()  # ITK orders components x, y, z
    oracle = sitk.GetArrayFromImage(
        sitk.DisplacementFieldJacobianDeterminant(sitk.GetImageFromArray(vectors, isVector=True))
    )
    ours = spatial.jacobian_determinant(displacement)[0].numpy()
    inside = (slice(1, -1),) * 3
    np.testing.assert_allclose(ours[inside], oracle[inside], atol=1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_free_form_deformation_agrees_with_simpleitk(shape: tuple[int, ...]) -> None:
    spacing, dims = 4.0, len(shape)
    control_shape = [spatial.bspline_control_points(size, spacing) for size in shape]
    control = torch.rand(1, dims, *control_shape, generator=generator(4), dtype=torch.float64)
    ours = spatial.free_form_displacement(control, spacing, shape)

    oracle = sitk.BSplineTransform(dims, 3)
    mesh = [size - 3 for size in control_shape][::-1]
    oracle.SetTransformDomainOrigin([0.0] * dims)
    oracle.SetTransformDomainPhysicalDimensions([spacing * size for size in mesh])
    oracle.SetTransformDomainMeshSize(mesh)
    oracle.SetParameters(control[0].flip(0).flatten().tolist())
    reference = sitk.TransformToDisplacementField(oracle, sitk.sitkVectorFloat64, list(shape[::-1]))
    expected = torch.from_numpy(sitk.GetArrayFromImage(reference)).movedim(-1, 0).flip(0)
    torch.testing.assert_close(ours[0], expected, atol=1e-9, rtol=0)


def test_the_core_has_correct_gradients() -> None:
    """Differentiable by finite differences, away from the kinks of linear interpolation."""
    image = torch.rand(1, 1, 6, 7, generator=generator(5), dtype=torch.float64)
    velocity = 0.3 * torch.rand(1, 2, 6, 7, generator=generator(6), dtype=torch.float64) + 0.1

    def registered(image: Tensor, velocity: Tensor) -> Tensor:
        displacement = spatial.integrate(velocity, 3)
        return spatial.warp(image, spatial.compose(displacement, spatial.invert(displacement, 2)) + displacement)

    assert torch.autograd.gradcheck(registered, (image.requires_grad_(), velocity.requires_grad_()), atol=1e-4)


def test_labels_keep_ids_and_dtype() -> None:
    labels = torch.tensor([0, 200, 500, 600], dtype=torch.int16)[
        torch.randint(4, (2, 1, 20, 24), generator=generator(7))
    ]
    warped = spatial.warp_labels(labels, field((20, 24)))
    assert warped.dtype == torch.int16
    assert set(warped.unique().tolist()) <= {0, 200, 500, 600}
