"""Inference of classes from mask values: nothing is guessed silently."""

from __future__ import annotations

import pytest

from segtrain.data.inspection.infer_classes import ClassesUnclear, find_num_classes
from segtrain.errors import SegtrainError


def unclear(values, label_map: dict = {}, lb_ignore: int = 255) -> ClassesUnclear:
    with pytest.raises(ClassesUnclear) as raised:
        find_num_classes(dict.fromkeys(values, 10), label_map, lb_ignore)
    return raised.value


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
    assert find_num_classes(dict.fromkeys(values, 1), label_map, lb_ignore) == count


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
    text = str(unclear(values, {}, lb_ignore))
    assert [word for word in words if word not in text] == []


def test_no_values_at_all_are_refused():
    with pytest.raises(SegtrainError):
        find_num_classes({}, {}, 255)


@pytest.mark.parametrize("values, classes", [({0, 2, 5}, 3), ({0, 255}, 2), ({1, 2}, 2)])
def test_the_fix_makes_classes_of_the_values(values: set[int], classes: int):
    error = unclear(values)
    found = find_num_classes(dict.fromkeys(values, 10), error.fix["label_map"], 255)
    assert found == classes == len(error.fix["classes"])
    assert str(error.fix["label_map"]) in str(error)


def test_the_fix_leaves_the_ignored_value_ignored_where_two_classes_remain():
    assert unclear({0, 2, 255}).fix["label_map"].get(255, "ignore") == "ignore"
    assert unclear({0, 1, 3, 11}, lb_ignore=11).fix["label_map"].get(11, "ignore") == "ignore"


def test_one_value_alone_cannot_be_fixed():
    assert unclear({0}).fix == unclear({255}).fix == {}


def test_smooth_black_and_white_is_distinguished_from_many_classes():
    """A third of the pixels may be edges between peaks; 200 equally frequent values may not."""
    values = dict.fromkeys(range(256), 4) | {0: 5000, 255: 3000}
    with pytest.raises(ClassesUnclear) as raised:
        find_num_classes(values, {}, 255)
    fix = raised.value.fix
    assert (fix["label_map"], fix["allow_lossy_masks"], len(fix["classes"])) == (
        {255: 1},
        True,
        2,
    )
    assert unclear(range(50, 250)).fix == {}
