"""Brackets and colons in names and paths are printed as they are, never taken for markup."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import bingo_pl
from bingo_pl import cli, data_modules
from bingo_pl.registration import apply as application
from bingo_pl.registration.apply import Applied
from bingo_pl.report import page

(SOURCE,), (DATA,) = bingo_pl.__path__, data_modules.__path__
OURS = {
    *("shown", "device"),  # escaped where they are made
    *("most", "kind", "images", "REFINE", "tried", "done", "status", "self.images", "len(trials) - len(waiting)"),
    *("SCORES", "severity", "colour", "COLOURS[severity]", "', '.join(counts)", "'x'.join(map(str, self.shape))"),
}
"""Numbers and words of our own."""
PRINTING = {"print", "Table", "add_row", "add_column", "status"}


def raw_values(file: Path) -> Iterator[str]:
    """Where a value enters a text with markup as it is: neither escaped nor formatted as a number."""
    for call in ast.walk(ast.parse(file.read_text())):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        plain = any(keyword.arg == "markup" for keyword in call.keywords)
        if name in PRINTING and not plain:
            for part in [*call.args, *(keyword.value for keyword in call.keywords)]:
                for value in part.values if isinstance(part, ast.JoinedStr) else ():
                    if isinstance(value, ast.FormattedValue) and not is_safe(value):
                        yield f"{file.name}:{value.lineno} {ast.unparse(value.value)}"


def is_safe(value: ast.FormattedValue) -> bool:
    called = value.value.func if isinstance(value.value, ast.Call) else None
    ours = isinstance(called, ast.Name) and called.id in ("escape", "len", "describe", "show_bytes", "_count")
    return value.format_spec is not None or ours or ast.unparse(value.value) in OURS


def test_no_value_is_printed_as_markup() -> None:
    files = [*Path(SOURCE).rglob("*.py"), *Path(DATA).rglob("*.py")]
    assert [line for file in files for line in raw_values(file)] == []


@pytest.mark.parametrize("name", ["a[/red]", "[bold]", "x :brain: y", "[/]"])
def test_a_path_is_printed_as_it_is(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / name / "report.html"
    monkeypatch.setattr(page, "write_report", lambda folder: folder / "report.html")
    monkeypatch.setattr(application, "apply", lambda *_: Applied(path, True))
    for given in (
        ["report", str(path.parent)],
        ["apply", "x", "--registration", ".", "--from", "a", "--to", "b", "--output", "x"],
    ):
        monkeypatch.setattr(sys, "argv", ["bingo", *given])
        with pytest.raises(SystemExit) as exit:
            cli.main()
        assert exit.value.code == 0
        assert capsys.readouterr().out == f"written: {path}\n"
