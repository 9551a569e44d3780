"""Groups of images: held out whole, drawn together for intervals."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.groups import draw_groups, group_images
from segtrain.data.layouts.detect import find_pairs
from segtrain.errors import UsageError

DRIVES = {"a": 4, "b": 3, "c": 5, "d": 2, "e": 6}


def frames(root: Path, place: str = "{drive}_{n:03}") -> Path:
    for drive, count in DRIVES.items():
        for n in range(count):
            for kind in ("images", "masks"):
                path = root / kind / f"{place.format(drive=drive, n=n)}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((2, 2), n % 2, np.uint8)).save(path)
    return root


def drives(config: DataConfig, root: Path) -> dict[str, set[str]]:
    found = find_pairs(config, root)
    return {split: {pair.name[0] for pair in pairs} for split, pairs in found.splits.items()}


@pytest.mark.parametrize("pattern", ["^(.+)_", "[a-e]", "^(a)|^(.)"])
def test_a_group_is_on_one_side_of_the_hold_out(tmp_path: Path, pattern: str):
    root = frames(tmp_path)
    single = drives(DataConfig(), root)
    assert single["train"] & single["val"]  # frames of one drive on both sides
    held = set()
    for seed in range(8):
        config = DataConfig(group_by=pattern, split_seed=seed)
        split = drives(config, root)
        assert split["train"] | split["val"] == set(DRIVES) and not split["train"] & split["val"]
        assert split["val"] and split["train"] and drives(config, root) == split
        held |= split["val"]
    assert len(held) > 1
    assert "groups" in find_pairs(DataConfig(group_by=pattern), root).layout


def test_folders_can_be_groups(tmp_path: Path):
    """As names below the images' common folder, and for a single drive below the data set."""
    root = frames(tmp_path, "{drive}/{drive}{n}")
    splits = {"train": {"images": "images", "masks": "masks"}}
    config = DataConfig.model_validate({"group_by": "(.)/[^/]+$", "splits": splits})
    split = drives(config, root)
    assert not split["train"] & split["val"] and split["val"]
    paths = sorted((root / "images/a").iterdir())
    assert group_images(paths, "(.)/[^/]+$", root) == ["a"] * 4


def test_an_exclusion_moves_no_group(tmp_path: Path):
    root = frames(tmp_path)
    whole = drives(DataConfig(group_by="^.", val_fraction=0.4), root)
    gone = sorted(whole["train"])[0]
    left = drives(DataConfig(group_by="^.", val_fraction=0.4, exclude=[f"images/{gone}_*"]), root)
    assert left == {"train": whole["train"] - {gone}, "val": whole["val"]}


@pytest.mark.parametrize(
    "pattern, message",
    [("[.]png", "one group"), ("^b", "matches nothing in 17 of 20"), ("night", "night")],
)
def test_patterns_that_hold_nothing_out(tmp_path: Path, pattern: str, message: str):
    with pytest.raises(UsageError, match=f"data.group_by.*{message}"):
        find_pairs(DataConfig(group_by=pattern), frames(tmp_path))


@given(
    st.lists(st.integers(0, 9), min_size=2, max_size=60).filter(lambda g: len(set(g)) > 1),
    st.floats(0.01, 0.99),
    st.integers(0, 99),
)
def test_whole_groups_about_the_fraction(numbers: list[int], fraction: float, seed: int):
    groups = list(map(str, numbers))
    paths = [Path(f"{i}.png") for i in range(len(groups))]
    held = draw_groups(paths, groups, fraction, seed)
    assert held == draw_groups(paths, groups, fraction, seed)
    chosen = {groups[i] for i, path in enumerate(paths) if path in held}
    left = {groups[i] for i, path in enumerate(paths) if path not in held}
    assert chosen and left and chosen.isdisjoint(left)
    # no nearer than the largest group is large
    assert abs(len(held) - fraction * len(paths)) <= max(Counter(groups).values())


@pytest.mark.parametrize(
    "pattern, groups",
    [
        ("^._", ["a_", "a_", "b_"]),
        ("^a_(.)|^(b)", ["1", "2", "b"]),
        ("^(a)_|(.+)", ["a", "a", "b_0.png"]),
    ],
)
def test_a_group_is_what_the_pattern_finds(pattern: str, groups: list[str]):
    paths = [Path("/set") / name for name in ("a_1.png", "a_2.png", "b_0.png")]
    assert group_images(paths, pattern, Path("/set")) == groups
