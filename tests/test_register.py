"""Files in, files out: what SimpleITK alone makes of the written transforms is what was written beside them."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchio as tio
from rich.console import Console
from torch import nn

from bingo_pl import BingoError, GroupBatch, config, register
from bingo_pl.cli import main
from bingo_pl.evaluation import appearance
from bingo_pl.images.grids import LPS, Grid
from bingo_pl.images.resampling import low_passed
from bingo_pl.images.scans import group_grid, read_scan
from bingo_pl.methods.baselines import Refined
from bingo_pl.methods.bingo import Bingo
from bingo_pl.methods.networks import VelocityHead
from bingo_pl.models.checkpoints import PROVENANCE
from bingo_pl.models.model import Model
from bingo_pl.registration.choices import REFINE, REFINED_UP_TO
from bingo_pl.report import page
from bingo_pl.seeding import generator
from bingo_pl.training import experiment

from .conftest import smooth
from .test_affine import image, move
from .test_transforms import make_grid, map_all, points_in

OBLIQUE = np.array([[0.8, -0.6, 0, 5], [0.6, 0.8, 0, -3], [0, 0, 2, 1], [0, 0, 0, 1.0]])
FIRST = {2: make_grid((48, 52, 1), (1.5, 1.5, 2), (0, 0, 20)), 3: make_grid((34, 38, 30), (2.2, 2.2, 2.2))}
SPACING = {2: 2.0, 3: 4.0}
"""Of the models, in mm."""
OTHER = {2: make_grid((60, 62, 1), (1.2, 1.4, 2), (0, 0, 50)), 3: make_grid((40, 42, 24), (2, 2, 3.1), (20, -15, 30))}


@pytest.fixture(scope="module", autouse=True)
def report_without_pictures() -> Iterator[None]:
    """Drawing takes longer than all else; the report has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_report", lambda folder, scans=(): (folder / "report.html").touch())
        yield


def make_batch(dims: int) -> GroupBatch:
    """A head in both contrasts, on a grid that the network takes."""
    grid = make_grid((32, 32, 1), (2, 2, 2)) if dims == 2 else make_grid((16, 16, 16), (4, 4, 4))
    images = np.stack([image(grid, contrast)[0] for contrast in "ab"]).reshape(1, 2, 1, *grid.shape[:dims])
    return GroupBatch(
        images=torch.from_numpy(images).float(),
        modalities=torch.tensor([[0, 1]]),
        masks=torch.from_numpy(images) > 0,
        labels=torch.zeros(images.shape, dtype=torch.int16),
        spacing=torch.full((1, dims), SPACING[dims]),
        names=("heads",),
    )


def make_checkpoint(path: Path, dims: int) -> Path:
    """A model of the modalities a and b that was not trained but moves a head by a voxel or two."""
    settings = config.load(
        "manifest",
        [
            "data.modalities=[a,b]",
            "data.label_ids=[1]",
            f"data.roi={[16] * dims}",
            f"data.spacing_mm={SPACING[dims]}",
            "model.channels=[4,4,4]",
            "model.velocity_scales=[2]",
            "model.head_depth=1",
            "trainer.accelerator=cpu",
        ],
    )
    task = experiment.build_task(settings)
    bingo = task.registrar.eval()
    assert isinstance(bingo, Bingo)
    (head,) = bingo.heads
    assert isinstance(head, VelocityHead)
    nn.init.normal_(head.velocity.weight[:dims], generator=generator("velocity", dims))
    batch = make_batch(dims)
    with torch.no_grad():
        velocity = bingo.forward(batch).velocities[0].mean
        head.velocity.weight[:dims] *= 0.5 / velocity.abs().max()
    torch.save(
        {"state_dict": task.state_dict(), PROVENANCE: {"config": config.to_tree(settings), "data": "none"}}, path
    )
    return path


def write(path: Path, affine: np.ndarray, contrast: float = 0.0, shape: tuple[int, int] = (40, 36)) -> Path:
    """A slice of random blobs; the whole field of view is foreground."""
    anatomy = smooth(shape, "own", *shape).numpy()
    array = (1000 * np.abs(anatomy - contrast)).astype(np.float32)[..., None]
    nib.save(nib.Nifti1Image(array, affine), path)
    return path


