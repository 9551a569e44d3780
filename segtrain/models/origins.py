"""Differences between the network that a weights file is of and the one that takes it.

Shapes don't tell all: padding, activations and interpolation have none.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from segtrain.config import ModelConfig
from segtrain.models.encoders import ARCHITECTURES, list_options
from segtrain.models.names import UNIVERSAL


def describe_origin(config: ModelConfig, network: Mapping[str, Any], arch: bool) -> list[str]:
    """Return in what a file's network, fields of config.model, differs from a config's.

    Architectures count with `arch`, where more than the encoder is loaded. Tags of weights don't.
    """
    differences = []
    encoder = network.get("encoder")
    if encoder and _strip(encoder) != _strip(config.encoder):
        differences.append(f"encoder {encoder}")
    if arch and network.get("arch") in ARCHITECTURES:
        if network["arch"] != config.arch:
            differences.append(f"arch {network['arch']}")
        own, other = (
            _complete(config.arch, options)
            for options in (config.options, network.get("options") or {})
        )
        differences += [f"{k} {v}" for k, v in other.items() if k in own and own[k] != v]
    if "encoder_options" in network:
        other = network["encoder_options"]
        for key in sorted(other.keys() | config.encoder_options.keys()):
            if other.get(key) != config.encoder_options.get(key):
                differences.append(f"{key} {other.get(key, 'not set')}")
    return [f"made with {', '.join(differences)}, which differs here"] if differences else []


def _strip(encoder: str) -> str:
    """Return an encoder's name without a tag; smp's of a name takes timm's weights, too."""
    return encoder.removeprefix(UNIVERSAL).partition(".")[0]


def _complete(arch: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options of an architecture that leave its output logits, defaults included."""
    parameters = inspect.signature(ARCHITECTURES[arch]).parameters
    defaults = {name: parameters[name].default for name in list_options(arch)}
    known = defaults | {key: value for key, value in options.items() if key in defaults}
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in known.items()
        if key not in ("activation", "aux_params")
    }
