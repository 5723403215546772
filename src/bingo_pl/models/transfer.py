"""Training that starts from the weights of another model, maybe of fewer dimensions or of one modality."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from bingo_pl.errors import InputError
from bingo_pl.methods.bingo import Bingo
from bingo_pl.methods.registrar import Registrar
from bingo_pl.models import ready_model
from bingo_pl.models.checkpoints import read_weights
from bingo_pl.models.weights import check_finite

READY = {ready_model.location(dims).stem: dims for dims in (2, 3)}
"""The package's models by name, and their D."""


def start_from(registrar: Registrar, source: str) -> None:
    """Give a network the weights of another one.

    Where the other one has a single modality (the ready models), each modality starts from its normalisation. A 3D
    network may start from a 2D one: see `inflate`. One with fewer velocities takes the first, coarsest ones.

    Args:
        registrar: the network, of method bingo.
        source: a checkpoint of a run, a ``.safetensors`` model file, or a name in `READY`.

    Raises:
        BingoError: not BInGo, no such weights, weights that are not finite, or of a network that differs otherwise.
    """
    if not isinstance(registrar, Bingo):
        raise InputError(f"trainer.start={source} is for method bingo", "Leave it out")
    own = registrar.state_dict()
    given = _weights(source)
    check_finite(given, f"trainer.start={source}")
    if own.keys() <= given.keys():
        adapted = {name: _adapt(name, given[name], own[name]) for name in own}
        if all(adapted[name].shape == own[name].shape for name in own):
            registrar.load_state_dict(adapted)
            return
    raise InputError(
        f"trainer.start={source}: a network of {len(given)} tensors does not fit this one of {len(own)}",
        "Wanted the "
        "same model.channels and model.head_depth, the same model.velocity_scales or the first of them, the same "
        "modalities or one for all, and the same number of dimensions or 2 for 3",
    )


def inflate(kernel: Tensor) -> Tensor:
    """A 2D kernel (O, I, k, k) as a 3D one (O, I, k, k, k) that sees one slice: 0 but in the middle of the last axis.

    A network of such kernels does in every slice across the last axis what the 2D network does in an image (Carreira
    and Zisserman 2017 spread them over the new axis instead). Features that modalities have in common, which take
    longest to learn, are there from the start; only what is new in 3D is left to learn.
    """
    size = kernel.shape[-1]
    inflated = kernel.new_zeros(*kernel.shape, size)
    inflated[..., size // 2] = kernel
    return inflated


def _weights(source: str) -> Mapping[str, Tensor]:
    if source in READY:
        return ready_model.load(READY[source])[0].state_dict()
    path = Path(source)
    if path.suffix.lower() == ".safetensors":
        return ready_model.read(path)[0].state_dict()
    _, task = read_weights(path)
    prefix = "registrar."
    return {name.removeprefix(prefix): tensor for name, tensor in task.items() if name.startswith(prefix)}


def _adapt(name: str, given: Tensor, own: Tensor) -> Tensor:
    """A tensor of the other network for this one, whose first tensor of that name is ``own``."""
    if given.ndim == own.ndim == 2 and len(given) == 1:  # a DomainNorm of one modality
        return given.expand(len(own), -1).clone()
    if given.ndim == 4 and own.ndim == 5:
        given = inflate(given)
    if ".velocity." in name and 2 * len(own) == 3 * len(given):
        return _third_component(given, own)
    return given


def _third_component(given: Tensor, own: Tensor) -> Tensor:
    """The last convolution of a velocity head: mean and log-variance of a third axis stay as they were first drawn."""
    adapted = own.clone()
    for half, rows in zip(adapted.chunk(2), given.chunk(2), strict=True):
        half[:2] = rows
    return adapted
