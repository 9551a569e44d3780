"""Public names of the config: Config and its sections."""

from segtrain.config.data import DataConfig, SplitConfig
from segtrain.config.schema import (
    AugmentConfig,
    Config,
    EvalConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    PredictConfig,
)
from segtrain.config.train import TrainConfig
from segtrain.config.types import Section

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "EvalConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "PredictConfig",
    "Section",
    "SplitConfig",
    "TrainConfig",
]
