"""Sampling: permutations, draws by class, shards; independent of earlier calls."""

import pickle
import time
from collections import Counter

import numpy as np
import pytest
from conftest import made_up_data
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.config import AugmentConfig, DataConfig
from segtrain.data.data_set import DataSet
from segtrain.data.loading.augment import Augmentation
from segtrain.data.loading.sampling import (
    NO_PATCHES,
    UNIFORM,
    BatchSampler,
    Draw,
    Shards,
    batch_at,
    class_draws,
    patch_draws,
    seed_at,
    shares_seen,
    steps_per_pass,
)
from segtrain.errors import UsageError

SEEDS = st.integers(0, 2**32)


@st.composite
def sizes(draw) -> tuple[int, int]:
    """Images and batch size, from one image a batch to all."""
    images = draw(st.integers(1, 60))
    return images, draw(st.integers(1, images))


@settings(max_examples=50, deadline=None)
@given(sizes(), SEEDS, st.integers(0, 3))
def test_a_pass_meets_no_image_twice_and_drops_less_than_a_batch(size, seed, pass_):
    images, batch_size = size
    steps = steps_per_pass(images, batch_size)
    batches = [batch_at(pass_ * steps + place, images, batch_size, seed) for place in range(steps)]
    assert all(len(batch) == batch_size for batch in batches)
    draws = [draw for batch in batches for draw in batch]
    assert {draw.pass_ for draw in draws} == {pass_} and {draw.focus for draw in draws} == {-1}
    indices = [draw.index for draw in draws]
    assert len(set(indices)) == len(indices) and set(indices) <= set(range(images))
    assert images - len(indices) < batch_size


# 40 images: class 0 in all, 1 in every other, 2 in images 3 and 4, 3 in image 7, 4 in none
PIXELS = np.zeros((40, 5), np.int64)
PIXELS[:, 0], PIXELS[::2, 1], PIXELS[[3, 4], 2], PIXELS[7, 3] = 800, 150, 20, 9
NAMES = ["road", "sky", "sign", "pole", "train"]


def data(sampler: str, classes: list[str] = NAMES, **fields) -> DataSet:
    return made_up_data([], classes=classes, config=DataConfig(sampler=sampler, **fields))


SAMPLERS = {
    "uniform": class_draws(data("uniform"), PIXELS),
    "class-balanced": class_draws(data("class-balanced"), PIXELS),
    "rare-crop": class_draws(data("rare-crop", rare_share=0.4), PIXELS),
    "copy-paste": class_draws(data("rare-crop", rare_share=0.4), PIXELS, copy_paste=0.3),
}


def drawn(sampler: str, number: int = 8000, seed: int = 0) -> list[Draw]:
    steps = range(number // 8)
    return [draw for step in steps for draw in batch_at(step, 40, 8, seed, SAMPLERS[sampler])]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), SEEDS, st.permutations(range(12)), st.sampled_from(list(SAMPLERS)))
def test_a_batch_does_not_depend_on_earlier_requests(batch_size, seed, order, sampler):
    settings = 40, batch_size, seed, SAMPLERS[sampler]
    in_order = [batch_at(step, *settings) for step in range(12)]
    shuffled = {step: batch_at(step, *settings) for step in order}
    assert [shuffled[step] for step in range(12)] == in_order
    sent = 40, batch_size, seed, pickle.loads(pickle.dumps(SAMPLERS[sampler]))
    assert [batch_at(step, *sent) for step in range(12)] == in_order


def micro_batches(batch_size, seed, by_class, rank=0, world=1, accumulate=1) -> list[list[Draw]]:
    """Return the micro-batches of steps 2 to 6."""
    sampler = BatchSampler(40, batch_size, seed, by_class, Shards(rank, world, accumulate))
    sampler.start, sampler.stop = 2, 7
    batches = list(sampler)
    assert len(batches) == len(sampler) == 5 * accumulate
    return batches


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 40), st.integers(1, 4), st.integers(1, 4), SEEDS, st.sampled_from(list(SAMPLERS))
)
def test_ranks_and_micro_batches_share_out_each_batch(batch_size, world, accumulate, seed, sampler):
    """A step's batch is dealt to the ranks in turn; it depends on neither ranks nor parts."""
    settings = batch_size, seed, SAMPLERS[sampler]
    dealt = [[[] for _ in range(5 * accumulate)] for _ in range(world)]
    for step, batch in enumerate(micro_batches(*settings)):
        assert batch == batch_at(2 + step, 40, *settings)
        for place, draw in enumerate(batch):
            rank, number = divmod(place % (world * accumulate), accumulate)
            dealt[rank][step * accumulate + number].append(draw)
    for rank in range(world):
        assert micro_batches(*settings, rank, world, accumulate) == dealt[rank]


