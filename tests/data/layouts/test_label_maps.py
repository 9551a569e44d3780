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


def meaning(data: DataConfig, found: FoundPairs) -> dict:
    return dict(merge_labels(data, found).label_map)


def test_the_layout_says_it_where_the_config_is_silent():
    labels = merge_labels(DataConfig(), coco(ANIMALS))
    assert (labels.classes, labels.label_map) == (ANIMALS, {0: 0, 18: 1, 19: 2})
    assert labels.notes == ()


def test_the_config_goes_first_value_by_value():
    labels = merge_labels(DataConfig(label_map={19: "ignore", 7: 0}), coco(ANIMALS))
    assert labels.label_map == {0: 0, 18: 1, 19: "ignore", 7: 0}
    (note,) = labels.notes
    assert "19 is ignored by data.label_map, class 2 by the layout" in note.text


def test_classes_are_matched_by_name():
    """A checkpoint's classes stay; another JSON has them in another order, or lacks some."""
    of_checkpoint = DataConfig(classes=["background", "cat", "dog", "bird"])
    ids = meaning(of_checkpoint, coco(["background", "dog", "cat"]))
    assert (ids[0], ids[18], ids[19]) == (0, 2, 1)
    ids = meaning(of_checkpoint, coco(["background", "bird"]))
    assert (ids[0], ids[18]) == (0, 3)


def test_classes_without_a_label_map_are_matched_too():
    found = FoundPairs({}, "voc", "", ["a", "b", "c"], None, {255: "ignore"})
    assert meaning(DataConfig(classes=["c", "b", "a"]), found) == {0: 2, 1: 1, 2: 0, 255: "ignore"}
    assert meaning(DataConfig(classes=["x", "y", "z"]), found) == {255: "ignore"}  # renamed


def test_other_categories_are_refused():
    with pytest.raises(SegtrainError, match="a.json.*background, things.*data.label_map"):
        merge_labels(DataConfig(classes=ANIMALS), coco(["background", "things", "cat"]))


def test_classes_of_the_configs_own_need_its_own_label_map():
    found = FoundPairs({}, "cityscapes", "", [str(i) for i in range(19)], None, {7: 0, 26: 13})
    data = DataConfig(classes=["road", "rest"], label_map={7: 0, 26: 1})
    assert meaning(data, found) == {7: 0, 26: 1}


def test_what_contradicts_itself_is_refused():
    with pytest.raises(UsageError, match="data.format coco.*lb_ignore 1"):
        merge_labels(DataConfig(lb_ignore=1), coco(ANIMALS))
