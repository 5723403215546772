"""The page of an atlas: who stands out, what it shows, how it is sorted, what it refuses."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bingo_pl import BingoError
from bingo_pl.images.grids import Grid
from bingo_pl.images.transforms import affine_transform, write_image
from bingo_pl.report import cohort_page
from bingo_pl.report.cohort import FIGURES, lines_of, people_of
from bingo_pl.report.page import write_report
from bingo_pl.report.strips import MEAN, MOMENTS, PICTURES, SIDE_OF_MEAN, Strips
from docs.screenshots import find_browser, photograph

from .conftest import smooth
from .test_cli import run
from .test_report import RAS, UNMOVED, Page

GRID = Grid((20, 18, 16), RAS)
GOOD = {"agreement_affine": 0.3, "agreement": 0.45, "repeatability_mm": 0.2, "displacement_mm": 1.0}
LABELLED = {"dice_affine": 0.7, "dice": 0.85, "pairwise_dice_affine": 0.6, "pairwise_dice": 0.75}
Changes = dict[str, Any]
Maker = Callable[[Sequence[Changes]], Path]


def people(changes: Sequence[Changes]) -> list[Changes]:
    """Entries of ``atlas.json``, of as many people; figures differ a little."""
    entries = []
    for number, change in enumerate(changes):
        name = f"a_{number}"
        own = {"name": name, "subject": name, "modality": "a", "path": f"/there/scan{number}.nii.gz"}
        near = {key: value + 0.002 * number for key, value in (GOOD | LABELLED).items()}
        entries.append(own | near | {"folding_percent": 0.0} | change)
    return entries


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Writes a folder as ``bingo atlas`` does, by its contract."""

    def write(changes: Sequence[Changes]) -> Path:
        folder = tmp_path / "atlas"
        anatomy = smooth(GRID.shape, "cohort").numpy().astype(np.float32)
        write_image(anatomy, GRID, folder / "template" / "mean.nii.gz")
        write_image(anatomy, GRID, folder / "template" / "a.nii.gz")
        write_image(np.full(GRID.shape, float(len(changes)), np.float32), GRID, folder / "coverage.nii.gz")
        pictures, still = Strips.of(folder, GRID), affine_transform(UNMOVED)
        entries = people(changes)
        for moment in MOMENTS:
            pictures.write(moment, MEAN, GRID.to_sitk(anatomy), still, SIDE_OF_MEAN)
            for entry in entries:
                pictures.write(moment, entry["name"], GRID.to_sitk(anatomy), still)
        common = {
            "bingo_pl": "0",
            "checkpoint": {"path": "best.ckpt", "sha256": "0" * 64},
            "settings": {},
            "group": {"shape": GRID.shape, "affine_ras_mm": RAS.tolist()},
        }
        image = {"sha256": "0" * 64, "label": None, "shape": GRID.shape, "affine_ras_mm": RAS.tolist()}
        image |= {"stage_affine_ras_mm": UNMOVED.tolist(), "disagreement": None, "belongs": None}
        image |= {"misnaming": None, "looks_like": None}
        (folder / "registration.json").write_text(json.dumps(common | {"images": [image | e for e in entries]}))
        tree = {"transform": "deformable", "mean_displacement_mm": 1e-7, "images": entries}
        tree |= {"sharpness_affine_per_mm": 0.1, "sharpness_per_mm": 0.2, "pairwise_dice_affine": 0.6}
        (folder / "atlas.json").write_text(json.dumps(tree | {"pairwise_dice": 0.75}))
        return folder

    return write


def rows(page: Page) -> list[str]:
    """The people's ids, from top to bottom."""
    return [str(row["id"]) for row in page.all("tr") if row.get("id")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"agreement": 0.35}, "agrees with the others by 0.35 only"),
        ({"repeatability_mm": 1.5}, "moves by 1.5 mm when disturbed"),
        ({"pairwise_dice": 0.65}, "overlap with others' by 0.65 only"),
        ({"dice": 0.6}, "overlap with the most probable ones by 0.6 only"),
        ({"pairwise_dice_affine": 0.8}, "overlap less with others' than by its affine map alone"),
        ({"agreement_affine": 0.5}, "agrees less than by its affine map alone"),
        ({"folding_percent": 0.5}, "folds in 0.5 %"),
    ],
)
def test_who_stands_out_comes_first_and_is_named_with_the_reason(change: Changes, words: str) -> None:
    found = people_of(people([{}] * 5 + [change] + [{}] * 2))
    assert [person.name for person in found if person.doubts] == ["a_5"]
    assert found[0].name == "a_5"
    (line,) = lines_of(found)
    assert words in line
    assert "scan5.nii.gz" in line


