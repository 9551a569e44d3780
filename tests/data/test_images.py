"""Image files to upright uint8 pixels of the model's channels."""

from __future__ import annotations

import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from conftest import scene
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from segtrain.data.images import ImageReader, read_header
from segtrain.errors import SegtrainError

read = ImageReader()

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


def random_pixels(channels: int = 3, dtype: type = np.uint8, high: int = 256) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, high, (5, 9, channels)).astype(dtype)


RGB = random_pixels()
GREY = np.arange(0, 60, 4, dtype=np.uint8).reshape(3, 5)


def exif(orientation: int) -> Image.Exif:
    made = Image.Exif()
    made[0x0112] = orientation
    return made


def png_chunks(content: bytes) -> list[tuple[bytes, bytes]]:
    place, chunks = 8, []
    while place < len(content):
        length = int.from_bytes(content[place : place + 4])
        chunks.append((content[place + 4 : place + 8], content[place + 8 : place + 8 + length]))
        place += 12 + length
    return chunks


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    """A PNG of chunks (kind, data), for what Pillow itself does not write."""
    written = [
        len(data).to_bytes(4) + kind + data + zlib.crc32(kind + data).to_bytes(4)
        for kind, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(written)


def raw_png(values: np.ndarray, depth: int, colour: int, packed: bytes = b"") -> bytes:
    """A PNG of any bit depth; `packed` is one row of values that are not whole bytes."""
    rows = [b"\0" + (packed or row.astype(f">u{depth // 8}").tobytes()) for row in values]
    size = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, colour, 0, 0, 0)
    return png_of([(b"IHDR", size), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b"")])


# orientation


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif"])
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, suffix: str):
    path = tmp_path / f"photo{suffix}"
    Image.fromarray(RGB).save(path, exif=exif(orientation), lossless=True)
    np.testing.assert_array_equal(read(path), UPRIGHT[orientation](RGB))
    assert read.size(path) == ((9, 5) if orientation >= 5 else (5, 9))
    assert read_header(path)[0] == orientation
    as_stored = ImageReader(upright=False)
    np.testing.assert_array_equal(as_stored(path), RGB)
    assert as_stored.size(path) == (5, 9)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_jpeg_photo_is_turned_too(tmp_path: Path, orientation: int):
    stored, path = np.zeros((16, 32, 3), np.uint8), tmp_path / "photo.jpg"
    stored[:8, :8] = 255  # one bright corner
    Image.fromarray(stored).save(path, exif=exif(orientation), quality=95)
    upright = UPRIGHT[orientation](stored)
    assert read.size(path) == upright.shape[:2]
    assert np.abs(read(path).astype(int) - upright).max() < 60


XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description'
    ' xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def exif_behind_the_pixels(path: Path) -> None:
    Image.fromarray(RGB).save(path, exif=exif(6))
    chunks = png_chunks(path.read_bytes())
    late = [chunk for chunk in chunks if chunk[0] == b"eXIf"]
    assert len(late) == 1
    path.write_bytes(png_of([c for c in chunks[:-1] if c not in late] + late + chunks[-1:]))


def exif_as_text(path: Path) -> None:
    profile, info = exif(6).tobytes().hex(), PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(profile) // 2:8d}\n{profile}\n", zip=True)
    Image.fromarray(RGB).save(path, pnginfo=info)


def orientation_in_xmp(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP)
    Image.fromarray(RGB).save(path, pnginfo=info)


@pytest.mark.parametrize("write", [exif_behind_the_pixels, exif_as_text, orientation_in_xmp])
def test_the_size_agrees_with_the_pixels_wherever_a_png_says_its_orientation(tmp_path: Path, write):
    path = tmp_path / "photo.png"
    write(path)
    pixels = read(path)
    assert pixels.shape[:2] == read.size(path)
    assert (read_header(path)[0] >= 5) == (pixels.shape[:2] == (9, 5))


