"""Encoders of smp and timm: their options and defaults, and which architectures take them."""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Callable
from functools import cache
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from segtrain.config import ModelConfig
from segtrain.errors import LONGEST, UsageError, cut_middle, did_you_mean
from segtrain.models.names import UNIVERSAL

ARCHITECTURES = smp.MODEL_ARCHITECTURES_MAPPING
# arguments of architectures that other fields set
OTHER_FIELDS = {"encoder_name", "encoder_weights", "in_channels", "classes", "kwargs"}
# arguments of timm's for weights, files and devices
NOT_OF_ENCODERS = {"pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"}
NOT_OF_ENCODERS |= {"checkpoint_path", "cache_dir", "device", "dtype"}
# arguments of architectures that change the output, and why they are refused
OUTPUTS = {
    "activation": "losses and scores take logits",
    "aux_params": "no labels of whole images are read",
}
# encoders of smp with TensorFlow's weights and without its padding
PORT = re.compile(r"timm-(?:tf_)?efficientnet[-_](\w+)")
POPULAR = ("resnet50", "tu-convnext_tiny", "tu-vit_small_patch16_224")


def network_options(config: ModelConfig) -> dict[str, Any]:
    """Return all further arguments of smp's create_model: defaults for the encoder, and options."""
    defaults = default_options(config.arch, config.encoder)
    return defaults | config.options | config.encoder_options


def default_options(arch: str, encoder: str) -> dict[str, Any]:
    """Return the arguments with which an encoder of timm takes images of more than one size."""
    if not encoder.startswith(UNIVERSAL):
        return {}
    model = build_shapes(encoder.removeprefix(UNIVERSAL))
    if not takes(model, "dynamic_img_size"):
        return {}
    defaults: dict[str, Any] = {"dynamic_img_size": True}
    # DPT's decoder scales features to strides of 4, 8, 16 and 32; timm resamples the weights
    if arch == "dpt" and 32 % model.patch_embed.patch_size[0]:
        defaults["patch_size"] = 16
    return defaults


@cache
def build_shapes(name: str) -> Any:
    """Return timm's model of a name on the meta device: it has no weights."""
    with torch.device("meta"):
        return timm.create_model(name)


def takes(model: nn.Module, argument: str) -> bool:
    """Return whether a model's class, or one that it passes its arguments on to, names one."""
    kinds = [kind for kind in type(model).__mro__ if issubclass(kind, nn.Module)]
    return any(argument in inspect.signature(kind).parameters for kind in kinds)


def list_options(arch: str) -> set[str]:
    """Return the arguments of an architecture that model.options may hold."""
    return set(inspect.signature(ARCHITECTURES[arch]).parameters) - OTHER_FIELDS


def refuse_wrong_options(config: ModelConfig) -> None:
    """Raise UsageError for options that smp or timm would take and ignore, or take for weights."""
    arch, encoder = config.arch, config.encoder
    own, is_timm = list_options(arch), encoder.startswith(UNIVERSAL)
    handed_on = config.options.keys() - own  # smp passes them to the encoder
    if handed_on and not is_timm:
        name = min(handed_on)
        raise UsageError(
            f"model.options: {arch} has no {name!r}{did_you_mean(name, own)}; "
            f"it takes {', '.join(sorted(own))}"
        )
    if config.encoder_options and not is_timm:
        raise UsageError(
            f"model.encoder_options: {encoder} is smp's own and takes none; encoders of timm, "
            f"{UNIVERSAL}NAME, take them"
        )
    if misplaced := sorted(own & config.encoder_options.keys()):
        raise UsageError(
            f"model.encoder_options: {misplaced[0]!r} is an argument of {arch}; set it in "
            "model.options"
        )
    if foreign := sorted(NOT_OF_ENCODERS & (handed_on | config.encoder_options.keys())):
        raise UsageError(
            f"model.encoder_options: {foreign[0]!r} doesn't shape the encoder; weights are chosen "
            "by model.weights, devices by train.device"
        )


def refuse_other_outputs(config: ModelConfig) -> None:
    """Raise UsageError for options with which a network's output isn't logits alone."""
    for name, reason in OUTPUTS.items():
        if config.options.get(name) is not None:
            raise UsageError(f"model.options: {name} can't be set: {reason}; leave it out")


def explain_port(encoder: str) -> str | None:
    """Return a note on an encoder of smp whose pretrained features are not those of its weights."""
    if port := PORT.fullmatch(encoder):
        return (
            f"{encoder} leaves out the padding that its pretrained weights were trained with, so "
            f"that its features are off; take --encoder {UNIVERSAL}tf_efficientnet_{port[1]}"
        )
    return None


def explain_combination(
    config: ModelConfig, error: Exception, works: Callable[[ModelConfig], bool]
) -> str:
    """Return why a network can't be built, and combinations near it that work."""
    arch, encoder = config.arch, config.encoder
    options = config.options | config.encoder_options
    text = f"model: {arch} cannot be built on {encoder}"
    if options:
        text += f" with {options}"
    text += f": {explain_failure(error)}; "
    if options and works(config.model_copy(update={"options": {}, "encoder_options": {}})):
        own = list_options(arch)
        unknown = [name for name in options if name not in own and name in str(error)]
        near = [did_you_mean(name, own) for name in unknown]
        return f"{text}without these options it can be{''.join(near)}"
    plain = ModelConfig(arch=arch, encoder=encoder, in_channels=config.in_channels)
    takers = [a for a in ARCHITECTURES if works(plain.model_copy(update={"arch": a}))]
    others = [e for e in POPULAR if works(plain.model_copy(update={"encoder": e}))]
    by = f"{', '.join(takers)} can" if takers else "no architecture can"
    return f"{text}{by}; {arch} can be on {', '.join(others)}"


def explain_failure(error: Exception) -> str:
    """Return an exception's message in one line; the line of code that raised it if it has none."""
    message = " ".join(str(error).split())
    if not message:
        frames = traceback.extract_tb(error.__traceback__)
        message = (frames[-1].line or "").partition("  #")[0] or type(error).__name__
    return cut_middle(message.rstrip("."), LONGEST)
