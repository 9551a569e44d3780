"""Quick decoding against Pillow's alone: the same pixels, the same verdict on damaged files."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from segtrain.data import quick
from segtrain.data.decoding import open_image
from segtrain.data.images import ImageReader
from segtrain.data.stored_masks import read_mask
from segtrain.errors import SegtrainError

PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
SCENE = Image.linear_gradient("L").resize((61, 47)).convert("RGB")
SCENE = Image.merge(
    "RGB", [SCENE.getchannel(0), SCENE.getchannel(0).rotate(90), SCENE.getchannel(0).rotate(180)]
)
PNGS = {mode: {"mode": mode} for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")}
PNGS |= {f"{bits} bits": {"mode": "P", "bits": bits} for bits in (1, 2, 4)}
PNGS |= {
    "turned": {"mode": "RGB", "orientation": 6},
    "transparent": {"mode": "P", "transparency": 3},
    "profile": {"mode": "RGB", "icc_profile": PROFILE.tobytes()},
    "stored": {"mode": "RGB", "compress_level": 0},
}


def encode(mode: str = "RGB", bits: int = 8, orientation: int = 0, **options) -> bytes:
    image = SCENE.convert("L") if mode == "I;16" else SCENE.convert(mode)
    if bits < 8:
        image, options = SCENE.quantize(2**bits), options | {"bits": bits}
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257)
    if orientation:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def read(path: Path, monkeypatch: pytest.MonkeyPatch, alone: bool) -> list:
    """Return what a file is read as by each reader, or why it is refused."""
    found: list = []
    with monkeypatch.context() as patch:
        if alone:
            patch.setattr(quick, "deflate", None)
        for reader in (ImageReader(), ImageReader(upright=False), lambda p: read_mask(p).values):
            try:
                pixels = reader(path)
                found += [pixels.shape, str(pixels.dtype), pixels.tobytes()]
            except SegtrainError as error:
                found.append(str(error))
    return found


@pytest.mark.parametrize("options", PNGS.values(), ids=PNGS)
def test_pixels_are_pillows(tmp_path: Path, monkeypatch, options: dict):
    path = tmp_path / "a.png"
    path.write_bytes(encode(**options))
    assert read(path, monkeypatch, alone=False) == read(path, monkeypatch, alone=True)
    with monkeypatch.context() as patch:
        patch.setattr(quick, "deflate", None)
        expected = open_image(path)
    image = open_image(path)
    for name in ("mode", "size", "format", "info", "getpalette"):
        value, other = getattr(image, name), getattr(expected, name)
        assert (value() if callable(value) else value) == (other() if callable(other) else other)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "I;16"])
def test_rows_are_decompressed_before_pillow(tmp_path: Path, monkeypatch, mode: str):
    path = tmp_path / "a.png"
    path.write_bytes(encode(mode))
    seen = []
    store_rows = quick.store_rows
    monkeypatch.setattr(quick, "store_rows", lambda c: seen.append(store_rows(c)) or seen[-1])
    open_image(path)
    (stored,) = seen
    Image.open(io.BytesIO(stored.content)).verify()
    assert len(stored.content) > 47 * 61 and b"\x78\x01" in stored.content
    assert stored.is_plain == (mode in ("L", "RGB"))


def test_an_orientation_behind_the_rows_is_not_lost(tmp_path: Path, monkeypatch):
    content = encode(orientation=6)
    start = content.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(content[start : start + 4])
    path = tmp_path / "a.png"
    path.write_bytes(content[:start] + content[end:-12] + content[start:end] + content[-12:])
    assert ImageReader()(path).shape == (61, 47, 3)
    assert read(path, monkeypatch, alone=False) == read(path, monkeypatch, alone=True)


@pytest.mark.parametrize("seed", range(60))
def test_the_verdict_on_a_damaged_file_is_pillows(tmp_path: Path, monkeypatch, seed: int):
    rng = random.Random(seed)
    content = bytearray(encode(**rng.choice([*PNGS.values()])))
    place = rng.randrange(len(content))
    for first, last, bytes_ in [
        [(place, len(content), b"")],
        [(place, place + 1, bytes([rng.randrange(256)]))],
        [(place, place + 40, b"")],
        [(place, place, rng.randbytes(9))],
        [(len(content), len(content), rng.randbytes(30))],
    ][seed % 5]:
        content[first:last] = bytes_
    if rng.random() < 0.6:
        content = correct_checksums(content)
    path = tmp_path / "a.png"
    path.write_bytes(content)
    assert read(path, monkeypatch, alone=False) == read(path, monkeypatch, alone=True)


def correct_checksums(content: bytes) -> bytes:
    """Return a damaged PNG with the checksums of what is there, so that its rows are damaged."""
    parts, place = [content[:8]], 8
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4])
        body = content[place + 4 : place + 8 + length]
        parts += [content[place : place + 4], body, struct.pack(">I", zlib.crc32(body))]
        place += 12 + length
    return b"".join(parts)
