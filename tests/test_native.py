"""Registration at the images' own resolution by the ready model's experts: known maps are found, the rest stays put."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from rich.console import Console

from bingo_pl import BingoError, api, register
from bingo_pl.alignment.cascade import Outcome, Plan, Stage
from bingo_pl.alignment.maps import Linear, Maps
from bingo_pl.alignment.starts import Start
from bingo_pl.alignment.volume import Picture
from bingo_pl.cli import main
from bingo_pl.errors import BingoWarning
from bingo_pl.images.grids import LPS, Grid
from bingo_pl.images.members import Member
from bingo_pl.images.record import read_record
from bingo_pl.images.resampling import low_passed
from bingo_pl.images.scans import read_scan
from bingo_pl.images.transforms import affine_transform
from bingo_pl.registration import native, workflow
from bingo_pl.registration.console import report_way, warn_of_pixels
from bingo_pl.registration.native import native_grid
from bingo_pl.registration.registered import RegisteredGroup
from bingo_pl.registration.streamed import register_files
from bingo_pl.registration.verdict import Way, judge, known_errors
from bingo_pl.report import page

from .test_affine import image, move
from .test_transforms import make_grid, map_all, points_in

FIRST = {2: make_grid((48, 52, 1), (1.5, 1.5, 2), (0, 0, 20)), 3: make_grid((34, 38, 30), (2.2, 2.2, 2.2))}
OTHER = {2: make_grid((60, 62, 1), (1.2, 1.4, 2), (0, 0, 50)), 3: make_grid((40, 42, 24), (2, 2, 3.1), (20, -15, 30))}
ASIDE = {2: (6.0, 5.0), 3: (9.0, 6.0)}
"""mm and degrees by which the second head is moved."""


@pytest.fixture(scope="module", autouse=True)
def report_without_pictures() -> Iterator[None]:
    """Drawing takes longer than all else; the report has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_report", lambda folder, scans=(): (folder / "report.html").touch())
        yield


def heads(dims: int, scale: float = 1.0) -> tuple[dict[str, tuple[NDArray, NDArray]], NDArray]:
    """A head in two contrasts on two grids, the second one moved; and its map, RAS mm; all ``scale`` times as large."""
    truth = move(FIRST[dims], *ASIDE[dims])
    images = {"a": image(FIRST[dims], "a"), "b": image(OTHER[dims], "b", truth)}
    size = np.diag([scale, scale, scale, 1])
    return {name: (array, size @ affine) for name, (array, affine) in images.items()}, size @ truth @ np.linalg.inv(
        size
    )


def left_mm(group: RegisteredGroup, truth: NDArray, points: NDArray) -> float:
    """Mean distance of where a's points come to lie in b from where they are."""
    there = map_all(group["b"].forward.transform, map_all(group["a"].inverse.transform, points))
    return float(np.linalg.norm(there - map_all(affine_transform(truth), points), axis=1).mean())


def head_points(dims: int, scale: float = 1.0) -> NDArray:
    """LPS mm of the head in the first image."""
    array, affine = image(FIRST[dims], "a")
    voxels = np.argwhere(array > 0.1 * array.max())[::40]
    return (voxels @ affine[:3, :3].T + affine[:3, 3]) @ LPS[:3, :3] * scale


@pytest.mark.parametrize("dims", [2, 3])
def test_a_moved_head_is_found_across_contrasts(dims: int) -> None:
    """Within half a voxel; 3 and 4 voxels away before."""
    images, truth = heads(dims)
    group = register(images)
    assert group.way is not None
    assert group.way.kept in ("rigid", "affine", "deformable")
    assert left_mm(group, truth, head_points(dims)) < 0.5 * FIRST[dims].spacing[0]


