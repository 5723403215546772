"""Sweeps: W&B takes our files, its agent's command trains, and the same files run without it and resume when killed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pandas as pd
import pytest
import yaml
from rich.console import Console
from wandb.sdk.launch.sweeps import utils
from wandb.wandb_agent import Agent

from bingo_pl import BingoError, config
from bingo_pl.models.checkpoints import read_provenance
from bingo_pl.sweeps import trials as sweep
from bingo_pl.sweeps.local import run_local
from bingo_pl.sweeps.space import parse

from .conftest import write_cohort
from .test_experiment import SETTINGS

FAKE = """
import sys, os, time
from pathlib import Path
given = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
run = Path(given["runs"]) / given["name"]
run.mkdir(parents=True, exist_ok=True)
with open(run / "starts", "a") as file:
    file.write("start\\n")
time.sleep(float(given.get("sleep", 0)))
if given["x"] in given.get("fails", "").split("+"):
    sys.exit("the loss is not a number")
(run / "metrics.csv").write_text(f"step,val/gwi\\n0,9\\n1,{(float(given['x']) - 2) ** 2}\\n")
(run / "test.csv").write_text("group,dice_after,gwi_after,folding_percent\\na,0.5,1,0\\nb,0.7,2,0\\n")
"""


SCHEMA = Path(__file__).parent / "wandb_sweeps" / "schema.json"
"""By which W&B judges sweep files: as it lies in the package sweeps 0.3.0, whose other needs would be in our way."""


def violations(tree: dict[str, Any]) -> list[str]:
    """What W&B finds wrong in a sweep file."""
    return [error.message for error in jsonschema.Draft7Validator(json.loads(SCHEMA.read_text())).iter_errors(tree)]


@pytest.fixture
def console() -> Console:
    return Console(quiet=True)


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Writes a sweep file whose trials are quick: the command is a script that leaves what a run leaves."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)

    def write(**changes: Any) -> str:
        tree = {
            "program": str(script),
            "command": ["${env}", "${interpreter}", "${program}", "${args_no_hyphens}"],
            "method": "grid",
            "metric": {"name": "val/gwi", "goal": "minimize"},
            "parameters": {"x": {"values": [1, 2, 4]}},
        }
        path = tmp_path / "search.yaml"
        path.write_text(yaml.safe_dump({**tree, **changes}))
        return str(path)

    return write


@pytest.mark.parametrize("name", sweep.sweeps())
def test_wandb_takes_our_sweep_files(name: str) -> None:
    tree = sweep.load(name).tree
    assert violations(tree) == []
    assert violations({**tree, "methd": "grid"}) != []


@pytest.mark.parametrize("name", sweep.sweeps())
def test_our_sweeps_vary_settings_that_exist(name: str) -> None:
    search = sweep.load(name)
    for settings in search.trials(seed=0, count=3):
        config.load(name, sweep.as_arguments(settings))


def test_a_command_is_what_wandb_makes_of_the_file() -> None:
    search = sweep.load("mscmr", ["trainer.epochs=2"])
    settings: sweep.Settings = {"trainer.learning_rate": 1e-05, "model.velocity_scales": [4, 2], "x": True}
    given = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in settings.items()}})
    assert sweep.as_arguments(settings) == given["args_no_hyphens"]
    start = ["/usr/bin/env", "bingo", "train", "mscmr", "--continue", "trainer.epochs=2"]
    assert search.command(given["args_no_hyphens"]) == [*start, *given["args_no_hyphens"]]


@pytest.mark.slow
def test_the_command_of_wandbs_agent_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real agent, given the task that W&B's server would send; two ranks write one run, with the same settings."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "", "WANDB_SWEEP_PARAM_PATH": ""}.items():
        monkeypatch.setenv(name, value)  # the agent sets the last two; this takes them away again
    monkeypatch.setenv("PATH", sweep.environment([])["PATH"])
    (tmp_path / "cohort").mkdir()
    places = [
        f"data.root={write_cohort(tmp_path / 'cohort')}",
        "data.cache_dir=cache",
        "trainer.epochs=1",
        "trainer.devices=2",
    ]
    tree = sweep.load("mscmr", [*SETTINGS, *places]).tree
    agent = Agent(api=None, queue=None, sweep_id="s1")
    agent._sweep_command = [part if part != "mscmr" else "manifest" for part in tree["command"]]
    args = {"trainer.learning_rate": {"value": 1e-05}, "weights.truth": {"value": 50.0}}
    agent._command_run({"run_id": "r1", "program": tree["program"], "args": args})
    assert agent._run_processes["r1"].wait() == 0
    (run,) = (tmp_path / "runs").glob("*/")
    assert run.name == "sweep-s1-r1"
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert (written["trainer"]["learning_rate"], written["weights"]["truth"]) == (1e-05, 50.0)
    assert (run / "test.csv").exists()
    assert read_provenance(run / "checkpoints" / "last.ckpt")["processes"] == 2


def test_a_grid_tries_every_combination_once(write: Any) -> None:
    search = sweep.load(write(parameters={"a": {"values": [1, 2]}, "b": {"min": 1, "max": 3}, "c": {"value": "w"}}))
    trials = search.trials(seed=0, count=None)
    assert sorted((one["a"], one["b"], one["c"]) for one in trials) == [(a, b, "w") for a in (1, 2) for b in (1, 2, 3)]
    assert search.trials(seed=0, count=4) == trials[:4]


def test_a_random_trial_depends_on_the_seed_and_its_number_alone() -> None:
    search = sweep.load("mscmr")
    many = search.trials(seed=1, count=9)
    assert search.trials(seed=1, count=4) == many[:4]
    assert len({str(one) for one in many}) == 9
    assert search.trials(seed=2, count=4) != many[:4]
    assert len(search.trials(seed=1, count=99)) == search.tree["run_cap"]


@pytest.mark.parametrize(
    ("spec", "quartiles"),
    [
        ({"value": "word"}, ["word"] * 3),
        ({"values": [10, 20, 30, 40]}, [20, 30, 40]),
        ({"values": [1, 2, 3], "probabilities": [0.2, 0.1, 0.7]}, [2, 3, 3]),
        ({"min": 1, "max": 4}, [2, 3, 4]),
        ({"min": 0.0, "max": 4.0}, [1.0, 2.0, 3.0]),
        ({"distribution": "q_uniform", "min": 0, "max": 4, "q": 2}, [0, 2, 4]),
        ({"distribution": "log_uniform_values", "min": 1.0e-4, "max": 1.0}, [1e-3, 1e-2, 1e-1]),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 16, "q": 0.5}, [2.0, 4.0, 8.0]),
        ({"distribution": "normal", "mu": 5, "sigma": 2}, [3.65102, 5.0, 6.34898]),  # 0.67449 standard deviations
        ({"distribution": "q_normal", "mu": 5, "sigma": 2}, [4, 5, 6]),
        ({"distribution": "log_normal"}, [0.509416, 1.0, 1.96303]),
    ],
)
def test_quantiles_are_those_of_the_distribution(spec: dict[str, Any], quartiles: list[Any]) -> None:
    """Expected by hand; a drawn number has six significant digits. W&B's own schema takes each of the parameters."""
    parameter = parse("x", spec)
    assert [parameter.quantile(share) for share in (0.25, 0.5, 0.75)] == quartiles
    assert violations({"method": "random", "parameters": {"x": spec}}) == []


