"""segtrain: semantic segmentation with pixel-level hard-example losses."""

from segtrain.version import __version__  # noqa: F401


def __getattr__(name: str):
    if name == "load":  # lazily: importing segtrain must not import torch
        from segtrain.models.checkpoint import load_model

        return load_model
    raise AttributeError(f"module 'segtrain' has no attribute {name!r}")