def test_what_is_aligned_stays_exactly_where_it_is() -> None:
    """No interpolation but onto the group grid: both maps are the identity."""
    group = register({"a": image(FIRST[3], "a"), "b": image(FIRST[3], "b")})
    assert group.way is not None
    assert group.way.kept == "identity"
    for member in group.members.values():
        assert np.array_equal(member.stage.affine, np.eye(4))
    assert group.verdict is not None
    assert not group.verdict.doubtful


@pytest.mark.parametrize("scale", [0.01, 10.0])
def test_the_size_of_the_object_does_not_matter(scale: float) -> None:
    """A section of 0.7 mm and a thing of 70 cm: the same error in voxels."""
    images, truth = heads(2, scale)
    group = register(images)
    assert left_mm(group, truth, head_points(2, scale)) < 0.5 * FIRST[2].spacing[0] * scale


def test_the_reference_stays_still() -> None:
    images, truth = heads(2)
    group = register(images, reference="b", transform="rigid")
    plane = np.linalg.inv(FIRST[2].affine) @ group["b"].stage.affine @ FIRST[2].affine
    np.testing.assert_allclose(plane[:2], np.eye(4)[:2], atol=1e-5, err_msg="within the plane of the first")
    assert left_mm(group, truth, head_points(2)) < 0.5 * FIRST[2].spacing[0]


WRITTEN = [(2, "rigid"), (2, "affine"), (2, "deformable"), (2, "network"), (3, "rigid"), (3, "deformable")]


@pytest.mark.parametrize(("dims", "transform"), WRITTEN)
def test_simpleitk_alone_repeats_what_is_written(dims: int, transform: str, tmp_path: Path) -> None:
    """Every file of a transform moves points of the head as it should, and resamples what is written beside it.

    ITK's files to 1e-9 mm; displacement fields within 0.15 of their voxel (0.12 was measured, where a turned lattice
    bends between them), 0.04 on average; images to 1e-3 of their range; inverse to a tenth of a voxel.
    """
    images, _ = heads(dims)
    group = register(images, transform=transform)
    out = group.write(tmp_path / "out", jacobian=True, pairwise=True)
    points = head_points(dims)

    def check_image(source: str, file: Path, to_image: sitk.Transform) -> None:
        array, affine = images[source]
        own, written = Grid(array.shape, affine), sitk.ReadImage(str(file))
        voxels = low_passed(array.astype(np.float32), own, to_image, Grid.of(written))
        again = sitk.Resample(own.to_sitk(voxels), written, to_image, sitk.sitkLinear, float(array.min()))
        difference = np.abs(sitk.GetArrayFromImage(again) - sitk.GetArrayFromImage(written))
        assert np.quantile(difference, 0.999) < 1e-3 * np.ptp(array)

    for name, member in group.members.items():
        read = {}
        for way, wanted in (("forward", member.forward), ("inverse", member.inverse)):
            stem = out / "transforms" / f"{name}_{way}"
            read[way] = sitk.ReadTransform(f"{stem}.h5")
            field = sitk.DisplacementFieldTransform(sitk.ReadImage(f"{stem}.nii.gz", sitk.sitkVectorFloat64))
            expected = map_all(wanted.transform, points)
            assert np.linalg.norm(map_all(read[way], points) - expected, axis=1).max() < 1e-9
            errors = np.linalg.norm(map_all(field, points) - expected, axis=1) / wanted.grid.spacing[:dims].min()
            assert errors.max() < 0.15
            assert errors.mean() < 0.04
        check_image(name, out / "registered" / f"{name}.nii.gz", read["forward"])
        within = points_in(group.grid)
        there_and_back = map_all(read["inverse"], map_all(read["forward"], within))
        assert np.linalg.norm(there_and_back - within, axis=1).mean() < 0.1
    for source, target in (("a", "b"), ("b", "a")):
        folder = out / "pairwise" / target
        to_source = sitk.ReadTransform(str(folder / "transforms" / f"{source}.h5"))
        through = map_all(group[source].forward.transform, map_all(group[target].inverse.transform, points))
        assert np.linalg.norm(map_all(to_source, points) - through, axis=1).max() < 1e-9
        file = folder / "registered" / f"{source}.nii.gz"
        assert nib.load(file).shape == images[target][0].shape
        np.testing.assert_allclose(nib.load(file).affine, images[target][1], atol=1e-4)
        check_image(source, file, to_source)
    record = json.loads((out / "registration.json").read_text())
    if transform != "network":
        assert record["alignment"]["kept"] == transform
        assert record["verdict"]["level"] in ("pass", "warn", "fail")


