"""Windows, blend and test-time augmentation, against a slow twin in NumPy."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from segtrain.config import EvalConfig
from segtrain.models import inference
from segtrain.models.checkpoint import _read_metadata, parse_meta
from segtrain.models.inference import (
    Block,
    CheckedPredictor,
    advise_on_memory,
    predict_bands,
    predict_block,
)
from segtrain.models.trial import Padding

CONSTANTS = [0.3, -7.0, 0.30000001, 21.5]


def config(window=(16, 16), overlap=0.25, max_pixels=1, tta=()) -> EvalConfig:
    # unchecked: windows below the limit show on tiny images what larger ones do
    return EvalConfig.model_construct(
        max_pixels=max_pixels, window=window, overlap=overlap, tta=list(tta)
    )


def picture(height: int, width: int, images: int = 1, channels: int = 3) -> Tensor:
    """Return random pixels in the memory layout of a decoded file: channels last."""
    rng = np.random.default_rng((height, width))
    pixels = rng.integers(0, 256, (images, height, width, channels), dtype=np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def whole(predict, images: Tensor, eval: EvalConfig) -> Tensor:
    """All bands joined; each row must come once, in order."""
    bands, rows = [], 0
    for top, logits in predict_bands(predict, images, eval):
        assert top == rows and logits.dtype == torch.float32
        rows += logits.shape[2]
        bands.append(logits)
    assert rows == images.shape[2]
    return torch.cat(bands, 2)


def test_a_size_beyond_a_table_of_positions_is_refused():
    """Trial passes can't tell: there a table has no values, and any index does."""

    class Positions:
        padding, by_rows = Padding(32, 32), False

        def find_size_error(self, sizes):
            return None

        def __call__(self, images: Tensor) -> Tensor:
            return torch.arange(60)[torch.tensor(images.shape[-1])]

    predict = inference.defer_upsampling(Positions())
    assert predict(picture(59, 59)) == 59
    with pytest.raises(inference.SizeError, match="64x64"):
        predict(picture(64, 64))


def constant(images: Tensor) -> Tensor:
    shape = (len(images), len(CONSTANTS), *images.shape[2:])
    return torch.tensor(CONSTANTS).view(1, -1, 1, 1).expand(shape)


def pointwise(images: Tensor) -> Tensor:
    """A network that sees each pixel by itself: 1 x 1 convolutions."""
    mix = torch.tensor([[0.9, -0.5, 0.1], [-0.2, 0.7, -0.9], [0.3, 0.3, 0.3], [-1.0, 0.2, 0.6]])
    return torch.einsum("ck,nkhw->nchw", mix, torch.sin(images.float() / 40))


def placed(images: Tensor) -> Tensor:
    """Logits that depend on where in its image a pixel is, and on no other symmetry."""
    height, width = images.shape[2:]
    y, x = torch.arange(height).view(-1, 1) / height, torch.arange(width).view(1, -1) / width
    value = images.float().mean(1) / 255
    maps = [value + x, 2 * value * y - x, x * y + value.cumsum(2) / width]
    return torch.stack([m.expand_as(value) for m in maps], 1)


