"""Copy-paste: whole objects, in step in image and mask, within the crop and as the draw says."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from segtrain.config import AugmentConfig
from segtrain.data.loading.augment import MEAN_COLOUR, Augmentation
from segtrain.data.loading.copy_paste import LARGEST, CropView, find_object, resize_object
from segtrain.data.loading.sampling import Draw, PatchSource

RARE = 5
TOUCHING = np.ones((3, 3))  # by side or corner
STILL = {"preset": "none"}
# values in images: that of the rare class, of what lies around it, of the crop's own image
OBJECT, AROUND, OWN = 200, 90, 30


def augmentation(crop=(32, 40), channels=3, seed=0, **config) -> Augmentation:
    return Augmentation(AugmentConfig(**STILL | config), crop, 255, seed, channels)


def pasting(index: int = 0, pass_: int = 0) -> Draw:
    return Draw(pass_, index, patch=PatchSource(1, RARE))


def source_of(objects: np.ndarray, channels: int = 3, dtype=np.uint8) -> tuple:
    """Return the pair with the class at `objects` (H,W), in an image that shows only them."""
    mask = np.where(objects, RARE, 255).astype(dtype)
    image = np.where(objects, OBJECT, AROUND).astype(np.uint8)
    return np.repeat(image[..., None], channels, axis=2), mask


def plain(height: int = 60, width: int = 80, channels: int = 3, dtype=np.uint8) -> tuple:
    """Return an even pair of class 1."""
    return np.full((height, width, channels), OWN, np.uint8), np.ones((height, width), dtype)


def box_of(mask: np.ndarray) -> tuple[slice, slice]:
    return ndimage.find_objects((mask == RARE).astype(int))[0]


def cross(height: int = 60, width: int = 80, row: int = 30, column: int = 40) -> np.ndarray:
    """Return a map with a lopsided cross, 9 high and 7 wide; its box starts at 4 above row."""
    objects = np.zeros((height, width), bool)
    objects[row - 4 : row + 5, column] = objects[row - 2, column - 1 : column + 6] = True
    return objects


@settings(max_examples=100, deadline=None)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    density=st.floats(0.05, 0.9),
    kind=st.sampled_from([np.uint8, np.int16]),
    seed=st.integers(0, 2**32),
)
def test_an_object_is_a_connected_region_of_its_class(size, density, kind, seed):
    rng = np.random.default_rng(seed)
    mask = np.where(rng.random(size) < density, RARE, rng.choice([0, 1, 255], size)).astype(kind)
    mask.flags.writeable = False  # as a cache hands it out
    found = find_object(mask, RARE, rng)
    regions, _ = ndimage.label(mask == RARE, TOUCHING)
    if found is None:
        assert not regions.any()
        return
    box, pixels = found
    assert pixels.any(0).any() and box in ndimage.find_objects(regions)
    (label,) = set(regions[box][pixels].tolist())
    assert label and np.array_equal(pixels, regions[box] == label)


def test_an_object_is_drawn_by_its_pixels():
    mask = np.zeros((20, 20), np.uint8)
    mask[2:4, 2:5] = mask[10, 10] = mask[15:18, 8] = RARE  # 6, 1 and 3 pixels
    rng = np.random.default_rng(0)
    counts = Counter(int(find_object(mask, RARE, rng)[1].sum()) for _ in range(2000))
    assert counts.keys() == {6, 1, 3}
    assert all(abs(n - 200 * size) < 5 * (200 * size) ** 0.5 for size, n in counts.items())


@settings(max_examples=200, deadline=None)
@given(
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    crop=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    density=st.floats(0, 1),
    factor=st.floats(0.05, 4),
    seed=st.integers(0, 2**32),
)
def test_a_resized_object_fits_and_has_pixels(size, crop, density, factor, seed):
    pixels = np.random.default_rng(seed).random(size) < density
    pixels[0, 0] = True
    resized = resize_object(pixels, CropView(crop, factor, 0, 0))
    assert resized.any() and resized.dtype == bool
    assert all(side <= most for side, most in zip(resized.shape, crop, strict=True))
    scales = [side / full for side, full in zip(resized.shape, size, strict=True) if side > 1]
    rounding = [0.5 / full for side, full in zip(resized.shape, size, strict=True) if side > 1]
    assert all(
        scale <= factor + margin + 1e-9 for scale, margin in zip(scales, rounding, strict=True)
    )
    if pixels.all() and min(resized.shape) > 4:  # rounding aside
        assert resized.all() and resized.size <= 1.3 * LARGEST * crop[0] * crop[1]
    if factor == 1 and resized.shape == size:
        assert np.array_equal(resized, pixels)


def test_an_object_as_large_as_its_image_leaves_half_of_the_crop():
    image, mask = source_of(np.ones((100, 100), bool))
    _, labels = augmentation()(*plain(), pasting(), (image, mask))
    assert 0.4 < (labels == RARE).mean() <= 0.5


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
@pytest.mark.parametrize("channels", [1, 3, 4, 7])
def test_a_patch_is_the_object_alone_in_image_and_mask(channels, dtype):
    """What surrounds it, ignored pixels with a look of their own, is not pasted."""
    change, pair = augmentation(channels=channels), plain(channels=channels, dtype=dtype)
    source = source_of(cross(), channels, dtype)
    kept = [array.copy() for array in (*pair, *source)]
    places = set()
    for index in range(20):
        image, mask = change(*pair, pasting(index), source)
        assert (image.shape, mask.shape, mask.dtype) == ((32, 40, channels), (32, 40), dtype)
        box = box_of(mask)
        assert np.array_equal(mask[box] == RARE, cross()[26:35, 39:46])
        places.add((box[0].start, box[1].start))
        assert (image[mask == RARE] == OBJECT).all() and (image[mask == 1] == OWN).all()
        assert ((mask == RARE) | (mask == 1)).all()
    assert len(places) > 15
    for array, before in zip((*pair, *source), kept, strict=True):
        assert np.array_equal(array, before)  # not changed in place


@pytest.mark.parametrize("preset", ["none", "standard", "strong"])
@pytest.mark.parametrize("scale", [(0.3, 0.6), (1, 1), (1.7, 2)])
def test_patch_and_labels_stay_in_step_at_any_scale(preset, scale):
    """Where a change blurs or mixes nothing, the pixels say what they are."""
    own = {} if preset == "strong" else {"jitter": 0, "vflip": 0.5}
    change = augmentation(preset=preset, scale=scale, **own)
    objects = np.zeros((60, 80), bool)
    objects[20:40, 30:44] = objects[38:50, 40:60] = True
    for index in range(20):
        image, mask = change(*plain(), pasting(index), source_of(objects))
        assert set(np.unique(mask)) == {1, RARE} | ({255} & set(np.unique(mask)))
        if preset != "strong":
            inside = ndimage.binary_erosion(mask == RARE, TOUCHING)
            assert inside.any() and (image[inside] == OBJECT).all()
            assert (image[mask == 1] == OWN).all()
            assert (image[mask == 255] == MEAN_COLOUR).all()


@pytest.mark.parametrize("size", [(20, 24), (20, 90), (2, 2), (1, 1)])
def test_padding_gets_no_patch(size):
    image, mask = plain(*size)
    objects = np.zeros((50, 50), bool)
    objects[10:12] = True
    for index in range(20):
        got, labels = augmentation(hflip=0.5)(image, mask, pasting(index), source_of(objects))
        own = (labels == 1) | (labels == RARE)
        assert own.sum() == min(size[0], 32) * min(size[1], 40)
        assert (labels == RARE).any() and (got[~own] == MEAN_COLOUR).all()


@pytest.mark.parametrize("row, heights", [(6, {6}), (30, {30}), (50, {50})])
def test_an_object_keeps_its_height_where_the_crop_shows_it(row, heights):
    """The crop is as high as the two images are."""
    whole = augmentation(crop=(60, 40), hflip=0.5)
    found = set()
    for index in range(20):
        _, mask = whole(*plain(60, 80), pasting(index), source_of(cross(60, 200, row)))
        found.add(box_of(mask)[0].start + 4)
    assert found == heights


def test_a_height_is_that_in_the_image_not_in_the_crop():
    """The image shows its rows, so that the crop's first row is known: 0 to 28 of 60."""
    rows, mask = np.arange(60, dtype=np.uint8), np.ones((60, 80), np.uint8)
    image = np.broadcast_to(rows[:, None, None], (60, 80, 3))
    checked = 0
    for index in range(40):
        got, labels = augmentation()(image, mask, pasting(index), source_of(cross()))
        first = got[labels == 1].min()
        middle = 30 - int(first)  # of the object, from 4 above it to 4 below
        if 4 <= middle < 32 - 4:
            assert box_of(labels)[0] == slice(middle - 4, middle + 5)
            checked += first > 0
    assert checked > 10


