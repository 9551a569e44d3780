"""Data for a network: its training's, and other files, which are read as they are meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import run_cli, scene
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segtrain.config import Config, DataConfig
from segtrain.config.loading import make_config
from segtrain.data.data_set import DataSet
from segtrain.data.masks import class_palette
from segtrain.errors import SegtrainError
from segtrain.evaluation.data_section import FILES, OWNERS, reset_files
from segtrain.evaluation.scored_data import open_scored_data
from segtrain.models.checkpoint import Meta, load_model, save_model


def test_each_field_of_the_data_section_has_an_owner():
    assert list(OWNERS) == list(DataConfig.model_fields)


def write_masks(root: Path, masks: list[np.ndarray], table: list[str] = [], split="val") -> Path:
    """Write train and `split`, each with all the masks: grey levels, or colours (H,W,3)."""
    for name in {"train", split}:
        for index, mask in enumerate(masks):
            for kind in ("images", "masks"):
                (root / kind / name).mkdir(parents=True, exist_ok=True)
            size = mask.shape[:2]
            image = np.random.default_rng(index).integers(0, 255, (*size, 3), np.uint8)
            Image.fromarray(image).save(root / f"images/{name}/{name}{index}.png")
            Image.fromarray(mask.astype(np.uint8)).save(root / f"masks/{name}/{name}{index}.png")
    if table:
        (root / "classes.txt").write_text("\n".join(table) + "\n")
    return root


def stripes(*values: int) -> np.ndarray:
    """Return a mask of a stripe of 4 rows for each value."""
    return np.repeat(np.array(values, np.uint8), 4)[:, None].repeat(9, axis=1)


def meta_of(classes: list[str], **section) -> Meta:
    config = make_config({"data": {"path": "/trained/elsewhere", "classes": classes, **section}})
    palette = class_palette(len(classes), None, {})
    return Meta(config, classes, palette, [0.0] * 3, [1.0] * 3, epoch=1, miou=None)


def open_data(meta: Meta, root: Path, sets: list[str] = [], split: str = "val") -> DataSet:
    flags = {"data.path": str(root)}
    trained = meta.config_here(sets, flags).data
    return open_scored_data(meta, trained, reset_files(meta, sets, flags), split)


def read_labels(data: DataSet, split: str = "val") -> dict[int, int]:
    """Return the class id, or 255 for ignored, of each value of the masks of `write_masks`."""
    labels: dict[int, int] = {}
    for sample in data.split(split):
        values, ids = np.asarray(Image.open(sample.mask)), data.masks(sample.mask)
        ids = np.where(ids == data.lb_ignore, 255, ids)
        labels |= dict(zip(values.ravel().tolist(), ids.ravel().tolist(), strict=True))
    return labels


IDS = ["0", "1", "2"]
NAMES = ["sky", "road", "car"]
BINARY = {"classes": ["0", "1"], "label_map": {255: 1}}
FROM_ONE = {"classes": NAMES, "label_map": {0: "ignore", 1: 0, 2: 1, 3: 2}}


@pytest.mark.parametrize(
    "trained, values, table, sets, expected",
    [
        # as `segtrain check` reads the other masks: 255 is ignored, the training's map is not used
        (BINARY, (0, 1, 255), [], [], {0: 0, 1: 1, 255: 255}),
        (BINARY, (0, 1), [], [], {0: 0, 1: 1}),
        (BINARY, (0, 1, 255), [], ["data.label_map={255: 0}"], {0: 0, 1: 1, 255: 0}),
        # by themselves they are unclear, and the training's map has each value
        (BINARY, (0, 255), [], [], {0: 0, 255: 1}),
        (FROM_ONE, (1, 2, 3), [], [], {1: 0, 2: 1, 3: 2}),
        (FROM_ONE, (0, 1, 2, 3), [], [], {0: 255, 1: 0, 2: 1, 3: 2}),
        ({"classes": IDS}, (0, 2), [], [], {0: 0, 2: 2}),
        ({"classes": IDS, "lb_ignore": 11}, (0, 1, 2, 11), [], [], {0: 0, 1: 1, 2: 2, 11: 255}),
        ({"classes": IDS, "lb_ignore": 11}, (0, 1, 255), [], [], {0: 0, 1: 1, 255: 255}),
        # fewer classes, with and without names
        ({"classes": IDS}, (0, 1), [], [], {0: 0, 1: 1}),
        ({"classes": NAMES}, (0, 1), [], [], {0: 0, 1: 1}),
        ({"classes": NAMES}, (0, 1), ["car", "sky"], [], {0: 2, 1: 0}),
        # by name, in any order and spelling
        ({"classes": NAMES}, (0, 1, 2), ["Car", "SKY", "road"], [], {0: 2, 1: 0, 2: 1}),
        ({"classes": NAMES}, (0, 1, 2), [], ["data.classes=[car, sky, road]"], {0: 2, 1: 0, 2: 1}),
        ({"classes": IDS}, (0, 1, 2), NAMES, [], {0: 0, 1: 1, 2: 2}),
        ({"classes": NAMES}, (0, 1, 2), ["class_0", "class_1", "class_2"], [], {0: 0, 1: 1, 2: 2}),
        # classes that the network lacks, ignored by the command
        ({"classes": IDS}, (0, 1, 2, 3), [], ["data.label_map={3: ignore}"],
         {0: 0, 1: 1, 2: 2, 3: 255}),
        ({"classes": NAMES}, (0, 1, 2), ["cat", "car", "sky"], ["data.label_map={0: ignore}"],
         {0: 255, 1: 2, 2: 0}),
        (FROM_ONE, (0, 1), [], ["data.label_map={}"], {0: 0, 1: 1}),
        (FROM_ONE, (1, 2, 3), ["a", "b", "c", "d"], [
            "data.classes=[sky, road, car]", "data.label_map={0: ignore, 1: 0, 2: 1, 3: 2}"
        ], {1: 0, 2: 1, 3: 2}),
        (FROM_ONE, (0, 1), [], ["data.label_map={0: ignore, 1: 0}"], {0: 255, 1: 0}),
    ],
)  # fmt: skip
def test_values_of_other_masks(tmp_path: Path, trained, values, table, sets, expected):
    root = write_masks(tmp_path / "other", [stripes(*values)] * 2, table)
    data = open_data(meta_of(**trained), root, sets)
    assert read_labels(data) == expected
    assert data.classes == trained["classes"]


@pytest.mark.parametrize(
    "trained, values, table, words",
    [
        # a network of ids 0 and 1 ignores 255; the masks need it
        ({"classes": ["0", "1"]}, (0, 255), [], ["{255: 1}'", "{255: ignore}'"]),
        (FROM_ONE, (0, 1), [], ["{0: 0, 1: 1}'", "{0: ignore, 1: 0}'", "0 is sky", "0 is ignored"]),
        (BINARY, (0, 128, 255), [], ["{128: 1, 255: 2}'", "{128: 1, 255: ignore}'"]),
        ({"classes": IDS}, (0, 1, 2, 3, 4), [], ["lack 3, 4", "{3: ignore, 4: ignore}'"]),
        ({"classes": NAMES}, (0, 1, 2), ["cat", "dog", "car"], ["cat, dog, car", "sky, road, car"]),
        (
            FROM_ONE,
            (0, 1, 2),
            ["cat", "dog", "car"],
            [
                "cat, dog, car",
                "'data.classes=[sky, road, car]'",
                "label_map={0: ignore, 1: 0, 2: 1,",
            ],
        ),
        ({"classes": IDS}, (0, 1), ["cell", "wall"], ["cell, wall", "0, 1, 2"]),
        ({"classes": NAMES}, (0, 1, 2), ["car", "CAR", "sky"], ["car, CAR, sky"]),
    ],
)
def test_masks_that_cannot_be_matched(tmp_path: Path, trained, values, table, words):
    root = write_masks(tmp_path / "other", [stripes(*values)] * 2, table)
    with pytest.raises(SegtrainError) as raised:
        open_data(meta_of(**trained), root)
    assert all(word in str(raised.value) for word in [str(root), *words]), raised.value
    assert "\n" not in str(raised.value)


P = [(0, 0, 0), (200, 0, 0), (0, 200, 0)]


def test_values_that_a_table_of_classes_leaves_out(tmp_path: Path):
    """As CamVid elsewhere: its table names 0..2, and the training ignores 3, void."""
    root = write_masks(tmp_path, [stripes(0, 1, 2, 3)], table=NAMES)
    data = open_data(meta_of(NAMES, label_map={3: "ignore"}), root)
    assert read_labels(data) == {0: 0, 1: 1, 2: 2, 3: 255}
    for label_map in ({2: "ignore"}, {1: 0, 3: "ignore"}):  # another meaning: the table's counts
        with pytest.raises(SegtrainError, match="has value 3"):
            read_labels(open_data(meta_of(NAMES, label_map=label_map), root))


def test_coloured_masks(tmp_path: Path):
    """The training's palette is for masks of its colours; others are asked for."""
    ids = stripes(0, 1, 2)
    meta = meta_of(NAMES, palette=P)
    same = write_masks(tmp_path / "same", [np.array(P)[ids]] * 2)
    data = open_data(meta, same)
    assert (data.masks(data.split("val")[0].mask) == ids).all()
    assert any("data.palette" in note.text for note in data.notes)
    others = [(0, 0, 0), (200, 0, 0), (9, 9, 200)]
    other = write_masks(tmp_path / "other", [np.array(others)[ids]] * 2)
    with pytest.raises(SegtrainError, match=r"\(9, 9, 200\).*in the order of sky, road, car"):
        open_data(meta, other)
    data = open_data(meta, other, [f"data.palette={[list(colour) for colour in others]}"])
    assert (data.masks(data.split("val")[0].mask) == ids).all()
    with pytest.raises(SegtrainError, match="data.palette"):
        open_data(meta_of(NAMES), same)


