"""Layers of an encoder from the first to the last, for learning rates that decay towards the first.

timm's group_matcher needs the classifier's names, which features_only renames, and smp's own
encoders have none; the modules themselves tell the same layers (tests/models/test_layers.py).
"""

from __future__ import annotations

import re

from timm.models import FeatureDictNet
from torch import nn

STAGE_OF_MIT = re.compile(r"(?:patch_embed|block|norm)(\d)\.")  # SegFormer's encoder
STACKS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def number_layers(encoder: nn.Module) -> dict[nn.Parameter, int]:
    """Return the layer of each parameter: 0 for the stem, then 1, 2, ... for the blocks in turn.

    A block is an item of a stack of modules, such as a residual or a transformer block. What lies
    between two blocks, such as a downsampling, belongs to the second one; what follows the last
    block belongs to that. An encoder without stacks has its direct parts for blocks.
    """
    blocks = _find_blocks(encoder)
    if not blocks:
        root = encoder
        while len(parts := _list_parts(root)) == 1:
            root = parts[0]
        blocks = parts
    own = {p: number for number, block in enumerate(blocks, 1) for p in block.parameters()}
    parameters = _list_parameters(encoder)
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


def _list_parameters(encoder: nn.Module) -> list[nn.Parameter]:
    """Return the parameters from the first layer to the last."""
    named = list(encoder.named_parameters())
    stages = [match for name, _ in named if (match := STAGE_OF_MIT.match(name))]
    if len(stages) == len(named):  # the embeddings of all stages stand before the first block
        order = sorted(range(len(named)), key=lambda index: int(stages[index][1]))
        named = [named[index] for index in order]
    return [parameter for _, parameter in named]


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