def test_the_uniform_order_is_that_of_earlier_versions():
    """Runs of earlier versions are resumed: seed 3, steps 0, 1 and 2 of 6 images by 2."""
    order = np.random.default_rng([3, 0]).permutation(6).tolist()
    batches = [batch_at(step, 6, 2, 3) for step in range(3)]
    assert batches == [[Draw(0, i) for i in order[k : k + 2]] for k in (0, 2, 4)]
    assert [[d.index for d in batch] for batch in batches] == [[2, 5], [4, 1], [3, 0]]
    assert class_draws(data("uniform"), PIXELS) == UNIFORM


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_two_draws_share_an_augmentation(sampler):
    draws = drawn(sampler)
    assert len({(draw.pass_, draw.index) for draw in draws}) == len(draws)
    seeds = {seed_at(0, draw.pass_, draw.index) for draw in draws}
    assert len(seeds) >= len(draws) - 1  # of 32 bits two may agree by chance


def test_class_balanced_draws_each_class_and_each_of_its_images_as_often():
    draws = drawn("class-balanced")
    counts = Counter(draw.index for draw in draws)
    # a quarter of the draws for each of 4 classes, shared by the images that have it
    expected = 2000 * (PIXELS > 0) / np.maximum((PIXELS > 0).sum(0), 1)
    for index, mean in enumerate(expected.sum(1)):
        assert abs(counts[index] - mean) < 5 * mean**0.5, index
    assert counts[7] > 1900 and {draw.focus for draw in draws} == {-1}


def test_rare_crop_centres_a_share_on_rare_classes():
    draws, uniform = drawn("rare-crop"), drawn("uniform")
    centred = [draw for draw in draws if draw.focus >= 0]
    # sign has 40 and pole 9 of 35,049 pixels; sky's 8.6 % is more than a quarter of a fifth
    assert {draw.focus for draw in centred} == {2, 3}
    assert abs(len(centred) - 0.4 * 8000) < 5 * (8000 * 0.4 * 0.6) ** 0.5
    for focus, indices in ((2, [3, 4]), (3, [7])):
        counts = Counter(draw.index for draw in centred if draw.focus == focus)
        assert sorted(counts) == indices
        for count in counts.values():
            mean = 1600 / len(indices)
            assert abs(count - mean) < 5 * mean**0.5
    # every other place keeps what the uniform order has there
    assert all(a == b for a, b in zip(draws, uniform, strict=True) if a.focus < 0)


def test_named_classes_are_the_rare_ones():
    by_class = class_draws(data("rare-crop", rare_classes=["sky", "pole"], rare_share=1), PIXELS)
    draws = batch_at(0, 40, 40, 0, by_class)
    assert {draw.focus for draw in draws} == {1, 3}
    assert {draw.index % 2 for draw in draws if draw.focus == 1} == {0}


def test_seeds_change_what_is_drawn():
    assert drawn("rare-crop", 80, seed=1) != drawn("rare-crop", 80, seed=2)


@pytest.mark.parametrize("pixels, fields, words", [
    ([[60, 40]], {}, "rare-crop finds no rare class: none has less than 12.50% .*"
                     "b 40.00%, a 60.00%.*data.rare_classes, or use the sampler uniform"),
    ([[100, 0]], {}, r"rare-crop finds no rare class.*\(a 100.00%\)"),
    ([[100, 0]], {"rare_classes": ["b"]}, "data.rare_classes: no training mask .* 'b'"),
    ([[60, 40]], {"rare_classes": ["bb"]}, "data.rare_classes: no class 'bb'; did you mean b"),
])  # fmt: skip
def test_a_sampler_without_its_classes_is_refused(pixels, fields, words):
    with pytest.raises(UsageError, match=words):
        class_draws(data("rare-crop", ["a", "b"], **fields), np.array(pixels))


