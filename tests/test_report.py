"""The page by which a registration is judged: what it says, what it shows, what it refuses."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import map_coordinates

from bingo_pl import BingoError
from bingo_pl.figures import views
from bingo_pl.images.fields import forward_and_inverse
from bingo_pl.images.grids import Grid
from bingo_pl.images.resampling import resample_image, resample_labels
from bingo_pl.images.transforms import write_image, write_transform
from bingo_pl.report import data as report_data
from bingo_pl.report import pictures as report_pictures
from bingo_pl.report import viewer
from bingo_pl.report.data import read_story
from bingo_pl.report.page import write_report
from docs.screenshots import find_browser, photograph

from .conftest import smooth
from .test_cli import run

SHAPES = [(24, 20, 1), (20, 18, 16)]
RAS = np.diag([2.0, 2.0, 3.0, 1.0])
"""Axes to the right, to the front and up: none but the last lies as on the display grid."""
UNMOVED = np.eye(4)
SHIFT = np.array([[1, 0, 0, 4.0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

Changes = dict[str, Any]
Maker = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    """Writes a folder as ``bingo register`` does, by its contract; images, displacements and fields can be chosen."""

    def write(
        changes: list[Changes],
        shape: tuple[int, int, int] = SHAPES[0],
        displacement: torch.Tensor | None = None,
        stage: NDArray[np.float64] = UNMOVED,
        affine: NDArray[np.float64] = RAS,
        labels: bool = False,
        uncertainty: bool = False,
        file: str = "image{}.nii.gz",
    ) -> Path:
        folder, grid = tmp_path / "out", Grid(shape, affine)
        dims = [size for size in shape if size > 1] if shape[2] == 1 else list(shape)
        u = torch.zeros(len(dims), *dims) if displacement is None else displacement
        entries = []
        for number, change in enumerate(changes):
            name, path = f"a_{number}", tmp_path / file.format(number)
            original = 100 + 900 * smooth(shape, "report").numpy().astype(np.float32)
            forward, _ = forward_and_inverse(u, -u, grid, grid, stage)
            registered = resample_image(grid.to_sitk(original), forward.transform, grid)
            write_image(original, grid, path)
            write_image(sitk.GetArrayFromImage(registered).T, grid, folder / "registered" / f"{name}.nii.gz")
            write_transform(forward, folder / "transforms" / f"{name}_forward")
            label = tmp_path / f"label{number}.nii.gz" if labels else None
            if label is not None:
                ids = np.roll(original > 550, number, axis=0).astype(np.uint8)
                moved = resample_labels(grid.to_sitk((original > 550).astype(np.uint8)), forward.transform, grid)
                write_image(ids, grid, label)
                write_image(sitk.GetArrayFromImage(moved).T, grid, folder / "labels" / f"{name}.nii.gz")
            if uncertainty:
                write_image(np.full(shape, 1.5, np.float32), grid, folder / "uncertainty" / f"{name}.nii.gz")
            entry = {
                "name": name,
                "modality": "a",
                "path": str(path),
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                "mask": None,
                "label": None if label is None else str(label),
                "label_sha256": None if label is None else hashlib.sha256(label.read_bytes()).hexdigest(),
                "shape": shape,
                "affine_ras_mm": affine.tolist(),
                "stage_affine_ras_mm": stage.tolist(),
                "folding_percent": 0.0,
                "disagreement": None,
                "belongs": None,
                "misnaming": None,
                "looks_like": None,
            }
            entries.append(entry | change)
        write_image(smooth(shape, "report").numpy(), grid, folder / "template" / "mean.nii.gz")
        record = {
            "bingo_pl": "0",
            "checkpoint": {"path": "best.ckpt", "sha256": "0" * 64},
            "settings": {"refine": {"steps": 7}},
            "group": {"shape": shape, "affine_ras_mm": affine.tolist()},
            "images": entries,
        }
        (folder / "registration.json").write_text(json.dumps(record))
        return folder

    return write


class Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def test_the_page_needs_nothing_else_and_every_picture_has_an_alternative(make: Maker) -> None:
    page = Page(write_report(make([{}, {}])))
    pictures = page.all("img")
    assert len(pictures) == 2 + 2 * (2 * 3 + 1)  # means; of each image both moments in three kinds, and the deformation
    assert all((picture["src"] or "").startswith("data:image/webp;base64,") and picture["alt"] for picture in pictures)
    assert page.all("script") == [{}]  # its own, which the policy names by its digest
    (policy,) = [meta["content"] for meta in page.all("meta") if meta.get("http-equiv") == "Content-Security-Policy"]
    digest = base64.b64encode(hashlib.sha256(viewer.SCRIPT.encode()).digest()).decode()
    assert policy == f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not page.all("link")
    assert "url(" not in page.text
    assert all((link["href"] or "").startswith("#image-") for link in page.all("a"))


def test_what_comes_from_names_is_escaped(make: Maker) -> None:
    hostile = '<img src=x onerror=1>&"'
    page = Page(write_report(make([{"modality": hostile}], file=f"{hostile}{{}}.nii.gz".replace("/", ""))))
    assert page.text.count(hostile) >= 3
    assert all((picture["src"] or "").startswith("data:") for picture in page.all("img"))


def test_the_image_that_does_not_fit_comes_first_and_is_named(make: Maker) -> None:
    fits, misfit = {"belongs": True, "disagreement": 0.5}, {"belongs": False, "disagreement": 0.4}
    page = Page(write_report(make([fits, misfit])))
    assert "1 of 2 images" in page.text
    assert re.search(r"a_1 does not fit the group", page.text)
    assert [row.get("class") for row in page.all("tr")[1:]] == ["suspect", None]


def test_the_image_that_looks_like_another_modality_is_named_with_both(make: Maker) -> None:
    right, wrong = (
        {"misnaming": -0.3, "disagreement": 0.5},
        {"misnaming": 0.5, "looks_like": "<b>", "disagreement": 0.4},
    )
    page = Page(write_report(make([right, wrong])))
    assert "1 of 2 images" in page.text
    assert "a_1 was given as a but looks like <b>" in page.text
    assert "Judged by: whether each looks like its modality" in page.text
    assert [row.get("class") for row in page.all("tr")[1:]] == ["suspect", None]


def test_folding_is_named_above_its_limit_only(make: Maker) -> None:
    page = Page(write_report(make([{"folding_percent": 0.05}, {"folding_percent": 2.5}])))
    assert "folds in 2.5 % of the voxels: do not trust it there" in page.text
    assert "1 of 2 images" in page.text


def test_what_was_not_measured_is_said(make: Maker) -> None:
    text = Page(write_report(make([{}, {}]))).text
    assert "Nothing measured speaks against" in text
    assert (
        "Not measured: whether each image fits the group, whether each looks like its modality and overlap of labels"
        in text
    )
    assert "No uncertainty was written" in text
    assert "this image has no labels" in text


def test_what_was_measured_is_shown(make: Maker) -> None:
    folder = make([{}, {}], labels=True, uncertainty=True)
    text = Page(write_report(folder)).text
    assert "1.5 mm" in text
    assert "No uncertainty" not in text
    for row in read_story(folder).rows:
        assert row.overlap is not None
        before, after = row.overlap
        assert before < 0.95, "one label map was rolled by a voxel"
        assert after == 1, "the registered ones are alike"


@pytest.mark.parametrize(("unknown", "median"), [(0.3, "1.50"), (0.7, "unknown")])
def test_an_uncertainty_that_is_unknown_in_most_of_an_image_is_no_number(
    make: Maker, unknown: float, median: str
) -> None:
    """Unknown counts as more than any number."""
    folder = make([{}], uncertainty=True)
    path = folder / "uncertainty" / "a_0.nii.gz"
    values = np.full(SHAPES[0], 1.5, np.float32)
    values.reshape(-1)[: int(unknown * values.size)] = np.nan
    write_image(values, Grid(SHAPES[0], RAS), path)
    text = Page(write_report(folder)).text
    assert median in text
    assert "nan" not in text.lower()
    assert ("how far it may be off is unknown" in text) == (median == "unknown")


def test_of_many_images_all_are_listed_and_some_pictured(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_data, "MAX_PICTURED", 2)
    page = Page(write_report(make([{"disagreement": float(number)} for number in range(5)])))
    assert len(page.all("tr")) == 1 + 5
    assert [section["id"] for section in page.all("section") if "id" in section] == ["image-1", "image-2"]
    assert {link["href"] for link in page.all("a")} == {"#image-1", "#image-2"}
    assert "Pictures follow of the first 2 of 5 images" in page.text


@pytest.mark.parametrize("shape", SHAPES)
def test_before_holds_the_affine_stage_alone(make: Maker, shape: tuple[int, int, int]) -> None:
    (row,) = read_story(make([{}], shape=shape, stage=SHIFT)).rows
    assert row.pictured is not None
    assert row.pictured.moved_mm is not None
    assert len(row.pictured.sights) == (1 if shape[2] == 1 else 3)
    for sight in row.pictured.sights:
        torch.testing.assert_close(*sight.images, atol=1e-5, rtol=0)  # float32 voxels
        assert sight.images[0].std() > 0.05, "not an empty picture"
    assert row.pictured.moved_mm is not None
    assert row.pictured.moved_mm[1] < 1e-6


@pytest.mark.parametrize("shape", SHAPES)
def test_displacements_are_those_of_the_transform(make: Maker, shape: tuple[int, int, int]) -> None:
    stretch = 0.05 * torch.arange(shape[0]).float()
    u = torch.zeros(2 if shape[2] == 1 else 3, *[size for size in shape if size > 1])
    u[0] = stretch.reshape(-1, *[1] * (u.ndim - 2))
    (row,) = read_story(make([{}], shape=shape, displacement=u, stage=SHIFT)).rows
    assert row.pictured is not None
    sight = row.pictured.sights[0]
    # the display grid's first axis runs to the left, against the group's; the transform is kept in float64
    torch.testing.assert_close(sight.displacement[0, :, 0], -stretch.flip(0), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        sight.log_jacobian, torch.full_like(sight.log_jacobian, math.log(1.05)), atol=1e-5, rtol=0
    )


def test_pictures_have_the_aspect_of_the_anatomy(make: Maker) -> None:
    for affine, ratio in ((np.diag([1.0, 1, 1, 1]), 1), (np.diag([1.0, 3, 1, 1]), 3)):
        for picture in Page(write_report(make([{}], shape=(24, 24, 1), affine=affine))).all("img")[:3]:
            with Image.open(io.BytesIO(base64.b64decode((picture["src"] or "").partition(",")[2]))) as image:
                width, height = image.size
            assert height / width == pytest.approx(ratio, rel=0.2)  # the window ends at whole voxels


def test_an_overlay_is_grey_where_images_are_alike_and_coloured_where_they_are_not() -> None:
    own = np.random.default_rng(0).uniform(size=(30, 40))
    assert (np.ptp(viewer.overlay(own, own).astype(int), axis=-1) == 0).all()
    assert (np.ptp(viewer.overlay(own, own[::-1]).astype(int), axis=-1) > 30).mean() > 0.5
    both = viewer.checkerboard(own, own[::-1])
    assert set(np.unique(both)) <= set(np.unique(viewer.stretched(own)))


@pytest.mark.parametrize("shape", SHAPES)
def test_lines_lie_on_the_pixels_of_their_edge(make: Maker, shape: tuple[int, int, int]) -> None:
    """A label's outline, as vectors, runs where the picture of that label changes."""
    (row, _) = read_story(make([{}, {}], shape=shape, labels=True)).rows
    assert row.pictured is not None
    story = read_story(make([{}, {}], shape=shape, labels=True))
    for sight in row.pictured.sights:
        assert sight.outlines is not None
        panel = viewer.Panel.of(sight.plane, story.grid, [sight.plane])
        inside = panel.pixels(sight.outlines[1][0])
        text = panel.lines([line for each in sight.outlines[1][:1] for line in views.contours(each)], [])
        points = np.array(re.findall(r"([\d.]+) ([\d.]+)", text.partition(' d="')[2]), float)
        assert len(points) > 4
        columns, rows = (points - 0.5).T
        at = map_coordinates(inside, [rows, columns], order=1, mode="nearest")
        assert np.abs(at - 0.5).mean() < 0.2


