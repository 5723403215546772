"""What comes first in a report: a verdict as far as figures carry it, the group in numbers, a table of all images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from bingo_pl.images.record import FAIL, PASS
from bingo_pl.report.data import Row, Story

FOLDING_LIMIT = 0.1
"""Percent of folded voxels above which a transform is named as suspect."""


def suspicions(row: Row) -> list[str]:
    """What the figures say against an image's registration, as HTML."""
    found = []
    if row.entry.belongs is False:
        found.append("does not fit the group (right patient, sequence, orientation?)")
    if row.entry.looks_like is not None:
        given, seen = escape(row.entry.modality), escape(row.entry.looks_like)
        found.append(f"was given as {given} but looks like {seen}: if it is one, register again with that name")
    if row.entry.folding_percent > FOLDING_LIMIT:
        share = number(row.entry.folding_percent)
        found.append(f"its deformation folds in {share} % of the voxels: do not trust it there")
    if row.uncertainty_mm is not None and math.isnan(row.uncertainty_mm):
        found.append("how far it may be off is unknown: it is unlike what the model was trained on")
    if row.overlap is not None and row.overlap[1] < row.overlap[0]:
        found.append(f"its labels overlap less with the others' than before ({_change(row.overlap)})")
    return found


def verdict(story: Story) -> str:
    """What the figures carry, and no more."""
    suspects = [(row, found) for row in story.rows if (found := suspicions(row))]
    measured = {
        "whether each image fits the group": any(row.entry.belongs is not None for row in story.rows),
        "whether each looks like its modality": any(row.entry.misnaming is not None for row in story.rows),
        "folding": True,
        "overlap of labels": any(row.overlap is not None for row in story.rows),
    }
    basis = f"Judged by: {_listed([what for what, known in measured.items() if known])}."
    if unknown := [what for what, known in measured.items() if not known]:
        basis += f" Not measured: {_listed(unknown)}."
    head, items, kind = "Nothing measured speaks against this registration.", "", "partial" if unknown else "good"
    if suspects:
        head, kind = f"Look closer: {len(suspects)} of {len(story.rows)} images.", "suspect"
        items = "".join(f"<li><b>{_link(row)}</b> {'; '.join(found)}.</li>" for row, found in suspects)
        items = f"<ul>{items}</ul>"
    if story.record.verdict is not None:
        head, items, kind = _of_alignment(story, head, items, kind)
    closing = f"{basis} Whether anatomy lies on anatomy, only the pictures show."
    return f'<div class="verdict {kind}"><strong>{head}</strong> {items}{closing}</div>'


def _of_alignment(story: Story, head: str, items: str, kind: str) -> tuple[str, str, str]:
    """What the alignment says of itself comes before what the figures say."""
    record = story.record
    errors = [entry.error_mm for entry in record.entries if entry.error_mm is not None]
    kept = f"Kept: {escape(record.kept or '')} maps."
    error = f" Predicted error: {number(min(errors))} to {number(max(errors))} mm." if errors else ""
    if record.verdict == PASS:
        return f"{head} {kept}{error}", items, kind
    word = "FAIL: not to be used as it is." if record.verdict == FAIL else "WARN: look closer before it is used."
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in record.reasons)
    return f"{word} {kept}{error}", f"<ul>{reasons}</ul>{items}", "suspect"


def figures(story: Story) -> str:
    """The group in numbers."""
    entries = story.record.entries
    disagreements = [entry.disagreement for entry in entries if entry.disagreement is not None]
    uncertainties = [row.uncertainty_mm for row in story.rows if row.uncertainty_mm is not None]
    overlaps = [row.overlap for row in story.rows if row.overlap is not None]
    misfits = sum(entry.belongs is False for entry in entries)
    figures = {
        "images": str(len(entries)),
        "do not fit the group": str(misfits) if any(e.belongs is not None for e in entries) else "not measured",
        "mean expert disagreement": number(float(np.mean(disagreements))) if disagreements else "not measured",
        "most folding": f"{number(max(entry.folding_percent for entry in entries))} %",
        "median uncertainty": _millimetres(float(np.median(np.nan_to_num(uncertainties, nan=np.inf))))
        if uncertainties
        else "not measured",
        "overlap of labels (Dice)": _change(np.mean(overlaps, axis=0).tolist()) if overlaps else "not measured",
    }
    boxes = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items())
    return f'<dl class="figures">{boxes}</dl>'


