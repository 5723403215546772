"""Hostile calls end as documented, without a traceback, and nothing is lost: `benchmarks/hostile.py` in short."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from benchmarks.hostile import Playground, snapshot
from benchmarks.hostile_call import APPLY, Call
from benchmarks.hostile_images import of_images
from benchmarks.hostile_native import of_native
from benchmarks.hostile_runs import of_runs

CALLS = {call.title: call for call in (*of_images(), *of_native(), *of_runs())}
SHORT = (
    "names: modality that leaves the folder",
    "names: modality, streamed with a slash",
    "names: run that leaves the folder",
    "headers: truncated, register",
    "headers: offset overflows, check",
    "headers: 39 TiB, apply",
    "units: micrometres, register",
    "units: slice first, apply",
    "manifests: too many cells, register",
    "manifests: binary, train",
    "registrations: a list, apply",
    "points: JSON cut",
    "options: estimate of an empty shape",
    "native: values in an absent file",
    "native: start away",
    "native: overwrite somebody's folder",
    "models: bit flipped, register",
    "models: trap, resume",
    "models: tensor missing, evaluate",
    "YAML: base is itself, train",
    "YAML: not UTF-8, sweep",
    "sweeps: a parameter that is a list",
    "settings: seed=-1, train",
    "settings: data.roi=[], train",
    "folders: somebody's config.yaml, continue",
    "outputs: a file outside, register",
    "outputs: too long, apply",
    "disk: 3000 bytes, register",
    "disk: 20 bytes, apply",
    "signals: SIGINT to register",
)


@pytest.fixture(scope="module")
def playground(tmp_path_factory: pytest.TempPathFactory) -> Playground:
    return Playground(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("title", SHORT)
def test_a_hostile_call_ends_as_documented_and_loses_nothing(playground: Playground, title: str) -> None:
    outcome = playground.play(CALLS[title])
    assert outcome.faults == (), outcome.output


def test_every_command_and_every_theme_is_tried() -> None:
    themes = Counter(call.theme for call in CALLS.values())
    assert sum(themes.values()) >= 150
    assert {title.partition(":")[0] for title in SHORT} >= themes.keys() - {"locks"}  # they wait for one another
    tried = {call.command[0] for call in CALLS.values()}
    commands = ("train", "resume", "evaluate", "table", "scalability", "estimate", "sweep", "check", "register")
    assert tried >= {*commands, "atlas", "apply", "report"}


def test_what_should_not_happen_is_seen(playground: Playground, tmp_path: Path) -> None:
    """A wrong exit status, a changed file, one that is left, one outside of the folder: each alone is a fault."""
    good = (*APPLY, "points.csv", "--output", "new.csv")
    assert playground.play(Call("", "", good, (0,))).faults == ()
    assert "exit 0, wanted 2" in playground.play(Call("", "", good)).faults
    assert playground.play(Call("", "", (*APPLY, "nowhere.csv", "--output", "new.csv"))).faults == ()
    outside = playground.play(Call("", "", (*APPLY, "points.csv", "--output", "../new.csv"), (0,)))
    assert outside.faults == ("left: new.csv",)
    report = playground.play(
        Call("", "", ("report", "out"), (0,), lambda work: (work / "out/report.html").write_text("x"))
    )
    assert report.lost == 1
    (tmp_path / "file").write_text("x")
    before = snapshot(tmp_path)
    (tmp_path / "file").write_text("y")
    assert snapshot(tmp_path) != before
