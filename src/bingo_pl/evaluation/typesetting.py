"""One table in Markdown, LaTeX, HTML and on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rich import box
from rich.markup import escape as markup_free
from rich.table import Table
from rich.text import Text

LATEX = str.maketrans(
    {char: rf"\{char}" for char in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": "$<$", ">": "$>$"}
    | {"±": r"$\pm$", "†": r"$\dagger$", "*": "$*$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--"}  # noqa: RUF001
)
MARKDOWN = str.maketrans({char: rf"\{char}" for char in r"\|*`"})
STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 96em; padding: 0 1em; }
h2 { font-size: 1.2em; margin-top: 2em; } p { max-width: 60em; opacity: 0.8; }
div { overflow-x: auto; }
table { border-collapse: collapse; border-block: 2px solid; font-variant-numeric: tabular-nums; }
th, td { padding: 0.3em 0.8em; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid; font-weight: 600; } tbody tr:hover { background: #8882; }
th.text, td.text { text-align: left; }
""".strip()


@dataclass(frozen=True)
class Cell:
    """One entry of a table."""

    text: str
    marks: str = ""
    """Raised behind the text."""
    bold: bool = False


@dataclass(frozen=True)
class Grid:
    """A table, in plain text."""

    title: str
    columns: dict[str, bool]
    """Heading of each column, and whether it holds numbers, which are set to the right."""
    rows: Sequence[Sequence[Cell]]
    caption: str

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), "every row has a cell in each column"


def markdown(grid: Grid) -> str:
    """A section: heading, table, caption. GitHub's flavour, aligned so that it reads as plain text too."""

    def cell(entry: Cell) -> str:
        text = entry.text.translate(MARKDOWN)
        return (f"**{text}**" if entry.bold else text) + entry.marks.translate(MARKDOWN)

    lines = [
        [heading.translate(MARKDOWN) for heading in grid.columns],
        *([cell(entry) for entry in row] for row in grid.rows),
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    numeric = list(grid.columns.values())
    rule = ["-" * (width - 1) + ":" if right else "-" * width for width, right in zip(widths, numeric, strict=True)]
    aligned = [
        [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ]
        for line in lines
    ]
    table = [f"| {' | '.join(line)} |" for line in [aligned[0], rule, *aligned[1:]]]
    return "\n".join([f"## {grid.title.translate(MARKDOWN)}", "", *table, "", grid.caption.translate(MARKDOWN), ""])


def latex(grid: Grid) -> str:
    r"""A ``table*`` as wide as the text, to be read by ``\input``."""

    def cell(entry: Cell) -> str:
        text = entry.text.translate(LATEX)
        raised = rf"\textsuperscript{{{entry.marks.translate(LATEX)}}}" if entry.marks else ""
        return (rf"\textbf{{{text}}}" if entry.bold else text) + raised

    def heading(text: str) -> str:
        unit_below = text.translate(LATEX).replace(" (", r" \\ (")
        return rf"\shortstack[r]{{{unit_below}}}"

    lines = [[heading(text) for text in grid.columns], *([cell(entry) for entry in row] for row in grid.rows)]
    head, *body = [rf"    {' & '.join(line)} \\" for line in lines]
    alignment = "".join("r" if numeric else "l" for numeric in grid.columns.values())
    return "\n".join(
        [
            r"% needs \usepackage{booktabs,graphicx}",
            r"\begin{table*}",
            rf"  \caption{{{grid.title.translate(LATEX)}}}",
            r"  \setlength{\tabcolsep}{3pt}",
            rf"  \resizebox{{\textwidth}}{{!}}{{\begin{{tabular}}{{{alignment}}}",
            *[r"    \toprule", head, r"    \midrule", *body, r"    \bottomrule"],
            r"  \end{tabular}}",
            rf"  \par\smallskip\footnotesize {grid.caption.translate(LATEX)}",
            r"\end{table*}",
            "",
        ]
    )


def html(grids: Sequence[Grid]) -> str:
    """A page of tables that needs no other file; the first one's title is the page's."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            f'<head><meta charset="utf-8"><title>{escape(grids[0].title)}</title><style>\n{STYLE}\n</style></head>',
            "<body>",
            *(_html_section(grid) for grid in grids),
            "</body>\n</html>\n",
        ]
    )


def _html_section(grid: Grid) -> str:
    def cell(tag: str, numeric: bool, entry: Cell) -> str:
        text = escape(entry.text)
        raised = f"<sup>{escape(entry.marks)}</sup>" if entry.marks else ""
        kind = "" if numeric else ' class="text"'
        return f"<{tag}{kind}>{f'<b>{text}</b>' if entry.bold else text}{raised}</{tag}>"

    def row(tag: str, entries: Sequence[Cell]) -> str:
        cells = zip(grid.columns.values(), entries, strict=True)
        return f"<tr>{''.join(cell(tag, numeric, entry) for numeric, entry in cells)}</tr>"

    head = row("th", [Cell(heading) for heading in grid.columns])
    body = "\n".join(row("td", entries) for entries in grid.rows)
    return (
        f"<h2>{escape(grid.title)}</h2>\n<div><table>\n<thead>\n{head}\n</thead>\n<tbody>\n{body}\n</tbody>\n"
        f"</table></div>\n<p>{escape(grid.caption)}</p>"
    )


def screen(grid: Grid) -> Table:
    """For a terminal, which is narrow: of a numeric cell only the first word, the number without its spread."""
    table = Table(
        title=markup_free(grid.title),
        caption=markup_free(grid.caption),
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for heading, numeric in grid.columns.items():
        table.add_column(markup_free(heading), justify="right" if numeric else "left", no_wrap=not numeric)
    for row in grid.rows:
        cells = zip(grid.columns.values(), row, strict=True)
        texts = [(entry.text.split()[0] if numeric else entry.text) + entry.marks for numeric, entry in cells]
        table.add_row(*(Text(t, style="bold" if e.bold else "") for t, e in zip(texts, row, strict=True)))
    return table
