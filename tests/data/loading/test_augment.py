"""Augmentation: a function of (seed, draw), of the crop's size, image and mask in step."""

import os
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import maximum_filter, minimum_filter

from segtrain.config import AugmentConfig
from segtrain.data.loading.augment import MEAN_COLOUR, MEAN_VALUE, PRESETS, STRONG, Augmentation
from segtrain.data.loading.sampling import Draw
from segtrain.errors import UsageError

COLOURS = np.array([(250, 10, 10), (10, 250, 10), (10, 10, 250)], np.uint8)
STILL = {"preset": "none"}
KEYS = [Draw(pass_, index) for pass_ in range(3) for index in range(4)]


def scene(height: int = 60, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Unequal blocks of three classes (int16), and an image that paints each in its colour."""
    mask = np.fromfunction(lambda y, x: ((y // 13) + 2 * (x // 17)) % 3, (height, width))
    mask = mask.astype(np.int16)
    return COLOURS[mask], mask


def augmentation(
    lb_ignore: int = 255, seed: int = 0, channels: int = 3, crop=(32, 40), **config
) -> Augmentation:
    return Augmentation(AugmentConfig(**config), crop, lb_ignore, seed, channels)


def same(one: tuple, other: tuple) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def fresh_sample(preset: str, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """Return the augmented scene of a fresh process."""
    return augmentation(preset=preset)(*scene(), draw)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_sample_is_a_function_of_seed_and_draw(preset):
    pair = scene()
    in_order = augmentation(preset=preset)
    found = {draw: in_order(*pair, draw) for draw in KEYS}
    backwards = augmentation(preset=preset)
    for draw in reversed(KEYS):
        assert same(backwards(*pair, draw), found[draw])
    assert same(in_order(*pair, KEYS[0]), found[KEYS[0]])
    sent = pickle.loads(pickle.dumps(in_order))  # as a worker gets it
    assert all(same(sent(*pair, draw), found[draw]) for draw in KEYS)
    assert same(pair, scene())  # not changed in place


def test_another_process_makes_the_same_sample():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for draw in KEYS[:3]:
            there = pool.submit(fresh_sample, "strong", draw).result()
            assert same(there, fresh_sample("strong", draw))


@pytest.mark.parametrize("preset", ["light", "standard", "strong"])
def test_samples_differ_by_seed_pass_and_index(preset):
    pair = scene()
    samples = [augmentation(seed=s, preset=preset)(*pair, draw) for s in (0, 1) for draw in KEYS]
    assert len({image.tobytes() for image, _ in samples}) == 2 * len(KEYS)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("lb_ignore", [255, -1])
@pytest.mark.parametrize("height, width", [
    (60, 80), (20, 24), (20, 90), (32, 40), (2, 2),
])  # fmt: skip
def test_the_size_is_the_crops_and_padding_is_ignored(preset, height, width, lb_ignore):
    image, mask = scene(height, width)
    pair = image, 20 * mask  # a mean of two classes is no class
    change = augmentation(lb_ignore, preset=preset, scale=(0.5, 1.2))
    for index in range(12):
        image, mask = change(*pair, Draw(0, index))
        assert (image.shape, image.dtype) == ((32, 40, 3), np.uint8)
        assert (mask.shape, mask.dtype) == ((32, 40), np.int16)
        assert image.flags.c_contiguous and image.flags.writeable and mask.flags.writeable
        assert set(np.unique(mask)) <= set(np.unique(pair[1])) | {lb_ignore}
        padding = mask == lb_ignore
        assert (image[padding] == MEAN_COLOUR).all()
        # the longest side that a resized image can have
        assert padding.sum() >= 32 * 40 - np.ceil(1.2 * height) * np.ceil(1.2 * width)


@settings(max_examples=150, deadline=None)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    crop=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    channels=st.sampled_from([1, 2, 3, 4, 7]),
    kind=st.sampled_from([(np.uint8, 255), (np.int16, 255), (np.int16, -1), (np.int16, 300)]),
    low=st.floats(0.1, 2),
    ratio=st.floats(1, 4),
    seed=st.integers(0, 2**32),
    focus=st.integers(-1, 2),
)
def test_any_pair_becomes_a_crop_of_its_labels(size, crop, channels, kind, low, ratio, seed, focus):
    dtype, lb_ignore = kind
    rng = np.random.default_rng(seed)
    image = rng.integers(100, 128, (*size, channels), dtype=np.uint8)
    mask = rng.choice([0, 1, 9, lb_ignore], size).astype(dtype)
    image.flags.writeable = mask.flags.writeable = False  # as a cache hands them out
    change = augmentation(
        lb_ignore, seed, channels, crop=crop, scale=(low, low * ratio), vflip=0.5, jitter=0
    )
    got, labels = change(image, mask, Draw(0, 5, focus))
    assert (got.shape, got.dtype) == ((*crop, channels), np.uint8)
    assert (labels.shape, labels.dtype) == (crop, dtype)
    assert np.isin(labels, [*np.unique(mask), lb_ignore]).all()
    # what is none of the image's values is padding, and is ignored
    colour = MEAN_COLOUR if channels == 3 else [MEAN_VALUE] * channels
    foreign = ((got < 100) | (got > 127)).any(2)
    assert (got[foreign] == colour).all() and (labels[foreign] == lb_ignore).all()


@pytest.mark.parametrize("lb_ignore", [0, 255, -1, 300])
@pytest.mark.parametrize("channels", [1, 2, 4, 7])
@pytest.mark.parametrize("preset", PRESETS)
def test_presets_take_any_number_of_channels(preset, channels, lb_ignore):
    image = np.random.default_rng(0).integers(0, 256, (50, 30, channels), dtype=np.uint8)
    mask = np.full((50, 30), 7, np.uint8 if 0 <= lb_ignore <= 255 else np.int16)
    change = augmentation(lb_ignore, channels=channels, preset=preset)
    padded = 0
    for index in range(12):
        got, labels = change(image, mask, Draw(0, index))
        assert (got.shape, got.dtype) == ((32, 40, channels), np.uint8)
        padding = labels == lb_ignore
        assert labels.dtype == mask.dtype and (padding | (labels == 7)).all()
        assert (got[padding] == MEAN_VALUE).all() and (got[~padding] != MEAN_VALUE).any()
        padded += padding.sum()
    assert padded > 0


@pytest.mark.parametrize("scale", [(1, 1), (0.5, 0.5), (0.5, 2), (2, 2)])
@pytest.mark.parametrize(
    "change", [{}, {"transforms": [{"Affine": {"rotate": [-40, 40], "p": 1}}]}]
)
def test_image_and_mask_stay_in_step(scale, change):
    """Away from the borders of classes, where the image is interpolated, colours name the class."""
    own = {} if change else {"jitter": 0, "vflip": 0.5}
    change = augmentation(scale=scale, **change, **own)
    checked = 0
    for index in range(20):
        image, mask = change(*scene(), Draw(0, index))
        # a class may begin beyond the crop's edge: 255 there keeps the edge out
        highest = maximum_filter(mask, 5, mode="constant", cval=255)
        interior = (highest == minimum_filter(mask, 5)) & (mask != 255)
        assert (image[interior] == COLOURS[mask[interior]]).all()
        checked += interior.sum()
    assert checked > 1000


@pytest.mark.parametrize("scale", [1 / 3, 0.7, 1.3, 2.0])
def test_resizing_moves_neither_image_nor_mask(scale):
    """Each column has a label and colour of its own: the crop's must name the same one."""
    mask = np.tile(np.arange(64, dtype=np.int16), (48, 1))
    image = np.repeat(4 * mask[..., None], 3, axis=2).astype(np.uint8)
    change = augmentation(300, preset="none", scale=(scale, scale), crop=(15, 20))
    for index in range(5):
        got, labels = change(image, mask, Draw(0, index))
        off = (got[..., 0] / 4 - labels)[:, 1:-1]  # at the borders nothing is interpolated
        assert np.abs(off).max() <= 0.6 and abs(off.mean()) < 0.1


@pytest.mark.parametrize("field, axis", [("hflip", 1), ("vflip", 0)])
def test_a_certain_flip_flips(field, axis):
    image, mask = scene(32, 40)
    assert same(augmentation(**STILL)(image, mask, Draw(0, 0)), (image, mask))
    flipped = augmentation(**STILL, **{field: 1})(image, mask, Draw(0, 0))
    assert same(flipped, (np.flip(image, axis), np.flip(mask, axis)))


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jitter_changes_colours_alone(channels):
    image = np.repeat(scene(32, 40)[0][..., :1], channels, axis=2)
    mask = scene(32, 40)[1]
    changed = augmentation(channels=channels, **STILL, jitter=0.3)(image, mask, Draw(0, 0))
    assert np.array_equal(changed[1], mask) and not np.array_equal(changed[0], image)


def test_jitter_stays_within_its_share():
    """On a plain grey image, contrast and saturation have no effect: only brightness shows."""
    image, mask = np.full((32, 40, 3), 100, np.uint8), np.zeros((32, 40), np.uint8)
    change = augmentation(**STILL, jitter=0.3)
    means = [change(image, mask, Draw(0, index))[0].mean() for index in range(200)]
    assert 70 <= min(means) < 75 and 125 < max(means) <= 130


def test_saturation_keeps_luma_and_spreads_colours():
    image, mask = scene(32, 40)
    image = image // 2 + 60  # a margin on both sides, so that nothing is clipped
    change = augmentation(**STILL, jitter=0.2)
    spreads = set()
    for index in range(20):
        got = change(image, mask, Draw(0, index))[0].astype(float)
        luma, before = (np.dot(i, (0.299, 0.587, 0.114)) for i in (got, image.astype(float)))
        slope, offset = np.polyfit(before.ravel(), luma.ravel(), 1)
        assert np.abs(slope * before + offset - luma).max() < 1.5  # luma is changed linearly
        assert 0.8 * 0.8 - 0.01 <= slope <= 1.2 * 1.2 + 0.01
        spreads.add(round(np.ptp(got, axis=2).mean() / np.ptp(image, axis=2).mean() / slope, 1))
    assert min(spreads) < 0.95 and max(spreads) > 1.05


def test_a_focused_crop_is_centred_on_the_class():
    """The pixel lies at the crop's centre, or as near to it as the image allows."""
    mask = np.zeros((100, 120), np.uint8)
    image = np.zeros((100, 120, 3), np.uint8)
    for y, x in ((50, 60), (17, 99), (3, 118)):
        marked = mask.copy()
        marked[y, x] = 5
        got, labels = augmentation(**STILL)(image, marked, Draw(0, 0, focus=5))
        # 32x40 of 100x120: the window begins at y - 16, x - 20, inside 0..68, 0..80
        top, left = min(max(y - 16, 0), 68), min(max(x - 20, 0), 80)
        assert np.argwhere(labels == 5).tolist() == [[y - top, x - left]]
    assert (y - top, x - left) == (3, 38)


def test_a_focused_crop_meets_each_of_the_pixels():
    mask, image = np.zeros((100, 120), np.uint8), np.zeros((100, 120, 3), np.uint8)
    names = iter(range(1, 10))
    for y in (20, 40, 60):
        for x in (30, 50, 70):
            mask[y, x], image[y, x] = 5, next(names)
    change = augmentation(**STILL)
    crops = [change(image, mask, Draw(0, index, focus=5)) for index in range(100)]
    assert all(labels[16, 20] == 5 for _, labels in crops)
    assert {int(got[16, 20, 0]) for got, _ in crops} == set(range(1, 10))


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.25, 2.0])
def test_a_focused_crop_has_the_class_at_any_scale(scale):
    image, mask = np.zeros((100, 120, 3), np.uint8), np.zeros((100, 120), np.uint8)
    mask[97:100, 3:6] = mask[50:53, 60:63] = 5
    change = augmentation(preset="standard", scale=(scale, scale))
    assert all((change(image, mask, Draw(0, i, 5))[1] == 5).any() for i in range(30))