@pytest.mark.parametrize("orientation", [3, 6, 7])
@pytest.mark.parametrize(
    "reader", [ImageReader(4), ImageReader(3, (0, 255)), ImageReader(4, (0, 255))]
)
def test_a_tiff_is_upright_for_every_reader(tmp_path: Path, orientation: int, reader: ImageReader):
    stored, path = random_pixels(reader.channels), tmp_path / "photo.tif"
    Image.fromarray(stored).save(path, exif=exif(orientation))
    np.testing.assert_array_equal(reader(path), UPRIGHT[orientation](stored))
    assert reader.size(path) == reader(path).shape[:2]


# modes and formats


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "RGB", "CMYK", "PA"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str):
    path = tmp_path / ("photo.tif" if mode in ("CMYK", "PA") else "photo.png")
    image = Image.fromarray(RGB)
    image = image.quantize(8).convert("PA") if mode == "PA" else image.convert(mode)
    image.save(path)
    pixels = read(path)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (5, 9, 3))
    np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))


LOSSLESS = {".png": {}, ".bmp": {}, ".tif": {}, ".webp": {"lossless": True}, ".ppm": {}}


@pytest.mark.parametrize("suffix", LOSSLESS)
@pytest.mark.parametrize("channels", [1, 3])
def test_rgb_and_grey_files_of_every_format(tmp_path: Path, suffix: str, channels: int):
    reader = ImageReader(channels)
    colour, grey = tmp_path / f"colour{suffix}", tmp_path / f"grey{suffix}"
    Image.fromarray(RGB).save(colour, **LOSSLESS[suffix])
    Image.fromarray(GREY).save(grey, **LOSSLESS[suffix])
    np.testing.assert_array_equal(reader(grey), np.stack([GREY] * channels, 2))
    luma = np.rint(RGB @ [0.299, 0.587, 0.114])[..., None]
    assert np.abs(reader(colour) - (RGB if channels == 3 else luma)).max() <= (channels == 1)
    assert reader.size(colour) == (5, 9) and reader.size(grey) == (3, 5)


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".JPG", ".webp"])
def test_lossy_formats_keep_their_colours(tmp_path: Path, suffix: str):
    path = tmp_path / f"photo{suffix}"
    Image.new("RGB", (9, 5), (200, 100, 40)).save(path, quality=95)
    assert np.abs(read(path).astype(int) - (200, 100, 40)).max() <= 6


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("reader", [read, ImageReader(3, (0, 255)), ImageReader(3, (0, 100))])
def test_tiffs_of_every_compression(tmp_path: Path, compression: str | None, reader: ImageReader):
    """A value range is applied to 8-bit files, too, and refuses none."""
    path = tmp_path / "photo.tif"
    Image.fromarray(RGB).save(path, compression=compression)
    highest = reader.value_range[1] if reader.value_range else 255
    expected = np.rint(RGB.astype(np.float32) * (255 / highest)).clip(0, 255)
    np.testing.assert_array_equal(reader(path), expected)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
def test_rgba_tiffs_as_four_channels(tmp_path: Path, compression: str | None):
    path, pixels = tmp_path / "photo.tif", random_pixels(4)
    Image.fromarray(pixels).save(path, compression=compression)
    np.testing.assert_array_equal(ImageReader(4)(path), pixels)
    np.testing.assert_array_equal(read(path), pixels[..., :3])


def test_palette_indices_are_not_taken_for_brightness(tmp_path: Path):
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    image.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250])
    for transparency in ({}, {"transparency": 1}, {"transparency": bytes([0, 128, 255])}):
        image.save(tmp_path / "p.png", **transparency)
        expected = [[250, 0, 0], [0, 250, 0], [0, 0, 250]]
        assert read(tmp_path / "p.png").tolist() == [expected]


