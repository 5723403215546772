"""What `bingo check` prints."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bingo_pl.checking.check import Checkup
from bingo_pl.checking.listing import Finding

COLOURS = {"error": "red", "warning": "yellow", "note": "cyan"}


def show(checkup: Checkup, copies: Path | None, console: Console) -> None:
    """Print a table of all findings, a row each, and a line that counts them."""
    if checkup.findings:
        table = Table("", "File", "What is wrong, why it matters, what to do", show_lines=True, expand=True)
        table.columns[1].ratio, table.columns[2].ratio = 1, 2
        table.columns[1].overflow = "fold"
        for finding in checkup.findings:
            severity = finding.problem.severity
            table.add_row(
                f"[bold {COLOURS[severity]}]{severity}[/]",
                escape(finding.where),
                _describe(finding, copies is not None),
            )
        console.print(table)
    counts = [_count(checkup.count(severity), severity) for severity in ("error", "warning", "note")]
    console.print(f"{_count(checkup.files, 'file')} looked at: {', '.join(counts)}.", highlight=False)
    if copies is not None:
        console.print(
            f"{_count(checkup.fixed, 'corrected copy', 'corrected copies')} in {escape(str(copies))}.", highlight=False
        )


def _describe(finding: Finding, fixing: bool) -> str:
    problem = finding.problem
    lines = [f"[bold]{escape(problem.what)}[/]", f"Why: {escape(problem.why)}", f"Do: {escape(problem.remedy)}"]
    if finding.change:
        lines.append(f"[green]Corrected in the copy: {escape(finding.change)}[/]")
    elif fixing and problem.fix:
        reasons = "its copy exists already, it lies outside of the checked folder, or its voxels cannot be used"
        lines.append(f"[magenta]Left for you: {reasons}[/]")
    elif fixing and problem.severity != "note":
        lines.append("[magenta]Left for you[/]")
    elif problem.fix:
        lines.append("[green]bingo check --fix can correct it[/]")
    return "\n".join(lines)


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