def test_a_focus_that_the_mask_lacks_is_no_error():
    image, mask = scene()
    crops = [augmentation(**STILL)(image, mask, Draw(0, i, focus=7))[1] for i in range(10)]
    assert len({crop.tobytes() for crop in crops}) > 1


@pytest.mark.parametrize("size", [(60, 80), (20, 90), (10, 10)])
@pytest.mark.parametrize("focus", [-1, 1])
def test_crop_mask_is_the_mask_of_the_call(size, focus):
    image, mask = scene(*size)
    change = augmentation(hflip=0)
    for index in range(10):
        draw = Draw(1, index, focus)
        assert np.array_equal(change.crop_mask(mask, draw), change(image, mask, draw)[1])


@pytest.mark.parametrize("preset", PRESETS)
def test_fields_win_over_the_preset(preset):
    image, mask = scene(32, 40)
    change = augmentation(preset=preset, scale=(1, 1), hflip=0, vflip=1, jitter=0)
    assert (change.scale, change.jitter, change.flips) == ((1, 1), 0, (1, 0))
    assert (change.transform is not None) == (preset == "strong")
    if preset != "strong":
        assert same(change(image, mask, Draw(0, 0)), (image[::-1], mask[::-1]))


def test_standard_is_the_default():
    change = augmentation()
    assert (change.scale, change.jitter, change.flips) == ((0.5, 2.0), 0.3, (0.0, 0.5))
    assert change.transform is None


