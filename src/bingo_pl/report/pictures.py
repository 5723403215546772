"""The maps of a report, as WebP in memory: voxels in their physical aspect, in radiological convention."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import matplotlib.patheffects
import numpy as np
import torch
from contourpy import contour_generator
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from bingo_pl.figures import views
from bingo_pl.figures.panels import GRID_LINES, draw_image, empty_panels
from bingo_pl.figures.views import Line, Plane
from bingo_pl.images.grids import Grid
from bingo_pl.report.data import Sight, Story

PANEL = 2.9
"""Longer side of the largest panel in inches."""
BAR = 0.6
"""Height in inches that a colour bar needs with its numbers and unit."""
DPI = 150
QUALITY = 90
"""Of WebP: text stays clean."""
GROUP = "#00e0ff"
EDGE_SCALE_MM = 2.0
"""Width of the Gaussian under which edges are found; at least one voxel."""
EDGE_SHARE = 0.25
"""Edges weaker than this share of the plane's strong ones (99th percentile) are left out."""
LEAST_VOLUME_CHANGE = 0.1
"""Of the log-Jacobian's colour scale, so that rounding errors do not look like deformation."""
LETTERS = (("R", "L"), ("A", "P"), ("I", "S"))
"""Where each axis of the display grid begins and ends."""
NAMES = ("sagittal", "coronal", "axial")
"""Of the planes across each axis of the display grid."""


@dataclass(frozen=True)
class Drawing:
    """A picture as a file."""

    webp: bytes
    width: int
    """In CSS pixels, so that letters have one size in all pictures of a page."""


@dataclass(frozen=True)
class Scales:
    """The ends of the colour bars, which all images share so that equal colours mean equal values."""

    log_jacobian: float
    uncertainty: float

    @classmethod
    def of(cls, story: Story) -> Scales:
        sights = [sight for row in story.rows if row.pictured for sight in row.pictured.sights]
        logs = torch.cat([sight.log_jacobian.abs().flatten() for sight in sights])
        errors = [sight.uncertainty.flatten() for sight in sights if sight.uncertainty is not None]
        known = [values[values.isfinite()] for values in errors]
        return cls(
            max(float(np.nanpercentile(logs.numpy(), 99)), LEAST_VOLUME_CHANGE),
            float(np.percentile(torch.cat(known).numpy(), 99)) if sum(map(len, known)) else 0.0,
        )


def place(plane: Plane, grid: Grid) -> str:
    """Which slice a plane is, for a person, e.g. ``axial, 12 mm``; the position is along the axis it is across."""
    (axis,) = plane.fixed
    centre = grid.affine[:3, :3] @ np.array(plane.centre) + grid.affine[:3, 3]
    return f"{NAMES[axis]}, {'xyz'[axis]} = {round(float(centre[axis]))} mm"


def draw_template(
    planes: Sequence[Plane], grid: Grid, templates: Mapping[str, Tensor], coverage: Tensor, labels: Tensor | None
) -> Drawing:
    """The templates of an atlas and how many images show a voxel, a row for each plane.

    Args:
        planes: of the display grid.
        grid: the display grid.
        templates: (*S) from 0 to 1, by title.
        coverage: (*S).
        labels: (*S) ids, outlined on a panel of their own; None where there are none.
    """
    outlined = [] if labels is None else ["labels"]
    figure, axes = _canvas(planes, grid, [*templates, *outlined, "coverage"])
    figure.set_figheight(figure.get_figheight() + BAR)
    for row, plane in zip(axes, planes, strict=True):
        for ax, template in zip(row, templates.values(), strict=False):
            _draw(ax, plane.cut(template), plane, grid)
        if labels is not None:
            cut = plane.cut(labels)
            _draw(row[-2], plane.cut(next(iter(templates.values()))), plane, grid)
            for indicator in views.indicators(cut[None, None], sorted({*cut.int().flatten().tolist()} - {0}))[0]:
                _add(row[-2], views.contours(indicator), GROUP)
        shown = _draw(row[-1], plane.cut(coverage), plane, grid)
        shown.set(cmap=matplotlib.colormaps["viridis"], clim=(0, max(float(coverage.max()), 1)))
    below = axes[-1, -1].inset_axes((0.05, -0.09, 0.9, 0.04))
    bar = figure.colorbar(shown, cax=below, orientation="horizontal")
    bar.set_label("images", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    return _drawing(figure)


def draw_deformation(sights: Sequence[Sight], grid: Grid, scales: Scales) -> Drawing:
    """Deformation grid, log-Jacobian and, where there is one, uncertainty in mm, a row for each plane."""
    maps = [
        _Map("deformation grid", _draw_grid),
        _Map("volume change", _draw_log_jacobian, "log-Jacobian; black: folded", "both"),
        _Map("uncertainty", _draw_uncertainty, "mm", "max"),
    ]
    maps = maps if sights[0].uncertainty is not None else maps[:2]
    figure, axes = _canvas([sight.plane for sight in sights], grid, [column.title for column in maps])
    figure.set_figheight(figure.get_figheight() + BAR)
    for column, each in zip(axes.T, maps, strict=True):
        for ax, sight in zip(column, sights, strict=True):
            drawn = each.draw(ax, sight, grid, scales)
        if each.unit:
            below = column[-1].inset_axes((0.05, -0.09, 0.9, 0.04))
            bar = figure.colorbar(drawn, cax=below, orientation="horizontal", extend=each.extend)
            bar.set_label(each.unit, fontsize=8)
            bar.ax.tick_params(labelsize=8)
    return _drawing(figure)


@dataclass(frozen=True)
class _Map:
    """A column of panels, with a colour bar where there is a unit."""

    title: str
    draw: Callable[[Axes, Sight, Grid, Scales], AxesImage]
    unit: str = ""
    extend: str = "neither"


def edges(image: Tensor, spacing: tuple[float, float]) -> list[Line]:
    """Edges of (h, w) below voxel resolution: zero crossings of the Laplacian where the gradient is strong.

    Marr & Hildreth 1980.

    Args:
        image: (h, w).
        spacing: mm per voxel along either axis.
    """
    sigma = [max(EDGE_SCALE_MM / size, 1.0) for size in spacing]

    def derivative(first: int, second: int) -> NDArray:
        """In mm, of these orders along either axis."""
        smooth = gaussian_filter(image.numpy(), sigma, order=(first, second))
        return smooth / (spacing[0] ** first * spacing[1] ** second)

    strength = np.hypot(derivative(1, 0), derivative(0, 1))
    weak = strength <= EDGE_SHARE * np.percentile(strength, 99)
    laplacian = np.ma.masked_array(derivative(2, 0) + derivative(0, 2), weak)
    return [np.asarray(line) for line in contour_generator(z=laplacian.T).lines(0.0)]


def _canvas(planes: Sequence[Plane], grid: Grid, titles: Sequence[str]) -> tuple[Figure, NDArray]:
    """A figure of empty panels, a row for each plane and a column for each title, at one scale of mm per inch."""
    sizes = np.array([[spacing_of(p, grid)[i] * (p.window[i][1] - p.window[i][0]) for i in (0, 1)] for p in planes])
    sizes *= PANEL / sizes.max()
    width, heights = sizes[:, 0].max() + 0.1, sizes[:, 1]
    figure = Figure((len(titles) * width + 0.4, heights.sum() + 0.1 * len(planes) + 0.3), layout="constrained")
    axes = empty_panels(figure, len(planes), len(titles))
    axes[0, 0].get_gridspec().set_height_ratios(heights.tolist())
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title, fontsize=9)
    for ax, plane in zip(axes[:, 0], planes, strict=True):
        ax.set_ylabel(place(plane, grid), fontsize=8)
    return figure, axes


