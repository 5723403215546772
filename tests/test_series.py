"""A 4D file is a group: motion across changing contrast is found, dark frames are not flagged, the output is 4D."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates

from bingo_pl import BingoError, register
from bingo_pl.alignment import cascade
from bingo_pl.alignment.optimisation import Level
from bingo_pl.cli import main
from bingo_pl.images.series import Series, count_volumes, read_values, split
from bingo_pl.registration.series import FEW_SLICES, slices_apart
from bingo_pl.report import page

SHAPE = (48, 52)
SPACING = 1.5
TIMES = (100.0, 180.0, 300.0, 700.0, 1200.0, 2000.0, 3000.0, 4000.0)
"""Inversion times; at the third one half of the body is nulled."""
AFFINE = np.diag([-SPACING, SPACING, 8, 1.0])


@pytest.fixture(scope="module", autouse=True)
def report_without_pictures() -> Iterator[None]:
    """Drawing takes longer than all else; the report has tests of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write_report", lambda folder, scans=(): (folder / "report.html").touch())
        yield


@pytest.fixture(scope="module", autouse=True)
def fewer_steps() -> Iterator[None]:
    """Enough for images of 2,500 pixels."""
    whole = cascade.Plan.level

    def level(plan: cascade.Plan, kind: str, voxel_mm: float) -> Level:
        found = whole(plan, kind, voxel_mm)
        return dataclasses.replace(found, steps=found.steps // 3, points=found.points // 3)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascade.Plan, "level", level)
        yield


def frames(seed: int = 0) -> NDArray[np.float32]:
    """(X, Y, T) of inversion recovery, magnitudes: tissues of several T1 in a body, dark around it."""
    draw = np.random.default_rng(seed)
    x, y = np.meshgrid(*(np.linspace(-1, 1, size) for size in SHAPE), indexing="ij")
    body = gaussian_filter((x**2 + y**2 < 0.7).astype(float), 0.7)
    tissue = gaussian_filter(draw.normal(size=SHAPE), 3)
    t1 = 400 + 500 * (tissue > 0) + 600 * (tissue > 0.06)
    density = 1 + 0.3 * (gaussian_filter(draw.normal(size=SHAPE), 2) > 0)
    recovered = [gaussian_filter(density * (1 - 2 * np.exp(-time / t1)), 0.6) for time in TIMES]
    return np.stack([body * np.abs(each) for each in recovered], -1).astype(np.float32)


def breathed(series: NDArray, amplitude: float, seed: int = 0, width: float = 18) -> NDArray[np.float32]:
    """Frames moved along the second axis, most in the middle, by some voxels; with noise."""
    draw = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*(np.arange(size) for size in SHAPE), indexing="ij")).astype(float)
    profile = np.exp(-(((places[1] - SHAPE[1] / 2) / width) ** 2))
    moved = [
        map_coordinates(frame, [places[0], places[1] + amplitude * shift * profile], order=3, mode="nearest")
        for frame, shift in zip(np.moveaxis(series, -1, 0), (1, -1, 0.5, -0.7, 0.8, 0, -0.6, 0.3), strict=True)
    ]
    return (np.stack(moved, -1) + 0.01 * draw.normal(size=series.shape)).astype(np.float32)


def left(series: NDArray) -> float:
    """Variance beyond three components."""
    values = series.reshape(-1, series.shape[-1]).astype(float)
    return float((np.linalg.svd(values - values.mean(0), compute_uv=False)[3:] ** 2).sum())


def save(path: Path, series: NDArray, affine: NDArray = AFFINE) -> Path:
    image = nib.Nifti1Image(series, affine)
    image.header.set_xyzt_units("mm", "msec")
    image.header["pixdim"][4] = 7.5
    nib.save(image, path)
    return path


def test_breathing_is_taken_out_of_a_series_of_slices(tmp_path: Path) -> None:
    """At least half of what three components leave, where frames lie up to 6 mm apart and differ in contrast."""
    moving = breathed(frames(), 2.0)
    path = save(tmp_path / "molli.nii.gz", moving[:, :, None])
    group = register({"molli": path}, values=TIMES)
    assert [*group.members] == [f"molli_{time:.0f}" for time in TIMES]
    assert group.way is not None
    assert group.way.kept == "deformable"
    assert all(member.belongs for member in group.members.values())
    assert group.verdict is not None
    assert not group.verdict.doubtful
    folder = group.write(tmp_path / "out")
    written = nib.load(folder / "registered" / "molli.nii.gz")
    assert written.shape == (*SHAPE, 1, len(TIMES))
    np.testing.assert_allclose(written.affine, AFFINE)
    assert written.header["pixdim"][4] == 7.5
    assert written.header.get_xyzt_units() == ("mm", "msec")
    after = np.asarray(written.dataobj)
    np.testing.assert_allclose(after[..., 2], nib.load(folder / "registered" / "molli_300.nii.gz").get_fdata())
    assert left(after[:, :, 0]) < 0.5 * left(moving)
    record = json.loads((folder / "registration.json").read_text())["series"]
    assert record["values"] == [*TIMES]
    assert record["source"]["path"] == str(path.resolve())


