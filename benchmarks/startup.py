"""What starting costs: processor seconds of new processes, medians of ten, in pairs with another checkout's Python.

    python -m benchmarks.startup [OTHER_PYTHON] [--rounds 10]

OTHER_PYTHON is the interpreter of an environment in which another version is installed, e.g. that of a second working
tree. The two take turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import nibabel as nib
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from bingo_pl import cli, register

console = Console()


def main(
    other: Annotated[str | None, typer.Argument(help="Python of another environment")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Starts of each")] = 10,
) -> None:
    """Time each start in turns with the other Python's."""
    with TemporaryDirectory() as folder:
        starts = cases(Path(folder))
        pythons = [sys.executable, *([other] if other else [])]
        table = Table("start", *(f"CPU s, {name}" for name in ("this", "other")[: len(pythons)]))
        for name, arguments in starts.items():
            seconds = [[cpu_seconds(python, arguments) for python in pythons] for _ in range(rounds + 1)]
            medians = [statistics.median(times) for times in zip(*seconds[1:], strict=True)]  # the first fills caches
            table.add_row(name, *(f"{median:.2f}" for median in medians))
    console.print(table)


def cases(folder: Path) -> dict[str, list[str]]:
    """Arguments of Python, by what they start."""
    rng = np.random.default_rng(0)
    x, y = np.mgrid[:48, :48] - 24
    for name in "ab":
        voxels = (np.hypot(x, y) < 15) * (1 + rng.random((48, 48)))
        nib.save(nib.Nifti1Image(voxels[..., None].astype(np.float32), np.eye(4)), folder / f"{name}.nii.gz")
    images = {name: folder / f"{name}.nii.gz" for name in "ab"}
    written = register(images, transform="rigid", device="cpu").write(folder / "out")
    (folder / "points.csv").write_text("x,y,z\n20,22,0\n")
    points = ["--registration", str(written), "--from", "a", "--to", "b", "--space", "RAS", "--output", "moved.csv"]
    return {
        "bingo --help": ["-c", COMMAND, "--help"],
        "bingo register --help": ["-c", COMMAND, "register", "--help"],
        "bingo apply (points)": ["-c", APPLY, str(folder / "points.csv"), *points],
        "from bingo_pl import register": ["-c", "from bingo_pl import register"],
    }


COMMAND = "from bingo_pl.cli import main; main()"
"""`bingo`, in any environment."""
APPLY = """
import sys, tempfile
output = sys.argv.index("--output") + 1
with tempfile.TemporaryDirectory() as folder:
    sys.argv[output] = folder + "/moved.csv"
    sys.argv.insert(1, "apply")
    from bingo_pl.cli import main; main()
"""
"""`bingo apply` to a new file each time."""


def cpu_seconds(python: str, arguments: list[str]) -> float:
    """User and system seconds of a process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([python, *arguments], capture_output=True, text=True, check=False, cwd="/")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{python} {arguments}: {done.stderr}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    cli.run(lambda: typer.run(main))
