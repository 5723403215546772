"""The registration methods by name, each made from an experiment's settings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from bingo_pl import plugins
from bingo_pl.alignment.optimisation import Level
from bingo_pl.alignment.registrar import Intrinsic
from bingo_pl.alignment.similarity import Combined, Edges, Experts
from bingo_pl.config import Config
from bingo_pl.errors import InputError, unknown_name
from bingo_pl.methods.attention_unet import AttResUNet
from bingo_pl.methods.baselines import Amortised, Descent, Iterative, Refined
from bingo_pl.methods.bingo import Bingo, Taught
from bingo_pl.methods.losses import Similarity
from bingo_pl.methods.population import IterativePopulation
from bingo_pl.methods.registrar import Registrar
from bingo_pl.models.checkpoints import read_weights
from bingo_pl.models.weights import fill
from bingo_pl.plugins import find

POINTS = {2: 1_500, 3: 6_000}
"""At which the experts of a group are compared in a step, by D."""


def bingo(config: Config, kind: type[Bingo] = Bingo) -> Bingo:
    """BInGo, or a class of one's own that extends it, as the settings have it."""
    settings = dataclasses.asdict(config.model)
    name = settings.pop("similarity")
    registrar = kind(
        dims=len(config.data.roi),
        modalities=len(config.data.modalities),
        similarity=Similarity(name, config.similarity.bins) if name else None,
        taught=_taught(config),
        **settings,
    )
    registrar.check_shape(config.data.roi)
    return registrar


def _taught(config: Config) -> Taught:
    """By the ground truth of a misalignment; or with noise, by the likelihood of the images, which knows no such
    limit."""
    data, reach = config.data, 0.0
    if config.weights.truth:
        # Of the linear part, normal draws of a shift and of D entries of a matrix, two standard deviations.
        linear = 2 * data.linear_strength * math.sqrt(1 + len(data.roi))
        reach = data.ffd_strength * max(data.ffd_spacings) + linear
    elif config.model.velocity_noise:
        reach = math.inf
    return Taught(tuple(data.roi), reach)


def _iterative(config: Config, name: str) -> Registrar:
    settings, stiffness = config.iterative, config.weights.bending
    similarity = Similarity(name, config.similarity.bins)
    descent = Descent(settings.learning_rate, settings.steps)
    transforms: dict[str, Callable[[], Registrar]] = {
        "velocity": lambda: Iterative(similarity, stiffness, descent, settings.levels),
        "linear_ffd": lambda: IterativePopulation(
            similarity, stiffness, descent, settings.levels, settings.control_spacing
        ),
    }
    return transforms[settings.transform]()


def _attresunet(config: Config, name: str) -> Registrar:
    network = AttResUNet(len(config.data.roi), len(config.data.modalities))
    return Amortised(network, Similarity(name, config.similarity.bins))


METHODS: dict[str, Callable[[Config], Registrar]] = {
    "bingo": bingo,
    "ape": lambda config: _iterative(config, "ape"),
    "cte": lambda config: _iterative(config, "cte"),
    "x_coreg": lambda config: _iterative(config, "x_coreg"),
    "ape_attresunet": lambda config: _attresunet(config, "ape"),
    "cte_attresunet": lambda config: _attresunet(config, "cte"),
}
"""What the setting ``method`` takes, beside other packages' (`bingo_pl.plugins`). A method is added by a line here."""


def build(config: Config) -> Registrar:
    """The method of an experiment, its weights as first drawn.

    Raises:
        BingoError: unknown method, or settings that it does not take.
    """
    registrar = find("method", config.method, METHODS, plugins.METHODS)(config)
    if not isinstance(registrar, Registrar):
        raise InputError(
            f"method={config.method} makes a {type(registrar).__name__}, wanted a bingo_pl Registrar",
            "Name a class of it, or a function that takes the settings and returns one",
        )
    for name in config.weights.own:
        if name not in registrar.own_terms:
            known = {*(field.name for field in dataclasses.fields(config.weights)), *registrar.own_terms} - {"own"}
            raise unknown_name("setting weights", name, known)
    return registrar


def restored(config: Config, weights: Mapping[str, Tensor], source: Path) -> Registrar:
    """The trained method of an experiment, in evaluation mode. The process's own random numbers stay as they are.

    Args:
        config: the settings that it was trained with.
        weights: of the method.
        source: their file, for messages.

    Raises:
        BingoError: weights that are not those of the method.
    """
    with torch.random.fork_rng(devices=[]):  # the first weights are drawn, to be replaced
        registrar = build(config)
    fill(registrar, weights, source)
    return registrar.eval()


def read_trained(checkpoint: Path) -> tuple[Registrar, Config]:
    """The trained method of a run's checkpoint, in evaluation mode, on the CPU, and its settings.

    Raises:
        BingoError: no such file, not a checkpoint of this project, or damaged.
    """
    config, weights = read_weights(checkpoint)
    own = {name.removeprefix("registrar."): tensor for name, tensor in weights.items()}
    return restored(config, own, checkpoint), config


def trainable(registrar: Registrar) -> bool:
    """Whether there is anything to learn."""
    return any(parameter.requires_grad for parameter in registrar.parameters())


def refined(registrar: Registrar, config: Config) -> Registrar:
    """The trained method with the refinement, or the optimisation of its experts, that the settings ask for, if any.

    Raises:
        BingoError: there is no trained method to start from, or the settings are not what it takes.
    """
    if config.intrinsic.steps:
        return _intrinsic(registrar, config)
    refine = config.refine
    if not refine.steps:
        return registrar
    if not trainable(registrar):
        raise InputError(
            f"refine.steps={refine.steps}, but method '{config.method}' is not trained: it optimises already",
            "Set refine.steps=0 and iterative.steps, or refine a trained method",
        )
    similarity = Similarity(refine.similarity, config.similarity.bins)
    descent = Descent(refine.learning_rate, refine.steps)
    return Refined(registrar, similarity, refine.bending, descent, refine.stride)


def _intrinsic(registrar: Registrar, config: Config) -> Intrinsic:
    own = config.intrinsic
    if config.refine.steps:
        raise InputError(
            f"intrinsic.steps={own.steps} and refine.steps={config.refine.steps}: both improve the result for each "
            "group",
            "Set one of them to 0",
        )
    if not isinstance(registrar, Bingo):
        raise InputError(
            f"intrinsic.steps={own.steps}, but method '{config.method}' has no experts to compare images by",
            "Set method=bingo, or intrinsic.steps=0",
        )
    experts = Experts(registrar, range(registrar.dims) if own.mirrored else ())
    similarity = Combined([(experts, 1.0), (Edges(), own.edges)]) if own.edges else experts
    points = own.points or POINTS[registrar.dims]
    levels = [
        Level("deformable", voxel, own.steps, own.learning_rate * node, points, node, own.bending)
        for voxel, node in zip(own.voxels, own.nodes, strict=True)
    ]
    return Intrinsic(registrar, similarity, levels, own.from_network)
