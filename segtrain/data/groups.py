"""Groups of images that are no independent samples, such as the frames of one drive."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from segtrain.errors import UsageError
from segtrain.files.places import common_folder, relative_path


def name_images(paths: Sequence[Path]) -> list[str]:
    """Return a name for each image: its path below the folder that all have in common."""
    common = common_folder(path.parent for path in paths)
    return [relative_path(path, common) for path in paths]


def group_images(paths: Sequence[Path], pattern: str, root: Path) -> list[str]:
    """Return the group of each image: the pattern's match in its name.

    Where the name has none, the path below `root` counts. Of several groups in the pattern, the
    first that matched. Raises UsageError without a match.
    """
    matches = [
        re.search(pattern, name) or re.search(pattern, relative_path(path, root))
        for name, path in zip(name_images(paths), paths, strict=True)
    ]
    unmatched = [path for path, match in zip(paths, matches, strict=True) if match is None]
    if unmatched:
        raise UsageError(
            f"data.group_by: {pattern!r} matches nothing in {len(unmatched)} of {len(paths)} "
            f"names, such as {unmatched[0].name}; add '|(.+)' to make each of those its own group"
        )
    return [next(filter(None, match.groups()), match[0]) for match in matches if match]


def draw_images(paths: Sequence[Path], fraction: float, seed: int) -> set[Path]:
    """Return a random share of the images, at least one and not all."""
    count = min(max(1, round(fraction * len(paths))), len(paths) - 1)
    return {paths[i] for i in random.Random(seed).sample(range(len(paths)), count)}


def draw_groups(
    paths: Sequence[Path], groups: Sequence[str], fraction: float, seed: int
) -> set[Path]:
    """Return the images of whole groups, about a share of all: at least one group and not all.

    Groups are taken in random order as long as that brings the share nearer. Raises UsageError
    where all images are of one group.
    """
    sizes = Counter(groups)
    if len(sizes) < 2:
        raise UsageError(
            f"data.group_by: all {len(paths)} training images are of one group, {groups[0]!r}, so "
            "none can be held out for val; use a pattern with several groups, or name val with "
            "data.splits"
        )
    order = random.Random(seed).sample(sorted(sizes), len(sizes))
    chosen: list[str] = []
    missing = fraction * len(paths)
    for group in order:
        if abs(missing - sizes[group]) <= abs(missing) and len(chosen) < len(order) - 1:
            chosen.append(group)
            missing -= sizes[group]
    chosen = chosen or [min(order, key=lambda group: sizes[group])]  # all have too many
    return {path for path, group in zip(paths, groups, strict=True) if group in set(chosen)}
