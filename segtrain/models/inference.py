"""Sliding-window inference and test-time augmentation: images to logits at the images' own size.

Evaluation and prediction share this code, so a score is that of the masks which `predict` writes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from segtrain.config import EvalConfig
from segtrain.config.types import SMALLEST_WINDOW
from segtrain.errors import SegtrainError, first_line
from segtrain.models.upsampling import UpsampledLogits

Logits = Tensor | UpsampledLogits
Predictor = Callable[[Tensor], Logits]  # images -> logits
View = tuple[float, tuple[int, ...]]  # a scale, and the axes that are flipped
WindowReader = Callable[[slice, slice], Tensor]  # rows, columns -> uint8 (N,K,h,w)

FLIPS = {"hflip": 3, "vflip": 2}  # axes of (N,C,H,W)
BAND = 1 << 21  # values of a band of logits: what its reader derives from them stays small, too
NOT_FINITE = "the network's output is not finite (NaN or infinite values)"


class NonFiniteError(SegtrainError):
    """Logits that are not finite: their argmax is no prediction."""


class SizeError(SegtrainError):
    """Images of a size that the network can't take."""


@dataclass(frozen=True)
class Block:
    """Columns left to right of an image of (height, width), from the row `top` to its end."""

    size: tuple[int, int]
    left: int
    right: int
    top: int = 0


class CheckedPredictor:
    """A predictor that remembers the images for which any of its logits was not finite.

    It sees each view and window: averages of them may hide an infinite value.
    """

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        self.broken = torch.zeros(1, dtype=torch.bool)  # (N,), on the device of the logits

    def __call__(self, images: Tensor) -> Logits:
        logits = self.predictor(images)
        # upsampling keeps what is not finite, and makes nothing so
        stored = logits.low if isinstance(logits, UpsampledLogits) else logits
        # both pass on NaN; isfinite takes longer, for it writes a map of all logits
        extremes = torch.stack([stored.amax((1, 2, 3)), stored.amin((1, 2, 3))])
        self.broken = self.broken.to(stored.device) | ~extremes.isfinite().all(0)
        return logits


def defer_upsampling(model: Any) -> Predictor:
    """Return the model as a function, images -> logits, that upsamples those of a CPU by rows.

    Modules other than SegmentationModel are returned as they are. The function raises SizeError.
    """
    if not hasattr(model, "by_rows"):
        return cast(Predictor, model)

    def predict(images: Tensor) -> Logits:
        model.by_rows = True
        try:
            return cast(Logits, model(images))
        except (RuntimeError, ValueError, AssertionError, IndexError) as error:  # of layers
            height, width = images.shape[2:]
            _, reason = model.find_size_error([(height, width)]) or ((), "")
            if isinstance(error, IndexError):  # of a table of positions, which has no values there
                reason = first_line(error)
            if not reason:
                raise
            advice = advise_on_size(model.padding.least)
            raise SizeError(
                f"the network can't take {height}x{width} ({reason}); {advice}"
            ) from error
        finally:
            model.by_rows = False

    return predict


def predict_bands(
    predictor: Predictor, images: Tensor, eval: EvalConfig
) -> Iterator[tuple[int, Tensor]]:
    """Yield (top row, logits (N,C,h,W) in float32) of uint8 images (N,K,H,W), from top to bottom.

    predictor: images (N,K,h,w), uint8 or float of 0..255, on the device of `images` -> logits
    (N,C,h,w), on a device of its own. An image of at most eval.max_pixels, or no larger than one
    window, is one band, unless its logits are upsampled by rows. For larger ones memory holds the
    rows of one window, at full width.
    """
    height, width = images.shape[2:]
    block = Block((height, width), 0, width)
    yield from predict_block(predictor, lambda y, x: images[:, :, y, x], eval, block)


def predict_block(
    predictor: Predictor, read: WindowReader, eval: EvalConfig, block: Block
) -> Iterator[tuple[int, Tensor]]:
    """Yield what `predict_bands` does of the whole image, in the block's rows and columns.

    read: rows never begin above those of an earlier call. Only windows that touch the block are
    predicted, those across its border again for its neighbour: in their order, so that each pixel
    is the same sum, to the last bit. Memory holds a window's rows at the block's width.
    """
    height, width = block.size
    if choose_window(height, width, eval) != block.size:
        yield from _blend_windows(predictor, read, eval, block)
        return
    images = read(slice(0, height), slice(0, width))
    for top, logits in average_views(predictor, images, list_views(eval.tta)):
        first = max(block.top - top, 0)
        if first < logits.shape[2]:
            yield top + first, logits[:, :, first:, block.left : block.right]