def test_the_plane_is_named_by_where_it_lies(make: Maker) -> None:
    upright = np.array([[0, 0, 3.0, 7], [2, 0, 0, 0], [0, 2, 0, 0], [0, 0, 0, 1]])
    story = read_story(make([{}], affine=upright))
    assert [report_pictures.place(plane, story.grid) for plane in story.planes] == ["sagittal, x = 7 mm"]


def test_edges_of_a_disc_lie_on_its_circle() -> None:
    x, y = torch.meshgrid(torch.arange(60.0), 2 * torch.arange(30.0), indexing="ij")
    disc = torch.sigmoid(15 - torch.hypot(x - 30, y - 29))
    (line,) = report_pictures.edges(disc, (1.0, 2.0))
    radii = np.hypot(line[:, 0] - 30, 2 * line[:, 1] - 29)
    assert (
        np.abs(radii - 15).max() < 0.5
    )  # half of the shorter voxel; smoothing moves a curved edge by about sigma^2 / radius


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda out: (out / "registration.json").unlink(), "no finished registration"),
        (lambda out: (out / "registration.json").write_text('{"bingo_pl": "0"}'), "from another version"),
        (lambda out: (out / "registration.json").write_text("{"), "is damaged"),
        (lambda out: (out.parent / "image0.nii.gz").unlink(), "image0.nii.gz: the original of 'a_0' cannot be read"),
        (lambda out: (out.parent / "image0.nii.gz").write_bytes(b""), "has changed since it was registered"),
        (lambda out: (out / "registered" / "a_0.nii.gz").unlink(), "registered/a_0.nii.gz"),
        (lambda out: (out / "transforms" / "a_0_forward.h5").write_bytes(b"x"), "a_0_forward.h5: cannot be read"),
    ],
)
def test_what_is_missing_or_changed_is_an_error(make: Maker, spoil: Callable[[Path], None], message: str) -> None:
    out = make([{}])
    spoil(out)
    with pytest.raises(BingoError, match=re.escape(message)):
        write_report(out)
    assert not (out / "report.html").exists()