def test_strong_does_all_that_it_names():
    done = {type(t).__name__ for t in augmentation(preset="strong").transform.transforms}
    assert done == set(STRONG)
    one_channel = augmentation(preset="strong", channels=1).transform.transforms
    assert {type(t).__name__ for t in one_channel} == done - {
        "HueSaturationValue", "ImageCompression"
    }  # fmt: skip


def test_transforms_replace_all_but_scale_and_crop():
    change = augmentation(preset="strong", transforms=["VerticalFlip"])
    assert (change.scale, change.jitter, change.flips) == ((0.5, 2.0), 0, (0, 0))
    assert [type(t).__name__ for t in change.transform.transforms] == ["VerticalFlip"]
    image, mask = scene(32, 40)
    certain = augmentation(scale=(1, 1), transforms=[{"VerticalFlip": {"p": 1}}])
    assert same(certain(image, mask, Draw(0, 0)), (image[::-1], mask[::-1]))
    assert augmentation(transforms=[]).transform is None


def test_transforms_beside_what_they_replace_are_refused():
    with pytest.raises(UsageError, match="replaces augment.hflip"):
        augmentation(transforms=["VerticalFlip"], hflip=0.5)


def test_albumentations_does_not_call_home():
    assert os.environ["NO_ALBUMENTATIONS_UPDATE"] == "1"
