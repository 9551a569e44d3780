"""U-Net's border weights: objects, distances to the nearest two, and the mean with such weights."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scenes import pixel_nll, some_ignored
from scipy import ndimage

from segtrain.losses import Border, build_loss
from segtrain.losses.border import squared_distances
from segtrain.losses.pixel_pass import PixelReader


def weights(rows: list[str], expression: str = "border", num_classes: int = 3) -> list[list[float]]:
    """Return the weights of an image drawn with class ids, x where ignored."""
    target = torch.tensor([[255 if c == "x" else int(c) for c in row] for row in rows])[None]
    pixels = PixelReader().read(torch.zeros(1, num_classes, *target.shape[1:]), target)
    return build_loss(expression, num_classes).terms[0].border_weights(pixels)[0].tolist()


def border(d1: float, d2: float) -> float:
    """Equation 2 of the paper with its w0 and sigma."""
    return pytest.approx(1 + 10 * math.exp(-((d1 + d2) ** 2) / 50), rel=1e-6)


def test_a_gap_between_two_objects_counts_most():
    (row,) = weights(["0110010"])
    assert row == [border(1, 5), border(0, 4), border(0, 3), border(1, 2), border(1, 2),
                   border(0, 3), border(1, 4)]  # fmt: skip


@pytest.mark.parametrize(
    "rows, expected",
    [
        (["0110"], [1, 1, 1, 1]),  # one object
        (["10", "01"], None),  # they touch by a corner: one object
        (["0000"], [1, 1, 1, 1]),
        (["12"], [border(0, 1), border(0, 1)]),  # no background between them
        (["1x1"], [border(0, 2), 0, border(0, 2)]),
        (["1xx"], [1, 0, 0]),
        (["xxx"], [0, 0, 0]),
    ],
)
def test_objects_are_connected_pixels_of_a_class(rows, expected):
    found = weights(rows)
    assert found[0] == expected if expected else set(sum(found, [])) == {1}


def test_class_0_is_an_object_where_there_is_no_background():
    assert weights(["0011"]) == [[1, 1, 1, 1]]
    both = [border(0, 2), border(0, 1), border(0, 1), border(0, 2)]
    assert weights(["0011"], "border(background=true)") == [both]


def test_class_weights_are_those_of_the_equation():
    (row,) = weights(["101"], "border(weight=[5, 2, 1], w0=1)")
    assert row[1] - 4 == row[1] - 5 + 1 and row[1] == pytest.approx(5 + math.exp(-4 / 50))
    assert row[0] == row[2] == pytest.approx(2 + math.exp(-4 / 50))


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.int64, array_shapes(min_dims=3, max_dims=3, max_side=9), elements=st.integers(-1, 2))
)
def test_distances_are_those_of_a_transform_for_each_object(labels):
    found = np.sqrt(squared_distances(torch.tensor(labels)).numpy())
    for image, distances in zip(labels, found.swapaxes(0, 1), strict=True):
        objects = []
        for c in range(3):
            regions, count = ndimage.label(image == c, np.ones((3, 3)))
            objects += [ndimage.distance_transform_edt(regions != i + 1) for i in range(count)]
        missing = [np.full(image.shape, np.inf)] * 2 if len(objects) < 2 else []
        nearest = np.sort(missing or objects, axis=0)[:2]
        np.testing.assert_allclose(distances, nearest, rtol=1e-6)


@pytest.mark.parametrize("inner", ["ce", "focal", "ghm", "poly", "ce(weight=[1, 2, 3])"])
def test_without_objects_near_each_other_it_is_the_inner_loss(inner):
    logits, target = some_ignored(shape=(2, 6, 5))
    target[:, :3][target[:, :3] != 255] = 1
    target[:, 3:][target[:, 3:] != 255] = 0
    expected = build_loss(inner, 3)(logits, target)
    assert build_loss(f"border({inner}, sigma=0.05)", 3)(logits, target) == expected
    far = torch.zeros(1, 1, 300, dtype=torch.int64)
    far[..., [0, 299]] = 1
    logits = torch.randn(1, 3, 1, 300)
    assert build_loss(f"border({inner})", 3)(logits, far) == build_loss(inner, 3)(logits, far)


def test_the_mean_divides_by_the_weights():
    logits, target = some_ignored(seed=3)
    w, nll = (
        Border(sigma=2).border_weights(PixelReader().read(logits, target)),
        pixel_nll(logits, target),
    )
    value = build_loss("border(sigma=2)", 3)(logits, target)
    assert value.item() == pytest.approx(((w * nll).sum() / w.sum()).item(), rel=1e-6)
