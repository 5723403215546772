"""The registration methods by name, each made from an experiment's settings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bingo_pl.alignment.optimisation import Level
from bingo_pl.alignment.registrar import Intrinsic
from bingo_pl.alignment.similarity import Combined, Edges, Experts
from bingo_pl.config import Config
from bingo_pl.errors import BingoError, unknown_name
from bingo_pl.methods.attention_unet import AttResUNet
from bingo_pl.methods.baselines import Amortised, Descent, Iterative, Refined
from bingo_pl.methods.bingo import Bingo
from bingo_pl.methods.objective import Similarity
from bingo_pl.methods.population import IterativePopulation
from bingo_pl.methods.registrar import Registrar

POINTS = {2: 1_500, 3: 6_000}
"""At which the experts of a group are compared in a step, by D."""


def _bingo(config: Config) -> Registrar:
    settings = dataclasses.asdict(config.model)
    name = settings.pop("similarity")
    registrar = Bingo(
        dims=len(config.data.roi),
        modalities=len(config.data.modalities),
        similarity=Similarity(name, config.similarity.bins) if name else None,
        **settings,
    )
    registrar.check_shape(config.data.roi)
    return registrar


def _iterative(config: Config, name: str) -> Registrar:
    settings, stiffness = config.iterative, config.weights.bending
    _check_descent("iterative", settings.learning_rate, settings.steps)
    _check("weights.bending", stiffness, stiffness >= 0, "no negative weight")
    _check("iterative.levels", settings.levels, settings.levels >= 1, "at least one level")
    _check("iterative.control_spacing", settings.control_spacing, settings.control_spacing > 0, "a positive distance")
    similarity = Similarity(name, config.similarity.bins)
    descent = Descent(settings.learning_rate, settings.steps)
    transforms: dict[str, Callable[[], Registrar]] = {
        "velocity": lambda: Iterative(similarity, stiffness, descent, settings.levels),
        "linear_ffd": lambda: IterativePopulation(
            similarity, stiffness, descent, settings.levels, settings.control_spacing
        ),
    }
    if settings.transform not in transforms:
        raise unknown_name("iterative.transform", settings.transform, transforms)
    return transforms[settings.transform]()


def _attresunet(config: Config, name: str) -> Registrar:
    network = AttResUNet(len(config.data.roi), len(config.data.modalities))
    return Amortised(network, Similarity(name, config.similarity.bins))


METHODS: dict[str, Callable[[Config], Registrar]] = {
    "bingo": _bingo,
    "ape": lambda config: _iterative(config, "ape"),
    "cte": lambda config: _iterative(config, "cte"),
    "x_coreg": lambda config: _iterative(config, "x_coreg"),
    "ape_attresunet": lambda config: _attresunet(config, "ape"),
    "cte_attresunet": lambda config: _attresunet(config, "cte"),
}
"""What the setting ``method`` takes. A method is added by its class and a line here."""


def build(config: Config) -> Registrar:
    """The method of an experiment, its weights as first drawn.

    Raises:
        BingoError: unknown method, or settings that it does not take.
    """
    if config.method not in METHODS:
        raise unknown_name("method", config.method, METHODS)
    return METHODS[config.method](config)


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
    _check_descent("refine", refine.learning_rate, refine.steps)
    _check("refine.bending", refine.bending, refine.bending >= 0, "no negative weight")
    _check("refine.stride", refine.stride, refine.stride >= 1, "at least 1 voxel")
    if not refine.steps:
        return registrar
    if not trainable(registrar):
        raise BingoError(
            f"refine.steps={refine.steps}, but method '{config.method}' is not trained: it optimises already. "
            "Set refine.steps=0 and iterative.steps, or refine a trained method"
        )
    similarity = Similarity(refine.similarity, config.similarity.bins)
    descent = Descent(refine.learning_rate, refine.steps)
    return Refined(registrar, similarity, refine.bending, descent, refine.stride)


def _intrinsic(registrar: Registrar, config: Config) -> Intrinsic:
    own = config.intrinsic
    _check_descent("intrinsic", own.learning_rate, own.steps)
    for name, values in (("voxels", own.voxels), ("nodes", own.nodes)):
        if not values or min(values) <= 0:
            raise BingoError(f"intrinsic.{name}={values}: wanted a positive number for each level, e.g. [2,1,0.5]")
    if len(own.voxels) != len(own.nodes):
        raise BingoError(
            f"intrinsic.voxels={own.voxels} has {len(own.voxels)} levels and intrinsic.nodes={own.nodes} has "
            f"{len(own.nodes)}: wanted one number for each level in both"
        )
    _check("intrinsic.bending", own.bending, own.bending >= 0, "no negative weight")
    _check("intrinsic.edges", own.edges, own.edges >= 0, "no negative weight")
    _check("intrinsic.points", own.points, own.points == 0 or own.points >= 2, "at least 2 points, or 0")
    if config.refine.steps:
        raise BingoError(
            f"intrinsic.steps={own.steps} and refine.steps={config.refine.steps}: both improve the result for each "
            "group. Set one of them to 0"
        )
    if not isinstance(registrar, Bingo):
        raise BingoError(
            f"intrinsic.steps={own.steps}, but method '{config.method}' has no experts to compare images by. Set "
            "method=bingo, or intrinsic.steps=0"
        )
    experts = Experts(registrar, range(registrar.dims) if own.mirrored else ())
    similarity = Combined([(experts, 1.0), (Edges(), own.edges)]) if own.edges else experts
    points = own.points or POINTS[registrar.dims]
    levels = [
        Level("deformable", voxel, own.steps, own.learning_rate * node, points, node, own.bending)
        for voxel, node in zip(own.voxels, own.nodes, strict=True)
    ]
    return Intrinsic(registrar, similarity, levels, own.from_network)


def _check_descent(section: str, learning_rate: float, steps: int) -> None:
    _check(f"{section}.learning_rate", learning_rate, learning_rate > 0, "a positive rate")
    _check(f"{section}.steps", steps, steps >= 0, "no negative number")


def _check(name: str, value: float, holds: bool, wanted: str) -> None:
    if not holds:
        raise BingoError(f"{name}={value}: wanted {wanted}")