def test_those_who_differ_by_next_to_nothing_do_not_stand_out() -> None:
    """The rest follow by rising agreement; better than the others is no fault."""
    found = people_of(people([{}, {"agreement": 0.44}, {}, {}, {"agreement": 0.9, "repeatability_mm": 0.0}, {}]))
    assert not lines_of(found)
    assert [person.name for person in found][::5] == ["a_1", "a_4"]


def test_a_newcomer_who_agrees_with_nobody_is_named_though_it_is_alone() -> None:
    members = people([{}] * 6)
    usual = float(np.median([image["agreement"] for image in members]))
    for agreement, named in ((0.8 * usual, False), (0.3 * usual, True)):
        came = {**members[0], "name": "new", "subject": "new", "added": True, "agreement": agreement}
        came["agreement_affine"] = agreement - 0.1
        (newcomer,) = (person for person in people_of([*members, came]) if person.added)
        assert any("agrees with the group by" in doubt for doubt in newcomer.doubts) == named


def test_an_agreement_that_falls_by_next_to_nothing_is_no_doubt() -> None:
    (first, *_) = people([{}] * 6)
    first |= {"agreement_affine": first["agreement"] + 0.001}
    assert not people_of([first])[0].doubts


def test_newcomers_are_compared_with_newcomers() -> None:
    """Those in the atlas were drawn to each other, and agree more."""
    came = {"added": True, "agreement": 0.35}
    assert not lines_of(people_of(people([{}] * 6 + [came])))
    odd = people_of(people([{}] * 6 + [came] * 5 + [came | {"agreement": 0.31}]))
    assert [person.name for person in odd if person.doubts] == ["a_11"]


def test_the_figures_of_a_persons_images_are_one() -> None:
    images = people([{"subject": "anna"}, {"subject": "anna", "dice": None}, {}])
    anna, other = sorted(people_of(images), key=lambda person: -len(person.images))
    assert (len(anna.images), len(other.images)) == (2, 1)
    assert anna.figures["dice"] == images[0]["dice"], "of the one that has labels"
    assert anna.figures["agreement"] == pytest.approx((images[0]["agreement"] + images[1]["agreement"]) / 2)


def test_the_page_needs_nothing_else_and_shows_everybody(make: Maker) -> None:
    page = Page(write_report(make([{}] * 5 + [{"agreement": 0.2}])))
    pictures = page.all("img")
    assert len(pictures) == 1 + 2 + 2 * 6, "the template, its mean at two moments, everybody at two moments"
    assert all((one["src"] or "").startswith("data:image/webp;base64,") and one["alt"] for one in pictures)
    assert not page.all("link")
    assert not [script for script in page.all("script") if script]
    assert all((link["href"] or "").startswith("#person-") for link in page.all("a"))
    assert "Look closer: 1 of 6 people." in page.text
    assert "0.100 → 0.200" in page.text
    boxes = [box for box in page.all("input") if box.get("aria-label")]
    assert len(boxes) == 1 + 6, "each is changed by a box that has a name"
    (first, *rest) = [row for row in page.all("tr") if row.get("id")]
    assert first.get("class") == "suspect"
    assert not any(row.get("class") for row in rest)


def test_every_column_of_figures_has_a_button_and_values_to_sort_by(make: Maker) -> None:
    page = Page(write_report(make([{}, {"dice": None}])))
    heads = [head for head in page.all("th") if head.get("aria-sort")]
    assert len(heads) == len(page.all("button")) == 1 + len(FIGURES)
    values = [cell["data-value"] or "" for cell in page.all("td") if "data-value" in cell]
    assert len(values) == 2 * len(heads)
    assert values.count("") == 1


def test_columns_that_nobody_has_are_left_out(make: Maker) -> None:
    page = Page(write_report(make([dict.fromkeys(LABELLED)] * 2)))
    assert len(page.all("button")) == 1 + len(FIGURES) - len(LABELLED)
    assert "Dice with others" not in page.text


def test_what_comes_from_files_is_escaped(make: Maker) -> None:
    hostile = '<img src=x onerror=1>&"</script>'
    page = Page(write_report(make([{"subject": hostile, "path": f"/{hostile.replace('/', '')}"}])))
    assert page.text.count(hostile) >= 1
    assert all((one["src"] or "").startswith("data:") for one in page.all("img"))
    assert len(page.all("script")) == 1


def test_of_many_people_all_are_listed_and_some_pictured(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort_page, "MAX_PICTURED", 2)
    page = Page(write_report(make([{}] * 4)))
    assert len(rows(page)) == 4
    assert len(page.all("img")) == 1 + 2 + 2 * 2
    assert "Pictures are of the first 2 of 4 people" in page.text


