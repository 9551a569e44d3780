"""Image formats: few are read, whatever a file's name says; others are named, and never run."""

from __future__ import annotations

import io
import os
import socket
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import write_pairs
from PIL import Image

from segtrain.data.images import ImageReader, read_header, read_size
from segtrain.data.indexed import is_indexed
from segtrain.data.stored_masks import read_mask
from segtrain.errors import SegtrainError

PICTURE = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 48\n%%EndComments\n{} loop\n"


def saved(kind: str, **options) -> bytes:
    file = io.BytesIO()
    PICTURE.save(file, kind, **options)
    return file.getvalue()


# what Pillow itself reads, too, and what people give as images
FOREIGN = {
    "PostScript": lambda: EPS,
    "ICO": lambda: saved("ICO"),
    "ICNS": lambda: saved("ICNS"),
    "AVIF": lambda: b"\0\0\0\x20ftypavif" + bytes(40),
    "HEIC": lambda: b"\0\0\0\x18ftypheic" + bytes(40),
    "MP4": lambda: b"\0\0\0\x18ftypisom" + bytes(40),
    "PSD": lambda: b"8BPS\0\1" + bytes(40),
    "PDF": lambda: saved("PDF"),
    "JPEG 2000": lambda: b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
    "JPEG XL": lambda: b"\xff\x0a" + bytes(40),
    "DDS": lambda: saved("DDS"),
    "SVG": lambda: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "HTML": lambda: b"\n<!DOCTYPE html><html>404</html>",
    "Git LFS": lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "DICOM": lambda: bytes(128) + b"DICM" + bytes(40),
    "zeros": lambda: bytes(1000),
    "empty": lambda: b"",
    "text": lambda: b"hello\n",
    "ZIP": lambda: b"PK\3\4" + bytes(40),
    ".npy": lambda: b"\x93NUMPY\1\0" + bytes(40),
    "not an image": lambda: saved("SGI"),
    "not  an image": lambda: saved("PCX"),
    "not an  image": lambda: saved("TGA"),
    "JSON": lambda: b'{"version": "5.0.1"}',
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_formats_are_named_and_never_read(tmp_path: Path, name: str, monkeypatch):
    def started(*args, **kwargs):
        pytest.fail("Pillow's EPS reader ran")

    monkeypatch.setattr("PIL.EpsImagePlugin.EpsImageFile._open", started)
    path = tmp_path / "photo.png"
    path.write_bytes(FOREIGN[name]())
    for read in (ImageReader(), read_mask, read_size, ImageReader().size, read_header):
        with pytest.raises(SegtrainError) as error:
            read(path)
        line = str(error.value)
        assert str(path) in line and "not an image" in line and " ".join(name.split()) in line
    assert not is_indexed(path)


def test_an_array_has_its_own_name(tmp_path: Path):
    for content in (saved("PNG"), b"", b"PK\3\4"):
        (tmp_path / "a.npy").write_bytes(content)
        with pytest.raises(SegtrainError, match=r"a\.npy.*\.npy file|empty|ZIP"):
            ImageReader()(tmp_path / "a.npy")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF"])
def test_known_formats_are_read_under_any_name(tmp_path: Path, kind: str):
    path = tmp_path / "photo.png"
    path.write_bytes(saved(kind))
    assert ImageReader()(path).shape == (8, 8, 3) and read_size(path) == (8, 8)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("more", [{}, {"default_image": True}])
def test_animations_are_refused_and_one_frame_is_an_image(tmp_path: Path, kind: str, more: dict):
    path = tmp_path / "a.png"
    options = {"save_all": True, "append_images": [PICTURE.rotate(90)]} | more
    path.write_bytes(saved(kind, **options))
    for read in (ImageReader(), read_mask, read_size):
        with pytest.raises(SegtrainError, match="animation of [23] frames"):
            read(path)
    path.write_bytes(saved(kind, save_all=True))
    assert ImageReader()(path).shape == (8, 8, 3) and len(read_mask(path).values)


def test_previews_of_a_photo_are_no_frames(tmp_path: Path):
    path = tmp_path / "a.jpg"
    path.write_bytes(saved("MPO", save_all=True, append_images=[PICTURE.resize((4, 4))]))
    with Image.open(path) as image:
        assert image.n_frames == 2
    assert ImageReader()(path).shape == (8, 8, 3) and read_mask(path).lossy


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.png"))
    (tmp_path / "device.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for kind in ("pipe", "socket", "device", "folder"):
        path = tmp_path / f"{kind}.png"
        for read in (ImageReader(), read_mask, read_size, read_header):
            with pytest.raises(SegtrainError, match=f"{kind}.png: .*a {kind}, not a file"):
                read(path)


@pytest.mark.parametrize("name", ["annotations.json", "train.txt", "classes.txt", "ids.csv"])
def test_a_pipe_beside_the_data_does_not_hang_check(cli, tmp_path: Path, name: str):
    root = write_pairs(tmp_path / "set")
    os.mkfifo(root / name)
    answer = cli("check", root)
    assert answer.code in (0, 1) and "internal error" not in answer.stderr


def test_check_names_a_file_that_would_loop_in_ghostscript(cli, tmp_path: Path):
    root = write_pairs(tmp_path / "set")
    (root / "images/002.png").write_bytes(EPS)
    start = time.monotonic()
    answer = cli("check", root)
    assert answer.code == 1 and time.monotonic() - start < 20
    assert "images/002.png" in answer.stdout and "PostScript" in answer.stdout
