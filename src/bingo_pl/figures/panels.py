"""The panels that the figures are made of: a group's images, outlines and deformations, cut by a plane.

Array axes are those that nibabel and TorchIO load: a plane's first axis runs to the right, its second one up.
Voxels are drawn square.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from numpy.typing import NDArray
from torch import Tensor

from bingo_pl.batch import GroupBatch
from bingo_pl.errors import InputError
from bingo_pl.figures import views
from bingo_pl.figures.views import Plane
from bingo_pl.spatial import warp
from bingo_pl.storage.atomic import replacing
from bingo_pl.storage.names import check_file_name

DPI = 110
PANEL = 2.1
"""Longer side of a panel in inches."""
MAX_SHOWN = 6
"""Images, or channels of a feature, in a row."""
GRID_LINES = 20
"""Lines of the deformation grid along the shorter side."""


@dataclass(frozen=True, eq=False)
class Shown:
    """The n images of a group that are drawn, before and after registration."""

    heading: str
    titles: list[str]
    """(n,) position in the group and modality."""
    label_ids: Sequence[int]
    images: tuple[Tensor, Tensor]
    """Before and after, (n, *S)."""
    outlines: tuple[Tensor, Tensor]
    """Before and after, (n, L, *S), see `views.indicators`."""
    means: tuple[Tensor, Tensor]
    """Before and after, (*S), over the whole group."""
    displacement: Tensor
    """(n, D, *S)."""


def file_stem(batch: GroupBatch) -> str:
    """The name of the one group, if files can be named by it.

    Raises:
        BingoError: they cannot.
    """
    name = batch.names[0]
    check_file_name(name, "file")
    return name


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all, and return its path."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    return path


def finite(group: str, title: str, values: Tensor) -> Tensor:
    """The values as float32 on the CPU.

    Raises:
        BingoError: some are NaN or Inf; the message names the group and the title.
    """
    if not values.isfinite().all():
        raise InputError(
            f"cannot draw group '{group}': its {title} holds NaN or Inf, wanted finite numbers",
            "The training has diverged: lower the learning rate",
        )
    return values.detach().float().cpu()


def choose(batch: GroupBatch, displacement: Tensor, modalities: Sequence[str], label_ids: Sequence[int]) -> Shown:
    """Register a group and keep what is drawn of it.

    Args:
        batch: one group (B = 1), on the CPU.
        displacement: (N, D, *S) that registers it.
        modalities: names that ``batch.modalities`` indexes.
        label_ids: the labels to outline.
    """
    members = views.evenly(batch.size, MAX_SHOWN)
    images = batch.images[0].float()
    registered = warp(images, displacement)
    outlines = views.indicators(batch.labels[0, members], label_ids)
    few = "" if len(members) == batch.size else f", {len(members)} of {batch.size} images shown"
    return Shown(
        heading=f"{batch.names[0]}{few}",
        titles=[f"{m + 1}: {modalities[int(batch.modalities[0, m])]}" for m in members],
        label_ids=label_ids,
        images=(images[members, 0], registered[members, 0]),
        outlines=(outlines, warp(outlines, displacement[members])),
        means=(images.mean(dim=0)[0], registered.mean(dim=0)[0]),
        displacement=displacement[members],
    )


def panel_size(plane: Plane) -> tuple[float, float]:
    """Width and height in inches of the plane's window."""
    extents = [end - start for start, end in plane.window]
    width, height = (PANEL * extent / max(extents) for extent in extents)
    return width, height


def empty_panels(figure: Figure, rows: int, columns: int) -> NDArray:
    """Axes (rows, columns) without ticks and frames."""
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.set_frame_on(False)
    return axes


def draw_image(ax: Axes, values: Tensor, plane: Plane, title: str = "", alpha: float = 1) -> AxesImage:
    """Draw (h, w) in grey from 0 to 1, or (h, w, 3) colours, over the plane's field of view and show its window."""
    ax.set_title(title, fontsize=8)
    width, height = plane.shape
    drawn = ax.imshow(
        values.transpose(0, 1).numpy(),
        cmap="gray",
        vmin=0,
        vmax=1,
        alpha=alpha,
        origin="lower",
        interpolation="nearest",
        extent=(-0.5, width - 0.5, -0.5, height - 0.5),
    )
    ax.set(xlim=plane.window[0], ylim=plane.window[1])
    return drawn


def draw_outlines(ax: Axes, outlines: Tensor, own: int) -> None:
    """All images' labels (n, L, h, w): a colour for each label, thick lines for the panel's own image."""
    for image, indicators in enumerate(outlines):
        width = 1.2 if image == own else 0.5
        for indicator, colour in zip(indicators, _colours(len(indicators)), strict=True):
            lines = LineCollection(views.contours(indicator), colors=[colour], linewidths=width)
            ax.add_collection(lines, autolim=False)


def draw_deformation(ax: Axes, shown: Shown, member: int, plane: Plane) -> None:
    """The common space's grid where id + displacement takes it: on the image before registration."""
    draw_image(ax, plane.cut(shown.images[0][member]), plane, alpha=0.25)
    spacing = max(1, round(min(plane.shape) / GRID_LINES))
    lines = views.grid_lines(plane.cut(shown.displacement[member, list(plane.kept)]), spacing)
    ax.add_collection(LineCollection(lines, colors="darkblue", linewidths=0.6), autolim=False)


def label_handles(shown: Shown) -> list[Line2D]:
    """A legend's lines: the colours of the labels that the images drawn have anywhere."""
    present = shown.outlines[0].transpose(0, 1).flatten(1).any(dim=1).tolist()
    return [
        Line2D([], [], color=colour, label=f"label {label}")
        for label, colour, drawn in zip(shown.label_ids, _colours(len(present)), present, strict=True)
        if drawn
    ]


def _colours(count: int) -> NDArray:
    return matplotlib.colormaps["gist_rainbow"](torch.linspace(0, 0.85, count).numpy())


def place(plane: Plane) -> str:
    """Where the plane is, to follow a heading; nothing in 2D."""
    return "".join(f", slice {plane.centre[axis]} of axis {axis}" for axis in plane.fixed)
