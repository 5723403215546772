"""Imports go one way; each layer knows only those before it."""

from __future__ import annotations

import ast
from pathlib import Path

import bingo_pl
import data_modules

LAYERS = (
    {"errors", "seeding", "spatial", "posterior"},
    {"atomic", "regularity", "similarity", "networks", "typesetting", "search_space", "sharding"},
    {"batch", "attention_unet", "grids", "landmarks", "workspace"},
    {"record", "transforms"},
    {"resampling", "learn2reg"},
    {"misalign", "metrics", "registrar", "views", "tables"},
    {"bingo", "baselines", "panels", "scoring", "streamed_metrics"},
    {"uncertainty"},
    {"data_modules", "task", "population", "figures", "comparison_table", "comparison_figure", "budget"},
    {"config", "history", "curves", "check_report", "scans", "report_data", "stream"},
    {"report_pictures", "report_summary", "callbacks", "methods", "lightning", "resumption", "affine"},
    {"report", "experiment", "merged", "estimate", "file_source"},
    {"continuation", "ready_model", "registered"},
    {"rows"},
    {"comparison", "workflow", "scalability"},
    {"sweep"},
    {"apply", "local_sweep"},
    {"cli"},
)
LEVEL = {name: level for level, layer in enumerate(LAYERS) for name in layer}


def imported(file: Path) -> set[str]:
    """The project's own modules that a file imports; all of data_modules counts as one."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            package, _, rest = module.partition(".")
            if package == "data_modules":
                names.add("data_modules")
            elif package == "bingo_pl" and rest.partition(".")[0] in LEVEL:
                names.add(rest.partition(".")[0])
    return names


def test_imports_point_downwards() -> None:
    (source,) = bingo_pl.__path__
    files = {file.stem: file for file in Path(source).glob("*.py") if file.stem != "__init__"}
    assert set(files) == set(LEVEL) - {"data_modules"}, "every file has its layer"
    upwards = [
        f"{name} imports {other}"
        for name, file in files.items()
        for other in imported(file)
        if LEVEL[other] >= LEVEL[name] and other != name
    ]
    (folder,) = data_modules.__path__
    upwards += [
        f"data_modules.{file.stem} imports {other}"
        for file in Path(folder).glob("*.py")
        for other in imported(file) - {"data_modules"}
        if LEVEL[other] >= LEVEL["data_modules"]
    ]
    assert upwards == []


def test_omegaconf_is_known_to_one_file() -> None:
    (source,) = bingo_pl.__path__
    users = [file.name for file in Path(source).glob("*.py") if "omegaconf" in file.read_text().lower()]
    assert users == ["config.py"]
