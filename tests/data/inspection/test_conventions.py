"""Values, indices and colours whose meaning is decided by file: palettes, conventions, nodata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.inspection.survey import (
    Inspection,
    Survey,
    inspect_data_set,
    open_data_set,
    survey_data_set,
)
from segtrain.errors import SegtrainError

H, W = 12, 12
COLOURS = np.array([[0, 0, 0], [200, 0, 0], [0, 200, 0], [0, 0, 200]], np.uint8)


def truth(i: int, classes: int = 4) -> np.ndarray:
    """Blocks of all classes, other ones in each image."""
    rows = np.random.default_rng(i).permutation(6) % classes
    return np.repeat(rows, 2 * W).reshape(H, W)


def write_set(root: Path, masks: list, suffix: str = ".png", first: int = 0) -> str:
    """Write images of noise and these masks: arrays, images, or functions that write a file."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for i, mask in enumerate(masks, first):
        noise = np.random.default_rng(i).integers(0, 255, (H, W, 3), np.uint8)
        Image.fromarray(noise).save(root / f"images/{i}.png")
        file = root / f"masks/{i}{suffix}"
        if callable(mask):
            mask(file)
        elif isinstance(mask, Image.Image):
            mask.save(file)
        else:
            Image.fromarray(np.asarray(mask)).save(file)
    return str(root)


def indexed(indices: np.ndarray, colours: Any) -> Image.Image:
    image = Image.fromarray(indices.astype(np.uint8))
    image.putpalette(np.asarray(colours, np.uint8).ravel().tolist())
    return image


def test_a_huge_value_of_a_damaged_mask_costs_nothing(tmp_path: Path):
    masks = [truth(0, 2).astype(np.int32) * value for value in (2**26, 2**26, 2**30)]
    write = [lambda file, mask=mask: tifffile.imwrite(file, mask) for mask in masks]
    found = inspect_data_set(DataConfig(path=write_set(tmp_path, write, ".tif")))
    assert any(finding.error for finding in found.findings)


def test_a_gif_of_grey_ids_beside_indexed_masks_contradicts_none(tmp_path: Path):
    """GIF has no grey: Pillow writes a palette of the levels themselves."""
    masks = [indexed(truth(i), COLOURS) for i in range(2)]
    config = DataConfig(path=write_set(tmp_path, masks))
    write_set(tmp_path, [truth(i).astype(np.uint8) for i in (2, 3)], ".gif", 2)
    reader = survey_data_set(config).data_set.masks
    for i in range(4):
        file = tmp_path / f"masks/{i}{'.gif' if i > 1 else '.png'}"
        assert (reader(file) == truth(i)).all()


def reordered(i: int, void: bool = False) -> Image.Image:
    """The truth in colours whose palette has another order in each file."""
    order = np.roll(np.arange(4), i)
    index = np.argsort(order)[truth(i)]
    index[:1] = 4 if void else index[:1]
    return indexed(index, [*COLOURS[order], (224, 224, 192)])


def inspect(path: str, **fields) -> Inspection:
    return inspect_data_set(DataConfig.model_validate({"path": path, **fields}), full=True)


def only_error(found: Inspection) -> Any:
    (error,) = [finding for finding in found.findings if finding.error]
    return error


def read_all(path: str, **fields) -> dict[str, np.ndarray]:
    """Return the class ids of each mask of a data set that is free of errors."""
    found = inspect(path, **fields)
    assert isinstance(found, Survey) and not [f for f in found.findings if f.error], found.findings
    samples = [sample for split in found.data_set.splits.values() for sample in split]
    return {sample.name: found.data_set.masks(sample.mask) for sample in samples}


def same_up_to_names(read: dict[str, np.ndarray], expected: Callable[[int], np.ndarray]) -> bool:
    """Return whether ids stand for the expected ones, one for one, in all masks together."""
    pairs = {
        pair
        for name, ids in read.items()
        for pair in zip(ids.ravel().tolist(), expected(int(name)).ravel().tolist(), strict=True)
    }
    return len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})


# palettes


