"""Settings of the methods and of what improves their results."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass, field

from bingo_pl import plugins
from bingo_pl.config.checks import SIMILARITIES, check, choose, choose_or_own

TRANSFORMS = ("velocity", "linear_ffd")
MOST_SQUARINGS = 30
"""2**-30 of a velocity is nothing in single precision."""


@dataclass
class ModelConfig:
    """BInGo's network and posterior; see `bingo_pl.methods.bingo.Bingo`."""

    channels: list[int] = field(default_factory=lambda: [16, 32, 64, 128, 256])
    """Width of each scale, full resolution first."""
    velocity_scales: list[int] = field(default_factory=lambda: [4, 2, 0])
    """Scales with a velocity, coarsest first; scale s has stride 2**s. One named again has a further velocity."""
    head_depth: int = 4
    """Convolutions of a velocity head before its last."""
    squarings: int = 7
    """Steps of scaling and squaring."""
    smoothness: float = 10.0
    """Precision of the velocity prior."""
    second_pass: bool = True
    """Whether the registered images are encoded again; false: their features are warped instead."""
    velocity_noise: bool = True
    """Whether velocities are sampled in training."""
    cross_reconstruction: float = 0.0
    """Probability that a step decodes each image from another image's expert."""
    similarity: str = ""
    """Similarity of the registered images, minimised beside the ELBO: ape, cte or x_coreg. Empty, as in the paper:
    none."""

    def __post_init__(self) -> None:
        scales, coarsest = self.velocity_scales, len(self.channels) - 1
        falling = all(a >= b for a, b in itertools.pairwise(scales))
        check(
            "model",
            self,
            {
                "channels": (
                    self.channels and all(width >= 2 and width % 2 == 0 for width in self.channels),
                    "even widths, half are means and half variances",
                ),
                "velocity_scales": (
                    scales and falling and all(0 <= scale <= coarsest for scale in scales),
                    f"numbers that do not rise, from {coarsest} (the coarsest of model.channels) to 0",
                ),
                "head_depth": (self.head_depth >= 0, "at least 0"),
                "squarings": (0 <= self.squarings <= MOST_SQUARINGS, f"from 0 to {MOST_SQUARINGS}"),
                "smoothness": (self.smoothness > 0, "a positive number"),
                "cross_reconstruction": (0 <= self.cross_reconstruction <= 1, "a probability, from 0 to 1"),
            },
        )
        choose_or_own("model.similarity", self.similarity, ("", *SIMILARITIES), plugins.SIMILARITIES)


@dataclass
class WeightConfig:
    """Weights of the terms of the loss."""

    reconstruction: float = 100.0
    """Weight of the L1 distance between an image and its reconstruction."""
    kl_velocity: float = 20.0
    """Weight of the prior of the velocities."""
    kl_structure: float = 300.0
    """Weight of the intrinsic dissimilarity, Eq. (6)."""
    similarity: float = 1.0
    """Weight of APE, CTE or X-CoReg of the registered images, in methods that minimise one (BInGo:
    `model.similarity`)."""
    bending: float = 10.0
    """Weight of the bending energy in these methods; alpha in the paper, which does not give its value."""
    truth: float = 0.0
    """Weight of the gWI, in voxels, against the known synthetic misalignment; the variances of the velocities learn to
    tell what is left of it. 0: unsupervised, as in the paper."""
    own: dict[str, float] = field(default_factory=dict)
    """Weights of the terms that your own method adds; ``weights.my_term=1`` sets that of ``my_term``."""

    def __post_init__(self) -> None:
        weights = {name: (weight >= 0, "at least 0") for name, weight in vars(self).items() if name != "own"}
        check("weights", self, {**weights, "own": (min(self.own.values(), default=0) >= 0, "at least 0")})

    def by_term(self) -> dict[str, float]:
        """All weights."""
        named = dataclasses.asdict(self)
        return {**named.pop("own"), **named}


@dataclass
class SimilarityConfig:
    """How APE, CTE and X-CoReg are estimated, wherever they are minimised; see `bingo_pl.methods.similarity`."""

    bins: int = 64
    """Number of histogram bins over the image's intensity range."""

    def __post_init__(self) -> None:
        check("similarity", self, {"bins": (self.bins >= 2, "at least 2")})


