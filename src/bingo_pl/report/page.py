"""One page by which a person judges a registration: ``report.html``. The command ``bingo report``.

It needs no other file and no network; every text of a file is escaped.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from bingo_pl.images.record import ATLAS
from bingo_pl.images.scans import Scan
from bingo_pl.report import pictures as report_pictures
from bingo_pl.report import viewer
from bingo_pl.report.cohort_page import cohort_page
from bingo_pl.report.data import Pictured, Row, Story, read_story
from bingo_pl.report.markup import document, picture
from bingo_pl.report.pictures import Scales
from bingo_pl.report.summary import anchor, facts, figures, number, suspicions, table, verdict
from bingo_pl.storage.atomic import check_place, replacing

FILE = "report.html"


def write_report(folder: Path, scans: Sequence[Scan] = ()) -> Path:
    """Write ``report.html`` into a folder of ``bingo register`` or ``bingo atlas``, whole or not at all.

    Reads only what is in the folder and, of a registration, the original files that ``registration.json`` names, an
    image at a time.

    Args:
        folder: the registration.
        scans: originals that are in memory, which are not read again.

    Returns:
        The page's path.

    Raises:
        BingoError: it is no finished registration, a file of it is damaged, or an original is gone or has changed.
    """
    path = folder / FILE
    check_place(path)
    page = cohort_page(folder) if (folder / ATLAS).exists() else _page(read_story(folder, scans))
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="backslashreplace")  # paths need not be UTF-8
    return path


def _page(story: Story) -> str:
    count = len(story.rows)
    title = f"Registration of {count} image{'s' if count > 1 else ''}"
    scales = Scales.of(story)
    parts = [
        verdict(story),
        figures(story),
        table(story),
        viewer.tools(),
        *(_section(row, row.pictured, story, scales) for row in story.rows if row.pictured is not None),
        _means(story),
        facts(story),
        _appendix(story),
    ]
    return document(title, parts, viewer.STYLE, viewer.SCRIPT)


def _means(story: Story) -> str:
    return (
        "<section><h2>The group's mean</h2>\n<p>Where images lie on each other it is sharp. R, L, A, P, S, I: right, "
        f"left, front, back, top and bottom of the patient.</p>\n"
        f"{viewer.means(story.planes, story.means, story.grid)}</section>"
    )


def _section(row: Row, pictured: Pictured, story: Story, scales: Scales) -> str:
    """The pictures of one image."""
    name = row.entry.name
    found = suspicions(row)
    warning = f'<p class="flag">Look closely: {"; ".join(found)}.</p>' if found else ""
    key = (
        '<p>Overlay: <span class="both"><span class="g">green</span></span> this image, <span class="both"><span '
        'class="m">magenta</span></span> the mean of the others after registration; edges of both lie on each other '
        f"where it fits. Lines: {_line_key(pictured, story)}</p>"
    )
    places = "; ".join(report_pictures.place(sight.plane, story.grid) for sight in pictured.sights)
    deformation = _deformation(row, pictured, pictured.moved_mm, story, scales, places) if pictured.moved_mm else ""
    shown = viewer.planes(name, pictured.sights, story.grid)
    content = f"<h2>{escape(name)}</h2>\n{warning}{key}\n{shown}\n{deformation}"
    return f'<section id="{anchor(row)}">{content}</section>'


def _deformation(
    row: Row, pictured: Pictured, moved_mm: tuple[float, float], story: Story, scales: Scales, places: str
) -> str:
    """The maps of an image that is deformed."""
    mean, largest = moved_mm
    uncertain = pictured.sights[0].uncertainty is not None
    maps = f"deformation grid, log-Jacobian map{', uncertainty map in mm' if uncertain else ''}"
    return picture(
        report_pictures.draw_deformation(pictured.sights, story.grid, scales),
        f"{row.entry.name}: {maps} ({places})",
        f"The deformation moves this image by {number(mean)} mm on average, {number(largest)} mm at most, and folds "
        f"in {number(row.entry.folding_percent)} % of the voxels. {_stage(row)}The grid lies over the image before "
        f"registration. Volume change: red where this image is larger than the group, blue where it is smaller. Fine "
        f"lines: its edges after registration. {'' if uncertain else 'No uncertainty was written.'}",
    )


def _line_key(pictured: Pictured, story: Story) -> str:
    own, group = '<span class="own">yellow</span>', '<span class="group">cyan</span>'
    if pictured.sights[0].outlines is None:
        return f"{group}, edges of the mean of the others (this image has no labels)."
    if story.compared_labels < 2:
        return f"{own}, this image's labels; no other image has any."
    return f"{own}, this image's labels; {group}, what most of the other label maps say after registration."


def _stage(row: Row) -> str:
    """What the affine stage did beside the deformation."""
    volume = float(np.linalg.det(row.entry.stage[:3, :3]))
    if np.allclose(row.entry.stage, np.eye(4)):
        return ""
    return f"An affine stage (volume x {number(volume)}) was applied before and is not part of these maps. "


def _appendix(story: Story) -> str:
    settings = escape(json.dumps(story.record.settings, indent=2))
    files = [("Checkpoint", story.record.checkpoint), *((entry.name, entry.path) for entry in story.record.entries)]
    paths = "".join(f"<li>{escape(name)}: {escape(str(path))}</li>" for name, path in files)
    return (
        "<h2>Files and settings</h2>\n"
        f'<ul class="facts">{paths}</ul>\n<details><summary>All settings</summary><pre>{settings}</pre></details>'
    )
