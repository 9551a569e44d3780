"""Tables of run lengths as Kaggle's competitions write them, read to pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.inspection.survey import Survey, inspect_data_set
from segtrain.data.layouts.detect import FoundPairs, find_pairs
from segtrain.data.masks import MaskReader
from segtrain.errors import SegtrainError

SIZE = (9, 14)  # height, width


def runs(region: np.ndarray, across: bool = False, first: int = 1) -> str:
    """Return a region's run lengths by a loop over its pixels."""
    flat = (region if across else region.T).ravel().tolist()
    found: list[list[int]] = []
    for place, inside in enumerate(flat):
        if inside and place and flat[place - 1]:
            found[-1][1] += 1
        elif inside:
            found.append([place + first, 1])
    return " ".join(f"{start} {length}" for start, length in found)


def scene(index: int) -> np.ndarray:
    ids = np.zeros(SIZE, np.uint8)
    ids[1 : 5 + index % 3, 2:7] = 1
    ids[4:8, 8 : 12 + index % 2] = 2
    return ids


def photos(root: Path, count: int = 4, folder: str = "train_images", size=SIZE) -> list[str]:
    (root / folder).mkdir(parents=True, exist_ok=True)
    names = [f"img{i}.jpg" for i in range(count)]
    for i, name in enumerate(names):
        Image.new("RGB", size[::-1], (40 * i, 9, 200 - 30 * i)).save(root / folder / name)
    return names


def masks(found: FoundPairs) -> dict[str, np.ndarray]:
    reader = MaskReader(len(found.classes))
    return {pair.name: reader(pair.mask) for pairs in found.splits.values() for pair in pairs}


def two_classes(names: list[str], **how) -> list[tuple[str, str, int]]:
    return [
        (name, runs(scene(i) == class_id, **how), class_id)
        for i, name in enumerate(names)
        for class_id in (1, 2)
    ]


def check(root: Path, lines: list[str], table: str = "train.csv", **fields) -> FoundPairs:
    (root / table).write_text("\n".join(lines))
    found = find_pairs(DataConfig(**fields), root)
    assert (found.format, found.findings) == ("rle", [])
    read = masks(found)
    for i in range(4):
        assert (read[f"img{i}"] == scene(i)).all()
    return found


@pytest.mark.parametrize("across, first", [(False, 1), (True, 1), (False, 0), (True, 0)])
def test_a_class_column(tmp_path: Path, across: bool, first: int):
    rows = two_classes(photos(tmp_path), across=across, first=first)
    if first == 0:  # shown by the very first pixel alone
        extra = np.zeros(SIZE, bool)
        extra[0, 0] = True
        photos(tmp_path, 5)
        rows.append(("img4.jpg", runs(extra, across, 0), 1))
    lines = ["ImageId,EncodedPixels,ClassId", *(f"{n},{r},{c}" for n, r, c in rows)]
    found = check(tmp_path, lines)
    assert found.classes == ["background", "1", "2"]
    assert ("along the rows" in found.layout) == across


@pytest.mark.parametrize("table", ["train.csv", "train_v2.csv", "masks.tsv"])
def test_other_columns(tmp_path: Path, table: str):
    rows = two_classes([name[:-4] for name in photos(tmp_path)])
    mark = "\t" if table.endswith("tsv") else ","
    names = {1: "large_bowel", 2: "stomach"}
    lines = [mark.join(("id", "class", "segmentation"))]
    lines += [mark.join((name, names[c], r)) for name, r, c in rows]
    (tmp_path / "sample_submission.csv").write_text("id,class,rle\nimg0,stomach,1 2\n")
    assert check(tmp_path, lines, table).classes == ["background", "large_bowel", "stomach"]


def test_image_and_class_in_one_column_with_empty_rows(tmp_path: Path):
    names = photos(tmp_path, 6)
    rows = two_classes(names[:4])
    lines = ["ImageId_ClassId,EncodedPixels", *(f"{n}_{c},{r}" for n, r, c in rows)]
    found = check(tmp_path, [*lines, "img4.jpg_1,", "img4.jpg_2,"])
    assert not masks(found)["img4"].any()  # listed without an object: background
    assert "img5" not in masks(found)  # not listed: unknown
    assert "1 image(s) beside them that no list names left out" in found.layout


def test_several_rows_of_one_class(tmp_path: Path):
    names = photos(tmp_path)
    lines = ["ImageId,EncodedPixels"]
    for i, name in enumerate(names):
        lines += [f"{name},{runs(scene(i) == 2)}", f'{name},"{runs(scene(i) == 1)}"']
    (tmp_path / "train.csv").write_text("\n".join(lines))
    found = find_pairs(DataConfig(val_fraction=0.3), tmp_path / "train.csv")
    assert found.format == "rle" and found.classes == ["background", "object"]
    assert all((masks(found)[f"img{i}"] == (scene(i) > 0)).all() for i in range(4))