def test_results_get_the_finest_voxels_of_the_group_or_those_asked_for() -> None:
    images, _ = heads(2)
    finest = np.minimum(FIRST[2].spacing, OTHER[2].spacing)[:2]
    np.testing.assert_allclose(register(images, transform="rigid").grid.spacing[:2], finest, rtol=1e-6)
    np.testing.assert_allclose(register(images, transform="rigid", spacing_mm=4).grid.spacing[:2], 4)
    like = register(images, transform="rigid", like=images["b"]).grid
    assert like.shape == OTHER[2].shape
    np.testing.assert_allclose(like.affine, OTHER[2].affine)


def test_a_start_is_taken_from_a_file(tmp_path: Path) -> None:
    """Two heads 90 mm apart, which the headers alone would not say."""
    far = move(FIRST[3], 90, 30)
    images = {"a": image(FIRST[3], "a"), "b": image(FIRST[3].part(np.zeros(3), np.ones(3), FIRST[3].shape), "b")}
    images["b"] = (images["b"][0], far @ images["b"][1])
    sitk.WriteTransform(affine_transform(far), str(tmp_path / "start.tfm"))
    group = register(images, transform="rigid", initial={"b": tmp_path / "start.tfm"})
    assert left_mm(group, far, head_points(3)) < 0.5 * FIRST[3].spacing[0]


@pytest.mark.parametrize(
    ("matrix", "offset", "message"),
    [
        (np.eye(3), (1e4, 0, 0), "nothing of it lies on a.*perhaps the inverse is meant"),
        (np.diag([1.0, 0, 1]), (0, 0, 0), r"start.tfm: has no inverse"),
        (np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]), (0, 0, 0), "out of the plane of the slices"),
    ],
)
def test_a_start_that_leads_nowhere_is_refused(
    matrix: NDArray, offset: tuple[float, ...], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "align", lambda *given: pytest.fail("this is the work"))
    start = sitk.AffineTransform(matrix.ravel().tolist(), offset)
    sitk.WriteTransform(start, str(tmp_path / "start.tfm"))
    with pytest.raises(BingoError, match=message):
        register({name: image(FIRST[2], name) for name in "ab"}, initial={"b": tmp_path / "start.tfm"})


def test_the_grid_of_an_image_may_be_taken_whatever_it_shows() -> None:
    like = (np.full((10, 12, 1), np.nan), np.diag([3, 3, 2, 1.0]))
    group = register({name: image(FIRST[2], name) for name in "ab"}, transform="rigid", like=like)
    assert group.grid.shape == (10, 12, 1)


def test_a_row_of_voxels_is_a_group_grid_too() -> None:
    draw = np.random.default_rng(0)
    rows = {name: (draw.random((1, 30, 1)).astype(np.float32), np.eye(4)) for name in "ab"}
    assert register(rows, transform="rigid").grid.shape[1] > 0


@pytest.mark.parametrize("stretch", [(1e8, 1), (1, 1e5)])
def test_images_that_reach_over_more_than_memory_are_refused(stretch: tuple[float, float]) -> None:
    """Far apart, or with voxels of a wrong unit."""
    apart, size = stretch
    array, affine = image(FIRST[3], "b")
    affine = affine @ np.diag([1, 1, size, 1])
    affine[0, 3] += apart - 1
    with pytest.raises(BingoError, match=r"reach over .* mm: at least .* of memory"):
        register({"a": image(FIRST[3], "a"), "b": (array, affine)}, transform="rigid")