def test_what_does_not_hold_for_other_files_is_named(tmp_path: Path):
    root = write_masks(tmp_path / "other", [stripes(0, 1, 255)] * 2)
    data = open_data(meta_of(**BINARY, exclude=["images/train/9.png"]), root)
    assert any("data.label_map={255: 1}" in n.text and "data.exclude" in n.text for n in data.notes)


def test_names_of_many_classes_keep_their_ids(tmp_path: Path):
    """Ids above 255 of the network, of masks with few classes."""
    names = [f"name {i}" for i in range(300)]
    root = write_masks(tmp_path / "other", [stripes(0, 1)] * 2, ["name 280", "name 3"])
    data = open_data(meta_of(names, lb_ignore=-1), root)
    assert data.masks(data.split("val")[0].mask)[::4, 0].tolist() == [280, 3]
    assert data.masks.dtype == np.int16


@settings(max_examples=25, deadline=None, derandomize=True, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(order=st.permutations(range(5)), kept=st.integers(2, 5))
def test_classes_are_matched_by_name_in_any_order(order, kept: int, tmp_path_factory):
    names = ["sky", "road", "car", "tree", "pole"]
    table = [names[i] for i in order[:kept]]
    root = write_masks(tmp_path_factory.mktemp("other"), [stripes(*range(kept))] * 2, table)
    expected = dict(enumerate(order[:kept]))
    assert read_labels(open_data(meta_of(names, label_map={3: 0}), root)) == expected


@pytest.mark.parametrize(
    "sets, expected", [([], None), (["data.value_range=[0, 4095]"], (0, 4095))]
)
def test_the_value_range_is_not_for_8_bit_images(tmp_path: Path, sets, expected):
    root = write_masks(tmp_path / "other", [stripes(0, 1, 2)] * 2)
    data = open_data(meta_of(IDS, value_range=(0, 4095)), root, sets)
    assert data.images.value_range == data.config.value_range == expected
    assert any("read whole" in note.text for note in data.notes) == (not sets)


# splits


def test_a_split_that_the_runs_splits_leave_out(tmp_path: Path):
    """The set's own layout has a test part; the run names train and val only."""
    root = tmp_path / "set"
    for split in ("train", "val", "test"):
        write_masks(root, [scene(i)[1] for i in range(2)], split=split)
    sides = {s: {"images": f"images/{s}", "masks": f"masks/{s}"} for s in ("train", "val", "test")}
    section = {"path": str(root), "label_map": {2: "ignore"}}
    section |= {"splits": {"train": sides["train"], "val": sides["val"]}}
    meta = meta_of(["a", "b", "c"], **section)
    data = open_data(meta, root, split="test")
    assert [sample.image.name for sample in data.split("test")] == ["test0.png", "test1.png"]
    assert set(read_labels(data, "test").items()) <= {(0, 0), (1, 1), (2, 255)}  # as in training
    with pytest.raises(SegtrainError, match="train, val, test; use one"):
        open_data(meta, root, split="nope").split("nope")
    section["splits"] = {"train": sides["test"], "val": sides["val"]}
    data = open_data(meta_of(["a", "b", "c"], **section), root, split="test")
    assert any("2 of 2 images of test are in train or val" in note.text for note in data.notes)


def test_images_of_the_training_in_another_split_are_named(tmp_path: Path):
    """Those that the command's own division of the training's files puts there."""
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        for index in range(10):
            Image.fromarray(stripes(0, 1, 2)).save(tmp_path / f"{kind}/{index}.png")
    meta = meta_of(IDS, path=str(tmp_path))
    for option, split, named in (
        ("data.split_seed=1", "val", True),
        ("data.val_fraction=0.5", "val", True),
        ("data.on_error=skip", "val", False),
        ("data.split_seed=1", "train", False),
    ):
        notes = open_data(meta, tmp_path, [option], split).notes
        warned = any(n.level == "warning" and "was trained on" in n.text for n in notes)
        assert warned == named, option


def test_a_split_named_as_the_others_are(tmp_path: Path):
    """A list beside those of train and val, which no layout would take."""
    root = write_masks(tmp_path / "set", [stripes(0, 1, 2)] * 3)
    for split, number in (("train", 0), ("val", 1), ("test", 2)):
        name = f"train/train{number}.png"
        (root / f"{split}.txt").write_text(f"images/{name} masks/{name}\n")
    splits = {split: {"list": f"{split}.txt"} for split in ("train", "val")}
    data = open_data(meta_of(IDS, path=str(root), splits=splits), root, split="test")
    assert [sample.image.name for sample in data.split("test")] == ["train2.png"]


def test_the_training_set_elsewhere_keeps_its_splits(tmp_path: Path):
    """Else a share that the network has seen would be held out."""
    root = write_masks(tmp_path / "moved", [scene(i)[1] for i in range(3)])
    splits = {"train": {"images": "images/val", "masks": "masks/val"}}
    splits["val"] = {"images": "images/train", "masks": "masks/train"}
    data = open_data(meta_of(IDS, splits=splits), root)
    assert {sample.image.parent.name for sample in data.split("val")} == {"train"}
    others = {s: {"images": f"a/{s}", "masks": f"b/{s}"} for s in ("train", "val")}
    data = open_data(meta_of(IDS, splits=others, exclude=["a/train/1.png"]), root)
    assert {sample.image.parent.name for sample in data.split("val")} == {"val"}


@pytest.mark.parametrize("pattern, kept", [("^(t|v)", True), ("night", False)])
def test_groups_hold_where_names_have_them(tmp_path: Path, pattern: str, kept: bool):
    root = write_masks(tmp_path / "other", [stripes(0, 1, 2)] * 3)
    data = open_data(meta_of(IDS, group_by=pattern), root)
    assert data.config.group_by == (pattern if kept else None)


def test_the_command_line(trained: Path, tmp_path: Path):
    """From outside: a run on 0/255 masks, then masks of 0, 1 and 255."""
    run = shutil.copytree(trained, tmp_path / "run", ignore=shutil.ignore_patterns("*.pt", "eval"))
    model, meta = load_model(run / "checkpoints/best.safetensors")
    data = meta.config.data.model_copy(update={"label_map": {255: 1}})
    config = Config.model_validate(meta.config.model_dump() | {"data": data.model_dump()})
    meta = Meta.of(model, config, classes=meta.classes, palette=meta.palette, epoch=1, miou=None)
    save_model(run / "checkpoints/best.safetensors", model, meta)
    root = write_masks(tmp_path / "void", [stripes(0, 1, 1, 255, 255, 255, 255, 255)] * 2)
    done = run_cli("eval", run, "--data", root, "--device", "cpu", "--workers", "0", "--json")
    assert done.code == 0, done.stderr
    shares = [row["share"] for row in json.loads(done.stdout)["classes"]]
    assert shares == pytest.approx([1 / 3, 2 / 3, 0])
    assert "data.label_map={255: 1}" in done.stderr
    refused = run_cli("eval", run, "--set", "data.classes=[b, a, c]", "--device", "cpu")
    assert refused.code == 2 and "data.classes" in refused.error


def test_fields_of_the_training_files_are_reset():
    """All of them, and no other, unless the command sets them."""
    section = {"label_map": {255: 1}, "exclude": ["a.png"], "workers": 3, "max_pixels": 9}
    own = reset_files(meta_of(IDS, **section), ["data.exclude=[b.png]"], {})
    fresh = DataConfig().model_dump()
    changed = {key for key, value in own.model_dump().items() if value != fresh[key]}
    assert changed == {"path", "exclude", "workers", "max_pixels"}
    assert OWNERS["workers"] != FILES == OWNERS["exclude"]