def test_a_column_of_splits(tmp_path: Path):
    rows = two_classes(photos(tmp_path, folder="pictures"))
    lines = ["image,rle,label,split"]
    lines += [f"{n},{r},{c},{'valid' if n > 'img2' else 'train'}" for n, r, c in rows]
    found = check(tmp_path, lines)
    assert [pair.name for pair in found.splits["val"]] == ["img2", "img3"]


def test_square_images_are_read_down_the_columns_unless_the_config_says_rows(tmp_path: Path):
    region = np.zeros((8, 8), bool)
    region[1:3, 2:7] = True
    names = photos(tmp_path, 3, size=(8, 8))
    lines = ["ImageId,EncodedPixels", *(f"{name},{runs(region)}" for name in names)]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    found = find_pairs(DataConfig(), tmp_path)
    assert "nothing shows it" in found.layout
    assert all((mask == region).all() for mask in masks(found).values())
    turned = find_pairs(DataConfig(rle_order="rows"), tmp_path)
    assert all((mask == region.T).all() for mask in masks(turned).values())


def test_runs_out_of_the_image_name_the_line(tmp_path: Path):
    rows = [(n, runs(scene(0) == 1)) for n in photos(tmp_path)]
    lines = ["ImageId,EncodedPixels", *(f"{n},{r}" for n, r in rows[:3]), "img3.jpg,3 2 120 8"]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    (finding,) = (f for f in inspect_data_set(DataConfig(path=str(tmp_path))).findings if f.error)
    assert "train.csv" in str(finding) and "line 5" in str(finding) and "126" in str(finding)


def test_the_smaller_of_two_overlapping_regions_counts(tmp_path: Path):
    lines = ["ImageId,EncodedPixels,ClassId"]
    for name in photos(tmp_path):
        lines += [f"{name},13 2,2", f"{name},11 5 20 5 29 5,1"]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    read = masks(find_pairs(DataConfig(), tmp_path))["img0"]
    assert (read == 2).sum() == 2 and (read == 1).sum() == 13


@pytest.mark.parametrize(
    "row, words",
    [
        ("img1.jpg,20 5 3 4 6 2", "line 3 are not in ascending order"),
        ("img1.jpg,20 5 3", "line 3: expected 'start length"),
        ("gone.jpg,20 5", "gone.jpg"),
    ],
)
def test_rows_that_are_wrong_are_named(tmp_path: Path, row: str, words: str):
    photos(tmp_path)
    (tmp_path / "train.csv").write_text(f"ImageId,EncodedPixels\nimg0.jpg,12 3\n{row}\nimg2.jpg,\n")
    with pytest.raises(SegtrainError, match=words):
        found = find_pairs(DataConfig(), tmp_path)
        raise SegtrainError(str(found.findings[0]))


def test_a_table_without_its_images_is_named_as_what_it_is(tmp_path: Path):
    (tmp_path / "train.csv").write_text("ImageId,EncodedPixels\na.jpg,12 3\nb.jpg,12 3\n")
    with pytest.raises(SegtrainError, match="a table of run lengths, but no image.*b.jpg"):
        find_pairs(DataConfig(), tmp_path / "train.csv")


def test_real_masks_beside_a_table_come_first(tmp_path: Path):
    names = photos(tmp_path, folder="images")
    for i, name in enumerate(names):
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(scene(i)).save(tmp_path / "masks" / f"{name[:-4]}.png")
    lines = ["id,rle_mask", *(f"{name[:-4]},{runs(scene(0) > 0)}" for name in names)]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    assert find_pairs(DataConfig(), tmp_path).format == "pairs"
    assert find_pairs(DataConfig(format="rle"), tmp_path).format == "rle"


def test_check_reads_them(tmp_path: Path):
    rows = two_classes(photos(tmp_path))
    lines = ["ImageId,EncodedPixels,ClassId", *(f"{n},{r},{c}" for n, r, c in rows)]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    found = inspect_data_set(DataConfig(path=str(tmp_path)))
    assert isinstance(found, Survey) and not [f for f in found.findings if f.error]


def test_a_row_without_the_class_that_the_header_names_is_refused(tmp_path: Path):
    names = photos(tmp_path)
    lines = ["ImageId,EncodedPixels,ClassId", *(f"{name},1 3" for name in names)]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    with pytest.raises(SegtrainError, match="line 2 lacks ClassId"):
        find_pairs(DataConfig(), tmp_path)
