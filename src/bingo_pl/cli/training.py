"""Commands that train a method and test it: ``train``, ``resume``, ``evaluate``."""

from __future__ import annotations

from typing import Annotated

import typer

from bingo_pl.cli.common import CheckpointArgument, Device, Experiment, Overrides, console, on_device


def train(
    name: Experiment,
    overrides: Overrides = None,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Resume the run of this name if there is one; leave it if it is done")
    ] = False,
    device: Device = "auto",
) -> None:
    """Train on a dataset, test the best checkpoint, write tables and figures to runs/<name>/.

    Without data.root, EXPERIMENT's phantom preset is trained on the embedded synthetic cohort.
    """
    from bingo_pl import api

    api.train(name, on_device(overrides, device), resume=go_on, console=console)


def resume(
    checkpoint: CheckpointArgument,
    overrides: Overrides = None,
    allow_changed_data: Annotated[bool, typer.Option(help="Resume although the data are not the same")] = False,
    allow_changed_processes: Annotated[
        bool, typer.Option(help="Resume although the number of devices is not the same")
    ] = False,
    device: Device = "auto",
) -> None:
    """Resume exactly where a checkpoint stopped."""
    from bingo_pl.training import experiment

    experiment.resume(checkpoint, on_device(overrides, device), allow_changed_data, console, allow_changed_processes)


def evaluate(checkpoint: CheckpointArgument, overrides: Overrides = None, device: Device = "auto") -> None:
    """Test a checkpoint, on its own test split or on other data of the same modalities (data.root=...)."""
    from bingo_pl.training import experiment

    experiment.evaluate(checkpoint, on_device(overrides, device), console)
