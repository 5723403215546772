"""One page by which a person judges a registration: ``report.html``. The command ``bingo report``.

It needs no other file and no network; every text of a file is escaped.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

import numpy as np

from bingo_pl.atomic import check_place, replacing
from bingo_pl.files.scans import Scan
from bingo_pl.report import pictures as report_pictures
from bingo_pl.report.data import Pictured, Row, Story, read_story
from bingo_pl.report.pictures import Drawing, Scales
from bingo_pl.report.summary import anchor, facts, figures, number, suspicions, table, verdict

FILE = "report.html"
STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff; margin: 1.5em auto;
  max-width: 76em; padding: 0 1.2em; }
h1 { font-size: 1.6em; margin: 0 0 .5em; } h2 { font-size: 1.25em; margin: 1.8em 0 .4em; border-top: 1px solid #bbb;
  padding-top: .8em; }
.verdict { border-left: .5em solid #5a6b7b; background: #f1f4f7; padding: .7em 1em; }
.verdict.good { border-color: #1b7f3b; background: #eef7f0; }
.verdict.suspect { border-color: #c4320a; background: #fdf0ea; }
.verdict ul { margin: .3em 0; padding-left: 1.3em; }
.figures { display: flex; flex-wrap: wrap; gap: .6em; margin: 1em 0; }
.figures div { border: 1px solid #ccc; border-radius: 4px; padding: .4em .9em; }
.figures dt { font-size: .85em; color: #555; } .figures dd { margin: 0; font-size: 1.35em; font-weight: 600; }
p, li { max-width: 68em; } .facts { color: #444; font-size: .92em; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .4em; color: #444; }
th, td { padding: .3em .7em; text-align: right; border-bottom: 1px solid #ddd; }
thead th { border-bottom: 2px solid #444; vertical-align: bottom; }
th.text, td.text { text-align: left; } td.text { overflow-wrap: anywhere; }
tr.suspect { background: #fdf0ea; } .flag { color: #a32606; font-weight: 600; }
.bar { display: inline-block; width: 5em; height: .7em; background: #e4e4e4; margin-left: .5em; }
.bar i { display: block; height: 100%; background: #5a7fa8; } tr.suspect .bar i { background: #c4320a; }
figure { margin: .8em 0; } figure img { max-width: 100%; height: auto; }
figcaption { font-size: .9em; color: #444; max-width: 70em; }
.own, .group { background: #333; padding: 0 .3em; } .own { color: #ffd60a; } .group { color: #00e0ff; }
pre { font-size: .8em; overflow-x: auto; }
@media print { body { max-width: none; margin: 0; font-size: 10pt; } figure, tr, .verdict { break-inside: avoid; }
  h2 { break-after: avoid; } * { print-color-adjust: exact; }
  th, td { padding: .2em .4em; } figure img { max-height: 105mm; width: auto; } @page { margin: 12mm; } }
""".strip()


def write_report(folder: Path, scans: Sequence[Scan] = ()) -> Path:
    """Write ``report.html`` into a folder of ``bingo register``, whole or not at all.

    Reads only what is in the folder and the original files that ``registration.json`` names, an image at a time.

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
    story = read_story(folder, scans)
    with replacing(path) as temporary:
        temporary.write_text(_page(story), encoding="utf-8")
    return path


def _page(story: Story) -> str:
    count = len(story.rows)
    title = f"Registration of {count} image{'s' if count > 1 else ''}"
    scales = Scales.of(story)
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{title}</title><style>\n{STYLE}\n</style></head>",
        f"<body>\n<main>\n<h1>{title}</h1>",
        verdict(story),
        figures(story),
        facts(story),
        table(story),
        _means(story),
        *(_section(row, row.pictured, story, scales) for row in story.rows if row.pictured is not None),
        _appendix(story),
        "</main>\n</body>\n</html>\n",
    ]
    return "\n".join(part for part in parts if part)


def _means(story: Story) -> str:
    places = "; ".join(report_pictures.place(plane, story.grid) for plane in story.planes)
    picture = _picture(
        report_pictures.draw_means(story),
        f"Mean of all images before and after registration: {places}",
        "The mean of all images, intensities from 0 to 1. Where images lie on each other it is sharp. "
        "R, L, A, P, S, I: right, left, front, back, top and bottom of the patient.",
    )
    return f"<h2>The group's mean</h2>\n{picture}"


def _section(row: Row, pictured: Pictured, story: Story, scales: Scales) -> str:
    """The pictures of one image."""
    name = escape(row.entry.name)
    found = suspicions(row)
    warning = f'<p class="flag">Look closely: {"; ".join(found)}.</p>' if found else ""
    places = "; ".join(report_pictures.place(sight.plane, story.grid) for sight in pictured.sights)
    template = "the decoder's reconstruction of it" if pictured.reconstructed else "the mean: nothing was reconstructed"
    comparison = _picture(
        report_pictures.draw_comparison(pictured.sights, story.grid),
        f"{row.entry.name}: checkerboards with the template and contours, before and after registration ({places})",
        f"Checkerboard: this image in turn with the template, {template}. Contours: {_contour_key(pictured, story)}",
    )
    deformation = _deformation(row, pictured, pictured.moved_mm, story, scales, places) if pictured.moved_mm else ""
    content = f"<h2>{name}</h2>\n{warning}{comparison}\n{deformation}"
    return f'<section id="{anchor(row)}">{content}</section>'


def _deformation(
    row: Row, pictured: Pictured, moved_mm: tuple[float, float], story: Story, scales: Scales, places: str
) -> str:
    """The maps of an image that is deformed."""
    mean, largest = moved_mm
    uncertain = pictured.sights[0].uncertainty is not None
    maps = f"deformation grid, log-Jacobian map{', uncertainty map in mm' if uncertain else ''}"
    return _picture(
        report_pictures.draw_deformation(pictured.sights, story.grid, scales),
        f"{row.entry.name}: {maps} ({places})",
        f"The deformation moves this image by {number(mean)} mm on average, {number(largest)} mm at most, and folds "
        f"in {number(row.entry.folding_percent)} % of the voxels. {_stage(row)}The grid lies over the image before "
        f"registration. Volume change: red where this image is larger than the group, blue where it is smaller. Fine "
        f"lines: its edges after registration. {'' if uncertain else 'No uncertainty was written.'}",
    )


def _contour_key(pictured: Pictured, story: Story) -> str:
    own, group = '<span class="own">yellow</span>', '<span class="group">cyan</span>'
    if pictured.sights[0].outlines is None:
        return f"{group}, edges of the mean of the other images after registration (this image has no labels)."
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


def _picture(drawing: Drawing, alternative: str, caption: str) -> str:
    """A figure; the caption is HTML, the alternative text is not."""
    data = base64.b64encode(drawing.webp).decode()
    return (
        f'<figure><img src="data:image/webp;base64,{data}" width="{drawing.width}" alt="{escape(alternative)}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
