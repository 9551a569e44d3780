"""Backward passes that have no derivative themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from segtrain.errors import UsageError


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap the backward of an autograd Function; refuse create_graph=True, as its graph would end.

    once_differentiable lets it pass where no incoming gradient has a graph, as in a penalty.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():  # in a backward: create_graph=True
            raise UsageError(
                "loss: create_graph=True, as for a gradient penalty, needs a second derivative, "
                "which the kernels don't have; set SEGTRAIN_KERNELS=0 in the environment"
            )
        return backward(ctx, *gradients)

    return checked