def facts(story: Story) -> str:
    """What was registered, where and with what."""
    record = story.record
    kinds = Counter(entry.modality for entry in record.entries)
    images = ", ".join(escape(f"{count} x {kind}" if count > 1 else kind) for kind, count in kinds.items())
    shape = " x ".join(map(str, record.group.shape))
    spacing = " x ".join(number(size) for size in record.group.spacing.tolist())
    checkpoint = f"{Path(*record.checkpoint.parts[-3:])} (SHA-256 {record.checkpoint_sha256[:12]}...)"
    return (
        f'<p class="facts">Images: {images}. Group grid: {shape} voxels of {spacing} mm. '
        f"Checkpoint: {escape(checkpoint)}. bingo_pl {escape(record.version)}.</p>"
    )


def table(story: Story) -> str:
    """All images, those with pictures linked to them."""
    caption = (
        "Sorted by what does not fit, then wrong names, disagreement, folding. Expert disagreement: how far an image "
        "stands from what the group has in common; more is worse. Folding: voxels where the deformation turns inside "
        "out. Uncertainty: median over the foreground; unknown where it exceeds all that the model was trained on. A "
        "dash: not measured."
    )
    if story.compared_labels > 1:
        others = story.compared_labels - 1
        caption += (
            f" Dice: mean overlap with each of {others} other label maps, before and after registration; before: "
        )
        caption += (
            "as the headers have them."
            if story.record.kept is not None
            else "after the affine stage alone, where there was one."
        )
    shown = sum(row.pictured is not None for row in story.rows)
    if shown < len(story.rows):
        caption += f" Pictures follow of the first {shown} of {len(story.rows)} images, not of the others."
    columns = ["image", "file", "fits the group", "expert disagreement", "folding (%)", "uncertainty (mm)", "Dice"]
    kinds = [' class="text"'] * 3 + [""] * 4
    head = "".join(f'<th scope="col"{kind}>{column}</th>' for kind, column in zip(kinds, columns, strict=True))
    largest = max(row.entry.disagreement or 0 for row in story.rows)
    body = "\n".join(_table_row(row, largest) for row in story.rows)
    return (
        f'<h2>All images</h2>\n<div class="scroll"><table><caption>{caption}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def _table_row(row: Row, largest: float) -> str:
    entry = row.entry
    fits = {None: "&ndash;", True: "yes", False: '<span class="flag">no</span>'}[entry.belongs]
    disagreement = "&ndash;"
    if entry.disagreement is not None:
        share = 100 * entry.disagreement / largest if largest > 0 else 0
        bar = f'<span class="bar" aria-hidden="true"><i style="width:{max(share, 0):.0f}%"></i></span>'
        disagreement = f"{number(entry.disagreement)}{bar}"
    folding = number(entry.folding_percent)
    cells = [
        disagreement,
        f'<span class="flag">{folding}</span>' if entry.folding_percent > FOLDING_LIMIT else folding,
        "&ndash;" if row.uncertainty_mm is None else _millimetres(row.uncertainty_mm, ".2f", unit=""),
        "&ndash;" if row.overlap is None else _change(row.overlap),
    ]
    kind = ' class="suspect"' if suspicions(row) else ""
    return (
        f'<tr{kind}><th scope="row" class="text">{_link(row)}'
        f'</th><td class="text" title="{escape(str(entry.path))}">{escape(entry.path.name)}</td>'
        f'<td class="text">{fits}</td>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
    )


def anchor(row: Row) -> str:
    """The id of an image's pictures: a name may hold anything."""
    return f"image-{row.rank}"


def _link(row: Row) -> str:
    """An image's name, linked to its pictures where there are some."""
    name = escape(row.entry.name)
    return name if row.pictured is None else f'<a href="#{anchor(row)}">{name}</a>'


def number(value: float) -> str:
    """Two or three digits."""
    return f"{value:.2g}" if abs(value) < 1 else f"{value:.3g}"


def _millimetres(value: float, form: str = "", unit: str = " mm") -> str:
    """A length; unknown where it is not finite."""
    return "unknown" if not math.isfinite(value) else f"{format(value, form) if form else number(value)}{unit}"


def _change(pair: Sequence[float]) -> str:
    return f"{pair[0]:.2f} &rarr; {pair[1]:.2f}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