def test_palettes_in_other_orders_are_read_as_chosen(tmp_path: Path):
    path = write_set(tmp_path, [reordered(i) for i in range(4)])
    error = only_error(inspect(path))
    assert len(error.places) == 2 and "masks/0.png" in error.places[0]
    by_colour, by_index = (choice.fix for choice in error.choices)
    assert same_up_to_names(read_all(path, **by_colour), truth)
    indices = read_all(path, **by_index)
    assert all((ids == np.asarray(reordered(int(name)))).all() for name, ids in indices.items())
    with pytest.raises(SegtrainError, match="palette_by"):
        survey_data_set(DataConfig(path=path))


def test_reordered_palettes_of_named_classes_need_their_colours(tmp_path: Path):
    path = write_set(tmp_path, [reordered(i) for i in range(4)])
    names = ["a", "b", "c", "d"]
    error = only_error(inspect(path, classes=names))
    assert [choice.fix for choice in error.choices] == [{"palette_by": "index"}]
    fields = {"classes": names, "palette": COLOURS.tolist()}
    by_colour, by_index = only_error(inspect(path, **fields)).choices
    assert (by_colour.fix, by_index.fix) == ({"palette_by": "colour"}, {"palette_by": "index"})
    for name, ids in read_all(path, **fields, **by_colour.fix).items():
        np.testing.assert_array_equal(ids, truth(int(name)))


def test_a_colour_more_than_the_palette_hides_no_other_order(tmp_path: Path):
    path = write_set(tmp_path, [reordered(i, void=True) for i in range(4)])
    fields = {"classes": list("abcd"), "palette": COLOURS.tolist(), "label_map": {4: "ignore"}}
    found = inspect(path, **fields)
    by_colour, _ = only_error(found).choices
    for name, ids in read_all(path, **fields | by_colour.fix).items():
        expected = truth(int(name))
        expected[:1] = 255
        np.testing.assert_array_equal(ids, expected)
    data = open_data_set(DataConfig.model_validate({"path": path, **fields}))
    with pytest.raises(SegtrainError, match="palette_by"):
        [data.masks(sample.mask) for sample in data.split("train")]


TAB10 = [(31, 119, 180), (255, 127, 14), (44, 160, 44)] * 4
AGREEING = {
    "one palette": [COLOURS] * 4,
    "unused entries differ": [[*COLOURS, (i, i, 7)] for i in range(4)],
    "repeated": [TAB10] * 4,
    "all black": [np.zeros((256, 3))] * 4,
    "an even ramp": [np.repeat([[0], [85], [170], [255]], 3, 1)] * 4,
    "short": [COLOURS[[0, 1, 3]]] * 4,
}


@pytest.mark.parametrize("name", AGREEING)
def test_palettes_that_agree_leave_the_indices(tmp_path: Path, name: str):
    masks = [indexed(truth(i), colours) for i, colours in enumerate(AGREEING[name])]
    for number, ids in read_all(write_set(tmp_path, masks)).items():
        np.testing.assert_array_equal(ids, truth(int(number)))


def test_a_colour_that_a_palette_has_twice_contradicts_nothing(tmp_path: Path):
    twice = COLOURS[[0, 1, 1]]
    apart = [np.where(truth(i, 2), 1 + i % 2, 0) for i in range(4)]
    together = indexed(truth(4, 3), twice)
    masks = [*(indexed(mask, twice) for mask in apart), together]
    expected = [*apart, truth(4, 3)]
    for number, ids in read_all(write_set(tmp_path / "apart", masks)).items():
        np.testing.assert_array_equal(ids, expected[int(number)])
    masks = [*(indexed(truth(i, 3), COLOURS[:3]) for i in range(4)), together]
    for number, ids in read_all(write_set(tmp_path / "together", masks)).items():
        np.testing.assert_array_equal(ids, truth(int(number), 3))


def test_colours_that_would_merge_classes_are_not_offered(tmp_path: Path):
    twice = indexed(truth(4), COLOURS[[0, 1, 1, 3]])
    path = write_set(tmp_path, [*(reordered(i) for i in range(4)), twice])
    assert [c.fix for c in only_error(inspect(path)).choices] == [{"palette_by": "index"}]
    for_the_eye = {"classes": list("abcd"), "palette": [(9, 9, i) for i in range(4)]}
    path = write_set(tmp_path / "eye", [reordered(i) for i in range(4)])
    choices = only_error(inspect(path, **for_the_eye)).choices
    assert [choice.fix for choice in choices] == [{"palette_by": "index"}]