def test_heights_are_shares_of_images():
    """In an image of half the height, and a crop that is scaled by 2, the row is the same."""
    twice = augmentation(crop=(60, 40), scale=(2, 2))
    _, mask = twice(*plain(30, 80), pasting(), source_of(cross(60, 200, 30)))
    middle = (box_of(mask)[0].start + box_of(mask)[0].stop) / 2
    assert abs(middle - 30.5) <= 1 and 17 <= np.ptp(np.flatnonzero((mask == RARE).any(1))) <= 18


def test_an_object_goes_anywhere_where_the_crop_lacks_its_height():
    low = augmentation(crop=(16, 40))
    tops = set()
    for index in range(300):
        _, mask = low(*plain(160, 80), pasting(index), source_of(cross(60, 80, 5)))
        tops.add(box_of(mask)[0].start)
    assert tops == set(range(16 - 9 + 1))


@pytest.mark.parametrize("field, axis", [("hflip", 1), ("vflip", 0)])
def test_a_patch_is_flipped_by_itself(field, axis):
    """Flipped by itself and with the crop for certain, it looks as in its image."""
    certain = augmentation(**{field: 1})
    _, mask = certain(*plain(), pasting(), source_of(cross()))
    assert np.array_equal(mask[box_of(mask)] == RARE, cross()[26:35, 39:46])
    looks = set()
    for index in range(40):
        image, mask = augmentation(**{field: 0.5})(*plain(), pasting(index), source_of(cross()))
        assert (image[mask == RARE] == OBJECT).all()
        looks.add((mask[box_of(mask)] == RARE).tobytes())
    shape = cross()[26:35, 39:46]
    assert looks == {shape.tobytes(), np.flip(shape, axis).tobytes()}


