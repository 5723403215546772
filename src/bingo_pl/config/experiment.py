"""Settings of an experiment and of a comparison of methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bingo_pl.config.checks import check
from bingo_pl.config.data import DataConfig
from bingo_pl.config.method import (
    IntrinsicConfig,
    IterativeConfig,
    ModelConfig,
    RefineConfig,
    SimilarityConfig,
    WeightConfig,
)
from bingo_pl.config.training import LogConfig, TrainerConfig

METHODS = ("bingo", "ape", "cte", "x_coreg", "ape_attresunet", "cte_attresunet")
"""Those of the package, see `bingo_pl.models.registry.METHODS`."""


@dataclass
class Config:
    """An experiment."""

    name: str = ""
    """Folder under `runs`. Empty: the experiment's name, numbered if taken."""
    runs: str = "runs"
    """Folder in which runs are written."""
    seed: int = 0
    """Seed of all random numbers."""
    method: str = "bingo"
    """Name of the method in `bingo_pl.models.registry.METHODS`, or your own code, see docs/plugins.md."""
    own: dict[str, Any] = field(default_factory=dict)
    """Settings of a method of one's own, ``own.width=16``."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    weights: WeightConfig = field(default_factory=WeightConfig)
    similarity: SimilarityConfig = field(default_factory=SimilarityConfig)
    iterative: IterativeConfig = field(default_factory=IterativeConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    intrinsic: IntrinsicConfig = field(default_factory=IntrinsicConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    log: LogConfig = field(default_factory=LogConfig)

    def __post_init__(self) -> None:
        check("", self, {"seed": (0 <= self.seed < 2**32, "from 0 to 4294967295")})


@dataclass
class RowConfig:
    """A method of a comparison."""

    settings: list[str] = field(default_factory=list)
    """Settings (``key=value``) that differ from the experiment's, or from those of the row it starts from."""
    start: str = ""
    """Row whose training it uses. Empty: its own."""


@dataclass
class TableConfig:
    """A comparison of methods on the test groups of an experiment."""

    experiment: str = ""
    """Name from `experiments()`, or a path."""
    methods: dict[str, RowConfig] = field(default_factory=dict)
    """Rows, in order."""
