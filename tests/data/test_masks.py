"""Mask files to class ids, and nothing silently wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from segtrain.data.mask_options import MaskOptions
from segtrain.data.masks import (
    UNKNOWN,
    MaskReader,
    class_palette,
    encode_colours,
    grey_values,
    read_raw,
)
from segtrain.data.stored_masks import read_mask
from segtrain.errors import SegtrainError

IDS = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
COLOURS = [(0, 0, 0), (250, 0, 10), (10, 0, 250)]  # by luminance 0, 76, 31: another order


def grey8(path: Path) -> None:
    Image.fromarray(IDS).save(path)


def grey16(path: Path) -> None:
    Image.fromarray(IDS.astype(np.uint16)).save(path)


def indexed(path: Path) -> None:
    image = Image.fromarray(IDS, mode="P")
    image.putpalette([part for colour in COLOURS for part in colour])
    image.save(path)


def rgb(path: Path) -> None:
    Image.fromarray(np.array(COLOURS, np.uint8)[IDS]).save(path)


def rgba(path: Path) -> None:
    alpha = np.full((*IDS.shape, 1), 128, np.uint8)
    Image.fromarray(np.concatenate([np.array(COLOURS, np.uint8)[IDS], alpha], 2)).save(path)


def grey_alpha(path: Path) -> None:
    Image.merge("LA", [Image.fromarray(IDS), Image.new("L", (3, 2), 9)]).save(path)


def bigtiff_int32(path: Path) -> None:
    Image.fromarray(IDS.astype(np.int32)).save(path.with_suffix(".tif"))
    path.with_suffix(".tif").rename(path)


def float_tiff(path: Path) -> None:
    Image.fromarray(IDS.astype(np.float32)).save(path.with_suffix(".tif"))
    path.with_suffix(".tif").rename(path)


KINDS = [grey8, grey16, indexed, rgb, rgba, grey_alpha, bigtiff_int32, float_tiff]


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("allow_lossy", [False, True])
def test_every_kind_of_mask_is_read_as_ids(tmp_path: Path, write, suffix: str, allow_lossy: bool):
    path = tmp_path / f"mask{suffix}"
    write(path)
    ids = MaskReader(3, palette=COLOURS, allow_lossy=allow_lossy)(path)
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, IDS)
    ids[0, 0] = 1  # augmentation may write
    assert not read_raw(path).lossy


@pytest.mark.parametrize("suffix", [".bmp", ".ppm", ".webp"])
def test_masks_of_other_lossless_formats(tmp_path: Path, suffix: str):
    path = tmp_path / f"mask{suffix}"
    Image.fromarray(np.array(COLOURS, np.uint8)[IDS]).save(path, lossless=True)
    np.testing.assert_array_equal(MaskReader(3, palette=COLOURS)(path), IDS)
    grey = tmp_path / f"grey{suffix}"
    Image.fromarray(IDS).save(grey, lossless=True)
    np.testing.assert_array_equal(MaskReader(3)(grey), IDS)  # WebP has no grey: R = G = B


def test_ids_saved_as_rgb_are_their_grey_level(tmp_path: Path):
    Image.fromarray(np.stack([IDS] * 3, 2)).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(MaskReader(3)(tmp_path / "mask.png"), IDS)
    almost = np.stack([IDS, IDS, IDS + (IDS == 1)], 2)
    Image.fromarray(almost).save(tmp_path / "mask.png")
    with pytest.raises(SegtrainError, match=r"mask.png: .*data.palette.*\(1, 1, 2\) \(2 px\)"):
        MaskReader(3)(tmp_path / "mask.png")


@pytest.mark.parametrize(
    "values",
    [
        IDS,
        IDS.astype(np.int64),
        IDS.astype(">u2"),
        IDS.astype(np.float32),
        IDS[..., None],
        IDS[None],
        np.asfortranarray(IDS),
    ],
)
def test_npy_masks_of_every_type_and_shape(tmp_path: Path, values: np.ndarray):
    np.save(tmp_path / "mask.npy", values)
    ids = MaskReader(3)(tmp_path / "mask.npy")
    assert ids.dtype == np.uint8
    np.testing.assert_array_equal(ids, IDS)
    ids[0, 0] = 1  # its own memory, not the file's


@pytest.mark.parametrize("shape", [(1, 6), (6, 1), (1, 1, 6), (6, 1, 1)])
def test_a_mask_of_one_row_or_column(tmp_path: Path, shape: tuple):
    np.save(tmp_path / "mask.npy", IDS.reshape(shape))
    ids = MaskReader(3)(tmp_path / "mask.npy")
    assert ids.size == 6 and ids.ndim == 2 and 1 in ids.shape


def test_a_bool_npy_mask(tmp_path: Path):
    np.save(tmp_path / "mask.npy", IDS > 0)
    np.testing.assert_array_equal(MaskReader(2)(tmp_path / "mask.npy"), IDS > 0)


def test_an_rgb_npy_mask_takes_the_palette(tmp_path: Path):
    np.save(tmp_path / "mask.npy", np.array(COLOURS, np.uint8)[IDS])
    np.testing.assert_array_equal(MaskReader(3, palette=COLOURS)(tmp_path / "mask.npy"), IDS)


@pytest.mark.parametrize(
    "values, words",
    [
        (IDS + 0.25, "whole numbers.*float64"),
        (np.where(IDS, np.nan, 0.5), "whole numbers.*float64"),
        (np.array([["sky", "road"]]), "whole numbers"),
        (IDS * 1j, "whole numbers"),
        (np.zeros((5, 2, 4), np.uint8), r"height x width, got \(5, 2, 4\)"),
        (IDS.ravel(), r"an array of shape \(6,\)"),
        (np.int64(3), r"an array of shape \(\)"),
        (np.array([[0, 1, 2, 2**40, -(2**40)]]), "value 1099511627776"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_npy_that_is_no_mask_is_refused(tmp_path: Path, values: np.ndarray, words: str):
    np.save(tmp_path / "mask.npy", values)
    with pytest.raises(SegtrainError, match=f"mask.npy.*{words}"):
        MaskReader(3)(tmp_path / "mask.npy")


@pytest.mark.parametrize("far", [2**32 - 1, 2**40, -(2**40)])
def test_a_far_value_in_the_label_map_costs_nothing(tmp_path: Path, far: int):
    """-1 saved as uint32 is 4294967295."""
    np.save(tmp_path / "mask.npy", np.array([[0, 1, far]]))
    assert MaskReader(2, {far: "ignore"})(tmp_path / "mask.npy").tolist() == [[0, 1, 255]]


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_ids_in_few_bits_stay_ids(tmp_path: Path, depth: int):
    """Pillow spreads the values of such a grey PNG over 0..255."""
    from test_images import raw_png

    values = [value % 2**depth for value in (0, 1, 2, 3, 7, 9, 14, 15)]
    bits = "".join(f"{value:0{depth}b}" for value in values)
    packed = int(bits, 2).to_bytes(depth)
    (tmp_path / "mask.png").write_bytes(raw_png(np.array([values]), depth, 0, packed))
    assert MaskReader(16)(tmp_path / "mask.png").tolist() == [values]


def test_a_bilevel_mask_holds_0_and_1(tmp_path: Path):
    path = tmp_path / "mask.png"
    Image.fromarray(IDS > 1).save(path)
    with Image.open(path) as image:
        assert image.mode == "1"
    np.testing.assert_array_equal(MaskReader(2)(path), IDS > 1)


def test_grey16_values_above_255_are_not_cut(tmp_path: Path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 1, 256, 40000]], np.uint16)).save(path)
    assert read_raw(path).values.tolist() == [[0, 1, 256, 40000]]
    ids = MaskReader(3, {256: 2, 40000: "ignore"})(path)
    assert ids.tolist() == [[0, 1, 2, 255]]
    with pytest.raises(SegtrainError, match=r"value 256 \(1 px\), 40000 \(1 px\)"):
        MaskReader(3)(path)


@pytest.mark.parametrize(
    "values, label_map, lb_ignore, expected",
    [
        ([0, 1, 2, 255], {}, 255, [0, 1, 2, 255]),
        ([0, 1, 2, 11], {}, 11, [0, 1, 2, 11]),
        ([0, 1, 2, 11], {11: "ignore"}, 255, [0, 1, 2, 255]),
        ([0, 1, 2, 11], {11: "ignore"}, -1, [0, 1, 2, -1]),
        ([0, 1, 2, 255], {255: 2}, 255, [0, 1, 2, 2]),
        ([0, 1, 2, 7], {0: 1, 1: 0, 7: 0}, 255, [1, 0, 2, 0]),
        ([0, 1, 2, 2], {2: "ignore"}, 11, [0, 1, 11, 11]),
        ([0, 100, 200, 0], {0: "ignore", 100: 0, 200: 1}, 300, [300, 0, 1, 300]),
    ],
)
def test_label_map_and_lb_ignore(tmp_path: Path, values, label_map, lb_ignore, expected):
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([values], np.uint8)).save(path)
    assert MaskReader(3, label_map, lb_ignore)(path).tolist() == [expected]


@pytest.mark.parametrize(
    "num_classes, label_map, lb_ignore, values, words",
    [
        (2, {}, 255, [0, 1, 2, 7, 7, 255], r"value 2 \(1 px\), 7 \(2 px\)"),
        (2, {}, -1, [0, 1, 255, 255], r"value 255 \(2 px\)"),
        (2, {}, 11, [0, 1, 11, 255], r"value 255 \(1 px\)"),
        (2, {1: 0}, 255, [0, 1, 3], r"value 3 \(1 px\)"),
        (2, {-1: "ignore"}, -1, [0, 1, 77, 77], r"value 77 \(2 px\)"),
        (2, {-1: 0}, 255, [0, 1, 255, 300], r"value 300 \(1 px\)"),
    ],
)
def test_unknown_values_are_refused_with_their_counts(
    tmp_path: Path, num_classes, label_map, lb_ignore, values, words
):
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([values], np.uint16)).save(path)
    with pytest.raises(SegtrainError, match=words):
        MaskReader(num_classes, label_map, lb_ignore)(path)


def test_a_negative_value_is_nodata_unless_others_are_named(tmp_path: Path):
    path = tmp_path / "mask.tif"
    Image.fromarray(np.array([[-1, 0, 1]], np.int32)).save(path)
    assert MaskReader(2)(path).tolist() == [[255, 0, 1]]
    with pytest.raises(SegtrainError, match=r"value -1 \(1 px\).*data.label_map: {-1: ignore}"):
        MaskReader(2, options=MaskOptions(nodata=()))(path)
    assert MaskReader(2, {-1: "ignore"})(path).tolist() == [[255, 0, 1]]


@pytest.mark.parametrize(
    "palette, words",
    [
        (None, r"needs data.palette.*\(0, 0, 0\) \(2 px\)"),
        (COLOURS[:2], r"data.palette lacks: \(10, 0, 250\) \(2 px\)"),
        ([(0, 0, 0), (251, 0, 10), (10, 0, 250)], r"lacks: \(250, 0, 10\) \(2 px\)"),
    ],
)
def test_rgb_needs_a_palette_with_its_colours(tmp_path: Path, palette, words):
    rgb(tmp_path / "mask.png")
    with pytest.raises(SegtrainError, match=f"mask.png: .*{words}"):
        MaskReader(2, palette=palette)(tmp_path / "mask.png")


def test_unknown_colours_come_with_their_counts_the_most_frequent_first(tmp_path: Path):
    colours = np.array([[(1, 2, 3), (0, 0, 0), (9, 9, 8), (9, 9, 8), (4, 4, 4)]], np.uint8)
    Image.fromarray(colours).save(tmp_path / "mask.png")
    with pytest.raises(SegtrainError) as raised:
        MaskReader(3, palette=COLOURS)(tmp_path / "mask.png")
    text = str(raised.value)
    places = [text.index(c) for c in ("(9, 9, 8) (2 px)", "(1, 2, 3) (1 px)", "(4, 4, 4) (1 px)")]
    assert places == sorted(places) and "(0, 0, 0)" not in text


def test_a_palette_may_name_a_colour_twice_and_more_colours_than_classes(tmp_path: Path):
    rgb(tmp_path / "mask.png")
    palette = [*COLOURS, COLOURS[1], (7, 7, 7)]
    np.testing.assert_array_equal(MaskReader(3, palette=palette)(tmp_path / "mask.png"), IDS)
    reader = MaskReader(2, {2: "ignore"}, palette=palette)
    np.testing.assert_array_equal(reader(tmp_path / "mask.png"), np.where(IDS == 2, 255, IDS))


def test_rgb_values_are_places_in_the_palette_before_the_label_map(tmp_path: Path):
    rgb(tmp_path / "mask.png")
    reader = MaskReader(2, {0: "ignore", 1: 0, 2: 1}, palette=COLOURS)
    np.testing.assert_array_equal(reader(tmp_path / "mask.png"), np.array([255, 0, 1])[IDS])


@pytest.mark.parametrize("mode", ["CMYK", "LAB"])  # Pillow 11.0 can't read its YCbCr TIFFs
def test_other_kinds_of_images_are_no_masks(tmp_path: Path, mode: str):
    path = tmp_path / "mask.tif"
    image = Image.fromarray(IDS).convert("RGB")
    if mode == "LAB":
        profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
        image = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "RGB", "LAB"))
    else:
        image = image.convert(mode)
    image.save(path)
    with pytest.raises(SegtrainError, match=f"mask.tif: .*this one is .*{mode}"):
        read_raw(path)


# bytes instead of int16, and the quick path


@pytest.mark.parametrize(
    "num_classes, lb_ignore, dtype",
    [(2, 255, np.uint8), (2, 0, np.uint8), (256, 255, np.uint8), (255, 255, np.uint8),
     (2, -1, np.int16), (2, 256, np.int16), (2, 300, np.int16), (257, 255, np.int16),
     (1000, -1, np.int16)],
)  # fmt: skip
def test_ids_are_bytes_wherever_they_fit(tmp_path: Path, num_classes: int, lb_ignore: int, dtype):
    path, highest = tmp_path / "mask.npy", num_classes - 1
    np.save(path, np.array([[highest, 1, lb_ignore]]))
    ids = MaskReader(num_classes, {}, lb_ignore)(path)
    assert ids.dtype == dtype == MaskReader(num_classes, {}, lb_ignore).dtype
    assert ids.tolist() == [[highest, 1, lb_ignore]]


LABELS = st.dictionaries(
    st.integers(-3, 300), st.integers(0, 3) | st.just("ignore"), max_size=6
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    LABELS,
    st.sampled_from([255, 254, 7, -1, 300]),
    st.lists(st.integers(0, 5) | st.integers(0, 255), min_size=1, max_size=12),
)
def test_the_quick_path_of_bytes_agrees_with_the_table(label_map, lb_ignore, values):
    """Grey bytes against a plain loop over the pixels, and against the same values in 16 bits."""
    meaning = {i: i for i in (0, 1, 2, 3, lb_ignore)} | label_map
    expected = [meaning.get(value) for value in values]
    expected = [lb_ignore if label == "ignore" else label for label in expected]
    unknown = sorted({v for v, label in zip(values, expected, strict=True) if label is None})
    reader = MaskReader(4, label_map, lb_ignore)
    with tempfile.TemporaryDirectory() as folder:
        for dtype, suffix in ((np.uint8, "png"), (np.uint16, "png"), (np.int32, "npy")):
            path = Path(folder) / f"mask.{suffix}"
            array = np.array([values], dtype)
            np.save(path, array) if suffix == "npy" else Image.fromarray(array).save(path)
            try:
                assert reader(path).tolist() == [expected] and not unknown
            except SegtrainError as error:
                named = [f"{value} ({values.count(value)} px)" for value in unknown[:3]]
                assert unknown and [name for name in named if name not in str(error)] == []


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-5, 300), min_size=1), LABELS)
def test_ids_of_any_integers(values, label_map):
    reader = MaskReader(4, label_map)
    meaning = {i: i for i in (0, 1, 2, 3, 255)} | label_map
    meaning = {v: 255 if label == "ignore" else label for v, label in meaning.items()}
    ids = reader.ids(np.array(values, np.int64))
    largest = {2**15 - 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1}
    rest = [255 if value < 0 or value in largest else UNKNOWN for value in values]
    assert ids.tolist() == [meaning.get(v, other) for v, other in zip(values, rest, strict=True)]


# masks that a decoder would change, or that have a band a class


@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32, np.float16])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("classes", [2, 3, 4, 7])
def test_one_hot_bands_are_their_class(tmp_path: Path, dtype, first: bool, classes: int):
    ids = np.random.default_rng(0).integers(0, classes, (6, 9))
    hot = np.eye(classes, dtype=dtype)[ids]
    np.save(tmp_path / "mask.npy", hot.transpose(2, 0, 1) if first else hot)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.npy").values, ids)
    np.save(tmp_path / "mask.npy", hot[None])
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.npy").values, ids)
    if classes != 3:
        np.save(tmp_path / "mask.npy", hot * 255 if hot.dtype.kind != "b" else hot)
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.npy").values, ids)


HOT = np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(0, 4, (6, 9))]


@pytest.mark.parametrize(
    "values, words",
    [
        (HOT * 0.7 + 0.075, "probabilities"),
        (HOT.transpose(2, 0, 1) * 0.7 + 0.075, "probabilities"),
        (HOT + np.eye(4)[0] > 0, "one class at each pixel"),
        (HOT[..., :3] * 1.0, "one class at each pixel"),
        (np.eye(4)[(np.arange(4)[:, None] + np.arange(9)) % 4], "first and its last axis"),
        (HOT * 3 + np.arange(4), "height x width"),
    ],
)
def test_bands_that_are_not_one_hot_are_named(tmp_path: Path, values: np.ndarray, words: str):
    np.save(tmp_path / "mask.npy", values)
    with pytest.raises(SegtrainError, match=f"mask.npy: .*{words}"):
        read_mask(tmp_path / "mask.npy")


def test_colours_of_an_array_are_no_bands(tmp_path: Path):
    """Pure red, green and blue have one value each, as one-hot bands have."""
    colours = np.eye(3, dtype=np.uint8)[IDS] * 255
    for values in (colours, colours.astype(np.int64)):
        np.save(tmp_path / "mask.npy", values)
        np.testing.assert_array_equal(read_mask(tmp_path / "mask.npy").values, colours)


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
@pytest.mark.parametrize("level", [0, 255])
def test_labels_in_alpha_alone_are_refused(tmp_path: Path, mode: str, suffix: str, level: int):
    path = tmp_path / f"mask{suffix}"
    grey, alpha = Image.new("L", (3, 2), level), Image.fromarray(IDS * 100)
    bands = [grey] * (len(mode) - 1)
    Image.merge(mode, [*bands, alpha]).save(path, lossless=True, exact=True)
    with pytest.raises(SegtrainError, match=f"mask{suffix}: .*alpha"):
        read_mask(path)
    Image.merge(mode, [*bands, grey]).save(path, lossless=True, exact=True)
    assert (read_mask(path).values == level).all()  # a class alone


def test_a_transparent_index_is_an_index(tmp_path: Path):
    image = Image.fromarray(IDS, mode="P")
    image.putpalette([part for colour in COLOURS for part in colour])
    for suffix in (".png", ".gif"):
        for transparency in (0, 2):
            image.save(tmp_path / f"mask{suffix}", transparency=transparency)
            stored = read_mask(tmp_path / f"mask{suffix}")
            np.testing.assert_array_equal(stored.values, IDS)
            assert stored.palette is not None and not stored.lossy
            assert stored.palette[:3].tolist() == [list(colour) for colour in COLOURS]


def deep_png(path: Path, values: np.ndarray) -> None:
    """Write 16 bits a channel: grey with alpha, RGB or RGBA."""
    from test_images import raw_png

    path.write_bytes(raw_png(values, 16, {2: 4, 3: 2, 4: 6}[values.shape[2]]))


IDS16 = np.array([[0, 1, 2], [300, 1, 40000]], np.uint16)


@pytest.mark.parametrize("bands", [2, 3, 4])
def test_ids_in_16_bit_bands_keep_all_their_bits(tmp_path: Path, bands: int):
    """Pillow would halve them."""
    alpha = np.full((2, 3), 65535, np.uint16)
    grey = np.dstack([IDS16] * (1 if bands == 2 else 3) + ([alpha] if bands != 3 else []))
    deep_png(tmp_path / "mask.png", grey)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png").values, IDS16)


@pytest.mark.parametrize("scale", [1, 257])
@pytest.mark.parametrize("bands", [3, 4])
def test_16_bit_colours_that_8_bits_hold(tmp_path: Path, scale: int, bands: int):
    colours = np.array(COLOURS, np.uint16)[IDS]
    alpha = np.full((2, 3, bands - 3), 200, np.uint16)
    deep_png(tmp_path / "mask.png", np.dstack([colours, alpha]) * np.uint16(scale))
    np.testing.assert_array_equal(MaskReader(3, palette=COLOURS)(tmp_path / "mask.png"), IDS)


def test_16_bit_colours_that_8_bits_do_not_hold(tmp_path: Path):
    deep_png(tmp_path / "mask.png", np.array([[[0, 1, 2], [300, 1, 40000]]], np.uint16))
    with pytest.raises(SegtrainError, match="mask.png: .*uint16.*40000"):
        read_mask(tmp_path / "mask.png")


@pytest.mark.parametrize("kind, bands", [(2, 1), (5, 1), (3, 3), (6, 3)])
@pytest.mark.parametrize("maxval", [1, 3, 18, 255, 256, 1000, 65535])
def test_netpbm_masks_of_any_maxval(tmp_path: Path, kind: int, bands: int, maxval: int):
    values = np.random.default_rng(0).integers(0, min(maxval, 255) + 1, (4, 6, bands))
    values[0, 0] = min(maxval, 255)
    header = f"P{kind}\n# made by hand\n6 # wide\n4\n{maxval}\n".encode()
    if kind in (2, 3):
        pixels = " ".join(map(str, values.ravel().tolist())).encode() + b" # the end\n"
    else:
        pixels = values.astype(">u2" if maxval > 255 else "u1").tobytes()
    path = tmp_path / ("mask.pgm" if bands == 1 else "mask.ppm")
    path.write_bytes(header + pixels)
    np.testing.assert_array_equal(read_mask(path).values, values[..., 0] if bands == 1 else values)
    path.write_bytes(header + pixels[:-14])
    with pytest.raises(SegtrainError, match=f"{path.name}: .*replace"):
        read_mask(path)


# lossy masks


def blob() -> np.ndarray:
    """A disc of 1 on 0 in 48x48, whose edge JPEG smears."""
    y, x = np.mgrid[:48, :48]
    return ((x - 20) ** 2 + (y - 25) ** 2 < 200).astype(np.uint8)


def nearest(value: int, anchors: list[int]) -> int:
    return min(anchors, key=lambda anchor: (abs(value - anchor), anchor))


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_lossy_masks_are_refused_with_the_reason(tmp_path: Path, suffix: str, mode: str):
    path = tmp_path / f"mask{suffix}"
    Image.fromarray(blob() * 255).convert(mode).save(path, quality=90)
    words = rf"mask{suffix}: .*lossy.*labels.*PNG.*data.allow_lossy_masks: true"
    with pytest.raises(SegtrainError, match=words):
        MaskReader(2, {255: 1})(path)
    assert read_raw(path).lossy


def test_a_jpeg_named_png_is_still_lossy(tmp_path: Path):
    Image.fromarray(blob() * 255).save(tmp_path / "mask.jpg")
    (tmp_path / "mask.jpg").rename(tmp_path / "mask.png")
    with pytest.raises(SegtrainError, match="mask.png: .*lossy"):
        MaskReader(2, {255: 1})(tmp_path / "mask.png")


@pytest.mark.parametrize("suffix", [".jpg", ".webp"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_black_and_white_jpeg_masks_snap_to_0_and_255(
    tmp_path: Path, suffix: str, mode: str, quality: int
):
    path = tmp_path / f"mask{suffix}"
    Image.fromarray(blob() * 255).convert(mode).save(path, quality=quality)
    stored = np.asarray(Image.open(path).convert("RGB"))[..., 1]
    ids = MaskReader(2, {255: 1}, allow_lossy=True)(path)
    assert ids.dtype == np.uint8 and len(np.unique(stored)) > 2
    np.testing.assert_array_equal(ids, stored > 127)
    assert (ids != blob()).mean() < 0.02


@pytest.mark.parametrize(
    "num_classes, label_map, lb_ignore, anchors",
    [
        (2, {255: 1}, 255, {0: 0, 255: 1}),
        (3, {}, 255, {0: 0, 1: 1, 2: 2, 255: 255}),
        (3, {127: 1, 255: 2}, 300, {0: 0, 127: 1, 255: 2, 300: 300}),
        (2, {0: "ignore", 100: 0, 200: 1}, 255, {0: 255, 100: 0, 200: 1}),
        (2, {60: "ignore", 255: 1}, 255, {0: 0, 60: 255, 255: 1}),
        (2, {255: 1}, -1, {-1: -1, 0: 0, 255: 1}),
    ],
)
def test_smooth_grey_becomes_the_nearest_that_means_something(
    tmp_path: Path, num_classes, label_map, lb_ignore, anchors
):
    """Values half way between two become the lower; all 256 are tested."""
    path = tmp_path / "mask.png"
    Image.fromarray(np.arange(256, dtype=np.uint8)[None]).save(path)
    ids = MaskReader(num_classes, label_map, lb_ignore, allow_lossy=True)(path)
    assert ids[0].tolist() == [anchors[nearest(v, list(anchors))] for v in range(256)]


def test_colours_of_a_jpeg_become_the_nearest_of_the_palette(tmp_path: Path):
    path, ids = tmp_path / "mask.jpg", np.kron(IDS, np.ones((16, 16), np.uint8))
    Image.fromarray(np.array(COLOURS, np.uint8)[ids]).save(path, quality=90)
    stored = np.asarray(Image.open(path)).astype(int)
    distance = [((stored - colour) ** 2).sum(2) for colour in COLOURS]
    read = MaskReader(3, palette=COLOURS, allow_lossy=True)(path)
    np.testing.assert_array_equal(read, np.argmin(distance, 0))
    assert (read != ids).mean() < 0.05


def test_hand_checked_nearest_colours(tmp_path: Path):
    colours = [(5, 5, 5), (130, 0, 5), (126, 0, 4), (200, 200, 200), (10, 0, 249), (0, 0, 0)]
    ids = MaskReader(3, palette=COLOURS, allow_lossy=True)
    nearest = ids.snap(np.array([colours], np.uint8))
    ids = ids.palette_indices(encode_colours(nearest))
    # squared distances to the three colours: (130, 0, 5): 16925, 14425, 74425; (126, 0, 4): 15892,
    # 15412, 73972; (200, 200, 200): 120000, 78600, 78600: the first of two as near
    assert ids.tolist() == [[0, 1, 1, 1, 2, 0]]


def test_indices_and_colours_that_contradict_are_refused(tmp_path: Path):
    indexed(tmp_path / "mask.png")
    np.testing.assert_array_equal(MaskReader(3, palette=COLOURS)(tmp_path / "mask.png"), IDS)
    others = [(1, 2, 3), (4, 5, 6), (7, 8, 9)]  # colours to paint with: the indices count
    np.testing.assert_array_equal(MaskReader(3, palette=others)(tmp_path / "mask.png"), IDS)
    with pytest.raises(SegtrainError, match="mask.png.*indices and colours contradict.*palette_by"):
        MaskReader(3, palette=COLOURS[::-1])(tmp_path / "mask.png")


@pytest.mark.parametrize("lossless", [True, False])
def test_animated_or_alpha_webp_masks(tmp_path: Path, lossless: bool):
    pixels = np.dstack([np.stack([blob()] * 3, 2) * 255, np.full((48, 48), 200, np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "mask.webp", lossless=lossless, exact=True)
    assert read_raw(tmp_path / "mask.webp").lossy != lossless


def test_grey_values_of_colours():
    grey = np.stack([IDS] * 3, 2)
    np.testing.assert_array_equal(grey_values(grey), IDS)
    grey[0, 0, 2] += 1
    assert grey_values(grey) is None


# damage


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy", ".bmp"])
@pytest.mark.parametrize("tenth", [0, 3, 6, 9])
def test_a_mask_cut_anywhere_is_named(tmp_path: Path, suffix: str, tenth: int):
    path = tmp_path / f"cut{suffix}"
    mask = np.random.default_rng(0).integers(0, 3, (30, 40), dtype=np.uint8)
    np.save(path, mask) if suffix == ".npy" else Image.fromarray(mask).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * tenth // 10])
    with pytest.raises(SegtrainError, match=rf"cut{suffix}: .*replace or remove it"):
        MaskReader(3)(path)


def test_a_bomb_is_no_mask(tmp_path: Path):
    Image.fromarray(np.zeros((30, 40), np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(SegtrainError, match="mask.png: 30 x 40.*data.max_pixels"):
        MaskReader(3, options=MaskOptions(1199))(tmp_path / "mask.png")


def test_a_mask_is_turned_as_its_image_is(tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(IDS).save(tmp_path / "mask.png", exif=exif)
    np.testing.assert_array_equal(MaskReader(3)(tmp_path / "mask.png"), np.rot90(IDS, -1))
    as_stored = MaskReader(3, options=MaskOptions(upright=False))
    np.testing.assert_array_equal(as_stored(tmp_path / "mask.png"), IDS)
    assert repr(as_stored) != repr(MaskReader(3))


# classes


def test_palettes_without_given_colours_are_distinct():
    colours = class_palette(12, None, {})
    assert len(set(colours)) == 12
    assert all(len(c) == 3 and all(0 <= part <= 255 for part in c) for c in colours)
    assert class_palette(5, None, {}) == colours[:5]


@pytest.mark.parametrize(
    "label_map, expected",
    [
        ({}, [0, 1]),
        ({2: "ignore"}, [0, 1]),
        ({0: "ignore", 1: 0, 2: 1}, [1, 2]),
        ({2: 0}, [0, 1]),
        ({0: 1, 1: 0}, [1, 0]),
    ],
)
def test_a_class_has_the_colour_of_its_first_mask_value(label_map, expected):
    assert class_palette(2, COLOURS, label_map) == [COLOURS[i] for i in expected]
