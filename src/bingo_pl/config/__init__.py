"""Settings: dataclasses that check themselves, and how they are loaded."""

from bingo_pl.config.checks import SIMILARITIES
from bingo_pl.config.data import DataConfig
from bingo_pl.config.experiment import METHODS, Config, RowConfig, TableConfig
from bingo_pl.config.loading import (
    differences,
    experiments,
    from_tree,
    leaves,
    load,
    load_table,
    override,
    read_yaml,
    to_tree,
    to_yaml,
    with_data,
)
from bingo_pl.config.method import (
    IntrinsicConfig,
    IterativeConfig,
    ModelConfig,
    RefineConfig,
    SimilarityConfig,
    WeightConfig,
)
from bingo_pl.config.training import LogConfig, TrainerConfig

__all__ = [
    "METHODS",
    "SIMILARITIES",
    "Config",
    "DataConfig",
    "IntrinsicConfig",
    "IterativeConfig",
    "LogConfig",
    "ModelConfig",
    "RefineConfig",
    "RowConfig",
    "SimilarityConfig",
    "TableConfig",
    "TrainerConfig",
    "WeightConfig",
    "differences",
    "experiments",
    "from_tree",
    "leaves",
    "load",
    "load_table",
    "override",
    "read_yaml",
    "to_tree",
    "to_yaml",
    "with_data",
]
