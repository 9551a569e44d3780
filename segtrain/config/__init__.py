"""The face of the config: Config and its sections."""

from segtrain.config.data import Data, Split
from segtrain.config.schema import Augment, Config, Eval, Loss, Model, Optim, Predict, Train
from segtrain.config.types import Section

__all__ = [
    "Augment",
    "Config",
    "Data",
    "Eval",
    "Loss",
    "Model",
    "Optim",
    "Predict",
    "Section",
    "Split",
    "Train",
]
