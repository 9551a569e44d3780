"""Label maps where both the layout and the config define mask values."""

from __future__ import annotations

import pytest

from segtrain.config import DataConfig
from segtrain.data.layouts.detect import FoundPairs
from segtrain.data.layouts.label_maps import merge_labels
from segtrain.errors import SegtrainError, UsageError

ANIMALS = ["background", "cat", "dog"]


def coco(classes: list[str], **more) -> FoundPairs:
    label_map = {0: 0} | {17 + place: place for place in range(1, len(classes))}
    return FoundPairs({}, "coco", "a.json + a", classes, None, label_map, **more)


def merged_map(data: DataConfig, found: FoundPairs) -> dict:
    return merge_labels(data, found)[0].label_map


def test_the_layout_fills_in_what_the_config_leaves_open():
    merged, notes = merge_labels(DataConfig(), coco(ANIMALS))
    assert (merged.classes, merged.label_map) == (ANIMALS, {0: 0, 18: 1, 19: 2})
    assert notes == ()


def test_the_config_overrides_the_layout_value_by_value():
    merged, notes = merge_labels(DataConfig(label_map={19: "ignore", 7: 0}), coco(ANIMALS))
    assert merged.label_map == {0: 0, 18: 1, 19: "ignore", 7: 0}
    (note,) = notes
    assert "19 is ignored by data.label_map, class 2 by the layout" in note.text


def test_classes_are_matched_by_name():
    """A checkpoint's classes stay; another JSON has them in another order, or lacks some."""
    from_checkpoint = DataConfig(classes=["background", "cat", "dog", "bird"])
    ids = merged_map(from_checkpoint, coco(["background", "dog", "cat"]))
    assert (ids[0], ids[18], ids[19]) == (0, 2, 1)
    ids = merged_map(from_checkpoint, coco(["background", "bird"]))
    assert (ids[0], ids[18]) == (0, 3)


def test_classes_without_a_label_map_are_matched_too():
    found = FoundPairs({}, "voc", "", ["a", "b", "c"], None, {255: "ignore"})
    assert merged_map(DataConfig(classes=["c", "b", "a"]), found) == {
        0: 2,
        1: 1,
        2: 0,
        255: "ignore",
    }
    assert merged_map(DataConfig(classes=["x", "y", "z"]), found) == {255: "ignore"}  # renamed


def test_other_categories_are_refused():
    with pytest.raises(SegtrainError, match="a.json.*background, things.*data.label_map"):
        merge_labels(DataConfig(classes=ANIMALS), coco(["background", "things", "cat"]))


def test_other_classes_in_the_config_need_their_own_label_map():
    found = FoundPairs({}, "cityscapes", "", [str(i) for i in range(19)], None, {7: 0, 26: 13})
    data = DataConfig(classes=["road", "rest"], label_map={7: 0, 26: 1})
    assert merged_map(data, found) == {7: 0, 26: 1}


def test_a_contradiction_between_config_and_layout_is_refused():
    with pytest.raises(UsageError, match="data.format coco.*lb_ignore 1"):
        merge_labels(DataConfig(lb_ignore=1), coco(ANIMALS))