def twin(images: np.ndarray, height: int, width: int, overlap: float, predict) -> np.ndarray:
    """Windows placed and blended pixel by pixel, by the definition."""

    def places(side: int, window: int) -> list[int]:
        step = max(1, math.floor(window * (1 - overlap)))
        count = 1
        while (side - window) > step * (count - 1):
            count += 1
        return [((side - window) * i) // max(1, count - 1) for i in range(count)]

    sides = images.shape[2:]
    height, width = min(height, sides[0]), min(width, sides[1])
    total, weight = 0.0, np.zeros(sides)
    for top in places(sides[0], height):
        for left in places(sides[1], width):
            logits = predict(images[:, :, top : top + height, left : left + width])
            part, share = np.zeros((*logits.shape[:2], *sides)), np.zeros(sides)
            for y in range(height):
                for x in range(width):
                    value = (1 - math.cos(2 * math.pi * (y + 0.5) / height)) / 2
                    value *= (1 - math.cos(2 * math.pi * (x + 0.5) / width)) / 2
                    share[top + y, left + x] = value
                    part[:, :, top + y, left + x] = logits[:, :, y, x] * value
            total, weight = total + part, weight + share
    return total / weight


def in_numpy(predict):
    return lambda pixels: predict(torch.from_numpy(pixels)).double().numpy()


@pytest.mark.parametrize("predict", [constant, pointwise, placed])
def test_a_small_image_is_predicted_as_it_is(predict, monkeypatch):
    """At most max_pixels, or covered by one window: one call, its logits to the last bit."""
    monkeypatch.setattr(inference, "BAND", 21)
    images = picture(13, 21, 2)
    for eval in (config(max_pixels=13 * 21), config((13, 21)), config((64, 32), 0.9)):
        ((top, logits),) = predict_bands(predict, images, eval)
        assert top == 0 and torch.equal(logits, predict(images))
    assert len({top for top, _ in predict_bands(predict, images, config((12, 21)))}) > 1


@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("window", [(16, 16), (7, 30), (64, 5)])
@pytest.mark.parametrize("size", [(33, 47), (5, 40), (61, 3), (1, 29)])
def test_windows_against_the_twin(size, window, overlap: float):
    images = picture(*size)
    if all(side <= limit for side, limit in zip(size, window, strict=True)):
        return
    actual = whole(placed, images, config(window, overlap))
    expected = twin(images.numpy(), *window, overlap, in_numpy(placed))
    np.testing.assert_allclose(actual, expected, atol=2e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
    st.floats(0, 0.8),
    st.integers(1, 3),
)
def test_windowed_or_whole_is_the_same_where_windows_agree(size, window, overlap, images):
    pixels = picture(*size, images)
    eval = config(window, overlap)
    same = whole(constant, pixels, eval)
    assert torch.equal(same.argmax(1), constant(pixels).argmax(1))
    torch.testing.assert_close(same, constant(pixels), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole(pointwise, pixels, eval), pointwise(pixels), rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 700), st.floats(0, 0.99))
def test_windows_along_a_side(side: int, window: int, overlap: float):
    window = min(side, window)
    starts = inference.place_windows(side, window, overlap)
    assert starts[0] == 0 and starts[-1] == side - window
    steps = np.diff(starts)
    assert (steps >= 1).all() and np.ptp(steps) <= 1 if len(steps) else side == window
    if len(steps):
        assert ((window - steps >= overlap * window - 1e-9) | (steps == 1)).all()
        fewer = math.ceil((side - window) / (len(steps) - 1)) if len(steps) > 1 else side - window
        assert len(steps) == 1 or window - fewer < overlap * window or fewer > window
    sums = np.zeros(side)
    weights = inference.make_blend_weights(window, starts)
    for start, weight in zip(starts, weights, strict=True):
        assert (weight > 0).all()
        sums[start : start + window] += weight.numpy()
    np.testing.assert_allclose(sums, 1, atol=1e-6)


