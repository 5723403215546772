"""Laws of a population at its images' own resolution: all pairs count, nobody is the reference, newcomers fit in."""

from __future__ import annotations

import dataclasses
import io
import itertools
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from bingo_pl import BingoError, BingoWarning, api, apply, register
from bingo_pl.alignment import population
from bingo_pl.alignment.features import EDGES_WEIGHT, EXPERTS, Feature, Template, mean_agreement
from bingo_pl.atlases import newcomers, people
from bingo_pl.atlases.consensus import Stack, pairwise_dice
from bingo_pl.atlases.newcomers import add_people
from bingo_pl.atlases.people import Choices
from bingo_pl.atlases.pooling import View
from bingo_pl.checking.manifest_listing import list_manifest
from bingo_pl.cli import main
from bingo_pl.images.manifest import PEOPLE, read_group
from bingo_pl.images.members import Member
from bingo_pl.images.record import read_record
from bingo_pl.images.resampling import to_array
from bingo_pl.images.scans import read_scan
from bingo_pl.images.transforms import affine_transform
from bingo_pl.report.page import write_report
from bingo_pl.report.strips import MOMENTS, SIDE, Strips, picture_file

from .test_affine import CENTRE, GRIDS, head
from .test_resampling import places

QUIET = Console(quiet=True)
GRID = GRIDS[2]
SHIFTS = ((0.0, 0.0), (6.0, 4.0), (-5.0, 6.0), (3.0, -7.0))
"""mm by which each person lies aside."""


def anatomy(number: int, contrast: str) -> NDArray:
    """A person: the head, aside and bent along each axis by up to 4 mm, each in another way."""
    points = places(GRID) - GRID.directions[:, :2] @ SHIFTS[number]
    along = (points - CENTRE) @ GRID.directions[:, :2]
    waves = 4 * np.sin(along[..., ::-1] / 12 + 2.1 * number)
    return head(points + waves @ GRID.directions[:, :2].T, contrast)


def person(folder: Path, number: int, contrast: str = "a", label: bool = True, subject: str = "") -> Member:
    voxels, bright = (anatomy(number, which).astype(np.float32) for which in (contrast, "a"))
    labels = np.where(bright > 0, 3, 0) + 4 * (bright > np.median(bright[bright > 0]))
    stem = folder / f"{number}{contrast}"
    nib.save(nib.Nifti1Image(voxels, GRID.affine), f"{stem}.nii.gz")
    nib.save(nib.Nifti1Image(labels.astype(np.uint8), GRID.affine), f"{stem}_label.nii.gz")
    return Member(contrast, Path(f"{stem}.nii.gz"), Path(f"{stem}_label.nii.gz") if label else None, None, subject)


def make(members: Sequence[Member], output: Path, overwrite: bool = False, **choices: Any) -> Path:
    return people.build(members, None, output, Choices(**choices), QUIET, overwrite=overwrite)


def voxels(path: Path) -> NDArray:
    return np.asarray(nib.load(path).dataobj)


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "atlas.json").read_text())
    return content


