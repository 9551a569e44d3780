"""Class ids and images -> pictures."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segtrain.render.overlay import (
    add_legend,
    blend_classes,
    build_colour_table,
    draw_panels,
    paint_classes,
    paint_errors,
    save_mask,
)

PALETTE = [(10, 20, 30), (200, 100, 0), (0, 0, 250)]
IDS = torch.tensor([[0, 1, 2], [2, 255, -1]])


def rgb(picture: torch.Tensor) -> list:
    return picture.permute(1, 2, 0).tolist()


def test_classes_are_painted_and_the_ignored_white():
    white = [255, 255, 255]
    first, second, third = map(list, PALETTE)
    assert rgb(paint_classes(IDS, build_colour_table(PALETTE))) == [
        [first, second, third],
        [third, white, white],
    ]


@pytest.mark.parametrize("lb_ignore", [3, 11, 255, -1, -100])
@pytest.mark.parametrize("opacity", [0.0, 0.5, 1.0])
def test_a_blend_leaves_ignored_pixels_as_they_are(lb_ignore: int, opacity: float):
    image = torch.arange(0, 180, 10, dtype=torch.uint8).view(3, 2, 3)
    ids = torch.tensor([[0, 1, 2], [2, lb_ignore, lb_ignore]])
    blended = blend_classes(image, ids, build_colour_table(PALETTE), opacity)
    assert blended.dtype == torch.uint8
    pixels, mixed = image.permute(1, 2, 0).numpy(), blended.permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(mixed[1, 1:], pixels[1, 1:])
    for row, column in ((0, 0), (0, 1), (0, 2), (1, 0)):
        colour = np.array(PALETTE[int(ids[row, column])])
        expected = (1 - opacity) * pixels[row, column] + opacity * colour
        assert np.abs(mixed[row, column] - expected).max() <= 0.5


def test_errors_are_red_hits_lighter_and_ignored_white():
    prediction, truth = torch.tensor([[0, 1, 2, 0]]), torch.tensor([[0, 2, 255, 1]])
    hit, miss, ignored, also = rgb(paint_errors(prediction, truth, 255))[0]
    assert miss[0] > 2 * max(miss[1:]) and min(hit) > max(miss) and miss == also
    assert ignored == [255, 255, 255]


@pytest.mark.parametrize("lb_ignore", [-1, 11])
def test_errors_know_another_ignored_id(lb_ignore: int):
    colours = rgb(paint_errors(torch.tensor([[0, 0]]), torch.tensor([[lb_ignore, 0]]), lb_ignore))[
        0
    ]
    assert colours[0] == [255, 255, 255] != colours[1]


@pytest.mark.parametrize("classes", [2, 3, 256])
def test_a_mask_is_indexed_with_the_classes_colours(tmp_path: Path, classes: int):
    palette = [(i, 255 - i, i // 2) for i in range(classes)]
    ids = np.arange(12).reshape(3, 4) % classes
    ids[0, 0] = classes - 1
    save_mask(tmp_path / "mask.png", ids, palette)
    mask = Image.open(tmp_path / "mask.png")
    assert mask.mode == "P"
    np.testing.assert_array_equal(np.asarray(mask), ids)
    np.testing.assert_array_equal(np.asarray(mask.convert("RGB")), np.array(palette)[ids])


def test_a_mask_of_many_classes_has_16_bits(tmp_path: Path):
    ids = np.array([[0, 256, 299]])
    save_mask(tmp_path / "mask.png", ids, [(0, 0, 0)] * 300)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "mask.png")), ids)


@pytest.mark.parametrize("width", [20, 90, 700])
@pytest.mark.parametrize("names", [["a", "b", "c"], ["wider than the smaller images", "b", "c"]])
def test_a_legend_shows_every_colour_below_the_image(width: int, names: list[str]):
    image = Image.new("RGB", (width, 30), (1, 2, 3))
    page = np.asarray(add_legend(image, names, PALETTE))
    assert page.shape[0] > 30 and page.shape[1] >= width
    assert (page[:30, :width] == (1, 2, 3)).all()
    below = page[30:].reshape(-1, 3)
    for colour in PALETTE:
        assert (below == colour).all(1).sum() >= 9
    assert (below.max(1) < 60).sum() > 20  # letters


@pytest.mark.parametrize("size", [(40, 30), (300, 400)])
def test_panels_stand_side_by_side(size: tuple[int, int]):
    colours = {"one": (250, 0, 0), "two": (0, 250, 0), "three": (0, 0, 250)}
    page = np.asarray(
        draw_panels({n: Image.new("RGB", size, c) for n, c in colours.items()}, "title")
    )
    places = []
    for colour in colours.values():
        rows, columns = np.nonzero((page == colour).all(2))
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)  # whole: nothing over it
        assert len(rows) >= size[0] * size[1]
        places.append((columns.min(), columns.max()))
    assert all(left[1] < right[0] for left, right in pairwise(places))
