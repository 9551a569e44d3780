"""Table of every loss family's arguments by name, without torch."""

from __future__ import annotations

from pydantic.dataclasses import dataclass

from segtrain.losses.argument_types import Arguments, Layers, WeightsFile
from segtrain.losses.pixel_arguments import (
    BorderArguments,
    CrossEntropyArguments,
    FocalArguments,
    GHMArguments,
    OhemArguments,
    PolyArguments,
    TopKArguments,
)
from segtrain.losses.region_arguments import (
    ClDiceArguments,
    DiceArguments,
    JaccardArguments,
    LovaszArguments,
    TverskyArguments,
)


@dataclass(frozen=True)
class VGGArguments(Arguments):
    """Mean squared distance of VGG-19 features of the soft and the true mask, both painted.

    A pixel of the soft mask has the mean of the classes' colours, weighted by their probabilities.
    Ignored pixels are black in both. The network is fixed.

    layers: indices into VGG-19's features; the loss is the mean over them.
    weights: imagenet, none (random, for tests), or a file of VGG-19's state dict.
    palette: an RGB colour 0..255 for each class; else hues at equal distances.
    """

    formula = "mean over layers of mean((F(sum_c p_c colour_c) - F(colour_true))^2)"
    source = "Johnson et al. 2016, arXiv:1603.08155; features: Simonyan and Zisserman 2014"
    layers: Layers = (3, 8, 13, 22, 31)  # the second ReLU of each block
    weights: WeightsFile = "imagenet"


ARGUMENTS: dict[str, type[Arguments]] = {
    "ce": CrossEntropyArguments,
    "ohem": OhemArguments,
    "topk": TopKArguments,
    "focal": FocalArguments,
    "ghm": GHMArguments,
    "poly": PolyArguments,
    "border": BorderArguments,
    "dice": DiceArguments,
    "tversky": TverskyArguments,
    "jaccard": JaccardArguments,
    "lovasz": LovaszArguments,
    "cldice": ClDiceArguments,
    "vgg": VGGArguments,
}
OUTER = [name for name, family in ARGUMENTS.items() if family.wraps]
INNER = [name for name, family in ARGUMENTS.items() if family.per_pixel]