def test_slices_of_a_thin_stack_move_each_in_its_plane() -> None:
    """Two slices in breaths of their own, the second in the opposite sense: neither moves along the third axis."""
    moving = np.stack([breathed(frames(), 2.0, width=1e3), breathed(frames(1), -2.0, 1, width=1e3)], 2)
    group = register([("t1", (moving, AFFINE))], transform="rigid")
    assert group.grid.shape == (*SHAPE, 2)
    after = np.stack([member.image for member in group.members.values()], -1)
    for z in range(2):
        inside = np.s_[4:-4, 4:-4, z]
        assert left(after[inside]) < 0.5 * left(moving[inside])
    assert all(float(member.displacement[2].abs().max()) == 0 for member in group.members.values())
    points = np.array([[-30.0, 40, z] for z in (0, 8)])  # LPS of a RAS affine that mirrors x
    for member in group.members.values():
        for point in points.tolist():
            back = member.inverse.transform.TransformPoint(member.forward.transform.TransformPoint(point))
            np.testing.assert_allclose(back, point, atol=0.15)


def test_a_series_that_lies_still_stays() -> None:
    """Voxel for voxel, though its contrast changes from image to image."""
    still = breathed(frames(), 0.0)
    group = register({"series": (still[:, :, None], AFFINE)})
    assert group.way is not None
    assert group.way.kept == "identity"
    for number, member in enumerate(group.members.values()):
        np.testing.assert_allclose(member.image[:, :, 0], still[..., number], atol=1e-5)


@pytest.mark.parametrize("bad", [False, True])
def test_a_dark_frame_is_not_accused_but_a_wrong_one_is(bad: bool) -> None:
    """Noise without signal says nothing against an image; a bright image of something else does."""
    series = breathed(frames(), 0.0)
    draw = np.random.default_rng(3)
    if bad:
        series[..., 5] = gaussian_filter(draw.normal(size=SHAPE), 2) * 10
    else:
        series[..., 5] = 0.02 * np.abs(draw.normal(size=SHAPE))
    group = register({"series": (series[:, :, None], AFFINE)}, transform="rigid")
    assert [name for name, member in group.members.items() if not member.belongs] == (["series_5"] if bad else [])
    assert group.verdict is not None
    assert group.verdict.doubtful == bad


def test_values_come_from_text_and_files(tmp_path: Path) -> None:
    (tmp_path / "dwi.bval").write_text("0 1000 1000\n")
    (tmp_path / "times.tsv").write_text("inversion_time\n0.1\n2.5\n")
    assert read_values(str(tmp_path / "dwi.bval")) == [0, 1000, 1000]
    assert read_values(tmp_path / "times.tsv") == [0.1, 2.5]
    assert read_values("100, 180,260") == [100, 180, 260]
    assert read_values("control,label") == ["control", "label"]
    source = np.zeros((4, 4, 4, 3)), np.eye(4)
    assert Series.of("dwi", source, tmp_path / "dwi.bval").names == ("dwi_0", "dwi_1000", "dwi_1000_2")
    assert Series.of("dwi", source, None).names == ("dwi_0", "dwi_1", "dwi_2")
    for values, message in (("1,2", "3 volumes but 2 values"), ("1,2,inf", "finite"), ("a/b,c,d", "cannot name")):
        with pytest.raises(BingoError, match=message):
            Series.of("dwi", source, values)
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing.bval", "pipe", "."):
        with pytest.raises(BingoError, match="cannot be read"):
            read_values(tmp_path / name)
    with pytest.raises(BingoError, match=r"3 volumes but 1 values, since there is no file missing.bval"):
        Series.of("dwi", source, "missing.bval")


