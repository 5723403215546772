"""`bingo check` names every kind of bad file with a reason and a remedy, reads each once, and fixes what is safe."""

from __future__ import annotations

import builtins
import gzip
import io
import os
import struct
import sys
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from bingo_pl import cli
from bingo_pl.checking import check as checking
from bingo_pl.checking.check import Checkup
from bingo_pl.errors import BingoError
from bingo_pl.images import volume
from bingo_pl.images.geometry import corner_distance_mm
from bingo_pl.images.problems import Severity
from bingo_pl.images.reading import read_image

SHAPE = (12, 10, 8)
RAMP = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE)
LABELS = (RAMP > 500).astype(np.uint8)
AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
# bytes into a NIfTI-1 header
DIM, PIXDIM, SLOPE, SROW_X = 42, 80, 112, 280


def save(path: Path, data: np.ndarray = RAMP, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def patch(path: Path, offset: int, value: float, kind: str = "f") -> None:
    """Write a header field of a NIfTI file, compressed or not."""
    zipped = path.suffix == ".gz"
    content = bytearray(gzip.decompress(path.read_bytes()) if zipped else path.read_bytes())
    struct.pack_into(f"<{kind}", content, offset, value)
    path.write_bytes(gzip.compress(content) if zipped else content)


def shifted(mm: float) -> np.ndarray:
    affine = AFFINE.copy()
    affine[0, 3] = mm
    return affine


def sheared(angle: float) -> np.ndarray:
    """The scalar product of the first two axes is the angle."""
    affine = AFFINE.copy()
    affine[0, 1] = 2 * angle
    return affine


def look(path: Path, label_ids: Collection[int] = (), copies: Path | None = None) -> Checkup:
    return checking.check(path, label_ids, copies, list)


# builders: each writes one bad file under the path that it gets

Builder = Callable[[Path], object]


def field(offset: int, value: float, kind: str = "f") -> Builder:
    """A good file but for one header field."""
    return lambda path: patch(save(path), offset, value, kind)


def forms(qform: np.ndarray, qcode: int, sform: np.ndarray, scode: int) -> Builder:
    def build(path: Path) -> None:
        image = nib.Nifti1Image(RAMP, AFFINE)
        image.set_qform(qform, qcode)
        image.set_sform(sform, scode)
        nib.save(image, path)

    return build


def voxels(data: np.ndarray) -> Builder:
    return lambda path: save(path, data)


def changed(value: float, share: float = 0.0) -> np.ndarray:
    """The ramp with a value in the first voxels: one, or a share of all."""
    data = RAMP.astype(np.float32)
    data.reshape(-1)[: max(1, round(share * RAMP.size))] = value
    return data


def cut(path: Path, keep: float = 0.6) -> None:
    noise = np.random.default_rng(0).integers(0, 999, SHAPE).astype(np.int16)  # does not compress to nothing
    save(path, noise)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])


def vectors(path: Path) -> None:
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((*SHAPE, 3), np.float32), isVector=True), str(path))


def text(path: Path) -> None:
    path.write_text("no image")


def nonfinite_sform(path: Path, qcode: int = 0) -> None:
    forms(AFFINE, qcode, AFFINE, 2)(path)
    patch(path, SROW_X, float("nan"))


def nonfinite_sform_with_qform(path: Path) -> None:
    nonfinite_sform(path, qcode=1)


RGB = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])

