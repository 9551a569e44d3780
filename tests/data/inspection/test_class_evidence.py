"""Tables of classes against the masks: a contradiction is an error that offers the readings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.inspection.survey import Inspection, Survey, inspect_data_set, survey_data_set
from segtrain.data.layouts.published import load_table
from segtrain.errors import SegtrainError

LONG = {"train": "training", "val": "validation"}
FRAMES = [f"0001TP_{n:06}" for n in range(6690, 6870, 30)]


def save(path: Path, pixels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def tile(values: list[int]) -> np.ndarray:
    """Return a mask with two rows of each value: edges are sharp."""
    return np.repeat(np.array(values, np.uint8), 16).reshape(2 * len(values), 8)


def published(root: Path, format: str, values: list[int]) -> Path:
    """Write the folders of a published data set, four images for training and two for val."""
    for i, frame in enumerate(FRAMES):
        split = "train" if i < 4 else "val"
        name = f"c_{i}"
        image, mask = {
            "camvid": (f"{split}/{frame}", f"{split}annot/{frame}"),
            "voc": (f"JPEGImages/{name}", f"SegmentationClass/{name}"),
            "cityscapes": (
                f"leftImg8bit/{split}/c/{name}_leftImg8bit",
                f"gtFine/{split}/c/{name}_gtFine_labelIds",
            ),
            "ade20k": (
                f"images/{LONG[split]}/ADE_{i}",
                f"annotations/{LONG[split]}/ADE_{i}",
            ),
        }[format]
        pixels = np.random.default_rng(i).integers(0, 255, (2 * len(values), 8, 3), np.uint8)
        save(root / f"{image}.png", pixels)
        save(root / f"{mask}.png", np.roll(tile(values), 2 * i, 0))
        lists = root / f"ImageSets/Segmentation/{split}.txt"
        if format == "voc":
            lists.parent.mkdir(parents=True, exist_ok=True)
            with open(lists, "a") as file:
                file.write(f"{name}\n")
    return root


def errors(inspection: Inspection) -> list:
    return [finding for finding in inspection.findings if finding.error]


def read_names(config: DataConfig) -> np.ndarray:
    """Return the class name of every second row of a mask, void where ignored."""
    data = survey_data_set(config).data_set
    ids = data.masks(data.splits["train"][0].mask).astype(int)
    return np.array([*data.classes, "void"])[np.where(ids == data.lb_ignore, -1, ids)[::2, 0]]


OWN = [
    ("camvid", 2),
    ("camvid", 4),
    ("voc", 4),
    ("cityscapes", 12),
    ("cityscapes", 19),
    ("ade20k", 3),
]


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("format, count", OWN)
def test_own_ids_in_published_folders_are_no_published_classes(
    tmp_path: Path, format: str, count: int, full: bool
):
    root = published(tmp_path, format, list(range(count)))
    (finding,) = errors(inspect_data_set(DataConfig(path=str(root)), full=full))
    assert finding.kind == "published" and len(finding.choices) == 2
    it_is, others = (DataConfig(path=str(root), **choice.fix) for choice in finding.choices)
    assert not errors(inspect_data_set(it_is))
    assert read_names(it_is)[-1] in [*load_table(format)[0], "void"]
    assert not errors(inspect_data_set(others))
    assert read_names(others).tolist() == [str(i) for i in range(count)]


@pytest.mark.parametrize("format", ["camvid", "voc", "cityscapes"])
@pytest.mark.parametrize("values, counts", [([0, 255], [2]), ([0, 128, 255], [2, 3])])
def test_255_is_an_own_class_where_no_other_is_left(
    tmp_path: Path, format: str, values: list[int], counts: list[int]
):
    root = published(tmp_path, format, values)
    (finding,) = errors(inspect_data_set(DataConfig(path=str(root))))
    own = [DataConfig(path=str(root), **choice.fix) for choice in finding.choices[1:]]
    assert [len(set(read_names(config)) - {"void"}) for config in own] == counts
    assert read_names(own[-1]).tolist() == list(map(str, values))


def test_own_colours_in_published_folders_may_be_classes(tmp_path: Path):
    root = published(tmp_path, "voc", [0, 1, 2])
    colours = np.array([[0, 0, 0], [9, 99, 9], [200, 1, 0]], np.uint8)
    for file in (root / "SegmentationClass").iterdir():
        save(file, colours[np.array(Image.open(file))])
    (finding,) = errors(inspect_data_set(DataConfig(path=str(root))))
    own = DataConfig(path=str(root), **finding.choices[-1].fix)
    names = ["colour 0 0 0", "colour 9 99 9", "colour 200 1 0"]
    assert not errors(inspect_data_set(own)) and read_names(own).tolist() == names


@pytest.mark.parametrize("end", ["_gtFine_labellevel3Ids", ""])
def test_masks_of_another_kind_in_the_folders_of_cityscapes(tmp_path: Path, end: str):
    root = published(tmp_path, "cityscapes", [0, 1, 2])
    for mask in (root / "gtFine").rglob("*.png"):
        mask.rename(mask.with_name(mask.name.replace("_gtFine_labelIds", end)))
    for image in (root / "leftImg8bit").rglob("*.png") if not end else ():
        image.rename(image.with_name(image.name.replace("_leftImg8bit", "")))
    config = DataConfig(path=str(root))
    assert not errors(inspect_data_set(config)) and read_names(config).tolist() == list("012")


@pytest.mark.parametrize(
    "format, values",
    [
        ("camvid", list(range(12))),
        ("voc", [*range(14), 255]),
        ("cityscapes", [0, *range(7, 34)]),
        ("ade20k", list(range(100))),
    ],
)
def test_most_of_the_published_classes_are_evidence(tmp_path: Path, format: str, values: list):
    root = published(tmp_path, format, values)
    inspection = inspect_data_set(DataConfig(path=str(root)))
    assert isinstance(inspection, Survey) and not errors(inspection)
    assert any("published table" in str(note) for note in inspection.notes)


def test_classes_in_any_split_that_is_read_are_evidence(tmp_path: Path):
    root = published(tmp_path, "camvid", [0, 1, 2])
    save(root / f"valannot/{FRAMES[5]}.png", tile([3, 4, 5]))
    save(root / f"val/{FRAMES[5]}.png", np.zeros((6, 8, 3), np.uint8))
    assert not errors(inspect_data_set(DataConfig(path=str(root))))


def test_values_beyond_a_published_table_may_be_classes(tmp_path: Path):
    root = published(tmp_path, "voc", list(range(25)))
    (finding,) = errors(inspect_data_set(DataConfig(path=str(root))))
    assert not finding.fix  # to ignore 21..24 would lose four classes
    ignored, own = (choice.fix for choice in finding.choices)
    assert ignored == {"label_map": dict.fromkeys(range(21, 25), "ignore")}
    assert len(read_names(DataConfig(path=str(root), **own))) == 25


def with_table(root: Path, mask: np.ndarray, **files: str) -> DataConfig:
    for i, split in enumerate(["train"] * 3 + ["val"]):
        save(root / f"{split}/images/{i}.png", np.full((*mask.shape[:2], 3), i, np.uint8))
        save(root / f"{split}/masks/{i}.png", mask)
    for name, text in files.items():
        (root / name.replace("_", ".", 1)).write_text(text)
    return DataConfig(path=str(root))


def test_a_table_with_fewer_names_than_ids(tmp_path: Path):
    config = with_table(tmp_path, tile([0, 1, 2, 3]), classes_txt="a\nb\nc\n")
    (finding,) = errors(inspect_data_set(config))
    assert "classes.txt" in finding.text and not finding.fix
    background, more, ignored = (
        DataConfig(path=str(tmp_path), **choice.fix) for choice in finding.choices
    )
    assert read_names(background).tolist() == ["background", "a", "b", "c"]
    assert read_names(more).tolist() == ["a", "b", "c", "3"]
    assert read_names(ignored).tolist() == ["a", "b", "c", "void"]


def test_a_value_that_a_table_leaves_out_is_no_class(tmp_path: Path):
    """1 is the id of b, whose pixels are 20: it isn't a value of b."""
    config = with_table(tmp_path, tile([10, 20, 1]), classes_csv="value,name\n10,a\n20,b\n")
    (finding,) = errors(inspect_data_set(config))
    assert "classes.csv" in finding.text and ": 1" in finding.text
    named = config.model_copy(update={"classes": ["a", "b"]})
    assert [found.text for found in errors(inspect_data_set(named))] == [finding.text]
    more, ignored = (DataConfig(path=str(tmp_path), **choice.fix) for choice in finding.choices)
    assert read_names(more).tolist() == ["a", "b", "1"]
    assert read_names(ignored).tolist() == ["a", "b", "void"]