def kinds(dims: int) -> dict[str, Grid]:
    """Grids around one head."""
    first = FIRST[dims]
    x, y, _ = first.shape
    return {
        "isotropic": first,
        "anisotropic": first.part(np.zeros(3), np.array([0.7, 1.4, 1]), (x * 10 // 7, y * 10 // 14, first.shape[2])),
        "oblique": OTHER[dims],
        "left-handed": first.part(np.array([x - 1, 0, 0]), np.array([-1, 1, 1]), first.shape),
        "flipped": first.part(np.array([x - 1, y - 1, 0]), np.array([-1, -1, 1]), first.shape),
        "other field of view": first.part(
            np.array([3.3, -4.6, 0]), np.array([1.3, 1.2, 1]), (x - 8, y, first.shape[2])
        ),
    }


@dataclass(frozen=True)
class Finished:
    """A registered group: a head on grids of every kind, and far from them."""

    out: Path
    files: dict[str, Path]
    """By name."""


@pytest.fixture(scope="module", params=[2, 3], ids=["2D", "3D"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    dims, folder = request.param, tmp_path_factory.mktemp("register")
    pairs = []
    for number, (kind, grid) in enumerate(kinds(dims).items()):
        array, affine = image(grid, "ab"[number % 2])
        nib.save(nib.Nifti1Image((1000 * array).astype(np.int16), affine), folder / f"{kind}.nii.gz")
        pairs.append(("ab"[number % 2], folder / f"{kind}.nii.gz"))
    array, affine = image(OTHER[dims], "b", move(FIRST[dims], 18, 12))
    nib.save(nib.Nifti1Image(array.astype(np.float32), affine), folder / "far.nii.gz")
    pairs.append(("b", folder / "far.nii.gz"))
    group = register(pairs, make_checkpoint(folder / "model.ckpt", dims), transform="network")
    files = dict(zip(group.members, (path for _, path in pairs), strict=True))
    return Finished(group.write(folder / "out", jacobian=True), files)


def test_simpleitk_alone_repeats_the_registration(finished: Finished) -> None:
    """Both files of each transform, within 1e-3 of the intensities' range inside the field of view.

    At its very border rounding decides what is outside.
    """
    for name, path in finished.files.items():
        registered = sitk.ReadImage(str(finished.out / "registered" / f"{name}.nii.gz"))
        original = sitk.ReadImage(str(path), sitk.sitkFloat32)
        values = sitk.GetArrayFromImage(original)
        stem = str(finished.out / "transforms" / f"{name}_forward")
        own = Grid.of(original), sitk.ReadTransform(f"{stem}.h5"), Grid.of(registered)
        original = own[0].to_sitk(low_passed(values.T, *own))  # its voxels are smaller than the model's
        field = sitk.ReadImage(f"{stem}.nii.gz", sitk.sitkVectorFloat64)
        for transform in (sitk.ReadTransform(f"{stem}.h5"), sitk.DisplacementFieldTransform(field)):
            again = sitk.Resample(original, registered, transform, sitk.sitkLinear, float(values.min()))
            inside = sitk.Resample(without_border(original), registered, transform, sitk.sitkLinear, 0.0)
            difference = np.abs(sitk.GetArrayFromImage(again) - sitk.GetArrayFromImage(registered))
            assert difference[sitk.GetArrayFromImage(inside) > 0.99].max() < 1e-3 * np.ptp(values)
        assert sitk.GetArrayFromImage(registered).std() > 0.05 * np.ptp(values), "not an empty image"


def without_border(image: sitk.Image) -> sitk.Image:
    """1 but for the outermost voxels."""
    ones = np.zeros(image.GetSize()[::-1], np.float32)
    ones[tuple(slice(1, -1) if size > 2 else slice(None) for size in ones.shape)] = 1
    result = sitk.GetImageFromArray(ones)
    result.CopyInformation(image)
    return result


def test_the_written_inverse_undoes_the_forward_transform(finished: Finished) -> None:
    """1,000 random points of the group grid, by at most a tenth of a voxel on average."""
    grid = Grid.of(sitk.ReadImage(str(finished.out / "template" / "mean.nii.gz")))
    points = points_in(grid)
    for name in finished.files:
        stem = str(finished.out / "transforms" / name)
        forward, inverse = (sitk.ReadTransform(f"{stem}_{way}.h5") for way in ("forward", "inverse"))
        there = map_all(forward, points)
        assert np.linalg.norm(there - points, axis=1).mean() > 0.1, "it moves"
        assert np.linalg.norm(map_all(inverse, there) - points, axis=1).mean() < 0.1 * grid.spacing.min()


def test_images_that_are_far_apart_are_brought_together(finished: Finished) -> None:
    """Only the last one gets an affine stage, and it then lies over the others."""
    images = json.loads((finished.out / "registration.json").read_text())["images"]
    staged = [entry["name"] for entry in images if entry["stage_affine_ras_mm"] != np.eye(4).tolist()]
    assert staged == ["b_4"]
    volumes = [nib.load(finished.out / "registered" / f"{name}.nii.gz").get_fdata() for name in ("b_4", "b")]
    far, near = (volume > 0.1 * volume.max() for volume in volumes)  # one is from 0 to 1, one to 1000
    assert 2 * (far & near).sum() / (far.sum() + near.sum()) > 0.9


def test_the_jacobian_is_that_of_the_written_transform(finished: Finished) -> None:
    """By central differences of SimpleITK's transform; at voxels those of the field are the same, but for rounding."""
    for name in ("a", "b_4"):
        file = nib.load(finished.out / "jacobian" / f"{name}.nii.gz")
        grid, determinant = Grid(file.shape, file.affine), file.get_fdata()
        transform = sitk.ReadTransform(str(finished.out / "transforms" / f"{name}_forward.h5"))
        steps = (LPS @ grid.affine)[:3, :3]
        inner = [size - 2 if size > 1 else 1 for size in grid.shape]
        for voxel in np.random.default_rng(0).integers(inner, size=(50, 3)) + (np.array(grid.shape) > 1):
            point = (LPS @ grid.affine @ [*voxel, 1])[:3]
            there, back = (map_all(transform, point + sign * steps.T) for sign in (1, -1))
            expected = np.linalg.det((there - back) / 2) / np.linalg.det(steps)
            assert abs(determinant[tuple(voxel)] - expected) < 1e-4


@pytest.fixture
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("model") / "model.ckpt", 2)


@pytest.fixture
def images(tmp_path: Path) -> dict[str, Path]:
    """Two slices on grids of their own: oblique, and flipped with other voxels."""
    flipped = OBLIQUE @ np.diag([-1.1, 0.9, 1, 1.0])
    flipped[:3, 3] = (OBLIQUE @ [38, 1, 0, 1])[:3]
    return {
        "a": write(tmp_path / "a.nii.gz", OBLIQUE),
        "b": write(tmp_path / "b.nii.gz", flipped, contrast=0.4),
    }


def test_files_subjects_and_arrays_give_the_same(model: Path, images: dict[str, Path]) -> None:
    loaded = {name: nib.load(path) for name, path in images.items()}
    ways = [
        images,
        list(images.items()),
        tio.Subject({name: tio.ScalarImage(path) for name, path in images.items()}, age=50),
        {name: (image.get_fdata()[..., 0], image.affine) for name, image in loaded.items()},
    ]
    groups = [register(way, model, refine=0) for way in ways]
    for group in groups[1:]:
        for name, member in group.members.items():
            first = groups[0][name]
            torch.testing.assert_close(member.displacement, first.displacement, rtol=0, atol=1e-3)
            np.testing.assert_allclose(member.image, first.image, rtol=0, atol=1)  # of 1000; headers are float32


def test_the_result_is_refined_unless_told_otherwise(model: Path, images: dict[str, Path]) -> None:
    default, refined, alone = (
        register(images, model, transform="network"),
        register(images, model, refine=REFINE),
        register(images, model, refine=0),
    )
    assert default.settings["refine"]["steps"] == REFINE
    for name, member in default.members.items():
        assert torch.equal(member.displacement, refined[name].displacement)
        assert (member.displacement - alone[name].displacement).abs().max() > 0.1


def test_a_large_group_is_not_refined_unasked(
    model: Path, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REFINED_UP_TO, 2, 1)
    told = io.StringIO()
    group, asked = (
        register(images, model, transform="network", console=Console(file=told)),
        register(images, model, refine=2),
    )
    assert [registered.settings["refine"]["steps"] for registered in (group, asked)] == [0, 2]
    assert "not refined: that takes long for more than 1 slices, here 2" in told.getvalue()


def test_a_model_that_refines_by_its_settings_is_loaded_as_its_network_alone(model: Path, tmp_path: Path) -> None:
    """So that it can be streamed; whoever registers in memory says how far to refine."""
    content = torch.load(model, weights_only=True)
    content[PROVENANCE]["config"]["refine"]["steps"] = 60
    torch.save(content, tmp_path / "refining.ckpt")
    loaded = Model.load(tmp_path / "refining.ckpt")
    assert isinstance(loaded.bingo, Bingo)
    refining = loaded.refining(3)
    assert isinstance(refining.registrar, Refined)
    assert (loaded.config.refine.steps, refining.config.refine.steps) == (0, 3)
    with pytest.raises(BingoError, match="wanted method=bingo without refinement"):
        _ = refining.bingo


def test_what_was_in_memory_is_written_beside_the_result(model: Path, images: dict[str, Path], tmp_path: Path) -> None:
    loaded = {name: nib.load(path) for name, path in images.items()}
    arrays = {name: (image.get_fdata(), image.affine) for name, image in loaded.items()}
    label = (np.ones((40, 36), np.int64), OBLIQUE)
    out = register(arrays, model, masks={"a": label}, labels={"a": label}, transform="network").write(tmp_path / "out")
    first, second = json.loads((out / "registration.json").read_text())["images"]
    np.testing.assert_allclose(nib.load(first["path"]).get_fdata(), loaded["a"].get_fdata(), rtol=1e-6)
    originals = out / "originals"
    places = {"path": originals, "mask": originals / "masks", "label": originals / "labels"}
    assert {key: Path(first[key]).parent for key in places} == places
    assert second["mask"] is second["label"] is None


def test_the_record_names_the_inputs(model: Path, images: dict[str, Path], tmp_path: Path) -> None:
    out = register([*images.items(), ("b", images["b"])], model, transform="network").write(tmp_path / "out")
    record = json.loads((out / "registration.json").read_text())
    assert [image["name"] for image in record["images"]] == ["a", "b", "b_2"]
    assert record["images"][0]["path"] == str(images["a"])
    assert len(record["checkpoint"]["sha256"]) == 64
    assert (out / "report.html").is_file()


def test_copies_of_an_image_are_not_moved_apart(model: Path, images: dict[str, Path]) -> None:
    group = register([("a", images["a"])] * 3, model, refine=0)
    for name in ("a_2", "a_3"):
        assert np.abs(group[name].image - group["a"].image).max() < 1


def test_a_wrong_name_is_told_with_the_right_one(
    model: Path, images: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = torch.tensor([[[0.1, 0.5], [0.1, 0.4], [0.2, 0.3]]])
    monkeypatch.setattr(appearance, "unlikeness", lambda *_: judged)
    told = io.StringIO()
    pairs = [("a", images["a"]), ("b", images["b"]), ("b", images["b"])]
    out = register(pairs, model, transform="network", console=Console(file=told)).write(tmp_path / "out")
    entries = json.loads((out / "registration.json").read_text())["images"]
    assert [entry["looks_like"] for entry in entries] == [None, "a", None], "0.1 is no proof"
    assert [entry["misnaming"] for entry in entries] == pytest.approx([-0.4, 0.3, 0.1])
    assert f"b ({images['b']}) was given as b but looks like a" in told.getvalue()
    assert told.getvalue().count("looks like") == 1


def test_names_are_judged_of_three_images_by_a_model_that_knows_names(model: Path, images: dict[str, Path]) -> None:
    pairs = [*images.items(), ("b", images["b"])]
    assert all(member.misnaming is not None for member in register(pairs, model, transform="network").members.values())
    for group in (register(images, model, transform="network"), register(pairs, device="cpu")):
        assert all(member.misnaming is member.looks_like is None for member in group.members.values())


def test_labels_keep_dtype_and_ids(model: Path, images: dict[str, Path]) -> None:
    ids = np.zeros((40, 36, 1), np.uint16)
    ids[8:20, 8:20], ids[20:32, 8:20] = 7, 600
    label = register(images, model, labels={"a": (ids, OBLIQUE)}, transform="network")["a"].label
    assert label is not None
    assert label.dtype == np.uint16
    assert set(np.unique(label)) == {0, 7, 600}


def test_a_mask_says_what_the_group_grid_must_hold(model: Path, images: dict[str, Path]) -> None:
    mask = np.zeros((40, 36), np.uint8)
    mask[18:22, 18:22] = 1
    image = {"a": images["a"]}
    assert register(image, model, masks={"a": (mask, OBLIQUE)}, transform="network").grid.shape == (16, 16, 1)
    assert register(image, model, transform="network").grid.shape > (16, 16, 1)


def test_the_group_grid_lies_along_the_first_image_and_holds_all_foregrounds(images: dict[str, Path]) -> None:
    scans = [read_scan(name, name, path, None, None) for name, path in images.items()]
    stage = move(scans[0].grid, 3, 10)
    grid = group_grid(scans, [np.eye(4), stage], spacing_mm=1.5, dims=2, stride=8)
    assert all(size % 8 == 0 for size in grid.shape[:2])
    assert grid.shape[2] == 1
    np.testing.assert_allclose(grid.spacing, [1.5, 1.5, 2.0])
    np.testing.assert_allclose(grid.directions, OBLIQUE[:3, :3] / [1, 1, 2])
    for scan, affine in zip(scans, (np.eye(4), stage), strict=True):
        corners = scan.grid.corners(np.linalg.inv(affine @ grid.affine) @ scan.grid.affine)
        assert (corners[:, :2] > -0.5 - 1e-6).all()
        assert (corners[:, :2] < np.array(grid.shape[:2]) - 0.5 + 1e-6).all()


def test_the_command_takes_a_manifest(
    model: Path, images: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With labels and masks, and relative paths; what the command writes is what the function returns."""
    nib.save(nib.Nifti1Image(np.ones((40, 36, 1), np.uint8), OBLIQUE), tmp_path / "ones.nii.gz")
    (tmp_path / "group.csv").write_text("modality,image,mask,label\na,a.nii.gz,ones.nii.gz,ones.nii.gz\nb,b.nii.gz,,\n")
    arguments = [
        "register",
        "--manifest",
        str(tmp_path / "group.csv"),
        "--checkpoint",
        str(model),
        "--transform",
        "network",
    ]
    monkeypatch.setattr(sys, "argv", ["bingo", *arguments, "--output", str(tmp_path / "out"), "--device", "cpu"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code
    group = register(images, model, transform="network", device="cpu")
    for name in images:
        written = nib.load(tmp_path / "out" / "registered" / f"{name}.nii.gz").get_fdata()
        np.testing.assert_array_equal(written, group[name].image)
    assert [path.name for path in (tmp_path / "out" / "labels").iterdir()] == ["a.nii.gz"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {"t1": "a.nii.gz"}}, "does not know the modality 't1'.*a, b"),
        ({"images": {"A": "a.nii.gz"}}, "does not know the modality 'A'.*a, b"),
        ({"images": {}}, "no image to register"),
        ({"images": {"a": "absent.nii.gz"}}, "absent.nii.gz"),
        ({"images": {"a": np.zeros((3, 3))}}, "tuple of an array and its"),
        ({"images": {"a": (np.zeros((3, 3), complex), np.eye(4))}}, "real numbers"),
        ({"images": {"a": (np.eye(3), np.diag([1, 0, 1, 1]))}}, "singular"),
        ({"masks": {"c": "a.nii.gz"}}, "mask given for an unknown image 'c'.*a, b"),
        ({"labels": {"a_2": "a.nii.gz"}}, "label map given for an unknown image 'a_2'. Known: a, b"),
        ({"labels": {"b": (np.ones((3, 3)), np.eye(4))}}, "label map of b: the label map or mask has"),
        ({"affine": "maybe"}, "unknown affine stage 'maybe'"),
        ({"device": "abacus"}, "device 'abacus' cannot be used"),
        ({"device": "tpu"}, "device 'tpu' cannot be used"),
        ({"checkpoint": "a.nii.gz"}, "not a checkpoint"),
    ],
)
def test_bad_input_is_explained(
    model: Path, images: dict[str, Path], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(images["a"].parent)
    with pytest.raises(BingoError, match=message):
        register(**{"images": images, "checkpoint": model, **changes})


def test_volumes_are_refused_by_a_model_of_slices(model: Path) -> None:
    volume = smooth((8, 8, 8), "volume").numpy(), np.eye(4)
    with pytest.raises(BingoError, match="the model registers 2D images"):
        register({"a": volume}, model)


def test_a_folder_in_use_is_refused(model: Path, images: dict[str, Path], tmp_path: Path) -> None:
    group = register(images, model, transform="network")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(BingoError, match="in use"):
        group.write(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]
