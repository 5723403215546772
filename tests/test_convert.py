"""Maps in the formats of FSL and FreeSurfer say what ``bingo apply`` does, read by those formats' own definitions."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

from bingo_pl import BingoError, apply, convert, register
from bingo_pl.images.resampling import map_points
from bingo_pl.registration.apply import read_member

from .test_register import OBLIQUE, make_checkpoint, report_without_pictures, write

__all__ = ["report_without_pictures"]  # a fixture

SHAPE = (20, 18, 16)
TILTED = np.eye(4)
TILTED[:3, :3], TILTED[:3, 3] = 2 * Rotation.from_rotvec([0.1, -0.2, 0.1]).as_matrix(), [-20, -15, -12]
STORED = {
    "a": TILTED,  # determinant > 0
    "b": np.array([[-2.2, 0, 0, 22], [0, 0, 2.1, -18], [0, 2.0, 0, -16], [0, 0, 0, 1]]),  # > 0, axes exchanged
    "a_2": np.array([[-2.0, 0, 0, 20], [0, 2, 0, -18], [0, 0, 2.4, -19], [0, 0, 0, 1]]),  # < 0: as FSL has it
}
LINEAR = np.array([[0.99, 0.08, -0.02, 2], [-0.07, 1.01, 0.04, -3], [0.03, -0.03, 1.0, 1], [0, 0, 0, 1]])


def folder(root: Path, deformable: bool) -> Path:
    """A registration of three volumes as it is written, but for its transforms, which are known maps."""
    images = {}
    for name, affine in STORED.items():
        x = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1)
        points = nib.affines.apply_affine(affine, x)
        values = 500 + 300 * np.sin(points / 6).sum(-1)
        nib.save(nib.Nifti1Image(values.astype(np.float32), affine), root / f"{name}.nii.gz")
        images[name] = root / f"{name}.nii.gz"
    checkpoint = make_checkpoint(root / "model.ckpt", 3)
    pairs = [(name[0], file) for name, file in images.items()]
    out = register(pairs, checkpoint, transform="network", affine="never", refine=0).write(root / "out")
    for number, name in enumerate(STORED):
        linear = sitk.AffineTransform(3)
        matrix = np.diag([-1, -1, 1, 1]) @ np.linalg.matrix_power(LINEAR, number) @ np.diag([-1, -1, 1, 1])
        linear.SetMatrix(matrix[:3, :3].ravel().tolist())
        linear.SetTranslation(matrix[:3, 3].tolist())
        sitk.WriteTransform(linear, str(out / "transforms" / f"{name}_inverse.h5"))
        if deformable and name == "b":
            bend = sitk.BSplineTransformInitializer(sitk.ReadImage(str(images["b"])), [3, 3, 3])
            bend.SetParameters(np.random.default_rng(1).normal(0, 1.5, len(bend.GetParameters())).tolist())
            sitk.WriteTransform(bend, str(out / "transforms" / f"{name}_forward.h5"))
        else:
            sitk.WriteTransform(linear.GetInverse(), str(out / "transforms" / f"{name}_forward.h5"))
    return out


@pytest.fixture(scope="module")
def rigid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("linear"), deformable=False)


def fsl_mm(affine: NDArray, index: NDArray) -> NDArray:
    """By FSL's definition: voxels times their size, the first axis backwards in a neurologically stored image."""
    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    index = index.copy()
    if np.linalg.det(affine[:3, :3]) > 0:
        index[..., 0] = SHAPE[0] - 1 - index[..., 0]
    return index * sizes


def points_of(name: str) -> tuple[NDArray, NDArray]:
    """Voxel indices and RAS mm of some points of an image."""
    index = np.random.default_rng(2).uniform(2, np.array(SHAPE) - 3, (50, 3))
    return index, nib.affines.apply_affine(STORED[name], index)


PAIRS = [("a", "b"), ("b", "a_2"), ("a_2", "a")]


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_flirts_matrix_takes_points_where_apply_does(rigid: Path, tmp_path: Path, source: str, target: str) -> None:
    matrix = np.loadtxt(convert(rigid, source, target, tmp_path / "map.mat"))
    index, points = points_of(source)
    moved = map_points(points, read_member(rigid, source), read_member(rigid, target))
    there = nib.affines.apply_affine(np.linalg.inv(STORED[target]), moved)
    found = nib.affines.apply_affine(matrix, fsl_mm(STORED[source], index))
    np.testing.assert_allclose(found, fsl_mm(STORED[target], there), atol=1e-5)  # headers are float32
    assert np.abs(found - fsl_mm(STORED[source], index)).max() > 1


