"""Facts of pairs, read once and saved."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import scene, shared_data, write_pairs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageFilter

from segtrain.config import DataConfig
from segtrain.data.images import ImageReader
from segtrain.data.inspection import scan
from segtrain.data.inspection.scan import (
    MOST_VALUES,
    ImageFacts,
    PairFacts,
    Scanner,
    UnreadablePair,
    checksum_values,
    count_values,
    difference_hash,
    image_facts,
    mask_facts,
)
from segtrain.data.layouts.detect import find_pairs
from segtrain.data.masks import MaskReader, smooth_share
from segtrain.data.regions import RegionMask
from segtrain.data.sample import Sample
from segtrain.errors import SegtrainError
from segtrain.files.whole import stamp_files

CAMVID_TRAIN = [10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877,
                405385, 184967, 2503995]  # fmt: skip
CHANNELS = 3
read = ImageReader(CHANNELS)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "scan"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Count how often each kind of facts is read from a file."""
    counter = Counter()
    for name in ("header_facts", "image_facts", "mask_facts"):
        original = getattr(scan, name)

        def counting(*args, name=name, original=original):
            counter[name] += 1
            return original(*args)

        monkeypatch.setattr(scan, name, counting)
    return counter


def pair(root: Path, name: str, mask: np.ndarray, size: tuple[int, int] | None = None) -> Sample:
    image = np.random.default_rng(len(name)).integers(0, 256, (*(size or mask.shape[:2]), 3))
    Image.fromarray(image.astype(np.uint8)).save(root / f"{name}.png")
    Image.fromarray(mask).save(root / f"{name}_mask.png")
    return Sample(root / f"{name}.png", root / f"{name}_mask.png")


def samples_of(root: Path) -> list[Sample]:
    found = find_pairs(DataConfig(), root)
    return [sample for split in found.splits.values() for sample in split]


def scanner(root: Path, full: bool = False, images: ImageReader = read, masks=None) -> Scanner:
    return Scanner(root, images, masks, full)


# facts


def test_facts_of_masks(tmp_path: Path):
    samples = [
        pair(tmp_path, "a", np.array([[0, 0, 1], [255, 1, 0]], np.uint8)),
        pair(tmp_path, "b", np.array([[2, 2], [300, 2], [2, 2], [2, 2]], np.uint16)),
        pair(tmp_path, "c", np.zeros((9, 7), np.uint8)),
        pair(tmp_path, "d", np.zeros((9, 7), np.uint8), (7, 9)),
    ]
    facts = scanner(tmp_path)(samples)
    assert [fact.sample for fact in facts] == samples
    assert [fact.image.size for fact in facts] == [(2, 3), (4, 2), (9, 7), (7, 9)]
    assert [fact.mask.size for fact in facts] == [(2, 3), (4, 2), (9, 7), (9, 7)]
    assert [fact.mask.values for fact in facts[:3]] == [
        {0: 3, 1: 2, 255: 1},
        {2: 7, 300: 1},
        {0: 63},
    ]
    assert [fact.mask.distinct for fact in facts] == [3, 2, 1, 1]
    assert not any(fact.mask.colours or fact.mask.lossy for fact in facts)


def test_facts_of_coloured_masks(tmp_path: Path):
    colours = np.array([[(1, 2, 3), (0, 0, 0)], [(0, 0, 0), (255, 255, 254)]], np.uint8)
    (facts,) = scanner(tmp_path)([pair(tmp_path, "a", colours)])
    assert facts.mask.colours == {0x010203: 1, 0: 2, 0xFFFFFE: 1}
    assert (facts.mask.values, facts.mask.distinct) == ({}, 3)


@pytest.mark.parametrize("palette", [None, [(0, 0, 0), (9, 9, 9), (7, 7, 7)]])
def test_grey_colours_are_values_unless_a_palette_is_known(tmp_path: Path, palette):
    colours = np.array([[[7, 7, 7], [0, 0, 0]], [[9, 9, 9], [0, 0, 0]]], np.uint8)
    read_facts = Scanner(tmp_path, ImageReader(), None, False, palette)
    (facts,) = read_facts([pair(tmp_path, "a", colours)])
    if palette:
        assert facts.mask.colours == {0x070707: 1, 0: 2, 0x090909: 1}
    else:
        assert facts.mask.values == {7: 1, 0: 2, 9: 1}


