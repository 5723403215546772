"""Figures that a person can judge a registration by, as in Fig. 5 of the paper.

Array axes are those that nibabel and TorchIO load: a plane's first axis runs to the right, its second one up.
Voxels are drawn square, since a batch carries no spacing.
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

from bingo_pl import views
from bingo_pl.atomic import replacing
from bingo_pl.batch import GroupBatch
from bingo_pl.errors import BingoError
from bingo_pl.registrar import Registration
from bingo_pl.spatial import warp
from bingo_pl.views import Plane

DPI = 110
PANEL = 2.1
"""Longer side of a panel in inches."""
MAX_SHOWN = 6
"""Images, or channels of a feature, in a row."""
GRID_LINES = 20
"""Lines of the deformation grid along the shorter side."""
TILES = 8
"""Squares of the checkerboard along the shorter side."""


@dataclass(frozen=True, eq=False)
class _Shown:
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
    name = batch.names[0]
    if Path(name).name != name:
        raise BingoError(f"group '{name}' cannot name a file. Wanted: a name without '/'. Rename the group")
    batch = batch.to("cpu")
    displacement = _finite(name, "displacement", result.displacement)[0]
    pictures = {title: _finite(name, title, picture)[0] for title, picture in pictures.items()}
    planes = views.planes(batch.masks[0, :, 0].any(dim=0))
    shown = _choose(batch, displacement, modalities, label_ids)
    figures = {f"{name}_registration{_suffix(plane)}.png": _registration(shown, plane) for plane in planes}
    if pictures:
        figures[f"{name}_structure.png"] = _structure(shown, pictures, planes[0])
    return [save(figure, directory / file) for file, figure in figures.items()]


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, whole or not at all, and return its path."""
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI)
    return path


def _finite(group: str, title: str, values: Tensor) -> Tensor:
    if not values.isfinite().all():
        raise BingoError(
            f"cannot draw group '{group}': its {title} holds NaN or Inf, wanted finite numbers. "
            "The training has diverged: lower the learning rate"
        )
    return values.detach().float().cpu()


def _choose(batch: GroupBatch, displacement: Tensor, modalities: Sequence[str], label_ids: Sequence[int]) -> _Shown:
    """Register the group and keep what is drawn of it."""
    members = views.evenly(batch.size, MAX_SHOWN)
    images = batch.images[0].float()
    registered = warp(images, displacement)
    outlines = views.indicators(batch.labels[0, members], label_ids)
    few = "" if len(members) == batch.size else f", {len(members)} of {batch.size} images shown"
    return _Shown(
        heading=f"{batch.names[0]}{few}",
        titles=[f"{m + 1}: {modalities[int(batch.modalities[0, m])]}" for m in members],
        label_ids=label_ids,
        images=(images[members, 0], registered[members, 0]),
        outlines=(outlines, warp(outlines, displacement[members])),
        means=(images.mean(dim=0)[0], registered.mean(dim=0)[0]),
        displacement=displacement[members],
    )