BROKEN: dict[str, tuple[str, Builder, Severity, str]] = {
    "nan": ("image.nii.gz", voxels(changed(np.nan)), "error", "1 of 960 voxels are NaN or Inf"),
    "inf": ("image.nii", voxels(changed(np.inf, 0.1)), "error", "96 of 960 voxels are NaN or Inf"),
    "constant": ("image.nii.gz", voxels(np.full(SHAPE, 3.0)), "error", "every voxel is 3"),
    "dot": ("image.nii.gz", voxels((RAMP == 500).astype(np.int16) * 500), "error", "foreground is nearly constant"),
    "empty mask": ("image_mask.nii.gz", voxels(0 * LABELS), "error", "mask is empty"),
    "empty labels": ("image_seg.nii.gz", voxels(0 * LABELS), "warning", "label map is empty"),
    "ct1024": ("image.nii.gz", voxels(changed(-1024, 0.1)), "warning", "10% of the voxels are -1024"),
    "ct2000": ("image.nii.gz", voxels(changed(-2000, 0.1)), "warning", "10% of the voxels are -2000"),
    "ct3024": ("image.nii.gz", voxels(changed(-3024, 0.1)), "warning", "10% of the voxels are -3024"),
    "wrapped": ("image.nii.gz", voxels((RAMP * 60).astype(np.int16)), "warning", "wrapped"),
    "slope": ("image.nii.gz", field(SLOPE, float("nan")), "warning", "slope (scl_slope) is nan"),
    "rgb": ("image.nii.gz", voxels(RGB), "error", "one real number per voxel"),
    "complex": ("image.nii.gz", voxels(RAMP.astype(np.complex64)), "error", "holds complex64 voxels"),
    "vector": ("image.nrrd", vectors, "error", "3 values per voxel"),
    "series": ("image.nii.gz", voxels(RAMP.reshape(12, 10, 4, 2)), "error", "has shape (12, 10, 4, 2)"),
    "cut": ("image.nii.gz", cut, "error", "cannot be read"),
    "cut plain": ("image.nii", cut, "error", "bytes of voxels are missing"),
    "cut mha": ("image.mha", text, "error", "cannot be read"),
    "dim large": ("image.nii", field(DIM, 40, "h"), "error", "bytes of voxels are missing"),
    "dim small": ("image.nii.gz", field(DIM, 6, "h"), "warning", "holds more bytes than"),
    "dim negative": ("image.nii.gz", field(DIM, -4, "h"), "error", "cannot be read"),
    "pixdim zero": ("image.nii.gz", field(PIXDIM, 0), "error", "voxel size (pixdim)"),
    "pixdim nan": ("image.nii.gz", field(PIXDIM, float("nan")), "error", "voxel size (pixdim)"),
    "pixdim other": ("image.nii.gz", field(PIXDIM, 7), "warning", "but [1.0, 2.0, 3.0] mm by the sform"),
    "forms": (
        "image.nii.gz",
        forms(shifted(10), 1, AFFINE, 2),
        "warning",
        "differ by up to 10.0 mm; the sform is used",
    ),
    "sheared": ("image.nii.gz", forms(AFFINE, 0, sheared(0.3), 2), "error", "sform of the header is sheared"),
    "sheared little": ("image.nii.gz", forms(AFFINE, 0, sheared(0.002), 2), "error", "sform of the header is sheared"),
    "sheared least": ("image.nii.gz", forms(AFFINE, 0, sheared(5e-4), 2), "warning", "not quite perpendicular"),
    "sheared sform": ("image.nii.gz", forms(AFFINE, 1, sheared(0.3), 2), "warning", "the qform is used"),
    "no forms": ("image.nii.gz", forms(AFFINE, 0, AFFINE, 0), "warning", "neither sform nor qform"),
    "affine nan": ("image.nii.gz", nonfinite_sform, "error", "sform of the header is not finite"),
    "sform nan": ("image.nii.gz", nonfinite_sform_with_qform, "warning", "sform is not finite; the qform is used"),
    "affine huge": ("image.nii.gz", forms(AFFINE, 0, np.diag([1e30, 3, 3, 1]), 2), "error", "impossible, with voxels"),
    "affine singular": ("image.nii.gz", forms(AFFINE, 0, np.diag([1.0, 0, 3, 1]), 2), "error", "singular"),
    "interpolated": ("image_seg.nii.gz", voxels(LABELS * 0.5), "error", "probably interpolated"),
    "interpolated mask": ("image_mask.nii.gz", voxels(LABELS * 0.5), "error", "probably interpolated"),
    "rounding": ("image_label.nii.gz", voxels(LABELS * 1.0001), "warning", "off whole numbers"),
    "unknown id": ("image_seg.nii.gz", voxels(LABELS * 7), "error", "label ids [7] are not among the known ids [1, 2]"),
    "grid": ("image_seg.nii.gz", voxels(LABELS[1:]), "error", "(11, 10, 8) voxels, its image (12, 10, 8)"),
    "moved": ("image_seg.nii.gz", lambda path: save(path, LABELS, shifted(5)), "error", "5.0 mm from its image"),
    "empty": ("image.nii.gz", Path.touch, "error", "the file is empty"),
    "folder": ("image.nii.gz", Path.mkdir, "error", "is a folder"),
    "text": ("image.nii", text, "error", "no NIfTI header"),
    "link": ("image.nii.gz", lambda path: path.symlink_to("nowhere"), "error", "no such file"),
    "dicom": ("image.dcm", text, "warning", "the format .dcm is not one of"),
}
"""Folder: the bad file in it, what writes it, the severity and a part of what is said."""
NOTED: dict[str, tuple[str, Builder, Severity, str]] = {
    "slope": ("image.nii.gz", field(SLOPE, 0), "note", "slope (scl_slope) is 0"),
    "trailing": ("image.nii.gz", voxels(RAMP[..., None]), "note", "trailing axes of one voxel"),
    "padded": ("image.nii.gz", voxels(changed(-3024, 0.6)), "note", "60% of the voxels are -3024"),
}
"""What works here, but is good to know."""
FIXED = {"slope", "pixdim other", "forms", "sheared little", "sheared least", "sheared sform", "sform nan", "rounding"}
FIXED_PIXDIM = {"pixdim zero", "pixdim nan"}