@pytest.mark.parametrize("moved", [0, 1])
def test_a_colour_at_two_indices_contradicts(tmp_path: Path, moved: int):
    ids = [truth(i, 2) for i in range(4)]
    masks = [indexed(mask, COLOURS[:3]) for mask in ids]
    masks[3] = indexed(2 * ids[3], COLOURS[[0, 3, 1 if moved else 2]])
    found = inspect(write_set(tmp_path, masks))
    assert ("palette" in {finding.kind for finding in found.findings}) == bool(moved)


@pytest.mark.parametrize("mixed", [False, True])
def test_a_palette_of_greys_has_levels(tmp_path: Path, mixed: bool):
    """Indices count the levels that a mask has: 0, 1, 2 for 0, 2, 3 where level 1 is missing."""

    def mask(i: int) -> np.ndarray:
        return np.where(truth(i) == i, 0, truth(i))

    def save(i: int) -> Image.Image | np.ndarray:
        if mixed and i % 2:
            return mask(i).astype(np.uint8)
        levels, index = np.unique(mask(i), return_inverse=True)
        return indexed(index.reshape(H, W), np.repeat(levels[:, None], 3, 1))

    path = write_set(tmp_path, [save(i) for i in range(4)])
    for name, ids in read_all(path).items():
        np.testing.assert_array_equal(ids, mask(int(name)))
    by_index = read_all(path, palette_by="index")
    assert any((ids != mask(int(name))).any() for name, ids in by_index.items())


def test_rgb_and_indexed_masks_of_one_set_are_read_by_colour(tmp_path: Path):
    masks = [COLOURS[truth(i)] if i % 2 else reordered(i) for i in range(4)]
    path = write_set(tmp_path, masks)
    error = only_error(inspect(path))
    fix = error.fix or error.choices[0].fix
    assert same_up_to_names(read_all(path, **fix), truth)


def test_white_of_a_grey_mask_is_a_colour_among_colours(tmp_path: Path):
    colours = np.array([[0, 0, 0], [255, 0, 0], [255, 255, 255], [0, 0, 255]], np.uint8)

    def mask(i: int) -> np.ndarray:
        return np.where(truth(i) > 1, 2, 0) if i == 2 else truth(i) % 2 * 3

    path = write_set(tmp_path, [colours[mask(i)] for i in range(4)])
    fix = only_error(inspect(path)).fix
    assert sorted(map(tuple, fix["palette"])) == sorted([(0, 0, 0), (255,) * 3, (0, 0, 255)])
    assert same_up_to_names(read_all(path, **fix), mask)
    grey = np.where(mask(2), 255, 0).astype(np.uint8)  # as an optimiser stores it
    Image.fromarray(grey).save(tmp_path / "masks/2.png")
    by_colour, _ = only_error(inspect(path)).choices
    assert same_up_to_names(read_all(path, **by_colour.fix), mask)
    Image.fromarray(grey > 0).save(tmp_path / "masks/2.png")
    by_colour, _ = only_error(inspect(path)).choices
    assert same_up_to_names(read_all(path, **by_colour.fix), mask)
    by_colour, _ = only_error(inspect(path, **fix)).choices
    assert same_up_to_names(read_all(path, **fix | by_colour.fix), mask)


def test_a_stray_colour_can_be_ignored(tmp_path: Path):
    masks = [COLOURS[truth(i)] for i in range(40)]
    masks[3][0, :3] = 7, 9, 200
    path = write_set(tmp_path, masks)
    fields = {"classes": list("abcd"), "palette": COLOURS.tolist()}
    error = only_error(inspect(path, **fields))
    assert error.fix == {"other_values": "ignore"} and "masks/3.png" in error.places[0]
    ids = read_all(path, **fields | error.fix)["3"]
    expected = truth(3)
    expected[0, :3] = 255
    np.testing.assert_array_equal(ids, expected)
    assert any("3 pixels" in note.text for note in inspect(path, **fields | error.fix).notes)
    masks = [np.where(truth(i)[..., None] == 3, (9, 9, 200), COLOURS[truth(i)]) for i in range(4)]
    many = write_set(tmp_path / "many", [mask.astype(np.uint8) for mask in masks])
    assert only_error(inspect(many, **fields)).fix == {}  # rather a class that the palette lacks


# conventions


