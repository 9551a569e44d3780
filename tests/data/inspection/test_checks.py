"""Facts to findings: errors and notes, with the config line that fixes them."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segtrain.config import DataConfig
from segtrain.data.findings import Finding, merge_fixes, raise_errors
from segtrain.data.inspection.checks import DARK, Checks, by_index, count_class_pixels, unknown_of
from segtrain.data.inspection.named_values import read_values, remedy_of
from segtrain.data.inspection.palettes import find_colours
from segtrain.data.inspection.scan import ImageFacts, MaskFacts, PairFacts, UnreadablePair
from segtrain.data.masks import UNKNOWN, MaskReader
from segtrain.data.sample import Sample
from segtrain.errors import SegtrainError

ROOT = Path("/data/set")
checks = Checks(ROOT)
NAMES = ["road", "car"]
SIZE = (4, 6)


def sample(name: str) -> Sample:
    return Sample(ROOT / "images" / f"{name}.png", ROOT / "masks" / f"{name}.png")


def fact(name: str, image: dict = {}, mask: dict = {}) -> PairFacts:
    """The facts of a good pair, changed."""
    digest = {"size": SIZE, "digest": name, "pixels": 24, "highest": 255}
    values = {"size": SIZE, "values": {0: 12, 1: 12}}
    return PairFacts(sample(name), ImageFacts(**digest | image), MaskFacts(**values | mask))


def unreadable(name: str, *reasons: str) -> UnreadablePair:
    return UnreadablePair(sample(name), [f"{ROOT}/{reason}" for reason in reasons])


def one(findings: list[Finding]) -> Finding:
    assert len(findings) == 1, findings
    return findings[0]


# unreadable and sizes


def test_good_pairs_have_no_fault():
    assert checks.unreadable([fact("a"), fact("b")]) == []


def test_unreadable_files_are_named_with_the_reason():
    bad = [
        unreadable("a", "images/a.png: truncated"),
        fact("b"),
        unreadable("c", "masks/c.png: not an image"),
        unreadable("d", "images/d.png: gone", "masks/d.png: gone"),
    ]
    finding = one(checks.unreadable(bad))
    assert (finding.kind, finding.error) == ("unreadable", True)
    assert finding.text.startswith("4 files cannot be read")
    assert finding.places == [
        "images/a.png: truncated",
        "masks/c.png: not an image",
        "images/d.png: gone",
        "masks/d.png: gone",
    ]
    excluded = ["images/a.png", "images/c.png", "images/d.png"]
    assert finding.fix == {"exclude": excluded}


def test_sizes_say_width_and_height_of_both():
    finding = one(checks.unreadable([fact("a", mask={"size": (4, 7)}), fact("b")]))
    assert (finding.kind, finding.error) == ("size", True)
    assert "1 pair" in finding.text
    assert finding.places == ["images/a.png is 6x4 (width x height), masks/a.png is 7x4"]
    assert finding.fix == {"exclude": ["images/a.png"]}


@pytest.mark.parametrize(
    "turned, size, hint", [(True, (6, 4), True), (True, (5, 4), False), (False, (6, 4), False)]
)
def test_a_mask_that_was_not_turned_with_its_image(turned: bool, size: tuple, hint: bool):
    finding = one(
        checks.unreadable([fact("a", {"orientation": 6 if turned else 1}, {"size": size})])
    )
    assert ("EXIF" in finding.places[0]) == hint


def test_both_kinds_at_once():
    pairs = [unreadable("a", "a.png: bad"), fact("b", mask={"size": (9, 9)})]
    assert [finding.kind for finding in checks.unreadable(pairs)] == ["unreadable", "size"]


# values


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_unknown_values_are_errors_in_every_split(split: str):
    slip = {"values": {0: 3, 1: 9, 7: 2, 9: 1}, "size": (200, 300)}
    others = [fact(name, mask={"values": {0: 12, 1: 12}}) for name in "acdef"]
    facts = {"train": others, split: [*others, fact("b", mask=slip)]}
    finding = one(checks.values(facts, MaskReader(2), NAMES))
    assert (finding.kind, finding.error) == ("value", True)
    assert "1 mask" in finding.text and "0..1" in finding.text and "255" in finding.text
    assert finding.places == ["masks/b.png has value 7 (2 px), 9 (1 px)"]
    assert finding.fix == {"label_map": {7: "ignore", 9: "ignore"}}
    assert checks.values(facts, MaskReader(2, finding.fix["label_map"]), NAMES) == []


def test_more_than_slips_are_never_ignored_by_a_fix():
    facts = {"train": [fact("a", mask={"values": {0: 3, 1: 4, 7: 12, 9: 5}})]}
    finding = one(checks.values(facts, MaskReader(2), NAMES))
    assert not finding.fix and len(finding.choices) == 2
    for choice in finding.choices:
        names = choice.fix.get("classes", NAMES)
        masks = MaskReader(len(names), choice.fix["label_map"])
        assert checks.values(facts, masks, names) == []


@pytest.mark.parametrize(
    "values, count, label_map",
    [
        ({0: 9, 255: 15}, 2, {255: 1}),
        ({0: 9, 7: 15}, 2, {7: 1}),
        ({0: 9, 128: 3, 255: 12}, 3, {128: 1, 255: 2}),
        ({1: 9, 2: 15}, 2, {1: 0, 2: 1}),
        ({0: 9, 1: 10, 4: 5}, 3, {4: 2}),
    ],
)
def test_as_many_values_as_names_are_read_in_their_order(values: dict, count: int, label_map: dict):
    ways = read_values(values, list("abc")[:count], MaskReader(count))
    assert ways[0].fix == {"label_map": label_map}


@settings(max_examples=200, deadline=None)
@given(
    st.sets(st.sampled_from([0, 1, 2, 3, 4, 7, 40, 127, 128, 254, 255, 300]), min_size=1),
    st.integers(2, 5),
    st.sampled_from([{}, {255: 1}, {7: 0}, {128: "ignore"}]),
    st.sampled_from([255, -1]),
)
def test_no_fix_for_named_classes_loses_a_value(values, count, label_map, lb_ignore):
    names, masks = list("abcde")[:count], MaskReader(count, label_map, lb_ignore)
    ways = read_values(values, names, masks)
    for way in ways:
        fixed = MaskReader(len(way.fix.get("classes", names)), label_map | way.fix["label_map"])
        ids = fixed.ids(np.array(sorted(values)))
        assert len(set(ids.tolist()) - {255, UNKNOWN}) >= 2
        assert not (ids[~np.isin(sorted(values), [255, -1])] == UNKNOWN).any()
    fix = remedy_of(ways, values, masks).get("fix")
    if fix:
        assert "ignore" not in fix["label_map"].values()
        read = {label_map.get(v, fix["label_map"].get(v, v)) for v in values} - {"ignore"}
        assert len(read) == len(values - label_map.keys()) + len(
            {label_map[v] for v in values & label_map.keys()} - {"ignore"}
        )


@pytest.mark.parametrize(
    "label_map, lb_ignore, known",
    [({7: 1}, 255, True), ({7: "ignore"}, 255, True), ({}, 7, True), ({}, 255, False)],
)
def test_known_values_are_not_reported(label_map: dict, lb_ignore: int, known: bool):
    facts = {"train": [fact("a", mask={"values": {0: 20, 7: 4}})]}
    assert (checks.values(facts, MaskReader(2, label_map, lb_ignore), NAMES) == []) == known


def soft_fact(name: str, levels: list[int], **mask) -> PairFacts:
    """Facts of a mask with as many flat pixels of each level, and edges of values between them."""
    edges = {(a + b) // 2: 2 for a, b in pairwise(levels) if b - a > 1}
    flat = dict.fromkeys(levels, 50)
    kind = {"smooth": 0.4, "flat": flat, "even": flat, "size": (10, 20)}
    return fact(name, mask={"values": dict.fromkeys(levels, 60) | edges, **kind, **mask})


@pytest.mark.parametrize("lossy", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize(
    "levels, count, label_map, fixed",
    [
        ([0, 255], 2, {}, {255: 1}),
        ([0, 128, 255], 3, {}, {128: 1, 255: 2}),
        ([0, 255], 2, {255: 1}, None),
        ([0, 128, 255], 3, {128: 1, 255: 2}, None),
        ([0, 128, 255], 3, {255: 1}, {128: 2}),
    ],
)
def test_levels_of_soft_masks_are_the_classes(lossy, allowed, levels, count, label_map, fixed):
    names, masks = list("abc")[:count], MaskReader(count, label_map, allow_lossy=allowed)
    facts = {"train": [soft_fact("a", levels, lossy=lossy)]}
    found = checks.soft(facts, masks, names)
    if allowed and fixed is None:
        assert found == []
        return
    finding = one(found)
    assert (finding.kind, finding.error) == ("lossy" if lossy else "smooth", True)
    assert ("PNG" if lossy else "nearest neighbour") in finding.remedy
    ways = [finding.fix] if finding.fix else [choice.fix for choice in finding.choices]
    assert ways[0].pop("allow_lossy_masks") and ways[0].get("label_map") == fixed
    settled = MaskReader(count, label_map | (fixed or {}), allow_lossy=True)
    assert checks.soft(facts, settled, names) == []


def test_ids_beside_a_soft_void_stay_ids():
    finding = one(checks.soft({"train": [soft_fact("a", [0, 1, 255])]}, MaskReader(2), NAMES))
    ids, binary = (choice.fix["label_map"] for choice in finding.choices)
    assert not finding.fix and (ids[1], binary) == (1, {255: 1})


def test_levels_without_names_of_their_own_are_errors():
    facts = {"train": [soft_fact("a", [0, 255])]}
    finding = one(checks.soft(facts, MaskReader(3, allow_lossy=True), list("abc")))
    assert not finding.fix and not finding.choices and "data.label_map" in finding.remedy


def test_thin_smooth_lines_are_asked_about():
    values = {"values": {0: 190} | dict.fromkeys(range(2, 190), 1), "flat": {0: 150}}
    facts = {"train": [fact("a", mask=values | {"smooth": 0.5, "size": (20, 20)})]}
    (choice,) = one(checks.soft(facts, MaskReader(2), NAMES)).choices
    assert choice.fix == {"label_map": {255: 1}, "allow_lossy_masks": True}
    assert checks.soft(facts, MaskReader(2, {255: 1}, allow_lossy=True), NAMES) == []


def test_colours_that_the_palette_lacks():
    palette = [(0, 0, 0), (255, 0, 0)]
    mask = {"values": {}, "colours": {0: 10, 0xFF0000: 5, 0x010203: 2, 0x040506: 7}}
    facts = {"train": [fact("a", mask=mask)], "val": [fact("b", mask=mask)]}
    finding = one(checks.values(facts, MaskReader(2, palette=palette), NAMES))
    assert (finding.kind, finding.error) == ("colour", True)
    assert "2 colours" in finding.text and "2 masks" in finding.text
    assert finding.places[0] == "masks/a.png: (4, 5, 6) (7 px), (1, 2, 3) (2 px)"
    assert "(4, 5, 6) (14 px), (1, 2, 3) (4 px)" in finding.remedy


def test_coloured_masks_with_classes_but_without_palette():
    facts = {"train": [fact("a", mask={"values": {}, "colours": {0xFF0000: 24}})]}
    finding = one(checks.values(facts, MaskReader(2), NAMES))
    assert finding.error and "data.palette" in finding.text
    assert "(255, 0, 0) (24 px)" in finding.remedy


def test_without_palette_every_colour_may_be_a_class():
    mask = {"values": {}, "colours": {0: 20, 0xFF0000: 4}}
    finding = one([checks.localise(f) for f in find_colours([fact("a", mask=mask)])])
    assert finding.error and finding.places == [
        "masks/a.png: (0, 0, 0) (20 px), (255, 0, 0) (4 px)"
    ]
    assert finding.fix["palette"] == [[0, 0, 0], [255, 0, 0]]
    assert len(finding.fix["classes"]) == 2 == len(set(finding.fix["classes"]))


def test_hundreds_of_colours_are_no_classes():
    mask = {"values": {}, "colours": dict.fromkeys(range(300), 2)}
    finding = one(find_colours([fact("a", mask=mask)]))
    assert finding.error and not finding.fix and "300 colours" in finding.text


def test_lossy_masks_are_errors():
    facts = {"train": [soft_fact("a", [0, 255], lossy=True), fact("b")], "val": [fact("c")]}
    finding = one(checks.soft(facts, MaskReader(2, {255: 1}), NAMES))
    assert (finding.kind, finding.error, finding.places) == ("lossy", True, ["masks/a.png"])
    assert "labels" in finding.text and finding.fix == {"allow_lossy_masks": True}
    assert checks.soft({"train": [fact("a")]}, MaskReader(2, {255: 1}), NAMES) == []


def test_ids_are_not_read_from_lossy_masks():
    """JPEG changes values by more than neighbouring ids differ: the nearest one is noise."""
    facts = {"train": [soft_fact("a", [0, 1, 2], lossy=True)]}
    finding = one(checks.soft(facts, MaskReader(6), list("abcdef")))
    assert finding.error and not finding.fix and not finding.choices


# counting


def test_pixels_of_values_and_colours_by_class():
    palette = [(0, 0, 0), (255, 0, 0), (0, 0, 255)]
    masks = MaskReader(2, {2: "ignore", 9: 1}, palette=palette)
    pair = fact(
        "a", mask={"values": {0: 1, 9: 2, 255: 4, 8: 32}, "colours": {0xFF0000: 8, 0xFF: 16, 5: 3}}
    )
    assert by_index(pair, masks) == {0: 1, 9: 2, 255: 4, 8: 32, 1: 8, 2: 16}
    assert count_class_pixels(pair, masks).tolist() == [1, 10]
    assert unknown_of(pair, masks) == ({8: 32}, {5: 3})


def test_a_mask_of_nothing_counts_nothing():
    assert count_class_pixels(fact("a", mask={"values": {}}), MaskReader(3)).tolist() == [0, 0, 0]


# contents


def findings_of(facts: dict, classes: int = 3) -> dict[str, list[Finding]]:
    masks = MaskReader(classes)
    by_image = {
        split: np.array([count_class_pixels(f, masks) for f in pairs]).reshape(-1, classes)
        for split, pairs in facts.items()
    }
    found = checks.contents(facts, by_image, [f"class {i}" for i in range(classes)])
    assert not any(finding.error for finding in found)
    return {kind: [f for f in found if f.kind == kind] for kind in {f.kind for f in found}}


FULL = {"values": {0: 8, 1: 8, 2: 8}}


def test_full_masks_have_no_notes():
    assert findings_of({"train": [fact("a", mask=FULL)], "val": [fact("b", mask=FULL)]}) == {}


def test_empty_masks_are_notes():
    facts = {
        "train": [fact("a", mask=FULL), fact("void", mask={"values": {255: 24}})],
        "val": [fact("b", mask=FULL), fact("flat", mask={"values": {0: 20, 255: 4}})],
    }
    void, flat = findings_of(facts)["empty"]
    assert void.places == ["masks/void.png"] and "1 mask without a valid pixel" in void.text
    assert flat.places == ["masks/flat.png"] and "class 0" in flat.text


def test_a_mask_of_one_other_class_is_not_empty():
    facts = {"train": [fact("a", mask=FULL), fact("b", mask={"values": {2: 24}})]}
    assert findings_of(facts) == {}


def test_classes_that_a_split_lacks():
    facts = {"train": [fact("a", mask=FULL)], "val": [fact("b", mask={"values": {1: 24}})]}
    (absent,) = findings_of(facts)["absent"]
    assert absent.text == "val has no pixel of 2 classes"
    assert absent.places == ["class 0", "class 2"]


def test_smooth_edges_within_the_classes_are_a_note():
    facts = {"train": [fact("a", mask=FULL | {"smooth": 0.4})], "val": [fact("b", mask=FULL)]}
    (smooth,) = findings_of(facts)["smooth"]
    assert smooth.places == ["masks/a.png"] and "nearest neighbour" in smooth.remedy


def test_a_split_without_pairs():
    assert "absent" in findings_of({"train": [fact("a", mask=FULL)], "val": []})


# duplicates


def leak(**splits: list[str]) -> Finding:
    """Return the finding where images with the same first letter are the same image."""
    facts = {s: [fact(name, {"digest": name[0]}) for name in names] for s, names in splits.items()}
    found = checks.duplicates(facts)
    return one([finding for finding in found if finding.kind == "leak"])


def test_the_same_content_in_two_splits_is_an_error_and_train_gives_way():
    finding = leak(train=["a1", "b1", "c1"], val=["a2", "d1"], test=["b2"])
    assert finding.error and "2 times" in finding.text
    assert finding.places == ["images/a1.png = images/a2.png", "images/b1.png = images/b2.png"]
    assert finding.fix == {"exclude": ["images/a1.png", "images/b1.png"]}


def test_an_image_in_val_and_test_stays_in_one_of_them():
    excluded = leak(train=["x1", "a1"], val=["a2", "y1"], test=["a3", "z1"]).fix["exclude"]
    assert len(excluded) == 2 and "images/a1.png" in excluded


def test_no_fix_excludes_all_training_images():
    finding = leak(train=["a1", "b1"], val=["a2", "b2", "c2"])
    assert finding.error and not finding.fix and "train" in finding.remedy


def test_no_fix_excludes_all_val_images():
    finding = leak(train=["x1"], val=["a2", "b2"], test=["a3", "b3"])
    assert "images/a2.png" not in finding.fix.get("exclude", []) or len(finding.fix["exclude"]) < 2


def test_the_same_image_twice_in_a_split_is_a_note():
    facts = {"train": [fact(name, {"digest": "x"}) for name in "abc"], "val": [fact("d")]}
    finding = one(checks.duplicates(facts))
    assert (finding.kind, finding.error) == ("duplicate", False)
    assert finding.places == ["images/a.png = images/b.png = images/c.png"]
    assert finding.fix == {"exclude": ["images/b.png", "images/c.png"]}


def test_nearly_the_same_images_are_notes_within_and_across_splits():
    value = 0xABCDEF0123456789
    facts = {
        "train": [fact("a", {"dhash": value}), fact("b", {"dhash": value ^ 0b111})],
        "val": [
            fact("c", {"dhash": value ^ (1 << 60)}),
            fact("d", {"dhash": ~value & (2**64 - 1)}),
        ],
    }
    across, within = checks.duplicates(facts)
    assert (across.kind, across.error, within.kind, within.error) == ("near", False, "near", False)
    assert "across splits" in across.text and "1 pair " in across.text
    assert across.places == ["images/a.png ~ images/c.png"]  # b and c are 4 bits apart
    assert within.places == ["images/a.png ~ images/b.png"]


def test_the_same_image_is_not_nearly_the_same_too():
    facts = {"train": [fact(name, {"digest": "x", "dhash": 77}) for name in "ab"]}
    assert [finding.kind for finding in checks.duplicates(facts)] == ["duplicate"]


def test_a_film_of_near_frames_is_compared_quickly():
    """250 frames that are all near each other: 31,000 pairs."""
    frames = [fact(f"{i:04d}", {"dhash": 0xFFFF0000FFFF0001}) for i in range(250)]
    start = time.perf_counter()
    found = checks.duplicates({"train": frames[:150], "val": frames[150:]})
    assert time.perf_counter() - start < 30  # it once took minutes
    assert {finding.kind for finding in found} == {"near"}
    assert [finding.text.split()[0] for finding in found] == ["15000", "16125"]
    assert max(len(finding.places) for finding in found) < 250  # a line for each frame, not pair


# dark images


def deep(highest: int, **more) -> PairFacts:
    return fact("a", {"deep": True, "highest": highest} | more)


@pytest.mark.parametrize(
    "highest, value_range", [(0, [0, 255]), (1, [0, 511]), (15, [0, 4095]), (16, [0, 8191]),
                             (63, [0, 16383])]
)  # fmt: skip
def test_dark_16_bit_images_get_the_range_that_holds_them(highest: int, value_range: list[int]):
    finding = one(checks.dark({"train": [deep(highest)]}, DataConfig()))
    assert (finding.kind, finding.error) == ("range", False)
    assert finding.fix == {"value_range": value_range}
    assert str(256 * highest + 255) in finding.text


@pytest.mark.parametrize(
    "pair", [deep(DARK), deep(255), deep(3, digest=""), fact("a", {"highest": 3})]
)
def test_other_images_are_not_dark(pair: PairFacts):
    assert checks.dark({"train": [pair]}, DataConfig()) == []


def test_the_brightest_deep_image_of_all_counts():
    assert checks.dark({"train": [deep(3)], "val": [deep(200)]}, DataConfig()) == []


# findings


def test_only_errors_are_raised_all_in_one_line():
    findings = [
        Finding("a", True, "2 files cannot be read", ["x", "y"], "fix them", {"exclude": ["x"]}),
        Finding("b", False, "a note"),
        Finding("c", True, "sizes differ"),
    ]
    with pytest.raises(SegtrainError) as raised:
        raise_errors(findings)
    text = str(raised.value)
    assert "\n" not in text and "a note" not in text
    for words in (
        "2 files cannot be read: x, y",
        "data.exclude: [x], or fix them",
        "sizes differ",
    ):
        assert words in text
    raise_errors([finding for finding in findings if not finding.error])
    raise_errors([])


def test_fixes_that_belong_together_are_joined_by_and():
    fix = {"palette": [[0, 0, 0]], "classes": ["sky"]}
    remedy = Finding("colour", True, "", [], "or else", fix).remedy
    assert remedy == "data.palette: [[0, 0, 0]] and data.classes: [sky], or or else"


@pytest.mark.parametrize(
    "value, line",
    [
        (True, "true"),
        ({255: 1, 3: "ignore"}, "{255: 1, 3: ignore}"),
        ([0, 4095], "[0, 4095]"),
        (["a", "b"], "[a, b]"),
        ([[0, 0, 0], [1, 2, 3]], "[[0, 0, 0], [1, 2, 3]]"),
    ],
)
def test_the_line_of_a_fix_is_yaml(value, line: str):
    import yaml

    shown = Finding("x", True, "", fix={"key": value}).remedy
    assert shown == f"data.key: {line}"
    assert yaml.safe_load(shown) == {"data.key": value}


@pytest.mark.parametrize(
    "name", ["images/a, b.png", "images/[1].png", "images/a: b.png", "images/#a.png", "- a.png",
             "images/{a}.png", "123", "true"]
)  # fmt: skip
def test_the_line_of_odd_names_is_yaml_too(name: str):
    import yaml

    shown = Finding("x", True, "", fix={"exclude": [name]}).remedy
    assert yaml.safe_load(shown) == {"data.exclude": [name]}


def test_fixes_of_all_errors_are_merged():
    findings = [
        Finding("a", True, "", fix={"exclude": ["x", "y"], "label_map": {7: "ignore"}}),
        Finding("b", True, "", fix={"exclude": ["y", "z"], "label_map": {8: 1}}),
        Finding("c", False, "", fix={"exclude": ["note"]}),
        Finding("d", True, "", fix={"allow_lossy_masks": True, "palette": [[0, 0, 0], [1, 1, 1]]}),
    ]
    assert merge_fixes(findings) == {
        "exclude": ["x", "y", "z"],
        "label_map": {7: "ignore", 8: 1},
        "allow_lossy_masks": True,
        "palette": [[0, 0, 0], [1, 1, 1]],
    }
    assert findings[0].fix["exclude"] == ["x", "y"]  # as they were
    assert merge_fixes([]) == {}
