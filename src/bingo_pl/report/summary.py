"""What comes first in a report: a verdict as far as figures carry it, the group in numbers, a table of all images."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np

from bingo_pl.images.record import FAIL, PASS, WARN
from bingo_pl.report.data import Row, Story

MARKS = {"PASS": "&#10003;", "WARN": "&#9888;", "FAIL": "&#10007;"}
"""Signs of the verdicts, so that colour is not all that tells them apart."""
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
    head, items, kind = "Nothing measured speaks against this registration.", "", "good"
    if suspects:
        head, kind = f"Look closer: {len(suspects)} of {len(story.rows)} images.", "suspect"
        items = "".join(f"<li><b>{_link(row)}</b> {'; '.join(found)}.</li>" for row, found in suspects)
        items = f"<ul>{items}</ul>"
    word = ""
    if story.record.verdict is not None:
        word, head, items, kind = _of_alignment(story, head, items, kind)
    closing = (
        f"<p>Whether anatomy lies on anatomy, only the pictures show{_first(story)}.</p><p><small>{basis}</small></p>"
    )
    done = "".join(f"<li>{escape(text)}</li>" for text in _stages(story))
    done = f"<details><summary>What was done</summary><ul>{done}</ul></details>" if done else ""
    return f'<div class="verdict {kind}">{word}<strong>{head}</strong> {items}{closing}{done}</div>'


def _first(story: Story) -> str:
    """Where to look first."""
    shown = [row for row in story.rows if row.pictured is not None]
    return f": look at {_link(shown[0])} first" if len(story.rows) > 1 and shown else ""


def _stages(story: Story) -> list[str]:
    """What the alignment did, a sentence a stage."""
    return [
        f"{stage.kind}: moves the images by {number(stage.moved_mm)} mm against each other, "
        f"{'kept' if stage.kept else 'not kept'}: {stage.why}"
        for stage in story.record.stages
    ]


def _of_alignment(story: Story, head: str, items: str, kind: str) -> tuple[str, str, str, str]:
    """What the alignment says of itself comes before what the figures say: word, sentence, reasons, kind."""
    record = story.record
    errors = [entry.error_mm for entry in record.entries if entry.error_mm is not None]
    kept = f"Kept: {escape(record.kept or '')} maps."
    error = f" Predicted error: {_range(errors)} mm." if errors else ""
    word, meaning, colour = {
        PASS: ("PASS", head, kind),
        WARN: ("WARN", "Look closer before it is used.", "suspect"),
        FAIL: ("FAIL", "Not to be used as it is.", "failed"),
    }[record.verdict or PASS]
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in record.reasons)
    reasons = f"<ul>{reasons}</ul>" if reasons else ""
    return f'<p class="word">{MARKS[word]} {word}</p>', f"{meaning} {kept}{error}", f"{reasons}{items}", colour


def figures(story: Story) -> str:
    """The group in numbers, those that were measured."""
    entries = story.record.entries
    errors = [entry.error_mm for entry in entries if entry.error_mm is not None]
    disagreements = [entry.disagreement for entry in entries if entry.disagreement is not None]
    uncertainties = [row.uncertainty_mm for row in story.rows if row.uncertainty_mm is not None]
    overlaps = [row.overlap for row in story.rows if row.overlap is not None]
    misfits = sum(entry.belongs is False for entry in entries)
    known = any(entry.belongs is not None for entry in entries)
    figures = {
        "images": str(len(entries)),
        "kept": escape(story.record.kept or ""),
        "largest predicted error": f"{number(max(errors))} mm" if errors else "",
        "do not fit the group": str(misfits) if known else "",
        "mean expert disagreement": number(float(np.mean(disagreements))) if disagreements else "",
        "most folding": f"{number(max(entry.folding_percent for entry in entries))} %",
        "median uncertainty": _millimetres(float(np.median(np.nan_to_num(uncertainties, nan=np.inf))))
        if uncertainties
        else "",
        "overlap of labels (Dice)": _change(np.mean(overlaps, axis=0).tolist()) if overlaps else "",
    }
    boxes = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures.items() if value)
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
    columns = _columns(story)
    caption = "Worst first. " + " ".join(column.meaning for column in columns if column.meaning)
    shown = sum(row.pictured is not None for row in story.rows)
    if shown < len(story.rows):
        caption += f" Pictures follow of the first {shown} of {len(story.rows)} images, not of the others."
    heads = ['<th scope="col" class="text">image</th>', '<th scope="col" class="text">file</th>']
    heads += [f'<th scope="col">{column.title}</th>' for column in columns]
    body = "\n".join(_table_row(row, columns) for row in story.rows)
    return (
        f'<h2>All images</h2>\n<div class="scroll"><table><caption>{caption}</caption>\n'
        f"<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


@dataclass(frozen=True)
class _Column:
    """A figure of each image; shown where it was measured of any."""

    title: str
    meaning: str
    """For the caption."""
    value: Callable[[Row], object]
    """None where it was not measured."""
    cell: Callable[[Row], str]
    """HTML."""


def _columns(story: Story) -> list[_Column]:
    """The figures that were measured."""
    largest = max(row.entry.disagreement or 0 for row in story.rows)
    when = "as the headers have them" if story.record.kept is not None else "after the affine stage alone"
    columns = [
        _Column(
            "predicted error (mm)",
            "",
            lambda row: row.entry.error_mm,
            lambda row: number(row.entry.error_mm or 0),
        ),
        _Column(
            "fits the group",
            "",
            lambda row: row.entry.belongs,
            lambda row: "yes" if row.entry.belongs else '<span class="flag">no</span>',
        ),
        _Column(
            "expert disagreement",
            "Expert disagreement: how far an image stands from what the group has in common; more is worse.",
            lambda row: row.entry.disagreement,
            lambda row: _bar(row.entry.disagreement or 0, largest),
        ),
        _Column(
            "folding (%)",
            "Folding: voxels where the deformation turns inside out.",
            lambda row: row.entry.folding_percent if story.record.kept in (None, "deformable") else None,
            lambda row: _flagged(number(row.entry.folding_percent), row.entry.folding_percent > FOLDING_LIMIT),
        ),
        _Column(
            "uncertainty (mm)",
            "Uncertainty: median over the foreground; unknown where it exceeds all that the model was trained on.",
            lambda row: row.uncertainty_mm,
            lambda row: _millimetres(row.uncertainty_mm or 0, ".2f", unit=""),
        ),
        _Column(
            "Dice",
            f"Dice: mean overlap with each of {story.compared_labels - 1} other label maps, before ({when}) and after.",
            lambda row: row.overlap,
            lambda row: _change(row.overlap or ()),
        ),
    ]
    return [column for column in columns if any(column.value(row) is not None for row in story.rows)]


def _bar(value: float, largest: float) -> str:
    share = max(100 * value / largest, 0) if largest > 0 else 0
    return f'{number(value)}<span class="bar" aria-hidden="true"><i style="width:{share:.0f}%"></i></span>'


def _flagged(text: str, wrong: bool) -> str:
    return f'<span class="flag">{text}</span>' if wrong else text


def _table_row(row: Row, columns: Sequence[_Column]) -> str:
    entry = row.entry
    cells = ["&ndash;" if column.value(row) is None else column.cell(row) for column in columns]
    kind = ' class="suspect"' if suspicions(row) else ""
    return (
        f'<tr{kind}><th scope="row" class="text">{_link(row)}'
        f'</th><td class="text" title="{escape(str(entry.path))}">{escape(entry.path.name)}</td>'
        f"{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
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


def _range(values: Sequence[float]) -> str:
    """From the least to the largest; once where they read alike."""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"


def _millimetres(value: float, form: str = "", unit: str = " mm") -> str:
    """A length; unknown where it is not finite."""
    return "unknown" if not math.isfinite(value) else f"{format(value, form) if form else number(value)}{unit}"


def _change(pair: Sequence[float]) -> str:
    return f"{pair[0]:.2f} &rarr; {pair[1]:.2f}"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
