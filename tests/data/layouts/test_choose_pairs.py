"""The one pair of folders that is meant: endings by split, several masks an image."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_pair_finder import write

from segtrain.config import DataConfig
from segtrain.data.layouts.detect import find_pairs
from segtrain.errors import SegtrainError

BY_SPLIT = {
    "DRIVE": ("{split}/images/{n:02}_{split}.tif", "{split}/1st_manual/{n:02}_manual1.gif"),
    "folders of splits below": ("images/{split}/{n}_{split}.png", "masks/{split}/{n}_lab.png"),
    "masks of the core's name": ("{split}/images/{n}_{split}.png", "{split}/masks/{n}.png"),
}


@pytest.mark.parametrize("same_numbers", [False, True])
@pytest.mark.parametrize(
    "counts", [dict(training=4, test=4), dict(training=12, test=1), dict(train=3, val=3, test=3)]
)
@pytest.mark.parametrize("image, mask", BY_SPLIT.values(), ids=BY_SPLIT)
def test_images_may_end_otherwise_in_each_split(
    tmp_path: Path, image: str, mask: str, counts: dict[str, int], same_numbers: bool
):
    for place, (split, count) in enumerate(counts.items()):
        for n in range(count):
            number = n + (0 if same_numbers else 20 * place)
            for path in (image, mask):
                write(tmp_path, path.format(split=split, n=number))
    source = find_pairs(DataConfig(), tmp_path)
    assert not source.findings and "not read" not in source.layout
    found = {split: len(pairs) for split, pairs in source.splits.items()}
    if "val" not in counts:
        found["training"] = found.pop("train") + found.pop("val")  # held out
    assert found == counts


def test_endings_of_parts_are_no_channels(tmp_path: Path):
    for part in ("A", "B"):
        for n in range(4):
            write(
                tmp_path,
                f"images/part{part}/{part}{n}_cam{part}.png",
                f"labels/part{part}/{part}{n}.png",
            )
    with pytest.raises(SegtrainError) as caught:
        find_pairs(DataConfig(), tmp_path)
    assert "_camA, _camB" in str(caught.value) and "files an image" not in str(caught.value)