def test_facts_of_images_against_numpy(tmp_path: Path):
    rng = np.random.default_rng(0)
    stored = rng.integers(10, 200, (11, 7, 4)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    facts = image_facts(tmp_path / "a.png", read)
    upright = np.rot90(stored[..., :3], -1).astype(np.int64)
    assert facts.size == upright.shape[:2] == (7, 11)
    assert (facts.turned, facts.alpha, facts.deep) == (True, True, False)
    assert facts.pixels == 77
    assert facts.sums == upright.sum((0, 1)).tolist()
    assert facts.squares == (upright**2).sum((0, 1)).tolist()
    assert facts.highest == upright.max()


@pytest.mark.parametrize("channels", [1, 4, 7])
def test_facts_of_many_channels(tmp_path: Path, channels: int):
    pixels = np.random.default_rng(0).integers(0, 90, (6, 5, channels)).astype(np.uint8)
    np.save(tmp_path / "a.npy", pixels)
    facts = image_facts(tmp_path / "a.npy", ImageReader(channels))
    assert facts.sums == pixels.sum((0, 1)).tolist() and len(facts.squares) == channels
    assert facts.highest == pixels.max()


@pytest.mark.parametrize(
    "array, suffix, deep",
    [
        (np.zeros((4, 5), np.uint8), "png", False),
        (np.zeros((4, 5), np.uint16), "png", True),
        (np.zeros((4, 5), np.uint16), "tif", True),
        (np.zeros((4, 5), np.float32), "tif", False),
        (np.zeros((4, 5), np.uint16), "npy", True),
        (np.zeros((4, 5, 3), np.uint8), "npy", False),
        (np.zeros((4, 5), np.float32), "npy", False),
    ],
)
def test_deep_images_are_those_of_16_bit_integers(tmp_path: Path, array, suffix, deep):
    path = tmp_path / f"a.{suffix}"
    np.save(path, array) if suffix == "npy" else Image.fromarray(array).save(path)
    assert scan.header_facts(path, read).deep == image_facts(path, read).deep == deep


def test_the_digest_is_of_the_pixels_not_of_the_file(tmp_path: Path):
    """A picture saved again, or rotated by EXIF, has the same digest; another pixel changes it."""
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 8
    changed = pixels.copy()
    changed[3, 3, 1] ^= 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "b.bmp")
    Image.fromarray(np.ascontiguousarray(np.rot90(pixels, -1))).save(tmp_path / "c.png", exif=exif)
    Image.fromarray(changed).save(tmp_path / "d.png")
    Image.fromarray(pixels.reshape(6, 8, 3)).save(tmp_path / "e.png")
    digests = [image_facts(path, read).digest for path in sorted(tmp_path.glob("?.*"))]
    assert digests[0] == digests[1] == digests[2]
    assert len(set(digests)) == 3


def test_the_quick_scan_reads_headers_alone(tmp_path: Path):
    sample = pair(tmp_path, "a", np.zeros((40, 30), np.uint8))
    content = sample.image.read_bytes()
    sample.image.write_bytes(content[: len(content) // 2])
    (quick,) = scanner(tmp_path)([sample])
    assert quick.image == ImageFacts((40, 30))
    (full,) = scanner(tmp_path, full=True)([sample])
    assert "a.png: the image is truncated" in full.reasons[0]


def test_unreadable_files_are_facts_too(tmp_path: Path):
    samples = [pair(tmp_path, name, np.zeros((4, 5), np.uint8)) for name in "abc"]
    samples[0].image.write_bytes(b"?")
    samples[1].mask.unlink()
    facts = scanner(tmp_path, full=True)(samples)
    (image,), (mask,) = facts[0].reasons, facts[1].reasons
    assert "a.png: not an image" in image and "b_mask.png: no such file" in mask
    assert [type(fact) for fact in facts] == [UnreadablePair, UnreadablePair, PairFacts]


def test_an_image_of_no_pixels_is_unreadable(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.zeros((0, 5, 3), np.uint8))
    with pytest.raises(SegtrainError, match="a.npy"):
        image_facts(tmp_path / "a.npy", read)


def test_lossy_masks_are_snapped_where_they_are_allowed(tmp_path: Path):
    y, x = np.mgrid[:48, :48]
    disc = (((x - 20) ** 2 + (y - 25) ** 2 < 200) * 255).astype(np.uint8)
    Image.fromarray(disc).convert("RGB").save(tmp_path / "mask.jpg", quality=80)
    as_it_is = mask_facts(tmp_path / "mask.jpg", None)
    assert as_it_is.lossy and as_it_is.distinct > 2
    masks = MaskReader(2, {255: 1}, allow_lossy=True)
    snapped = mask_facts(tmp_path / "mask.jpg", masks)
    ids = masks(tmp_path / "mask.jpg")
    assert snapped.values == {0: (ids == 0).sum(), 255: (ids == 1).sum()} and snapped.lossy


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, bool, np.int64, ">u2"])
def test_counts_of_every_type(dtype):
    values = np.random.default_rng(0).integers(0, 2, (30, 20)).astype(dtype) * 1
    values = values.astype(dtype)
    counts, distinct = count_values(values)
    assert counts == {0: int((values == 0).sum()), 1: int((values == 1).sum())} and distinct == 2
    assert all(type(key) is int for key in json.loads(json.dumps(list(counts))))