def test_colours_that_a_table_lacks(tmp_path: Path):
    """datumaro leaves a background that the task doesn't name out of label_colors.txt."""
    colours = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0]], np.uint8)
    config = with_table(tmp_path, colours[tile([0, 1, 2])], label_colors="")
    (tmp_path / "label_colors.txt").write_text("200 0 0 road\n0 200 0 car\n")
    (tmp_path / "label.colors").unlink()
    (finding,) = errors(inspect_data_set(config))
    assert "label_colors.txt" in finding.text and "(0, 0, 0)" in finding.text
    assert finding.places
    more, ignored = (DataConfig(path=str(tmp_path), **choice.fix) for choice in finding.choices)
    assert read_names(more).tolist() == ["background", "road", "car"]
    assert read_names(ignored).tolist() == ["void", "road", "car"]


@pytest.mark.parametrize(
    "own, named",
    [({}, "classes.txt"), ({"classes": ["x", "y"]}, "data.classes")],
)
def test_the_note_says_what_names_the_classes(tmp_path: Path, own: dict, named: str):
    config = with_table(tmp_path, tile([0, 1]), classes_txt="a\nb\n")
    survey = survey_data_set(config.model_copy(update=own))
    assert f"classes: 2, by {named}" in [str(note) for note in survey.notes]


