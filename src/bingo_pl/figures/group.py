"""Figures that a person can judge a registration by, as in Fig. 5 of the paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.batch import GroupBatch
from bingo_pl.figures import views
from bingo_pl.figures.panels import (
    MAX_SHOWN,
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

TILES = 8
"""Squares of the checkerboard along the shorter side."""


def draw_group(
    batch: GroupBatch,
    result: Registration,
    pictures: dict[str, Tensor],
    modalities: Sequence[str],
    label_ids: Sequence[int],
    directory: Path,
) -> list[Path]:
    """Draw one registered group.

    Args:
        batch: one group (B = 1) as it was given to the method.
        result: its registration.
        pictures: what `Registrar.explain` returned: (1, N, C, *s) per image or (1, 1, C, *s) per group.
        modalities: names that ``batch.modalities`` indexes.
        label_ids: the labels to outline.
        directory: where the PNG files go.

    Returns:
        In 2D ``<group>_registration.png``; in 3D ``<group>_registration_axis2.png`` (the slice across axis 2 through
        the foreground's centre), ``..._axis1.png`` and ``..._axis0.png``. Then, if there are pictures,
        ``<group>_structure.png`` (in 3D across axis 2).

    Raises:
        BingoError: the group's name cannot name a file, a file cannot be written, or something drawn is not finite.
    """
    assert batch.groups == 1, f"draw_group draws one group, got {batch.groups}"
    name = file_stem(batch)
    batch = batch.to("cpu")
    displacement = finite(name, "displacement", result.displacement)[0]
    pictures = {title: finite(name, title, picture)[0] for title, picture in pictures.items()}
    planes = views.planes(batch.masks[0, :, 0].any(dim=0))
    shown = choose(batch, displacement, modalities, label_ids)
    figures = {f"{name}_registration{_suffix(plane)}.png": _registration(shown, plane) for plane in planes}
    if pictures:
        figures[f"{name}_structure.png"] = _structure(shown, pictures, planes[0])
    return [save(figure, directory / file) for file, figure in figures.items()]


def _registration(shown: Shown, plane: Plane) -> Figure:
    """Rows: before, after, deformation, volume change. Columns: the images, the group's mean, a checkerboard."""
    n = len(shown.titles)
    figure, axes = _canvas(shown.heading + place(plane), plane, rows=4, columns=n + 2)
    for row, title in enumerate(("before", "after")):
        images, outlines = plane.cut(shown.images[row]), plane.cut(shown.outlines[row])
        axes[row, 0].set_ylabel(title)
        for column in range(n):
            draw_image(axes[row, column], images[column], plane, shown.titles[column])
            draw_outlines(axes[row, column], outlines, column)
        draw_image(axes[row, n], plane.cut(shown.means[row]), plane, f"group mean {title}")
        second = min(1, n - 1)
        board = views.checkerboard(images[0], images[second], max(1, min(plane.shape) // TILES))
        draw_image(axes[row, n + 1], board, plane, f"checkerboard {title}\n{shown.titles[0]} | {shown.titles[second]}")
    _deformations(axes[2], shown, plane)
    _volume_changes(axes[3], shown, plane)
    _legend(axes[2, n], shown)
    return figure


def _deformations(axes: NDArray, shown: Shown, plane: Plane) -> None:
    """The deformation of each image."""
    axes[0].set_ylabel("deformation in plane")
    for column in range(len(shown.titles)):
        draw_deformation(axes[column], shown, column, plane)


def _volume_changes(axes: NDArray, shown: Shown, plane: Plane) -> None:
    """Log-Jacobian determinants in the common space, on one symmetric scale."""
    logs = plane.cut(views.log_jacobian(shown.displacement))
    limit = max(0.1, float(logs.abs().nanquantile(0.99)))  # near a fold the logarithm has no bound
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="black")
    axes[0].set_ylabel("volume change")
    for column, log in enumerate(logs):
        folded = 100 * float(log.isnan().float().mean())
        drawn = draw_image(axes[column], log, plane, f"folded in this plane: {folded:.2g} %")
        drawn.set(cmap=colours, clim=(-limit, limit))
    bar = axes[len(logs)].inset_axes((0.05, 0.05, 0.08, 0.9))
    bar.figure.colorbar(drawn, cax=bar, extend="both", label="log det J; black: folded")


def _structure(shown: Shown, pictures: dict[str, Tensor], plane: Plane) -> Figure:
    """The registered images, then a row for each picture.

    Args:
        pictures: (N, C, *s) per image or (1, C, *s) per group.
    """
    heading = f"{shown.heading}{place(plane)}. Principal components in colour; each channel on its own grey scale"
    figure, axes = _canvas(heading, plane, rows=1 + len(pictures), columns=MAX_SHOWN + 1)
    axes[0, 0].set_ylabel("registered")
    for column, image in enumerate(plane.cut(shown.images[1])):
        draw_image(axes[0, column], image, plane, shown.titles[column])
    for row, (title, picture) in zip(axes[1:], pictures.items(), strict=True):
        row[0].set_ylabel(title)
        planar = plane.cut(picture[views.evenly(len(picture), MAX_SHOWN)])
        if len(planar) == 1 and planar.shape[1] > 1:
            _per_group(row, planar[0], plane)
        else:
            _per_image(row, planar, plane)
    return figure


def _per_image(axes: NDArray, pictures: Tensor, plane: Plane) -> None:
    """(n, C, h, w): grey values where C is 1, else colours of the principal components, which the images share."""
    grey = pictures.shape[1] == 1
    for column, picture in enumerate(pictures[:, 0] if grey else views.principal_colours(pictures)):
        draw_image(axes[column], picture, plane, "" if grey else "components 1-3 as RGB")


def _per_group(axes: NDArray, features: Tensor, plane: Plane) -> None:
    """(C, h, w): principal components as colours, then the first channels, each on its own scale."""
    draw_image(axes[0], views.principal_colours(features[None])[0], plane, "components 1-3 as RGB")
    for channel, feature in enumerate(features[:MAX_SHOWN]):
        drawn = draw_image(axes[channel + 1], feature, plane, f"channel {channel + 1} of {len(features)}")
        drawn.autoscale()


def _canvas(heading: str, plane: Plane, rows: int, columns: int) -> tuple[Figure, NDArray]:
    """A figure of empty panels (rows, columns) of the plane's window."""
    width, height = panel_size(plane)
    figure = Figure(figsize=(columns * width + 0.4, rows * (height + 0.35) + 0.4), layout="constrained")
    figure.suptitle(heading, fontsize=11)
    return figure, empty_panels(figure, rows, columns)


def _legend(ax: Axes, shown: Shown) -> None:
    handles = label_handles(shown)
    title = "thick: this image\nthin: the others" if handles else "no labels"
    ax.legend(handles=handles, title=title, loc="center", fontsize=8, title_fontsize=8)


def _suffix(plane: Plane) -> str:
    return "".join(f"_axis{axis}" for axis in plane.fixed)