def build(root: Path, key: str, table: dict[str, tuple[str, Builder, Severity, str]] = BROKEN) -> Path:
    """A case of one good image and the bad file, or of the bad file alone."""
    name, builder, _, _ = table[key]
    (root / key).mkdir(parents=True)
    if name.startswith("image_"):
        save(root / key / "image.nii.gz")
    builder(root / key / name)
    return root / key / name


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("broken ü")
    for key in BROKEN:
        build(root, key)
    return root


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["bingo", "check", *arguments])
    monkeypatch.setattr(cli.console, "width", 400)  # so that no phrase is broken into lines
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


@pytest.mark.parametrize("key", BROKEN)
def test_each_kind_of_bad_file_is_named_with_its_reason_and_remedy(broken: Path, key: str) -> None:
    name, _, severity, phrase = BROKEN[key]
    checkup = look(broken / key, label_ids=[1, 2])
    assert not checkup.clean
    (finding,) = [finding for finding in checkup.findings if finding.problem.severity != "note"]
    assert phrase in finding.problem.what
    assert finding.problem.severity == severity
    assert len(finding.problem.why) > 20
    assert len(finding.problem.remedy) > 5
    assert name in finding.where or key == "dicom"  # a folder of DICOM slices is named once


@pytest.mark.parametrize("key", [key for key, row in BROKEN.items() if row[0].startswith("image.") and key != "dot"])
@pytest.mark.filterwarnings("ignore:.*(sform and qform differ|wrapped):UserWarning")
def test_errors_are_what_training_refuses(broken: Path, key: str) -> None:
    """But for a lonely dot, which only fails when intensities are scaled, and DICOM, which is not looked for."""
    path = broken / key / BROKEN[key][0]
    if BROKEN[key][2] == "error" or key == "dicom":
        with pytest.raises(BingoError):
            read_image(path)
    else:
        read_image(path)