@pytest.fixture(scope="module", autouse=True)
def fewer_steps() -> Iterator[None]:
    """Enough for smooth people."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(population, "STEPS", 30)
        patch.setattr(population, "AGAIN", 5)
        patch.setattr(population, "POINTS", {2: 1500})
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("people")


@pytest.fixture(scope="module")
def atlas(folder: Path) -> Path:
    """Of four people, the last without labels."""
    members = [person(folder, number, label=number < 3) for number in range(4)]
    return make(members, folder / "atlas", images=True, jacobian=True)


def features(count: int) -> dict[str, Feature]:
    draw = torch.Generator().manual_seed(0)
    found = {}
    for name, channels in ((EXPERTS, 5), ("a", 2), ("b", 2)):
        weights = (torch.rand(count, 30, generator=draw) > 0.3).float()
        found[name] = Feature(torch.randn(count, 30, channels, generator=draw), weights)
    return found


def test_sums_compare_all_pairs() -> None:
    """The agreement in time linear in the number of subjects is the mean over all pairs and the points both show."""
    found = features(4)

    def of_pairs(names: Sequence[str]) -> float:
        total = count = 0.0
        for name, (i, j) in itertools.product(names, itertools.combinations(range(4), 2)):
            both = found[name].weights[i] * found[name].weights[j]
            total += float(((found[name].vectors[i] * found[name].vectors[j]).sum(1) * both).sum())
            count += float(both.sum())
        return total / count

    expected = of_pairs([EXPERTS]) + EDGES_WEIGHT * of_pairs(["a", "b"])
    assert float(mean_agreement(found, None)) == pytest.approx(expected, abs=1e-5)


def test_the_sum_of_a_group_stands_for_its_members() -> None:
    """A newcomer's agreement with the sum is the mean of that with each member."""
    found = features(4)
    newcomer = {name: Feature(f.vectors[3:], f.weights[3:]) for name, f in found.items()}
    sums = {
        name: Feature((f.vectors[:3] * f.weights[:3, :, None]).sum(0, keepdim=True), f.weights[:3].sum(0, keepdim=True))
        for name, f in found.items()
    }
    total = count = 0.0
    for i in range(3):
        both = found[EXPERTS].weights[i] * found[EXPERTS].weights[3]
        total += float(((found[EXPERTS].vectors[i] * found[EXPERTS].vectors[3]).sum(1) * both).sum())
        count += float(both.sum())
    only = {EXPERTS: newcomer[EXPERTS], "a": Feature(torch.zeros(1, 30, 2), torch.zeros(1, 30))}
    assert float(mean_agreement(only, sums)) == pytest.approx(total / count, abs=1e-5)


def test_people_agree_better_than_by_affine_maps(atlas: Path) -> None:
    found = record(atlas)
    assert found["pairwise_dice"] > found["pairwise_dice_affine"] + 0.05
    assert found["sharpness_per_mm"] > found["sharpness_affine_per_mm"]
    for image in found["images"][:3]:
        assert image["pairwise_dice"] > image["pairwise_dice_affine"]
    assert found["images"][3]["pairwise_dice"] is None, "it has no labels"


def test_the_atlas_is_central(atlas: Path) -> None:
    """mm; the people themselves are moved by millimetres."""
    assert voxels(atlas / "mean_displacement.nii.gz").max() < 1e-3
    assert record(atlas)["mean_displacement_mm"] < 1e-3
    assert min(image["displacement_mm"] for image in record(atlas)["images"]) > 0.3


def test_everything_is_written_as_register_writes_it(atlas: Path) -> None:
    for name in ("a", "a_2", "a_3", "a_4"):
        for path in (f"transforms/{name}_forward.h5", f"transforms/{name}_inverse.h5", f"registered/{name}.nii.gz"):
            assert (atlas / path).is_file()
        assert np.isfinite(voxels(atlas / "log_jacobian" / f"{name}.nii.gz")).all()
    table = pd.read_csv(atlas / "images.tsv", sep="\t")
    np.testing.assert_allclose(table["agreement"], [image["agreement"] for image in record(atlas)["images"]])
    source = sitk.ReadImage(record(atlas)["images"][1]["path"], sitk.sitkFloat32)
    like = sitk.ReadImage(str(atlas / "template" / "mean.nii.gz"))
    transform = sitk.ReadTransform(str(atlas / "transforms" / "a_2_forward.h5"))
    moved = to_array(sitk.Resample(source, like, transform, sitk.sitkLinear, 0.0))
    np.testing.assert_allclose(voxels(atlas / "registered" / "a_2.nii.gz"), moved, atol=1e-3)


