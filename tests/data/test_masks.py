"""Mask files -> class ids, and nothing silently wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.data.masks import MaskReader, class_palette, find_num_classes, read_values
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
    Image.fromarray(IDS).convert("LA").save(path)


@pytest.mark.parametrize("write", [grey8, grey16, indexed, rgb, rgba, grey_alpha])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_every_kind_of_mask_is_read_as_ids(tmp_path: Path, write, suffix: str):
    path = tmp_path / f"mask{suffix}"
    write(path)
    ids = MaskReader(3, palette=COLOURS)(path)
    assert ids.dtype == np.int16
    np.testing.assert_array_equal(ids, IDS)


def test_a_bilevel_mask_holds_0_and_1(tmp_path: Path):
    path = tmp_path / "mask.png"
    Image.fromarray(IDS > 1).save(path)
    assert Image.open(path).mode == "1"
    np.testing.assert_array_equal(MaskReader(2)(path), IDS > 1)


def test_grey16_values_above_255_are_not_cut(tmp_path: Path):
    path = tmp_path / "mask.png"
    Image.fromarray(np.array([[0, 1, 256, 40000]], np.uint16)).save(path)
    assert read_values(path, None).tolist() == [[0, 1, 256, 40000]]
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


def test_a_negative_value_is_named_and_the_advice_for_it_works(tmp_path: Path):
    path = tmp_path / "mask.tif"
    Image.fromarray(np.array([[-1, 0, 1]], np.int32)).save(path)
    with pytest.raises(SegtrainError, match=r"value -1 \(1 px\).*data.label_map: {-1: ignore}"):
        MaskReader(2)(path)
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
    with pytest.raises(SegtrainError, match=words) as raised:
        read_values(tmp_path / "mask.png", palette)
    assert "mask.png" in str(raised.value)


def test_rgb_values_are_places_in_the_palette_before_the_label_map(tmp_path: Path):
    rgb(tmp_path / "mask.png")
    reader = MaskReader(2, {0: "ignore", 1: 0, 2: 1}, palette=COLOURS)
    np.testing.assert_array_equal(reader(tmp_path / "mask.png"), np.array([255, 0, 1])[IDS])


@pytest.mark.parametrize("mode", ["CMYK", "F"])
def test_other_kinds_of_images_are_no_masks(tmp_path: Path, mode: str):
    path = tmp_path / "mask.tif"
    Image.fromarray(IDS).convert(mode).save(path)
    with pytest.raises(SegtrainError, match=f"mask.tif: .*this one is {mode}"):
        read_values(path, COLOURS)


@pytest.mark.parametrize(
    "values, label_map, lb_ignore, count",
    [
        ({0, 1}, {}, 255, 2),
        ({0, 1, 2, 3}, {}, 255, 4),
        ({0, 1, 255}, {}, 255, 2),
        ({0, 1, 11}, {}, 11, 2),
        ({0, 1, 2}, {2: "ignore"}, 255, 2),
        ({0, 255}, {255: 1}, 255, 2),
        ({0, 128, 255}, {128: 1, 255: 2}, 255, 3),
        (set(range(255)) | {255}, {}, 255, 255),
        (set(range(300)), {}, -1, 300),
    ],
)  # fmt: skip
def test_number_of_classes(values, label_map, lb_ignore, count):
    assert find_num_classes(values, label_map, lb_ignore) == count


@pytest.mark.parametrize(
    "values, lb_ignore, words",
    [
        ({0, 255}, 255, ["0, 255", "label_map: {255: 1}", "label_map: {255: ignore}", "1 class"]),
        ({0, 255}, -1, ["0, 255", "label_map: {255: 1}"]),
        ({0, 2, 5}, 255, ["0, 2, 5", "label_map: {2: 1, 5: 2}", "6 names"]),
        ({1, 2}, 255, ["1, 2", "label_map: {1: 0, 2: 1}", "3 names"]),
        ({0}, 255, ["values 0,", "two classes"]),
        ({255}, 255, ["values 255,", "two classes"]),
        ({0, 2, 255}, 255, ["label_map: {2: 1, 255: 2}", "label_map: {2: 1, 255: ignore}"]),
    ],
)
def test_values_that_are_no_ids_are_not_guessed(values, lb_ignore, words):
    with pytest.raises(SegtrainError) as raised:
        find_num_classes(values, {}, lb_ignore)
    assert [word for word in words if word not in str(raised.value)] == []


def test_no_values_at_all_are_refused():
    with pytest.raises(SegtrainError):
        find_num_classes(set(), {}, 255)


@pytest.mark.parametrize("values", [{0, 2, 5}, {0, 255}, {1, 2}, {0, 2, 255}])
def test_the_suggested_label_map_works(values):
    """What the message says to write makes classes of all values."""
    place = {value: i for i, value in enumerate(sorted(values)) if value != i}
    with pytest.raises(SegtrainError) as raised:
        find_num_classes(values, {}, 255)
    assert f"{{{', '.join(f'{k}: {v}' for k, v in place.items())}}}" in str(raised.value)
    assert find_num_classes(values, place, 255) == len(values)


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