def test_draws_reach_every_value_evenly() -> None:
    parameter = parse("x", {"values": ["a", "b", "c"]})
    counts = Counter(str(parameter.quantile(step / 300)) for step in range(300))
    assert counts == {"a": 100, "b": 100, "c": 100}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"distribution": "unifrom", "min": 0.0, "max": 1.0}, "Did you mean 'uniform'"),
        ({"distribution": "log_uniform", "min": -3, "max": 0}, "distribution of x 'log_uniform'"),
        ({"distribution": "uniform", "min": "1e-5", "max": 1.0}, r"1e-5 is text, 1\.0e-5 a number"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "above 0"),
        ({"distribution": "uniform", "min": 2, "max": 1}, "not below max"),
        ({"distribution": "uniform", "min": 2}, "takes min, max"),
        ({"min": 1, "max": 1.5}, "both whole or both not"),
        ({"values": [1, 2], "probabilities": [0.5, 0.4]}, "together 1"),
        ({"values": []}, "at least one"),
        ({"values": [None]}, 'write "null"'),
        ({"parameters": {"y": {"value": 1}}}, r"Write `x\.<setting>:`"),
        (3, "got 3, wanted"),
    ],
)
def test_a_wrong_parameter_is_explained(spec: Any, message: str) -> None:
    with pytest.raises(BingoError, match=message):
        parse("x", spec)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methd": "grid"}, "Did you mean 'method'"),
        ({"parameters": {}}, "parameters is missing"),
        ({"command": ["${program}", "${args}"]}, r"must hold \$\{args_no_hyphens\}"),
        ({"parameters": {"name": {"values": ["a"]}}}, "name is set by the sweep"),
        ({"metric": {"name": "gwi"}}, "val/gwi"),
        ({"run_cap": 0}, "run_cap is how many"),
    ],
)
def test_a_wrong_file_is_explained(write: Any, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BingoError, match=message):
        sweep.load(write(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "bayes"}, "needs W&B's server"),
        ({"method": "random"}, "has no end"),
        ({"parameters": {"x": {"min": 0.0, "max": 1.0}}}, "a grid cannot try a uniform"),
        ({"command": ["${python}", "${args_no_hyphens}"]}, "unknown macro"),
        ({"early_terminate": {"type": "hyperband", "min_iter": 3}}, "early_terminate needs"),
    ],
)
def test_what_cannot_run_locally_is_explained_before_anything_runs(
    write: Any, tmp_path: Path, console: Console, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(BingoError, match=message):
        run_local(sweep.load(write(**changes)), tmp_path / "out", 0, None, 1, console)
    assert not (tmp_path / "out" / "trials").exists()


def test_a_setting_cannot_be_both_fixed_and_varied(write: Any) -> None:
    with pytest.raises(BingoError, match="x is varied by the sweep"):
        sweep.load(write(), ["x=1"])


@pytest.mark.parametrize("agents", [1, 2])
def test_a_local_sweep_ranks_its_trials_and_keeps_them(
    write: Any, tmp_path: Path, console: Console, agents: int
) -> None:
    search = sweep.load(write())
    folder = run_local(search, tmp_path / "out", 0, None, agents, console)
    table = pd.read_csv(folder / "sweep.csv")
    assert list(table["x"]) == [2, 1, 4], "best first"
    assert list(table["val/gwi"]) == [0, 1, 4], "the last value"
    assert list(table["test/gwi_after"]) == [1.5] * 3, "the mean over the groups"
    before = (folder / "sweep.csv").read_text()
    run_local(search, folder, 0, None, agents, console)
    starts = [path.read_text().count("start") for path in folder.glob("trials/*/starts")]
    assert starts == [1, 1, 1], "what is done is not done again"
    assert (folder / "sweep.csv").read_text() == before


def test_the_results_of_a_local_sweep_fit_a_terminal(write: Any, tmp_path: Path) -> None:
    terminal = io.StringIO()
    varied = {"x": [1, 2], "model.cross_reconstruction": [0.123456789], "data.modalities": [["a", "b"]]}
    search = sweep.load(write(parameters={name: {"values": values} for name, values in varied.items()}))
    run_local(search, tmp_path / "out", 0, None, 1, Console(file=terminal, width=80))
    results = terminal.getvalue().partition("best first")[2]
    assert max(map(len, results.splitlines())) <= 80
    for setting in ("x=1", "x=2", "model.cross_reconstruction=0.1235", "data.modalities=['a', 'b']"):
        assert setting in results


def test_the_goal_turns_the_order(write: Any, tmp_path: Path, console: Console) -> None:
    search = sweep.load(write(metric={"name": "val/gwi", "goal": "maximize"}))
    table = pd.read_csv(run_local(search, tmp_path / "out", 0, None, 1, console) / "sweep.csv")
    assert list(table["x"]) == [4, 1, 2]


def test_a_failed_trial_keeps_no_other_from_running(write: Any, tmp_path: Path, console: Console) -> None:
    search = sweep.load(write(), ["fails=1"])
    with pytest.raises(BingoError, match=r"1 of 3 trials failed: trial-001"):
        run_local(search, tmp_path / "out", 0, None, 1, console)
    table = pd.read_csv(tmp_path / "out" / "sweep.csv")
    assert list(table["state"]) == ["finished", "finished", "unfinished"]
    assert "not a number" in (tmp_path / "out" / "logs" / "trial-001.log").read_text()


def test_a_folder_holds_one_sweep(write: Any, tmp_path: Path, console: Console) -> None:
    folder = run_local(sweep.load(write()), tmp_path / "out", 0, 1, 1, console)
    run_local(sweep.load(write(run_cap=2)), folder, 0, None, 1, console)  # more trials of the same are welcome
    assert len(pd.read_csv(folder / "sweep.csv")) == 2
    with pytest.raises(BingoError, match=r"-  - 4; \+  - 5|-    - 4; \+    - 5"):
        run_local(sweep.load(write(parameters={"x": {"values": [1, 2, 5]}})), folder, 0, None, 1, console)
    with pytest.raises(BingoError, match="seed: 0"):
        run_local(sweep.load(write()), folder, 1, None, 1, console)


def test_gpus_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4,5,6")
    assert sweep.shares_of_gpus(2) == [["3", "5"], ["4", "6"]]
    assert sweep.environment(["3", "5"])["CUDA_VISIBLE_DEVICES"] == "3,5"
    with pytest.raises(BingoError, match="5 agents for 4 GPU"):
        sweep.shares_of_gpus(5)


def test_a_sweep_on_wandb_needs_a_login(monkeypatch: pytest.MonkeyPatch, console: Console) -> None:
    monkeypatch.setattr("wandb.login", lambda prompt: False)
    with pytest.raises(BingoError, match="add --local"):
        sweep.run_on_wandb(sweep.load("mscmr"), 1, None, console)


def test_a_sweep_on_wandb_starts_its_agents(monkeypatch: pytest.MonkeyPatch, console: Console) -> None:
    """Nothing is sent: what would be is looked at."""
    made: list[Any] = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    monkeypatch.setattr("wandb.login", lambda prompt: True)

    def make(tree: dict[str, Any], entity: str | None, project: str) -> str:
        made.append((tree, project))
        return "id7"

    monkeypatch.setattr("wandb.sweep", make)
    quick = subprocess.Popen
    started: list[tuple[list[str], str]] = []

    def start(command: list[str], env: dict[str, str]) -> Any:
        started.append((command, env["CUDA_VISIBLE_DEVICES"]))
        return quick([sys.executable, "-c", ""])

    monkeypatch.setattr("subprocess.Popen", start)
    search = sweep.load("mscmr", ["trainer.epochs=2"])
    sweep.run_on_wandb(search, 2, 5, console)
    assert made == [(search.tree, "bingo_pl")]
    command = [sys.executable, "-m", "wandb", "agent", "--project", "bingo_pl", "--count", "5", "id7"]
    assert started == [(command, "0"), (command, "1")]