def test_a_series_is_a_group_of_its_own(tmp_path: Path) -> None:
    series = save(tmp_path / "series.nii.gz", breathed(frames(), 0.0)[:, :, None])
    single = save(tmp_path / "one.nii.gz", breathed(frames(), 0.0)[:, :, None, :1])
    assert (count_volumes(series), count_volumes(single), count_volumes(tmp_path / "none.nii.gz")) == (8, 1, 1)
    with pytest.raises(BingoError, match="a group of their own"):
        register({"a": series, "b": single})
    with pytest.raises(BingoError, match="none was given"):
        register({"a": single}, values=[1])


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_volumes_are_split_one_at_a_time(ending: str, tmp_path: Path) -> None:
    """Values, also scaled ones, geometry and type; what is there already stays."""
    series = np.random.default_rng(0).integers(0, 1000, (5, 6, 3, 4)).astype(np.int16)
    image = nib.Nifti1Image(series, AFFINE)
    nib.save(image, tmp_path / f"s.{ending}")
    found = Series.of("s", tmp_path / f"s.{ending}", None)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "s_1.nii.gz").touch()
    paths = split(found, tmp_path / "out")
    assert paths[1].stat().st_size == 0
    for number in (0, 2, 3):
        volume = nib.load(paths[number])
        assert volume.get_data_dtype() == np.int16
        np.testing.assert_array_equal(np.asarray(volume.dataobj), series[..., number])
        np.testing.assert_allclose(volume.affine, AFFINE)


def test_intensities_that_wrapped_are_judged_for_the_series_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Streamed, its volumes are read as they are in memory: all as unsigned, also one that alone shows no wrap."""
    bright = 60000 * np.clip(breathed(frames(), 0.0) / frames().max(), 0, 1)
    bright[..., 0] *= 0.4
    path = save(tmp_path / "s.nii.gz", bright[:, :, None].astype(np.uint16).view(np.int16))
    monkeypatch.setattr("sys.argv", ["bingo", "register", str(path), "--memory", "1GB", "-o", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="0"):
        main()
    told = capsys.readouterr().err
    assert told.count("warning:") == 1
    assert f"{path}: intensities jump" in told
    assert ".py" not in told
    for number in range(len(TIMES)):
        kept = np.asarray(nib.load(tmp_path / "out" / "originals" / f"series_{number}.nii.gz").dataobj)
        np.testing.assert_array_equal(kept[:, :, 0], bright[..., number].astype(np.uint16))


def test_the_command_streams_a_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same names, and one 4D file again."""
    path = save(tmp_path / "series.nii.gz", breathed(frames(), 1.0)[:, :, None])
    out = tmp_path / "out"
    arguments = [str(path), "--values", "1,2,3,4,5,6,7,8", "--memory", "200MB", "--output", str(out)]
    monkeypatch.setattr("sys.argv", ["bingo", "register", *arguments])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    record = json.loads((out / "registration.json").read_text())
    assert record["series"]["names"] == [f"series_{number}" for number in range(1, 9)]
    written = nib.load(out / "registered" / "series.nii.gz")
    assert written.shape[3] == 8
    np.testing.assert_allclose(written.affine, record["group"]["affine_ras_mm"])
    each = [nib.load(out / "registered" / f"series_{number}.nii.gz").get_fdata() for number in range(1, 9)]
    np.testing.assert_allclose(written.get_fdata(), np.stack(each, -1).reshape(written.shape))
    assert not (out / "unfinished").exists()


def test_a_series_is_interpolated_continued_and_overwritten_as_others_are(tmp_path: Path) -> None:
    """Its border's values beyond it, so that no edge comes and goes; never the file that it was read from."""
    still = breathed(frames(), 0.0)[:, :, None] + np.float32(1)
    path, out = save(tmp_path / "s.nii.gz", still), tmp_path / "out"
    padded = np.pad(still, ((4, 4), (0, 0), (0, 0), (0, 0)), "edge")
    affine = AFFINE.copy()
    affine[0, 3] = 4 * SPACING
    group = register({"s": path}, like=(padded[..., 0], affine), interpolation="bspline")
    group.write(out)
    written = nib.load(group.write(out, overwrite=True) / "registered" / "s.nii.gz").get_fdata()
    np.testing.assert_allclose(written, padded, atol=1e-4)
    record = json.loads((out / "registration.json").read_text())
    assert {entry["interpolation"] for entry in record["images"]} == {"bspline"}
    assert "registered/s.nii.gz" in record["files"]
    again = register({"s": out / "registered" / "s.nii.gz"}, transform="rigid")
    with pytest.raises(BingoError, match="which is read"):
        again.write(out, overwrite=True)


def test_stacks_of_many_slices_are_volumes() -> None:
    assert slices_apart((64, 64, FEW_SLICES))
    assert not slices_apart((64, 64, FEW_SLICES + 1))