def test_the_page_shows_everybody_before_and_after(atlas: Path) -> None:
    """By affine maps alone another picture than at the end, which is that of the registered image."""
    page = (atlas / "report.html").read_text()
    assert page.count('class="affine"') == page.count('class="end"') == 1 + 4
    grid = read_record(atlas).group
    strips = Strips.of(atlas, grid)
    entry = record(atlas)["images"][1]
    registered = voxels(atlas / "registered" / "a_2.nii.gz")
    unit = read_scan("a_2", "a", Path(entry["path"]), None, None).window.unit(torch.from_numpy(registered)).numpy()
    shown = strips.draw(grid.to_sitk(unit), affine_transform(np.eye(4)), SIDE).astype(float)
    with_webp = {}
    for moment in MOMENTS:
        with Image.open(picture_file(atlas, moment, entry["name"])) as picture:
            with_webp[moment] = np.asarray(picture.convert("L"), float)
    alike = {moment: np.corrcoef(drawn.ravel(), shown.ravel())[0, 1] for moment, drawn in with_webp.items()}
    assert alike["end"] > 0.98
    assert alike["affine"] < alike["end"] - 0.01


def test_the_terminal_names_who_stands_out(atlas: Path) -> None:
    """Of six, the one who agrees by less than the others."""
    found = record(atlas)
    first = found["images"][0]
    found["images"] = [first | {"subject": f"s{number}"} for number in range(5)]
    found["images"].append(first | {"subject": "[b]odd", "agreement": first["agreement"] - 0.1})
    said = io.StringIO()
    people.report_figures(found, Console(file=said, width=200))
    (line,) = [line for line in said.getvalue().splitlines() if line.startswith("look closer")]
    assert line.startswith(f"look closer: [b]odd ({Path(first['path']).name}): agrees with the others by")


def test_the_most_probable_labels_come_back_to_each_person(atlas: Path) -> None:
    """Also to the one who has none."""
    own = voxels(person(atlas.parent, 3).label or Path())
    back = voxels(atlas / "propagated" / "a_4.nii.gz")
    assert back.shape == own.shape
    for label in (3, 7):
        a, b = own == label, back == label
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.85


def test_the_order_of_the_manifest_changes_nothing(atlas: Path, folder: Path) -> None:
    members = [person(folder, number, label=number < 3) for number in (2, 0, 3, 1)]
    other = make(members, folder / "turned")
    for name in ("template/mean", "coverage", "label_prior"):
        np.testing.assert_array_equal(voxels(other / f"{name}.nii.gz"), voxels(atlas / f"{name}.nii.gz"))


def test_slices_of_parallel_planes_come_together(folder: Path) -> None:
    """In any order: the one whose content comes first gives the plane, on which the others' transforms arrive."""
    members = []
    for number in range(2):
        affine = GRID.affine.copy()
        affine[:3, 3] += 30 * number * GRID.directions[:, 2]
        path = folder / f"plane{number}.nii.gz"
        nib.save(nib.Nifti1Image(anatomy(number, "a").astype(np.float32), affine), path)
        members.append(Member("a", path))
    grids: list[Any] = []
    for order in (members, members[::-1]):
        made = make(order, folder / f"planes{len(grids)}", transform="rigid", images=True)
        grids.append(record(made)["grid"])
        for name in ("a", "a_2"):
            assert (voxels(made / "registered" / f"{name}.nii.gz") > 0).mean() > 0.1
    assert grids[0] == grids[1]