def test_patches_come_to_a_share_of_the_draws_and_change_nothing_else():
    draws = drawn("copy-paste")
    assert [draw._replace(patch=None) for draw in draws] == drawn("rare-crop")
    pasted = [draw for draw in draws if draw.patch]
    assert all(PIXELS[draw.patch] for draw in pasted)  # by (image, class)
    assert not any(draw.patch.image == draw.index for draw in pasted)
    # a draw of image 7 gets no pole, which no other image has
    poles_at_7 = sum(draw.index == 7 for draw in draws) / 2
    mean = 0.3 * (8000 - poles_at_7)
    assert abs(len(pasted) - mean) < 5 * mean**0.5
    counts = Counter(draw.patch.class_id for draw in pasted)
    assert counts.keys() == {2, 3} and abs(counts[2] - 1200) < 5 * 1200**0.5
    signs = Counter(
        d.patch.image for d in pasted if d.patch.class_id == 2 and d.index not in (3, 4)
    )
    assert signs.keys() == {3, 4} and abs(signs[3] - signs[4]) < 5 * signs.total() ** 0.5


def test_patches_differ_by_seed_and_pass():
    patches = PIXELS[:, :3] > 0, data("uniform", NAMES[:3], rare_classes=["sky"])
    draws = patch_draws(patches[1], patches[0].astype(int), 1.0)
    found = [
        [draws.add_to(Draw(pass_, index), seed).patch for index in range(40)]
        for pass_, seed in ((0, 0), (0, 1), (1, 0))
    ]
    assert found[0] != found[1] and found[0] != found[2]
    assert all(image % 2 == 0 and class_id == 1 for image, class_id in sum(found, []))


def test_nothing_is_pasted_by_default():
    assert class_draws(data("uniform"), PIXELS).patches == NO_PATCHES
    assert patch_draws(data("uniform", ["a"]), np.array([[9]]), 0) == NO_PATCHES
    assert not any(draw.patch for draw in drawn("class-balanced"))


@pytest.mark.parametrize("name", ["void", "Background", "__background__", "clutter/background",
                                  "Unlabelled", "other"])  # fmt: skip
def test_a_name_for_all_else_is_no_object(name):
    pixels = np.array([[900, 5, 5], [900, 5, 5]])
    classes = ["road", name, "pole"]
    assert list(patch_draws(data("uniform", classes), pixels, 1.0).images) == [2]
    named = data("uniform", classes, rare_classes=[name])
    assert list(patch_draws(named, pixels, 1.0).images) == [1]
    assert list(class_draws(data("rare-crop", classes), pixels).images) == [1, 2]


@pytest.mark.parametrize("name", ["other vehicle", "background car", "1", "Ünbekannt"])
def test_other_names_are_objects(name):
    pixels = np.array([[900, 5, 5], [900, 5, 5]])
    images = patch_draws(data("uniform", ["road", name, "pole"]), pixels, 1.0).images
    assert list(images) == [1, 2]


def test_a_class_that_fills_its_masks_is_no_object():
    pixels = np.full((100, 3), [1000, 0, 0])
    pixels[5], pixels[6] = [400, 600, 0], [600, 0, 400]
    images = patch_draws(data("uniform", ["road", "water", "bus"]), pixels, 1.0).images
    assert {c: i.tolist() for c, i in images.items()} == {2: [6]}


@pytest.mark.parametrize("pixels, fields, words", [
    ([[60, 40]] * 2, {}, "copy_paste finds no rare class: none has less than 12.50% .*"
                         "b 40.00%, a 60.00%.*data.rare_classes, or leave it out"),
    ([[99, 1]] * 2, {"classes": ["a", "void"]}, "none but void, no object, has less than 12.50%"),
    ([[99, 1]], {}, "augment.copy_paste takes .* other training images, and there is only one"),
    ([[100, 0]] * 2, {"rare_classes": ["b"]}, "data.rare_classes: no training mask .* 'b'"),
])  # fmt: skip
def test_copy_paste_without_its_classes_is_refused(pixels, fields, words):
    classes = fields.get("classes", ["a", "b"])
    with pytest.raises(UsageError, match=words):
        patch_draws(data("uniform", **{"classes": classes} | fields), np.array(pixels), 0.5)