def by_file(*maps: dict[int, int]) -> list[np.ndarray]:
    """Six masks, whose classes 0.. have other values in each: maps of class to value, in turn."""
    masks = []
    for i in range(6):
        values = maps[i % len(maps)]
        classes = sorted(values)
        ids = truth(i, len(classes))
        masks.append(np.array([values[c] for c in classes])[ids].astype(np.uint8))
    return masks


TWO = {
    "0 1 and 0 255": ({0: 0, 1: 1}, {0: 0, 1: 255}),
    "0 1 and 0 128": ({0: 0, 1: 1}, {0: 0, 1: 128}),
    "0 1 and 0 254": ({0: 0, 1: 1}, {0: 0, 1: 254}),
    "1 2 and 0 255": ({0: 1, 1: 2}, {0: 0, 1: 255}),
    "0 128 and 0 255": ({0: 0, 1: 128}, {0: 0, 1: 255}),
    "ids and levels": (
        {0: 0, 1: 1, 2: 2, 3: 3},
        {0: 0, 1: 85, 2: 170, 3: 255},
    ),
}


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("name", TWO)
def test_two_conventions_may_mean_the_same(tmp_path: Path, name: str, classes: bool):
    maps = TWO[name]
    names = {"classes": [f"c{i}" for i in range(len(maps[0]))]} if classes else {}
    path = write_set(tmp_path, by_file(*maps))
    error = only_error(inspect(path, **names))
    assert len(error.places) == 2 and len(error.choices) > 1 - classes
    for number, ids in read_all(path, **names | error.choices[0].fix).items():
        np.testing.assert_array_equal(ids, truth(int(number), len(maps[0])))


@pytest.mark.parametrize("inverted", [False, True])
def test_a_convention_with_the_object_at_0_is_named(tmp_path: Path, inverted: bool):
    """Bilevel BMP files of 0 and 1 beside ones of 255 around an object of 0."""
    masks = [np.zeros((H, W), np.uint8) for _ in range(6)]
    for i, mask in enumerate(masks):
        mask[i : i + 4, 3:8] = 1
    masks[3:] = [np.where((mask == 1) ^ inverted, 255, 0).astype(np.uint8) for mask in masks[3:]]
    error = only_error(inspect(write_set(tmp_path, masks)))
    assert error.kind == "convention" and ("inverted" in error.remedy) == inverted


def test_void_that_meets_no_class_is_confirmed_or_a_class(tmp_path: Path):
    path = write_set(tmp_path, by_file({0: 0, 1: 1, 2: 2}, {0: 0, 1: 255}))
    error = only_error(inspect(path))
    own, ignored = (choice.fix["label_map"] for choice in error.choices)
    assert (own, ignored) == ({255: 3}, {255: "ignore"})
    for label_map in (own, ignored):
        read_all(path, label_map=label_map)


@pytest.mark.parametrize(
    "masks",
    [
        by_file({0: 0, 1: 1, 2: 255}),
        by_file({0: 0, 1: 1}, {0: 1, 1: 255}, {0: 0, 1: 255}),
        by_file({0: 0, 1: 1}, {0: 0, 1: 2}, {0: 0, 1: 3}),  # a class in each
        [*by_file({0: 0, 1: 1}), np.full((H, W), 255, np.uint8)],  # one is all void
        by_file({0: 0, 1: 1, 2: 2}, {0: 0, 1: 2}, {0: 1, 1: 3}),
    ],
)
def test_masks_of_one_convention_are_read(tmp_path: Path, masks: list):
    for name, ids in read_all(write_set(tmp_path, masks)).items():
        np.testing.assert_array_equal(ids, masks[int(name)])


@settings(max_examples=25, deadline=None)
@given(st.sets(st.integers(1, 3), min_size=1), st.data())
def test_any_order_of_files_finds_the_same_conventions(tmp_path_factory, classes, data):
    """Each class occurs in a mask of ids and in one of levels; where masks stand is no matter."""
    pool = [{0: 0, 1: c} for c in (1, *classes)] + [{0: 0, 1: 255}]
    maps = data.draw(st.permutations(pool))
    masks = [np.array([m[0], m[1]])[truth(i, 2)].astype(np.uint8) for i, m in enumerate(maps)]
    path = write_set(tmp_path_factory.mktemp("set"), masks)
    kinds = [f.kind for f in inspect(path, classes=list("abcd")).findings if f.error]
    assert kinds == ["convention"]


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_white_of_16_bits_may_be_a_class(tmp_path: Path, mixed: bool, classes: bool):
    names = {"classes": ["a", "b"]} if classes else {}
    white = [1 if mixed and i % 2 else 65535 for i in range(4)]
    path = write_set(tmp_path, [truth(i, 2).astype(np.uint16) * white[i] for i in range(4)])
    error = only_error(inspect(path, **names))
    for number, ids in read_all(path, **names | (error.fix or error.choices[0].fix)).items():
        np.testing.assert_array_equal(ids, truth(int(number), 2))