def test_a_broken_mask_of_very_many_values_does_not_fill_the_memory():
    values = np.arange(20_000, dtype=np.uint16).reshape(100, 200).copy()
    values[0] = 7
    counts, distinct = count_values(values)
    assert len(counts) == MOST_VALUES and distinct == len(np.unique(values)) and counts[7] == 200


# smooth edges


def disc(radius: float = 14, size: int = 48) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return ((x - size // 2) ** 2 + (y - size // 2) ** 2 < radius**2).astype(np.uint8)


def anti_aliased(size: int = 48) -> np.ndarray:
    big = Image.fromarray(disc(14 * 8, size * 8) * 255)
    return np.asarray(big.resize((size, size), Image.Resampling.BOX))


@pytest.mark.parametrize(
    "mask, smooth",
    [
        (disc(), False),
        (disc() * 255, False),
        (np.zeros((5, 5), np.uint8), False),
        (np.zeros((5, 1), np.uint8), False),
        (np.arange(12).reshape(3, 4).astype(np.uint8) % 2, False),
        (disc().astype(bool), False),
        ((disc() + disc(8)).astype(np.int32) * 100, False),
        (np.kron(np.random.default_rng(0).integers(0, 4, (9, 9)), np.ones((6, 6), int)), False),
        (anti_aliased(), True),
        (np.asarray(Image.fromarray(disc() * 255).filter(ImageFilter.GaussianBlur(1))), True),
        (np.asarray(Image.fromarray(disc() * 255).resize((91, 77), Image.BILINEAR)), True),
        (np.asarray(Image.fromarray(disc() * 255).resize((91, 77), Image.BICUBIC)), True),
        (np.asarray(Image.fromarray(disc() * 255).rotate(17, Image.BILINEAR)), True),
        (np.asarray(Image.fromarray(disc() * 255).resize((91, 77), Image.NEAREST)), False),
    ],
)
def test_smooth_edges_are_distinguished_from_hard_ones(mask: np.ndarray, smooth: bool):
    from segtrain.data.masks import SMOOTH

    assert (smooth_share(mask) > SMOOTH) == smooth


def test_smooth_share_by_hand():
    rows = np.array([[0, 9, 255, 255], [0, 0, 255, 255], [3, 3, 3, 3]], np.uint8)
    # places with differing neighbours: 2 of row 0 (0 9 255; 9 255 255), 2 of row 1; between: one
    assert smooth_share(rows) == pytest.approx(1 / 4)
    assert smooth_share(rows[:, ::-1]) == pytest.approx(1 / 4)


# difference hash


def test_near_duplicates_have_near_hashes():
    rng = np.random.default_rng(0)
    rough = Image.fromarray(rng.integers(0, 256, (6, 8), dtype=np.uint8))
    photo = rough.resize((160, 120), Image.Resampling.BICUBIC)
    value = difference_hash(photo)
    others = {
        "smaller": photo.resize((80, 60), Image.Resampling.BOX),
        "brighter": photo.point(lambda v: min(255, v * 0.8 + 30)),
        "noisy": Image.fromarray(
            (np.asarray(photo) + rng.normal(0, 3, (120, 160))).clip(0, 255).astype(np.uint8)
        ),
    }
    apart = {name: (value ^ difference_hash(image)).bit_count() for name, image in others.items()}
    assert max(apart.values()) <= 3, apart
    assert (
        value ^ difference_hash(photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    ).bit_count() > 8


def test_the_hash_by_hand():
    rising = Image.fromarray(np.tile(np.arange(9, dtype=np.uint8), (8, 1)))
    assert difference_hash(rising) == 2**64 - 1
    assert difference_hash(rising.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == 0
    assert difference_hash(Image.new("L", (30, 20), 77)) == 0
    one = np.zeros((8, 9), np.uint8)
    one[0, 1] = 9  # rises from column 0 to 1 of the first row: the highest bit
    assert difference_hash(Image.fromarray(one)) == 1 << 63


# saved facts


def test_saved_facts_are_the_same_and_no_file_is_read_again(tmp_path: Path, calls: Counter):
    root = write_pairs(tmp_path / "set")
    samples = samples_of(root)
    first = scanner(root, full=True)(samples)
    assert calls == {"image_facts": 6, "mask_facts": 6}
    again = scanner(root, full=True)(samples)
    assert again == first
    assert calls == {"image_facts": 6, "mask_facts": 6}
    assert type(again[0].image.size) is tuple and type(next(iter(again[0].mask.values))) is int


def test_facts_of_a_full_scan_serve_the_quick_scan_but_not_vice_versa(
    tmp_path: Path, calls: Counter
):
    root = write_pairs(tmp_path / "set")
    samples = samples_of(root)
    quick = scanner(root)(samples)
    assert calls == {"header_facts": 6, "mask_facts": 6} and not quick[0].image.digest
    full = scanner(root, full=True)(samples)
    assert calls == {"header_facts": 6, "mask_facts": 6, "image_facts": 6}
    assert all(fact.image.digest for fact in full)
    assert scanner(root)(samples) == full
    assert sum(calls.values()) == 18


def touch_later(path: Path) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


@pytest.mark.parametrize("side", ["image", "mask"])
@pytest.mark.parametrize("how", ["time", "size", "content", "replaced"])
def test_a_changed_file_is_read_again(tmp_path: Path, calls: Counter, side: str, how: str):
    root = write_pairs(tmp_path / "set")
    samples = samples_of(root)
    before = scanner(root, full=True)(samples)
    path = getattr(samples[2], side)
    if how == "time":
        touch_later(path)
    elif how == "size":
        status = path.stat()
        path.write_bytes(path.read_bytes() + b"more")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif how == "content":
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    else:
        other = getattr(samples[3], side)
        path.write_bytes(other.read_bytes())
        touch_later(path)
    calls.clear()
    after = scanner(root, full=True)(samples)
    assert calls == {f"{side}_facts": 1}
    assert (after[2] == before[2]) == (how in ("time", "size"))
    same = [a == b for a, b in zip(after, before, strict=True)]
    assert same[:2] + same[3:] == [True] * 5


def test_a_file_that_is_gone_is_not_remembered(tmp_path: Path):
    root = write_pairs(tmp_path / "set")
    samples = samples_of(root)
    scanner(root, full=True)(samples)
    samples[0].image.unlink()
    assert "no such file" in scanner(root, full=True)(samples)[0].reasons[0]


def test_damaged_files_are_tried_again(tmp_path: Path):
    root = write_pairs(tmp_path / "set")
    samples = samples_of(root)
    status, good = samples[0].mask.stat(), samples[0].mask.read_bytes()
    samples[0].mask.write_bytes(bytes(len(good)))
    os.utime(samples[0].mask, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert isinstance(scanner(root)(samples)[0], UnreadablePair)
    samples[0].mask.write_bytes(good)
    os.utime(samples[0].mask, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert isinstance(scanner(root)(samples)[0], PairFacts)


@pytest.mark.parametrize(
    "other",
    [
        {"images": ImageReader(1)},
        {"images": ImageReader(3, (0, 100))},
        {"masks": MaskReader(3, allow_lossy=True)},
        {"masks": MaskReader(3, {7: 1}, allow_lossy=True)},
    ],
)
def test_other_settings_have_other_facts(tmp_path: Path, calls: Counter, other: dict):
    root = write_pairs(tmp_path / "set")
    samples = samples_of(root)
    scanner(root, True)(samples)
    scanner(root, True, **other)(samples)
    assert calls == {"image_facts": 12, "mask_facts": 12}
    scanner(root, True)(samples)
    scanner(root, True, **other)(samples)
    assert sum(calls.values()) == 24


def test_new_files_alone_are_read(tmp_path: Path, calls: Counter):
    root = write_pairs(tmp_path / "set", 3)
    scanner(root)(samples_of(root))
    write_pairs(root, 2, first=3)
    calls.clear()
    assert len(scanner(root)(samples_of(root))) == 5
    assert calls == {"header_facts": 2, "mask_facts": 2}


def test_every_image_of_a_coco_json_has_its_own_facts(tmp_path: Path, calls: Counter):
    from array import array

    json_file = tmp_path / "instances.json"
    json_file.write_text("{}")
    box = array("d", [0, 0, 4, 0, 4, 4, 0, 4])
    samples = []
    for index in (1, 2):
        path = pair(tmp_path, f"i{index}", np.zeros((6, 8), np.uint8)).image
        samples.append(Sample(path, RegionMask(json_file, index, (6, 8), 0, ((index, (box,)),))))
    first = scanner(tmp_path)(samples)
    assert [fact.mask.values for fact in first] == [{0: 32, 1: 16}, {0: 32, 2: 16}]
    assert scanner(tmp_path)(samples) == first and calls["mask_facts"] == 2
    touch_later(json_file)
    scanner(tmp_path)(samples)
    assert calls["mask_facts"] == 4


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: Counter
):
    root = write_pairs(tmp_path / "set")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "file" / "below"))
    first = scanner(root)(samples_of(root))
    assert scanner(root)(samples_of(root)) == first
    assert calls == {"header_facts": 12, "mask_facts": 12}
    assert (tmp_path / "file").read_text() == "in the way"


def entries_of(change):
    """Damage every saved entry, in a file that is still JSON."""
    return lambda text: json.dumps({key: change(entry) for key, entry in json.loads(text).items()})


DAMAGE = {
    "empty": lambda text: "",
    "cut": lambda text: text[: len(text) // 2],
    "a list": lambda text: "[1, 2]",
    "null": lambda text: "null",
    "no JSON": lambda text: "\udcff no JSON",
    "entries null": entries_of(lambda entry: None),
    "entries numbers": entries_of(lambda entry: 3),
    "entries without facts": entries_of(lambda entry: entry[:1]),
    "facts null": entries_of(lambda entry: [entry[0], None]),
    "unknown fields": entries_of(lambda entry: [entry[0], entry[1] | {"mood": "good"}]),
    "no size": entries_of(lambda entry: [entry[0], {}]),
    "another size": entries_of(lambda entry: [entry[0], entry[1] | {"size": 3}]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_cache_is_ignored(tmp_path: Path, cache: Path, damage: str):
    root = write_pairs(tmp_path / "set", 2)
    first = scanner(root)(samples_of(root))
    (kept,) = cache.iterdir()
    text = DAMAGE[damage](kept.read_text())
    kept.write_bytes(text.encode(errors="surrogateescape"))
    assert scanner(root)(samples_of(root)) == first
    assert scanner(root)(samples_of(root)) == first  # and is fixed


def test_facts_of_names_that_are_not_utf_8_are_saved_too(tmp_path: Path, calls: Counter):
    root = write_pairs(tmp_path / "set", 2)
    for folder in ("images", "masks"):
        os.rename(root / folder / "001.png", os.fsencode(root / folder) + b"/\xfc.png")
    first = scanner(root)(samples_of(root))
    assert scanner(root)(samples_of(root)) == first
    assert calls == {"header_facts": 2, "mask_facts": 2}


def test_two_scans_at_once_leave_a_whole_file(tmp_path: Path, cache: Path):
    root = write_pairs(tmp_path / "set", 4)
    samples = samples_of(root)
    one, other = scanner(root), scanner(root)
    one(samples[:2])
    other(samples[2:])
    assert len(list(cache.iterdir())) == 1
    assert all(json.loads(path.read_text()) for path in cache.iterdir())


@given(st.binary(min_size=4, max_size=300))
def test_counts_add_up(content: bytes):
    values = np.frombuffer(content[: len(content) // 2 * 2], np.uint8).reshape(2, -1)
    counts, distinct = count_values(values)
    assert sum(counts.values()) == values.size and len(counts) == distinct
    assert count_values(values.astype(np.int64)) == (counts, distinct)


def rewrite(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


def swap(path: Path) -> None:
    """Exchange a and b, as a rename does: each keeps its content's size, times and inode."""
    first, second, third = (path.with_name(name) for name in "abc")
    first.rename(third), second.rename(first), third.rename(second)


@pytest.mark.parametrize("change", [rewrite, swap])
def test_a_stamp_sees_what_size_and_time_hide(tmp_path: Path, change: Callable):
    files = [tmp_path / "a", tmp_path / "b"]
    for file, content in zip(files, (b"123", b"456"), strict=True):
        file.write_bytes(content)
        os.utime(file, ns=(5, 5))
    before = stamp_files(*files)
    assert stamp_files(*files) == before and len(before) == 2
    files[0].read_bytes()
    assert stamp_files(*files) == before  # reading changes nothing
    change(files[0])
    for file in files:
        os.utime(file, ns=(5, 5))
    assert stamp_files(*files) != before
    assert stamp_files(files[0], tmp_path / "gone") is None


def test_masks_that_keep_size_and_time_are_read_again(tmp_path: Path, calls: Counter):
    sample = Sample(write_pairs(tmp_path, 1) / "images/000.png", tmp_path / "mask.npy")
    for value in (0, 1):
        np.save(sample.mask, np.full((48, 40), value, np.uint8))
        os.utime(sample.mask, ns=(5, 5))
        (facts,) = scanner(tmp_path)([sample])
        assert facts.mask.values == {value: 48 * 40}
    assert calls["mask_facts"] == 2


@given(
    hnp.arrays(np.uint16, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.just(3)),
    st.sampled_from([3, 254, 256, 70_000]),
    st.data(),
)
def test_the_checksum_is_of_values_not_of_their_type(zeros: np.ndarray, value: int, data):
    values = zeros.astype(np.int64)
    values.flat[data.draw(st.integers(0, values.size - 1))] = value
    types = [t for t in (np.uint8, np.uint16, np.int32) if value < 2 ** (8 * t().itemsize)]
    assert {checksum_values(values.astype(t)) for t in types} == {checksum_values(values)}
    other = values.copy()
    other.flat[data.draw(st.integers(0, values.size - 1))] += 1
    assert checksum_values(other) != checksum_values(values)
    assert checksum_values(values.reshape(1, *values.shape)) != checksum_values(values)


def test_the_checksum_is_the_same_in_any_type_of_file(tmp_path: Path):
    values = scene(3)[1]
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(values).save(tmp_path / "b.png", compress_level=0)
    Image.fromarray(np.stack([values] * 3, 2)).save(tmp_path / "c.bmp")
    Image.fromarray(values).save(tmp_path / "d.tif")
    np.save(tmp_path / "e.npy", values.astype(np.int32))
    files = sorted(path for path in tmp_path.iterdir() if path.is_file())
    assert len({mask_facts(file, None).checksum for file in files}) == 1 and len(files) == 5
    values[0, 0] += 1
    np.save(tmp_path / "e.npy", values)
    assert mask_facts(files[4], None).checksum != mask_facts(files[0], None).checksum


# real data


def test_camvids_training_pixels_by_value():
    root = shared_data("camvid")
    facts = scanner(root)(find_pairs(DataConfig(), root).splits["train"])
    assert len(facts) == 367
    totals = Counter()
    for fact in facts:
        totals.update(fact.mask.values)
    assert [totals[value] for value in range(12)] == CAMVID_TRAIN and len(totals) == 12
    assert {fact.image.size for fact in facts} == {(360, 480)}


def test_membranes_hold_0_and_255_with_hard_edges():
    root = shared_data("membrane")
    facts = scanner(root)(samples_of(root))
    assert len(facts) == 30
    assert {value for fact in facts for value in fact.mask.values} == {0, 255}
    assert max(fact.mask.smooth for fact in facts) == 0


def test_snapped_pixels_are_counted(tmp_path: Path):
    ids = np.repeat(np.array([[0, 0, 60, 128, 200, 255, 255, 255]], np.uint8), 4, axis=0)
    masks = MaskReader(2, {255: 1}, allow_lossy=True)
    (facts,) = Scanner(tmp_path, ImageReader(), masks, False)([pair(tmp_path, "a", ids)])
    assert facts.mask.values == {0: 12, 255: 20} and facts.mask.snapped == 12
    hard = np.array([[0, 0, 7, 7, 255, 255]], np.uint8).repeat(4, 0)
    (facts,) = Scanner(tmp_path, ImageReader(), masks, False)([pair(tmp_path, "b", hard)])
    assert facts.mask.values == {0: 8, 7: 8, 255: 8} and facts.mask.snapped == 0
