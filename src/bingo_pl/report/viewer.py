"""An image before and after registration beside what the others show, plane by plane, to be wiped through.

Pictures have a pixel a voxel of the display grid, their lines are vectors. Without a script, and on paper, both
moments stand side by side as colour overlays; the script lays them on each other.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bingo_pl.figures import views
from bingo_pl.figures.views import Line, Plane
from bingo_pl.images.grids import Grid
from bingo_pl.report.data import Pair, Sight
from bingo_pl.report.pictures import LETTERS, edges, place, spacing_of

MOMENTS = ("before", "after")
MODES = {"overlay": "Overlay", "checker": "Checkerboard", "grey": "Image alone"}
"""Kinds of picture, and what they are called."""
TILES = 9
"""Squares of the checkerboard along the shorter side of what is shown."""
QUALITY = 85
"""Of WebP."""
LIGHT = 0.85
"""Power that brightens what is dark."""
WIDTH = 340
"""CSS pixels of the widest picture."""
STYLE = """
.tools { position: sticky; top: 0; z-index: 2; display: flex; flex-wrap: wrap; gap: .3em 1.2em; align-items: center;
  padding: .5em .2em; margin-top: 1.2em; background: #fff; border-bottom: 1px solid #999; }
.tools label { white-space: nowrap; } .tools input[type=range] { width: min(16em, 50vw); vertical-align: middle; }
[hidden] { display: none !important; }
.planes { display: flex; flex-wrap: wrap; gap: 1em; } .planes > figure { margin: 0; max-width: 100%; }
.stack { display: flex; flex-wrap: wrap; gap: 4px; position: relative; touch-action: pan-y; }
.moment { position: relative; background: #000; max-width: 100%; }
.moment img { display: none; width: 100%; height: auto; image-rendering: pixelated; }
.moment svg { position: absolute; inset: 0; width: 100%; height: 100%; fill: none; stroke-width: 1;
  vector-effect: non-scaling-stroke; }
.moment path { vector-effect: non-scaling-stroke; stroke-width: 1.2; }
.moment .own { stroke: #ffd60a; background: none; } .moment .group { stroke: #00e0ff; background: none; }
.moment b, .moment i { position: absolute; color: #fff; font: 11px/1 system-ui, sans-serif; text-shadow: 0 0 2px #000,
  0 0 2px #000; } .moment b { left: 6px; bottom: 6px; font-weight: 600; }
.moment i:nth-of-type(1) { left: 4px; top: 50%; } .moment i:nth-of-type(2) { right: 4px; top: 50%; }
.moment i:nth-of-type(3) { left: 50%; bottom: 4px; } .moment i:nth-of-type(4) { left: 50%; top: 4px; }
main .overlay { display: block; } main[data-mode=checker] .checker, main[data-mode=grey] .grey { display: block; }
main[data-mode=checker] .overlay, main[data-mode=grey] .overlay { display: none; } .moment img.any { display: block; }
main:not(.lines) .moment svg { display: none; }
.live .stack { display: block; cursor: ew-resize; overflow: hidden; }
.live .after { position: absolute; left: 0; top: 0; clip-path: inset(0 0 0 var(--cut)); }
.live .after b { left: auto; right: 6px; }
.live .stack::after { content: ""; position: absolute; top: 0; bottom: 0; left: var(--cut); width: 1px;
  background: #fff; }
.both { color: #fff; background: #333; padding: 0 .3em; } .both .m { color: #ff6bff; } .both .g { color: #4dff4d; }
@media print { .tools { display: none; } .moment { max-width: 42mm; } .live .stack { display: flex; }
  .live .after { position: relative;
  clip-path: none; } .live .stack::after { display: none; } }
""".strip()
SCRIPT = """
"use strict";
const main = document.querySelector("main"), tools = document.querySelector(".tools");
const slider = document.getElementById("cut"), flicker = document.getElementById("flicker");
const cut = share => { slider.value = share; main.style.setProperty("--cut", `${share}%`); };
main.classList.add("live"); tools.hidden = false; cut(50);
slider.addEventListener("input", () => cut(slider.value));
document.querySelectorAll("input[name=mode]").forEach(box =>
  box.addEventListener("change", () => { main.dataset.mode = box.value; }));
document.getElementById("lines").addEventListener("change", event =>
  main.classList.toggle("lines", event.target.checked));
let timer = 0;
flicker.addEventListener("change", () => {
  clearInterval(timer);
  if (!flicker.checked) return cut(50);
  timer = setInterval(() => cut(slider.value > 50 ? 0 : 100), 700);
});
document.querySelectorAll(".stack").forEach(stack => stack.addEventListener("pointermove", event => {
  if (flicker.checked || (event.pointerType === "mouse" && !event.buttons && !event.shiftKey)) return;
  const box = stack.getBoundingClientRect();
  cut(Math.max(0, Math.min(100, 100 * (event.clientX - box.left) / box.width)));
}));
""".strip()


def tools() -> str:
    """The controls of all pictures of the page; shown where a script runs."""
    modes = "".join(
        f'<label><input type="radio" name="mode" value="{mode}"{checked}> {name}</label>'
        for (mode, name), checked in zip(MODES.items(), (" checked", "", ""), strict=True)
    )
    return (
        f'<div class="tools" hidden>{modes}<label><input type="checkbox" id="lines"> Lines</label>'
        '<label>before <input type="range" id="cut" min="0" max="100" aria-label="where before ends and after begins">'
        ' after</label><label><input type="checkbox" id="flicker"> Flicker</label></div>'
    )


def means(planes: Sequence[Plane], cuts: Sequence[Pair], grid: Grid) -> str:
    """The mean of all images before and after, as HTML."""
    panels = [Panel.of(plane, grid, planes) for plane in planes]
    figures = [
        panel.figure(
            [
                [panel.picture(grey(panel.pixels(cut)), "any", f"mean of all images {moment}")]
                for cut, moment in zip(pair, MOMENTS, strict=True)
            ]
        )
        for panel, pair in zip(panels, cuts, strict=True)
    ]
    return f'<div class="planes">{"".join(figures)}</div>'


def planes(name: str, sights: Sequence[Sight], grid: Grid) -> str:
    """An image before and after, beside the mean of the others after registration, as HTML."""
    figures = []
    for sight in sights:
        panel = Panel.of(sight.plane, grid, [each.plane for each in sights])
        others = panel.pixels(sight.others)
        moments = []
        for number, (cut, moment) in enumerate(zip(sight.images, MOMENTS, strict=True)):
            own = panel.pixels(cut)
            pictures = {
                "overlay": overlay(own, others),
                "checker": grey(checkerboard(own, others)),
                "grey": grey(own),
            }
            drawn = [panel.picture(pixels, kind, f"{name} {moment}, {kind}") for kind, pixels in pictures.items()]
            moments.append([*drawn, panel.lines(*_lines(sight, number, grid))])
        figures.append(panel.figure(moments))
    return f'<div class="planes">{"".join(figures)}</div>'


def overlay(own: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.uint8]:
    """(h, w, 3): this image green, the others magenta, grey where they are alike; colours that all eyes tell apart."""
    return grey(np.stack([stretched(others), stretched(own), stretched(others)], axis=-1))


def checkerboard(own: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squares of either in turn."""
    tile = max(1, round(min(own.shape) / TILES))
    rows, columns = (np.arange(size) // tile for size in own.shape)
    return np.where((rows[:, None] + columns) % 2 == 0, stretched(own), stretched(others))


def stretched(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """From 0 to 1 between the 1st and the 99.5th percentile; zeros where all is alike."""
    low, high = np.percentile(values, [1, 99.5])
    return ((values - low) / max(high - low, 1e-6)).clip(0, 1) ** LIGHT


def grey(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    """0 to 1 as bytes."""
    drawn: NDArray[np.uint8] = (255 * values.clip(0, 1)).round().astype(np.uint8)
    return drawn


def _lines(sight: Sight, moment: int, grid: Grid) -> tuple[list[Line], list[Line]]:
    """Of this image and of the group: outlines of labels where there are some, else the edges of the other images."""
    if sight.outlines is None:
        return [], edges(sight.others, spacing_of(sight.plane, grid))
    own, group = sight.outlines[moment], sight.outlines[2]
    return [line for each in own for line in views.contours(each)], [
        line for each in group for line in views.contours(each)
    ]


@dataclass(frozen=True)
class Panel:
    """How a plane becomes pixels: rows from top to bottom as radiologists see them, square in mm."""

    title: str
    letters: tuple[str, str, str, str]
    """Left, right, bottom, top."""
    upwards: bool
    """The second axis runs up."""
    start: tuple[int, int]
    stop: tuple[int, int]
    """The voxels that are shown, along the two axes."""
    size: tuple[int, int]
    """Pixels across and down."""
    width: int
    """CSS pixels."""

    @classmethod
    def of(cls, plane: Plane, grid: Grid, together: Sequence[Plane]) -> Panel:
        """A plane beside others, at one scale."""
        fine = min(size for other in together for size in spacing_of(other, grid))
        start, stop = zip(*((max(0, int(np.ceil(a))), int(np.floor(b)) + 1) for a, b in plane.window), strict=True)
        mm = [size * (b - a) for size, a, b in zip(spacing_of(plane, grid), start, stop, strict=True)]
        largest = max(_across_mm(other, grid) for other in together)
        (left, right), (bottom, top) = (LETTERS[axis] for axis in plane.kept)
        upwards = plane.kept[1] == 2
        letters = (left, right, bottom, top) if upwards else (left, right, top, bottom)
        return cls(
            place(plane, grid),
            letters,
            upwards,
            (start[0], start[1]),
            (stop[0], stop[1]),
            (max(1, round(mm[0] / fine)), max(1, round(mm[1] / fine))),
            round(WIDTH * mm[0] / largest),
        )

    def pixels(self, cut: Tensor) -> NDArray[np.float64]:
        """(h, w) of the grid -> (rows, columns)."""
        (a, b), (c, d) = self.start, self.stop
        rows = cut[a:c, b:d].float().numpy().T
        rows = rows[::-1] if self.upwards else rows
        scaled = Image.fromarray(np.ascontiguousarray(rows)).resize(self.size, Image.Resampling.BILINEAR)
        return np.asarray(scaled, np.float64)

    def lines(self, own: Sequence[Line], group: Sequence[Line]) -> str:
        """Lines in voxels of the plane, as vectors over the picture."""
        paths = "".join(
            f'<path class="{kind}" d="{"".join(map(self._path, lines))}"/>'
            for kind, lines in (("group", group), ("own", own))
            if lines
        )
        return f'<svg viewBox="0 0 {self.size[0]} {self.size[1]}" preserveAspectRatio="none">{paths}</svg>'

    def _path(self, line: Line) -> str:
        span = np.subtract(self.stop, self.start)
        share = (line - self.start + 0.5) / span
        if self.upwards:
            share[:, 1] = 1 - share[:, 1]
        points = share * self.size
        return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)

    def picture(self, pixels: NDArray[np.uint8], kind: str, what: str) -> str:
        """As HTML."""
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "webp", quality=QUALITY)
        data = base64.b64encode(buffer.getvalue()).decode()
        alternative = escape(f"{what}: {self.title}")
        return f'<img class="{kind}" src="data:image/webp;base64,{data}" width="{self.width}" alt="{alternative}">'

    def figure(self, moments: Sequence[Sequence[str]]) -> str:
        """Both moments of the plane with letters at the ends of its axes."""
        letters = "".join(f'<i aria-hidden="true">{letter}</i>' for letter in self.letters)
        shown = "".join(
            f'<div class="moment {moment}" style="width:{self.width}px">{"".join(pictures)}<b>{moment}</b>'
            f"{letters}</div>"
            for moment, pictures in zip(MOMENTS, moments, strict=True)
        )
        return f'<figure><div class="stack">{shown}</div><figcaption>{escape(self.title)}</figcaption></figure>'


def _across_mm(plane: Plane, grid: Grid) -> float:
    start, end = plane.window[0]
    return spacing_of(plane, grid)[0] * (end - start)
