"""Sweeps: their files, the command of each trial, and sweeps on W&B. `sweeps.local` runs the same file without it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import wandb
from rich.console import Console
from rich.markup import escape

from bingo_pl import seeding
from bingo_pl.config import read_yaml
from bingo_pl.errors import BingoError, InputError, unknown_name
from bingo_pl.storage.names import check_file_name
from bingo_pl.storage.regular import is_file
from bingo_pl.sweeps.space import Parameter, Value, parse

ARGUMENTS = "${args_no_hyphens}"
"""Where the agent puts the trial's settings as ``key=value``."""
OF_TRIALS = ("program", "command", "method", "parameters")
"""What the trials depend on."""
REQUIRED = (*OF_TRIALS, "metric")
KEYS = (*REQUIRED, "run_cap", "early_terminate", "name", "description", "project", "entity")
METHODS = ("grid", "random")
GOALS = ("minimize", "maximize")
STAGES = ("train", "val", "test")
PROJECT = "bingo_pl"
NAMED_BY_SWEEP = ("name", "runs")

Settings = dict[str, Value]


@dataclass(frozen=True)
class Sweep:
    """A sweep file, read and checked."""

    name: str
    tree: dict[str, Any]
    """As in the file, but for the settings of every trial in its ``command``."""
    parameters: tuple[Parameter, ...]

    @property
    def metric(self) -> str:
        return str(self.tree["metric"]["name"])

    @property
    def maximises(self) -> bool:
        return self.tree["metric"].get("goal") == GOALS[1]

    def command(self, arguments: Sequence[str]) -> list[str]:
        """The command line of a trial with these settings, as W&B's agent would put it together."""
        macros = {
            "${env}": ["/usr/bin/env"],
            "${interpreter}": ["python"],
            "${program}": [self.tree["program"]],
            ARGUMENTS: list(arguments),
        }
        parts = [str(part) for part in self.tree["command"]]
        for part in parts:
            if part.startswith("${") and part not in macros:
                raise unknown_name("macro in command", part, macros)
        return [word for part in parts for word in macros.get(part, [part])]

    def trials(self, seed: int, count: int | None) -> list[Settings]:
        """The settings of each trial.

        A random trial depends on the seed and its number alone, so that a larger ``count`` keeps the earlier ones.

        Args:
            seed: of a random search.
            count: trials at most, beside the file's ``run_cap``; None is all of a grid.

        Raises:
            BingoError: a method that needs W&B, a random search without end, or a grid over a continuous parameter.
        """
        method = self.tree["method"]
        if method not in METHODS:
            raise InputError(f"method {method} needs W&B's server; locally there are {', '.join(METHODS)}")
        limits = [limit for limit in (count, self.tree.get("run_cap")) if limit is not None]
        if method == "grid":
            grid = itertools.product(*[parameter.values for parameter in self.parameters])
            names = [parameter.name for parameter in self.parameters]
            return [
                dict(zip(names, values, strict=True)) for values in itertools.islice(grid, min(limits, default=None))
            ]
        if not limits:
            raise InputError("a random search has no end", "Give --count, or run_cap in the sweep file")
        return [self._draw(seed, number) for number in range(min(limits))]

    def _draw(self, seed: int, number: int) -> Settings:
        shares = {
            parameter.name: torch.rand(
                (), generator=seeding.generator("sweep", seed, number, parameter.name), dtype=torch.float64
            )
            for parameter in self.parameters
        }
        return {parameter.name: parameter.quantile(shares[parameter.name].item()) for parameter in self.parameters}


def sweeps() -> list[str]:
    """Names of the sweeps that come with the package."""
    return sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml"))


def load(file: str, overrides: Sequence[str] = ()) -> Sweep:
    """Read a sweep file.

    Args:
        file: a name from `sweeps()` or a path to a YAML file in W&B's format.
        overrides: ``key=value`` settings of every trial.

    Raises:
        BingoError: no such file, or it is not a sweep that `bingo train` can serve.
    """
    of_user = file.lower().endswith((".yaml", ".yml"))
    path: Any = Path(file) if of_user else _folder() / f"{file}.yaml"
    if not is_file(path) or not (of_user or file in sweeps()):
        raise unknown_name("sweep", file, sweeps())
    tree = read_yaml(path)
    for key in tree:
        if key not in KEYS:
            raise unknown_name("key of a sweep", str(key), KEYS)
    for key in REQUIRED:
        if not tree.get(key):
            raise InputError(f"{file}: {key} is missing", "See docs/sweeps.md for a sweep file")
    _check_metric(file, tree["metric"])
    for key, kind, wanted in (("parameters", dict, "settings, each with its values"), ("command", list, "words")):
        if not isinstance(tree[key], kind):
            raise InputError(f"{file}: {key} must hold {wanted}, got {tree[key]!r}")
    if not isinstance(tree.get("name", ""), str):
        raise InputError(f"{file}: name must be text, got {tree['name']!r}", "Put it in quotes")
    if ARGUMENTS not in tree["command"]:
        raise InputError(f"{file}: command must hold {ARGUMENTS}, which becomes the trial's key=value settings")
    if not isinstance(tree.get("run_cap", 1), int) or tree.get("run_cap", 1) < 1:
        raise InputError(f"{file}: run_cap is how many trials there may be, got {tree['run_cap']}")
    parameters = tuple(parse(str(name), spec) for name, spec in tree["parameters"].items())
    _check_settings([parameter.name for parameter in parameters], overrides)
    place = tree["command"].index(ARGUMENTS)
    command = [*tree["command"][:place], *overrides, *tree["command"][place:]]
    name = str(tree.get("name", Path(file).stem))
    check_file_name(name, "sweep")
    return Sweep(name, {**tree, "command": command}, parameters)