@dataclass
class IterativeConfig:
    """How a similarity is minimised for each group separately; see `bingo_pl.methods.baselines.Iterative` and
    `bingo_pl.methods.population.IterativePopulation`."""

    transform: str = "velocity"
    """Transform: velocity (one of full resolution for each image) or linear_ffd (rigid, affine, free-form;
    populations)."""
    control_spacing: float = 10.0
    """Spacing of the free-form deformation's control points in voxels."""
    learning_rate: float = 0.1
    """Learning rate of Adam in voxels of the level."""
    levels: int = 3
    """Number of levels of the image pyramid."""
    steps: int = 50
    """Number of optimisation steps at each level."""

    def __post_init__(self) -> None:
        choose("iterative.transform", self.transform, TRANSFORMS)
        check(
            "iterative",
            self,
            {
                "control_spacing": (self.control_spacing > 0, "a positive distance"),
                "learning_rate": (self.learning_rate > 0, "a positive rate"),
                "levels": (self.levels >= 1, "at least one level"),
                "steps": (self.steps >= 0, "at least 0"),
            },
        )


@dataclass
class RefineConfig:
    """How a trained method's result is improved for each group separately; see `bingo_pl.methods.baselines.Refined`."""

    steps: int = 0
    """Number of optimisation steps. 0: none."""
    similarity: str = "ape"
    """Similarity to minimise: ape, cte or x_coreg."""
    bending: float = 60.0
    """Weight of the whole displacement's bending energy for a pair; of N images 1 / (N - 1) of it."""
    stride: int = 2
    """Spacing of the refinement's own grid in voxels."""
    learning_rate: float = 0.1
    """Learning rate of Adam in voxels of that grid."""

    def __post_init__(self) -> None:
        choose_or_own("refine.similarity", self.similarity, SIMILARITIES, plugins.SIMILARITIES)
        check(
            "refine",
            self,
            {
                "steps": (self.steps >= 0, "at least 0"),
                "bending": (self.bending >= 0, "at least 0"),
                "stride": (self.stride >= 1, "at least 1 voxel"),
                "learning_rate": (self.learning_rate > 0, "a positive rate"),
            },
        )


@dataclass
class IntrinsicConfig:
    """How the agreement of a trained model's own experts is maximised for each group; see
    `bingo_pl.alignment.registrar.Intrinsic`. Voxels are those of the working grid."""

    steps: int = 0
    """Number of optimisation steps at each level. 0: none."""
    from_network: bool = False
    """Whether to start from the network's result instead of from the images as they are."""
    voxels: list[float] = field(default_factory=lambda: [2.0, 1.0, 0.5])
    """Voxel size at which the model sees the images at each level; below 1, they are interpolated."""
    nodes: list[float] = field(default_factory=lambda: [8.0, 4.0, 4.0])
    """Distance of the velocity's nodes at each level, in voxels."""
    bending: float = 24.0
    """Weight of the velocity's mean bending energy, in squared voxels."""
    learning_rate: float = 0.15
    """Learning rate of Adam as a share of the distance of the nodes."""
    points: int = 0
    """Number of random points at which a step compares the images. 0: 1,500 in 2D, 6,000 in 3D."""
    mirrored: bool = True
    """Whether the model also sees the images mirrored along each axis, which adds channels that make other errors; in
    3D it more than doubles the time."""
    edges: float = 0.0
    """Weight of the agreement of the images' edges (normalised gradient fields) beside the experts'."""

    def __post_init__(self) -> None:
        check(
            "intrinsic",
            self,
            {
                "steps": (self.steps >= 0, "at least 0"),
                "voxels": (bool(self.voxels) and min(self.voxels) > 0, "a positive number for each level"),
                "nodes": (
                    len(self.nodes) == len(self.voxels) and min(self.nodes) > 0,
                    f"a positive number for each of the {len(self.voxels)} levels of intrinsic.voxels",
                ),
                "bending": (self.bending >= 0, "at least 0"),
                "learning_rate": (self.learning_rate > 0, "a positive rate"),
                "points": (self.points == 0 or self.points >= 2, "at least 2, or 0"),
                "edges": (self.edges >= 0, "at least 0"),
            },
        )
