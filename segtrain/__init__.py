"""segtrain: semantic segmentation with pixel-level hard-example losses."""

__version__ = "0.1.0"


def __getattr__(name: str):
    if name == "load":  # lazily: importing segtrain must not import torch
        from segtrain.checkpoint import load_model

        return load_model
    raise AttributeError(f"module 'segtrain' has no attribute {name!r}")
