"""Pairs, batches and loaders: their content, and damaged files."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import write_pairs
from PIL import Image

from segtrain.config import AugmentConfig
from segtrain.data.images import ImageReader
from segtrain.data.loading import dataset
from segtrain.data.loading.augment import Augmentation
from segtrain.data.loading.batch import collate
from segtrain.data.loading.cache import RamCache
from segtrain.data.loading.dataset import (
    Pairs,
    make_image_loader,
    read_batches,
    train_loader,
)
from segtrain.data.loading.sampling import (
    UNIFORM,
    BatchSampler,
    ClassDraws,
    Draw,
    PatchDraws,
    PatchSource,
    batch_at,
)
from segtrain.data.masks import MaskReader
from segtrain.data.sample import Sample
from segtrain.errors import SegtrainError


def samples_in(folder: Path) -> list[Sample]:
    return [Sample(i, folder / "masks" / i.name) for i in sorted((folder / "images").iterdir())]


def make_pairs(samples: list[Sample], augmentation=None, lb_ignore: int = 255, **more) -> Pairs:
    masks = MaskReader(3, lb_ignore=lb_ignore)
    return Pairs(samples, ImageReader(), masks, augmentation, **more)


def top_left(image: np.ndarray, mask: np.ndarray, draw: Draw) -> tuple[np.ndarray, np.ndarray]:
    """An augmentation that shows which draw it was given: in the corner's red and green."""
    image, mask = image[:8, :8].copy(), mask[:8, :8].copy()
    image[0, 0] = draw.pass_, draw.index, draw.focus + 1
    return image, mask


class Listed:
    """A batch sampler of given batches."""

    def __init__(self, *batches: list[Draw]):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def draws_of(batch) -> list[list[int]]:
    """Return what `top_left` wrote: (pass, index, focus + 1) of each image."""
    return batch.images[:, :, 0, 0].tolist()


def test_an_item_is_the_file_in_uint8(pairs: Path):
    samples = samples_in(pairs)
    image, target = make_pairs(samples)[2]
    assert (image.shape, image.dtype, target.dtype) == ((3, 48, 40), torch.uint8, torch.uint8)
    pixels = np.asarray(Image.open(samples[2].image))
    assert image[:, 5, 7].tolist() == pixels[5, 7].tolist()
    assert np.array_equal(image.permute(1, 2, 0), pixels)
    assert np.array_equal(target, np.asarray(Image.open(samples[2].mask)))


def test_a_target_that_uint8_cannot_hold_is_int16(pairs: Path):
    values = np.asarray(Image.open(pairs / "masks/000.png")).copy()
    values[3, 4] = 9
    Image.fromarray(values).save(pairs / "masks/000.png")
    masks = MaskReader(3, {9: "ignore"}, lb_ignore=-1)
    _, target = Pairs(samples_in(pairs), ImageReader(), masks)[0]
    assert target.dtype == torch.int16
    assert target[3, 4] == -1 and (target == -1).sum() == 1


def test_grey_images_have_one_channel(pairs: Path):
    image, _ = Pairs(samples_in(pairs), ImageReader(channels=1), MaskReader(3))[0]
    assert image.shape == (1, 48, 40)


def test_other_sizes_of_image_and_mask_name_both_files(pairs: Path):
    Image.fromarray(np.zeros((47, 40), np.uint8)).save(pairs / "masks/001.png")
    item = make_pairs(samples_in(pairs))[1]
    assert item.index == 1
    assert "images/001.png" in str(item.reason) and "masks/001.png" in str(item.reason)


def test_a_batch_is_stacked_as_channels_last():
    images = torch.arange(2 * 4 * 5 * 3, dtype=torch.uint8).reshape(2, 4, 5, 3)
    targets = torch.arange(40, dtype=torch.uint8).reshape(2, 4, 5)
    items = [
        (image.permute(2, 0, 1), target) for image, target in zip(images, targets, strict=True)
    ]
    stacked, labels = collate(items)
    assert stacked.shape == (2, 3, 4, 5) and stacked.dtype == labels.dtype == torch.uint8
    assert stacked[1, 2, 3, 4] == images[1, 3, 4, 2]
    assert stacked.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(stacked.permute(0, 2, 3, 1), images) and torch.equal(labels, targets)