@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_freesurfers_map_takes_points_where_apply_does(rigid: Path, tmp_path: Path, source: str, target: str) -> None:
    lines = convert(rigid, source, target, tmp_path / "map.lta").read_text().splitlines()
    assert lines[0].split() == ["type", "=", "1"], "from RAS to RAS"
    matrix = np.array([line.split() for line in lines[5:9]], float)
    _, points = points_of(source)
    moved = map_points(points, read_member(rigid, source), read_member(rigid, target))
    np.testing.assert_allclose(nib.affines.apply_affine(matrix, points), moved, atol=1e-5)
    start = lines.index("dst volume info")
    described = {key.strip(): value for key, _, value in (line.partition("=") for line in lines[start + 1 :])}
    axes = np.array([described[f"{axis}ras"].split() for axis in "xyz"], float).T * np.array(
        described["voxelsize"].split(), float
    )
    centre = np.array(described["cras"].split(), float)
    np.testing.assert_allclose(axes, STORED[target][:3, :3], atol=1e-9)
    np.testing.assert_allclose(centre - axes @ (np.array(SHAPE) / 2), STORED[target][:3, 3], atol=1e-9)


@pytest.mark.parametrize("deformable", [False, True])
def test_fsls_warp_resamples_as_apply_does(tmp_path: Path, deformable: bool) -> None:
    out = folder(tmp_path, deformable)
    source, target = "b", "a"
    warp = nib.load(convert(out, source, target, tmp_path / "warp.nii.gz"))
    assert (warp.header["intent_code"], warp.shape) == (2006, (*SHAPE, 3))
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).astype(float)
    places = fsl_mm(STORED[target], index) + warp.get_fdata()  # in the source
    voxels = places / np.linalg.norm(STORED[source][:3, :3], axis=0)
    voxels[..., 0] = SHAPE[0] - 1 - voxels[..., 0]
    values = nib.load(tmp_path / "b.nii.gz").get_fdata()
    by_fsl = map_coordinates(values, voxels.transpose(3, 0, 1, 2), order=1, cval=values.min())
    moved = apply(out, source, target, tmp_path / "b.nii.gz", tmp_path / "moved.nii.gz").path
    inside = np.all((voxels > 0) & (voxels < np.array(SHAPE) - 1), axis=-1)
    assert inside.mean() > 0.3
    np.testing.assert_allclose(by_fsl[inside], nib.load(moved).get_fdata()[inside], atol=0.1)  # of 1,000: float32 mm


def test_a_deformation_is_refused_where_the_format_is_linear(tmp_path: Path) -> None:
    out = folder(tmp_path, deformable=True)
    for ending in (".mat", ".lta"):
        with pytest.raises(BingoError, match="the map is deformable"):
            convert(out, "a", "b", tmp_path / f"map{ending}")
        assert not (tmp_path / f"map{ending}").exists()


def test_bad_requests_are_explained(rigid: Path, tmp_path: Path) -> None:
    with pytest.raises(BingoError, match="the ending names the format"):
        convert(rigid, "a", "b", tmp_path / "map.txt")
    with pytest.raises(BingoError, match="unknown member 'd'"):
        convert(rigid, "a", "d", tmp_path / "map.mat")
    (tmp_path / "map.mat").touch()
    with pytest.raises(BingoError, match="exists"):
        convert(rigid, "a", "b", tmp_path / "map.mat")


def test_a_group_of_slices_is_converted_too(tmp_path: Path) -> None:
    images = {"a": write(tmp_path / "a.nii.gz", OBLIQUE), "b": write(tmp_path / "b.nii.gz", OBLIQUE, contrast=0.4)}
    out = register(images, make_checkpoint(tmp_path / "model.ckpt", 2), refine=0).write(tmp_path / "out")
    warp = nib.load(convert(out, "a", "template", tmp_path / "warp.nii.gz"))
    assert warp.shape == (*nib.load(out / "template" / "mean.nii.gz").shape, 3)
