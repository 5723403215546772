"""The page of an atlas: its template, and everybody in it as pictures and figures that can be sorted.

Pictures change between two moments by a checkbox, so that no script is needed for it; a script sorts, and changes all.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from bingo_pl.errors import FileError
from bingo_pl.report import pictures as report_pictures
from bingo_pl.report.cohort import FIGURES, Atlas, Person, read_atlas
from bingo_pl.report.display import MEAN as TEMPLATE
from bingo_pl.report.display import Display
from bingo_pl.report.markup import document, image, picture
from bingo_pl.report.strips import AFFINE, END, MEAN, picture_file
from bingo_pl.report.summary import number
from bingo_pl.storage.regular import check_regular

MAX_PICTURED = 300
"""People of whom there are pictures on the page, outliers first; all are in the table."""
STYLE = """
body { max-width: 92em; }
.people thead { font-size: .85em; }
.tools { display: flex; flex-wrap: wrap; gap: .4em 1.5em; margin: .6em 0; } [hidden] { display: none !important; }
.flick { display: inline-block; cursor: pointer; } .flick input { accent-color: #5a7fa8; }
.pair { position: relative; display: block; background: #000; }
.pair img { display: block; max-width: 100%; height: auto; }
.pair .affine { position: absolute; inset: 0; opacity: 0; } input:checked ~ .pair .affine { opacity: 1; }
.state { font-size: .85em; color: #444; } .state::after { content: "at the end"; }
input:checked ~ .state::after { content: "affine maps alone"; }
.people button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0; padding: .2em;
  width: 100%; text-align: inherit; cursor: pointer; border-radius: 3px; } .people button:hover { background: #e8edf2; }
button:focus-visible, input:focus-visible { outline: 3px solid #1a5fb4; outline-offset: 1px; }
[aria-sort] button::after { content: " \\2195"; color: #777; }
[aria-sort=ascending] button::after { content: " \\2191"; }
[aria-sort=descending] button::after { content: " \\2193"; }
.people td, .people th { padding: .3em; }
.people .pair img { max-width: none; }
.people .who { min-width: 11em; max-width: 14em; overflow-wrap: anywhere; font-weight: 400; }
.people .who small { display: block; color: #444; } .people .flag { font-weight: 400; font-size: .9em; }
@media (max-width: 80em) {
  .people, .people thead, .people tbody, .people caption { display: block; }
  .people thead tr { display: flex; flex-wrap: wrap; gap: .2em .6em; } .people thead th { border: 1px solid #bbb;
    border-radius: 4px; padding: .1em .3em; } .people thead th.still { display: none; }
  .people tbody tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.5em, 1fr)); padding: .6em .2em;
    border-bottom: 2px solid #888; }
  .people tbody td, .people tbody th { border: 0; text-align: left; } .people .who, .people .seen { grid-column: 1 / -1;
    max-width: none; } .people .pair img { max-width: 100%; }
  .people tbody td[data-title]::before { content: attr(data-title) ": "; color: #555; font-size: .85em; } }
@media print { .tools { display: none; } }
""".strip()
SCRIPT = """
"use strict";
const table = document.querySelector("table.people"), heads = [...table.tHead.rows[0].cells];
const told = document.getElementById("sorted"), boxes = [...document.querySelectorAll(".flick input")];
function sort(head) {
  const now = head.getAttribute("aria-sort"), column = heads.indexOf(head);
  const order = now === "none" ? head.dataset.first : now === "ascending" ? "descending" : "ascending";
  heads.filter(other => other.hasAttribute("aria-sort")).forEach(other => other.setAttribute("aria-sort", "none"));
  head.setAttribute("aria-sort", order);
  const value = row => parseFloat(row.cells[column].dataset.value), sign = order === "ascending" ? 1 : -1;
  const rows = [...table.tBodies[0].rows].sort((first, second) => {
    const a = value(first), b = value(second);
    return isNaN(a) || isNaN(b) ? isNaN(a) - isNaN(b) : sign * (a - b);
  });
  table.tBodies[0].append(...rows);
  told.textContent = `Sorted by ${head.textContent.trim()}, ${order}.`;
}
for (const head of heads) head.querySelector("button")?.addEventListener("click", () => sort(head));
document.querySelector(".tools").hidden = false;
const show = shown => boxes.forEach(box => { box.checked = shown; });
const all = document.getElementById("all"), flicker = document.getElementById("flicker");
let timer = 0;
all.addEventListener("change", () => show(all.checked));
flicker.addEventListener("change", () => {
  clearInterval(timer);
  if (flicker.checked) timer = setInterval(() => { all.checked = !all.checked; show(all.checked); }, 800);
});
""".strip()


def cohort_page(folder: Path) -> str:
    """The page of what ``bingo atlas`` wrote, as HTML; only what is in the folder is read.

    Raises:
        BingoError: it is no finished atlas of people, or a file of it is missing or damaged.
    """
    atlas = read_atlas(folder)
    count = len(atlas.people)
    parts = [_verdict(atlas), _figures(atlas), _facts(atlas), _template(atlas), _flicker(atlas), _people(atlas)]
    return document(f"Atlas of {count} {'people' if count > 1 else 'person'}", parts, STYLE, SCRIPT)


def _verdict(atlas: Atlas) -> str:
    outliers = atlas.outliers
    basis = (
        "Judged by: agreement, repeatability, overlap of labels where there are some, each against the group's median, "
        "and folding. Whether anatomy lies on anatomy, only the pictures show."
    )
    if not outliers:
        return f'<div class="verdict good"><strong>Nobody stands out.</strong> {basis}</div>'
    ranked = enumerate(outliers, start=1)  # they are the first of all
    items = "".join(f"<li><b>{_link(person, rank)}</b> {_listed(person)}.</li>" for rank, person in ranked)
    head = f"Look closer: {len(outliers)} of {len(atlas.people)} people."
    return f'<div class="verdict suspect"><strong>{head}</strong> <ul>{items}</ul>{basis}</div>'


def _figures(atlas: Atlas) -> str:
    tree = atlas.tree
    boxes = {
        "people": str(len(atlas.people)),
        "images": str(len(atlas.record.entries)),
        "sharpness of the template (per mm), affine maps &rarr; end": _change(
            tree, "sharpness_affine_per_mm", "sharpness_per_mm"
        ),
        "Dice with the most probable labels": _change(tree, "dice_affine", "dice"),
        "Dice with all others' labels": _change(tree, "pairwise_dice_affine", "pairwise_dice"),
        "mean displacement of the group, at most": f"{tree['mean_displacement_mm']:.1g} mm",
    }
    added = sum(person.added for person in atlas.people)
    if added:
        boxes["came to the finished atlas"] = str(added)
    return f'<dl class="figures">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for k, v in boxes.items())}</dl>'


def _change(tree: Any, before: str, after: str) -> str:
    if tree.get(before) is None or tree.get(after) is None:
        return "not measured"
    return f"{float(tree[before]):.3f} &rarr; {float(tree[after]):.3f}"


def _facts(atlas: Atlas) -> str:
    record = atlas.record
    modalities = ", ".join(sorted({entry.modality for entry in record.entries}))
    return (
        f'<p class="facts">Modalities: {escape(modalities)}. Grid: {escape(str(record.group))}. Last stage: '
        f"{escape(str(atlas.tree['transform']))}. Checkpoint: {escape(record.checkpoint.name)} (SHA-256 "
        f"{escape(record.checkpoint_sha256[:12])}...). bingo_pl {escape(record.version)}. All figures: images.tsv.</p>"
    )


def _template(atlas: Atlas) -> str:
    record = atlas.record
    display = Display.of(record.folder, record.group)
    planes = display.foreground()[1]
    files = sorted(path.name for path in (record.folder / TEMPLATE).parent.glob("*.nii.gz"))
    shown = [file for file in files if file != Path(TEMPLATE).name]
    templates = {file.removesuffix(".nii.gz"): display.read(f"template/{file}") for file in shown}
    labelled = (record.folder / "labels.nii.gz").exists()
    drawing = report_pictures.draw_template(
        planes,
        display.grid,
        templates or {"mean": display.read(TEMPLATE)},
        display.read("coverage.nii.gz"),
        display.read("labels.nii.gz", nearest=True).round() if labelled else None,
    )
    places = "; ".join(report_pictures.place(plane, display.grid) for plane in planes)
    caption = (
        f"The mean of each modality's images, robust against outliers, and how many images show a voxel ({places}). "
        f"{'Cyan: the most probable labels. ' if labelled else ''}"
        "R, L, A, P, S, I: right, left, front, back, top and bottom of the patient."
    )
    return f"<h2>Template</h2>\n{picture(drawing, f'Template and coverage: {places}', caption)}"


def _flicker(atlas: Atlas) -> str:
    pair = _pair(atlas.record.folder, MEAN, "the template")
    return (
        "<p>Mean of all images, by affine maps alone and at the end: where people lie on each other it is sharp. The "
        f"box changes from one to the other.</p>\n{pair}"
    )


def _people(atlas: Atlas) -> str:
    columns = [figure for figure in FIGURES if any(figure.key in person.figures for person in atlas.people)]
    caption = (
        "Outliers first, then by rising agreement. A heading sorts by its column, the worst first, and again the other "
        "way. Agreement: with all others, 1 at most. Repeatability: by how much a map moves when it is disturbed a "
        "little, an estimate of the error from below. Displacement: without the affine map. A dash: not measured."
    )
    if len(atlas.people) > MAX_PICTURED:
        caption += f" Pictures are of the first {MAX_PICTURED} of {len(atlas.people)} people."
    first = {"more": "ascending", "less": "descending", "": "descending"}
    heads = [_head("rank", "ascending", "ascending"), '<th scope="col" class="text still">person</th>']
    heads.append('<th scope="col" class="text still">pictures</th>')
    heads += [_head(figure.title, first[figure.better]) for figure in columns]
    body = "\n".join(
        _row(rank, person, [(figure.key, figure.title) for figure in columns], atlas.record.folder)
        for rank, person in enumerate(atlas.people, start=1)
    )
    return (
        '<h2>Everybody</h2>\n<div class="tools" role="group" aria-label="All pictures" hidden>'
        '<label><input type="checkbox" id="all"> all by affine maps alone</label>'
        '<label><input type="checkbox" id="flicker"> all in turn</label></div>\n'
        '<p id="sorted" role="status" class="facts"></p>\n'
        f'<div class="scroll"><table class="people"><caption>{caption}</caption>\n'
        f"<thead><tr>{''.join(heads)}</tr></thead>\n"
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _head(title: str, first: str, now: str = "none") -> str:
    return f'<th scope="col" aria-sort="{now}" data-first="{first}"><button type="button">{escape(title)}</button></th>'


def _row(rank: int, person: Person, columns: Sequence[tuple[str, str]], folder: Path) -> str:
    files = "".join(f"<small>{escape(Path(str(one['path'])).name)}</small>" for one in person.images)
    files += "<small>came to the finished atlas</small>" if person.added else ""
    flag = f'<span class="flag">{_listed(person)}</span>' if person.doubts else ""
    pairs = ""
    if rank <= MAX_PICTURED:
        pairs = "".join(_pair(folder, str(one["name"]), f"{person.name}, {one['modality']}") for one in person.images)
    cells = "".join(_cell(person.figures.get(key), title) for key, title in columns)
    kind = ' class="suspect"' if person.doubts else ""
    return (
        f'<tr{kind} id="person-{rank}"><td data-title="rank" data-value="{rank}">{rank}</td>'
        f'<th scope="row" class="text who"><b>{escape(person.name)}</b>{files}{flag}</th>'
        f'<td class="seen text">{pairs}</td>{cells}</tr>'
    )


def _cell(value: float | None, title: str) -> str:
    if value is None:
        return f'<td data-title="{escape(title)}" data-value="">&ndash;</td>'
    return f'<td data-title="{escape(title)}" data-value="{value!r}">{number(value)}</td>'


@dataclass(frozen=True)
class _Strip:
    webp: bytes
    width: int


def _pair(folder: Path, name: str, what: str) -> str:
    """A picture at the end, and by affine maps alone where its box is checked."""
    images = [
        image(_strip(picture_file(folder, moment, name)), f"{what} {when}", moment)
        for moment, when in ((END, "at the end"), (AFFINE, "by its affine map alone"))
    ]
    label = escape(f"{what}: by affine maps alone")
    return (
        f'<label class="flick"><input type="checkbox" aria-label="{label}"> <span class="state"></span>'
        f'<span class="pair">{"".join(images)}</span></label>'
    )


def _strip(path: Path) -> _Strip:
    """A picture as `bingo_pl.report.strips` wrote it."""
    try:
        check_regular(path)
        webp = path.read_bytes()
        with Image.open(io.BytesIO(webp), formats=["WEBP"]) as opened:
            return _Strip(webp, opened.width)
    except (OSError, Image.DecompressionBombError) as error:
        raise FileError(
            f"{path}: is missing or damaged ({type(error).__name__})", "Copy the atlas again, whole, or make it again"
        ) from error


def _link(person: Person, rank: int) -> str:
    return f'<a href="#person-{rank}">{escape(person.name)}</a>'


def _listed(person: Person) -> str:
    return escape("; ".join(person.doubts))
