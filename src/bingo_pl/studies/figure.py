"""One group before registration and registered by each method, as Fig. 5 of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.batch import GroupBatch
from bingo_pl.evaluation import metrics
from bingo_pl.evaluation.scoring import UNREGISTERED
from bingo_pl.figures import views
from bingo_pl.figures.panels import (
    Shown,
    choose,
    draw_deformation,
    draw_image,
    draw_outlines,
    empty_panels,
    file_stem,
    finite,
    label_handles,
    panel_size,
    place,
    save,
)
from bingo_pl.figures.views import Plane
from bingo_pl.methods.registrar import Registration

GAP = 0.05
"""Inches between panels."""
TOP = 0.6
"""Inches for the heading and the columns' titles."""
FONT = 11
CHARACTER = 0.1
"""Inches that a bold character of `FONT` takes at most, on average."""


def draw_comparison(
    batch: GroupBatch,
    results: Mapping[str, Registration],
    modalities: Sequence[str],
    label_ids: Sequence[int],
    directory: Path,
) -> Path:
    """Draw one group: a row before registration, then one for each method.

    Columns: the registered images under the outlines of all images' labels, the group's mean and the first image's
    deformation. In 3D the slice across the last axis through the foreground's centre; Dice and gWI are the volume's.

    Args:
        batch: one group (B = 1) as it was given to the methods.
        results: its registration by each method, in the rows' order.
        modalities: names that ``batch.modalities`` indexes.
        label_ids: the labels to outline and to compute Dice of.
        directory: where ``<group>_methods.png`` goes.

    Returns:
        The file.

    Raises:
        BingoError: the group's name cannot name a file, the file cannot be written, or a displacement is not finite.
    """
    assert batch.groups == 1, f"draw_comparison draws one group, got {batch.groups}"
    name = file_stem(batch)
    batch = batch.to("cpu")
    displacements = {UNREGISTERED: batch.images.new_zeros(1, batch.size, len(batch.shape), *batch.shape)}
    displacements |= {
        method: finite(name, f"{method} displacement", result.displacement) for method, result in results.items()
    }
    plane = views.planes(batch.masks[0, :, 0].any(dim=0))[0]
    for row, (method, displacement) in enumerate(displacements.items()):
        shown = choose(batch, displacement[0], modalities, label_ids)
        if row == 0:
            figure, axes = _canvas(shown, plane, list(displacements))
        _draw_row(axes[row], shown, plane)
        _title(axes[row, 0], method, _scores(batch, displacement, label_ids))
    return save(figure, directory / f"{name}_methods.png")


def _draw_row(axes: NDArray, shown: Shown, plane: Plane) -> None:
    outlines = plane.cut(shown.outlines[1])
    *images, mean, deformation = axes
    for column, ax in enumerate(images):
        draw_image(ax, plane.cut(shown.images[1][column]), plane)
        draw_outlines(ax, outlines, column)
    draw_image(mean, plane.cut(shown.means[1]), plane)
    draw_deformation(deformation, shown, 0, plane)


def _scores(batch: GroupBatch, displacement: Tensor, label_ids: Sequence[int]) -> str:
    """Dice and gWI of the group, as far as they are known."""
    values = metrics.evaluate(batch, displacement, label_ids)
    named = {"Dice": values["dice"].item(), "gWI": values["gwi"].item()}
    return "\n".join(f"{name} {value:.3f}" for name, value in named.items() if not math.isnan(value))


def _title(ax: Axes, method: str, scores: str) -> None:
    """To the left of a row."""
    ax.text(-0.05, 0.52, method, transform=ax.transAxes, ha="right", va="bottom", fontsize=FONT, weight="bold")
    ax.text(-0.05, 0.48, scores, transform=ax.transAxes, ha="right", va="top", fontsize=FONT)


def _canvas(shown: Shown, plane: Plane, methods: Sequence[str]) -> tuple[Figure, NDArray]:
    """Empty panels that fill the figure but for the heading, the columns' titles, the rows' titles and the legend."""
    titles = [*shown.titles, "group mean", f"deformation of {shown.titles[0]}"]
    rows, columns = len(methods), len(titles)
    panel_width, panel_height = panel_size(plane)
    left = 0.2 + CHARACTER * max(map(len, methods))
    width = left + columns * (panel_width + GAP)
    handles = _handles(shown)
    per_line = max(1, int(width / 1.1))
    bottom = 2 * GAP + 0.3 * math.ceil(len(handles) / per_line)
    height = TOP + rows * (panel_height + GAP) + bottom
    figure = Figure(figsize=(width, height))
    axes = empty_panels(figure, rows, columns)
    figure.subplots_adjust(
        left=left / width,
        right=1 - GAP / width,
        bottom=bottom / height,
        top=1 - TOP / height,
        wspace=GAP / panel_width,
        hspace=GAP / panel_height,
    )
    figure.suptitle(shown.heading + place(plane), y=1 - 0.1 / height, va="top", fontsize=FONT + 1)
    for ax, title in zip(axes[0], titles, strict=True):
        ax.annotate(title, (0.5, 1), (0, 4), "axes fraction", "offset points", ha="center", fontsize=FONT)
    if handles:
        figure.legend(handles=handles, loc="lower center", ncols=per_line, fontsize=FONT, frameon=False)
    return figure, axes


def _handles(shown: Shown) -> list[Line2D]:
    """The legend's entries: the labels' colours and whose outline is thick; none without labels."""
    labels = label_handles(shown)
    widths = {"this image": 2.5, "the others": 0.8} if labels else {}
    return [*labels, *(Line2D([], [], color="grey", linewidth=width, label=name) for name, width in widths.items())]
