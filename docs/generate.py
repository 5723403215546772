"""The pages of commands, settings and tutorials, from the program and the scripts; a hook of MkDocs adds them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import typer
from typer.cli import get_docs_for_click

from bingo_pl import cli
from bingo_pl.config import Config

TUTORIALS = Path(__file__).parent / "tutorials"

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by MkDocs with the files of the site."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> dict[str, str]:
    """Markdown by its path in the site."""
    scripts = {f"tutorials/{path.stem}.md": tutorial(path) for path in sorted(TUTORIALS.glob("*.py"))}
    return {"reference/commands.md": commands(), "reference/settings.md": settings()} | scripts


def tutorial(path: Path) -> str:
    """A script in jupytext's percent format as Markdown."""
    _, *cells = re.split(r"^# %%", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    parts = [f"*[{path.name}]({path.name}) runs as it is, or as a notebook: `jupytext --to ipynb {path.name}`.*"]
    for cell in cells:
        kind, _, body = cell.partition("\n")
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", body.strip(), flags=re.MULTILINE))
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    title = parts.pop(1)
    heading, _, rest = title.partition("\n")
    return "\n\n".join([heading, rest.strip(), *parts]) + "\n"


def commands() -> str:
    """Every command with its arguments and options."""
    group: Any = typer.main.get_command(cli.app)
    parts = [f"# Commands\n\n`bingo COMMAND -h` shows the same in a terminal. {cli.EXIT_STATUS}"]
    for name, command in group.commands.items():
        context = command.make_context(name, [], resilient_parsing=True)
        text = get_docs_for_click(obj=command, ctx=context, indent=1, name=f"bingo {name}")
        parts.append(text.replace("# `bingo", "# bingo").replace("`\n\n", "\n\n", 1).strip())
    return "\n\n".join(parts) + "\n"


def settings() -> str:
    """Every setting of an experiment with its default."""
    parts = [
        "# Settings",
        "Of `bingo train` and its like: in an experiment's YAML file, or as `key=value` on the command line, e.g. "
        "`trainer.epochs=10`. Lists are written `[1,2,3]`, nothing as `null`.",
        *(f"## {title}\n\n{doc}\n\n" + "\n".join(rows) for title, doc, rows in _sections(Config, "")),
    ]
    return "\n\n".join(parts) + "\n"


def _sections(kind: type, prefix: str) -> Iterator[tuple[str, str, list[str]]]:
    """Title, text and table of a dataclass of settings, then of those in it."""
    docs, hints = field_docstrings(kind), get_type_hints(kind)
    rows, inner = ["| setting | | default |", "|---|---|---|"], []
    for field in dataclasses.fields(kind):
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(hints[field.name]):
            inner.append((hints[field.name], f"{name}."))
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        rows.append(f"| `{name}` | {_cell(docs[field.name])} | {_cell(_shown(default))} |")
    yield prefix.rstrip(".") or "Of the whole run", inspect.getdoc(kind) or "", rows
    for other, name in inner:
        yield from _sections(other, name)


def field_docstrings(kind: type) -> Mapping[str, str]:
    """The string below each field of a dataclass, by the field's name."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    name = ""
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            found[name] = str(node.value.value)
    return found


def _shown(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return f"`[{', '.join(map(str, value))}]`"
    return "`null`" if value is None else "" if value in ("", {}) else f"`{value}`".lower()


def _cell(text: str) -> str:
    """Text for a cell of a table."""
    return re.sub(r"\s+", " ", str(text)).replace("|", r"\|")