@pytest.mark.parametrize("classes", [False, True])
@pytest.mark.parametrize(
    "objects", [(1, 255, 128), (255, 65535), (1, 255, 65535), (100, 200, 255), (1, 254, 255)]
)
def test_any_number_of_values_may_be_the_object(tmp_path: Path, objects: tuple, classes: bool):
    names = {"classes": ["a", "b"]} if classes else {}
    masks = [truth(i, 2).astype(np.uint16) * objects[i % len(objects)] for i in range(6)]
    path = write_set(tmp_path, masks)
    error = only_error(inspect(path, **names))
    for number, ids in read_all(path, **names | error.choices[0].fix).items():
        np.testing.assert_array_equal(ids, truth(int(number), 2))


# instances


def instances(counts: list[int], ids: Callable[[int, int], int] = lambda i, k: k) -> list:
    """Masks with so many objects each: numbered by ids(mask, object)."""
    masks = []
    for i, count in enumerate(counts):
        mask = np.zeros((H, W), np.uint16)
        for k in range(count):
            y, x = 3 * (k // 4), 3 * (k % 4)
            mask[y : y + 2, x : x + 2] = ids(i, k + 1)
        masks.append(mask)
    return masks


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize(
    "ids",
    [
        lambda i, k: k,
        lambda i, k: 1000 * i + k,
        lambda i, k: 26000 + 13 * i + k,
        lambda i, k: 13 * i + k,
    ],
)
def test_ids_of_instances_become_one_class(tmp_path: Path, ids: Callable, suffix: str):
    masks = instances([3, 7, 5, 11, 2, 9], ids)
    path = write_set(tmp_path, masks, suffix)
    error = only_error(inspect(path))
    assert error.kind == "instances"
    for name, found in read_all(path, **error.choices[0].fix).items():
        np.testing.assert_array_equal(found, masks[int(name)] > 0)


def test_ids_of_instances_may_be_classes(tmp_path: Path):
    masks = instances([3, 7, 5, 11, 2, 9])
    path = write_set(tmp_path, masks)
    for name, found in read_all(path, **only_error(inspect(path)).choices[1].fix).items():
        np.testing.assert_array_equal(found, masks[int(name)])
    read_all(path, classes=[f"c{i}" for i in range(12)])  # named: no question


def composed(i: int, base: int) -> np.ndarray:
    """Classes 0..3 of which 1..3 have instances, numbered from 0 or 1 in each image."""
    classes = truth(i).astype(np.uint16)
    return np.where(classes, classes * base + 1 + np.arange(W) // 4, 0).astype(np.uint16)


@pytest.mark.parametrize("classes", [None, list("abcd")])
@pytest.mark.parametrize("base", [256, 1000])
def test_class_and_instance_in_one_number(tmp_path: Path, base: int, classes: list[str] | None):
    masks = [composed(i, base) for i in range(6)]
    config = DataConfig(path=write_set(tmp_path, masks), classes=classes)
    (finding,) = [f for f in inspect_data_set(config).findings if f.error]
    assert finding.kind == "instances" and not finding.fix
    assert f"class * {base}" in finding.text and f"value // {base}" in finding.remedy
    (choice,) = finding.choices
    survey = survey_data_set(config.model_copy(update=choice.fix))
    for split in survey.data_set.splits.values():
        for sample in split:
            ids = survey.data_set.masks(sample.mask)
            assert (ids == truth(int(sample.image.stem))).all()


def test_instances_may_be_numbered_through_all_classes(tmp_path: Path):
    base = 1000
    classes = [np.repeat(np.arange(12) * 7 % 4, W).reshape(H, W) for _ in range(6)]
    number = 3 + np.arange(H)[:, None] // 2
    masks = [np.where(mask, mask * base + number, 0).astype(np.uint16) for mask in classes]
    path = write_set(tmp_path, masks)
    error = only_error(inspect(path))
    assert f"class * {base}" in error.text
    for name, ids in read_all(path, **error.choices[0].fix).items():
        np.testing.assert_array_equal(ids, classes[int(name)])


def test_instances_are_not_taken_for_named_classes(tmp_path: Path):
    masks = [np.arange(H * W, dtype=np.uint8).reshape(H, W) // 12 % k for k in (4, 6, 8, 9, 12)]
    config = DataConfig(path=write_set(tmp_path, masks), classes=["ground", "object"])
    (finding,) = [f for f in inspect_data_set(config).findings if f.kind == "instances"]
    (choice,) = finding.choices
    assert choice.fix == {"other_values": 1}


def test_evaluation_compares_the_palettes_of_named_classes(tmp_path: Path):
    path = write_set(tmp_path, [reordered(i) for i in range(5)])
    config = DataConfig(path=path, classes=list("abcd"), val_fraction=0.8)
    with pytest.raises(SegtrainError, match="contradict"):
        open_data_set(config, split="val")
    assert open_data_set(config.model_copy(update={"palette_by": "index"}), split="val")


def test_indices_of_dithering_may_be_the_nearest_class(tmp_path: Path):
    colours = np.zeros((40, 3), np.uint8)
    colours[[13, 14, 28]] = (200, 0, 0), (204, 51, 0), (0, 200, 0)
    masks = []
    for i in range(6):
        indices = np.array([0, 13, 28])[truth(i, 3)]
        y, x = np.argwhere(indices == 13)[0]
        indices[y, x] = 14
        masks.append(indexed(indices, colours))
    config = DataConfig(path=write_set(tmp_path, masks))
    (finding,) = [f for f in inspect_data_set(config).findings if f.error]
    assert not finding.fix
    survey = survey_data_set(config.model_copy(update=finding.choices[-1].fix))
    for sample in survey.data_set.splits["train"]:
        assert (survey.data_set.masks(sample.mask) == truth(int(sample.image.stem), 3)).all()


def test_classes_are_no_instances(tmp_path: Path):
    """Severities 0..4, and six classes of which most masks have all."""
    grades = [truth(i, 2 + i % 4) for i in range(6)]
    most = [truth(i, 6 if i < 4 else i) for i in range(6)]
    for name, masks in (("grades", grades), ("most", most)):
        read = read_all(write_set(tmp_path / name, [mask.astype(np.uint8) for mask in masks]))
        assert all((ids == masks[int(name)]).all() for name, ids in read.items())


def test_many_classes_that_masks_share_are_no_instances(tmp_path: Path):
    masks = [(truth(i, 6) + i % 5 * 3).astype(np.uint8) for i in range(10)]
    for name, ids in read_all(write_set(tmp_path, masks)).items():
        np.testing.assert_array_equal(ids, masks[int(name)])


# nodata


def geotiff(mask: np.ndarray, tag: str | None = None) -> Callable[[Path], None]:
    tags = [(42113, "s", 0, tag, True)] if tag else []
    return lambda file: tifffile.imwrite(file, mask, extratags=tags)


NODATA = {
    "-9999": (np.int16, -9999, None),
    "-1": (np.int16, -1, None),
    "65535": (np.uint16, 65535, None),
    "2**32 - 1": (np.uint32, 2**32 - 1, None),
    "32767": (np.int16, 32767, "32767"),
    "NaN": (np.float32, np.nan, None),
    "float": (np.float32, np.finfo(np.float32).min, None),
    "a tag": (np.uint8, 99, "99"),
    "255": (np.uint8, 255, "255"),
    "another tag": (np.uint8, 200, "200"),
}


@pytest.mark.parametrize("classes", [None, list("abcd")])
@pytest.mark.parametrize("name", NODATA)
def test_nodata_is_ignored_and_reported(tmp_path: Path, name: str, classes):
    dtype, value, tag = NODATA[name]
    masks = [truth(i).astype(dtype) for i in range(4)]
    for mask in masks:
        mask[:2] = value
    path = write_set(tmp_path, [geotiff(mask, tag) for mask in masks], ".tif")
    for number, ids in read_all(path, classes=classes).items():
        expected = truth(int(number))
        expected[:2] = 255
        np.testing.assert_array_equal(ids, expected)
    if name != "255":
        assert any("16.67%" in note.text for note in inspect(path, classes=classes).notes)


@pytest.mark.parametrize("classes", [None, list("abcd")])
def test_a_tag_that_names_a_class_is_a_question(tmp_path: Path, classes):
    masks = [truth(i).astype(np.uint8) for i in range(4)]
    path = write_set(tmp_path, [geotiff(mask, "0") for mask in masks], ".tif")
    names = {"classes": classes} if classes else {}
    ignored, kept = (choice.fix for choice in only_error(inspect(path, **names)).choices)
    for number, ids in read_all(path, **names | kept).items():
        np.testing.assert_array_equal(ids, masks[int(number)])
    for number, ids in read_all(path, **names | ignored).items():
        np.testing.assert_array_equal(ids == 255, masks[int(number)] == 0)
    read_all(path, label_map={0: 0}, **names)
    if classes:
        data = open_data_set(DataConfig(path=path, classes=classes))
        with pytest.raises(SegtrainError, match="data.nodata"):
            data.masks(data.split("train")[0].mask)


def test_background_of_two_classes_is_no_nodata(tmp_path: Path):
    masks = [truth(i, 2).astype(np.uint8) for i in range(4)]
    path = write_set(tmp_path, [geotiff(mask, "0") for mask in masks], ".tif")
    for number, ids in read_all(path).items():
        np.testing.assert_array_equal(ids, masks[int(number)])


def test_a_list_of_nodata_replaces_what_is_ignored_by_default(tmp_path: Path):
    masks = [truth(i).astype(np.int16) for i in range(4)]
    for mask in masks:
        mask[:2], mask[2:4] = -1, 3
    path = write_set(tmp_path, [geotiff(mask) for mask in masks], ".tif")
    fields = {"classes": list("abcd")}
    assert only_error(inspect(path, **fields, nodata=[3])).kind == "value"
    for number, ids in read_all(path, **fields, nodata=[3, -1]).items():
        mask = masks[int(number)]
        np.testing.assert_array_equal(ids, np.where((mask == 3) | (mask == -1), 255, mask))
    mapped = read_all(path, **fields, label_map={-1: 2})  # an entry of the label map comes first
    assert all((ids[0] == 2).all() for ids in mapped.values())


# all splits


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("split", ["val", "test"])
def test_a_class_of_any_split_is_a_class(tmp_path: Path, split: str, full: bool):
    for number, name in enumerate(("train", "val", "test")):
        masks = [truth(i, 5 if name == split else 4).astype(np.uint8) for i in range(3)]
        write_set(tmp_path / name, masks, first=10 * number)
    found = inspect_data_set(DataConfig(path=str(tmp_path)), full=full)
    assert isinstance(found, Survey) and len(found.data_set.classes) == 5
    assert ("test" in found.facts) == full


@pytest.mark.parametrize("channel", range(3))
def test_ids_in_one_channel_are_classes_in_their_order(tmp_path: Path, channel: int):
    masks = [np.zeros((H, W, 3), np.uint8) for _ in range(4)]
    for i, mask in enumerate(masks):
        mask[..., channel] = truth(i)
        mask[:3, :, channel] = 3  # the most frequent colour
    path = write_set(tmp_path, masks)
    palette = only_error(inspect(path)).fix["palette"]
    assert [colour[channel] for colour in palette] == [0, 1, 2, 3]


def coloured_objects(i: int, background: bool) -> np.ndarray:
    """Two blocks and the rest, in colours of their own in each file."""
    colours = np.random.default_rng(i).integers(1, 255, (3, 3), np.uint8)
    colours[0] *= not background
    mask = np.zeros((H, W), np.uint8)
    mask[2:4, 3:9], mask[6 : 7 + i % 4, 2:7] = 1, 2
    return colours[mask]


@pytest.mark.parametrize("background", [True, False])
def test_colours_of_single_objects_are_no_classes(tmp_path: Path, background: bool):
    masks = [coloured_objects(i, background) for i in range(6)]
    path = write_set(tmp_path, masks)
    error = only_error(inspect(path))
    assert "objects" in error.text and not error.fix and len(error.choices) == background
    for choice in error.choices:
        found = inspect(path, **choice.fix)
        assert isinstance(found, Survey) and not [f for f in found.findings if f.error]
        for sample in found.data_set.splits["train"]:
            inside = masks[int(sample.mask.stem)].any(axis=2)
            assert (found.data_set.masks(sample.mask) == inside).all()