def test_what_shows_something_else_stays_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Noise in place of a head: the command ends with 1, and its image lies where it lay."""
    noise = np.random.default_rng(0).random(FIRST[2].shape).astype(np.float32)
    paths = {}
    for name, (array, affine) in {"a": image(FIRST[2], "a"), "b": (noise, FIRST[2].affine)}.items():
        paths[name] = tmp_path / f"{name}.nii.gz"
        nib.save(nib.Nifti1Image(array.astype(np.float32), affine), paths[name])
    arguments = ["register", *(f"{name}={path}" for name, path in paths.items()), "--output", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["bingo", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 1
    record = json.loads((tmp_path / "out" / "registration.json").read_text())
    assert record["verdict"]["level"] == "fail"
    told = read_record(tmp_path / "out")
    assert (told.verdict, told.kept) == ("fail", "identity")
    assert told.reasons
    assert all(entry["stage_affine_ras_mm"] == np.eye(4).tolist() for entry in record["images"])
    assert all(entry["error_mm"] is None for entry in record["images"])
    assert "a unknown, b unknown" in capsys.readouterr().out


def test_an_image_of_something_else_changes_nothing_for_the_others() -> None:
    """Noise beside two images of a head: it stays where it lay, and they come to lie as without it."""
    images, _ = heads(2)
    noise = np.random.default_rng(0).random(FIRST[2].shape).astype(np.float32)
    alone, beside = register(images), register({**images, "noise": (noise, FIRST[2].affine)})
    assert np.array_equal(beside["noise"].stage.affine, np.eye(4))
    assert beside["noise"].error_mm is None
    assert beside.verdict is not None
    assert {reason.split()[0] for reason in beside.verdict.reasons} == {"noise"}
    for name in images:
        assert not np.array_equal(alone[name].stage.affine, np.eye(4))
        assert np.allclose(beside[name].stage.affine, alone[name].stage.affine, atol=1e-4)


def test_pictures_without_a_pixel_size_are_named(tmp_path: Path) -> None:
    scans = []
    for name in ("a.png", "b.nii.gz"):
        sitk.WriteImage(sitk.GetImageFromArray(np.arange(80, dtype=np.uint8).reshape(8, 10)), str(tmp_path / name))
        scans.append(read_scan(name, "a", tmp_path / name, None, None))
    with pytest.warns(BingoWarning, match=r"a\.png: no pixel size is stored") as warned:
        warn_of_pixels(scans, Console(quiet=True))
    assert "b.nii.gz" not in str(warned[0].message)


def test_what_is_taken_back_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage("rigid", 70.0, 0.4, (0.1, 0.2), True, "edges gain by it")
    report_way(Way("identity", [stage], ["headers", "tilted"], 1.0), ["a", "b"], [None, None], Console())
    assert "kept: identity, all of this is taken back" in " ".join(capsys.readouterr().out.split())
    report_way(Way("rigid", [stage], ["headers", "tilted"], 1.0), ["a", "b"], [0.5, 0.5], Console())
    assert "kept: rigid. Predicted error in mm: a 0.5, b 0.5" in capsys.readouterr().out


@pytest.mark.parametrize(("agreement", "said"), [(0.9, True), (0.3, False)])
def test_a_turn_is_named_only_where_it_is_believed(agreement: float, said: bool) -> None:
    """An image that stayed as its header has it is not said to lie turned."""
    scans = [read_scan(name, name, image(FIRST[3], name), None, None) for name in "ab"]
    pictures = [
        Picture(scan.unit.numpy()[0], None, np.linalg.inv(scan.grid.affine)[:3].astype(np.float64)) for scan in scans
    ]
    start = Start(Linear.identity(1, 3), agreement, "turned")
    plan, maps = Plan.of(pictures, 60.0), Maps(Linear.identity(2, 3))
    outcome = Outcome(maps, "identity", [], [None, start], [0.5, 0.5], [0.3, 0.3], plan)
    assert any("turned" in reason for reason in judge(scans, outcome, [None, None]).reasons) == said
    assert known_errors(outcome) == ([0.3, 0.3] if said else [None, None])


@pytest.mark.parametrize(("spacing_mm", "message"), [(1e-3, "Give a larger spacing"), (400.0, "a smaller spacing")])
def test_voxels_too_small_or_too_large_are_refused_with_the_remedy(spacing_mm: float, message: str) -> None:
    scans = [read_scan("a", "a", image(FIRST[3], "a"), None, None)]
    with pytest.raises(BingoError, match=message):
        native_grid(scans, [np.eye(4)], spacing_mm)


def test_voxels_too_small_or_too_large_are_refused_before_anything_is_aligned(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("register_natively", "register_series"):
        monkeypatch.setattr(workflow, name, lambda *given: pytest.fail("this is the work"))
    array, affine = image(FIRST[3], "a")
    for given in ({"a": (array, affine)}, {"a": (np.stack([array] * 2, -1), affine)}):
        with pytest.raises(BingoError, match=r"0.001 mm: at least .* Give a larger spacing"):
            register(given, spacing_mm=1e-3)
        with pytest.raises(BingoError, match=r"nothing of the images\. Give a smaller spacing"):
            register(given, spacing_mm=1e4)


def test_slices_and_volumes_are_no_group() -> None:
    with pytest.raises(BingoError, match=r"b is 2D, .* but a is 3D, .*: a group is of slices or of volumes"):
        register({"a": image(FIRST[3], "a"), "b": image(FIRST[2], "b")})


def test_one_image_has_no_stages(capsys: pytest.CaptureFixture[str]) -> None:
    register({"a": image(FIRST[2], "a")}, console=Console())
    told = " ".join(capsys.readouterr().out.split())
    assert "a is the only image" in told
    assert "against each other" not in told


TWICE: dict[str, Callable[[Sequence[Member], Path], object]] = {
    "memory": lambda members, out: register([("a", nib.load(member.image)) for member in members], transform="rigid"),
    "files": lambda members, out: register([("a", member.image) for member in members], transform="rigid"),
    "streamed": lambda members, out: register_files(members, out, 10**8),
    "atlas": lambda members, out: api.atlas(members, out, transform="rigid"),
    "streamed atlas": lambda members, out: api.atlas(members, out, affine="never"),
}


@pytest.mark.parametrize("way", TWICE)
def test_an_image_that_is_given_twice_is_named(way: str, tmp_path: Path) -> None:
    """By its content, whatever its file is called."""
    array, affine = image(FIRST[2], "a")
    members = [Member("a", tmp_path / f"{number}.nii.gz") for number in range(3)]
    for number, member in enumerate(members):
        nib.save(nib.Nifti1Image(array + (number == 2), affine), member.image)
    with pytest.warns(BingoWarning, match="the same image, which counts more than once") as told:
        TWICE[way](members, tmp_path / "out")
    said = next(str(each.message) for each in told if "the same image" in str(each.message))
    first, second, third = ("a and", "a_2", "a_3") if way == "memory" else ("0.nii.gz", "1.nii.gz", "2.nii.gz")
    assert first in said
    assert second in said
    assert third not in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"transform": "elastic"}, "unknown transform 'elastic'"),
        ({"reference": "c"}, "unknown reference image 'c'"),
        ({"spacing_mm": -1.0}, "wanted a number above 0"),
        ({"transform": "rigid", "refine": 3}, "belong to transform=network"),
        ({"initial": {"c": "x.tfm"}}, "initial transform given for an unknown image 'c'"),
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(BingoError, match=message):
        register({"a": image(FIRST[3], "a")}, **changes)  # type: ignore[arg-type]
