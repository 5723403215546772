"""Plain English: words that we no longer use, and help texts that begin with what they name."""

import ast
import dataclasses
import inspect
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from bingo_pl import config
from bingo_pl.cli import app

ROOT = Path(__file__).parent.parent
INSTEAD = {
    r"\bmend(s|ed|ing|able)?\b": "fix, correct",
    r"\banew\b": "again",
    r"\bto\s+the\s+bit\b": "bit-exact",
    r"\bg(o|oes|one|oing)\s+on\s+(with|from|where|by)\b": "resume, continue",
    r"\baccus(e|es|ed|ation|ations)\b": "flag",
    r"\b(is|are|was|were|be)\s+told\b(?! apart)": "reported",
    r"(?<!ground )(?<![\w./`\"'-])truth\b(?![`=_:(.\w]*[=`(:]|\.\w|`|\"|'| alone| of)": "ground truth",
}
"""Patterns of words that we no longer use, and what we write instead."""
EXEMPT = {"test_language.py", "moved.py"}
"""They name old words."""
SOURCES = [
    path
    for folder in ("src", "data_modules", "benchmarks", "tests", "experiments")
    for path in sorted((ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".yaml") and path.name not in EXEMPT
]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
NO_NOUN = re.compile(
    r"(?:Of|In|At|By|With|Without|From|Only|Instead|Where|How|What|Between|A|An|The|Adam's|Is|It|They|Let|Keep|Upload|\W)\b"
)
"""Beginnings of a text that leave open what it is about."""
COMPLETION = ("install_completion", "show_completion")
"""Options that typer adds, with texts of its own."""
COMMANDS = {"Report", "Replace", "Resume", "Write", "Show", "Take", "Treat", "Search", "Install"}
"""First words of a switch's help, which says what the command then does."""


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_words_that_we_no_longer_use(path: Path) -> None:
    for line, text in _prose(path):
        for pattern, instead in INSTEAD.items():
            if found := re.search(pattern, text, re.IGNORECASE):
                place = line + text[: found.start()].count("\n")
                pytest.fail(f"{path}:{place}: '{found.group()}': write {instead}")


def test_the_pattern_finds_what_it_should() -> None:
    found = [re.search(pattern, text) for pattern, text in zip(INSTEAD, EXAMPLES, strict=True)]
    assert all(found)
    assert not any(re.search(pattern, text) for pattern in INSTEAD for text in FINE)


EXAMPLES = ["mended", "drawn anew", "the same to the\nbit", "goes on from", "accused", "it is told", "without truth"]
FINE = ["recommend", "again", "bit-exact", "what goes on top", "are told apart", "the ground truth", "weights.truth=1"]


def _prose(path: Path) -> Iterator[tuple[int, str]]:
    """The texts of a file, each with the number of its first line: comments and strings of Python, else everything."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        yield 1, re.sub(r"^(?!\s*#).*?(#|$)", "", text, flags=re.MULTILINE) if path.suffix == ".yaml" else text
        return
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT) and " " in token.string:
            yield token.start[0], token.string


def _parameters(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    for parameter in command.params:
        yield f"{name} {parameter.name}", parameter
    for inner, each in getattr(command, "commands", {}).items():
        yield from _parameters(each, f"{name} {inner}")


def test_help_begins_with_a_noun_or_says_what_a_switch_does() -> None:
    for place, parameter in _parameters(typer.main.get_command(app), "bingo"):
        text = str(getattr(parameter, "help", ""))
        switch = bool(getattr(parameter, "is_flag", False))
        first = text.split()[0]
        assert not NO_NOUN.match(text), f"{place}: {text}"
        assert (first in COMMANDS) == switch, f"{place}: {text}"
        assert not text.endswith(".") or parameter.name in COMPLETION, f"{place}: {text}"


def test_settings_are_documented_beginning_with_a_noun() -> None:
    documented = 0
    for module in (config.data, config.experiment, config.method, config.training):
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.ClassDef) and dataclasses.is_dataclass(getattr(module, node.name)):
                for field, below in zip(node.body, node.body[1:], strict=False):
                    if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                        section = node.name == "Config" and field.target.id in vars(config.Config())
                        text = _string(below)
                        nested = field.value is not None and "field(default_factory=" in ast.unparse(field.value)
                        assert text or (section and nested), f"{node.name}.{field.target.id}: not documented"
                        assert not text or not NO_NOUN.match(text), f"{node.name}.{field.target.id}: {text}"
                        documented += bool(text)
    assert documented > 60


def _string(node: ast.stmt) -> str:
    constant = node.value if isinstance(node, ast.Expr) else None
    return str(constant.value) if isinstance(constant, ast.Constant) else ""