def test_many_images_and_classes_are_quick_and_small():
    images, classes = 200_000, 150
    rng = np.random.default_rng(0)
    pixels = np.zeros((images, classes), np.int64)
    pixels[np.arange(images)[:, None], rng.integers(0, classes, (images, 10))] = 100
    many = data("class-balanced", [str(c) for c in range(classes)])
    start = time.perf_counter()
    by_class = class_draws(many, pixels)
    first = batch_at(0, images, 16, 0, by_class)
    assert time.perf_counter() - start < 5  # measured: well under 1
    assert sum(found.nbytes for found in by_class.images.values()) < 10e6
    assert len(first) == 16
    start = time.perf_counter()
    for step in range(1, 101):
        batch_at(step, images, 16, 0, by_class)
    assert time.perf_counter() - start < 1  # measured: 0.04


def test_shares_seen_are_those_of_the_crops():
    """Mask 0: class 0 left, 1 right; mask 1: class 1, its upper half ignored. All 8x8."""
    masks = np.zeros((2, 8, 8), np.uint8)
    masks[0, :, 4:], masks[1], masks[1, :4] = 1, 1, 255
    whole = Augmentation(AugmentConfig(preset="none"), (8, 8), 255, 0)
    # 32 + 32 pixels of mask 0, 32 of mask 1
    seen = shares_seen(masks.__getitem__, [Draw(0, 0), Draw(0, 1)], whole.crop_mask, 3)
    assert seen.tolist() == [32 / 96, 64 / 96, 0]
    padded = Augmentation(AugmentConfig(preset="none"), (20, 20), 255, 0)
    assert np.array_equal(
        shares_seen(masks.__getitem__, [Draw(0, 0), Draw(0, 1)], padded.crop_mask, 3), seen
    )
    nothing = shares_seen(lambda index: np.full((8, 8), 255), [Draw(0, 0)], whole.crop_mask, 3)
    assert nothing.tolist() == [0, 0, 0]


def test_rare_crops_show_more_of_the_rare_class():
    masks = np.zeros((40, 64, 64), np.uint8)
    masks[:4, 30:33, 30:33] = 1
    pixels = np.stack([np.bincount(mask.ravel(), minlength=2) for mask in masks])
    change = Augmentation(AugmentConfig(preset="none"), (16, 16), 255, 0)
    shares = {}
    for sampler in ("uniform", "rare-crop"):
        by_class = class_draws(data(sampler, ["wall", "nail"], rare_share=0.5), pixels)
        draws = [draw for step in range(80) for draw in batch_at(step, 40, 8, 0, by_class)]
        shares[sampler] = shares_seen(masks.__getitem__, draws, change.crop_mask, 2)[1]
    # half of the crops hold all 9 of its pixels: 9 / 256 / 2 and a little
    assert shares["uniform"] < 0.002 and 0.016 < shares["rare-crop"] < 0.021


def test_pasted_crops_show_more_of_the_rare_class():
    masks = np.zeros((40, 64, 64), np.uint8)
    masks[:4, 30:33, 30:33] = 1
    pixels = np.stack([np.bincount(mask.ravel(), minlength=2) for mask in masks])
    by_class = class_draws(data("uniform", ["wall", "nail"]), pixels, copy_paste=0.5)
    change = Augmentation(AugmentConfig(preset="none"), (16, 16), 255, 0)
    draws = [draw for step in range(80) for draw in batch_at(step, 40, 8, 0, by_class)]
    _, nail = shares_seen(masks.__getitem__, draws, change.crop_mask, 2)
    # half of the crops have 9 of 256 pixels, and a few have their own
    assert 0.016 < nail < 0.021


def test_passes_and_seeds_differ():
    def order(pass_, seed):
        return tuple(draw.index for draw in batch_at(pass_, 30, 30, seed))

    assert len({order(pass_, seed) for pass_ in range(4) for seed in range(4)}) == 16


def test_a_leftover_is_dropped():
    assert [steps_per_pass(n, 4) for n in (4, 7, 8, 11)] == [1, 1, 2, 2]
    assert [draw.pass_ for step in range(4) for draw in batch_at(step, 7, 4, seed=0)] == (
        [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4
    )
