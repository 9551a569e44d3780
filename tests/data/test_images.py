"""Image files -> upright RGB."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import scene
from PIL import Image

from segtrain.data.images import read_image, upright_size
from segtrain.errors import SegtrainError

# what makes the stored pixels upright, by EXIF orientation
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}


def rgb_pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (5, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, suffix: str):
    stored, path = rgb_pixels(), tmp_path / f"photo{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif, lossless=True)
    np.testing.assert_array_equal(read_image(path), UPRIGHT[orientation](stored))
    assert upright_size(path) == ((9, 5) if orientation >= 5 else (5, 9))


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_jpeg_photo_is_turned_too(tmp_path: Path, orientation: int):
    stored, path = np.zeros((16, 32, 3), np.uint8), tmp_path / "photo.jpg"
    stored[:8, :8] = 255  # one bright corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(path, exif=exif, quality=95)
    upright = UPRIGHT[orientation](stored)
    assert upright_size(path) == upright.shape[:2]
    assert np.abs(read_image(path).astype(int) - upright).max() < 60


GREY = np.arange(0, 60, 4, dtype=np.uint8).reshape(3, 5)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "RGB", "CMYK", "PA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str):
    path = tmp_path / ("photo.tif" if mode in ("CMYK", "PA") else "photo.png")
    image = Image.fromarray(rgb_pixels())
    image = image.quantize(8).convert("PA") if mode == "PA" else image.convert(mode)
    image.save(path)
    pixels = read_image(path)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (5, 9, 3))
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


def test_grey_is_the_same_in_every_channel(tmp_path: Path):
    Image.fromarray(GREY).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.stack([GREY] * 3, 2))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_16_bit_grey_keeps_its_upper_8_bits(tmp_path: Path, suffix: str):
    deep = GREY.astype(np.uint16) * 1000 + 7
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(deep).save(path)
    np.testing.assert_array_equal(read_image(path), np.stack([deep // 256] * 3, 2))


def test_alpha_is_dropped_not_blended(tmp_path: Path):
    pixels = np.dstack([rgb_pixels(), np.zeros((5, 9), np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(read_image(tmp_path / "clear.png"), pixels[..., :3])


def test_a_cmyk_jpeg_becomes_rgb(tmp_path: Path):
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(path, quality=95)
    pixels = read_image(path)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (4, 6, 3))
    assert pixels[0, 0, 0] > 200 and pixels[0, 0, 1:].max() < 60  # cyan-free: red


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp"])
def test_a_truncated_image_is_named(tmp_path: Path, suffix: str):
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(scene(0)[0]).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(SegtrainError, match=f"cut{suffix}: .*replace or remove it"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n"])
@pytest.mark.parametrize("read", [read_image, upright_size])
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, read):
    path = tmp_path / "note.png"
    path.write_bytes(content)
    with pytest.raises(SegtrainError, match="note.png: .*replace or remove it"):
        read(path)


@pytest.mark.parametrize("read", [read_image, upright_size])
def test_a_missing_image_is_named(tmp_path: Path, read):
    with pytest.raises(SegtrainError, match="gone.png: no such file"):
        read(tmp_path / "gone.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_size_is_read_from_the_header_alone(tmp_path: Path, suffix: str):
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(scene(0)[0]).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert upright_size(path) == (48, 40)