def test_a_patch_is_a_function_of_seed_and_draw():
    source = source_of(np.random.default_rng(0).random((60, 80)) < 0.2)
    draws = [pasting(index, pass_) for pass_ in range(2) for index in range(6)]
    change = augmentation(preset="standard")
    found = {draw: change(*plain(), draw, source)[1].tobytes() for draw in draws}
    assert len(set(found.values())) == len(draws)
    sent = pickle.loads(pickle.dumps(change))
    assert all(sent(*plain(), d, source)[1].tobytes() == found[d] for d in reversed(draws))
    other = augmentation(preset="standard", seed=1)
    assert all(other(*plain(), d, source)[1].tobytes() != found[d] for d in draws)


def test_a_crop_is_the_same_with_and_without_a_patch():
    rng = np.random.default_rng(0)
    pair = rng.integers(0, 256, (60, 80, 3), np.uint8), rng.integers(0, 3, (60, 80), np.uint8)
    change = augmentation(preset="standard", jitter=0, vflip=0.5)
    for index in range(20):
        image, mask = change(*pair, pasting(index), source_of(cross()))
        image_before, mask_before = change(*pair, Draw(0, index))
        kept = mask != RARE
        assert np.array_equal(image[kept], image_before[kept])
        assert np.array_equal(mask[kept], mask_before[kept]) and not kept.all()


def test_a_source_that_has_lost_the_class_changes_nothing():
    without = np.full((60, 80, 3), AROUND, np.uint8), np.full((60, 80), 255, np.uint8)
    change = augmentation(preset="strong")
    for index in range(5):
        pasted = change(*plain(), pasting(index), without)
        for got, expected in zip(pasted, change(*plain(), Draw(0, index)), strict=True):
            assert np.array_equal(got, expected)


def test_crop_mask_has_the_patch_of_the_call():
    change = augmentation(preset="standard", hflip=0)
    for index in range(10):
        source = source_of(cross())
        mask = change.crop_mask(plain()[1], pasting(index), source[1])
        assert np.array_equal(mask, change(*plain(), pasting(index), source)[1])
        assert (mask == RARE).any()