def test_each_image_at_its_own_size_in_order(tmp_path: Path):
    write_pairs(tmp_path, 2)
    write_pairs(tmp_path, 1, first=2, height=16, width=24)
    batches = list(
        read_batches(make_image_loader(make_pairs(samples_in(tmp_path)), range(2, -1, -2), 0))
    )
    assert [batch.indices for batch in batches] == [[2], [0]]
    assert [batch.images.shape for batch in batches] == [(1, 3, 16, 24), (1, 3, 48, 40)]


PASTING = ClassDraws({}, 0, patches=PatchDraws({1: np.arange(6)}, 0.5))


def epoch(
    pairs: Path, workers: int, cache=None, by_class: ClassDraws = UNIFORM
) -> list[tuple[list[int], bytes, bytes]]:
    """Two passes over six pairs by the real augmentation, as bytes."""
    augmentation = Augmentation(AugmentConfig(preset="strong"), (32, 24), 255, seed=3)
    found = make_pairs(samples_in(pairs), augmentation, cache=cache)
    sampler = BatchSampler(6, 2, 3, by_class)
    loader = train_loader(found, sampler, workers)
    seen = []
    for start in (0, 3):
        sampler.start, sampler.stop = start, start + 3
        seen += [
            (b.indices, b.images.numpy().tobytes(), b.targets.numpy().tobytes())
            for b in read_batches(loader)
        ]
    return seen


@pytest.mark.parametrize("by_class", [UNIFORM, PASTING], ids=["plain", "pasting"])
def test_training_batches_are_the_same_for_any_workers_and_cache(pairs: Path, by_class):
    alone = epoch(pairs, 0, by_class=by_class)
    assert len(alone) == 6 and len({images for _, images, _ in alone}) == 6
    assert (alone == epoch(pairs, 0)) == (by_class is UNIFORM)
    assert epoch(pairs, 1, by_class=by_class) == alone
    assert epoch(pairs, 2, by_class=by_class) == alone
    for workers in (0, 2):
        cache = RamCache([(48, 40)] * 6, 3, np.dtype(np.uint8), 10**6)
        assert epoch(pairs, workers, cache, by_class) == alone
        assert cache.state.tolist() == [2] * 6  # all were kept, by whichever process
        assert epoch(pairs, workers, cache, by_class) == alone


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_an_epoch_left_midway_does_not_reach_into_the_next(pairs: Path, workers: int):
    """Prefetched batches are dropped after a change of steps: only the new ones arrive."""
    found = make_pairs(samples_in(pairs) * 10, top_left)
    sampler = BatchSampler(60, 2, 3)
    loader = train_loader(found, sampler, workers)
    for start, taken in ((0, 1), (100, 4), (7, 9), (200, 30), (40, 2)):
        sampler.start, sampler.stop = start, start + 30
        for number, batch in enumerate(read_batches(loader), 1):
            asked = batch_at(start + number - 1, 60, 2, 3)
            assert draws_of(batch) == [[draw.pass_, draw.index, 0] for draw in asked]
            if number == taken:
                break
        assert number == taken


