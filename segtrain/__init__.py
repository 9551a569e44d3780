"""Semantic segmentation with pixel-level hard-example losses."""

from segtrain.version import __version__

TYPE_CHECKING = False  # as in typing, whose import takes longer than this module's
if TYPE_CHECKING:
    from segtrain.models.checkpoint import load_model as load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> object:
    if name == "load":  # lazily: importing segtrain must not import torch
        from segtrain.models.checkpoint import load_model

        return load_model
    raise AttributeError(f"module 'segtrain' has no attribute {name!r}")