def run_on_wandb(sweep: Sweep, agents: int, count: int | None, console: Console) -> None:
    """Make a sweep on W&B and run agents of it here until it ends.

    Args:
        sweep: what to search.
        agents: processes, each with its share of the GPUs.
        count: trials of each agent at most.
        console: where the command for further agents is printed.

    Raises:
        BingoError: not logged in to W&B, or an agent ended with an error.
    """
    if not wandb.login(prompt=False):
        raise InputError("not logged in to W&B", "Run `wandb login`, or add --local for a sweep without it")
    project = sweep.tree.get("project", PROJECT)
    identifier = wandb.sweep(sweep.tree, entity=sweep.tree.get("entity"), project=project)
    agent = escape(f"wandb agent --project {project} {identifier}")
    console.print("more agents, on any machine: " + agent, soft_wrap=True)
    command = [sys.executable, "-m", "wandb", "agent", "--project", project]
    command += [*(["--count", str(count)] if count is not None else []), identifier]
    processes = [subprocess.Popen(command, env=environment(gpus)) for gpus in shares_of_gpus(agents)]
    try:
        failed = sum(process.wait() != 0 for process in processes)
    except BaseException:
        for process in processes:
            process.terminate()
        raise
    if failed:
        raise BingoError(f"{failed} of {agents} agents ended with an error, see above")


def trial_name(variables: Mapping[str, str]) -> str:
    """The name that a trial of W&B's agent has, the same when W&B starts it again; empty where no agent started us."""
    sweep, run = variables.get("WANDB_SWEEP_ID"), variables.get("WANDB_RUN_ID")
    return f"sweep-{sweep}-{run}" if sweep and run else ""


def environment(gpus: Sequence[str]) -> dict[str, str]:
    """The environment of an agent or trial: the programs of this installation first, and some of the GPUs, if any."""
    variables = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])}
    return {**variables, "CUDA_VISIBLE_DEVICES": ",".join(gpus)} if gpus else variables


def shares_of_gpus(agents: int) -> list[list[str]]:
    """The names of the GPUs of each agent; nothing where there are none.

    Raises:
        BingoError: there are GPUs, but fewer than agents.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = named.split(",") if named else [str(index) for index in range(torch.cuda.device_count())]
    if 0 < len(gpus) < agents:
        raise InputError(f"{agents} agents for {len(gpus)} GPU(s): each needs one", "Start fewer (--agents)")
    return [gpus[agent::agents] for agent in range(agents)]


def as_arguments(settings: Settings) -> list[str]:
    """``key=value`` as W&B's agent writes it."""
    return [f"{name}={value}" for name, value in settings.items()]


def _check_metric(file: str, metric: Any) -> None:
    if not isinstance(metric, dict) or not set(metric) <= {"name", "goal"}:
        raise InputError(f"{file}: metric takes name and goal, got {metric}")
    if str(metric.get("name")).partition("/")[0] not in STAGES or metric.get("goal", GOALS[0]) not in GOALS:
        raise InputError(
            f"{file}: got metric {metric}, wanted a name such as val/gwi or test/dice_after, of {', '.join(STAGES)}, "
            f"and a goal: {' or '.join(GOALS)}"
        )


def _check_settings(names: Sequence[str], overrides: Sequence[str]) -> None:
    keys = [override.partition("=")[0] for override in overrides]
    for key in (*names, *keys):
        if key in NAMED_BY_SWEEP:
            raise InputError(f"{key} is set by the sweep for each trial; leave it out")
    for override, key in zip(overrides, keys, strict=True):
        if key == override:
            raise InputError(f"'{override}' is not a setting", "Write key=value, for example trainer.epochs=10")
        if key in names:
            raise InputError(f"{key} is varied by the sweep; leave {key}= out, or take it out of the sweep file")


def _folder() -> Any:
    return files("bingo_pl.experiments") / "sweeps"
