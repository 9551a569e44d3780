"""Layers of an encoder from the first to the last, for learning rates that decay towards the first.

timm's group_matcher needs the classifier's names, which features_only renames, and smp's own
encoders have none; the modules themselves tell the same layers (tests/models/test_layers.py).
"""

from __future__ import annotations

import torch
from timm.models import FeatureDictNet
from torch import nn

from segtrain.models.trial import copy_shapes

STACKS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def number_layers(encoder: nn.Module, channels: int, side: int) -> dict[nn.Parameter, int]:
    """Return the layer of each parameter: 0 for the stem, then 1, 2, ... for the blocks in turn.

    A block is an item of a stack of modules, such as a residual or a transformer block, and comes
    where a forward pass first uses it, for which the encoder takes images of (channels, side,
    side). What is used between two blocks, such as a downsampling, belongs to the second one; what
    follows the last block belongs to that. An encoder without stacks has its direct parts for
    blocks.
    """
    blocks = _find_blocks(encoder)
    if not blocks:
        root = encoder
        while len(parts := _list_parts(root)) == 1:
            root = parts[0]
        blocks = parts
    uses = _number_uses(encoder, channels, side)
    blocks.sort(key=uses.__getitem__)
    own = {p: number for number, block in enumerate(blocks, 1) for p in block.parameters()}
    parameters = list(encoder.parameters())
    first_uses = {p: uses[m] for m in encoder.modules() for p in m.parameters(recurse=False)}
    parameters.sort(key=first_uses.__getitem__)
    has_stem = bool(parameters) and parameters[0] not in own
    layers: dict[nn.Parameter, int] = {}
    following = len(blocks)
    for parameter in reversed(parameters):
        following = layers[parameter] = own.get(parameter, following)
    for parameter in parameters:  # the stem is not the first block's
        if parameter in own:
            break
        layers[parameter] = 0
    return layers if has_stem else {p: number - 1 for p, number in layers.items()}


def _number_uses(encoder: nn.Module, channels: int, side: int) -> dict[nn.Module, int]:
    """Return when a forward pass first uses each module.

    One that it doesn't use comes with the one that stands before it.
    """
    trial = copy_shapes(encoder).eval()
    called: dict[nn.Module, int] = {}

    def note(module: nn.Module, _: object) -> None:
        called.setdefault(module, len(called))

    for module in trial.modules():
        module.register_forward_pre_hook(note)
    with torch.no_grad():
        trial(torch.empty(1, channels, side, side, device="meta"))
    uses: dict[nn.Module, int] = {}
    latest = 0
    for module, twin in zip(encoder.modules(), trial.modules(), strict=True):
        latest = min((called[part] for part in twin.modules() if part in called), default=latest)
        uses[module] = latest
    return uses


def _find_blocks(module: nn.Module) -> list[nn.Module]:
    """Return the outermost items of stacks that have parts and are no stacks themselves."""
    blocks = []
    for part in _list_parts(module):
        if _is_stack(module) and _list_parts(part) and not isinstance(part, STACKS):
            blocks.append(part)
        else:
            blocks += _find_blocks(part)
    return blocks


def _is_stack(module: nn.Module) -> bool:
    """Return whether a module is a stack, not a wrapper that timm puts around a network."""
    if isinstance(module, nn.ModuleDict):
        return not isinstance(module, FeatureDictNet) and len(_list_parts(module)) > 1
    return isinstance(module, STACKS)


def _list_parts(module: nn.Module) -> list[nn.Module]:
    """Return the child modules that have parameters."""
    return [child for child in module.children() if any(True for _ in child.parameters())]
