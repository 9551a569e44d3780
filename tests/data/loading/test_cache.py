"""Decoded pairs kept in memory and on disk: the same pixels, bounds, changes, damage, sharing."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import made_up_data, write_pairs
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.images import ImageReader
from segtrain.data.loading import cache as caching
from segtrain.data.loading.cache import open_caches
from segtrain.data.loading.dataset import Pairs, make_image_loader, read_batches
from segtrain.data.loading.workers import FORKS
from segtrain.data.masks import MaskReader
from segtrain.data.regions import RegionMask
from segtrain.data.sample import Sample

HEIGHT, WIDTH = 48, 40
PIXELS = HEIGHT * WIDTH
PAIR = 4 * PIXELS  # bytes of a decoded pair: RGB and a uint8 mask, a multiple of 64
FILE = PAIR + 64
FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the disk cache in each test."""
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "decoded"


def samples_in(root: Path) -> list[Sample]:
    return [Sample(i, root / "masks" / i.name) for i in sorted((root / "images").iterdir())]


def opened(
    root: Path, kind: str, gb: float = 1, masks: MaskReader | None = None, **more
) -> tuple[Pairs, str]:
    """Return the pairs of a folder behind a cache, and its notes."""
    samples, config = samples_in(root), DataConfig(cache=kind, cache_gb=gb)
    data = made_up_data(samples, masks, config=config, images=ImageReader(**more))
    caches = open_caches(data, {"train": [(HEIGHT, WIDTH)] * len(samples)})
    notes = "".join(map(str, caches.notes))
    return Pairs.of(data, "train", cache=caches.by_split.get("train")), notes


def count_decodes(pairs: Pairs) -> list[Sample]:
    """Return a list that collects the samples which `pairs` decodes from now on."""
    decoded, decode = [], pairs.decode

    def counting(sample: Sample):
        decoded.append(sample)
        return decode(sample)

    pairs.decode = counting
    return decoded


def repaint(path: Path, later: int = 1) -> np.ndarray:
    """Write another image of the same size, with a later time of change."""
    then = path.stat().st_mtime_ns
    pixels = 255 - np.asarray(Image.open(path))
    Image.fromarray(pixels).save(path)
    os.utime(path, ns=(then + later, then + later))
    return pixels


def read_all(pairs: Pairs) -> list[tuple[np.ndarray, np.ndarray]]:
    return [pairs.read(i) for i in range(len(pairs))]


