"""What README and documentation say to type exists: commands, options, targets, files, imports, messages, settings."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer

from bingo_pl import cli, config
from bingo_pl.phantoms import example

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), ROOT / "benchmarks" / "README.md"]
COMMANDS: Any = typer.main.get_command(cli.app)
TOKEN = re.compile(r"\b(make|bingo|python -m|python)\s")


def blocks(page: Path, language: str) -> Iterator[str]:
    yield from re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def command_lines() -> list[tuple[str, str]]:
    """(page, command) of everything to type, in one line and without its comment."""
    found = [(example.__name__, line.strip()) for line in example.README.splitlines() if line.startswith("  bingo ")]
    for page in PAGES:
        for block in blocks(page, "sh"):
            lines = block.replace("\\\n", " ").splitlines()
            found += [(page.name, re.sub(r"\s+#.*", "", line).strip()) for line in lines]
        if page.name != "CHANGELOG.md":
            cells = re.findall(r"`(bingo [a-z]+ [^`]*)`", page.read_text())
            found += [(page.name, cell.replace("\\|", "|")) for cell in cells if "..." not in cell]
    return [(page, line) for page, line in found if line and "..." not in line]


def bingo_calls() -> list[tuple[str, list[str]]]:
    calls = [(page, shlex.split(re.split(r"\s[|&]+\s?", line)[0])) for page, line in command_lines()]
    return [(page, words) for page, words in calls if words[:1] == ["bingo"] and len(words) > 2]


def test_commands_and_options_in_the_documentation_exist() -> None:
    calls = bingo_calls()
    assert len(calls) > 40
    for page, (_, name, *words) in calls:
        assert name in COMMANDS.commands, (page, name)
        known = {text for option in COMMANDS.commands[name].params for text in option.opts}
        unknown = {word.partition("=")[0] for word in words if word.startswith("-")} - {*known, "-h", "--help"}
        assert not unknown, (page, name, unknown)


def test_targets_of_make_in_the_documentation_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for _, line in command_lines() if line.startswith("make ") for word in line.split()[1:2]}
    assert len(named) > 5
    assert {word for word in named if re.fullmatch("[a-z]+", word)} <= targets


def test_scripts_in_the_documentation_exist() -> None:
    modules = {found for _, line in command_lines() for found in re.findall(r"python -m (benchmarks[\w.]*)", line)}
    files = {found for _, line in command_lines() for found in re.findall(r"python (benchmarks/\w+\.py)", line)}
    assert len(modules) > 2
    assert len(files) > 2
    assert all((ROOT / (name.replace(".", "/") + ".py")).is_file() for name in modules)
    assert all((ROOT / name).is_file() for name in files)


def test_imports_in_the_documentation_work() -> None:
    lines = {
        line.strip()
        for page in PAGES
        for block in blocks(page, "python")
        for line in block.splitlines()
        if re.match(r"(from|import) bingo_pl", line.strip())
    }
    assert len(lines) > 5
    for line in lines:
        exec(line, {})


def test_files_of_the_example_in_the_documentation_exist(tmp_path: Path) -> None:
    parts = {"head", "visit2", "ct", "labels", "landmarks", "series", "people"}
    named = {word.removeprefix("scans/") for _, words in bingo_calls() for word in words if "/" in word}
    ours = {word for word in named if word.split("/")[0] in parts}
    assert len(ours) > 8
    names = {*example.CONTRASTS}
    known = {f"{folder}/{name}.nii.gz" for folder in ("head", "labels") for name in names}
    known |= {f"landmarks/{name}{end}" for name in names for end in (".fcsv", ".mrk.json", ".csv")}
    known |= {f"visit2/{name}.nii.gz" for name in (*example.LATER, "*")} | {"head/*.nii.gz", "ct/ct.nii.gz"}
    known |= {"series/molli.nii.gz", "series/inversion_times.txt", "people/people.csv", "people/person1_t1_seg.nii.gz"}
    assert ours <= known


def test_messages_of_the_troubleshooting_page_are_the_programs() -> None:
    files = [*(ROOT / "src" / "bingo_pl").rglob("*.py"), *(ROOT / "data_modules").rglob("*.py")]
    source = re.sub(r'"\s*\n\s*f?"', "", "\n".join(file.read_text() for file in files))
    rows = re.findall(r"^\| `([^|]*?)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 15
    for message in rows:
        for part in re.split(r"\.\.\.|[\d.]+|\[.*?\]|-\d+|\b(?:label|t1|epochs)\b", message):
            assert part.strip(" (),':-") in source, message


def test_words_above_the_first_command_of_the_readme() -> None:
    above = (ROOT / "README.md").read_text().partition("```")[0]
    assert len(re.findall(r"[\w'-]+", re.sub(r"\]\([^)]*\)", "]", above))) <= 120


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_commands_has_every_command_and_option(generate: ModuleType) -> None:
    page = generate.commands()
    for name, command in COMMANDS.commands.items():
        (section,) = re.findall(rf"^## bingo {name}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
        for option in command.params:
            assert all(text in section for text in option.opts if text.startswith("--")), (name, option)


def test_the_page_of_settings_has_every_setting_with_its_text(generate: ModuleType) -> None:
    page = generate.settings()

    def names(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
        for key, value in tree.items():
            if isinstance(value, dict) and value:
                yield from names(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    listed = dict(re.findall(r"^\| `([\w.]+)` \| (.*?) \|", page, re.MULTILINE))
    assert set(names(vars_of(config.Config()))) == set(listed)
    assert all(listed.values())


def vars_of(settings: Any) -> dict[str, Any]:
    return {
        key: vars_of(value) if hasattr(value, "__dataclass_fields__") else value
        for key, value in vars(settings).items()
    }