@pytest.mark.parametrize(
    ("number", "axis", "along"), [(0, 0, 1), (0, 1, 0), (1, 0, 1), (1, 2, 0), (2, 1, 1), (2, 2, 0)]
)
def test_a_picture_lies_as_radiologists_expect_it(make: Maker, number: int, axis: int, along: int) -> None:
    """What the affine map takes 4 mm to the right, front or top lies 4 mm more to the left, back or bottom in the
    atlas: further on in the picture's columns, or in its rows."""
    strips = Strips.of(make([{}]), GRID)
    plane = strips.planes[number]
    one = Strips(strips.folder, strips.grid, [plane])
    windows = zip(plane.kept, plane.window, strict=True)
    longest_mm = max((high - low) * one.grid.spacing[kept] for kept, (low, high) in windows)
    spot = np.zeros(GRID.shape, np.float32)
    spot[8:12, 7:11, 6:10] = 1
    shift = UNMOVED.copy()
    shift[axis, 3] = 4
    middles = []
    for affine in (UNMOVED, shift):
        line = one.draw(GRID.to_sitk(spot), affine_transform(affine), 180).astype(float).sum(1 - along)
        middles.append((line * np.arange(len(line))).sum() / line.sum())
    assert (middles[1] - middles[0]) * longest_mm / 180 == pytest.approx(4, abs=0.3)  # a pixel


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / "registration.json").unlink(), "registration.json is missing"),
        (lambda out: (out / "atlas.json").write_text("{"), "is damaged"),
        (lambda out: (out / "atlas.json").write_text('{"images": []}'), "of the network alone"),
        (lambda out: (out / PICTURES / "end" / "a_0.webp").unlink(), "a_0.webp: is missing or damaged"),
        (lambda out: (out / PICTURES / "affine" / "mean.webp").write_bytes(b"x"), "mean.webp: is missing or damaged"),
        (lambda out: (out / "coverage.nii.gz").unlink(), "coverage.nii.gz"),
    ],
)
def test_what_is_missing_or_damaged_is_an_error(make: Maker, spoil: Callable[[Path], Any], message: str) -> None:
    out = make([{}])
    spoil(out)
    with pytest.raises(BingoError, match=re.escape(message)):
        write_report(out)
    assert not (out / "report.html").exists()


@pytest.mark.parametrize("change", [{"agreement": "much"}, {"name": "../a"}, {"subject": None, "agreement": [1]}])
def test_a_crafted_record_is_refused(make: Maker, change: Changes) -> None:
    out = make([{}])
    tree = json.loads((out / "atlas.json").read_text())
    tree["images"][0] |= change
    (out / "atlas.json").write_text(json.dumps(tree))
    with pytest.raises(BingoError, match=r"is damaged|does not name"):
        write_report(out)


def test_the_command_makes_the_page_again(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original images are not needed."""
    out = make([{}])
    assert run(monkeypatch, "report", str(out)) == 0
    assert (out / "report.html").is_file()


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
def test_a_browser_sorts_the_page_and_changes_its_pictures(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a person does is done by a script: a click on a heading, another one, all pictures at once."""
    dice = next(button for button, figure in enumerate(FIGURES, start=1) if figure.key == "dice")
    clicks = f"""
    const buttons = document.querySelectorAll("th button"), seen = [];
    const order = () => seen.push([...table.tBodies[0].rows].map(row => row.id).join(" "));
    order(); buttons[{dice}].click(); order(); buttons[{dice}].click(); order(); all.click();
    document.title = [...seen, boxes.every(box => box.checked), told.textContent].join("|");
    """
    monkeypatch.setattr(cohort_page, "SCRIPT", cohort_page.SCRIPT + clicks)
    page = write_report(make([{"dice": 0.8}, {"dice": None}, {"dice": 0.9}, {"dice": 0.7}]))
    command = [str(find_browser()), "--headless", "--disable-gpu", "--no-sandbox", "--dump-dom", page.as_uri()]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    (title,) = re.findall("<title>(.*?)</title>", shown)
    first, rising, falling, changed, told = title.split("|")
    assert first == "person-1 person-2 person-3 person-4", "by rising agreement, that is as they were given"
    assert rising == "person-4 person-1 person-3 person-2", "who has no Dice comes last"
    assert falling == "person-3 person-1 person-4 person-2"
    assert changed == "true"
    assert told == "Sorted by Dice, descending."
    for width in (1280, 400):
        photograph(page, tmp_path / f"{width}.png", width, 2000)
        with Image.open(tmp_path / f"{width}.png") as picture:
            pixels = np.asarray(picture.convert("RGB")).astype(int)
        assert (np.ptp(pixels, axis=-1) < 8).mean() > 0.3
        grey = (np.ptp(pixels, axis=-1) < 8) & (pixels[..., 0] > 30) & (pixels[..., 0] < 220)
        assert grey.mean() > 0.02, "images were drawn"