def test_a_folder_of_bad_files_is_listed_whole_without_a_traceback(
    broken: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert len(BROKEN) >= 25
    assert run(monkeypatch, str(broken), "--label-ids", "1,2") == 1
    printed = capfd.readouterr()
    assert "Traceback" not in printed.out + printed.err
    for key, (name, _, _, phrase) in BROKEN.items():
        assert phrase in printed.out
        assert key == "dicom" or f"{key}/{name}" in printed.out
    severities = Counter(severity for _, _, severity, _ in BROKEN.values())
    assert f"{severities['error']} errors, {severities['warning']} warnings, 0 notes" in printed.out


@pytest.mark.parametrize("key", NOTED)
def test_what_is_read_as_it_was_meant_is_a_note(tmp_path: Path, key: str) -> None:
    path = build(tmp_path, key, NOTED)
    checkup = look(tmp_path)
    assert checkup.clean
    (finding,) = checkup.findings
    assert finding.where == os.path.relpath(path, tmp_path)
    assert NOTED[key][3] in finding.problem.what


def test_a_clean_folder_ends_with_status_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    case = tmp_path / "ein Fall ü [1]"
    save(case / "c_t1.nii.gz")
    save(case / "c_seg.nii.gz", LABELS)
    save(case / "c_t1_mask.nii.gz", LABELS)
    sitk.WriteImage(sitk.ReadImage(str(case / "c_t1.nii.gz")) + 1, str(case / "c_t2.mha"))
    save(tmp_path / "slice" / "t1.nii", RAMP[:, :, 0].astype(np.float64))
    save(tmp_path / "slice" / "t2.nii", RAMP[:, ::-1, :1])
    (tmp_path / "notes.txt").touch()
    assert run(monkeypatch, str(tmp_path)) == 0
    assert "6 files looked at: 0 errors, 0 warnings, 0 notes." in capsys.readouterr().out


def test_all_problems_of_a_file_are_listed(tmp_path: Path) -> None:
    data = changed(np.nan)
    data.reshape(-1)[1:] = 5
    path = save(tmp_path / "image.nii.gz", data[..., None])
    patch(path, PIXDIM, 0)
    patch(path, SLOPE, float("nan"))
    whats = " | ".join(finding.problem.what for finding in look(path).findings)
    for phrase in ("voxel size (pixdim)", "scl_slope", "trailing axes", "NaN or Inf", "every voxel is 5"):
        assert phrase in whats


def test_no_damage_of_a_header_ends_in_a_traceback(tmp_path: Path) -> None:
    """And whatever is fixed passes afterwards, but for what was left."""
    random = np.random.default_rng(0)
    path = save(tmp_path / "image_seg.nii", LABELS)
    good = path.read_bytes()
    for i in range(300):
        content = bytearray(good)
        for position in random.integers(0, 352, size=3):  # a NIfTI-1 header
            content[position] = random.choice([0, 1, 127, 128, 255])
        path.write_bytes(content)
        checkup = look(path, label_ids=[1], copies=tmp_path / str(i))
        if checkup.fixed:
            left = [finding.problem.what for finding in checkup.findings if not finding.change]
            again = look(tmp_path / str(i) / path.name, label_ids=[1])
            assert [finding.problem.what for finding in again.findings] == left


def test_other_programs_are_told_as_they_are(tmp_path: Path) -> None:
    """SimpleITK takes the sform where its code is 1 and the qform where it is not, whatever we take."""
    for scode, itk in ((1, "sform"), (2, "qform")):
        path = tmp_path / f"{scode}.nii"
        forms(shifted(10), 1, AFFINE, scode)(path)
        origin = sitk.ReadImage(str(path)).GetOrigin()[0]
        assert origin == {"sform": 0, "qform": -10}[itk]  # LPS
        (finding,) = look(path).findings
        assert f"Slicer) take the {itk}" in finding.problem.why


def test_each_file_is_opened_once(broken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: Counter[str] = Counter()
    real_open, real_read = io.open, sitk.ReadImage

    def counting_open(file: Any, *args: Any, **kwargs: Any) -> Any:
        opened[str(file)] += 1
        return real_open(file, *args, **kwargs)

    def counting_read(file: str) -> sitk.Image:
        opened[file] += 1
        return real_read(file)

    monkeypatch.setattr(io, "open", counting_open)
    monkeypatch.setattr(builtins, "open", counting_open)
    monkeypatch.setattr(sitk, "ReadImage", counting_read)
    look(broken, copies=tmp_path / "copies")
    opens = {path: count for path, count in opened.items() if path.startswith(str(broken))}
    assert len(opens) >= 40
    assert set(opens.values()) == {1}


def test_files_and_folders_that_may_not_be_read_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(tmp_path / "image.nii.gz")

    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)  # the tests may run as root, who may read everything
    (finding,) = look(path).findings
    assert finding.problem.what == "cannot be read (Permission denied)"

    def walk(root: Path, onerror: Callable[[OSError], None]) -> list[tuple[str, list[str], list[str]]]:
        onerror(PermissionError(13, "Permission denied", str(tmp_path / "closed")))
        return []

    monkeypatch.setattr(os, "walk", walk)
    (finding,) = look(tmp_path).findings
    assert finding.where == "closed"
    assert "cannot be opened (Permission denied)" in finding.problem.what


# groups


def test_images_of_a_group_are_compared(tmp_path: Path) -> None:
    save(tmp_path / "a_t1.nii.gz")
    save(tmp_path / "a_t2.nii.gz", RAMP.astype(np.float64))  # the same voxels, stored otherwise
    save(tmp_path / "a_far.nii.gz", RAMP + 1, shifted(500))
    save(tmp_path / "a_coarse.nii.gz", RAMP[::2] + 2, AFFINE @ np.diag([-2.0, 1, 1, 1]))
    found = {finding.where: finding.problem for finding in look(tmp_path).findings}
    assert "holds the same voxels as a_t1.nii.gz" in found["a_t2.nii.gz"].what
    assert "does not overlap with a_coarse.nii.gz" in found["a_far.nii.gz"].what
    note = found["group a"]
    assert note.severity == "note"
    assert "a_coarse.nii.gz 6x10x8 voxels of 2x2x3 mm, LAS" in note.what
    assert "a_t1.nii.gz 12x10x8 voxels of 1x2x3 mm, RAS" in note.what
    assert len(found) == 3


def test_missing_modalities_are_notes_and_single_images_warnings(tmp_path: Path) -> None:
    for case, modalities in (("a", "xyz"), ("b", "xyz"), ("c", "xy"), ("d", "x")):
        for i, modality in enumerate(modalities):
            save(tmp_path / f"{case}_{modality}.nii.gz", RAMP + i)
    found = [(finding.where, finding.problem.severity, finding.problem.what) for finding in look(tmp_path).findings]
    assert found == [
        ("group c", "note", "has no z, unlike most groups"),
        ("group d", "note", "has no y, z, unlike most groups"),
        ("group d", "warning", "has one image (d_x.nii.gz)"),
    ]


def test_a_label_map_may_lie_on_the_grid_of_any_image_of_its_case(tmp_path: Path) -> None:
    save(tmp_path / "c_t1.nii.gz", RAMP[1:])
    save(tmp_path / "c_t2.nii.gz")
    save(tmp_path / "c_seg.nii.gz", LABELS)
    assert look(tmp_path).clean
    save(tmp_path / "c_t1_seg.nii.gz", LABELS)  # named after one image, it is that image's
    assert [finding.where for finding in look(tmp_path).findings if finding.problem.severity == "error"] == [
        "c_t1_seg.nii.gz"
    ]


# manifests

HEADER = "split,group,subject,modality,image,label,mask\n"


def manifest(folder: Path, *lines: str, header: str = HEADER) -> Path:
    for i, name in enumerate(("a", "b", "c")):
        save(folder / f"{name}.nii.gz", RAMP + i)
    save(folder / "l.nii.gz", LABELS)
    path = folder / "group.csv"
    path.write_text(header + "".join(f"{line}\n" for line in lines))
    return path


GOOD = ("train,g,s,t1,a.nii.gz,l.nii.gz,l.nii.gz", "train,g,s,t2,b.nii.gz,,")


def test_a_good_manifest_is_clean(tmp_path: Path) -> None:
    path = manifest(tmp_path, *GOOD)
    (tmp_path / "bad.nii.gz").touch()  # not listed
    checkup = look(path)
    assert checkup.findings == ()
    assert checkup.files == 3


@pytest.mark.parametrize(
    ("lines", "where", "phrase"),
    [
        (["train,../x,s,t1,a.nii.gz,,", "train,../x,s,t2,b.nii.gz,,"], "group.csv", "cannot name a group"),
        ([*GOOD, "train,g,s,t1,no.nii.gz,,"], "no.nii.gz", "no such file"),
        ([*GOOD, GOOD[1]], "group.csv", "group 'g' lists b.nii.gz more than once (lines 3, 4)"),
        (["train,g,s,t1,a.nii.gz,,"], "group g", "has one image (a.nii.gz)"),
        ([*GOOD, "train,g,s,,c.nii.gz,,"], "group.csv", "line 4 has no modality"),
        ([*GOOD, "train,g,s,t1,,,"], "group.csv", "line 4 has no image"),
        (["trian,g,s,t1,a.nii.gz,,", "trian,g,s,t2,b.nii.gz,,"], "group.csv", "unknown split 'trian'"),
        ([GOOD[0], "test,g,s,t2,b.nii.gz,,"], "group.csv", "group 'g' is in the splits train, test"),
        ([], "group.csv", "lists no image"),
        ([*GOOD, "train,g,s,t1,notes.xyz,,"], "notes.xyz", "the format .xyz"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_named(tmp_path: Path, lines: list[str], where: str, phrase: str) -> None:
    checkup = look(manifest(tmp_path, *lines))
    assert any(finding.where == where and phrase in finding.problem.what for finding in checkup.findings)
    assert not checkup.clean


def test_wrong_columns_are_named_and_the_layout_is_shown(tmp_path: Path) -> None:
    (finding,) = look(manifest(tmp_path, header="split,group,image\n")).findings
    assert "has no column subject, modality, label" in finding.problem.what
    assert "split,group,subject,modality,image,label" in finding.problem.remedy
    path = tmp_path / "binary.csv"
    path.write_bytes(bytes(range(128, 256)))
    (finding,) = look(path).findings
    assert "cannot be read as CSV" in finding.problem.what


def test_a_subject_in_two_splits_is_a_warning(tmp_path: Path) -> None:
    lines = [*GOOD, "test,h,s,t1,c.nii.gz,,", "test,h,s,t2,b.nii.gz,,"]
    (finding,) = look(manifest(tmp_path, *lines)).findings
    assert finding.problem.severity == "warning"
    assert "1 subjects are in more than one split: s" in finding.problem.what


def test_images_of_a_listed_group_that_do_not_overlap_are_an_error(tmp_path: Path) -> None:
    path = manifest(tmp_path, *GOOD)
    save(tmp_path / "b.nii.gz", RAMP + 1, shifted(500))
    assert ("b.nii.gz", "error") in [(finding.where, finding.problem.severity) for finding in look(path).findings]


# fixing


@pytest.mark.parametrize("key", sorted(FIXED | FIXED_PIXDIM))
def test_a_fixed_copy_passes_and_keeps_its_voxels(tmp_path: Path, key: str) -> None:
    path = build(tmp_path / "in", key)
    original = path.read_bytes()
    checkup = look(tmp_path / "in", copies=tmp_path / "out")
    assert checkup.fixed == 1
    assert all(finding.change for finding in checkup.findings)
    copy = tmp_path / "out" / key / path.name
    assert look(copy, label_ids=[1]).findings == ()
    before, after = volume.open_volume(path), volume.open_volume(copy)
    assert before.data is not None
    assert before.affine is not None
    assert after.data is not None
    assert after.affine is not None
    np.testing.assert_array_equal(after.data, np.rint(before.data) if key == "rounding" else before.data)
    assert after.data.dtype == (np.uint8 if key == "rounding" else np.int16)
    # half of the smallest voxel, the most that a shear may move a corner
    assert corner_distance_mm(before.affine, after.affine, SHAPE) < 0.5
    assert path.read_bytes() == original


def test_scaled_intensities_survive_mending(tmp_path: Path) -> None:
    path = tmp_path / "in" / "image.nii.gz"
    path.parent.mkdir()
    forms(shifted(10), 1, AFFINE, 2)(path)
    patch(path, SLOPE, 0.25)
    patch(path, SLOPE + 4, -3)  # scl_inter
    look(path, copies=tmp_path / "out")
    copy = nib.load(tmp_path / "out" / "image.nii.gz")
    assert copy.get_data_dtype() == np.int16
    np.testing.assert_array_equal(copy.get_fdata(), 0.25 * RAMP - 3)
    assert sitk.ReadImage(str(tmp_path / "out" / "image.nii.gz")).GetOrigin()[0] == 0


@pytest.mark.parametrize("key", sorted(BROKEN.keys() - FIXED - FIXED_PIXDIM))
def test_what_needs_a_decision_is_left_to_the_person(broken: Path, tmp_path: Path, key: str) -> None:
    checkup = look(broken / key, label_ids=[1, 2], copies=tmp_path / "out")
    assert checkup.fixed == 0
    assert not (tmp_path / "out").exists()
    assert not any(finding.change for finding in checkup.findings)


def test_a_partly_fixed_file_says_what_is_left(tmp_path: Path) -> None:
    path = save(tmp_path / "in" / "image.nii.gz", changed(np.nan)[..., None])
    changes = {finding.problem.what[:8]: finding.change for finding in look(path, copies=tmp_path / "out").findings}
    assert changes == {"has shap": "shape set to (12, 10, 8)", "1 of 960": ""}
    assert nib.load(tmp_path / "out" / "image.nii.gz").shape == SHAPE


def test_no_geometry_is_made_up(tmp_path: Path) -> None:
    """A voxel size is fixed from the sform alone: a qform is made of voxel sizes, a sheared sform is no measure."""
    for name, build in (("q", forms(AFFINE, 1, AFFINE, 0)), ("s", forms(AFFINE, 1, sheared(0.3), 2))):
        path = tmp_path / f"{name}.nii"
        build(path)
        patch(path, PIXDIM, 0)
        assert look(path, copies=tmp_path / "out").fixed == 0


def test_mending_overwrites_nothing_and_writes_in_its_folder_only(tmp_path: Path) -> None:
    path = build(tmp_path / "in", "forms")
    content = path.read_bytes()
    assert look(tmp_path / "in", copies=tmp_path / "in").fixed == 0
    assert path.read_bytes() == content
    lines = [f"train,g,s,t1,../in/forms/{path.name},,", "train,g,s,t2,b.nii.gz,,"]
    checkup = look(manifest(tmp_path / "list", *lines), copies=tmp_path / "list" / "out")
    assert checkup.fixed == 0
    with pytest.raises(BingoError, match="is a file, but a folder"):
        look(path, copies=path)


# arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such"], "no such file or folder"),
        (["."], "holds no image"),
        (["text.txt"], "neither an image"),
        (["text.txt", "--label-ids", "1,x"], "--label-ids 1,x"),
        ([], "Missing argument"),
    ],
)
def test_bad_arguments_end_with_status_2(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (tmp_path / "text.txt").touch()
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