def test_a_transparent_colour_of_rgb_is_unchanged(tmp_path: Path):
    Image.fromarray(RGB).save(tmp_path / "t.png", transparency=tuple(RGB[0, 0].tolist()))
    np.testing.assert_array_equal(read(tmp_path / "t.png"), RGB)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_alpha_is_dropped_not_blended(tmp_path: Path, suffix: str):
    pixels = np.dstack([RGB, np.full((5, 9), 3, np.uint8)])
    Image.fromarray(pixels).save(tmp_path / f"clear{suffix}", lossless=True, exact=True)
    np.testing.assert_array_equal(read(tmp_path / f"clear{suffix}"), RGB)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_grey_alpha_is_dropped_not_blended(tmp_path: Path, suffix: str):
    Image.merge("LA", [Image.fromarray(GREY), Image.new("L", (5, 3), 3)]).save(
        tmp_path / f"clear{suffix}"
    )
    np.testing.assert_array_equal(read(tmp_path / f"clear{suffix}"), np.stack([GREY] * 3, 2))
    assert ImageReader(1)(tmp_path / f"clear{suffix}")[..., 0].tolist() == GREY.tolist()


def test_a_cmyk_jpeg_becomes_rgb(tmp_path: Path):
    path = tmp_path / "print.jpg"
    Image.new("CMYK", (6, 4), (0, 255, 255, 0)).save(path, quality=95)
    pixels = read(path)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (4, 6, 3))
    assert pixels[0, 0, 0] > 200 and pixels[0, 0, 1:].max() < 60  # cyan-free: red


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bit_grey_keeps_its_upper_8_bits(tmp_path: Path, suffix: str, channels: int):
    deep = GREY.astype(np.uint16) * 1000 + 7
    path = tmp_path / f"deep{suffix}"
    Image.fromarray(deep).save(path)
    expected = np.stack([deep // 256] * channels, 2)
    np.testing.assert_array_equal(ImageReader(channels)(path), expected)


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_16_bit_tiffs_of_both_byte_orders(tmp_path: Path, byteorder: str):
    deep = GREY.astype(np.uint16) * 1000 + 7
    tifffile.imwrite(tmp_path / "deep.tif", deep, byteorder=byteorder)
    for reader in (ImageReader(1), ImageReader(1, (0, 65535))):
        assert np.abs(reader(tmp_path / "deep.tif")[..., 0].astype(int) - deep // 256).max() <= 1


DEEP = np.random.default_rng(16).integers(0, 65536, (5, 9, 3))


@pytest.mark.parametrize("write", [
    lambda path: path.with_suffix(".png").write_bytes(raw_png(DEEP, 16, 2)),
    lambda path: tifffile.imwrite(path.with_suffix(".tif"), DEEP.astype(np.uint16),
                                  photometric="rgb"),
    lambda path: np.save(path.with_suffix(".npy"), DEEP.astype(np.uint16)),
])  # fmt: skip
def test_16_bit_colour_keeps_its_upper_8_bits(tmp_path: Path, write):
    write(tmp_path / "deep")
    (path,) = tmp_path.iterdir()
    np.testing.assert_array_equal(read(path), DEEP >> 8)


def test_16_bit_grey_with_alpha(tmp_path: Path):
    (tmp_path / "deep.png").write_bytes(raw_png(DEEP[..., :2], 16, 4))
    np.testing.assert_array_equal(read(tmp_path / "deep.png")[..., 1], DEEP[..., 0] >> 8)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
def test_12_bit_values_in_16_bits_take_the_value_range(tmp_path: Path, suffix: str):
    path, deep = tmp_path / f"deep{suffix}", np.array([[0, 16, 2048, 4095, 5000]], np.uint16)
    np.save(path, deep) if suffix == ".npy" else Image.fromarray(deep).save(path)
    for channels in (1, 3):
        pixels = ImageReader(channels, (0, 4095))(path)
        assert pixels.tolist() == [[[v] * channels for v in (0, 1, 128, 255, 255)]]


def test_value_range_of_a_low_value_that_is_not_0(tmp_path: Path):
    np.save(tmp_path / "a.npy", np.array([[-100, -50, 0, 101]], np.int16))
    assert ImageReader(1, (-50, 50))(tmp_path / "a.npy").ravel().tolist() == [0, 0, 128, 255]


def test_value_range_of_16_bit_colour_in_a_png_is_not_silently_wrong(tmp_path: Path):
    (tmp_path / "deep.png").write_bytes(raw_png(DEEP, 16, 2))
    with pytest.raises(SegtrainError, match="deep.png: .*value_range"):
        ImageReader(3, (0, 4095))(tmp_path / "deep.png")


def test_float_tiffs_are_read_from_0_to_1(tmp_path: Path):
    path = tmp_path / "a.tif"
    Image.fromarray(np.array([[0, 0.5, 1]], np.float32)).save(path)
    assert read(path)[..., 0].tolist() == [[0, 128, 255]]
    Image.fromarray(np.array([[0, 0.5, 1.5]], np.float32)).save(path)
    with pytest.raises(SegtrainError, match=r"a.tif: .*float32 from 0 to 1.5.*data.value_range"):
        read(path)
    assert ImageReader(3, (0, 1.5))(path)[..., 0].tolist() == [[0, 85, 255]]


# arrays


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("order", ["hwc", "chw"])
def test_npy_of_any_channels_in_both_orders(tmp_path: Path, channels: int, order: str):
    pixels, path = random_pixels(channels), tmp_path / "a.npy"
    np.save(path, pixels if order == "hwc" else pixels.transpose(2, 0, 1))
    reader = ImageReader(channels)
    np.testing.assert_array_equal(reader(path), pixels)
    assert reader.size(path) == (5, 9)


@pytest.mark.parametrize("shape", [(5, 9), (5, 9, 1), (1, 5, 9)])
@pytest.mark.parametrize("channels", [1, 3])
def test_grey_npy_in_every_shape(tmp_path: Path, shape: tuple, channels: int):
    np.save(tmp_path / "a.npy", RGB[..., 0].reshape(shape))
    pixels = ImageReader(channels)(tmp_path / "a.npy")
    np.testing.assert_array_equal(pixels, np.stack([RGB[..., 0]] * channels, 2))


@pytest.mark.parametrize(
    "values, pixels",
    [
        (np.array([[0, 7, 255]], np.uint8), [0, 7, 255]),
        (np.array([[0, 255, 256, 65535]], np.uint16), [0, 0, 1, 255]),
        (np.array([[0, 255, 256, 65535]], ">u2"), [0, 0, 1, 255]),
        (np.array([[False, True]]), [0, 255]),
        (np.array([[0, 0.5, 1]], np.float16), [0, 128, 255]),
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 0.25, 1]], np.float64), [0, 64, 255]),
    ],
)
def test_npy_of_every_type(tmp_path: Path, values: np.ndarray, pixels: list[int]):
    np.save(tmp_path / "a.npy", values)
    read = ImageReader(1)(tmp_path / "a.npy")
    assert read.dtype == np.uint8 and read[..., 0].tolist() == [pixels]


