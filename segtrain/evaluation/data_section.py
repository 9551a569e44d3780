"""A checkpoint's data section: which fields hold for files that the network was not trained on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from segtrain.config import DataConfig
from segtrain.config.loading import load_config
from segtrain.config.types import Section
from segtrain.data.findings import yaml_line
from segtrain.models.checkpoint import Meta

NETWORK = "network"  # what it has learnt and which images it has seen: stays with it
FILES = "files"  # true of the training's files: others are read as `segtrain check` reads them
MACHINE = "machine"  # chosen for this machine: stays
OWNERS = {
    "path": FILES,
    "format": FILES,
    "splits": FILES,
    "rle_order": FILES,
    "val_fraction": NETWORK,  # a copy of the training's images elsewhere is divided alike
    "split_seed": NETWORK,
    "group_by": FILES,
    "exclude": FILES,
    "allow_outside": FILES,
    "classes": NETWORK,
    "palette": FILES,
    "palette_by": FILES,
    "label_map": FILES,
    "nodata": FILES,
    "other_values": FILES,
    "lb_ignore": FILES,
    "allow_lossy_masks": FILES,
    "value_range": FILES,
    "max_pixels": MACHINE,
    "windowed": MACHINE,
    "exif": FILES,
    "on_error": MACHINE,
    "sampler": FILES,
    "rare_share": FILES,
    "rare_classes": FILES,
    "cache": MACHINE,
    "cache_gb": MACHINE,
    "workers": MACHINE,
}
PAIRS = ("format", "splits", "rle_order", "exclude")  # by which pairs are found
WITHOUT_EFFECT = {"path", "format", "sampler", "rare_share", "rare_classes"}  # once pairs are found


def reset_files(meta: Meta, sets: list[str], flags: dict[str, Any]) -> DataConfig:
    """Return a checkpoint's data section for other files, with a command's changes.

    Its classes are those that the command names, for the files; None without.
    """
    fresh = DataConfig()
    reset = {key for key, owner in OWNERS.items() if owner == FILES} | {"classes"}
    reset.remove("path")
    if 0 <= fresh.lb_ignore < len(meta.classes):
        reset.remove("lb_ignore")
    base = meta.config.model_copy(update={"data": take_fields(meta.config.data, fresh, reset)})
    return load_config(sets=sets, flags=flags, base=base).data


def take_fields(section: DataConfig, other: Section, keys: Iterable[str]) -> DataConfig:
    """Return a data section with some fields of another."""
    return section.model_copy(update={key: getattr(other, key) for key in keys})


def list_unused(trained: DataConfig, used: DataConfig) -> list[str]:
    """Return the fields that the training set and that other files don't use, with values."""
    fresh = DataConfig()
    values = {
        key: trained.model_dump()[key]
        for key, owner in OWNERS.items()
        if owner == FILES and key not in WITHOUT_EFFECT
        if getattr(fresh, key) != getattr(trained, key) != getattr(used, key)
    }
    texts = {key: yaml_line(value) for key, value in values.items()}
    return [f"data.{k}={text}" if len(text) < 40 else f"data.{k}" for k, text in texts.items()]
