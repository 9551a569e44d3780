"""Sliding-window and test-time-augmented inference: images to logits at the images' own size.

Evaluation and prediction both go through here, so that a score is of what prediction delivers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.config import EvalConfig

Predict = Callable[[Tensor], Tensor]
View = tuple[float, tuple[int, ...]]  # a scale, and the axes that are flipped

FLIPS = {"hflip": 3, "vflip": 2}  # of (N,C,H,W)
PIECE = 1 << 20  # pixels of a blended band: what its reader makes of them stays small, too


def predict_bands(
    predict: Predict, images: Tensor, eval: EvalConfig
) -> Iterator[tuple[int, Tensor]]:
    """Yields (top row, logits (N,C,h,W) in float32) of uint8 images (N,K,H,W), from top to bottom.

    predict: images (N,K,h,w), uint8 or float of 0..255, on the device of `images` -> logits
    (N,C,h,w), on its own. Images of at most eval.max_pixels are one band, and so are those that
    one window covers. Of larger ones, memory is taken for the rows of one window, at full width.
    """
    views = views_of(eval.tta)
    height, width = images.shape[2:]
    if window_of(height, width, eval) == (height, width):
        yield 0, mean_of_views(predict, images, views)
    else:
        yield from _blended(predict, images, eval, views)


def _blended(
    predict: Predict, images: Tensor, eval: EvalConfig, views: list[View]
) -> Iterator[tuple[int, Tensor]]:
    """Adds windows to `open_rows`, the rows of one row of them, and yields what none adds to."""
    height, width = images.shape[2:]
    high, wide = window_of(height, width, eval)
    tops, lefts = starts(height, high, eval.overlap), starts(width, wide, eval.overlap)
    columns = list(zip(lefts, blend_weights(wide, lefts), strict=True))
    most = max(1, PIECE // width)
    open_rows = None
    rows = zip(tops, blend_weights(high, tops), [*tops[1:], height], strict=True)
    for top, down, after in rows:
        for left, across in columns:
            window = images[:, :, top : top + high, left : left + wide]
            logits = mean_of_views(predict, window, views)
            if open_rows is None:
                shape = (*logits.shape[:2], high, width)
                open_rows = torch.zeros(shape, device=logits.device)
            weights = torch.outer(down, across).to(logits.device)
            open_rows[..., left : left + wide].addcmul_(logits, weights)
        assert open_rows is not None  # there is a window in each row
        closed = after - top
        for row in range(0, closed, most):
            yield top + row, open_rows[:, :, row : min(row + most, closed)].clone()
        open_rows[:, :, : high - closed] = open_rows[:, :, closed:].clone()
        open_rows[:, :, high - closed :] = 0


def window_of(height: int, width: int, eval: EvalConfig) -> tuple[int, int]:
    """What is predicted at once of an image: all of it, or a window, no larger than the image."""
    if height * width <= eval.max_pixels:
        return height, width
    return min(eval.window[0], height), min(eval.window[1], width)


def starts(side: int, window: int, overlap: float) -> list[int]:
    """Where windows begin along a side, evenly spread from its begin to its end.

    Each shares at least `overlap` of itself with the next, but for a step of at least 1 pixel.
    """
    step = max(1, int(window * (1 - overlap)))
    count = math.ceil((side - window) / step)
    return [place * (side - window) // count for place in range(count)] + [side - window]


def blend_weights(window: int, places: list[int]) -> list[Tensor]:
    """(window,) of each window along a side: raised cosines, whose sum is 1 at each pixel."""
    halves = torch.arange(window, dtype=torch.float64) + 0.5
    taper = (math.pi / window * halves).sin().square()  # above 0, at the ends, too
    total = torch.zeros(places[-1] + window, dtype=torch.float64)
    for place in places:
        total[place : place + window] += taper
    return [(taper / total[place : place + window]).float() for place in places]


def views_of(tta: Sequence[str | float]) -> list[View]:
    """Every scale, 1 first, with every set of the flips; the first is the image as it is."""
    scales = dict.fromkeys([1.0, *(float(part) for part in tta if part not in FLIPS)])
    axes = dict.fromkeys(FLIPS[part] for part in tta if part in FLIPS)
    flips = [chosen for many in range(len(axes) + 1) for chosen in combinations(axes, many)]
    return [(scale, chosen) for scale in scales for chosen in flips]


def mean_of_views(predict: Predict, images: Tensor, views: list[View]) -> Tensor:
    """Logits (N,C,H,W) in float32; of several views, the logarithm of their mean probabilities."""
    if len(views) == 1:
        return predict(images).float()
    size, total = images.shape[2:], torch.zeros(())  # 0-d: adds to tensors of any device
    for scale, axes in views:
        logits = predict(scaled(images, scale).flip(axes)).float().flip(axes)
        if logits.shape[2:] != size:
            logits = F.interpolate(logits, size=size, mode="bilinear")
        total = total + logits.softmax(1)
    return (total / len(views)).clamp(min=torch.finfo(torch.float32).tiny).log()


def scaled(images: Tensor, scale: float) -> Tensor:
    """Images of 0..255 at another size: float32, or as they are where that is their own."""
    size = [max(1, round(side * scale)) for side in images.shape[2:]]
    if size == list(images.shape[2:]):
        return images
    return F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)


def memory_advice(shape: tuple[int, ...], eval: EvalConfig) -> str:
    """What to do where predicting images of a shape (N,K,H,W) takes more memory than there is."""
    height, width = shape[2:]
    height, width = window_of(height, width, eval)
    too_much = f"{shape[0]} x {height}x{width} pixels at once are too much"
    if shape[0] > 1:
        return f"{too_much}; set eval.batch_size=1"
    return (
        f"{too_much}; for smaller windows set eval.max_pixels={max(1, height * width // 4)} "
        f"and eval.window={max(1, height // 2)}x{max(1, width // 2)}"
    )