@pytest.mark.parametrize("workers", [0, 1])
def test_loading_leaves_the_global_random_state_alone(pairs: Path, workers: int):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    list(read_batches(make_image_loader(make_pairs(samples_in(pairs)), range(6), workers)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_stops_the_run_and_names_itself(pairs: Path, workers: int):
    cut(pairs / "images/003.png")
    loader = make_image_loader(make_pairs(samples_in(pairs)), range(6), workers)
    with pytest.raises(SegtrainError, match=r"images/003\.png.*truncated"):
        list(read_batches(loader))


def many(folder: Path, count: int, damaged: list[int]) -> list[Sample]:
    """`count` pairs, of which some have a damaged mask; all others share one file."""
    write_pairs(folder, 1)
    good = samples_in(folder)[0]
    samples = [good] * count
    for index in damaged:
        mask = folder / "masks" / f"bad{index}.png"
        mask.write_text("no image")
        image = folder / "images" / f"bad{index}.png"
        image.write_bytes(good.image.read_bytes())
        samples[index] = Sample(image, mask)
    return samples


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_in_training_the_next_readable_takes_its_place(tmp_path: Path, workers: int):
    samples = many(tmp_path, 200, [5, 199])
    found = make_pairs(samples, top_left, on_error="skip")
    batches = Listed(
        [Draw(1, 4), Draw(1, 5, focus=2)], [Draw(2, 199), Draw(2, 7, focus=1)], [Draw(3, 5)]
    )
    seen = list(read_batches(train_loader(found, batches, workers)))
    assert [batch.indices for batch in seen] == [[4, 6], [0, 7], [6]]
    # the stand-in need not have the class that the crop was to be centred on
    assert [draws_of(b) for b in seen] == [
        [[1, 4, 0], [1, 6, 0]],
        [[2, 0, 0], [2, 7, 2]],
        [[3, 6, 0]],
    ]
    assert [list(batch.unread) for batch in seen] == [[5], [199], [5]]
    assert "bad5.png" in str(seen[0].unread[5])
    assert str(*found.skipped_notes()) == "2 images skipped: bad5.png, bad199.png"


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_source_of_a_patch_counts_as_itself(tmp_path: Path, workers: int):
    samples = many(tmp_path, 200, [5])
    batches = Listed([Draw(1, 4, patch=PatchSource(5, 1))], [Draw(1, 6)])
    found = make_pairs(samples, top_left, on_error="skip")
    seen = list(read_batches(train_loader(found, batches, workers)))
    # the next one takes its place, as that of a crop that can't be read itself
    assert [batch.indices for batch in seen] == [[6], [6]]
    assert str(*found.skipped_notes()) == "1 image skipped: bad5.png"
    stopped = train_loader(make_pairs(samples, top_left, on_error="stop"), batches, workers)
    with pytest.raises(SegtrainError, match=r"bad5\.png"):
        list(read_batches(stopped))


def test_neighbours_that_are_both_damaged(tmp_path: Path):
    found = make_pairs(many(tmp_path, 200, [5, 6]), top_left, on_error="skip")
    (batch,) = read_batches(train_loader(found, Listed([Draw(0, 5)]), 0))
    assert batch.indices == [7] and list(batch.unread) == [5, 6]


@pytest.mark.parametrize("workers", [0, 2])
def test_skipped_in_evaluation_it_is_left_out(tmp_path: Path, workers: int):
    found = make_pairs(many(tmp_path, 100, [1]), on_error="skip")
    batches = list(read_batches(make_image_loader(found, range(4), workers)))
    assert [batch.indices for batch in batches] == [[0], [2], [3]]
    assert str(*found.skipped_notes("val")) == "val: 1 image skipped: bad1.png"
    list(read_batches(make_image_loader(found, range(4), workers)))
    assert str(*found.skipped_notes("val")) == "val: 1 image skipped: bad1.png"  # each counts once


@pytest.mark.parametrize("augmentation", [None, top_left])
def test_more_than_one_percent_skipped_stops_the_run(tmp_path: Path, augmentation):
    samples = many(tmp_path, 299, [3, 4, 5])
    found = make_pairs(samples, augmentation, on_error="skip")
    loader = (
        train_loader(found, Listed([Draw(0, 3)], [Draw(0, 5)]), 0)
        if augmentation
        else make_image_loader(found, range(299), 0)
    )
    with pytest.raises(SegtrainError, match=r"3 of 299 pairs .* 1 %.*bad3\.png.*bad5\.png"):
        list(read_batches(loader))
    # with one image more than that, it is 1 %
    found = make_pairs([*samples, samples[0]], on_error="skip")
    assert len(list(read_batches(make_image_loader(found, range(300), 0)))) == 297


def test_no_readable_pair_stops_the_run(tmp_path: Path):
    found = make_pairs(many(tmp_path, 2, [0, 1]), top_left, on_error="skip")
    with pytest.raises(SegtrainError, match="2 of 2 pairs"):
        list(read_batches(train_loader(found, Listed([Draw(0, 0), Draw(0, 1)]), 0)))


def test_nothing_skipped_gives_no_note(pairs: Path):
    found = make_pairs(samples_in(pairs), on_error="skip")
    list(read_batches(make_image_loader(found, range(6), 0)))
    assert found.skipped_notes() == []


def test_workers_import_no_slow_library():
    """Workers that are not forked would import everything again."""
    tree = ast.parse(Path(dataset.__file__).read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {n for n in names if n.split(".")[0] in ("lightning_fabric", "albumentations")}
    assert not any("segmentation_models" in name for name in names)