def _registration(shown: _Shown, plane: Plane) -> Figure:
    """Rows: before, after, deformation, volume change. Columns: the images, the group's mean, a checkerboard."""
    n = len(shown.titles)
    figure, axes = _canvas(shown.heading + _place(plane), plane, rows=4, columns=n + 2)
    for row, title in enumerate(("before", "after")):
        images, outlines = plane.cut(shown.images[row]), plane.cut(shown.outlines[row])
        axes[row, 0].set_ylabel(title)
        for column in range(n):
            _image(axes[row, column], images[column], plane, shown.titles[column])
            _outline(axes[row, column], outlines, column)
        _image(axes[row, n], plane.cut(shown.means[row]), plane, f"group mean {title}")
        second = min(1, n - 1)
        board = views.checkerboard(images[0], images[second], max(1, min(plane.shape) // TILES))
        _image(axes[row, n + 1], board, plane, f"checkerboard {title}\n{shown.titles[0]} | {shown.titles[second]}")
    _deformations(axes[2], shown, plane)
    _volume_changes(axes[3], shown, plane)
    _legend(axes[2, n], shown)
    return figure


def _deformations(axes: NDArray, shown: _Shown, plane: Plane) -> None:
    """The common space's grid where id + displacement takes it: on the image before registration."""
    spacing = max(1, round(min(plane.shape) / GRID_LINES))
    axes[0].set_ylabel("deformation in plane")
    for column, displacement in enumerate(shown.displacement):
        _image(axes[column], plane.cut(shown.images[0][column]), plane, alpha=0.25)
        lines = views.grid_lines(plane.cut(displacement[list(plane.kept)]), spacing)
        axes[column].add_collection(LineCollection(lines, colors="darkblue", linewidths=0.6), autolim=False)


def _volume_changes(axes: NDArray, shown: _Shown, plane: Plane) -> None:
    """Log-Jacobian determinants in the common space, on one symmetric scale."""
    logs = plane.cut(views.log_jacobian(shown.displacement))
    limit = max(0.1, float(logs.abs().nanquantile(0.99)))  # near a fold the logarithm has no bound
    colours = matplotlib.colormaps["RdBu_r"].with_extremes(bad="black")
    axes[0].set_ylabel("volume change")
    for column, log in enumerate(logs):
        folded = 100 * float(log.isnan().float().mean())
        drawn = _image(axes[column], log, plane, f"folded in this plane: {folded:.2g} %")
        drawn.set(cmap=colours, clim=(-limit, limit))
    bar = axes[len(logs)].inset_axes((0.05, 0.05, 0.08, 0.9))
    bar.figure.colorbar(drawn, cax=bar, extend="both", label="log det J; black: folded")


def _structure(shown: _Shown, pictures: dict[str, Tensor], plane: Plane) -> Figure:
    """The registered images, then a row for each picture.

    Args:
        pictures: (N, C, *s) per image or (1, C, *s) per group.
    """
    heading = f"{shown.heading}{_place(plane)}. Principal components in colour; each channel on its own grey scale"
    figure, axes = _canvas(heading, plane, rows=1 + len(pictures), columns=MAX_SHOWN + 1)
    axes[0, 0].set_ylabel("registered")
    for column, image in enumerate(plane.cut(shown.images[1])):
        _image(axes[0, column], image, plane, shown.titles[column])
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
        _image(axes[column], picture, plane, "" if grey else "components 1-3 as RGB")


def _per_group(axes: NDArray, features: Tensor, plane: Plane) -> None:
    """(C, h, w): principal components as colours, then the first channels, each on its own scale."""
    _image(axes[0], views.principal_colours(features[None])[0], plane, "components 1-3 as RGB")
    for channel, feature in enumerate(features[:MAX_SHOWN]):
        drawn = _image(axes[channel + 1], feature, plane, f"channel {channel + 1} of {len(features)}")
        drawn.autoscale()


def _canvas(heading: str, plane: Plane, rows: int, columns: int) -> tuple[Figure, NDArray]:
    """A figure of empty panels (rows, columns) of the plane's window."""
    extents = [end - start for start, end in plane.window]
    width, height = (PANEL * extent / max(extents) for extent in extents)
    figure = Figure(figsize=(columns * width + 0.4, rows * (height + 0.35) + 0.4), layout="constrained")
    figure.suptitle(heading, fontsize=11)
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set(xticks=[], yticks=[])
        ax.set_frame_on(False)
    return figure, axes


def _image(ax: Axes, values: Tensor, plane: Plane, title: str = "", alpha: float = 1) -> AxesImage:
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


def _outline(ax: Axes, outlines: Tensor, own: int) -> None:
    """All images' labels (n, L, h, w): a colour for each label, thick lines for the panel's own image."""
    for image, indicators in enumerate(outlines):
        width = 1.2 if image == own else 0.5
        for indicator, colour in zip(indicators, _colours(len(indicators)), strict=True):
            lines = LineCollection(views.contours(indicator), colors=[colour], linewidths=width)
            ax.add_collection(lines, autolim=False)


def _legend(ax: Axes, shown: _Shown) -> None:
    """The colours of the labels that the images drawn have anywhere."""
    present = shown.outlines[0].transpose(0, 1).flatten(1).any(dim=1).tolist()
    handles = [
        Line2D([], [], color=colour, label=f"label {label}")
        for label, colour, drawn in zip(shown.label_ids, _colours(len(present)), present, strict=True)
        if drawn
    ]
    title = "thick: this image\nthin: the others" if handles else "no labels"
    ax.legend(handles=handles, title=title, loc="center", fontsize=8, title_fontsize=8)


def _colours(count: int) -> NDArray:
    return matplotlib.colormaps["gist_rainbow"](torch.linspace(0, 0.85, count).numpy())


def _place(plane: Plane) -> str:
    return "".join(f", slice {plane.centre[axis]} of axis {axis}" for axis in plane.fixed)


def _suffix(plane: Plane) -> str:
    return "".join(f"_axis{axis}" for axis in plane.fixed)