@pytest.mark.parametrize("overlap", [0, 0.25, 0.9])
def test_memory_is_that_of_one_row_of_windows(monkeypatch, overlap: float):
    """Every window has the size of the config, and no more than its rows are allocated."""
    seen, allocated, zeros = [], [], torch.zeros

    def spy(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        return placed(images)

    def spied_zeros(*args, **kwargs):
        tensor = zeros(*args, **kwargs)
        allocated.append(tuple(tensor.shape))
        return tensor

    monkeypatch.setattr(inference, "BAND", 5 * 50)
    images = picture(60, 50)
    expected = twin(images.numpy(), 16, 24, overlap, in_numpy(placed))
    monkeypatch.setattr(torch, "zeros", spied_zeros)
    rows = 0
    for top, logits in predict_bands(spy, images, config((16, 24), overlap)):
        assert top == rows and 0 < logits.shape[2] <= 5  # a band at a time
        assert len(logits.untyped_storage()) == logits.numel() * 4  # and nothing beyond it
        np.testing.assert_allclose(logits, expected[:, :, top : top + logits.shape[2]], atol=2e-6)
        logits.zero_()  # it is the reader's own
        rows += logits.shape[2]
    assert rows == 60
    assert set(seen) == {(1, 3, 16, 24)}
    assert [shape for shape in allocated if len(shape) == 4] == [(1, 3, 16, 50)]
    assert max(math.prod(shape) for shape in allocated) == 3 * 16 * 50


def convolve(images: Tensor) -> Tensor:
    """A small random network, of which a pixel sees its neighbours and the window's edge."""
    generator = torch.Generator().manual_seed(0)
    first, second = (
        torch.randn(shape, generator=generator) for shape in ((4, 3, 3, 3), (5, 4, 3, 3))
    )
    return F.conv2d(F.conv2d(images.float() / 255, first, padding=1).relu(), second, padding=1)


@settings(max_examples=60, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    window=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    overlap=st.sampled_from([0, 0.25, 0.5, 0.8]),
    tta=st.sampled_from([[], ["hflip"], [0.5]]),
    seams=st.sets(st.integers(1, 59), max_size=4),
    start=st.floats(0, 0.99),
    whole_image=st.booleans(),
)
def test_blocks_and_later_starts_are_the_whole_to_the_last_bit(
    size, window, overlap, tta, seams, start, whole_image
):
    images, (height, width) = picture(*size), size
    eval = config(window, overlap, 10_000 if whole_image else 1, tta)
    expected = whole(convolve, images, eval)
    edges = sorted({0, width, *(seam for seam in seams if seam < width)})
    first = int(start * height)
    for left, right in pairwise(edges):
        block, tops = Block(size, left, right, first), [0]

        def read(rows: slice, columns: slice, block=block, tops=tops) -> Tensor:
            assert rows.stop > first or whole_image
            assert columns.stop > block.left and columns.start < block.right
            tops.append(rows.start)
            return images[:, :, rows, columns]

        bands = list(predict_block(convolve, read, eval, block))
        assert bands[0][0] == first and tops == sorted(tops)
        actual = torch.cat([logits for _, logits in bands], 2)
        assert torch.equal(actual, expected[:, :, first:, left:right])


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def test_no_augmentation_calls_once_and_changes_nothing():
    calls = []

    def spy(images: Tensor) -> Tensor:
        calls.append(images)
        return placed(images)

    images = picture(20, 30)
    for tta in ([], [1.0], [1, 1.0]):
        actual = whole(spy, images, config(max_pixels=1000, tta=tta))
        assert torch.equal(actual, placed(images))
    assert len(calls) == 3 and all(call.dtype == torch.uint8 for call in calls)


@pytest.mark.parametrize(
    "tta, flips",
    [
        (["hflip"], [(), (3,)]),
        (["vflip", "vflip"], [(), (2,)]),
        (["hflip", 1.0, "vflip"], [(), (2,), (3,), (2, 3)]),
    ],
)
def test_flips_against_the_twin(tta, flips):
    pixels = picture(21, 34, 2).numpy()
    views = []
    for axes in flips:
        logits = in_numpy(placed)(np.flip(pixels, axes).copy())
        views.append(softmax(np.flip(logits, axes)))
    actual = whole(placed, torch.from_numpy(pixels), config(max_pixels=1000, tta=tta))
    np.testing.assert_allclose(actual.exp(), np.mean(views, 0), atol=1e-6)
    np.testing.assert_allclose(softmax(actual.numpy()), np.mean(views, 0), atol=1e-6)


def test_scales_against_the_twin():
    """Every scale, each once, with every flip; images of 0..255, halves shrunk by averaging."""
    sizes = []

    def spy(images: Tensor) -> Tensor:
        sizes.append(tuple(images.shape[2:]))
        assert 1 < images.max() <= 255 and images.shape[1] == 3
        return placed(images)

    images, views = picture(23, 36), []
    for size in ((23, 36), (12, 18), (29, 45), (2, 4)):
        resized = images.float()
        if size != (23, 36):
            resized = F.interpolate(resized, size=size, mode="bilinear", antialias=True)
        for axes in ([], [3]):
            logits = placed(resized.flip(axes)).flip(axes)
            views.append(F.interpolate(logits, size=(23, 36), mode="bilinear").softmax(1))
    eval = config(max_pixels=1000, tta=[0.5, "hflip", 1.25, 0.5, 1, 0.1])
    actual = whole(spy, images, eval)
    torch.testing.assert_close(actual.exp(), torch.stack(views).mean(0), rtol=0, atol=1e-6)
    assert sorted(sizes) == sorted(2 * [(23, 36), (12, 18), (29, 45), (2, 4)])
    whole(spy, picture(3, 2), config(tta=[0.01], window=(8, 8)))
    assert sizes[-1] == (1, 1)


@pytest.mark.parametrize("flip, axis", [("hflip", 3), ("vflip", 2)])
def test_the_answer_for_a_flipped_image_is_the_flipped_answer(flip: str, axis: int):
    images, eval = picture(24, 40), config(max_pixels=10_000, tta=[flip])
    straight, flipped = whole(placed, images, eval), whole(placed, images.flip(axis), eval)
    torch.testing.assert_close(flipped, straight.flip(axis), rtol=1e-5, atol=1e-5)
    bare = config(max_pixels=10_000)
    apart = whole(placed, images.flip(axis), bare) - whole(placed, images, bare).flip(axis)
    assert apart.abs().max() > 0.1


def test_windows_are_augmented_each_by_itself():
    def with_flips(pixels: np.ndarray) -> np.ndarray:
        predict = in_numpy(placed)
        both = [predict(pixels), predict(pixels[..., ::-1].copy())[..., ::-1]]
        return np.log(np.mean([softmax(logits) for logits in both], 0))

    images = picture(20, 45)
    actual = whole(placed, images, config((16, 16), tta=["hflip"]))
    expected = twin(images.numpy(), 16, 16, 0.25, with_flips)
    np.testing.assert_allclose(actual, expected, atol=5e-6)


def test_a_class_without_any_probability_stays_finite():
    def sure(images: Tensor) -> Tensor:
        return torch.stack([images[:, 0] * 0.0, images[:, 0] * 0.0 - 1e4], 1)

    actual = whole(sure, picture(8, 8), config(max_pixels=64, tta=["hflip"]))
    assert actual.isfinite().all() and (actual[:, 1] < -80).all()


@pytest.mark.parametrize("eval", [config(), config(max_pixels=400), config(tta=["vflip"])])
def test_half_precision_comes_out_as_float32(eval: EvalConfig):
    actual = whole(lambda images: placed(images).bfloat16(), picture(20, 20), eval)
    torch.testing.assert_close(actual, whole(placed, picture(20, 20), eval), rtol=0, atol=0.02)


@pytest.mark.parametrize(
    "setting", ["eval.window=1", "eval.window=64x31", "eval.overlap=0.95", "eval.tta=[1000.0]"]
)
def test_settings_that_would_take_hours_or_all_memory_are_refused(cli, setting: str):
    answer = cli("check", "demo", "--set", setting)
    assert answer.code == 2 and setting.partition("=")[0] in answer.error


def test_an_older_checkpoint_with_smaller_windows_is_read():
    folder = Path(__file__).parents[1] / "kept/checkpoints"
    text = _read_metadata(folder / "best.safetensors")
    older = json.loads(text)
    older["config"]["eval"] |= {"window": [8, 640], "overlap": 0.99}
    meta = parse_meta(Path("a"), json.dumps(older))
    assert (meta.config.eval.window, meta.config.eval.overlap) == ((32, 640), 0.9)


def test_advice_where_memory_is_short_names_what_to_set():
    eval = EvalConfig()
    assert advise_on_memory((4, 3, 900, 1200), eval).endswith("; set eval.batch_size=1")
    for shape, parts in (
        ((1, 3, 900, 1200), ("1 x 900x1200 pixels", "max_pixels=270000 ", "window=450x600")),
        ((1, 3, 9000, 700), ("1 x 1024x700 pixels", "max_pixels=179200 ", "window=512x350")),
    ):
        advice = advise_on_memory(shape, eval)
        assert all(part in advice for part in parts), advice
        words = advice.replace("eval.", "").split()
        advised = dict(word.split("=") for word in words if "=" in word)
        smaller = inference.choose_window(*shape[2:], EvalConfig(**advised))
        assert math.prod(smaller) < math.prod(shape[2:]) and smaller != shape[2:]
    advised = dict(w.split("=") for w in advise_on_memory((1, 3, 1, 1), eval).split() if "=" in w)
    EvalConfig(
        **{name.removeprefix("eval."): value for name, value in advised.items()}
    )  # still allowed


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "eval",
    [config(max_pixels=10_000), config(max_pixels=10_000, tta=["hflip", 0.5]), config((8, 8))],
)
def test_an_image_with_logits_that_are_not_finite_is_remembered(eval: EvalConfig, value: float):
    """One value in one window, view and image of three, though averages may hide it."""
    images = picture(20, 20, 3)
    images[images == 7] = 8
    images[1, 0, 13, 2] = 7

    def overflow(images: Tensor) -> Tensor:
        return placed(images).masked_fill(images[:, :1] == 7, value)

    for network, broken in ((placed, [False] * 3), (overflow, [False, True, False])):
        checked = CheckedPredictor(network)
        for _ in predict_bands(checked, images, eval):
            pass
        assert checked.broken.expand(3).tolist() == broken