@pytest.mark.parametrize(
    "values, words",
    [
        (np.array([[0, 700]], np.int16), r"int16 from 0 to 700.*data.value_range: \["),
        (np.array([[-1, 3]], np.int64), r"int64 from -1 to 3.*data.value_range"),
        (np.array([[0.0, 255.0]]), r"float64 from 0 to 255.*data.value_range"),
        (np.array([[-0.5, 1.0]]), r"float64 from -0.5 to 1.*data.value_range"),
        (np.array([[0, np.nan]]), "a.npy: "),
        (np.array([[0, np.inf]]), "a.npy: "),
        (np.array([[0, 1j]]), "a.npy: "),
        (np.array([["a", "b"]]), "a.npy: "),
        (np.zeros((3, 4), [("x", "u1")]), "a.npy: "),
        (np.uint8(3), "a.npy: "),
        (np.zeros(4, np.uint8), r"a.npy: .*\(4,\)"),
        (np.zeros((2, 2, 2, 3), np.uint8), r"a.npy: .*\(2, 2, 2, 3\)"),
        (np.zeros((0, 5, 3), np.uint8), "a.npy: "),
        (np.zeros((5, 0, 3), np.float32), "a.npy: "),
    ],
)
@pytest.mark.filterwarnings("error")
def test_npy_that_is_no_image_is_refused(tmp_path: Path, values: np.ndarray, words: str):
    np.save(tmp_path / "a.npy", values)
    with pytest.raises(SegtrainError, match=words):
        read(tmp_path / "a.npy")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_numbers_are_not_blamed_on_the_value_range(tmp_path: Path, bad: float):
    np.save(tmp_path / "a.npy", np.array([[0, bad]], np.float32))
    with pytest.raises(SegtrainError, match="a.npy: .*finite") as raised:
        ImageReader(1, (0, 1))(tmp_path / "a.npy")
    assert "data.value_range" not in str(raised.value)


