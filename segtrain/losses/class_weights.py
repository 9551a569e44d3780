"""Class weights as a module: one number for each class, or none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import torch
from torch import Tensor, nn

from segtrain.errors import UsageError
from segtrain.losses.argument_types import Balancing, require_one_per_class
from segtrain.losses.pixel_pass import Pixels


class ClassWeights(nn.Module):
    """Checked numbers, one for each class, or None. Raises UsageError for balancing by name."""

    weight: Tensor | None

    def __init__(self, weight: Sequence[float] | str | None, name: str = "weight"):
        super().__init__()
        self.name = name
        if isinstance(weight, str):  # the spec turns it into numbers, from the training masks
            raise UsageError(
                f"loss: {name} is a list of numbers, one for each class, got {weight!r}; "
                f"only segtrain fit takes {' and '.join(get_args(Balancing))}"
            )
        self.register_buffer(
            "weight", None if weight is None else torch.tensor(weight), persistent=False
        )

    def vector(self, pixels: Pixels) -> Tensor:
        """Return (C,), on the pixels' device and in their precision."""
        if self.weight is None:
            return pixels.nll.new_ones(pixels.num_classes)
        require_one_per_class(self.name, len(self.weight), pixels.num_classes)
        return self.weight.to(pixels.nll)

    def times(self, values: Tensor, pixels: Pixels) -> Tensor:
        """Return a map (N,H,W) times the weight of each pixel's class."""
        return values if self.weight is None else self.vector(pixels)[pixels.ids] * values
