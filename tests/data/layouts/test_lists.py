"""Lists and tables of pairs and names, as spreadsheets, scripts and people write them."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from segtrain.config import DataConfig, SplitConfig
from segtrain.data.layouts.detect import FoundPairs, find_pairs
from segtrain.errors import SegtrainError

ROWS = [("photos/p0.jpg", "ids/p0.png"), ("photos/p1.jpg", "ids/p1.png"),
        ("photos/p2.jpg", "ids/p2.png"), ("photos/p3.jpg", "ids/p3.png")]  # fmt: skip


def touch(root: Path, *names: str) -> None:
    """Make empty files: lists are read without opening what they name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(root: Path, name: str, *lines: str, coding: str = "utf-8", end: str = "\n") -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes((end.join(lines) + end).encode(coding))
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    touch(tmp_path, *(name for row in ROWS for name in row))
    return tmp_path


def pairs_of(found: FoundPairs, root: Path) -> dict[str, list[tuple[str, str]]]:
    return {
        split: [
            (str(pair.image.relative_to(root)), str(Path(str(pair.mask)).relative_to(root)))
            for pair in pairs
        ]
        for split, pairs in found.splits.items()
    }


def read(root: Path, file: Path) -> list[tuple[str, str]]:
    found = find_pairs(DataConfig(), file)
    assert found.findings == []
    return sorted(sum(pairs_of(found, root).values(), []))


@pytest.mark.parametrize("mask_first", [False, True])
@pytest.mark.parametrize("mark", ["\t", ",", ";", "|", " ", ", ", " ; ", "   "])
@pytest.mark.parametrize(
    "header",
    [("image", "mask"), ("file_name", "mask_file_name"), ("input", "target"), ("x", "gt"),
     ("filename", "annotation"), ("img_path", "label_image"), ("rgb", "segmentation"), None],
)  # fmt: skip
def test_any_separator_header_and_order(root: Path, mark: str, header, mask_first: bool):
    rows = [header, *ROWS] if header else ROWS
    file = write(root, "list.csv", *(mark.join(r[::-1] if mask_first else r) for r in rows))
    assert read(root, file) == ROWS


@pytest.mark.parametrize(
    "lines",
    [
        ["image_id,image_path,mask_path", *(f"{i},{a},{b}" for i, (a, b) in enumerate(ROWS))],
        [",image,mask", *(f"{i},{a},{b}" for i, (a, b) in enumerate(ROWS))],  # pandas' index
        [f"{a} {b} 1" for a, b in ROWS],
        [f"7 {a} {b}" for a, b in ROWS],
        [f'"{a}" "{b}"' for a, b in ROWS],
        [f"'{a}', '{b}'" for a, b in ROWS],
        ["sep=;", "image;mask", *(f"{a};{b};" for a, b in ROWS)],
        ["# mask image", *(f"{b} {a}" for a, b in ROWS)],
        [f"./{a} ./{b}" for a, b in ROWS],
        [f"photos\\{Path(a).name};ids\\{Path(b).name}" for a, b in ROWS],
        [f"{a.upper()},{b.upper()}" for a, b in ROWS],
        [f"{a},{b}" for a, b in ROWS[:3]] + ["", " ", ",", f"{ROWS[3][0]} {ROWS[3][1]}"],
        [f"{Path(a).name},{Path(b).name}" for a, b in ROWS],  # names in folders beside
        ["id,photo,mask,author", *(f'{i},{a},{b},"A, B"' for i, (a, b) in enumerate(ROWS))],
    ],
)
def test_other_columns_quotes_and_lines(root: Path, lines: list[str]):
    assert read(root, write(root, "list.txt", *lines)) == ROWS