def test_apply_goes_through_the_atlas(atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = record(atlas)["images"][0]["label"]
    way = [
        "--registration",
        str(atlas),
        "--from",
        "a",
        "--to",
        "a_2",
        "--labels",
        "--output",
        str(tmp_path / "x.nii.gz"),
    ]
    monkeypatch.setattr(sys, "argv", ["bingo", "apply", label, *way])
    with pytest.raises(SystemExit, match="0"):
        main()
    moved, own = voxels(tmp_path / "x.nii.gz"), voxels(Path(record(atlas)["images"][1]["label"]))
    assert 2 * ((moved == 7) & (own == 7)).sum() / ((moved == 7).sum() + (own == 7).sum()) > 0.85


def test_a_newcomer_comes_to_where_the_full_run_has_it(folder: Path) -> None:
    """Compared with three of four: its points come to lie in another person where all four together put them."""
    members = [person(folder, number) for number in range(4)]
    full, three = make(members, folder / "full"), make(members[:3], folder / "three")
    assert "came to the finished atlas" not in (three / "report.html").read_text()
    before = voxels(three / "template" / "mean.nii.gz")
    assert add_people(three, [("", members[3].image)], None, images=True, jacobian=False, console=QUIET) == ["a_4"]
    np.testing.assert_array_equal(voxels(three / "template" / "mean.nii.gz"), before)
    assert (three / "propagated" / "a_4.nii.gz").is_file()
    page = (three / "report.html").read_text()
    assert "Atlas of 4 people" in page
    assert "came to the finished atlas" in page
    members[0].image.rename(folder / "gone")
    write_report(three)
    (folder / "gone").rename(members[0].image)
    assert (three / "report.html").read_text() == page, "made again without the originals"
    inside = np.argwhere(anatomy(3, "a") > 0)[::7]
    points = (inside @ GRID.affine[:3, :3].T + GRID.affine[:3, 3]) * (-1, -1, 1)
    there = []
    for made in (full, three):
        inverse, forward = (
            sitk.ReadTransform(str(made / "transforms" / f"{name}.h5")) for name in ("a_4_inverse", "a_forward")
        )
        there.append([forward.TransformPoint(inverse.TransformPoint(point.tolist())) for point in points])
    apart = np.linalg.norm(np.array(there[0]) - np.array(there[1]), axis=1)
    assert np.sqrt(np.mean(apart**2)) < 0.75, "half a voxel; people who are three instead of four differ by as much"


def test_a_newcomer_whom_a_kill_left_half_written_is_not_mixed_with_the_next_one(folder: Path) -> None:
    """Killed between its two records: the next one gets the name, and all that is there under it is of this one."""
    members = [person(folder, number) for number in range(4)]
    made = make(members[:2], folder / "killed", transform="rigid")
    (made / "notes.txt").write_text("somebody's")
    begun = (made / "atlas.json").read_text()
    add_people(made, [("", members[2].image)], None, images=True, jacobian=True, console=QUIET)
    (made / "atlas.json").write_text(begun)
    (made / "transforms" / ".a_3_forward.h5.1.tmp").touch()
    assert add_people(made, [("", members[3].image)], None, images=False, jacobian=False, console=QUIET) == ["a_3"]
    for name in ("atlas.json", "registration.json"):
        paths = [image["path"] for image in json.loads((made / name).read_text())["images"]]
        assert paths == [str(member.image) for member in (*members[:2], members[3])]
    assert not [*made.glob("registered/*"), *made.glob("log_jacobian/*"), *made.rglob("*.tmp")]
    assert record(made)["files"].keys() >= {"transforms/a_3_forward.h5", "images.tsv", "registration.json"}
    with pytest.raises(BingoError, match=r"notes\.txt in it was not written"):
        make(members[:2], made, transform="rigid", overwrite=True)
    (made / "notes.txt").unlink()
    make(members[:2], made, transform="rigid", overwrite=True)


def test_newcomers_come_all_or_none_and_leave_nothing_where_they_fail(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [person(folder, number) for number in range(3)]
    made = make(members[:2], folder / "failing", transform="rigid")
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    come: dict[str, Any] = {"images": False, "jacobian": False, "console": QUIET}
    with pytest.raises(BingoError, match=r"no\.nii\.gz: no such file"):
        add_people(made, [("", members[2].image), ("", tmp_path / "no.nii.gz")], None, **come)
    for name in ("draw_member", "write_atlas_record"):  # the other record is written before the last
        with monkeypatch.context() as patch:
            patch.setattr(newcomers, name, lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                add_people(made, [("", members[2].image)], None, **come)
        assert {path: path.read_bytes() for path in made.rglob("*") if path.is_file()} == before
    with pytest.raises(BingoError, match="abacus"):
        add_people(made, [("", members[2].image)], None, **come, device="abacus")
    with pytest.warns(BingoWarning, match=r"the same image.*0a\.nii\.gz and .*0a\.nii\.gz"):
        add_people(made, [("", members[0].image)], None, **come)


@pytest.mark.parametrize(
    "change", [{"images": [{"name": "a"}]}, {"space": {"dims": 7, "frame_ras_mm": np.eye(4).tolist()}}]
)
def test_nobody_is_added_to_a_damaged_record(change: dict[str, Any], atlas: Path, tmp_path: Path) -> None:
    shutil.copytree(atlas, tmp_path / "copy")
    (tmp_path / "copy" / "atlas.json").write_text(json.dumps(record(atlas) | change))
    with pytest.raises(BingoError, match=r"atlas\.json: is damaged"):
        add_people(tmp_path / "copy", [("", tmp_path / "x.nii.gz")], None, images=False, jacobian=False, console=QUIET)


@pytest.mark.filterwarnings("ignore::bingo_pl.errors.BingoWarning")  # pytest-xdist cannot send their text
def test_images_whose_names_are_not_utf8_are_written_and_reported(tmp_path: Path) -> None:
    first, second = (person(tmp_path, number, label=False).image for number in range(2))
    strange = first.rename(os.fsdecode(os.fsencode(tmp_path / "x") + b"\xff.nii.gz"))
    out = register({"a": strange, "b": second}, transform="rigid").write(tmp_path / "out")
    assert "\\udcff.nii.gz" in (out / "report.html").read_text(encoding="utf-8")
    apply(out, "a", "b", strange, tmp_path / "moved.nii.gz", False, None)
    made = make([Member("a", strange), Member("a", second)], tmp_path / "atlas", transform="rigid")
    assert "\\udcff.nii.gz" in (made / "images.tsv").read_text(encoding="utf-8")
    add_people(made, [("", strange)], None, images=False, jacobian=False, console=QUIET)


def test_images_of_a_person_lie_on_each_other(tmp_path: Path) -> None:
    first, second = person(tmp_path, 0, "a", subject="x"), person(tmp_path, 0, "b", subject="x")
    loaded = nib.load(second.image)
    far = GRID.affine.copy()
    far[:3, 3] += 500 * GRID.directions[:, 0]
    nib.save(nib.Nifti1Image(np.asarray(loaded.dataobj), far), second.image)
    with pytest.raises(BingoError, match=r"nothing of it lies on .* though both show subject x"):
        make([first, dataclasses.replace(second, label=None), person(tmp_path, 1)], tmp_path / "out")


@pytest.mark.parametrize("way", [{"transform": "rigid"}, {"affine": "never"}])
def test_one_person_is_no_population(way: dict[str, Any], tmp_path: Path) -> None:
    with pytest.warns(BingoWarning, match="the images show one person"):
        api.atlas([person(tmp_path, 0)], tmp_path / "out", **way)


def test_contrasts_of_a_person_move_as_one(folder: Path) -> None:
    """Two contrasts of two people, one contrast of the third."""
    members = [
        person(folder, 0, "a", subject="x"),
        person(folder, 0, "b", subject="x"),
        person(folder, 1, "b", subject="y"),
        person(folder, 1, "a", subject="y"),
        person(folder, 2, "b", subject="z"),
    ]
    made = make(members, folder / "contrasts")
    stages = [np.array(image["stage_affine_ras_mm"]) for image in record(made)["images"]]
    np.testing.assert_allclose(stages[0][:3, 3], stages[1][:3, 3], atol=1e-6)
    assert record(made)["pairwise_dice"] > record(made)["pairwise_dice_affine"]
    assert {path.name for path in (made / "template").iterdir()} == {"a.nii.gz", "b.nii.gz", "mean.nii.gz"}


def test_a_manifest_says_whom_an_image_shows(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("modality,image,subject\nt1,x.nii,anna\nt2,y.nii,anna\nt1,z.nii,\n")
    assert [member.subject for member in read_group(tmp_path / "people.csv", PEOPLE)] == ["anna", "anna", ""]


def test_a_subject_is_not_called_like_an_image_of_another(tmp_path: Path) -> None:
    members = [person(tmp_path, 0), person(tmp_path, 1, subject="a")]
    with pytest.raises(BingoError, match="'a' is a subject, and what an image"):
        make(members, tmp_path / "x")


def test_check_takes_the_manifest_of_a_population(tmp_path: Path) -> None:
    one = person(tmp_path, 0)
    (tmp_path / "people.csv").write_text(f"modality,image,subject\na,{one.image.name},anna\n")
    assert not [finding for finding in list_manifest(tmp_path / "people.csv").findings if "subject" in str(finding)]


def test_the_mean_is_not_moved_by_one_who_differs(tmp_path: Path) -> None:
    """Seven people alike up to brightness, contrast and noise, and one with a bright spot."""
    draw = np.random.default_rng(0)
    truth = draw.uniform(0.2, 0.8, (12, 12, 1)).astype(np.float32)
    stack = Stack(tmp_path / "stack", 8, truth.shape)
    for number in range(8):
        image = truth * draw.uniform(0.8, 1.2) + draw.normal(0, 0.01, truth.shape)
        if number == 3:
            image[4:8, 4:8] = 2
        view = View(torch.ones(truth.shape), torch.from_numpy(image.astype(np.float32)), None)
        stack.add(view)
    mean = stack.robust_mean()
    correlation = np.corrcoef(mean.ravel(), truth.ravel())[0, 1]
    assert correlation > 0.995
    spot, rest = (mean[4:8, 4:8] - truth[4:8, 4:8]).mean(), np.median(mean - truth)
    assert abs(spot - rest) < 0.03, "the plain mean is 0.19 off"


def test_dice_of_all_pairs() -> None:
    maps = [np.array([1, 1, 0, 2]), np.array([1, 0, 0, 2]), np.array([0, 0, 0, 0])]
    first = np.mean([np.mean([2 / 3, 1]), np.mean([0, 0])])
    np.testing.assert_allclose(pairwise_dice(maps, (1, 2))[0], first)
    of_others = pairwise_dice([*maps, maps[0]], (1, 2), [0, 1, 2, 0])
    np.testing.assert_allclose(of_others[0], first, err_msg="an own map does not count")


def test_a_template_comes_back_from_its_file(atlas: Path, tmp_path: Path) -> None:
    found = Template.read(atlas / "features.pt")
    assert {name for level in found.levels.values() for name in level} == {EXPERTS, "a"}
    (tmp_path / "features.pt").write_bytes((atlas / "features.pt").read_bytes()[:-100])
    with pytest.raises(BingoError, match="not what was written"):
        Template.read(tmp_path / "features.pt")


def test_nobody_is_added_to_what_is_no_atlas(tmp_path: Path) -> None:
    with pytest.raises(BingoError, match="Name a folder that bingo atlas wrote"):
        add_people(tmp_path, [("", tmp_path / "x.nii.gz")], None, images=False, jacobian=False, console=QUIET)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["people.csv", "--add", "x.nii.gz"], "name either a MANIFEST"),
        ([], "name either a MANIFEST"),
        (["--add", "x.nii.gz", "--spacing", "2"], "Leave them out"),
        (["people.csv", "--memory", "1GB", "--jacobian"], "Leave out either"),
        (["people.csv", "--transform", "deformed"], "'deformable'"),
        (["people.csv", "--spacing", "-1"], "wanted a number above 0"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bingo", "atlas", "--output", "nowhere", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in " ".join(capsys.readouterr().err.split())