def test_pickled_arrays_are_never_run(tmp_path: Path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "payload-ran"), "w"))

    np.save(tmp_path / "a.npy", np.array([[Payload()]], object), allow_pickle=True)
    with pytest.raises(SegtrainError, match="a.npy: "):
        read(tmp_path / "a.npy")
    assert not (tmp_path / "payload-ran").exists()


# TIFFs of many channels


@pytest.mark.parametrize("channels", [2, 4, 7])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["contiguous", "planar", "pages", "deflated", "tiled"])
def test_tiffs_of_many_channels(tmp_path: Path, channels: int, dtype: type, kind: str):
    pixels, path = random_pixels(channels, dtype, np.iinfo(dtype).max + 1), tmp_path / "a.tif"
    bands = pixels.transpose(2, 0, 1)
    if kind == "pages":
        stack_by_tifffile(path, bands)
    else:
        options = {
            "contiguous": {"planarconfig": "contig"},
            "planar": {"planarconfig": "separate"},
            "deflated": {"planarconfig": "contig", "compression": "zlib", "predictor": True},
            "tiled": {"planarconfig": "contig", "tile": (16, 16)},
        }[kind]
        first = kind == "planar"
        tifffile.imwrite(path, bands if first else pixels, photometric="minisblack", **options)
    reader = ImageReader(channels)
    expected = pixels if dtype == np.uint8 else pixels >> 8
    np.testing.assert_array_equal(reader(path), expected)
    assert reader.size(path) == (5, 9)


def test_many_channels_take_the_value_range(tmp_path: Path):
    pixels = random_pixels(7, np.uint16, 4096)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    expected = np.rint(pixels.astype(np.float32) * (255 / 4095))
    np.testing.assert_array_equal(ImageReader(7, (0, 4095))(tmp_path / "a.tif"), expected)


