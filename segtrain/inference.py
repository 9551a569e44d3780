"""Image -> logits at the image's own size; knows no network, only a function that predicts."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def predict_logits(predict: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """uint8 (N,3,H,W) -> logits (N,C,H,W) in float32, on the image's device."""
    with torch.inference_mode():
        return predict(image).float()
