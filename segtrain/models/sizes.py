"""Sizes of a network against the tensors of its weights file, before memory is taken for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch import Tensor

from segtrain.config import ModelConfig
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.models.segmentation import shape_model

ALWAYS = 256  # numbers up to this one build no large network


def refuse_misfit(
    path: Path, config: ModelConfig, num_classes: int, weights: Mapping[str, Tensor]
) -> None:
    """Raise SegtrainError where a file's tensors are not those of the network that it describes."""

    def error(problem: str) -> SegtrainError:
        return SegtrainError(f"{path}: its weights don't fit its config: {problem}")

    largest = max((max(t.shape, default=1) for t in weights.values() if t.numel()), default=0)
    # the size of images may be larger than any tensor
    options = config.options | config.encoder_options | {"img_size": 0}
    numbers = [config.in_channels, num_classes, *_list_numbers(options)]
    if max(numbers) > max(ALWAYS, largest):
        raise error(f"no tensor has the size {max(numbers)} that its config names")
    with suppress(UsageError):  # of the few encoders that can't be built on the meta device
        expected = shape_model(config, num_classes).state_dict()
        if other := sorted(expected.keys() ^ weights.keys()):
            raise error(f"{len(other)} tensors are missing or unknown ({shorten(other)})")
        for name, tensor in expected.items():
            if tensor.shape != weights[name].shape:
                shapes = f"{list(weights[name].shape)}, expected {list(tensor.shape)}"
                raise error(f"{name} has the shape {shapes}")
            if tensor.is_floating_point() != weights[name].is_floating_point():
                raise error(f"{name} is of type {weights[name].dtype}, expected {tensor.dtype}")


def _list_numbers(value: Any) -> Iterator[int]:
    """Yield all integers in nested options, and the lengths of their lists."""
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict | list | tuple):
        yield len(value)
        for item in value.values() if isinstance(value, dict) else value:
            yield from _list_numbers(item)