@pytest.mark.parametrize("reader", [read, ImageReader(1), ImageReader(3, (0, 255))])
def test_the_overviews_of_a_geotiff_are_no_images(tmp_path: Path, reader: ImageReader):
    full = np.random.default_rng(0).integers(0, 256, (16, 32), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "map.tif") as file:
        file.write(full, photometric="minisblack")
        file.write(full[::2, ::2], photometric="minisblack", subfiletype=1)
        file.write(full[::4, ::4], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(reader(tmp_path / "map.tif")[..., 0], full)
    assert reader.size(tmp_path / "map.tif") == (16, 32)


@pytest.mark.parametrize("subfiletype", [1, 4, 5])
@pytest.mark.parametrize("reader", [read, ImageReader(1), ImageReader(3, (0, 255))])
def test_a_thumbnail_or_a_mask_of_the_same_size_is_no_image(
    tmp_path: Path, reader: ImageReader, subfiletype: int
):
    """GDAL keeps where a map has values as a second page of NewSubfileType 4."""
    full = np.random.default_rng(0).integers(0, 256, (16, 32), dtype=np.uint8)
    with tifffile.TiffWriter(tmp_path / "map.tif") as file:
        file.write(full, photometric="minisblack", metadata=None)
        file.write(full // 255, photometric="minisblack", subfiletype=1, metadata=None)
    with tifffile.TiffFile(tmp_path / "map.tif", mode="r+b") as file:
        file.pages[1].tags["NewSubfileType"].overwrite(subfiletype)
    np.testing.assert_array_equal(reader(tmp_path / "map.tif")[..., 0], full)
    assert reader.size(tmp_path / "map.tif") == (16, 32)


def stack_by_pillow(path: Path, bands: list[np.ndarray]) -> None:
    first, *others = map(Image.fromarray, bands)
    first.save(path, save_all=True, append_images=others)


def stack_by_tifffile(path: Path, bands: list[np.ndarray]) -> None:
    with tifffile.TiffWriter(path) as file:
        for band in bands:
            file.write(band, photometric="minisblack", contiguous=False)


@pytest.mark.parametrize("write", [stack_by_pillow, stack_by_tifffile])
@pytest.mark.parametrize("pages", [2, 4])
def test_pages_are_not_dropped_silently(tmp_path: Path, pages: int, write):
    bands = [GREY + page for page in range(pages)]
    write(tmp_path / "stack.tif", bands)
    for channels in (1, 3):
        with pytest.raises(SegtrainError, match=rf"stack.tif: .*{pages}.*model.in_channels"):
            ImageReader(channels)(tmp_path / "stack.tif")
    np.testing.assert_array_equal(ImageReader(pages)(tmp_path / "stack.tif"), np.stack(bands, 2))


# animations


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_an_animation_is_refused_and_a_single_frame_is_read(tmp_path: Path, suffix: str):
    from segtrain.data.stored_masks import read_mask

    path = tmp_path / f"a{suffix}"
    frames = [Image.fromarray(np.full((5, 9), level, np.uint8)) for level in (0, 90, 200)]
    frames[0].save(path, save_all=True, append_images=frames[1:], lossless=True)
    for reader in (read, read.size, read_mask):
        with pytest.raises(SegtrainError, match=rf"a{suffix}: an animation of 3 frames"):
            reader(path)
    frames[1].save(path, save_all=True, lossless=True)
    assert (read(path) == 90).all() and read.size(path) == (5, 9)
    assert np.unique(read_mask(path).values).size == 1  # GIF: an index of its palette


def test_the_previews_of_a_photo_are_no_animation(tmp_path: Path):
    photo = Image.new("RGB", (16, 8), (200, 100, 40))
    photo.save(tmp_path / "a.jfif", format="MPO", save_all=True, append_images=[photo.copy()])
    assert read(tmp_path / "a.jfif").shape == (8, 16, 3)


# channels


@pytest.mark.parametrize(
    "suffix, found, wanted", [(".png", 3, 4), (".png", 4, 2), (".png", 1, 4), (".tif", 4, 7),
                              (".npy", 4, 3), (".npy", 3, 7), (".npy", 2, 1)],
)  # fmt: skip
def test_another_number_of_channels_is_named_with_the_line(
    tmp_path: Path, suffix: str, found: int, wanted: int
):
    path, pixels = tmp_path / f"a{suffix}", random_pixels(found)
    squeezed = pixels[..., 0] if found == 1 else pixels
    np.save(path, pixels) if suffix == ".npy" else Image.fromarray(squeezed).save(path)
    with pytest.raises(SegtrainError) as raised:
        ImageReader(wanted)(path)
    words = (f"a{suffix}: ", str(found), "channels", f"model.in_channels is {wanted}")
    assert [word for word in words if word not in str(raised.value)] == []


# bombs


def write_any(path: Path, height: int = 40, width: int = 50) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if path.suffix == ".npy":
        np.save(path, pixels)
    else:
        Image.fromarray(pixels).save(path)


FORMATS = [".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm", ".npy"]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_bombs_are_refused_by_their_header(tmp_path: Path, suffix: str, channels: int):
    path = tmp_path / f"bomb{suffix}"
    write_any(path)
    reader = ImageReader(channels, max_pixels=1999)
    for method in (reader, reader.size):
        with pytest.raises(SegtrainError, match=rf"bomb{suffix}: 40 x 50.*data.max_pixels \(1999"):
            method(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_as_many_pixels_as_allowed_are_read(tmp_path: Path, suffix: str):
    write_any(tmp_path / f"a{suffix}")
    assert ImageReader(3, max_pixels=2000)(tmp_path / f"a{suffix}").shape == (40, 50, 3)


def test_a_real_bomb_is_never_decoded(tmp_path: Path):
    """20,000 x 20,000 pixels in 400 bytes exceed the default limit."""
    path = tmp_path / "bomb.png"
    size = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", size), (b"IDAT", zlib.compress(bytes(10_000))), (b"IEND", b"")]
    path.write_bytes(png_of(chunks))
    with pytest.raises(SegtrainError, match="20000 x 20000 pixels are more than data.max_pixels"):
        read(path)


@pytest.mark.parametrize("kind", ["pages", "bands"])
def test_a_tiff_of_many_channels_counts_its_pixels_not_its_values(tmp_path: Path, kind: str):
    bands = np.zeros((7, 20, 30), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", bands if kind == "pages" else bands.transpose(1, 2, 0),
                     photometric="minisblack")  # fmt: skip
    assert ImageReader(7, max_pixels=600)(tmp_path / "a.tif").shape == (20, 30, 7)
    with pytest.raises(SegtrainError, match="data.max_pixels"):
        ImageReader(7, max_pixels=599)(tmp_path / "a.tif")


def test_an_array_that_claims_more_than_it_has(tmp_path: Path):
    with open(tmp_path / "a.npy", "wb") as file:
        shape = {"descr": "|u1", "fortran_order": False, "shape": (10_000, 10_000, 3)}
        np.lib.format.write_array_header_1_0(file, shape)
        file.write(bytes(100))
    with pytest.raises(SegtrainError, match="a.npy: "):
        read(tmp_path / "a.npy")


# damage


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("tenth", range(10))
def test_a_file_cut_anywhere_is_named(tmp_path: Path, suffix: str, tenth: int):
    path = tmp_path / f"cut{suffix}"
    write_any(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * tenth // 10])
    with pytest.raises(SegtrainError, match=rf"cut{suffix}: .*replace or remove it"):
        read(path)
    try:
        assert read.size(path) == (40, 50)  # the header may be whole
    except SegtrainError as error:
        assert f"cut{suffix}: " in str(error)


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate"])
@pytest.mark.parametrize("cut", [4, 8, 60, 600, 3000])
def test_tiffs_without_their_end(tmp_path: Path, compression: str | None, cut: int):
    """The directory may lie before the pixels or behind them."""
    for made in (tmp_path / "behind.tif", tmp_path / "front.tif"):
        if made.name == "behind.tif":
            write_any(made)
            Image.open(made).save(made, compression=compression)
        else:
            pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
            tifffile.imwrite(made, pixels, photometric="rgb", rowsperstrip=8)
        whole = read(made)
        made.write_bytes(made.read_bytes()[:-cut])
        try:
            np.testing.assert_array_equal(read(made), whole)
        except SegtrainError as error:
            assert made.name in str(error)


PNG = png_of(
    [
        (b"IHDR", struct.pack(">IIBBBBB", 9, 5, 8, 2, 0, 0, 0)),
        (b"tEXt", b"Comment\0a text"),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in RGB))),
        (b"IEND", b""),
    ]
)


def flipped(content: bytes, bits: list[int]) -> bytes:
    damaged = bytearray(content)
    for bit in bits:
        damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, len(PNG) * 8 - 1), min_size=1, max_size=3, unique=True))
