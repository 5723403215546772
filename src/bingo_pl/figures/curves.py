"""Training curves from the numbers that a run logged."""

from __future__ import annotations

from math import ceil
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bingo_pl.errors import FileError, InputError
from bingo_pl.figures.panels import save

COLUMNS = 3
MANY = 50
"""Values from which a running median is drawn over them, as wide as a twentieth of the curve."""


def draw_curves(metrics_csv: Path, path: Path) -> None:
    """Draw each logged quantity against the training step, one panel each, into a PNG.

    A quantity that is positive and spans more than two decades has a logarithmic axis.

    Args:
        metrics_csv: ``metrics.csv`` of `History`; each quantity has values in some of the rows.
        path: the PNG file.

    Raises:
        BingoError: the file cannot be read or holds no steps or quantities, or the PNG cannot be written.
    """
    metrics = read_metrics(metrics_csv)
    names = list(metrics.columns)
    rows = ceil(len(names) / COLUMNS)
    figure = Figure(figsize=(4 * COLUMNS, 2.4 * rows + 0.3), layout="constrained")
    figure.suptitle("thin: logged values, thick: running median", fontsize=9)
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for ax, name in zip(panels, names, strict=False):
        _curve(ax, name, metrics[name].dropna())
    for ax in panels[len(names) :]:
        ax.set_axis_off()
    save(figure, path)


def read_metrics(metrics_csv: Path) -> pd.DataFrame:
    """The quantities by name, indexed by step: the training's first, then the others, each in the file's order.

    Raises:
        BingoError: the file cannot be read or holds no steps or quantities.
    """
    try:
        metrics = pd.read_csv(metrics_csv)
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise FileError(f"cannot read {metrics_csv}: {error}", "Wanted: metrics.csv of a run") from error
    names = [name for name in metrics.columns if name not in ("epoch", "step")]
    if "step" not in metrics or not names:
        raise InputError(
            f"{metrics_csv} holds no curves. Got the columns {', '.join(metrics.columns)}; wanted 'step' and at least "
            "one quantity",
            "Give the metrics.csv of a training run",
        )
    return metrics.set_index("step")[sorted(names, key=lambda name: not name.startswith("train/"))]


def _curve(ax: Axes, name: str, values: pd.Series) -> None:
    ax.grid(alpha=0.3)
    ax.set_xlabel("step", fontsize=8)
    ax.tick_params(labelsize=8)
    if values.empty:
        ax.set_title(f"{name}: no values", fontsize=9)
        ax.set_axis_off()
        return
    ax.set_title(f"{name}: last {values.iloc[-1]:.4g}", fontsize=9)
    if len(values) < MANY:
        ax.plot(values.index, values, ".-", color="tab:orange", linewidth=1.2)
    else:
        ax.plot(values.index, values, color="tab:blue", alpha=0.3, linewidth=0.6)
        ax.plot(values.index, values.rolling(len(values) // 20, center=True, min_periods=1).median(), color="tab:blue")
    if values.min() > 0 and values.max() > 100 * values.min():
        ax.set_yscale("log")