@pytest.mark.parametrize(
    "change", [{"name": "../a"}, {"belongs": "yes"}, {"misnaming": "much"}, {"stage_affine_ras_mm": [1]}]
)
def test_a_crafted_record_is_refused(make: Maker, change: Changes) -> None:
    out = make([{}])
    record = json.loads((out / "registration.json").read_text())
    record["images"][0] |= change
    (out / "registration.json").write_text(json.dumps(record))
    with pytest.raises(BingoError, match="is damaged"):
        write_report(out)


def test_the_command_writes_the_page(
    make: Maker, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = make([{}])
    assert run(monkeypatch, "report", str(out)) == 0
    assert (out / "report.html").is_file()
    assert run(monkeypatch, "report", str(out / "nowhere")) == 2
    assert "no finished registration" in " ".join(capsys.readouterr().err.split())


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
def test_a_browser_shows_the_page(make: Maker, tmp_path: Path) -> None:
    page = write_report(make([{"belongs": False, "disagreement": 1.0}, {}], uncertainty=True))
    photograph(page, tmp_path / "page.png", width=1200, height=1500)
    with Image.open(tmp_path / "page.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert pixels.shape == (1500, 1200, 3)
    assert (pixels.min(-1) > 240).mean() > 0.3, "dark on light"
    dark = (pixels.max(-1) > 30) & (pixels.min(-1) < 200)
    assert dark.mean() > 0.05, "images were drawn"
    assert (np.abs(pixels - (181, 106, 0)).max(-1) < 10).sum() > 200, "the verdict's mark is amber"


@pytest.mark.parametrize(
    ("level", "word", "colour"), [("fail", "FAIL", "failed"), ("warn", "WARN", "suspect"), ("pass", "PASS", "good")]
)
def test_the_verdict_of_the_alignment_comes_first(make: Maker, level: str, word: str, colour: str) -> None:
    """ "Nothing speaks against it" never stands beside a result in doubt."""
    folder = make([{"error_mm": 0.4}, {"error_mm": 0.7}])
    record = json.loads((folder / "registration.json").read_text())
    reasons = [] if level == "pass" else ["a_1 shows <something> else"]
    stage = {"kind": "rigid", "moved_mm": 1.5, "kept": False, "why": "<no> reason"}
    record |= {"alignment": {"kept": "identity", "stages": [stage]}, "verdict": {"level": level, "reasons": reasons}}
    (folder / "registration.json").write_text(json.dumps(record))
    page = Page(write_report(folder))
    text = page.text
    assert page.all("div")[0]["class"] == f"verdict {colour}"
    assert "rigid: moves the images by 1.5 mm against each other, not kept: <no> reason" in text
    assert word in text
    assert ("Nothing measured speaks against" in text) == (level == "pass")
    assert all(reason in text for reason in reasons)
    assert "0.4 to 0.7 mm" in text


def test_a_slice_that_only_its_single_axis_turns_is_drawn(make: Maker) -> None:
    """Numpy takes such a view for contiguous, though its stride is negative, which torch refuses."""
    assert write_report(make([{}], affine=np.diag([-2.0, -2.0, -3.0, 1.0]))).is_file()


@pytest.mark.skipif(find_browser() is None, reason="no Chromium is installed")
def test_the_controls_work_in_a_browser(make: Maker, tmp_path: Path) -> None:
    """A copy of the page that clicks itself; what it has become is read as the browser has it."""
    text = write_report(make([{}, {}])).read_text()
    policy = re.search(r'<meta http-equiv="Content-Security-Policy"[^>]*>', text)
    assert policy is not None
    clicks = """
        document.querySelector("input[value=checker]").click(); document.getElementById("lines").click();
        document.getElementById("cut").value = 20; document.getElementById("cut").dispatchEvent(new Event("input"));
        const shown = [...document.querySelectorAll(".moment img")].filter(each => each.offsetParent !== null);
        document.title = [...new Set(shown.map(each => each.className))].sort().join();"""
    page = tmp_path / "clicked.html"
    page.write_text(text.replace(policy[0], "").replace("</body>", f"<script>{clicks}</script></body>"))
    browser = find_browser()
    assert browser is not None
    command = [browser, "--headless", "--disable-gpu", "--no-sandbox", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    (main,) = re.findall(r"<main[^>]*>", dom)
    assert 'data-mode="checker"' in main
    assert "--cut: 20%" in main
    assert {"live", "lines"} <= set(re.findall(r'class="([^"]*)"', main)[0].split())
    assert "<title>any,checker</title>" in dom
