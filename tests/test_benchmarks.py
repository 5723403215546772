"""The outside references: their fields become displacements of ours, in the right direction and order of axes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from benchmarks import speed, speed_cases, streaming
from benchmarks.references import AntsToMean, ElastixGroupwise, Reference, from_ants, from_elastix, tool
from bingo_pl import BingoError, GroupBatch
from bingo_pl.config import load
from bingo_pl.evaluation.metrics import warping_residual
from bingo_pl.methods.registrar import Registration
from bingo_pl.misalign import misalign
from bingo_pl.spatial import compose, identity, warp

from .conftest import GroupMaker, smooth

NOT_INSTALLED = "benchmarks/requirements.txt is not installed"
SHAPES = [(32, 40), (20, 24, 28)]


def shifted_group(make_group: GroupMaker, shape: tuple[int, ...]) -> GroupBatch:
    """Three images of one contrast, each moved by another constant along each axis."""
    aligned = make_group((0, 0, 0), shape, groups=1)
    images = smooth(shape, "shifted")[None, None, None].expand(aligned.images.shape)
    shifts = torch.tensor([[1.5, -1.0, 0.5], [-0.5, 1.0, 0.5], [-1.0, 0.0, -1.0]])[:, : len(shape)]
    fields = shifts.reshape(1, 3, len(shape), *[1] * len(shape)).expand(1, 3, len(shape), *shape)
    return misalign(replace(aligned, images=images, truth=None), fields)


def assert_moves_alike(images: torch.Tensor, field: torch.Tensor, resampled: torch.Tensor, tolerance: float) -> None:
    """Our warp of images (N, *S) gives what a tool resampled, wherever it looked inside an image.

    Outside, and in the half voxel of the border, each tool extends images in its own way. The tolerance is that of the
    precision in which positions are computed.
    """
    last = torch.tensor(field.shape[2:]).reshape(-1, *[1] * (field.ndim - 2)) - 1
    points = identity(field.shape[2:], field) + field
    inside = ((points >= 0) & (points <= last)).all(1)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(warp(images[:, None], field)[:, 0][inside], resampled[inside], atol=tolerance, rtol=0)


def interior(field: torch.Tensor, margin: int = 6) -> torch.Tensor:
    """A field (B, N, D, *S) without its border, where the shifted images have no content to register by."""
    for axis in range(3, field.ndim):
        field = field.narrow(axis, margin, field.shape[axis] - 2 * margin)
    return field


def length(field: torch.Tensor) -> float:
    """Root mean squared length of vectors (B, N, D, *S)."""
    return field.square().sum(2).mean().sqrt().item()


@pytest.mark.parametrize("shape", SHAPES)
def test_an_elastix_field_moves_images_as_itk_does(shape: tuple[int, ...]) -> None:
    image = smooth(shape, "itk").numpy()
    field = np.random.default_rng(0).uniform(-2, 2, (*shape, len(shape)))
    stacked = np.concatenate([field, np.zeros((*shape, 1))], axis=-1)[None]  # transformix adds the stack's own axis
    transform = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(field, isVector=True))
    wanted = sitk.Resample(sitk.GetImageFromArray(image.astype(float)), transform, sitk.sitkLinear)
    resampled = torch.from_numpy(sitk.GetArrayFromImage(wanted))
    assert_moves_alike(torch.from_numpy(image)[None].double(), from_elastix(stacked), resampled[None], 1e-9)


@pytest.mark.parametrize("shape", SHAPES)
def test_an_ants_field_moves_images_as_ants_does(shape: tuple[int, ...], tmp_path: Path) -> None:
    ants = pytest.importorskip("ants", reason=NOT_INSTALLED)
    image = smooth(shape, "ants").numpy()
    field = np.random.default_rng(0).uniform(-2, 2, (*shape, len(shape))).astype(np.float32)
    ants.image_write(ants.from_numpy(field, has_components=True), str(tmp_path / "warp.nii.gz"))
    fixed = ants.from_numpy(image)
    resampled = torch.from_numpy(ants.apply_transforms(fixed, fixed, [str(tmp_path / "warp.nii.gz")]).numpy())
    assert_moves_alike(torch.from_numpy(image)[None], from_ants(field)[None], resampled[None], 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_an_elastix_result_moves_images_as_transformix_does(shape: tuple[int, ...], make_group: GroupMaker) -> None:
    itk = pytest.importorskip("itk", reason=NOT_INSTALLED)
    images = shifted_group(make_group, shape).images[0, :, 0]
    stack = itk.image_view_from_array(images.numpy())
    registrar = ElastixGroupwise()
    transform = registrar.optimise(stack)
    transform.SetParameter(0, "FinalBSplineInterpolationOrder", "1")  # linear, as our warp; elastix's default is cubic
    resampled = torch.from_numpy(itk.array_from_image(itk.transformix_filter(stack, transform)))
    assert_moves_alike(images, registrar.displacement(stack, transform), resampled, 1e-5)


def test_a_missing_tool_is_named_with_the_remedy() -> None:
    with pytest.raises(BingoError, match=r"no_such_package.*benchmarks/requirements\.txt"):
        tool("no_such_package")


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("package", ["itk", "ants"])
def test_a_known_translation_is_found(package: str, shape: tuple[int, ...], make_group: GroupMaker) -> None:
    registrar = reference(package)
    group = shifted_group(make_group, shape)
    assert group.truth is not None
    result = registrar(group)
    before = interior(warping_residual(torch.zeros_like(group.truth), group.truth))
    after = interior(warping_residual(result.displacement, group.truth))
    assert length(after) < 0.15 * length(before)  # a wrong sign or order of axes makes it larger than before


@pytest.mark.slow
@pytest.mark.parametrize("package", ["itk", "ants"])
def test_the_inverse_undoes_the_displacement_and_no_file_is_left(
    package: str, make_group: GroupMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result: Registration = reference(package)(shifted_group(make_group, (32, 40)))
    assert not list(tmp_path.iterdir())  # what the tools write on the way is gone
    there_and_back = compose(result.displacement.flatten(0, 1), result.inverse.flatten(0, 1))[None]
    assert length(interior(there_and_back)) < 0.05  # voxels; a field added to itself would be about 2


def test_the_timed_references_compute_what_we_compute() -> None:
    """MONAI's warp and integration, and VoxelMorph's where it is installed, which fills the outside with zeros."""
    (warped, _, _, _, integrated, _) = speed_cases.spatial_cases(load("mscmr_phantom"))
    for case, tolerance in ((warped, 1e-4), (integrated, 1e-3)):
        for tensor in (call() for call in case.references.values()):
            inside = (..., slice(12, -12), slice(12, -12))
            torch.testing.assert_close(case.ours()[inside], tensor[inside], atol=tolerance, rtol=0)


def test_a_row_has_ratios_and_the_nearer_limit() -> None:
    """A plain copy is as fast as itself, to within the noise of any machine, and bound by memory."""
    copy = speed.plain_copy(2**24)
    case = speed_cases.Case("copy", "4 M", copy, {"MONAI": lambda: [copy() for _ in range(50)]}, 2**24, 0)
    row = speed.measure(case, rounds=1)
    assert row["bound"] == "memory"
    assert row["MONAI ratio"] > 2
    assert len(speed.markdown([row]).splitlines()[2].split("|")) == len(speed.HEAD[0].split("|"))


def reference(package: str) -> Reference:
    """The registrar that needs the package, run until it has converged on smooth images of one contrast."""
    pytest.importorskip(package, reason=NOT_INSTALLED)
    return ElastixGroupwise(iterations=150, step=1.0) if package == "itk" else AntsToMean(smoothing=(3.0, 0.0))


def test_streaming_is_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["mscmr_phantom", "70", "3MB", "data.roi=[32,32]", "trainer.accelerator=cpu"]
    monkeypatch.setattr("sys.argv", ["streaming", *arguments])
    streaming.main()
    row = capsys.readouterr().out.splitlines()[-1].split("|")
    assert [cell.strip() for cell in row[1:3]] == ["70 of 32x32", "3MB"]
    chunk, kept = map(int, row[3].split(","))
    assert 0 < chunk < kept < 70, "more images than fit, so that both sweeps with and without features are timed"
    assert float(row[4]) > 0
