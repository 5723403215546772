"""The frame of a page that needs no other file and no network: its style, its pictures."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from typing import Protocol

STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.45 system-ui, "DejaVu Sans", sans-serif; color: #1a1a1a; background: #fff; margin: 1.5em auto;
  max-width: 76em; padding: 0 1.2em; }
h1 { font-size: 1.6em; margin: 0 0 .5em; } h2 { font-size: 1.25em; margin: 1.8em 0 .4em; border-top: 1px solid #bbb;
  padding-top: .8em; }
.verdict { border-left: .5em solid #5a6b7b; background: #f1f4f7; padding: .7em 1em; }
.verdict.good { border-color: #1b7f3b; background: #eef7f0; }
.verdict.suspect { border-color: #b56a00; background: #fff5e0; }
.verdict.failed { border-color: #c4320a; background: #fdeae6; }
.verdict .word { font-size: 1.5em; font-weight: 700; margin: 0 0 .1em; }
.good .word { color: #14602c; } .suspect .word { color: #7a4700; } .failed .word { color: #9b2406; }
.verdict p { margin: .3em 0; } .verdict small { color: #444; }
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
th.text, td.text { text-align: left; } td.text { overflow-wrap: anywhere; min-width: 7em; }
tr.suspect { background: #fdf0ea; } .flag { color: #a32606; font-weight: 600; }
.bar { display: inline-block; width: 5em; height: .7em; background: #e4e4e4; margin-left: .5em; }
.bar i { display: block; height: 100%; background: #5a7fa8; } tr.suspect .bar i { background: #c4320a; }
figure { margin: .8em 0; } figure img { max-width: 100%; height: auto; }
figcaption { font-size: .9em; color: #444; max-width: 70em; }
span.own, span.group { background: #333; padding: 0 .3em; } span.own { color: #ffd60a; } span.group { color: #00e0ff; }
pre { font-size: .8em; overflow-x: auto; }
@media print { body { max-width: none; margin: 0; font-size: 10pt; } figure, tr, .verdict { break-inside: avoid; }
  h2 { break-after: avoid; } * { print-color-adjust: exact; }
  th, td { padding: .2em .4em; } figure img { max-height: 105mm; width: auto; } @page { margin: 12mm; } }
""".strip()


class Picture(Protocol):
    """A picture as a file."""

    @property
    def webp(self) -> bytes: ...
    @property
    def width(self) -> int:
        """CSS pixels."""
        ...


def document(title: str, parts: Sequence[str], style: str = "", script: str = "") -> str:
    """A whole page; browsers load nothing for it and run nothing but its script.

    Args:
        title: plain text.
        parts: HTML; empty ones are left out.
        style: beyond `STYLE`.
        script: JavaScript, run when all is there.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<title>{escape(title)}</title><style>\n{STYLE}\n{style}</style></head>",
        f"<body>\n<main>\n<h1>{escape(title)}</h1>",
        *parts,
        "</main>",
        f"<script>{script}</script>" if script else "",
        "</body>\n</html>\n",
    ]
    return "\n".join(line for line in lines if line)


def image(shown: Picture, alternative: str, kind: str = "") -> str:
    """An image; the alternative text is no HTML."""
    data = base64.b64encode(shown.webp).decode()
    named = f' class="{kind}"' if kind else ""
    return f'<img{named} src="data:image/webp;base64,{data}" width="{shown.width}" alt="{escape(alternative)}">'


def picture(shown: Picture, alternative: str, caption: str) -> str:
    """A figure; the caption is HTML, the alternative text is not."""
    return f"<figure>{image(shown, alternative)}<figcaption>{caption}</figcaption></figure>"