def test_flipped_bits_of_a_png_never_change_pixels_silently(bits: list[int]):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "flipped.png"
        path.write_bytes(flipped(PNG, bits))
        try:
            np.testing.assert_array_equal(read(path), RGB)
        except SegtrainError as error:
            assert "flipped.png: " in str(error)


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A small file of every format, by suffix."""
    folder = tmp_path_factory.mktemp("good")
    for suffix in FORMATS:
        write_any(folder / f"a{suffix}", 12, 16)
    return {suffix: (folder / f"a{suffix}").read_bytes() for suffix in FORMATS}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=4))
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.filterwarnings("ignore")
def test_damage_is_an_image_or_an_error_in_words(
    good_files: dict[str, bytes], suffix: str, channels: int, bits: list[int]
):
    """Bits near the start of the file, where its sizes and types are, and anywhere."""
    content = good_files[suffix]
    places = [bit % (8 * (200 if i % 2 else len(content))) for i, bit in enumerate(bits)]
    reader = ImageReader(channels, max_pixels=10_000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"flipped{suffix}"
        path.write_bytes(flipped(content, places))
        for method in (reader, reader.size):
            try:
                result = method(path)
            except SegtrainError as error:
                assert f"flipped{suffix}: " in str(error)
            else:
                is_size = isinstance(result, tuple)
                assert len(result) == 2 if is_size else result.shape[2] == channels
                assert np.prod(result if is_size else result.shape[:2]) <= 10_000


@pytest.mark.parametrize("place", [b"IHDR", b"tEXt", b"IDAT", b"IEND"])
def test_every_chunk_of_a_png_is_checked(tmp_path: Path, place: bytes):
    damaged = bytearray(PNG)
    damaged[damaged.index(place) + 5] ^= 1
    (tmp_path / "flipped.png").write_bytes(damaged)
    with pytest.raises(SegtrainError, match="flipped.png: .*replace or remove"):
        read(tmp_path / "flipped.png")


def test_data_after_the_end_of_a_png_is_ignored(tmp_path: Path):
    (tmp_path / "a.png").write_bytes(PNG + b"appended by some tool")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), RGB)


NO_IMAGES = {"empty": b"", "text": b"no image", "start": b"\x89PNG\r\n\x1a\n", "zeros": bytes(100)}


@pytest.mark.parametrize("content", NO_IMAGES.values(), ids=NO_IMAGES)
@pytest.mark.parametrize("suffix", FORMATS)
def test_a_file_that_is_no_image_is_named(tmp_path: Path, content: bytes, suffix: str):
    path = tmp_path / f"note{suffix}"
    path.write_bytes(content)
    for method in (read, read.size, ImageReader(5), ImageReader(5).size, read_header):
        with pytest.raises(SegtrainError, match=rf"note{suffix}: .*replace or remove it"):
            method(path)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_missing_image_is_named(tmp_path: Path, suffix: str):
    for method in (read, read.size):
        with pytest.raises(SegtrainError, match=rf"gone{suffix}: no such file"):
            method(tmp_path / f"gone{suffix}")


def test_a_folder_is_no_image(tmp_path: Path):
    (tmp_path / "folder.png").mkdir()
    for method in (read, read.size):
        with pytest.raises(SegtrainError, match="folder.png: "):
            method(tmp_path / "folder.png")


def test_another_format_than_the_suffix_says_is_read(tmp_path: Path):
    Image.fromarray(RGB).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read(tmp_path / "a.jpg"), RGB)


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_the_size_is_read_from_the_header_alone(tmp_path: Path, suffix: str):
    path = tmp_path / f"cut{suffix}"
    Image.fromarray(scene(0)[0]).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    assert read.size(path) == (48, 40)


def test_readers_are_equal_by_what_they_do():
    """Readers are part of the keys of saved files, and are sent to workers."""
    import pickle

    assert ImageReader(3, (0, 1)) == pickle.loads(pickle.dumps(ImageReader(3, (0, 1))))
    assert repr(ImageReader(3)) != repr(ImageReader(3, (0.0, 1.0)))


@pytest.mark.parametrize("pages_apart", [False, True])
def test_many_pages_are_a_bomb_too(tmp_path: Path, pages_apart: bool):
    """40 pages of 20x20 for an image of 3 channels: each page is small, all are not."""
    path = tmp_path / "bomb.tif"
    with tifffile.TiffWriter(path) as file:
        pages = np.zeros((40, 20, 20), np.uint8)
        for part in pages if pages_apart else [pages]:
            file.write(part, contiguous=False)
    for read in (ImageReader(max_pixels=400), ImageReader(max_pixels=400).size):
        with pytest.raises(SegtrainError, match="bomb.tif.*data.max_pixels"):
            read(path)
    assert ImageReader(40, max_pixels=400)(path).shape == (20, 20, 40)
