"""A data section resolved once: the same value for training and evaluation, in every process."""

from __future__ import annotations

import pickle
import types
from collections import Counter
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from conftest import QUICK, scene, write_pairs
from PIL import Image

from segtrain.config import DataConfig
from segtrain.data.data_set import DataSet
from segtrain.data.images import ImageReader
from segtrain.data.inspection.survey import Survey, inspect_data_set, open_data_set, survey_data_set
from segtrain.data.loading.cache import open_caches, stamp_of
from segtrain.data.masks import MaskReader
from segtrain.errors import SegtrainError, UsageError


def optional_fields(kind: type) -> list[str]:
    """Names of a dataclass's fields whose type admits None."""
    hints = get_type_hints(kind)
    return [f.name for f in fields(kind) if types.NoneType in get_args(hints[f.name])]


def test_nothing_in_a_data_set_is_optional():
    assert optional_fields(DataSet) == optional_fields(Survey) == []


def test_a_broadcast_data_set_reads_and_caches_alike(pairs: Path, monkeypatch, tmp_path: Path):
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))
    palette = [(0, 0, 0), (9, 9, 9), (0, 0, 0)]
    config = DataConfig(path=str(pairs), cache="disk", palette=palette, label_map={2: "ignore"})
    original = open_data_set(config)
    sent = pickle.loads(pickle.dumps(original))
    assert sent.splits == original.splits and sent.config == original.config
    sizes = {"train": [(48, 40)] * len(original.splits["train"])}
    keys = set()
    for data in (original, sent, pickle.loads(pickle.dumps(sent))):
        sample = data.splits["train"][0]
        cache = open_caches(data, sizes).by_split["train"]
        keys.add(cache.key(0, stamp_of(sample)))
        assert np.array_equal(data.images(sample.image), original.images(sample.image))
        assert np.array_equal(data.masks(sample.mask), original.masks(sample.mask))
    assert len(keys) == 1


@pytest.mark.parametrize(
    "change", [{"lb_ignore": 9}, {"label_map": {2: 1}}, {"classes": ["a", "b", "c", "d"]}]
)
def test_readers_of_another_meaning_have_another_key(pairs: Path, change: dict):
    plain = open_data_set(DataConfig(path=str(pairs)))
    other = open_data_set(DataConfig(path=str(pairs), **change))
    assert repr(plain.masks) != repr(other.masks)


def cityscapes(root: Path) -> Path:
    """Label ids of Cityscapes: its layout maps 7 to road (0), 8 to sidewalk (1), 26 to car (13)."""
    for split, first in (("train", 0), ("val", 10)):
        for index in range(first, first + 3):
            image, mask = scene(index)
            values = np.array([7, 8, 26], np.uint8)[mask]
            for folder, ending, array in (
                ("leftImg8bit", "leftImg8bit", image),
                ("gtFine", "gtFine_labelIds", values),
            ):
                file = root / folder / split / "bonn" / f"bonn_{index:06d}_000019_{ending}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(array).save(file)
    return root


@pytest.mark.parametrize("own", [{}, {"label_map": {26: "ignore", 7: 13}}])
def test_training_and_evaluation_see_the_same_labels(tmp_path: Path, own: dict):
    root = str(cityscapes(tmp_path / "set"))
    config = DataConfig.model_validate({"path": root, "format": "cityscapes", **own})
    trained, scored = survey_data_set(config).data_set, open_data_set(config)
    again = open_data_set(trained.config)  # as a checkpoint has it
    for other in (scored, again):
        assert repr(other.masks) == repr(trained.masks)
        assert (other.classes, other.palette) == (trained.classes, trained.palette)
        assert other.splits == trained.splits and other.lb_ignore == trained.lb_ignore
        assert list(map(str, other.notes)) == list(map(str, trained.notes))
    ids = {i for s in trained.splits["val"] for i in np.unique(trained.masks(s.mask))}
    assert ids == ({1, 13, 255} if own else {0, 1, 13})
    assert any("26 is ignored by data.label_map" in str(n) for n in trained.notes) == bool(own)


def test_evaluation_reads_no_pixel_where_classes_are_named(pairs: Path, monkeypatch):
    def refuse(*args: Any) -> None:
        raise AssertionError("read")

    monkeypatch.setattr(ImageReader, "__call__", refuse)
    monkeypatch.setattr("segtrain.data.inspection.scan.read_raw", refuse)
    data = open_data_set(DataConfig(path=str(pairs), classes=["a", "b", "c"]))
    assert data.classes == ["a", "b", "c"]
    with pytest.raises(AssertionError, match="read"):
        open_data_set(DataConfig(path=str(pairs)))


def test_a_missing_split_is_named_with_those_there_are(pairs: Path):
    data = open_data_set(DataConfig(path=str(pairs)))
    assert len(data.split("train")) == 5
    with pytest.raises(UsageError, match="--split tset: .*has train, val"):
        data.split("tset")


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_without_a_readable_mask_nothing_is_guessed(pairs: Path, on_error: str):
    for path in (pairs / "masks").iterdir():
        path.write_bytes(b"?")
    config = DataConfig(path=str(pairs), on_error=on_error)
    assert not isinstance(inspect_data_set(config), Survey)
    for resolve in (survey_data_set, open_data_set):
        with pytest.raises(SegtrainError, match="cannot be read.*masks/.*not an image"):
            resolve(config)


def test_a_command_builds_each_reader_once(cli, tmp_path: Path, monkeypatch):
    write_pairs(tmp_path / "set")
    built: Counter = Counter()
    for kind in (ImageReader, MaskReader):

        def count(self, *args, _init=kind.__init__, _kind=kind.__name__, **more):
            built[_kind] += 1
            _init(self, *args, **more)

        monkeypatch.setattr(kind, "__init__", count)
    for command in (["fit", "--data", "set", *QUICK, "--name", "x"], ["eval", "runs/x"]):
        built.clear()
        answer = cli(*command)
        assert answer.code == 0, answer.stderr
        assert built == {"ImageReader": 1, "MaskReader": 1}


@pytest.mark.parametrize("tags", [(6, 1), (6, 6), (1, 8)])
def test_data_exif_false_reads_images_and_masks_as_stored(tmp_path: Path, tags: tuple[int, int]):
    """Whichever of the two has the tag, and at every reader of the data set."""
    truth = np.random.default_rng(0).integers(0, 3, (6, 12, 20), dtype=np.uint8)
    for index, ids in enumerate(truth):
        for folder, pixels, tag in zip(("images", "masks"), (ids * 80, ids), tags, strict=True):
            exif = Image.Exif()
            exif[0x0112] = tag
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{index}.png", exif=exif)
    data = open_data_set(DataConfig(path=str(tmp_path), exif=False))
    sample = data.splits["train"][0]
    ids = truth[int(sample.name)]
    np.testing.assert_array_equal(data.images(sample.image)[..., 0], ids * 80)
    np.testing.assert_array_equal(data.masks(sample.mask), ids)
    assert data.images.size(sample.image) == (12, 20)
    if tags[0] != tags[1]:
        with pytest.raises(SegtrainError, match="sizes differ"):
            open_data_set(DataConfig(path=str(tmp_path), exif=True))