def test_lossy_masks_alone_are_no_evidence_against_a_table(tmp_path: Path):
    root = published(tmp_path, "camvid", [0, 1])
    for mask in root.glob("*annot/*"):
        Image.open(mask).save(mask, "JPEG")
    assert {f.kind for f in errors(inspect_data_set(DataConfig(path=str(root))))} == {"lossy"}


def test_a_table_of_one_class_is_named(tmp_path: Path):
    config = with_table(tmp_path, tile([0, 1]), labelmap_txt="road:0,0,0::\n")
    with pytest.raises(SegtrainError, match="labelmap.txt: data.classes: .*at least 2 names"):
        inspect_data_set(config)


def test_fit_refuses_and_names_the_readings(tmp_path: Path):
    root = published(tmp_path, "camvid", [0, 1])
    with pytest.raises(SegtrainError, match="CamVid.*data.format: camvid.*data.classes"):
        survey_data_set(DataConfig(path=str(root)))


@pytest.mark.parametrize("reading", [0, 1])
def test_a_reading_that_check_writes_can_be_chosen(cli, tmp_path: Path, reading: int):
    root = published(tmp_path / "set", "camvid", [0, 1, 2])
    checked = cli("check", root, "--write-config", "c.yaml")
    assert checked.code == 1 and "data.format: camvid" in checked.stdout
    refused = cli("check", "--config", "c.yaml")
    assert refused.code == 2
    text = Path("c.yaml").read_text()
    line = ["#format: camvid", "#classes: ['0', '1', '2']"][reading]
    assert line in text
    Path("c.yaml").write_text(text.replace(line, line[1:]))
    assert cli("check", "--config", "c.yaml").code == 0


def test_smooth_masks_are_no_fault_of_the_table(tmp_path: Path):
    mask = np.tile(np.array([0, 0, 0, 85, 170, 255, 255, 255], np.uint8), (8, 1))
    config = with_table(tmp_path, mask, classes_csv="value,name\n0,a\n255,b\n")
    (finding,) = errors(inspect_data_set(config))
    assert finding.fix == {"allow_lossy_masks": True}
    assert not errors(inspect_data_set(config.model_copy(update=finding.fix)))