@pytest.mark.parametrize("coding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "latin-1"])
@pytest.mark.parametrize("end", ["\r\n", "\r", "\n\n"])
def test_codings_and_line_ends(tmp_path: Path, coding: str, end: str):
    rows = [(f"caf\u00e9/{i}.jpg", f"masks/{i}.png") for i in range(3)]
    touch(tmp_path, *(name for row in rows for name in row))
    file = write(tmp_path, "l.csv", *(";".join(row) for row in rows), coding=coding, end=end)
    found = find_pairs(DataConfig(), file)
    assert sorted(sum(pairs_of(found, tmp_path).values(), [])) == rows
    assert ("0xe9" in found.layout) == (coding == "latin-1")


def test_names_of_a_mac_are_found_in_their_other_unicode_form(tmp_path: Path):
    rows = [(f"u\u0308_{i}.jpg", f"m/u\u0308_{i}.png") for i in range(3)]
    touch(tmp_path, *(name for row in rows for name in row))
    file = write(tmp_path, "l.csv", *(f"\u00fc_{i}.jpg,m/\u00fc_{i}.png" for i in range(3)))
    assert read(tmp_path, file) == rows


def test_mask_and_image_are_told_apart_by_paths_and_types(tmp_path: Path):
    for image, mask in (
        ("rgb/{}.png", "labels/{}.png"),
        ("a/{}.png", "b/{}_mask.png"),
        ("train/img/{}.png", "train/gtFine/{}.png"),
        ("c/{}.jpg", "d/{}.png"),
    ):
        rows = [(image.format(i), mask.format(i)) for i in range(3)]
        touch(tmp_path, *(name for row in rows for name in row))
        for order in (1, -1):
            file = write(tmp_path, "list.txt", *(" ".join(row[::order]) for row in rows))
            assert read(tmp_path, file) == rows


def test_header_and_paths_that_contradict_each_other_are_refused(tmp_path: Path):
    for i in range(3):
        touch(tmp_path, f"images/{i}.png", f"masks/{i}.png")
    rows = [f"masks/{i}.png,images/{i}.png" for i in range(3)]
    with pytest.raises(SegtrainError, match="by its header, column 2 is the mask, by its paths"):
        find_pairs(DataConfig(), write(tmp_path, "list.csv", "image,mask", *rows))


def test_a_damaged_list_beside_others_is_named(tmp_path: Path):
    touch(tmp_path, "a/x0.png", "a/x1.png", "b/y0.png", "b/y1.png")
    write(tmp_path, "test.txt", "a/x0.png, b/y0.png")
    write(tmp_path, "train.txt", "a/x1.png! b/y1.png", "a.x1.pn! b/y1.png")
    with pytest.raises(SegtrainError, match="train.txt: expected 'image mask'.* in line 1"):
        find_pairs(DataConfig(), tmp_path)


def test_the_same_names_in_folders_beside_are_told_apart_by_the_folders(tmp_path: Path):
    for i in range(3):
        touch(tmp_path, f"images/{i}.png", f"masks/{i}.png")
    file = write(tmp_path, "d.csv", "mask,image", *(f"{i}.png,{i}.png" for i in range(3)))
    assert read(tmp_path, file) == [(f"images/{i}.png", f"masks/{i}.png") for i in range(3)]
    touch(tmp_path, "old/masks/1.png")
    with pytest.raises(SegtrainError, match="1.png is in .*masks and in old/masks"):
        find_pairs(DataConfig(), file)


def test_a_missing_file_is_not_taken_from_another_folder(root: Path):
    touch(root, "old/p4.jpg", "ids/p4.png")
    file = write(root, "l.csv", *(",".join(row) for row in ROWS), "p4.jpg,ids/p4.png")
    (finding,) = find_pairs(DataConfig(), file).findings
    assert (finding.kind, finding.places) == ("missing", ["p4.jpg"])


def test_a_list_of_which_nothing_is_there_says_how_it_was_read(tmp_path: Path):
    file = write(tmp_path, "l.csv", "image;mask", "a/x.png;b/x.png", coding="utf-16")
    with pytest.raises(SegtrainError) as raised:
        find_pairs(DataConfig(), file)
    for part in ("none of its pairs", "semicolon", "UTF-16", "line 2", "'a/x.png'", "'b/x.png'"):
        assert part in str(raised.value)


def test_a_name_that_begins_like_a_comment_is_no_comment(tmp_path: Path):
    touch(tmp_path, "#1.png", "#1_m.png", "2.png", "2_m.png", "3.png", "3_m.png")
    lines = ["# all", "#1.png,#1_m.png", "#2.png,2_m.png", "2.png,2_m.png", "3.png,3_m.png"]
    found = read(tmp_path, write(tmp_path, "l.csv", *lines))
    assert [image for image, _ in found] == ["#1.png", "2.png", "3.png"]


# ---- splits


VALUES = [("train", "val", "test"), ("TRAIN", "Valid", "TEST"), ("training", "validation", "test"),
          ("Train", "dev", "testing")]  # fmt: skip


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("name", ["split", "subset", "Set", "data_split", None])
def test_a_column_of_splits(root: Path, values, name: str | None):
    splits = [values[0], values[0], values[1], values[2]]
    lines = [",".join((split, *row)) for split, row in zip(splits, ROWS, strict=True)]
    lines = [f"{name},image,mask", *lines] if name else lines
    expected = {"train": ROWS[:2], "val": ROWS[2:3], "test": ROWS[3:]}
    for path in (write(root, "data.csv", *lines), root):
        found = find_pairs(DataConfig(), path)
        assert (pairs_of(found, root), found.findings) == (expected, [])
    config = DataConfig(splits={s: SplitConfig(list="data.csv") for s in ("train", "val")})
    assert pairs_of(find_pairs(config, root), root) == {k: expected[k] for k in ("train", "val")}


def test_a_flag_of_validation(root: Path):
    flags = ["False", "True", "False", "True"]
    lines = [",".join((*row, flag)) for flag, row in zip(flags, ROWS, strict=True)]
    found = find_pairs(DataConfig(), write(root, "d.csv", "image,mask,is_valid", *lines))
    assert pairs_of(found, root) == {"train": ROWS[::2], "val": ROWS[1::2]}


def test_values_that_are_no_split_are_named(root: Path):
    lines = [f"{a},{b},{s}" for (a, b), s in zip(ROWS, ["train", "spare", "val", ""], strict=True)]
    with pytest.raises(SegtrainError, match="column Split has the values '', 'spare'"):
        find_pairs(DataConfig(), write(root, "data.csv", "image,mask,Split", *lines))


@pytest.mark.parametrize("where", ["", "splits/", "ImageSets/Segmentation/", "lists/"])
@pytest.mark.parametrize(
    "form", ["{0}", "{0}.jpg", "./photos/{0}.jpg", "{0}_mask", "/data/x/photos/{0}.jpg",
             "{0} 1 2 3", "photos\\{0}.jpg", "photos/{0}.jpg masks/{0}_mask.png"]
)  # fmt: skip
def test_lists_of_names_are_the_splits_of_folders(tmp_path: Path, where: str, form: str):
    names = [f"my {i}.v1" for i in range(6)] if " " not in form else [f"y{i}" for i in range(6)]
    touch(tmp_path, *(f"images/{n}.jpg" for n in names), *(f"masks/{n}_mask.png" for n in names))
    form = form.replace("photos", "images")
    write(tmp_path, f"{where}train.txt", *(form.format(name) for name in names[1:4]))
    write(tmp_path, f"{where}val.txt", *(form.format(name) for name in names[4:]))
    config = DataConfig(
        splits={
            s: SplitConfig(images="images", masks="masks", mask_end="_mask", list=f"{where}{s}.txt")
            for s in ("train", "val")
        }
    )
    found = find_pairs(config, tmp_path)
    assert {split: [pair.name for pair in pairs] for split, pairs in found.splits.items()} == {
        "train": names[1:4],
        "val": names[4:],
    }
    for name in names:
        (tmp_path / f"masks/{name}_mask.png").rename(tmp_path / f"masks/{name}.png")
    if "_mask" in form:
        return
    found = find_pairs(DataConfig(), tmp_path)
    assert {split: [pair.name for pair in pairs] for split, pairs in found.splits.items()} == {
        "train": names[1:4],
        "val": names[4:],
    }
    assert "1 that no list names left out" in found.layout


def test_a_table_of_names_and_splits_divides_folders(tmp_path: Path):
    for i in range(4):
        touch(tmp_path, f"images/{i}.png", f"masks/{i}.png")
    lines = ["0,train,9", "1,valid,9", "2,train,9", "3,test,9"]
    write(tmp_path, "anything.csv", "image_id,split,age", *lines)
    found = find_pairs(DataConfig(), tmp_path)
    splits = {split: [pair.name for pair in pairs] for split, pairs in found.splits.items()}
    assert splits == {"train": ["0", "2"], "val": ["1"], "test": ["3"]}


def test_without_a_list_for_train_it_is_the_rest(tmp_path: Path):
    for i in range(4):
        touch(tmp_path, f"images/{i}.png", f"labels/{i}.png")
    write(tmp_path, "valid.txt", "1.png", "3.png")
    found = find_pairs(DataConfig(), tmp_path)
    splits = {split: [pair.name for pair in pairs] for split, pairs in found.splits.items()}
    assert splits == {"train": ["0", "2"], "val": ["1", "3"]}


def test_a_text_of_other_content_divides_nothing(tmp_path: Path):
    for i in range(5):
        touch(tmp_path, f"images/{i}.png", f"masks/{i}.png")
    write(tmp_path, "train.txt", "how we trained: 100 epochs", "on one GPU")
    found = find_pairs(DataConfig(), tmp_path)
    assert (len(found.splits["train"]), found.findings) == (4, [])
    assert "train.txt not read" in found.layout


def test_a_listed_name_without_a_pair_is_found(tmp_path: Path):
    for i in range(4):
        touch(tmp_path, f"images/{i}.png", f"masks/{i}.png")
    write(tmp_path, "train.txt", "0", "gone", "2")
    write(tmp_path, "val.txt", "1", "2")
    found = find_pairs(DataConfig(), tmp_path)
    assert [(f.kind, f.places) for f in found.findings] == [
        ("missing", ["gone"]),
        ("split", ["images/2.png (train and val)"]),
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_hugging_face_metadata(tmp_path: Path, kind: str):
    rows: dict[str, list[tuple[str, str]]] = {}
    for split, count in (("train", 3), ("validation", 2)):
        rows[split] = [(f"{split}/{i}.png", f"{split}/{i}_seg.png") for i in range(count)]
        touch(tmp_path, *(name for row in rows[split] for name in row))
        fields = [
            {"mask_file_name": Path(mask).name, "file_name": Path(image).name, "text": "a, b"}
            for image, mask in rows[split]
        ]
        lines = [
            "mask_file_name,file_name,text",
            *('{},{},"{}"'.format(*f.values()) for f in fields),
        ]
        lines = [json.dumps(row) for row in fields] if kind == "jsonl" else lines
        write(tmp_path, f"{split}/metadata.{kind}", *lines)
    found = find_pairs(DataConfig(), tmp_path)
    assert pairs_of(found, tmp_path) == {"train": rows["train"], "val": rows["validation"]}


# ---- any dialect: the same pairs or an error, never others


LETTERS = st.sampled_from(list("ab1 ,;|_-'\u00e9\u4e2d") + ["a", "b", "0", "1", "2"])
NAME = st.text(LETTERS, min_size=1, max_size=6).map(str.strip).filter(lambda s: s and s != "'")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_dialect_reads_the_same_pairs_or_is_refused(data: st.DataObject):
    draw = data.draw
    folders = draw(
        st.sampled_from([("images", "masks"), ("a b/rgb", "a b/gt"), ("p,q", "p,q"), ("", "m")])
    )
    names = draw(st.lists(NAME, min_size=2, max_size=6, unique_by=str.casefold))
    ending = draw(st.sampled_from(["_mask", "_m", " label"]))
    rows = [
        (str(Path(folders[0], f"{name}.jpg")), str(Path(folders[1], f"{name}{ending}.png")))
        for name in names
    ]
    mark = draw(st.sampled_from(["\t", ",", ";", "|", " "]))
    quote = draw(st.sampled_from(["", '"']))
    order = draw(st.sampled_from([1, -1]))
    header = draw(st.sampled_from([("image", "mask"), ("file", "label"), None]))
    extra = draw(st.sampled_from([None, "7", "some words"]))
    coding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
    end = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    cells = [[*row[::order], *filter(None, [extra])] for row in rows]
    cells = [[*header[::order], *["note"] * bool(extra)], *cells] if header else cells
    lines = [mark.join(f"{quote}{cell}{quote}" for cell in line) for line in cells]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        touch(root, *(name for row in rows for name in row))
        file = write(root, "list.csv", *lines, coding=coding, end=end)
        try:
            found = find_pairs(DataConfig(), file)
        except SegtrainError:
            assert not quote  # a spreadsheet's quotes leave no doubt
            return
        pairs = sum(pairs_of(found, root).values(), [])
        assert set(pairs) <= set(rows)
        if quote:
            assert (sorted(pairs), found.findings) == (sorted(rows), [])


def test_a_list_of_which_nothing_is_there_does_not_hide_folders(tmp_path: Path):
    for i in range(4):
        touch(tmp_path, f"images/{i}.png", f"masks/{i}.png")
    write(tmp_path, "pairs.csv", *(f"/kaggle/rgb/{i}.png,/kaggle/gt/{i}.png" for i in range(4)))
    assert len(find_pairs(DataConfig(), tmp_path).splits["train"]) == 3
    with pytest.raises(SegtrainError, match="none of its pairs is there"):
        find_pairs(DataConfig(), tmp_path / "pairs.csv")


@pytest.mark.parametrize("form", ["images/{0}.png,masks/{0}.png,{1}", "{0},{1}"])
def test_a_column_of_folds_is_named_as_not_read(tmp_path: Path, form: str):
    for i in range(4):
        touch(tmp_path, f"images/{i}.png", f"masks/{i}.png")
    header = "image,mask,kfold" if "png" in form else "image_id,kfold"
    write(tmp_path, "data.csv", header, *(form.format(i, i % 2) for i in range(4)))
    found = find_pairs(DataConfig(), tmp_path)
    assert "column kfold not read" in found.layout and len(found.splits["train"]) == 3


def test_a_split_of_a_table_of_names_without_masks_is_left_out(tmp_path: Path):
    for i in range(4):
        touch(tmp_path, f"train/{i}_sat.jpg", f"train/{i}_mask.png", f"valid/v{i}_sat.jpg")
    rows = [f"{i},train,train/{i}_sat.jpg,train/{i}_mask.png" for i in range(4)]
    rows += [f"v{i},valid,valid/v{i}_sat.jpg," for i in range(4)]
    write(tmp_path, "metadata.csv", "image_id,split,sat_image_path,mask_path", *rows)
    found = find_pairs(DataConfig(), tmp_path)
    assert (len(found.splits["train"]), len(found.splits["val"]), found.findings) == (3, 1, [])
    assert "val left out: no masks" in found.layout


def test_folds_are_named_as_not_read(tmp_path: Path):
    for i in range(4):
        touch(tmp_path, f"images/{i}.png", f"masks/{i}.png")
    for fold in range(2):
        write(tmp_path, f"splits/train_{fold}.txt", *(str(i) for i in range(4) if i % 2 != fold))
    found = find_pairs(DataConfig(), tmp_path)
    assert "train_0.txt, splits/train_1.txt not read: several for a split" in found.layout


def test_a_split_whose_rows_have_no_masks_is_left_out(root: Path):
    lines = [*(f"{a},{b},train" for a, b in ROWS[:3]), f"{ROWS[3][0]},,test"]
    found = find_pairs(DataConfig(), write(root, "data.csv", "image,mask,split", *lines))
    assert (list(found.splits), found.findings) == (["train", "val"], [])
    assert "test left out: no masks" in found.layout


@pytest.mark.parametrize("name", ["splits_final.json", "val.json", "training.odgt", "fold0.pkl"])
def test_divisions_in_other_formats_are_named_as_not_read(tmp_path: Path, name: str):
    for i in range(4):
        touch(tmp_path, f"images/{i}.png", f"masks/{i}.png")
    assert "not read" not in find_pairs(DataConfig(), tmp_path).layout
    touch(tmp_path, name, "meta.json")
    assert f"({name} not read" in find_pairs(DataConfig(), tmp_path).layout
