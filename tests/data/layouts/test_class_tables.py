"""The user's own table of classes, in the forms that annotation tools write it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.data_set import find_data_source
from segtrain.data.layouts.class_files import Row, read_rows
from segtrain.data.layouts.detect import FoundPairs, find_pairs
from segtrain.data.layouts.label_maps import merge_labels
from segtrain.errors import SegtrainError

NAMES = ["background", "road", "traffic light", "tree"]
COLOURS = [(0, 0, 0), (48, 112, 32), (176, 112, 32), (90, 10, 10)]
TRUTH = np.array([[0, 1, 2, 3], [3, 3, 0, 1]], np.uint8)


def save(path: Path, pixels: np.ndarray, palette: list | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette([level for colour in palette for level in colour])
    image.save(path)


def pairs_in(
    root: Path, mask: np.ndarray, palette: list | None = None, masks: str = "masks"
) -> Path:
    for name in "abc":
        save(root / f"images/{name}.png", np.full((2, 4, 3), ord(name), np.uint8))
        save(root / masks / f"{name}.png", mask, palette)
    return root


def voc_in(root: Path, mask: np.ndarray, palette: list | None = None, **lists: str) -> Path:
    for name in "abcd":
        save(root / f"JPEGImages/{name}.jpg", np.full((2, 4, 3), ord(name), np.uint8))
        save(root / f"SegmentationClass/{name}.png", mask, palette)
    for file, names in lists.items():
        path = root / f"ImageSets/Segmentation/{file}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names))
    return root


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def read_ids(found: FoundPairs, config: DataConfig | None = None) -> list[list[int]]:
    """Return the class ids of the first training mask, as training reads them."""
    source = find_data_source(
        config or DataConfig(path=str(found.splits["train"][0].image.parents[1]))
    )
    return source.with_classes(source.merged.classes).masks(source.splits["train"][0].mask).tolist()


LABELMAP = "# label:color_rgb:parts:actions\n" + "".join(
    f"{name}:{','.join(map(str, rgb))}::\n" for name, rgb in zip(NAMES, COLOURS, strict=True)
)
ROWS = list(zip(NAMES, COLOURS, strict=True))
COLOURED = {
    "labelmap.txt": LABELMAP,
    "class_dict.csv": "name,r,g,b\n" + "".join(f"{n},{r},{g},{b}\n" for n, (r, g, b) in ROWS),
    "class_dict_seg.csv": "Name, R, G, B\n"
    + "".join(f"{n}, {r}, {g}, {b}\n" for n, (r, g, b) in ROWS),
    "label_class_dict.csv": "r;g;b;name\n" + "".join(f"{r};{g};{b};{n}\n" for n, (r, g, b) in ROWS),
    "label_colors.txt": "".join(f"{r} {g} {b} {n}\n" for n, (r, g, b) in ROWS),
    "label_colours.txt": "".join(f"{r} {g} {b}\t\t{n}\r\n" for n, (r, g, b) in ROWS),
    "colors.txt": "".join(f"{n}: {r}, {g}, {b}\n" for n, (r, g, b) in ROWS),
    "colormap.txt": "".join(f"{n} {r} {g} {b}\n" for n, (r, g, b) in ROWS),
    "classes.json": {name: list(rgb) for name, rgb in ROWS},
    "label_classes.json": [
        {"png_index": i, "class_name": n, "color": "#{:02x}{:02x}{:02x}ff".format(*rgb)}
        for i, (n, rgb) in enumerate(ROWS)
    ],
    "dataset_meta.json": {
        "label_map": {str(i): n for i, n in enumerate(NAMES)},
        "background_label": "0",
        "segmentation_colors": [list(rgb) for rgb in COLOURS],
    },
    "config_v2.0.json": {
        "labels": [{"name": f"a--{n}", "readable": n, "color": c} for n, c in ROWS]
    },
    "meta.json": {
        "classes": [
            {"title": n, "color": "#{:02X}{:02X}{:02X}".format(*rgb), "id": 77 + i}
            for i, (n, rgb) in enumerate(ROWS[1:])
        ],
        "tags": [],
    },
}  # fmt: skip


@pytest.mark.parametrize("masks", ["colours", "indices", "indices with colours"])
@pytest.mark.parametrize("file", COLOURED)
def test_names_colours_and_order(tmp_path: Path, file: str, masks: str):
    colours = np.array(COLOURS, np.uint8)
    stored = colours[TRUTH] if masks == "colours" else TRUTH
    root = pairs_in(tmp_path / "set", stored, COLOURS if "with" in masks else None)
    write(root / file, COLOURED[file])
    found = find_pairs(DataConfig(), root)
    assert [name.removeprefix("a--") for name in found.classes] == NAMES
    assert f"classes of {file}" in found.layout and found.class_source.name == file
    assert found.findings == [] and read_ids(found) == TRUTH.tolist()


UNCOLOURED = {
    "class_names.txt": "\n".join(NAMES),
    "classes.txt": "\ufeff" + "\r\n".join(NAMES) + "\r\n",
    "codes.txt": "\n".join(NAMES),
    "labels.txt": "\n".join(["__ignore__", *NAMES]),
    "obj.names": "\n".join(NAMES),
    "label_names.txt": "".join(f"{i} {n}\n" for i, n in enumerate(NAMES)),
    "_classes.csv": "Pixel Value, Class\n" + "".join(f"{i}, {n}\n" for i, n in enumerate(NAMES)),
    "labels.csv": "id,name\n" + "".join(f"{i},{n}\n" for i, n in enumerate(NAMES)),
    "data.yaml": "train: images\nnc: 4\nnames: [background, road, traffic light, tree]\n",
    "dataset.yaml": "names:\n" + "".join(f"  {i}: {n}\n" for i, n in enumerate(NAMES)),
    "dataset.json": {"labels": {n: i for i, n in enumerate(NAMES)}, "numTraining": 3},
    "id2label.json": {str(i): n for i, n in enumerate(NAMES)},
    "obj_class_to_machine_color.json": {n: [i, i, i] for i, n in list(enumerate(NAMES))[1:]},
}


@pytest.mark.parametrize("folder", ["", "masks"])
@pytest.mark.parametrize("file", UNCOLOURED)
def test_names_by_value(tmp_path: Path, file: str, folder: str):
    root = pairs_in(tmp_path / "set", TRUTH)
    write(root / folder / file, UNCOLOURED[file])
    found = find_pairs(DataConfig(), root)
    assert found.classes == NAMES and found.findings == []
    assert read_ids(found) == TRUTH.tolist()


def test_values_are_those_of_the_table(tmp_path: Path):
    root = pairs_in(tmp_path / "set", np.array([0, 10, 40, 25], np.uint8)[TRUTH])
    write(root / "_classes.csv", "Pixel Value, Class\n0, bg\n10, a\n25, c\n40, b\n")
    found = find_pairs(DataConfig(), root)
    assert found.classes == ["bg", "a", "c", "b"]
    assert read_ids(found) == np.array([0, 1, 3, 2])[TRUTH].tolist()


@pytest.mark.parametrize("white", [255, 1])
@pytest.mark.parametrize("mode", ["grey", "rgb"])
def test_grey_colours_are_levels(tmp_path: Path, mode: str, white: int):
    """A table of black and white holds for masks of one channel, too, and for those of ids."""
    levels = np.array([0, white], np.uint8)[TRUTH % 2]
    root = pairs_in(tmp_path / "set", levels if mode == "grey" else np.dstack([levels] * 3))
    write(root / "label_class_dict.csv", "name,r,g,b\nbackground,0,0,0\nroad,255,255,255\n")
    assert read_ids(find_pairs(DataConfig(), root)) == (TRUTH % 2).tolist()


def test_supervisely_paints_machine_masks_from_1(tmp_path: Path):
    root = pairs_in(tmp_path / "set", np.dstack([TRUTH] * 3))
    write(root / "obj_class_to_machine_color.json", {"a": [1] * 3, "b": [2] * 3, "c": [3] * 3})
    write(root / "meta.json", {"classes": [{"title": "z", "color": "#010203"}], "tags": []})
    found = find_pairs(DataConfig(), root)
    assert found.classes == ["background", "a", "b", "c"]
    assert read_ids(found) == TRUTH.tolist()


def test_nnunet_regions_and_ignored_pixels(tmp_path: Path):
    labels = {"background": 0, "whole": [1, 2], "core": [2], "ignore": 3}
    for content in ({"labels": labels, "regions_class_order": [1, 2]}, {"labels": labels}):
        write(tmp_path / "dataset.json", content)
        assert read_rows(tmp_path / "dataset.json") == [
            Row("background", None, 0), Row("whole", None, 1), Row("core", None, 2),
            Row("ignore", None, 3),
        ]  # fmt: skip
    root = pairs_in(tmp_path / "set", TRUTH)
    write(root / "dataset.json", {"labels": labels})
    found = find_pairs(DataConfig(), root)
    assert (found.classes, found.label_map) == (["background", "whole", "core"], {3: "ignore"})


@pytest.mark.parametrize(
    "file, content",
    [
        ("labels.txt", "images/a.png masks/a.png\nimages/b.png masks/b.png\n"),
        ("classes.json", {"images": [], "annotations": [], "categories": [{"name": "a"}]}),
        ("data.yaml", "data: {path: somewhere}\n"),
        ("classes.txt", ""),
        ("labels.csv", "0,0,0\n1,2,3\n"),
        ("dataset.json", [1.5, {}]),
        ("meta.json", "{not json"),
        ("palette.txt", "0 0 0\n128 0 0\n"),
    ],
)
def test_other_files_are_no_tables(tmp_path: Path, file: str, content: Any):
    root = pairs_in(tmp_path / "set", TRUTH)
    write(root / file, content)
    found = find_pairs(DataConfig(), root)
    assert found.classes == [] and found.findings == []


def test_a_tool_s_table_that_cannot_be_read_is_a_note(tmp_path: Path):
    root = pairs_in(tmp_path / "set", TRUTH)
    write(root / "class_dict.csv", "name,r,g,b\nroad,1,2\n")
    (note,) = find_pairs(DataConfig(), root).findings
    assert not note.error and "class_dict.csv" in note.text


@given(st.text(max_size=60), st.sampled_from(["a.txt", "a.csv", "a.json", "a.yaml"]))
def test_any_text_is_a_table_or_an_error(tmp_path_factory, text: str, name: str):
    file = tmp_path_factory.getbasetemp() / name
    file.write_text(text, encoding="utf-8", errors="replace")
    try:
        rows = read_rows(file)
    except SegtrainError as error:
        assert str(file) in str(error)
    else:
        assert rows and all(row.name for row in rows)


# ---- several tables


def test_tables_that_agree_are_one_and_colours_count(tmp_path: Path):
    root = pairs_in(tmp_path / "set", np.array(COLOURS, np.uint8)[TRUTH])
    write(root / "classes.txt", "\n".join(["Background", "road", "traffic_light", "tree"]))
    write(root / "masks/labelmap.txt", LABELMAP)
    found = find_pairs(DataConfig(), root)
    assert found.findings == [] and found.palette == COLOURS


@pytest.mark.parametrize("chosen", [0, 1])
def test_tables_that_contradict_are_an_error_with_both(tmp_path: Path, chosen: int):
    root = pairs_in(tmp_path / "set", TRUTH)
    write(root / "classes.txt", "\n".join(NAMES))
    write(root / "dataset.json", {"labels": {n: (i + 1) % 4 for i, n in enumerate(NAMES)}})
    (finding,) = find_pairs(DataConfig(), root).findings
    assert finding.error and "classes.txt" in finding.text and "dataset.json" in finding.text
    config = DataConfig(path=str(root), **finding.choices[chosen].fix)
    assert find_pairs(config, root).findings == []
    names = np.array(config.classes)[read_ids(find_pairs(config, root), config)]
    assert names.tolist() == np.array(NAMES)[TRUTH if chosen == 0 else (TRUTH - 1) % 4].tolist()


# ---- against the published tables, and the config


def test_cvat_puts_the_background_anywhere(tmp_path: Path):
    lines = [f"{n}:{r},{g},{b}::" for n, (r, g, b) in ROWS]
    text = "\n".join(["# label:color_rgb:parts:actions", lines[1], lines[0], *lines[2:]])
    for mask in (np.array(COLOURS, np.uint8)[TRUTH], np.array([1, 0, 2, 3], np.uint8)[TRUTH]):
        root = voc_in(tmp_path / "set", mask, train="abc", val="d")
        write(root / "labelmap.txt", text)
        found = find_pairs(DataConfig(), root)
        assert found.format == "voc" and found.classes == NAMES
        assert read_ids(found) == TRUTH.tolist()


@pytest.mark.parametrize("format", ["auto", "voc"])
def test_an_own_table_comes_before_pascals(tmp_path: Path, format: str):
    root = voc_in(tmp_path, TRUTH, COLOURS, train="abc", val="d")
    write(root / "class_names.txt", "_background_\nroad\ncar\ntree")
    found = find_pairs(DataConfig(format=format), root)
    assert found.classes == ["_background_", "road", "car", "tree"]
    assert "class_names.txt" in found.layout and "255" not in found.layout


def test_a_table_that_repeats_the_published_one_confirms_it(tmp_path: Path):
    from segtrain.data.layouts.published import load_table

    names, colours, _ = load_table("voc")
    root = voc_in(tmp_path, TRUTH, train="abc", val="d")
    rows = [*zip(names, colours, strict=True), ("ignored", (224, 224, 192))]
    write(root / "labelmap.txt", "".join(f"{n}:{','.join(map(str, c))}::\n" for n, c in rows))
    found = find_pairs(DataConfig(), root)
    assert found.classes == names and not found.class_source.unconfirmed
    (root / "labelmap.txt").unlink()
    assert find_pairs(DataConfig(), root).class_source.unconfirmed
    assert not find_pairs(DataConfig(format="voc"), root).class_source.unconfirmed


def test_the_config_names_other_classes(tmp_path: Path):
    root = voc_in(tmp_path, TRUTH, train="abc", val="d")
    own = DataConfig(classes=["_background_", "road", "car", "tree"])
    merged, _ = merge_labels(own, find_pairs(own, root))
    assert (merged.classes, merged.label_map) == (own.classes, {255: "ignore"})
    many = DataConfig(classes=[f"class {i}" for i in range(30)])
    assert merge_labels(many, find_pairs(many, root))[0].palette is None
    subset = DataConfig(classes=["background", "car"])  # Pascal's names at other values
    with pytest.raises(SegtrainError, match="label_map"):
        merge_labels(subset, find_pairs(subset, root))


def test_the_config_renames_a_table_and_keeps_its_colours(tmp_path: Path):
    root = pairs_in(tmp_path / "set", np.array(COLOURS, np.uint8)[TRUTH])
    write(root / "labelmap.txt", LABELMAP)
    config = DataConfig(path=str(root), classes=["w", "x", "y", "z"])
    assert read_ids(find_pairs(config, root), config) == TRUTH.tolist()
    config = DataConfig(path=str(root), classes=NAMES[::-1])  # a checkpoint of another order
    assert read_ids(find_pairs(config, root), config) == (3 - TRUTH).tolist()


@pytest.mark.parametrize(
    "lists, train, val",
    [
        ({"default": "abc"}, 2, 1),
        ({"trainval": "abcd"}, 3, 1),
        ({"trainval": "abcd", "val": "d"}, 3, 1),
        ({"Train": "abc", "Validation": "d"}, 3, 1),
        ({"part1": "ab", "part2": "cd"}, 3, 1),
        ({}, 3, 1),
    ],
)
def test_folders_of_voc_with_other_lists(tmp_path: Path, lists: dict, train: int, val: int):
    found = find_pairs(DataConfig(), voc_in(tmp_path, TRUTH, **lists))
    assert (found.format, found.findings) == ("voc", [])
    assert {split: len(pairs) for split, pairs in found.splits.items()} == {
        "train": train, "val": val
    }  # fmt: skip
    if "Train" not in lists:
        assert found.classes == []  # not Pascal's: nothing speaks for its classes


def test_labelme_writes_arrays_and_images(tmp_path: Path):
    root = voc_in(tmp_path, TRUTH)
    (root / "SegmentationClass").rename(root / "SegmentationClassPNG")
    for name in "abcd":
        path = root / f"SegmentationClass/{name}.npy"
        path.parent.mkdir(exist_ok=True)
        np.save(path, TRUTH.astype(np.int32) - 1)
        save(root / f"SegmentationObject/{name}.png", TRUTH)
    found = find_pairs(DataConfig(), root)
    assert found.splits["train"][0].mask.parent.name == "SegmentationClassPNG"


def test_cityscapes_of_cvat(tmp_path: Path):
    for name in "abcd":
        save(
            tmp_path / f"imgsFine/leftImg8bit/default/{name}_leftImg8bit.png",
            np.dstack([TRUTH] * 3),
        )
        for kind in ("labelIds", "color", "instanceIds"):
            save(tmp_path / f"gtFine/default/{name}_gtFine_{kind}.png", TRUTH)
    write(tmp_path / "label_colors.txt", COLOURED["label_colors.txt"])
    found = find_pairs(DataConfig(), tmp_path)
    assert (found.format, found.classes, found.findings) == ("cityscapes", NAMES, [])
    assert [len(pairs) for pairs in found.splits.values()] == [3, 1]


@pytest.mark.parametrize("root, table", [("ds0", "meta.json"), ("train", "label_colors.txt")])
def test_a_table_one_folder_above(tmp_path: Path, root: str, table: str):
    """Supervisely's project holds data sets, and any data set its splits; else it's another's."""
    pairs_in(tmp_path / root, np.array(COLOURS, np.uint8)[TRUTH])
    write(tmp_path / table, COLOURED[table])
    assert find_pairs(DataConfig(), tmp_path / root).classes == NAMES
    pairs_in(tmp_path / "roads", TRUTH)
    write(tmp_path / "label_colors.txt", COLOURED["label_colors.txt"])
    (tmp_path / "meta.json").unlink(missing_ok=True)
    assert find_pairs(DataConfig(), tmp_path / "roads").classes == []


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1", "utf-8"])
def test_tables_of_spreadsheets(tmp_path: Path, encoding: str):
    (tmp_path / "class_dict.csv").write_bytes("name;r;g;b\r\nvéhicule;9;8;7\r\n".encode(encoding))
    assert read_rows(tmp_path / "class_dict.csv") == [Row("véhicule", (9, 8, 7))]
