"""Times what registration is made of beside MONAI, VoxelMorph and the limits of the machine. See README.md.

``python -m benchmarks.speed --output speed.csv``. The rows are in `cases`, what they are compared with in `references`.
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from rich.console import Console
from torch.utils.benchmark import Timer

from benchmarks.speed_cases import Case, cases
from bingo_pl import cli
from bingo_pl.storage.atomic import replacing

console = Console()
Call = Callable[[], Any]
EXPERIMENTS = ("mscmr_phantom", "mscmr", "brats_cpu")
"""Whose sizes and networks are measured, if none are named."""
PRODUCT = 1024
"""Side of the square matrices whose product shows the arithmetic that the machine can do."""
REFERENCES = ("MONAI", "VoxelMorph", "MONAI VoxelMorph", "iterative APE")
HEAD = (
    "| operation | size | ms | "
    + " | ".join(f"{name} takes" for name in REFERENCES)
    + " | limit (ms) | bound | % of limit |",
    "|" + "---|" * (6 + len(REFERENCES)),
)


def main(
    output: Annotated[Path, typer.Option(help="CSV to write; a Markdown table beside it")],
    experiments: Annotated[list[str] | None, typer.Argument(metavar="EXPERIMENT...", show_default=False)] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Times that everything is measured, in turn")] = 5,
    only: Annotated[str, typer.Option(help="Rows whose operation has this in its name")] = "",
) -> None:
    """Measure each operation, its references and its limits in turn, and write them side by side with their ratios."""
    rows = []
    warnings.filterwarnings("ignore", module="monai")  # that it samples with PyTorch, as we do
    for experiment in experiments or EXPERIMENTS:
        for case in cases(experiment):
            if only in case.operation:
                rows.append({"experiment": experiment, **measure(case, rounds)})
                console.print(_line(rows[-1]), soft_wrap=True)
    with replacing(output) as temporary:
        pd.DataFrame(rows).to_csv(temporary, index=False)
    with replacing(output.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(rows))
    console.print(f"written: {output}, {output.with_suffix('.md')}", soft_wrap=True)


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """One row of the table.

    On a shared machine speed drifts, so all are timed in turn and each ratio is the median of those of the rounds.

    Returns:
        ``milliseconds``; how many times as long each reference takes (``... ratio``); the ``limit``, in milliseconds,
        that ``bound`` sets, and how much of it is reached (``percent of limit``).
    """
    copy, product = plain_copy(case.traffic), matrix_product()
    calls = {"ours": case.ours, **case.references, "copy": copy, "product": product}
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(seconds(call))
    arithmetic = [case.operations / (2 * PRODUCT**3) * product for product in times["product"]]
    limits = [max(pair) for pair in zip(times["copy"], arithmetic, strict=True)]
    memory_bound = statistics.median(times["copy"]) > statistics.median(arithmetic)
    return {
        "operation": case.operation,
        "size": case.size,
        "milliseconds": 1000 * statistics.median(times["ours"]) / case.images,
        **{f"{name} ratio": _ratio(times[name], times["ours"]) for name in case.references},
        "limit": 1000 * statistics.median(limits) / case.images,
        "bound": "memory" if memory_bound else "arithmetic",
        "percent of limit": 100 * _ratio(limits, times["ours"]),
    }


def seconds(call: Call) -> float:
    """Of one call on one thread, by the clock of the processor, which stands still while other programs run: the
    median of as many as fit a tenth of a second, at least one."""
    timer = Timer("call()", globals={"call": call}, timer=time.process_time)
    return float(timer.blocked_autorange(min_run_time=0.1).median)


def plain_copy(traffic: int) -> Call:
    """A copy that reads and writes so many bytes in all."""
    source = torch.ones(max(traffic // 8, 1))
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def matrix_product() -> Call:
    """A product of large matrices in single precision: 2 `PRODUCT` ** 3 operations."""
    first, second = torch.ones(2, PRODUCT, PRODUCT)
    return lambda: first @ second


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table; a dash where there is no such reference."""
    return "\n".join([*HEAD, *map(_line, rows), ""])


def _line(row: dict[str, Any]) -> str:
    ratios = [f"{row[f'{name} ratio']:.1f}" if f"{name} ratio" in row else "-" for name in REFERENCES]
    limit = [f"{row['limit']:.3g}", row["bound"], f"{row['percent of limit']:.2g}"]
    return "| " + " | ".join([row["operation"], row["size"], f"{row['milliseconds']:.3g}", *ratios, *limit]) + " |"


def _ratio(slower: Sequence[float], faster: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(slower, faster, strict=True))


if __name__ == "__main__":
    cli.run(lambda: typer.run(main))