def _blend_windows(
    predictor: Predictor, read: WindowReader, eval: EvalConfig, block: Block
) -> Iterator[tuple[int, Tensor]]:
    """Add up windows in `open_rows`, a window high, and yield rows once no window adds to them."""
    (height, width), views = block.size, list_views(eval.tta)
    high, wide = choose_window(height, width, eval)
    tops = place_windows(height, high, eval.overlap)
    lefts = place_windows(width, wide, eval.overlap)
    columns = [
        (slice(left, left + wide), across)
        for left, across in zip(lefts, make_blend_weights(wide, lefts), strict=True)
        if left < block.right and left + wide > block.left
    ]
    open_rows = torch.zeros(0)  # until the first window says how many classes and which device
    rows = zip(tops, make_blend_weights(high, tops), [*tops[1:], height], strict=True)
    for top, down, next_top in rows:
        if top + high <= block.top:
            continue
        for window, across in columns:
            inside = slice(max(window.start, block.left), min(window.stop, block.right))
            shared, place = _move(inside, -window.start), _move(inside, -block.left)
            images = read(slice(top, top + high), window)
            for row, logits in average_views(predictor, images, views):
                if not len(open_rows):
                    shape = (*logits.shape[:2], high, block.right - block.left)
                    open_rows = torch.zeros(shape, device=logits.device)
                part = slice(row, row + logits.shape[2])
                weights = torch.outer(down[part], across[shared]).to(logits.device)
                open_rows[:, :, part, place].addcmul_(logits[..., shared], weights)
                del logits  # else it takes memory while the next window is predicted
        closed = next_top - top
        # copied: its memory is used again for the rows below
        band_rows = count_band_rows(open_rows.shape)
        for row in range(max(block.top - top, 0), closed, band_rows):
            yield top + row, open_rows[:, :, row : min(row + band_rows, closed)].clone()
        for row in range(closed, high, closed):  # no more at once: they would overlap
            rows_left = open_rows[:, :, row : row + closed]
            open_rows[:, :, row - closed : row - closed + rows_left.shape[2]] = rows_left
        open_rows[:, :, high - closed :] = 0


def _move(pixels: slice, by: int) -> slice:
    return slice(pixels.start + by, pixels.stop + by)


def choose_window(height: int, width: int, eval: EvalConfig) -> tuple[int, int]:
    """Return (height, width) that the network sees at once: the whole image, or a window of it."""
    if height * width <= eval.max_pixels:
        return height, width
    return min(eval.window[0], height), min(eval.window[1], width)