def equal(ones: list, others: list) -> bool:
    return all(
        np.array_equal(a, b) and a.dtype == b.dtype
        for one, other in zip(ones, others, strict=True)
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_second_reading_decodes_nothing_and_sees_the_same(pairs: Path, kind: str):
    plain = read_all(opened(pairs, "none")[0])
    kept, _ = opened(pairs, kind)
    assert equal(read_all(kept), plain)
    decoded = count_decodes(kept)
    assert equal(read_all(kept), plain) and decoded == []


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_the_pixels_are_those_of_the_files(pairs: Path, kind: str):
    kept, _ = opened(pairs, kind)
    read_all(kept)
    assert kept.cache.get(4, (0, 0)) is None  # of no such stamp
    image, mask = kept.cache.get(4, caching.stamp_of(kept.samples[4]))
    assert np.array_equal(image, np.asarray(Image.open(pairs / "images/004.png")))
    assert np.array_equal(mask, np.asarray(Image.open(pairs / "masks/004.png")))


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_pair_of_other_values_under_the_same_size_and_time(tmp_path: Path, kind: str):
    root = write_pairs(tmp_path, 2)
    masks = [root / f"masks/{i}.npy" for i in range(2)]
    for mask in masks:
        np.save(mask, np.zeros((48, 40), np.uint8))
        os.utime(mask, ns=(7, 7))
    samples = [Sample(root / f"images/00{i}.png", mask) for i, mask in enumerate(masks)]
    data = replace(made_up_data(samples), config=DataConfig(cache=kind))
    caches = open_caches(data, {"train": [(48, 40)] * 2})
    kept = Pairs.of(data, "train", cache=caches.by_split["train"])
    read_all(kept)
    np.save(masks[1], np.ones((48, 40), np.uint8))
    os.utime(masks[1], ns=(7, 7))
    assert [pair[1].max() for pair in read_all(kept)] == [0, 1]


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_int16_masks_and_grey_images(pairs: Path, kind: str):
    masks = MaskReader(3, {2: "ignore"}, lb_ignore=-1)
    plain = read_all(opened(pairs, "none", masks=masks, channels=1)[0])
    kept, _ = opened(pairs, kind, masks=masks, channels=1)
    read_all(kept)
    found = read_all(kept)
    assert equal(found, plain)
    assert found[0][1].dtype == np.int16 and found[0][0].shape == (HEIGHT, WIDTH, 1)
    assert min(mask.min() for _, mask in found) == -1


def test_pixel_counts_that_are_no_multiple_of_a_cache_line(tmp_path: Path):
    write_pairs(tmp_path, 3, height=40, width=37)
    masks = MaskReader(3, lb_ignore=-1)
    data = made_up_data(samples_in(tmp_path), masks)
    plain = read_all(Pairs.of(data, "train"))
    for kind in ("ram", "disk"):
        caches = open_caches(
            replace(data, config=DataConfig(cache=kind)), {"train": [(40, 37)] * 3}
        )
        kept = Pairs.of(data, "train", cache=caches.by_split.get("train"))
        read_all(kept)
        decoded = count_decodes(kept)
        assert equal(read_all(kept), plain) and decoded == []


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_workers_fill_what_others_read(pairs: Path, kind: str):
    kept, _ = opened(pairs, kind)
    plain = read_all(opened(pairs, "none")[0])
    list(read_batches(make_image_loader(kept, range(6), 2)))
    decoded = count_decodes(kept)
    assert equal(read_all(kept), plain) and decoded == []


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("changed", ["images", "masks"])
def test_a_changed_file_is_decoded_again(pairs: Path, kind: str, changed: str):
    kept, _ = opened(pairs, kind)
    before = read_all(kept)
    path = pairs / changed / "002.png"
    if changed == "masks":
        Image.fromarray((2 - before[2][1]).astype(np.uint8)).save(path)
    else:
        repaint(path)
    plain = read_all(opened(pairs, "none")[0])
    assert not equal(before, plain)
    for _ in range(3):
        assert equal(read_all(kept), plain)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_pair_that_was_read_stays_when_the_file_changes(pairs: Path, kind: str):
    kept, _ = opened(pairs, kind)
    kept.read(0)
    image, _ = kept.read(0)
    copy = image.copy()
    repaint(pairs / "images/000.png")
    kept.read(0)
    kept.read(0)
    assert np.array_equal(image, copy)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_a_file_that_changes_while_it_is_read_is_not_cached(pairs: Path, kind: str):
    kept, _ = opened(pairs, kind)
    path, decode = pairs / "images/000.png", kept.decode
    content, then = path.read_bytes(), path.stat().st_mtime_ns

    def late(sample: Sample):
        repaint(sample.image)
        return decode(sample)

    kept.decode = late
    repainted = kept.read(0)[0]
    path.write_bytes(content)  # the file comes back from a backup, as old as it was
    os.utime(path, ns=(then, then))
    kept.decode = decode
    found = kept.read(0)[0]
    assert np.array_equal(found, np.asarray(Image.open(path)))
    assert not np.array_equal(found, repainted)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_an_error_is_not_cached(pairs: Path, kind: str):
    good = (pairs / "images/001.png").read_bytes()
    (pairs / "images/001.png").write_bytes(good[:200])
    kept, _ = opened(pairs, kind)
    for _ in range(2):
        assert "001.png" in str(kept[1])
    (pairs / "images/001.png").write_bytes(good)
    assert np.array_equal(kept.read(1)[0], np.asarray(Image.open(pairs / "images/001.png")))


def test_a_missing_file_is_reported(pairs: Path):
    kept, _ = opened(pairs, "ram")
    kept.read(3)
    (pairs / "images/003.png").unlink()
    assert "images/003.png: no such file" in str(kept[3])


def test_memory_ends_at_its_bound(pairs: Path):
    kept, line = opened(pairs, "ram", gb=(4 * PAIR + PAIR // 2) / 1e9)
    assert "4 of 6 pairs in memory" in line and "data.cache_gb is" in line
    assert kept.cache.nbytes == 4 * PAIR
    plain = read_all(opened(pairs, "none")[0])
    read_all(kept)
    decoded = count_decodes(kept)
    assert equal(read_all(kept), plain)
    assert [sample.name for sample in decoded] == ["004", "005"]


def test_splits_and_processes_share_the_bound(pairs: Path):
    samples = samples_in(pairs)
    splits = {"train": samples[:4], "val": samples[4:]}
    sizes = {name: [(HEIGHT, WIDTH)] * len(split) for name, split in splits.items()}
    config = DataConfig(cache="ram", cache_gb=10 * PAIR / 1e9)
    data = made_up_data([], splits=splits, config=config)
    caches = open_caches(data, sizes, processes=2)
    assert (caches.by_split["train"].slots, caches.by_split["val"].slots) == (4, 1)
    assert "5 of 6" in str(caches.notes[0]) and "for 2 processes" in str(caches.notes[0])
    data = replace(data, config=DataConfig(cache="disk", cache_gb=10 * FILE / 1e9))
    caches = open_caches(data, sizes, processes=2)
    for name, cache in caches.by_split.items():
        read_all(Pairs.of(data, name, cache=cache))
    assert len(list((Path(os.environ["SEGTRAIN_CACHE"]) / "decoded").iterdir())) == 5


def test_the_memory_cache_leaves_a_share_of_free_memory(
    pairs: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(caching, "free_memory", lambda: 4 * PAIR)
    kept, line = opened(pairs, "ram")
    assert kept.cache.slots == 3  # 75 % of 4
    assert "3 of 6 pairs" in line and "75% of the free memory" in line


def test_free_memory_is_the_kernels_estimate():
    kernel = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    assert 0 < caching.free_memory() <= int(kernel["MemTotal"].split()[0]) * 1024


def test_a_pair_of_an_unexpected_size_is_not_cached(pairs: Path):
    kept, _ = opened(pairs, "ram")
    for folder in ("images", "masks"):
        path = pairs / folder / "000.png"
        Image.fromarray(np.asarray(Image.open(path))[:30]).save(path)
    plain = read_all(opened(pairs, "none")[0])
    for _ in range(2):
        assert equal(read_all(kept), plain)


def test_arrays_from_the_memory_cache_are_read_only(pairs: Path):
    kept, _ = opened(pairs, "ram")
    kept.read(0)
    for array in kept.read(0):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1
    image, target = kept[0]
    image.zero_(), target.zero_()  # a tensor is a copy
    assert kept.read(0)[0].any()


def test_a_second_run_finds_the_files(pairs: Path, folder: Path):
    first, line = opened(pairs, "disk")
    assert "0 of 6 pairs" in line and str(folder) in line
    plain = read_all(first)
    second, line = opened(pairs, "disk")
    assert "6 of 6 pairs" in line
    decoded = count_decodes(second)
    assert equal(read_all(second), plain) and decoded == []
    assert {f.stat().st_size for f in folder.iterdir()} == {FILE}


@pytest.mark.parametrize(
    "masks, more",
    [
        (MaskReader(3, {2: 1}), {}),
        (MaskReader(4), {}),
        (MaskReader(3, lb_ignore=254), {}),
        (MaskReader(3), {"value_range": (0, 128)}),
        (MaskReader(3), {"channels": 1}),
    ],
)
def test_another_meaning_is_another_file(pairs: Path, masks: MaskReader, more: dict):
    read_all(opened(pairs, "disk")[0])
    plain = read_all(opened(pairs, "none", masks=masks, **more)[0])
    other, line = opened(pairs, "disk", masks=masks, **more)
    assert "0 of 6" in line
    assert equal(read_all(other), plain) and equal(read_all(other), plain)


def test_equal_readers_find_the_same_files(pairs: Path):
    """Readers of another process have equal values in other objects, so their pickles differ."""
    red, black = (250, 0, 0), (0, 0, 0)
    one = MaskReader(3, {2: 1, 1: 0}, palette=[red, black, red])
    other = MaskReader(3, {1: 0, 2: 1}, palette=[red, black, tuple([250, 0, 0])])
    assert pickle.dumps(one.palette) != pickle.dumps(other.palette)
    read_all(opened(pairs, "disk", masks=one)[0])
    assert "6 of 6" in opened(pairs, "disk", masks=other)[1]


def test_a_moved_data_set_is_another(pairs: Path, tmp_path: Path):
    read_all(opened(pairs, "disk")[0])
    shutil.copytree(pairs, tmp_path / "moved", copy_function=shutil.copy2)
    assert "0 of 6" in opened(tmp_path / "moved", "disk")[1]


def swap(files: list[Path]) -> None:
    one, other = files[0].read_bytes(), files[1].read_bytes()
    files[0].write_bytes(other), files[1].write_bytes(one)


# what is done to the files of a cache
DAMAGE = {
    "cut short": lambda files: [f.write_bytes(f.read_bytes()[:-1]) for f in files],
    "header alone": lambda files: [f.write_bytes(f.read_bytes()[:64]) for f in files],
    "part of a header": lambda files: [f.write_bytes(f.read_bytes()[:20]) for f in files],
    "empty": lambda files: [f.write_bytes(b"") for f in files],
    "too long": lambda files: [f.write_bytes(f.read_bytes() + b"x") for f in files],
    "foreign": lambda files: [f.write_bytes(b"x" * FILE) for f in files],
    "another's": swap,
    "a folder": lambda files: [(f.unlink(), f.mkdir()) for f in files],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_a_miss_and_rewritten(pairs: Path, folder: Path, damage: str):
    kept, _ = opened(pairs, "disk")
    plain = read_all(kept)
    DAMAGE[damage](sorted(folder.iterdir())[:2])
    kept, _ = opened(pairs, "disk")
    decoded = count_decodes(kept)
    assert equal(read_all(kept), plain)
    assert len(decoded) == 2
    if damage != "a folder":  # which nothing can take the place of
        assert equal(read_all(kept), plain) and len(decoded) == 2


def test_disk_ends_at_its_bound(pairs: Path, folder: Path):
    kept, _ = opened(pairs, "disk", gb=(4 * FILE + PAIR) / 1e9)
    plain = read_all(opened(pairs, "none")[0])
    read_all(kept)
    assert len(list(folder.iterdir())) == 4
    decoded = count_decodes(kept)
    assert equal(read_all(kept), plain)
    assert [sample.name for sample in decoded] == ["004", "005"]


def test_the_bound_holds_for_all_workers_together(pairs: Path, folder: Path):
    kept, _ = opened(pairs, "disk", gb=(3 * FILE + 10) / 1e9)
    list(read_batches(make_image_loader(kept, range(6), 2)))
    assert len(list(folder.iterdir())) == 3


def test_the_least_recently_used_files_are_evicted(tmp_path: Path, folder: Path):
    names = {}
    for place, name in enumerate(["old", "older", "mine"]):
        root = write_pairs(tmp_path / name, 2, first=2 * place)
        known = set(folder.iterdir()) if folder.exists() else set()
        read_all(opened(root, "disk")[0])
        names[name] = set(folder.iterdir()) - known
    for age, name in ((10, "old"), (20, "older"), (30, "mine")):
        for file in names[name]:
            then = file.stat().st_mtime - 86400 * age
            os.utime(file, (then, then))
    # space for five: mine are the oldest, but used now, so one of the older goes
    _, line = opened(tmp_path / "mine", "disk", gb=5 * FILE / 1e9)
    assert "2 of 2" in line
    left = set(folder.iterdir())
    assert names["mine"] | names["old"] < left and len(left & names["older"]) == 1
    # new pairs need space for two: both that are left of the others' oldest go
    kept, _ = opened(write_pairs(tmp_path / "new", 2, first=6), "disk", gb=5 * FILE / 1e9)
    read_all(kept)
    left = set(folder.iterdir())
    assert len(left) == 5 and not left & names["older"] and names["mine"] < left
    # a bound below one's own
    opened(tmp_path / "mine", "disk", gb=FILE / 1e9)
    assert len(list(folder.iterdir())) == 1 and set(folder.iterdir()) < names["mine"]


def fill(pairs: Pairs, order: list[int], start) -> None:
    start.wait()
    for index in order:
        pairs.read(index)


@pytest.mark.parametrize("kind", ["ram", "disk"])
def test_two_processes_fill_at_once(tmp_path: Path, kind: str):
    root = write_pairs(tmp_path / "set", 24)
    plain = read_all(opened(root, "none")[0])
    # disk: each run opens its own; ram: workers of one run
    one = opened(root, kind)[0]
    two = opened(root, kind)[0] if kind == "disk" else one
    start = FORK.Barrier(2)
    runs = [FORK.Process(target=fill, args=(p, list(range(24)), start)) for p in (one, two)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0]
    decoded = count_decodes(one)
    assert equal(read_all(one), plain) and decoded == []
    if kind == "disk":
        folder = Path(os.environ["SEGTRAIN_CACHE"]) / "decoded"
        assert len(list(folder.iterdir())) == 24  # and nothing temporary


def test_a_folder_that_cannot_be_made(pairs: Path, tmp_path: Path):
    (tmp_path / "cache").write_text("in the way")
    kept, line = opened(pairs, "disk")
    assert kept.cache is None
    assert line.startswith("cache: nothing is stored, ") and "\n" not in line
    assert len(read_all(kept)) == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(pairs: Path, folder: Path):
    folder.mkdir(parents=True)
    folder.chmod(0o500)
    kept, line = opened(pairs, "disk")
    assert kept.cache is None and "ermission" in line


def test_a_disk_that_fills_up_ends_the_caching_with_one_line(
    pairs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    kept, _ = opened(pairs, "disk")
    kept.read(0)
    calls = []

    def full(source: Path, target: Path) -> None:
        calls.append(target)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    plain = read_all(opened(pairs, "none")[0])
    assert equal(read_all(kept), plain) and equal(read_all(kept), plain)
    list(read_batches(make_image_loader(kept, range(6), 2)))
    assert len(calls) == 1  # it isn't tried again
    assert len(list(folder.iterdir())) == 1  # the first pair; nothing temporary
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1 and "data.cache" in lines[0] and "No space left" in lines[0]


@pytest.mark.skipif(not FORKS, reason="a spawned worker knows nothing of the full disk")
def test_workers_on_a_full_disk_report_it_once(
    pairs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
):
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    kept, _ = opened(pairs, "disk")
    list(read_batches(make_image_loader(kept, range(6), 2)))
    assert capfd.readouterr().err.count("No space left") == 1


def test_cache_none_stores_nothing(pairs: Path, folder: Path):
    kept, line = opened(pairs, "none")
    read_all(kept)
    assert kept.cache is None and line == "" and not folder.exists()


def test_masks_in_memory_are_cached_under_the_file_that_they_are_of(tmp_path: Path):
    """Another file in its place must not get the masks that the run still has."""
    root = write_pairs(tmp_path / "set", 1)
    file = root / "masks.json"
    file.write_text("1")
    mask = RegionMask(file, 0, (HEIGHT, WIDTH), background=1)
    data = made_up_data([Sample(root / "images/000.png", mask)])
    data = replace(data, config=DataConfig(cache="disk"))

    def read_first(samples: list[Sample]) -> np.ndarray:
        splits = {"train": samples}
        caches = open_caches(replace(data, splits=splits), {"train": [(HEIGHT, WIDTH)]})
        kept = Pairs.of(replace(data, splits=splits), "train", cache=caches.by_split["train"])
        file.write_text("22")
        return kept.read(0)[1]

    assert read_first(data.splits["train"]).any()
    changed = replace(mask, background=0)
    assert not read_first([Sample(root / "images/000.png", changed)]).any()
