"""The survey: a data section to its data set, statistics and findings."""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import scene, write_pairs
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data import demo
from segtrain.data.findings import Finding, apply_fixes, list_choices, merge_fixes
from segtrain.data.inspection.survey import Survey, inspect_data_set, survey_data_set
from segtrain.data.layouts.locate import demo_folder, locate
from segtrain.errors import SegtrainError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache and working folder, and a demo of few scenes, quick to paint."""
    small = partial(demo.write_demo, train=3, val=2)
    monkeypatch.setattr("segtrain.data.layouts.locate.write_demo", small)
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def lines(found: Survey) -> list[str]:
    """Return the lines that fit prints about a data set."""
    return [str(note) for note in (*found.data_set.notes, *found.notes)]


def test_inferred_values_are_filled_in_and_reported(tmp_path: Path):
    prepared = survey_data_set(DataConfig(path=str(write_pairs(tmp_path / "set"))))
    assert prepared.data_set.classes == ["0", "1", "2"]
    assert len(set(prepared.data_set.palette)) == 3
    assert prepared.median_size == (48, 40)
    assert {s: len(p) for s, p in prepared.data_set.splits.items()} == {
        "train": 5,
        "val": 1,
    }
    text = "\n".join(lines(prepared))
    for words in (str(tmp_path / "set"), "5 train, 1 val", "images + masks", "ids 0..2 found"):
        assert words in text


@pytest.mark.parametrize(
    "values, label_map, line",
    [
        ([0, 1, 255], {}, "ids 0..1 found in the masks, 255 ignored"),
        ([0, 255], {255: 1}, "ids 0..1 found in the masks"),
        (
            [0, 1, 7, 255],
            {7: "ignore"},
            "ids 0..1 found in the masks, 7 ignored, 255 ignored",
        ),
    ],
)
def test_inferred_ids_are_reported_with_ignored_values(tmp_path: Path, values, label_map, line):
    root = write_pairs(tmp_path / "set", 2)
    for path in (root / "masks").iterdir():
        Image.fromarray(np.resize(values, (48, 40)).astype(np.uint8)).save(path)
    summary = lines(survey_data_set(DataConfig(path=str(root), label_map=label_map)))
    assert f"classes: {line}" in summary


def test_shares_of_training_pixels_are_reported(tmp_path: Path):
    for split, value in (("train", 1), ("val", 0)):
        root = tmp_path / "set"
        write_pairs(root, 2, f"images/{split}", f"masks/{split}", first=10 * value)
        for path in (root / "masks" / split).iterdir():
            mask = np.full((48, 40), value, np.uint8)
            mask[:12] = 0
            Image.fromarray(mask).save(path)
    summary = lines(survey_data_set(DataConfig(path=str(root), classes=["out", "in"])))
    assert summary[-1] == "training pixels: out 25.00%, in 75.00%"


def test_without_a_path_the_demo_is_taken_and_made_once(cache: Path):
    found = locate(DataConfig())
    data, why = found.config, str(found.note)
    assert data.path == "demo" and "no data set in data/" in why and str(cache) in why
    assert (data.classes, data.palette) == (list(demo.CLASSES), list(demo.PALETTE))
    first = {path: path.stat().st_mtime_ns for path in demo_folder().rglob("*.png")}
    assert len(first) == 10
    assert {path: path.stat().st_mtime_ns for path in demo_folder().rglob("*.png")} == first
    assert [path.name for path in cache.iterdir()] == [demo_folder().name]


def test_a_data_set_in_data_comes_before_the_demo(cache: Path, tmp_path: Path):
    write_pairs(tmp_path / "data")
    assert Path(locate(DataConfig()).config.path).resolve() == (tmp_path / "data").resolve()
    assert not cache.exists()
    assert locate(DataConfig(path="demo")).config.path == "demo"


def test_the_demo_can_be_prepared(cache: Path):
    prepared = survey_data_set(DataConfig(path="demo"))
    assert prepared.data_set.classes == list(demo.CLASSES)
    assert [tuple(c) for c in prepared.data_set.palette] == list(demo.PALETTE)
    assert {s: len(p) for s, p in prepared.data_set.splits.items()} == {
        "train": 3,
        "val": 2,
    }


def test_a_demo_that_fails_to_be_written_leaves_nothing(cache: Path, monkeypatch):
    def full(folder: Path) -> None:
        folder.mkdir()
        (folder / "half.png").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("segtrain.data.layouts.locate.write_demo", full)
    with pytest.raises(SegtrainError, match="cannot write the demo data .*No space left"):
        demo_folder()
    assert list(cache.iterdir()) == []


def test_ids_named_by_label_map_become_classes(tmp_path: Path):
    root = write_pairs(tmp_path / "set")
    label_map = {0: "ignore", 1: 0, 2: 1}
    prepared = survey_data_set(DataConfig(path=str(root), label_map=label_map))
    assert prepared.data_set.classes == ["0", "1"]


def test_a_class_has_its_mask_values_colour(tmp_path: Path):
    root = write_pairs(tmp_path / "set")
    palette = [(1, 1, 1), (200, 0, 0), (0, 0, 200)]
    data = DataConfig(path=str(root), label_map={0: "ignore", 1: 0, 2: 1}, palette=palette)
    prepared = survey_data_set(data)
    assert [tuple(colour) for colour in prepared.data_set.palette] == palette[1:]
    assert [tuple(colour) for colour in prepared.data_set.masks.palette] == palette


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"classes": ["a", "b"]}, r"classes are 0..1.*has value 2 \(\d+ px\).*label_map: \{2: "),
        ({"classes": ["a", "b"], "label_map": {0: "ignore", 1: "ignore", 2: "ignore"}},
         "all are ignored"),
        ({"splits": {"test": {"images": "images", "masks": "masks"}}}, "no train split.* test"),
    ],
)  # fmt: skip
def test_data_that_cannot_train_is_refused(tmp_path: Path, fields: dict, words: str):
    root = write_pairs(tmp_path / "set")
    with pytest.raises(SegtrainError, match=words):
        survey_data_set(DataConfig.model_validate({"path": str(root), **fields}))


def test_a_value_unknown_in_val_alone_is_refused(tmp_path: Path):
    root = tmp_path / "set"
    for split, first in (("train", 0), ("val", 10)):
        write_pairs(root, 3, f"images/{split}", f"masks/{split}", first=first)
    mask = np.asarray(Image.open(root / "masks" / "val" / "011.png")).copy()
    mask[0, :4] = 9
    Image.fromarray(mask).save(root / "masks" / "val" / "011.png")
    with pytest.raises(SegtrainError, match=r"val/011.png has value 9 \(4 px\)"):
        survey_data_set(DataConfig(path=str(root)))


# every finding of the list, from real files


def split_set(root: Path, count: int = 4, **kwargs) -> Path:
    """Train pairs 000.. and val pairs 010.., all different."""
    for split, first in (("train", 0), ("val", 10)):
        write_pairs(root, count, f"images/{split}", f"masks/{split}", first=first, **kwargs)
    return root


def repaint(path: Path, change) -> None:
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def first_pixels(value: int, count: int = 3):
    def change(mask: np.ndarray) -> np.ndarray:
        mask[0, :count] = value
        return mask

    return change


def every_mask(root: Path, change) -> None:
    for path in sorted((root / "masks").rglob("*.png")):
        repaint(path, change)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def as_jpeg(path: Path, scale: int = 255) -> None:
    Image.fromarray((np.array(Image.open(path)) > 0).astype(np.uint8) * scale).save(
        path.with_suffix(".jpg")
    )
    path.unlink()


def all_as_jpeg(root: Path) -> None:
    for path in sorted((root / "masks").rglob("*.png")):
        as_jpeg(path)


def smooth(mask: np.ndarray) -> np.ndarray:
    hard = Image.fromarray(((mask > 0) * 255).astype(np.uint8))
    return np.asarray(hard.resize((160, 192), Image.NEAREST).rotate(9).resize((40, 48), Image.BOX))


COLOURS = np.array([(0, 0, 0), (250, 0, 0), (0, 250, 0)], np.uint8)
NAMED = {"classes": ["a", "b", "c"]}

# what is done to good splits, fields of the data section, kind, places; all are errors
ERRORS = {
    "image without mask": (lambda r: (r / "masks/train/002.png").unlink(), {}, "unpaired",
                           ["images/train/002.png"]),
    "mask without image": (lambda r: (r / "images/val/011.png").unlink(), {}, "unpaired",
                           ["masks/val/011.png"]),
    "sizes": (lambda r: repaint(r / "masks/val/011.png", lambda m: m[:-1]), {}, "size",
              ["images/val/011.png is 40x48 (width x height), masks/val/011.png is 40x47"]),
    "truncated mask": (lambda r: cut(r / "masks/train/001.png"), {}, "unreadable",
                       ["masks/train/001.png: ", "truncated"]),
    "truncated image": (lambda r: cut(r / "images/train/001.png"), {}, "unreadable",
                        ["images/train/001.png: ", "truncated"]),
    "no image": (lambda r: (r / "images/val/012.png").write_text("?"), {}, "unreadable",
                 ["images/val/012.png: not an image"]),
    "unknown value": (lambda r: repaint(r / "masks/val/010.png", first_pixels(7)), NAMED, "value",
                      ["masks/val/010.png has value 7 (3 px)"]),
    "0 and 255": (lambda r: every_mask(r, lambda m: (m > 0) * np.uint8(255)), {}, "classes", []),
    "holes": (lambda r: every_mask(r, lambda m: m * np.uint8(2)), {}, "classes", []),
    "JPEG masks": (all_as_jpeg, {}, "lossy", ["masks/train/000.jpg"]),
    "one JPEG mask": (lambda r: as_jpeg(r / "masks/train/001.png", 2), NAMED, "lossy",
                      ["masks/train/001.jpg"]),
    "anti-aliased, unnamed": (lambda r: every_mask(r, smooth), {}, "smooth", []),
    "anti-aliased, named": (lambda r: every_mask(r, smooth),
                            {"classes": ["a", "b"], "label_map": {255: 1}}, "smooth",
                            ["masks/train/000.png has value"]),
    "RGB, unnamed": (lambda r: every_mask(r, lambda m: COLOURS[m]), {}, "colour",
                     ["masks/train/000.png: "]),
    "the same in two splits": (
        lambda r: shutil.copy(r / "images/train/001.png", r / "images/val/012.png"), {}, "leak",
        ["images/train/001.png = images/val/012.png"]),
    "the same re-encoded": (
        lambda r: (Image.open(r / "images/train/001.png").save(r / "images/val/012.bmp"),
                   (r / "images/val/012.png").unlink()), {}, "leak",
        ["images/train/001.png = images/val/012.bmp"]),
    "stem twice": (lambda r: Image.open(r / "images/val/012.png").save(r / "images/val/012.bmp"),
                   {}, "stem", ["images/val/012.bmp", "images/val/012.png"]),
}  # fmt: skip


def errors(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.error]


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_found_named_and_fixed(tmp_path: Path, case: str):
    """Each fault is one error with its file and value; its fix makes the data set valid."""
    spoil, fields, kind, words = ERRORS[case]
    root = split_set(tmp_path / "set")
    spoil(root)
    data = DataConfig.model_validate({"path": str(root), **fields})
    found = inspect_data_set(data, full=True)
    kinds = {finding.kind for finding in errors(found.findings)}
    assert kind in kinds and kinds <= {kind, "classes", "lossy"}, found.findings
    text = "\n".join(place for f in found.findings if f.kind == kind for place in f.places)
    assert [word for word in words if word not in text] == []
    assert not text or str(tmp_path) not in text
    fixed = apply_fixes(found.config, found.findings)
    for choices in list_choices(fixed, found.findings):
        fixed = DataConfig(**fixed.model_dump() | choices[0][1])
    after = inspect_data_set(fixed, full=True)
    assert errors(after.findings) == []
    survey_data_set(fixed)


def test_a_class_id_equal_to_lb_ignore(tmp_path: Path):
    """Ids 0, 1, 2 where 1 is ignored: two classes remain, and their ids have a hole."""
    root = split_set(tmp_path / "set")
    (finding,) = errors(
        inspect_data_set(DataConfig(path=str(root), lb_ignore=1), full=True).findings
    )
    assert finding.kind == "classes" and "lb_ignore" in finding.text
    fixed = apply_fixes(DataConfig(path=str(root), lb_ignore=1), [finding])
    assert not finding.fix or errors(inspect_data_set(fixed, full=True).findings) == []


QUICKLY_UNSEEN = {"truncated image", "the same re-encoded"}  # they need the images' pixels


@pytest.mark.parametrize("case", ERRORS)
def test_the_cheap_part_before_training_finds_errors_too(tmp_path: Path, case: str):
    spoil, fields, _, words = ERRORS[case]
    root = split_set(tmp_path / "set")
    spoil(root)
    data = DataConfig.model_validate({"path": str(root), **fields})
    if case in QUICKLY_UNSEEN:
        survey_data_set(data)
    else:
        with pytest.raises(SegtrainError) as raised:
            survey_data_set(data)
        assert "\n" not in str(raised.value)


# what is done, kind, places; notes do not stop training
NOTES = {
    "the same twice": (
        lambda r: shutil.copy(r / "images/train/000.png", r / "images/train/001.png"),
        "duplicate", ["images/train/000.png = images/train/001.png"]),
    "nearly the same": (
        lambda r: repaint(r / "images/val/010.png",
                          lambda _: np.array(Image.open(r / "images/train/000.png")) ^ 1),
        "near", ["images/train/000.png ~ images/val/010.png"]),
    "void": (lambda r: repaint(r / "masks/train/001.png", lambda m: m * 0 + 255), "empty",
             ["masks/train/001.png"]),
    "flat": (lambda r: repaint(r / "masks/val/011.png", lambda m: m * 0), "empty",
             ["masks/val/011.png"]),
    "absent": (lambda r: [repaint(p, lambda m: m % 2) for p in (r / "masks/val").iterdir()],
               "absent", ["2"]),
    "dark": (lambda r: [Image.fromarray(scene(int(p.stem))[0][..., 0].astype(np.uint16) * 10)
                        .save(p) for p in (r / "images").rglob("*.png")], "range", []),
}  # fmt: skip


@pytest.mark.parametrize("case", NOTES)
def test_notes_are_found_and_stop_nothing(tmp_path: Path, case: str):
    spoil, kind, places = NOTES[case]
    root = split_set(tmp_path / "set")
    spoil(root)
    found = inspect_data_set(DataConfig(path=str(root)), full=True)
    notes = [finding for finding in found.findings if finding.kind == kind]
    assert errors(found.findings) == [] and len(notes) == 1, found.findings
    assert [place for place in places if place not in notes[0].places] == []
    survey_data_set(DataConfig(path=str(root)))


def test_a_good_data_set_has_no_finding(tmp_path: Path):
    found = inspect_data_set(DataConfig(path=str(split_set(tmp_path / "set", 6))), full=True)
    assert found.findings == []


def test_many_faults_are_all_reported_at_once(tmp_path: Path):
    root = split_set(tmp_path / "set")
    for case in ("image without mask", "sizes", "truncated mask", "unknown value"):
        ERRORS[case][0](root)
    found = inspect_data_set(DataConfig(path=str(root), classes=["a", "b", "c"]), full=True)
    kinds = {finding.kind for finding in errors(found.findings)}
    assert kinds == {"unpaired", "size", "unreadable", "value"}
    with pytest.raises(SegtrainError) as raised:
        survey_data_set(DataConfig(path=str(root), classes=["a", "b", "c"]))
    for word in ("images/train/002.png", "40x47", "masks/train/001.png", "value 7 (3 px)"):
        assert word in str(raised.value)


def test_an_unknown_value_in_val_is_found_along_with_unclear_classes(tmp_path: Path):
    root = split_set(tmp_path / "set")
    every_mask(root, lambda m: (m > 0) * np.uint8(255))
    repaint(root / "masks/val/011.png", first_pixels(7))
    found = inspect_data_set(DataConfig(path=str(root)), full=True)
    assert "masks/val/011.png has value 7 (3 px)" in str([f.places for f in found.findings])


def test_the_test_split_is_part_of_the_full_survey_alone(tmp_path: Path):
    root = split_set(tmp_path / "set")
    write_pairs(root, 2, "images/test", "masks/test", first=20)
    repaint(root / "masks/test/020.png", first_pixels(9))
    found = inspect_data_set(DataConfig(path=str(root)), full=True)
    assert "masks/test/020.png has value 9 (3 px)" in errors(found.findings)[0].places
    named = DataConfig(path=str(root), classes=["a", "b", "c"])
    assert set(survey_data_set(named).facts) == {"train", "val"}
    assert set(survey_data_set(named).data_set.splits) == {
        "train",
        "val",
        "test",
    }


def test_the_fix_of_duplicates_holds_where_val_is_drawn(tmp_path: Path):
    """Excluding files must not draw another val, with other duplicates across splits."""
    root = write_pairs(tmp_path / "set", 20)
    for index in range(20):
        for folder in ("images", "masks"):
            source = root / folder / f"{index:03d}.png"
            shutil.copy(source, source.with_stem(f"{index:03d}b"))
    found = inspect_data_set(DataConfig(path=str(root)), full=True)
    fixed = apply_fixes(found.config, found.findings)
    assert errors(inspect_data_set(fixed, full=True).findings) == []


@pytest.mark.parametrize("name", ["my.txt", "train.txt"])
def test_the_fix_holds_for_a_list(tmp_path: Path, name: str):
    root = write_pairs(tmp_path / "set", 8)
    lines = [f"images/{i:03d}.png masks/{i:03d}.png\n" for i in range(8)]
    (root / name).write_text("".join(lines))
    cut(root / "masks/003.png")
    found = inspect_data_set(DataConfig(path=str(root / name)), full=True)
    assert merge_fixes(found.findings) == {"exclude": ["images/003.png"]}
    assert errors(inspect_data_set(apply_fixes(found.config, found.findings)).findings) == []


def test_val_that_is_a_copy_of_train_is_not_fixed_away(tmp_path: Path):
    root = split_set(tmp_path / "set")
    for folder in ("images", "masks"):
        shutil.rmtree(root / folder / "val")
        shutil.copytree(root / folder / "train", root / folder / "val")
    found = inspect_data_set(DataConfig(path=str(root)), full=True)
    (leak,) = errors(found.findings)
    assert leak.kind == "leak" and not leak.fix and "4 times" in leak.text and leak.remedy


def test_images_of_other_channels_are_not_all_excluded(tmp_path: Path):
    root = split_set(tmp_path / "set")
    found = inspect_data_set(DataConfig(path=str(root)), channels=4, full=True)
    assert merge_fixes(found.findings) == {}
    assert "model.in_channels" in str(errors(found.findings)[0])


def test_where_nothing_can_be_read_no_class_is_guessed(tmp_path: Path):
    root = split_set(tmp_path / "set")
    for path in (root / "images").rglob("*.png"):
        path.write_bytes(b"?")
    found = inspect_data_set(DataConfig(path=str(root)), full=True)
    assert {finding.kind for finding in errors(found.findings)} == {"unreadable"}


@pytest.mark.parametrize("count, stops", [(1, False), (2, True)])
def test_damaged_files_are_skipped_up_to_one_in_a_hundred(tmp_path: Path, count: int, stops: bool):
    root = tmp_path / "set"
    write_pairs(root, 100, "images/train", "masks/train", height=8, width=8)
    write_pairs(root, 2, "images/val", "masks/val", first=200, height=8, width=8)
    for index in range(count):
        cut(root / f"masks/train/{index:03d}.png")
    with pytest.raises(SegtrainError, match="masks/train/000.png"):
        survey_data_set(DataConfig(path=str(root)))
    skipping = DataConfig(path=str(root), on_error="skip")
    if stops:
        with pytest.raises(SegtrainError, match="masks/train/001.png"):
            survey_data_set(skipping)
    else:
        found = survey_data_set(skipping)
        assert [finding.kind for finding in found.findings] == ["skipped"]
        assert len(found.data_set.splits["train"]) == 99 == len(found.sizes["train"])
        assert any("skipped" in line and "masks/train/000.png" in line for line in lines(found))


def test_dropped_alpha_is_reported(tmp_path: Path):
    root = split_set(tmp_path / "set")
    repaint(root / "images/train/001.png", lambda i: np.dstack([i, i[..., :1]]))
    summary = "\n".join(lines(inspect_data_set(DataConfig(path=str(root)))))
    assert "images: 1 have an alpha channel, which is dropped" in summary or "1 has" in summary


def test_median_size_and_pixels_where_present(tmp_path: Path):
    root = tmp_path / "set"
    for name, shape, value in (("a", (8, 10), 1), ("b", (16, 12), 0), ("c", (24, 30), 0)):
        for split in ("train", "val"):
            for folder in ("images", "masks"):
                (root / folder / split).mkdir(parents=True, exist_ok=True)
            image = np.random.default_rng(len(split) + ord(name)).integers(0, 256, (*shape, 3))
            Image.fromarray(image.astype(np.uint8)).save(root / f"images/{split}/{name}.png")
            mask = np.zeros(shape, np.uint8)
            mask[:2, :3] = value
            mask[-1] = 255
            Image.fromarray(mask).save(root / f"masks/{split}/{name}.png")
    found = survey_data_set(DataConfig(path=str(root)))
    assert found.median_size == (16, 12)
    valid = {"a": 70, "b": 15 * 12, "c": 23 * 30}
    assert found.class_pixels == ([sum(valid.values()) - 6, 6], [sum(valid.values()), valid["a"]])
    assert found.by_image["train"].tolist() == [[64, 6], [180, 0], [690, 0]]
    assert found.sizes["val"] == [(8, 10), (16, 12), (24, 30)]


def test_hard_masks_are_read_as_ever_where_lossy_ones_are_allowed(tmp_path: Path):
    root = split_set(tmp_path / "set")
    found = survey_data_set(DataConfig(path=str(root), allow_lossy_masks=True))
    assert found.data_set.classes == ["0", "1", "2"] and "nearest" not in "".join(lines(found))
    stray = np.asarray(Image.open(next((root / "masks/train").iterdir()))).copy()
    stray[:4] = 7
    Image.fromarray(stray).save(next((root / "masks/train").iterdir()))
    with pytest.raises(SegtrainError, match="value 7"):
        survey_data_set(DataConfig(path=str(root), allow_lossy_masks=True, classes=["a", "b", "c"]))


def test_a_second_survey_reads_nothing(tmp_path: Path, monkeypatch):
    root = split_set(tmp_path / "set")
    first = inspect_data_set(DataConfig(path=str(root)), full=True)

    def never(*args):
        raise AssertionError("read again")

    for name in ("image_facts", "mask_facts", "header_facts"):
        monkeypatch.setattr(f"segtrain.data.inspection.scan.{name}", never)
    assert inspect_data_set(DataConfig(path=str(root)), full=True).facts == first.facts
    assert survey_data_set(DataConfig(path=str(root))).data_set.classes == ["0", "1", "2"]


def test_files_of_odd_names(tmp_path: Path):
    """Commas, brackets, quotes, markup, spaces, and bytes that are not UTF-8."""
    root = split_set(tmp_path / "set")
    names = [b"a, b.png", b"[1].png", b"{x}.png", b"'q'.png", b"[red].png", b"\xfc.png", b"* .png"]
    for index, name in enumerate(names):
        image = scene(30 + index)[0]
        target = os.path.join(os.fsencode(root / "images/train"), name)
        Image.fromarray(image).save(root / "images/train/new.png")
        os.rename(root / "images/train/new.png", target)
    found = inspect_data_set(DataConfig(path=str(root)), full=True)
    (unpaired,) = errors(found.findings)
    assert len(unpaired.places) == len(names)
    after = inspect_data_set(apply_fixes(found.config, found.findings), full=True)
    assert errors(after.findings) == [] and len(after.source.splits["train"]) == 4


def test_the_folder_of_a_located_section(cache: Path, tmp_path: Path):
    assert locate(DataConfig(path="demo")).root == demo_folder()
    (tmp_path / "set").mkdir()
    assert locate(DataConfig(path=str(tmp_path / "set"))).root == (tmp_path / "set").resolve()
