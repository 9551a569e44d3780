"""Splits that the config names: folders with subfolders, and names that differ by their ends."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_detect import fill

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.layouts.detect import find_pairs
from segtrain.data.layouts.folders import Side
from segtrain.errors import SegtrainError, UsageError


def paired(root: Path, **splits: dict) -> dict[str, list[tuple[str, str]]]:
    """Return the paths of the pairs of each split, none held out; there must be no finding."""
    given = {name: SplitConfig(**split) for name, split in splits.items()}
    found = find_pairs(DataConfig(splits=given), root)
    assert found.findings == []
    return {
        split: [(str(p.image.relative_to(root)), str(p.mask.relative_to(root))) for p in pairs]
        for split, pairs in found.splits.items()
    }


def both(root: Path, **split: str) -> list[tuple[str, str]]:
    found = paired(root, train=split)
    return sorted(found["train"] + found["val"])


def write(root: Path, *paths: str) -> None:
    for path in paths:
        fill(root, os.path.dirname(path), os.path.basename(path))


ENDS = {
    "mask_end": ("images/{}.jpg", "masks/{}_mask.png", {"mask_end": "_mask"}),
    "with extension": ("images/{}.jpg", "masks/{}_mask.png", {"mask_end": "_mask.png"}),
    "both": ("images/{}_img.jpg", "masks/{}_gt.png", {"image_end": "_img", "mask_end": "_gt"}),
    "two extensions": ("images/{}.jpg", "masks/{}.jpg.png", {"mask_end": ".jpg"}),
    "start": ("images/image_{}.jpg", "masks/mask_{}.png",
              {"image_start": "image_", "mask_start": "mask_"}),
    "start and end": ("images/top_{}.jpg", "masks/map_{}_1.png",
                      {"image_start": "top_", "mask_start": "map_", "mask_end": "_1"}),
    "case": ("images/{}_IMG.jpg", "masks/{}.PNG", {"image_end": "_img", "mask_end": ".png"}),
    "one folder": ("images/{}.jpg", "images/{}_mask.png", {"masks": "images", "mask_end": "_mask"}),
    "one folder, extensions": ("images/{}.jpg", "images/{}.png",
                               {"masks": "images", "image_end": ".jpg", "mask_end": ".png"}),
    "one folder, images named": ("images/{}_rgb.png", "images/{}.png",
                                 {"masks": "images", "image_end": "_rgb"}),
    "masks below images": ("images/{}.png", "images/masks/{}.png", {"masks": "images/masks"}),
    "images below masks": ("all/images/{}.png", "all/{}.png",
                           {"images": "all/images", "masks": "all"}),
    "subfolders": ("images/a/{}.png", "masks/a/{}.png", {}),
    "deep subfolders": ("images/a/b c/{}.png", "masks/a/b c/{}_m.png", {"mask_end": "_m"}),
    "subfolders of another case": ("images/A/{}.png", "masks/a/{}.png", {}),
    "subfolders of one side": ("images/a/{}.png", "masks/{}.png", {}),
    "any folder": ("s1/images/{}.png", "s1/masks/{}.png",
                   {"images": "*/images", "masks": "*/masks"}),
}  # fmt: skip


@pytest.mark.parametrize("image, mask, split", ENDS.values(), ids=ENDS)
def test_names_pair_by_what_is_between_their_ends(tmp_path: Path, image: str, mask: str, split):
    expected = [(image.format(x), mask.format(x)) for x in ("1", "10", "b c")]
    write(tmp_path, *(path for pair in expected for path in pair))
    assert both(tmp_path, **{"images": "images", "masks": "masks"} | split) == sorted(expected)


def test_equal_names_pair_below_equal_subfolders(tmp_path: Path):
    expected = [(f"i/{sub}x.png", f"m/{sub}x.png") for sub in ("", "a/", "b/")]
    write(tmp_path, *(path for pair in expected for path in pair), "i/.hidden/x.png")
    assert both(tmp_path, images="i", masks="m") == sorted(expected)


def test_a_subfolder_without_any_partner_is_left_out_with_a_note(tmp_path: Path):
    write(tmp_path, "i/1.png", "i/2.png", "i/old/7.png", "i/old/8.png", "m/1.png", "m/2.png")
    splits = {"train": SplitConfig(images="i", masks="m")}
    found = find_pairs(DataConfig(splits=splits), tmp_path)
    (finding,) = found.findings
    assert not finding.error and "i/old: 2 file(s)" in finding.text
    write(tmp_path, "m/old/7.png")
    found = find_pairs(DataConfig(splits=splits), tmp_path)
    assert [(f.kind, f.places) for f in found.findings] == [("unpaired", ["i/old/8.png"])]


def test_folders_of_other_splits_are_not_walked(tmp_path: Path):
    write(tmp_path, *(f"{side}/{sub}{n}.png" for side in "im" for sub, n in (("", 1), ("val/", 2))))
    found = paired(
        tmp_path,
        train={"images": "i", "masks": "m"},
        val={"images": "i/val", "masks": "m/val"},
    )
    assert found == {"train": [("i/1.png", "m/1.png")], "val": [("i/val/2.png", "m/val/2.png")]}


def test_splits_may_share_a_folder_of_masks(tmp_path: Path):
    write(tmp_path, "train/1.png", "train/2.png", "val/3.png", *(f"m/{n}.png" for n in (1, 2, 3)))
    splits = {s: {"images": s, "masks": "m"} for s in ("train", "val")}
    assert paired(tmp_path, **splits)["val"] == [("val/3.png", "m/3.png")]
    write(tmp_path, "m/4.png")  # whose image is in no split
    given = {name: SplitConfig(**split) for name, split in splits.items()}
    found = find_pairs(DataConfig(splits=given), tmp_path)
    assert {place for f in found.findings for place in f.places} == {"m/4.png"}


def test_names_of_another_unicode_form_or_case_are_one(tmp_path: Path):
    for n in range(3):
        write(tmp_path, "i/" + unicodedata.normalize("NFC", f"\u00e9{n}.jpg"),
              "m/" + unicodedata.normalize("NFD", f"\u00c9{n}.png"))  # fmt: skip
    assert len(both(tmp_path, images="i", masks="m")) == 3


def test_a_split_of_nothing_but_lone_subfolders_names_its_files(tmp_path: Path):
    for path in ("rgb/train/a/x", "ids/train/a/x", "rgb/val/a/y", "ids/val/b/z"):
        write(tmp_path, f"{path}.png")
    splits = {s: SplitConfig(images=f"rgb/{s}", masks=f"ids/{s}") for s in ("train", "val")}
    findings = find_pairs(DataConfig(splits=splits), tmp_path).findings
    places = [place for finding in findings if finding.error for place in finding.places]
    assert places == ["rgb/val/a/y.png", "ids/val/b/z.png"]


def test_names_that_differ_in_case_alone_stay_apart(tmp_path: Path):
    write(tmp_path, "i/x.png", "i/X.png", "m/x.png", "m/X.png")
    pairs = both(tmp_path, images="i", masks="m")
    assert pairs == [("i/X.png", "m/X.png"), ("i/x.png", "m/x.png")]
    write(tmp_path, "i/y.png", "i/Y.png", "m/y.png")  # which is exact; Y is not guessed
    splits = {"train": SplitConfig(images="i", masks="m")}
    (finding,) = find_pairs(DataConfig(splits=splits), tmp_path).findings
    assert (finding.kind, finding.places) == ("unpaired", ["i/Y.png"])


def test_names_that_differ_by_an_ending_get_the_line_that_pairs_them(tmp_path: Path):
    write(tmp_path, *(path for n in range(4) for path in (f"i/{n}_a.png", f"m/{n}_b.png")))
    splits = {"train": SplitConfig(images="i", masks="m")}
    found = find_pairs(DataConfig(splits=splits), tmp_path)
    (finding,) = (finding for finding in found.findings if finding.kind == "ends")
    assert "image_end: _a, mask_end: _b" in str(finding)
    assert both(tmp_path, **finding.fix["splits"]["train"]) == [
        (f"i/{n}_a.png", f"m/{n}_b.png") for n in range(4)
    ]


def test_one_folder_for_both_needs_ends(tmp_path: Path):
    write(tmp_path, "i/x.png")
    with pytest.raises(UsageError, match="both i; .*mask_end"):
        both(tmp_path, images="i", masks="i")


def test_links_in_a_circle_end(tmp_path: Path):
    write(tmp_path, "i/a/1.png", "i/a/2.png", "m/a/1.png", "m/a/2.png")
    (tmp_path / "i/a/again").symlink_to("..")
    assert len(both(tmp_path, images="i", masks="m")) == 2


def test_too_many_folders_are_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("segtrain.data.layouts.folders.MOST_FOLDERS", 5)
    write(tmp_path, "m/1.png", *(f"i/{n}/1.png" for n in range(6)))
    with pytest.raises(SegtrainError, match="more than 5 folders"):
        both(tmp_path, images="i", masks="m")


@settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck))
@given(st.text("ab_1", max_size=4), st.text("aB_.é", max_size=6).map("c".__add__),
       st.text("ab_1.", max_size=4))  # fmt: skip
def test_a_name_is_cut_to_what_is_between(start: str, core: str, end: str):
    assert Side("", start, end).cut(f"{start}{core}{end}.png") == core
    assert Side("", start, end + ".png").cut(f"{start}{core}{end}.PNG") == core
    assert Side("", start, end).cut(f"~{start}{core}{end}.png") is None or start == ""
