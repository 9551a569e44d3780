"""The embedded demo: deterministic, unbalanced, and well labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import write_pairs
from PIL import Image

from segtrain.commands.requests import FitOptions, request_fit
from segtrain.config.loading import compare_configs, load_config, to_yaml
from segtrain.data.demo import CLASSES, IGNORE, PALETTE, SETTINGS, scene, write_demo


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default set on disk."""
    folder = tmp_path_factory.mktemp("demo")
    write_demo(folder)
    return folder


def masks_of(demo: Path, split: str) -> list[np.ndarray]:
    return [np.asarray(Image.open(p)) for p in sorted((demo / "masks" / split).iterdir())]


def test_a_scene_is_a_function_of_seed_and_index():
    image, mask = scene(0, 3)
    assert (image.shape, image.dtype) == ((128, 160, 3), np.uint8)
    assert (mask.shape, mask.dtype) == ((128, 160), np.uint8)
    same = scene(0, 3)
    assert (same[0] == image).all() and (same[1] == mask).all()
    for other in (scene(0, 4), scene(1, 3)):
        assert (other[0] != image).any() and (other[1] != mask).any()


def test_scenes_of_other_sizes():
    image, mask = scene(0, 0, (96, 70))
    assert image.shape == (96, 70, 3) and mask.shape == (96, 70)


def test_the_default_set_is_160_and_40_pairs(demo: Path):
    for split, first, count in (("train", 0, 160), ("val", 160, 40)):
        expected = [f"{i:03d}.png" for i in range(first, first + count)]
        for kind in ("images", "masks"):
            assert sorted(p.name for p in (demo / kind / split).iterdir()) == expected
    image = Image.open(demo / "images" / "val" / "167.png")
    assert (image.mode, image.size) == ("RGB", (160, 128))
    assert (np.asarray(image) == scene(0, 167)[0]).all()


def test_masks_are_indexed_with_the_classes_colours(demo: Path):
    for index in (0, 159):
        mask = Image.open(demo / "masks" / "train" / f"{index:03d}.png")
        assert mask.mode == "P"
        colours = np.reshape(mask.getpalette(), (-1, 3))[: len(CLASSES)]
        np.testing.assert_array_equal(colours, PALETTE)
        assert (np.asarray(mask) == scene(0, index)[1]).all()
    assert len(set(PALETTE)) == len(CLASSES) >= 5


def test_all_classes_occur_and_are_unbalanced(demo: Path):
    for split in ("train", "val"):
        counts = sum(np.bincount(mask.ravel(), minlength=256) for mask in masks_of(demo, split))
        assert set(np.flatnonzero(counts)) == {*range(len(CLASSES)), IGNORE}
        assert IGNORE == 255 and counts[IGNORE] < 0.2 * counts.sum()
        if split == "train":
            assert counts[: len(CLASSES)].max() >= 50 * counts[: len(CLASSES)].min()


def test_all_scenes_differ(demo: Path):
    images = {path.read_bytes() for path in (demo / "images").rglob("*.png")}
    assert len(images) == 200


def config_of_fit(file: Path | None = None, *sets: str, **flags: object):
    given = {key.replace("__", "."): value for key, value in flags.items()}
    return request_fit(FitOptions(file, [*sets], given, Path("runs"))).config


def test_fit_takes_the_demos_settings_where_nothing_is_given_for_them(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    mine = {"loss.thresh": 0.6, "model.encoder": "resnet34", "train.epochs": None}
    config = request_fit(FitOptions(None, ["data.workers=0"], mine, Path("runs"))).config
    assert config == load_config(sets=["data.workers=0"], flags=mine | SETTINGS)
    line = capsys.readouterr().out
    assert all(f"{key} {value}" in line for key, value in SETTINGS.items())
    assert config_of_fit(data__path="demo").train.epochs == SETTINGS["train.epochs"]


def test_any_flag_set_or_file_for_them_turns_them_off(tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.yaml").write_text("augment: {scale: null}")
    Path("b.yaml").write_text(to_yaml(load_config()))
    assert config_of_fit(train__epochs=50) == config_of_fit(None, "optim.lr=1e-3") == load_config()
    assert config_of_fit(Path("a.yaml")) == config_of_fit(Path("b.yaml")) == load_config()
    write_pairs(tmp_path / "data", count=2)
    assert config_of_fit() == config_of_fit(data__path="data/images/..").model_copy(
        update={"data": load_config().data}
    )
    assert "settings" not in capsys.readouterr().out


def test_names_and_older_fields_count_with_the_demos_settings_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"model__arch": "DeepLabV3+", "model__encoder": "MiT-B0"}
    config = config_of_fit(None, "eval.group_by=x", **names)
    assert (config.model.arch, config.model.encoder) == ("deeplabv3plus", "mit_b0")
    assert (config.data.group_by, config.train.epochs) == ("x", SETTINGS["train.epochs"])


def test_the_config_of_the_repository_has_the_same_settings():
    file = load_config(Path(__file__).parents[2] / "configs/demo.yaml")
    changed = compare_configs(load_config(), file)
    assert changed.keys() == SETTINGS.keys() | {"data.path"}
    assert {key: changed[key][1] for key in SETTINGS} == SETTINGS
