"""Sizes that files only claim: refused before memory is taken."""

from __future__ import annotations

import json
import lzma
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from conftest import scene
from PIL import Image

from segtrain.data import tiff
from segtrain.data.images import ImageReader, read_size
from segtrain.data.stored_masks import read_mask
from segtrain.errors import SegtrainError

MB = 1 << 20


def npy(shape: object, descr: str = "|u1") -> bytes:
    header = repr({"descr": descr, "fortran_order": False, "shape": shape}).encode() + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(192)


def png(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", size), (b"IDAT", zlib.compress(bytes(200))), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*parts) for parts in chunks)


def tif(width: int = 8, height: int = 8, kind: int = 1, strip: bytes = bytes(64), more=()) -> bytes:
    """A grey TIFF of one strip. more: (next directory, changes of tags)."""
    following, tags = more or (0, {})
    values = {256: width, 257: height, 258: 8, 259: kind, 262: 1, 273: 200, 277: 1, 278: height,
              279: len(strip)} | tags  # fmt: skip
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values.items())
    head = b"II*\0" + struct.pack("<IH", 8, len(values)) + directory + struct.pack("<I", following)
    return head.ljust(200, b"\0") + strip


def webp(side: int) -> bytes:
    bits = struct.pack("<I", side | side << 14)
    return b"RIFF\x24\0\0\0WEBPVP8L\x18\0\0\0\x2f" + bits + bytes(20)


def bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIIIII", 99, 0, 54, 40, width, height, 1, 24, *[0] * 6)


FILES = {
    "far.npy": (npy((10**6, 10**6)), "greater than file size"),
    "far beyond.npy": (npy((2**64, 2**64)), "not an image"),
    "overflow.npy": (npy((10**10, 10**10, 3)), "not an image"),
    "flat.npy": (npy((10**12,)), "not an image"),
    "negative.npy": (npy((-8, -8, 3)), "negative|positive"),
    "empty.npy": (npy((0, 10**12, 3)), "an array of shape"),
    "scalar.npy": (npy(()), "an array of shape"),
    "objects.npy": (npy((8, 8), "|O"), "[Pp]ython objects"),
    "nested.npy": (b"\x93NUMPY\1\0" + struct.pack("<H", 500) + b"(" * 500, "not an image"),
    "large.png": (png(100_000, 100_000), "max_pixels"),
    "largest.png": (png(2**31 - 1, 2**31 - 1), "max_pixels"),
    "large.webp": (webp(16_382), "max_pixels"),
    "large.bmp": (bmp(60_000, 60_000), "max_pixels"),
    "large.ppm": (b"P6 60000 60000 255\n", "max_pixels"),
    "large.gif": (b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\1\0\1\0\0\2\2D\1\0;", "max_pixels"),
    "largest.tif": (tif(2**32 - 1, 2**32 - 1), "max_pixels"),
    "ring.tif": (tif(more=(8, {})), "pages"),
    "strips.tif": (tif(8, 10**7, more=(0, {278: 1})), "strips of a TIFF are missing"),
    "deflate.tif": (tif(kind=8, strip=zlib.compress(bytes(64 * MB))), "unpacks"),
    "packbits.tif": (tif(kind=32773, strip=b"\x81\0" * MB), "unpacks"),
    "lzma.tif": (tif(kind=34925, strip=lzma.compress(bytes(64 * MB), preset=0)), "unpacks"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_a_header_claims_takes_no_memory(tmp_path: Path, name: str, monkeypatch):
    monkeypatch.setattr(tiff, "ROOM", 4 * MB)
    path = tmp_path / name
    content, words = FILES[name]
    path.write_bytes(content)
    tracemalloc.start()
    try:
        for read in (ImageReader(), read_mask):
            with pytest.raises(SegtrainError, match=words) as error:
                read(path)
            assert str(path) in str(error.value)
        for size in (read_size, ImageReader().size):
            try:
                size(path)
            except SegtrainError as refused:
                assert str(path) in str(refused)
        assert tracemalloc.get_traced_memory()[1] < 40 * MB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind, pack", [(8, zlib.compress), (34925, lzma.compress)])
def test_well_compressed_strips_are_read(tmp_path: Path, kind: int, pack, monkeypatch):
    monkeypatch.setattr(tiff, "ROOM", 1 << 19)
    path = tmp_path / "a.tif"
    path.write_bytes(tif(2048, 2048, kind, pack(bytes(2048**2))))
    assert ImageReader()(path).shape == (2048, 2048, 3)


def test_a_palette_of_too_few_colours(tmp_path: Path):
    path = tmp_path / "a.tif"
    content = tif(strip=b"\7" * 64, more=(0, {262: 3, 320: 190}))
    entry, five_shorts = struct.pack("<HHI", 320, 4, 1), struct.pack("<HHI", 320, 3, 5)
    path.write_bytes(content.replace(entry, five_shorts))
    with pytest.raises(SegtrainError, match=r"a\.tif: .*palette"):
        ImageReader()(path)


@pytest.mark.parametrize("side", [9_000, 46_000, 10**9])
@pytest.mark.parametrize("rle", [False, True])
def test_a_json_of_larger_images_than_there_are(cli, tmp_path: Path, side: int, rle: bool):
    root = tmp_path / "set"
    Path(root, "train").mkdir(parents=True)
    shape: object = [[1, 1, 30, 1, 30, 30]]
    if rle:
        shape = {"size": [side, side], "counts": [1, side**2 - 1]}
    images, annotations = [], []
    for index in range(3):
        Image.fromarray(scene(index)[0]).save(root / f"train/{index}.png")
        images.append({"id": index, "file_name": f"{index}.png", "height": side, "width": side})
        annotations.append(
            {"id": index, "image_id": index, "category_id": 1, "segmentation": shape}
        )
    content = {
        "images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}],
    }  # fmt: skip
    (root / "train/_annotations.coco.json").write_text(json.dumps(content))
    tracemalloc.start()
    try:
        answer = cli("check", root)
        assert tracemalloc.get_traced_memory()[1] < 40 * MB
    finally:
        tracemalloc.stop()
    assert answer.code == 1
    assert f"{side}x{side}" in answer.stdout and "40x48" in answer.stdout


def test_labelme_of_a_larger_image(tmp_path: Path):
    from segtrain.data.polygons import read_labelme

    image, file = tmp_path / "a.png", tmp_path / "a.json"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(image)
    shape = {"label": "x", "points": [[0, 0], [4, 0], [4, 4]], "shape_type": "polygon"}
    file.write_text(json.dumps({"imageHeight": 13000, "imageWidth": 13000, "shapes": [shape]}))
    with pytest.raises(SegtrainError, match=r"a\.json says 13000x13000, and .*a\.png is 8x8"):
        read_labelme(file).draw({"x": 1}, image, True).values()
