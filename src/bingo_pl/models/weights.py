"""Weights of a file, checked before a network takes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from bingo_pl.errors import DivergenceError, FileError, InputError, some
from bingo_pl.models.checkpoints import PROVENANCE
from bingo_pl.storage.sealed import nonfinite

LISTED = 3
"""How many tensors of a kind an error names."""
OF_TRAINING = ("data", "epoch", "global_step", "loops", "optimizer_states", "lr_schedulers", "callbacks")
"""Entries of a checkpoint that a resume needs beside the weights."""
MOMENTS = ("exp_avg", "exp_avg_sq")
"""What Adam keeps of each parameter, in its shape."""


def fill(module: nn.Module, weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Give a network the weights of a file.

    Raises:
        BingoError: tensors are missing, too many, of another shape or not finite; the network is as it was then.
    """
    check_finite(weights, source)
    if problems := _misfits(module.state_dict(), weights):
        raise InputError(
            f"the weights in {source} are not those of this network: {'; '.join(problems)}",
            "The file was changed, or written by another version of bingo_pl: take another checkpoint, or train again",
        )
    module.load_state_dict(weights)


def check_finite(weights: Mapping[str, Tensor], source: Path | str) -> None:
    """Raises `BingoError` where weights of a file hold NaN or an infinity."""
    if bad := nonfinite(weights):
        raise FileError(
            f"{source} holds weights that are not finite ({bad}): the training that wrote it diverged, or the file is "
            "damaged",
            "Take an earlier checkpoint, or train again with a lower trainer.learning_rate",
        )


def check_resumable(task: nn.Module, optimiser: Optimizer, content: Mapping[str, Any], source: Path) -> None:
    """Raises `BingoError` where a training cannot be resumed from what a checkpoint holds.

    Args:
        task: what would be trained; it takes the weights.
        optimiser: of its parameters; it takes the state.
        content: the checkpoint.
        source: its file, for the message.
    """
    fill(task, content["state_dict"], source)
    entries = {**content, **content[PROVENANCE]}
    problems = [f"'{entry}' is missing" for entry in OF_TRAINING if entry not in entries]
    try:
        problems = problems or _misfits_of_optimiser(task, optimiser, content["optimizer_states"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        problems = [f"its optimiser's state cannot be read ({type(error).__name__}: {error})"]
    if problems:
        raise InputError(
            f"no training can be resumed from {source}: {'; '.join(problems)}",
            "Take another checkpoint of the run, or start a new one from its weights (trainer.start)",
        )


def check_before_saving(checkpoint: Mapping[str, Any]) -> None:
    """Raises `DivergenceError` where a checkpoint, Lightning's, would hold numbers that are not finite."""
    moments = {
        f"the optimiser's {name} of parameter {number}": x
        for state in checkpoint.get("optimizer_states", ())
        for number, moments in state["state"].items()
        for name, x in moments.items()
    }
    if bad := nonfinite({**checkpoint["state_dict"], **moments}):
        raise DivergenceError(f"weights are not finite: {bad}")


def _misfits(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> list[str]:
    """What keeps tensors from taking the place of others, for people."""
    shapes = [
        f"{name} of {tuple(given[name].shape)} instead of {tuple(x.shape)}"
        for name, x in own.items()
        if name in given and given[name].shape != x.shape
    ]
    kinds = {
        "missing": [name for name in own if name not in given],
        "not in the network": [name for name in given if name not in own],
        "of another shape": shapes,
    }
    return [f"{kind}: {some(names, LISTED)}" for kind, names in kinds.items() if names]


def _misfits_of_optimiser(task: nn.Module, optimiser: Optimizer, states: Sequence[Mapping[str, Any]]) -> list[str]:
    optimiser.load_state_dict(dict(states[0]))  # a ValueError where the groups of parameters differ
    moments = {
        f"{key} of {name}": (parameter, optimiser.state[parameter][key])
        for name, parameter in task.named_parameters()
        if optimiser.state.get(parameter)  # none before its first gradient
        for key in MOMENTS
    }
    shapes = [name for name, (parameter, x) in moments.items() if x.shape != parameter.shape]
    bad = nonfinite({name: x for name, (_, x) in moments.items()})
    problems = [f"of another shape: the optimiser's {some(shapes, LISTED)}"] if shapes else []
    return [*problems, f"not finite: the optimiser's {bad}"] if bad else problems
