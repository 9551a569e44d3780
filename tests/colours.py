"""Scenes whose classes their colours give away, and a network that goes by them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from conftest import scene
from PIL import Image

from segtrain.data.images import ImageReader
from segtrain.data.loading.dataset import Pairs
from segtrain.data.masks import MaskReader
from segtrain.data.sample import Sample


class ByColour(torch.nn.Module):
    """Logits from each pixel alone, by elementwise arithmetic: no rounding depends on the batch."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images.float() - 110.0) / 25.0


def pairs_at(root: Path, count: int, sizes: list[tuple[int, int]]) -> Pairs:
    """Scenes of these sizes in turn; some pixels are ignored, a tenth has another class."""
    samples = []
    for index in range(count):
        image, mask = scene(index, *sizes[index % len(sizes)])
        rng = np.random.default_rng(index)
        mask = np.where(rng.random(mask.shape) < 0.1, (mask + 1) % 3, mask)
        mask[rng.random(mask.shape) < 0.1] = 255
        sample = Sample(root / f"{index}.png", root / f"{index}_mask.png")
        Image.fromarray(image).save(sample.image)
        Image.fromarray(mask.astype(np.uint8)).save(sample.mask)
        samples.append(sample)
    return Pairs(samples, ImageReader(), MaskReader(3))