def place_windows(side: int, window: int, overlap: float) -> list[int]:
    """Return the first pixel of each window along a side, evenly spaced from end to end.

    Neighbours share at least `overlap` of a window, except that a step is at least 1 pixel.
    """
    step = max(1, int(window * (1 - overlap)))
    steps = math.ceil((side - window) / step)
    return [i * (side - window) // steps for i in range(steps)] + [side - window]


def find_context(
    size: tuple[int, int], area: tuple[slice, slice], eval: EvalConfig
) -> tuple[slice, slice]:
    """Return the rows and columns of an image that the windows cover which touch an area of it."""
    sides = zip(size, choose_window(*size, eval), area, strict=True)
    context = []
    for side, window, inner in sides:
        starts = place_windows(side, window, eval.overlap)
        touching = [s for s in starts if s < inner.stop and s + window > inner.start]
        context.append(slice(touching[0], touching[-1] + window))
    return context[0], context[1]


def make_blend_weights(window: int, starts: list[int]) -> list[Tensor]:
    """Return (window,) weights of each window along a side: raised cosines that sum to 1."""
    halves = torch.arange(window, dtype=torch.float64) + 0.5
    taper = (math.pi / window * halves).sin().square()  # above 0 at the ends, too
    total = torch.zeros(starts[-1] + window, dtype=torch.float64)
    for start in starts:
        total[start : start + window] += taper
    # neighbours may share any part of a window: the tapers alone don't sum to 1
    return [(taper / total[start : start + window]).float() for start in starts]


def list_views(tta: Sequence[str | float]) -> list[View]:
    """Return every scale, 1 first, with every set of the flips; the first view is the image."""
    scales = dict.fromkeys([1.0, *(float(part) for part in tta if part not in FLIPS)])
    axes = dict.fromkeys(FLIPS[part] for part in tta if part in FLIPS)
    flips = [chosen for many in range(len(axes) + 1) for chosen in combinations(axes, many)]
    return [(scale, chosen) for scale in scales for chosen in flips]


def average_views(
    predictor: Predictor, images: Tensor, views: list[View]
) -> Iterator[tuple[int, Tensor]]:
    """Yield (top row, logits (N,C,h,W) in float32); of several views the log mean probabilities."""
    if len(views) == 1:
        yield from read_bands(predictor(images))
        return
    size, total = images.shape[2:], torch.zeros(())  # 0-d: adds to tensors of any device
    for scale, axes in views:
        view = predictor(scale_images(images, scale).flip(axes))
        logits = (view if isinstance(view, Tensor) else view.whole()).float().flip(axes)
        if logits.shape[2:] != size:  # of a scaled view
            logits = F.interpolate(logits, size=size, mode="bilinear")
        total = total + logits.softmax(1)
    # above 0: the log of a probability that underflowed would be -inf
    yield 0, (total / len(views)).clamp(min=torch.finfo(torch.float32).tiny).log()


def read_bands(logits: Logits) -> Iterator[tuple[int, Tensor]]:
    """Yield (top row, logits (N,C,h,W) in float32): all at once, or bands of those upsampled."""
    step, height = count_band_rows(logits.shape), logits.shape[2]
    if isinstance(logits, Tensor):
        yield 0, logits.float()
    elif height <= step:
        yield 0, logits.whole().float()
    else:
        for top in range(0, height, step):
            yield top, logits.read(top, min(top + step, height))


def count_band_rows(shape: tuple[int, ...]) -> int:
    """Return how many rows of logits (N,C,H,W) make a band."""
    images, channels, _, width = shape
    return max(1, BAND // (images * channels * width))


def scale_images(images: Tensor, scale: float) -> Tensor:
    """Return images of 0..255 at another size in float32; unchanged where the size is the same."""
    height, width = images.shape[2:]
    size = scale_size((height, width), scale)
    if size == (height, width):
        return images
    return F.interpolate(images.float(), size=size, mode="bilinear", antialias=True)


def scale_size(size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return (height, width) at another scale, at least 1 pixel each."""
    height, width = (max(1, round(side * scale)) for side in size)
    return height, width


def list_input_sizes(sizes: Iterable[tuple[int, int]], eval: EvalConfig) -> set[tuple[int, int]]:
    """Return all (height, width) in which the network sees images of these sizes."""
    windows = {choose_window(height, width, eval) for height, width in sizes}
    return {scale_size(window, scale) for window in windows for scale, _ in list_views(eval.tta)}


def advise_on_size(least: int) -> str:
    """Return what to set where a network takes squares of `least` pixels but not the image."""
    return (
        f"for windows that it takes set eval.max_pixels=1 and eval.window={least}, and no scale "
        "above 1 in eval.tta"
    )


def advise_on_memory(shape: tuple[int, ...], eval: EvalConfig) -> str:
    """Return what to set where images of a shape (N,K,H,W) take more memory than there is."""
    height, width = choose_window(shape[2], shape[3], eval)
    too_many = f"{shape[0]} x {height}x{width} pixels at once are too many"
    if shape[0] > 1:
        return f"{too_many}; set eval.batch_size=1"
    scaled = any(part not in FLIPS and float(part) > 1 for part in eval.tta)
    more = "leave out the scales above 1 of eval.tta, or " if scaled else ""
    window = "x".join(str(max(SMALLEST_WINDOW, side // 2)) for side in (height, width))
    return (
        f"{too_many}; {more}for smaller windows set eval.max_pixels={max(1, height * width // 4)} "
        f"and eval.window={window}"
    )