def spacing_of(plane: Plane, grid: Grid) -> tuple[float, float]:
    """mm per voxel along either axis of a plane."""
    first, second = plane.kept
    return float(grid.spacing[first]), float(grid.spacing[second])


def _draw(ax: Axes, values: Tensor, plane: Plane, grid: Grid, alpha: float = 1) -> AxesImage:
    """An image in radiological convention with letters at the ends of its axes; the title stays."""
    drawn = draw_image(ax, values, plane, ax.get_title(), alpha)
    horizontal, vertical = spacing_of(plane, grid)
    ax.set_aspect(vertical / horizontal)
    (left, right), (bottom, top) = (LETTERS[axis] for axis in plane.kept)
    if plane.kept[1] == 1:  # posterior is down
        ax.invert_yaxis()
        bottom, top = top, bottom
    outline = [matplotlib.patheffects.withStroke(linewidth=2, foreground="black")]
    for x, y, letter, side, level in (
        (0.02, 0.5, left, "left", "center"),
        (0.98, 0.5, right, "right", "center"),
        (0.5, 0.02, bottom, "center", "bottom"),
        (0.5, 0.98, top, "center", "top"),
    ):
        ax.text(
            x, y, letter, ha=side, va=level, fontsize=7, color="white", path_effects=outline, transform=ax.transAxes
        )
    return drawn


def _draw_grid(ax: Axes, sight: Sight, grid: Grid, scales: Scales) -> AxesImage:
    """The group's grid where the transform takes it, on the image before registration."""
    drawn = _draw(ax, sight.images[0], sight.plane, grid, alpha=0.3)
    extent = min(end - start for start, end in sight.plane.window)
    _add(ax, views.grid_lines(sight.displacement, max(1, round(extent / GRID_LINES))), "navy", 0.6)
    return drawn


def _draw_log_jacobian(ax: Axes, sight: Sight, grid: Grid, scales: Scales) -> AxesImage:
    drawn = _draw(ax, sight.log_jacobian, sight.plane, grid)
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="black")
    drawn.set(cmap=colours, clim=(-scales.log_jacobian, scales.log_jacobian))
    _add(ax, edges(sight.images[1], spacing_of(sight.plane, grid)), "black", 0.3)
    return drawn


def _draw_uncertainty(ax: Axes, sight: Sight, grid: Grid, scales: Scales) -> AxesImage:
    assert sight.uncertainty is not None
    drawn = _draw(ax, sight.uncertainty, sight.plane, grid)
    drawn.set(cmap=matplotlib.colormaps["inferno"].with_extremes(bad="0.85"), clim=(0, scales.uncertainty))
    _add(ax, edges(sight.images[1], spacing_of(sight.plane, grid)), "white", 0.3)
    return drawn


def _add(ax: Axes, lines: Sequence[Line], colour: str, width: float = 0.9) -> None:
    ax.add_collection(LineCollection(lines, colors=colour, linewidths=width), autolim=False)


def _drawing(figure: Figure) -> Drawing:
    buffer = io.BytesIO()
    figure.savefig(
        buffer, format="webp", dpi=DPI, bbox_inches="tight", pad_inches=0.05, pil_kwargs={"quality": QUALITY}
    )
    with Image.open(buffer) as picture:
        return Drawing(buffer.getvalue(), round(picture.width * 96 / DPI))
