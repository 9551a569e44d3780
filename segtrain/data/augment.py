"""Random changes of a training pair; the only file that knows albumentations."""

from __future__ import annotations

import os

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # before its import: it never calls home

import albumentations as A
import cv2
import numpy as np

from segtrain.config import Augment
from segtrain.data.sampling import seed_at

cv2.setNumThreads(0)  # loader workers are the parallelism

MEAN_COLOUR = (124, 116, 104)  # ImageNet's, so that padding is 0 once normalised


class Augmentation:
    """Scale, pad, crop, flip and jitter; a function of the pair and of (seed, pass, index)."""

    def __init__(self, config: Augment, lb_ignore: int, seed: int):
        height, width = config.crop
        low, high = config.scale
        self.seed = seed
        self.transform = A.Compose(
            [
                A.RandomScale((low - 1, high - 1), p=1, mask_interpolation=cv2.INTER_NEAREST),
                A.PadIfNeeded(
                    height,
                    width,
                    position="random",
                    fill=MEAN_COLOUR,
                    fill_mask=lb_ignore,
                    border_mode=cv2.BORDER_CONSTANT,
                ),
                A.RandomCrop(height, width),
                A.HorizontalFlip(p=config.hflip),
                A.VerticalFlip(p=config.vflip),
                A.ColorJitter(
                    *[(1 - config.jitter, 1 + config.jitter)] * 3,
                    hue=(0, 0),
                    p=1 if config.jitter else 0,
                ),
            ]
        )

    def __call__(
        self, image: np.ndarray, mask: np.ndarray, pass_: int, index: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """image (H,W,3) uint8 and mask (H,W) int16 -> the same of the crop's size."""
        # reseeded for each sample: the same whatever the number of workers
        self.transform.set_random_seed(seed_at(self.seed, pass_, index))
        changed = self.transform(image=image, mask=mask)
        return changed["image"], changed["mask"]
