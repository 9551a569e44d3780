"""Public names of the losses: build_loss, the table of families, and each family as a class."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segtrain.losses.border import Border
    from segtrain.losses.build import FAMILIES, Loss, build_loss
    from segtrain.losses.cldice import ClDice
    from segtrain.losses.cross_entropy import CrossEntropy
    from segtrain.losses.focal import Focal
    from segtrain.losses.ghm import GHM
    from segtrain.losses.lovasz import Lovasz
    from segtrain.losses.ohem import OhemCE, TopK
    from segtrain.losses.perceptual import VGG
    from segtrain.losses.poly import Poly
    from segtrain.losses.region import Dice, Jaccard, Tversky

__all__ = [
    "FAMILIES",
    "GHM",
    "VGG",
    "Border",
    "ClDice",
    "CrossEntropy",
    "Dice",
    "Focal",
    "Jaccard",
    "Loss",
    "Lovasz",
    "OhemCE",
    "Poly",
    "TopK",
    "Tversky",
    "build_loss",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # lazily: a loss expression is parsed without torch
        from segtrain.losses import build

        return getattr(build, name)
    raise AttributeError(f"module 'segtrain.losses' has no attribute {name!r}")
