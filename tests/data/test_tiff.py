"""TIFFs of every kind: images and masks have the stored values, or one line says why not."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from segtrain.data.images import ImageReader, read_header
from segtrain.data.stored_masks import NAN_VALUE, read_mask
from segtrain.data.tiff import IMAGECODECS
from segtrain.errors import SegtrainError

SIDES = (5, 9)
TYPES = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
TYPES += ["float16", "float32", "float64"]
COMPRESSIONS = [None, "zlib", "lzma"]
EXTRAS = ["unspecified", "unassalpha", "assocalpha"]


def random_values(bands: int, dtype: str, high: int | None = None) -> np.ndarray:
    """Values (H,W,bands): over the whole range of small integers, 0 to 1 for floats."""
    rng = np.random.default_rng(bands)
    kind = np.dtype(dtype)
    if kind.kind == "f" and high is None:
        return rng.random((*SIDES, bands)).astype(dtype)
    limit = 2 if kind.kind == "b" else np.iinfo(kind).max if kind.kind in "iu" else 256
    highest = high or min(int(limit), 60_000)
    return rng.integers(0, highest, (*SIDES, bands)).astype(dtype)


def write(path: Path, values: np.ndarray, apart: bool = False, **options) -> None:
    """Write bands interleaved, or apart: one after another, as rasterio does by default."""
    if values.shape[2] == 1:
        tifffile.imwrite(path, values[..., 0], metadata=None, **options)
    else:
        order = {"planarconfig": "separate" if apart else "contig"}
        bands = values.transpose(2, 0, 1) if apart else values
        tifffile.imwrite(path, bands, metadata=None, **order, **options)


def as_bytes(values: np.ndarray) -> np.ndarray:
    if values.dtype == bool:
        return values * np.uint8(255)
    if values.dtype.kind == "f":
        return np.rint(values.astype(np.float32) * 255).astype(np.uint8)
    return (values >> 8).astype(np.uint8) if values.dtype == np.uint16 else values


def luma(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("L"))[..., None]


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "float32"])
def test_images_have_the_bands_that_were_written(tmp_path: Path, dtype: str, compression):
    """dtype x bands x interleave x photometric x compression x extra samples."""
    path, checked = tmp_path / "a.tif", 0
    for bands, apart, photometric in product(
        (1, 2, 3, 4, 13), (False, True), ("minisblack", "miniswhite", "rgb")
    ):
        colours = 3 if photometric == "rgb" else 1
        if bands < colours or photometric == "miniswhite" and bands > 2:
            continue
        if dtype == "bool" and bands > 1 and not apart:
            continue  # tifffile doesn't read what it writes
        values = random_values(bands, dtype)
        for extra in EXTRAS if bands == colours + 1 else ["unspecified"]:
            options = {"photometric": photometric, "compression": compression}
            if bands > colours:
                options["extrasamples"] = [extra] * (bands - colours)
            write(path, values, apart, **options)
            case = (dtype, bands, apart, photometric, compression, extra)
            expected = as_bytes(values)
            expected = 255 - expected if photometric == "miniswhite" else expected
            wanted = {bands: expected} if bands not in (1, 3) else {}
            if colours == 3:
                wanted |= {3: expected[..., :3], 1: luma(expected[..., :3])}
            elif bands <= 2:
                wanted |= {1: expected[..., :1], 3: expected[..., :1].repeat(3, 2)}
            elif bands == 3:
                wanted |= {3: expected}
            for channels, pixels in wanted.items():
                read = ImageReader(channels)
                np.testing.assert_array_equal(read(path), pixels, str((case, channels)))
                assert read.size(path) == SIDES, (case, channels)
                checked += 1
            for channels in {1, 3, 4} - wanted.keys():
                with pytest.raises(SegtrainError, match=f"model.in_channels is {channels}"):
                    ImageReader(channels)(path)
    assert checked > 20


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("dtype", TYPES)
def test_masks_have_the_values_that_were_written(tmp_path: Path, dtype: str, compression):
    path = tmp_path / "mask.tif"
    values = random_values(1, dtype, high=2 if dtype == "bool" else 100)
    values[0, 0] = 0 if np.dtype(dtype).kind in "ub" else -7
    for photometric, tile in product(("minisblack", "miniswhite"), (None, (16, 16))):
        write(path, values, photometric=photometric, compression=compression, tile=tile)
        stored = read_mask(path)
        assert not stored.lossy and stored.values.dtype.kind in "iub"
        np.testing.assert_array_equal(stored.values, values[..., 0])
    for apart, extra in product((False, True), EXTRAS):
        if dtype == "bool" and not apart:
            continue
        both = np.dstack([values, values[::-1]])
        write(path, both, apart, photometric="minisblack", extrasamples=[extra])
        np.testing.assert_array_equal(read_mask(path).values, values[..., 0])


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int32"])
@pytest.mark.parametrize("photometric", ["rgb", "minisblack"])
def test_masks_of_colours(tmp_path: Path, apart: bool, dtype: str, photometric: str):
    colours = random_values(3, dtype, 256)
    write(tmp_path / "mask.tif", colours, apart, photometric=photometric)
    stored = read_mask(tmp_path / "mask.tif").values
    assert stored.dtype == np.uint8
    np.testing.assert_array_equal(stored, colours)


# what Pillow decodes, where imagecodecs is not installed

BY_PILLOW = [
    (mode, compression)
    for mode in ("L", "P", "RGB", "RGBA", "LA", "I;16", "I", "F", "CMYK")
    for compression in ("tiff_lzw", "zstd", "packbits", None)
] + [("1", codec) for codec in ("group3", "group4", "tiff_ccitt", "tiff_lzw", None)]


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode, compression", BY_PILLOW)
def test_values_that_pillow_wrote(tmp_path: Path, mode: str, compression, orientation: int):
    path, bands = tmp_path / "a.tif", {"RGB": 3, "RGBA": 4, "LA": 2, "CMYK": 4}.get(mode, 1)
    dtype = {"I;16": "uint16", "I": "int32", "F": "float32"}.get(mode, "uint8")
    values = random_values(bands, dtype, high=200)
    values = values[..., 0] if bands == 1 else values
    image = Image.fromarray(values > 99 if mode == "1" else values)
    if mode in ("P", "CMYK"):
        image = Image.frombytes(mode, image.size, values.tobytes())
    if mode == "P":
        image.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, compression=compression, exif=exif)
    stored = np.asarray(image)
    turned = np.rot90(stored, -1) if orientation == 6 else stored
    if mode == "CMYK":
        with pytest.raises(SegtrainError, match="CMYK"):
            read_mask(path)
    else:
        colours = turned[..., :3] if mode == "RGBA" else turned[..., 0] if mode == "LA" else turned
        np.testing.assert_array_equal(read_mask(path).values, colours)
        np.testing.assert_array_equal(
            read_mask(path, upright=False).values,
            np.rot90(colours) if orientation == 6 else colours,
        )
    if bands in (2, 4):
        np.testing.assert_array_equal(ImageReader(bands)(path), turned)
        np.testing.assert_array_equal(ImageReader(bands, upright=False)(path), stored)
    if mode != "F":
        grey = image.convert("RGB") if dtype == "uint8" else None
        expected = np.asarray(grey) if grey else np.repeat(stored[..., None] >> 8, 3, 2)
        np.testing.assert_array_equal(ImageReader(upright=False)(path), expected)
        assert ImageReader(upright=False).size(path) == SIDES


def test_white_is_zero_in_a_fax(tmp_path: Path):
    """Bits are the values of a mask; a photo looks as in a viewer."""
    bits = random_values(1, "bool")[..., 0]
    Image.fromarray(bits).save(tmp_path / "a.tif", compression="group4", tiffinfo={262: 0})
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert file.pages.first.photometric == 0
    np.testing.assert_array_equal(ImageReader(1)(tmp_path / "a.tif")[..., 0] > 0, bits)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.tif").values, ~bits)


def test_alpha_never_divides_colours_that_pillow_decodes(tmp_path: Path):
    values = random_values(4, "uint8")
    Image.fromarray(values).save(tmp_path / "a.tif", compression="tiff_lzw")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages.first.tags["ExtraSamples"].overwrite(1)
    np.testing.assert_array_equal(ImageReader(4)(tmp_path / "a.tif"), values)
    np.testing.assert_array_equal(ImageReader(3)(tmp_path / "a.tif"), values[..., :3])


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("photometric", [0, 1])
def test_few_bits_are_ids_in_masks_and_the_whole_range_in_images(
    tmp_path: Path, bits: int, photometric: int
):
    values = np.array([0, 1, 2, 3, 3, 2, 1, 0], np.uint8)
    packed = int("".join(f"{value:0{bits}b}" for value in values), 2).to_bytes(bits)
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((1, 8), np.uint8), photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        tags = file.pages.first.tags
        offset = file.pages.first.dataoffsets[0]
        tags["BitsPerSample"].overwrite(bits)
        tags["StripByteCounts"].overwrite(bits)
        tags["PhotometricInterpretation"].overwrite(photometric)
    with open(tmp_path / "a.tif", "r+b") as file:
        file.seek(offset)
        file.write(packed)
    assert read_mask(tmp_path / "a.tif").values.tolist() == [values.tolist()]
    pixels = values * (255 // (2**bits - 1))
    pixels = 255 - pixels if photometric == 0 else pixels
    assert ImageReader(1)(tmp_path / "a.tif")[..., 0].tolist() == [pixels.tolist()]


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_inside_a_tiff_is_lossy(tmp_path: Path, mode: str):
    image = Image.fromarray(random_values(1, "uint8", 4)[..., 0]).convert(mode)
    image.save(tmp_path / "mask.tif", compression="jpeg")
    assert read_mask(tmp_path / "mask.tif").lossy
    assert np.abs(ImageReader(1)(tmp_path / "mask.tif").astype(int)).max() < 30


# tags


@pytest.mark.parametrize(
    "dtype, tag, nodata",
    [
        ("int16", "-9999", -9999),
        ("uint16", "65535", 65535),
        ("uint8", " 255 ", 255),
        ("float32", "nan", NAN_VALUE),
        ("float32", "-3.40282346638528e+38", NAN_VALUE),
        ("int32", "none of them", None),
        ("uint8", None, None),
    ],
)
def test_the_nodata_value_of_a_geotiff(tmp_path: Path, dtype: str, tag, nodata):
    values = random_values(1, dtype, 4)
    if nodata is not None:
        values[0, :3] = float(tag)
    tags = [(42113, "s", 0, tag, True)] if tag else []
    write(tmp_path / "mask.tif", values, extratags=tags, compression="zlib")
    stored = read_mask(tmp_path / "mask.tif")
    assert stored.nodata == nodata
    if nodata is not None:
        assert (stored.values[0, :3] == nodata).all()
    np.testing.assert_array_equal(stored.values[1:], values[1:, :, 0])


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_is_no_number_becomes_one_negative_value(tmp_path: Path, dtype: str):
    values = random_values(1, dtype, 4)
    values[0, :3] = [[np.nan], [np.inf], [-np.inf]]
    write(tmp_path / "mask.tif", values)
    stored = read_mask(tmp_path / "mask.tif").values
    assert stored[0, :3].tolist() == [NAN_VALUE] * 3
    np.testing.assert_array_equal(stored[1:], values[1:, :, 0])
    values[2, 2] = 1.5
    write(tmp_path / "mask.tif", values)
    with pytest.raises(SegtrainError, match="whole numbers"):
        read_mask(tmp_path / "mask.tif")


def test_values_beyond_64_bits(tmp_path: Path):
    values = np.array([[[0], [3], [2**64 - 1]]], np.uint64)
    write(tmp_path / "mask.tif", values)
    assert read_mask(tmp_path / "mask.tif").values.tolist() == [[0, 3, NAN_VALUE]]


@pytest.mark.parametrize("scale", [257, 1])
def test_the_palette_of_a_mask_and_of_a_photo(tmp_path: Path, scale: int):
    """16 bits by the standard; some tools write 8."""
    indices = random_values(1, "uint8")
    colours = np.random.default_rng(2).integers(0, 256, (3, 256))
    colormap = (colours * scale).astype(np.uint16)
    write(tmp_path / "a.tif", indices, photometric="palette", colormap=colormap)
    stored = read_mask(tmp_path / "a.tif")
    np.testing.assert_array_equal(stored.values, indices[..., 0])
    np.testing.assert_array_equal(stored.palette, colours.T)
    np.testing.assert_array_equal(ImageReader()(tmp_path / "a.tif"), colours.T[indices[..., 0]])


def test_the_header_says_what_the_pixels_are(tmp_path: Path):
    path = tmp_path / "a.tif"
    write(path, random_values(4, "uint16"), True, photometric="rgb", extrasamples=["assocalpha"])
    assert read_header(path) == (1, True, True)
    write(path, random_values(4, "uint8"), True, photometric="rgb", extrasamples=["unspecified"])
    assert read_header(path) == (1, False, False)


def test_13_bands_are_read_in_silence(tmp_path: Path, capfd: pytest.CaptureFixture):
    values = random_values(13, "uint16")
    write(tmp_path / "a.tif", values, photometric="minisblack")
    np.testing.assert_array_equal(ImageReader(13)(tmp_path / "a.tif"), values >> 8)
    with pytest.raises(SegtrainError):
        read_mask(tmp_path / "a.tif")
    assert capfd.readouterr() == ("", "")


# refused by name


@pytest.mark.skipif(IMAGECODECS, reason="imagecodecs is installed")
def test_a_codec_that_nothing_here_has_names_what_to_install(tmp_path: Path):
    write(tmp_path / "a.tif", random_values(4, "uint16"), photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages.first.tags["Compression"].overwrite(50002)
    for read in (ImageReader(4), ImageReader(), read_mask):
        with pytest.raises(SegtrainError, match="a.tif: .*JPEGXL.*imagecodecs"):
            read(tmp_path / "a.tif")


def test_halved_colours_are_no_ids(tmp_path: Path):
    """Pillow keeps 8 of the 16 bits of LZW colours: enough for a photo, not for a mask."""
    path, deep = tmp_path / "a.tif", random_values(3, "uint16")
    write(path, deep, photometric="rgb", compression="zlib")
    np.testing.assert_array_equal(ImageReader()(path), deep >> 8)
    np.testing.assert_array_equal(ImageReader(3, (0, 65535))(path), np.rint(deep / 257))
    with pytest.raises(SegtrainError, match="a.tif: colours of uint16"):
        read_mask(path)


def test_single_bits_of_several_bands_are_refused(tmp_path: Path):
    """tifffile reads them in another order than it writes them."""
    write(tmp_path / "a.tif", random_values(3, "bool"), photometric="rgb")
    with pytest.raises(SegtrainError, match="a.tif: .*8 bits"):
        ImageReader()(tmp_path / "a.tif")


@pytest.mark.parametrize("classes", [3, 4, 5])
@pytest.mark.parametrize("photometric", ["minisblack", "rgb"])
@pytest.mark.parametrize("order", ["separate", None])
def test_bands_of_one_class_each(tmp_path: Path, classes: int, photometric: str, order):
    ids = random_values(1, "uint8", classes)[..., 0]
    hot = np.eye(classes, dtype=np.uint8)[ids].transpose(2, 0, 1)
    options = {"planarconfig": "separate"} if order or photometric == "rgb" else {}
    tifffile.imwrite(tmp_path / "mask.tif", hot, photometric=photometric, **options)
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.tif").values, ids)


def test_pages_are_no_mask(tmp_path: Path):
    pages = random_values(4, "uint8").transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    with pytest.raises(SegtrainError, match="a.tif: 4 pages"):
        read_mask(tmp_path / "a.tif")


def test_an_imagej_stack_has_one_directory_for_its_pages(tmp_path: Path):
    values = random_values(4, "uint8").transpose(2, 0, 1)
    tifffile.imwrite(tmp_path / "a.tif", values, imagej=True, photometric="minisblack")
    np.testing.assert_array_equal(ImageReader(4)(tmp_path / "a.tif"), values.transpose(1, 2, 0))
    with pytest.raises(SegtrainError, match="a.tif: "):
        ImageReader()(tmp_path / "a.tif")


def test_a_tiff_by_another_name_is_a_tiff(tmp_path: Path):
    values = random_values(1, "uint8", 4)
    write(tmp_path / "mask.png", values, photometric="miniswhite")
    np.testing.assert_array_equal(read_mask(tmp_path / "mask.png").values, values[..., 0])


@pytest.mark.parametrize("compression", [None, "zlib"])
@pytest.mark.parametrize("length", [6, 9, 1 << 23])
def test_a_damaged_height_is_refused_at_once(tmp_path: Path, compression, length: int):
    path = tmp_path / "mask.tif"
    tifffile.imwrite(path, np.ones((4, 6), np.uint8), rowsperstrip=2, compression=compression)
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags["ImageLength"].overwrite(length)
    with pytest.raises(SegtrainError, match="mask.tif.*(strips|damaged)"):
        read_mask(path)
