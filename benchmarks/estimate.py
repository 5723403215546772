"""What ``bingo estimate`` says of a registration by default against what ``bingo register`` then takes.

``python -m benchmarks.estimate group.csv other.csv``. See README.md.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console

from bingo_pl import api
from bingo_pl.registration.forecast import Forecast, Pieces

console = Console()
MIB, KIB = 2**20, 2**10


def main(
    manifests: Annotated[list[Path], typer.Argument(help="Groups: CSV files with the columns modality,image")],
    output: Annotated[Path | None, typer.Option(help="CSV file for the table")] = None,
) -> None:
    """Predict, register, and compare; a row a group."""
    rows = []
    for manifest in manifests:
        predicted = api.estimate(manifest)
        assert isinstance(predicted, Forecast)
        with tempfile.TemporaryDirectory() as folder:
            rows.append(
                {"group": str(manifest), "images": predicted.images, **measured(manifest, Path(folder) / "out")}
            )
        for name, course in (("least", predicted.least), ("most", predicted.most)):
            rows[-1] |= {f"{name} {what}": value for what, value in figures(course).items()}
        console.print(pd.DataFrame(rows).T.to_string())
    if output:
        pd.DataFrame(rows).to_csv(output, index=False)


def figures(course: Pieces) -> dict[str, float]:
    """Seconds and MiB."""
    total = course.total
    return {"processor": total.processor, "wall": total.wall, "memory": course.memory_bytes / MIB}


def measured(manifest: Path, out: Path) -> dict[str, float]:
    """Of ``bingo register`` in a process of its own."""
    command = [sys.executable, "-m", "bingo_pl", "register", "--manifest", str(manifest), "--output", str(out)]
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, 1):
        raise typer.Exit(process.returncode)
    wall = time.perf_counter() - begun
    return {"processor": usage.ru_utime + usage.ru_stime, "wall": wall, "memory": usage.ru_maxrss * KIB / MIB}


if __name__ == "__main__":
    typer.run(main)
