"""A training's value range for images of other files: by their type, and asked for in doubt."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import run_cli
from PIL import Image

from segtrain.data.images import ImageReader
from segtrain.data.value_range import match_value_range
from segtrain.errors import SegtrainError
from segtrain.models.checkpoint import Meta, load_model, save_model

TWELVE = (0.0, 4095.0)
RAMP = np.linspace(0, 1, 64).reshape(8, 8)


def write(folder: Path, *arrays: np.ndarray) -> list[Path]:
    """Write images: .npy, or .png of grey levels."""
    folder.mkdir(exist_ok=True)
    paths = []
    for number, array in enumerate(arrays):
        png = array.dtype in (np.uint8, np.uint16)
        paths.append(folder / f"{number}.{'png' if png else 'npy'}")
        Image.fromarray(array).save(paths[-1]) if png else np.save(paths[-1], array)
    return paths


BYTES = (RAMP * 255).astype(np.uint8)
DEEP = (RAMP * 4095).astype(np.uint16)
WHOLE = (RAMP * 65535).astype(np.uint16)
FLOAT = RAMP.astype(np.float32)


@pytest.mark.parametrize("array", [BYTES, DEEP])
@pytest.mark.parametrize("others", [[], [BYTES], [DEEP], [DEEP, BYTES]])
def test_each_image_is_read_by_its_own_type(tmp_path: Path, array, others):
    paths = write(tmp_path / "x", array, *others)
    reader, notes = match_value_range(ImageReader(1, TWELVE), paths)
    assert np.abs(reader(paths[0])[..., 0] - RAMP * 255).max() <= 1
    has_bytes = any(a.dtype == np.uint8 for a in (array, *others))
    assert ["8-bit" in note.text for note in notes] == [True] * has_bytes


@pytest.mark.parametrize(
    "array, value_range",
    [(WHOLE, TWELVE), (FLOAT, TWELVE), (WHOLE, (10.0, 200.0)), (DEEP // 16, (0.0, 65535.0))],
)
def test_a_range_that_can_hardly_be_theirs_is_asked_for(tmp_path: Path, array, value_range):
    paths = write(tmp_path / "x", array)
    with pytest.raises(SegtrainError) as raised:
        match_value_range(ImageReader(1, value_range), paths)
    low, high = value_range
    for word in (f"'data.value_range=[{low:g}, {high:g}]'", "data.value_range=null", str(tmp_path)):
        assert word in str(raised.value)
    own = match_value_range(ImageReader(1, value_range), paths, trained_on=True)
    assert own == (ImageReader(1, value_range), [])


def test_a_few_bright_pixels_and_a_dark_background_are_no_doubt(tmp_path: Path):
    array = np.zeros((8, 8), np.uint16)
    array[0, :3] = 9000, 300, 2000
    reader = ImageReader(1, TWELVE)
    assert match_value_range(reader, write(tmp_path / "x", array)) == (reader, [])


def test_dark_16_bit_images_without_a_range_are_named(tmp_path: Path):
    (note,) = match_value_range(ImageReader(1), write(tmp_path / "x", DEEP))[1]
    assert "data.value_range" in note.text
    for array in (WHOLE, BYTES):
        assert match_value_range(ImageReader(1), write(tmp_path / "y", array))[1] == []


def test_images_that_cannot_be_read_are_left_to_their_reader(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(b"no image")
    reader = ImageReader(3, TWELVE)
    assert match_value_range(reader, [tmp_path / "a.png"]) == (reader, [])
    assert match_value_range(reader, []) == (reader, [])


@pytest.mark.parametrize("given", [[], ["--set", "data.value_range=[0, 4095]"]])
def test_a_photo_for_a_network_of_12_bit_images(trained: Path, tmp_path: Path, given: list[str]):
    """From outside: it is predicted as by the same network of 8-bit images."""
    model, meta = load_model(trained / "checkpoints/best.safetensors")
    photo = next((trained.parents[1] / "set/images").iterdir())
    shutil.copy(photo, tmp_path / "photo.png")
    masks = []
    for name, value_range in (("bytes", None), ("deep", TWELVE)):
        data = meta.config.data.model_copy(update={"value_range": value_range})
        config = meta.config.model_copy(update={"data": data})
        described = Meta.of(
            model, config, classes=meta.classes, palette=meta.palette, epoch=1, miou=None
        )
        save_model(tmp_path / f"{name}.safetensors", model, described)
        asked = ["--checkpoint", tmp_path / f"{name}.safetensors", "--out", tmp_path / name]
        sets = given if name == "deep" else []
        done = run_cli("predict", tmp_path / "photo.png", *asked, "--device", "cpu", *sets)
        assert done.code == 0, done.stderr
        masks.append(np.asarray(Image.open(tmp_path / name / "photo_mask.png")))
    assert ("read whole" in done.stdout) == (not given)
    assert (masks[0] == masks[1]).all() or given
