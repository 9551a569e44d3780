"""TIFF files: facts from their tags, and values exactly as they are stored."""

from __future__ import annotations

import logging
import lzma
import math
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import UnidentifiedImageError
from tifffile import COMPRESSION, PHOTOMETRIC, TIFF, TiffFile, TiffFrame, TiffPage

from segtrain.data.decoding import (
    EXIF_ORIENTATION,
    MAX_PIXELS,
    is_lossless_webp,
    refuse_bomb,
    translate_decoding,
    turn_back,
)
from segtrain.data.formats import open_known
from segtrain.errors import SegtrainError

SUFFIXES = {".tif", ".tiff"}
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two: BigTIFF
TRANSPARENCY = 0b100  # bit of NewSubfileType: a transparency mask
SUBFILE_NO_IMAGE = 0b001 | TRANSPARENCY  # an overview or thumbnail
GDAL_NODATA = 42113
ALPHA = {1: "associated", 2: "unassociated"}  # values of ExtraSamples; 0 says nothing
IMAGECODECS = find_spec("imagecodecs") is not None
# codecs and bits that tifffile has without imagecodecs
CODECS = {1, 8, 32773, 32946, 34925}  # none, deflate, PackBits, deflate, LZMA
WHOLE_BITS = {1, 8, 16, 32, 64}
# bytes that one byte may become; those of LZMA always count, for its header asks for memory
EXPANSION = {8: 1032, 32946: 1032, 32773: 64, 34925: math.inf}
NO_LIMIT = 1 << 62  # pixels
MOST_PAGES = 1000  # a chain of directories may be a ring
ROOM = 1 << 26  # bytes that a strip may unpack to beyond the image's own
# what Pillow decodes to the stored values, tried against them
PILLOW_CODECS = {1, 2, 3, 4, 5, 6, 7, 8, 32773, 32946, 34925, 50000}  # CCITT, LZW, JPEG, zstd
JPEG = {6, 7, 33007, 34892}
LOSSY = JPEG | {33003, 33004, 33005, 34934, 50002}  # JPEG 2000 and XR, JPEG XL
SOMETIMES_LOSSY = {34712, 34887, 34927, 50001}  # JPEG 2000, LERC, WebP
# samples of a pixel's colour; any further ones are extra
COLOURS: dict[int, int] = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.PALETTE: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.YCBCR: 3,
    PHOTOMETRIC.SEPARATED: 4,
}
PLAIN = (PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.PALETTE, PHOTOMETRIC.RGB)
LAB = (PHOTOMETRIC.CIELAB, PHOTOMETRIC.ICCLAB, PHOTOMETRIC.ITULAB)
PILLOW_MODES = "1 L La LA P PA RGB RGBA CMYK YCbCr I I;16 I;16B F".split()
# each prints a line for odd tags, at every reading
for name in ("tifffile", "PIL.TiffImagePlugin"):
    logging.getLogger(name).setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class TiffHeader:
    """Facts of a TIFF's image, from its tags."""

    shape: tuple[int, ...]  # of the values: (H,W) or (H,W,S), or of a stack of pages
    pages: int  # as large as the first, without thumbnails
    dtype: np.dtype
    bits: int  # of one sample
    photometric: int
    extra: tuple[int, ...]  # kinds of the samples beyond the colours
    compression: str
    lossy: bool
    orientation: int
    palette: np.ndarray | None  # (n,3) uint8
    nodata: float | None  # of GDAL's tag

    @property
    def samples(self) -> int:
        return self.shape[2] if self.pages == 1 and len(self.shape) == 3 else 1

    @property
    def colours(self) -> int:
        """Samples of a pixel's colour: 1 for grey and indices, 0 for bands without a meaning."""
        known = COLOURS.get(self.photometric, 0)
        if self.pages > 1 or self.samples < known:
            return 0
        # one sample beside grey may be alpha; more are bands
        return 0 if known == 1 and self.samples > 2 else known

    @property
    def white_is_zero(self) -> bool:
        return self.photometric == PHOTOMETRIC.MINISWHITE and self.colours == 1

    @property
    def has_plain_values(self) -> bool:
        """Grey, indices or RGB, not colours that were converted from these."""
        return self.photometric in PLAIN

    @property
    def is_lab(self) -> bool:
        return self.photometric in LAB

    @property
    def kind(self) -> str:
        """Name of the colour space."""
        if self.photometric == PHOTOMETRIC.SEPARATED:
            return "CMYK"
        known = self.photometric in list(PHOTOMETRIC)
        return PHOTOMETRIC(self.photometric).name if known else str(self.photometric)

    @property
    def missing_value(self) -> np.generic | None:
        """GDAL's nodata in the type of the values, None where that has no such value."""
        nodata, dtype = self.nodata, self.dtype
        if nodata is not None and dtype.kind == "f":
            with np.errstate(over="ignore"):
                return dtype.type(nodata)
        if nodata is None or dtype.kind not in "biu" or not nodata.is_integer():
            return None
        is_bit = dtype.kind == "b"
        low, high = (0, 1) if is_bit else (np.iinfo(dtype).min, np.iinfo(dtype).max)
        return dtype.type(int(nodata)) if low <= nodata <= high else None

    def find_missing(self, values: np.ndarray) -> np.ndarray | None:
        """Return which values are nodata, NaN among them; None where the file names none."""
        if (nodata := self.missing_value) is None:
            return None
        missing = values == nodata
        return missing | np.isnan(values) if values.dtype.kind == "f" else missing

    @property
    def has_alpha(self) -> bool:
        return any(kind in ALPHA for kind in self.extra)

    def undecodable(self, path: Path) -> SegtrainError:
        """Return the error for pixels that neither tifffile nor Pillow reads as stored."""
        helps = not IMAGECODECS and self.photometric != PHOTOMETRIC.YCBCR
        way = "pip install 'segtrain-cli[tiff]' (imagecodecs), or " if helps else ""
        return SegtrainError(
            f"{path}: {' x '.join(map(str, self.shape))} values of {self.dtype} ({self.kind}, "
            f"{self.compression}) can't be decoded; {way}save it uncompressed, as grey or RGB"
        )


def is_tiff(path: Path) -> bool:
    """Return whether a file begins as a TIFF does, whatever its name."""
    with translate_decoding(path), open(path, "rb") as file:
        return file.read(4) in MAGIC


def read_tiff_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of a file named as TIFFs are, zeros for one that can't be read."""
    try:
        if path.suffix.lower() not in SUFFIXES or not is_tiff(path):
            return 0, 0
        with translate_decoding(path), TiffFile(path) as file:
            return file.pages.first.imagelength, file.pages.first.imagewidth
    except SegtrainError:  # reported as it is read
        return 0, 0


def read_tiff_header(path: Path, max_pixels: int = MAX_PIXELS, channels: int = 4) -> TiffHeader:
    """Read what the tags say. Raises SegtrainError for a damaged file, or a decompression bomb."""
    with translate_decoding(path), TiffFile(path) as file:
        return describe_tiff(file, path, max_pixels, channels)


def read_tiff(
    path: Path, max_pixels: int = MAX_PIXELS, channels: int = 4, exact: bool = True
) -> tuple[TiffHeader, np.ndarray]:
    """Return the facts and the stored values: not inverted, not divided by alpha, not turned.

    tifffile decodes what it can, and Pillow the rest where it doesn't change values; it may leave
    out unspecified samples, and without `exact` it may keep the upper 8 of 16 bits. Raises
    SegtrainError for a file that can't be read.
    """
    with translate_decoding(path), TiffFile(path) as file:
        header = describe_tiff(file, path, max_pixels, channels)
        page = file.pages.first
        if not is_decodable(page):
            return header, _decode_by_pillow(path, page, header, exact)
        refuse_cut_off(file)
        _refuse_compressed_bombs(file)
        if header.pages == 1:
            values = page.asarray(maxworkers=1)  # loaders decode in parallel already
            return header, _bands_last(values, page)
        if len(whole := _whole_pages(file)) == 1:
            return header, file.series[0].asarray(maxworkers=1)
        return header, np.stack([part.asarray(maxworkers=1) for part in whole])


def describe_tiff(file: TiffFile, path: Path, max_pixels: int, channels: int) -> TiffHeader:
    """Return what the tags say. Raise SegtrainError for more pixels than `max_pixels`."""
    page = file.pages.first
    sides = (page.imagelength, page.imagewidth)
    refuse_bomb(path, sides, max_pixels)
    with suppress(IndexError):
        file.pages[MOST_PAGES]
        raise ValueError(f"more than {MOST_PAGES} pages, or a ring of them")
    if page.dtype is None or not page.size:
        raise ValueError(f"{page.shape} samples of {page.bitspersample} bits")
    if page.bitspersample == 1 and page.samplesperpixel > 1 and page.planarconfig == 1:
        # tifffile itself writes them in another order than it reads
        raise ValueError("several bands of single bits; save it with 8 bits")
    pages, shape = len(_whole_pages(file)), page.shape
    # an ImageJ stack has one directory for all its pages
    if len(file.pages) == 1 and (pages := file.series[0].size // page.size) > 1:
        shape = file.series[0].shape
    elif pages == 1:
        shape = _bands_last(np.broadcast_to(np.uint8(0), shape), page).shape
    else:
        shape = (pages, *shape)
    refuse_bomb(path, (math.prod(shape) // math.prod(sides), *sides), max_pixels, max(channels, 4))
    orientation, bits = page.tags.get(EXIF_ORIENTATION), page.bitspersample
    return TiffHeader(
        shape=tuple(shape),
        pages=pages,
        dtype=page.dtype.newbyteorder("="),
        bits=bits if isinstance(bits, int) else page.dtype.itemsize * 8,
        photometric=int(page.photometric),
        extra=tuple(map(int, page.extrasamples)),
        compression=getattr(page.compression, "name", str(page.compression)),
        lossy=_is_lossy(file, page),
        orientation=int(orientation.value) if orientation else 1,
        palette=_palette(page),
        nodata=_nodata(page),
    )


def _bands_last(values: np.ndarray, page: TiffPage) -> np.ndarray:
    return np.moveaxis(values, page.axes.index("S"), -1) if "S" in page.axes else values


def _whole_pages(file: TiffFile) -> list[TiffPage | TiffFrame]:
    """Return the pages of the first one's size, without thumbnails and transparency masks."""
    first = file.pages.first

    def is_whole(page: TiffPage | TiffFrame) -> bool:
        if not isinstance(page, TiffPage) or page is first:
            return True
        agree = (page.imagelength, page.imagewidth) == (first.imagelength, first.imagewidth)
        return agree and not int(page.subfiletype or 0) & SUBFILE_NO_IMAGE

    return [page for page in file.pages if is_whole(page)]


def find_transparency(file: TiffFile) -> TiffPage | None:
    """Return the page that says which pixels of the first one have data, None without one."""
    first = file.pages.first
    for page in file.pages[1:]:
        if isinstance(page, TiffPage) and int(page.subfiletype or 0) & TRANSPARENCY:
            if (page.imagelength, page.imagewidth) == (first.imagelength, first.imagewidth):
                return page
    return None


def is_decodable(page: TiffPage) -> bool:
    """Return whether tifffile can decode a page, with imagecodecs if that is installed."""
    if page.photometric == PHOTOMETRIC.YCBCR and page.compression not in JPEG:
        return False
    if IMAGECODECS:
        return page.compression == 1 or page.compression in TIFF.DECOMPRESSORS
    bits = page.bitspersample
    return (
        page.compression in CODECS
        and page.predictor in (1, 2)
        and (isinstance(bits, tuple) or bits in WHOLE_BITS)
    )


def refuse_cut_off(file: TiffFile) -> None:
    """Raise ValueError for pixels behind the file's end, which tifffile may read as zeros.

    So are those of strips that a damaged height asks for, after minutes where these are many.
    """
    for page in file.pages:
        shape = page.keyframe
        if shape and len(page.dataoffsets) < math.prod(shape.chunked):
            raise ValueError("strips of a TIFF are missing")
        ends = map(sum, zip(page.dataoffsets, page.databytecounts, strict=False))
        if max(ends, default=0) > file.filehandle.size:
            raise ValueError("truncated TIFF")


def _refuse_compressed_bombs(file: TiffFile) -> None:
    """Raise ValueError for strips that unpack to far more than the image, which tifffile does."""
    for page in () if IMAGECODECS else file.pages:
        tags = page.keyframe or file.pages.first
        compression, limit = tags.compression, ROOM + 2 * tags.nbytes
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False):
            if count * EXPANSION.get(compression, 0) > limit:
                file.filehandle.seek(offset)
                refuse_unpacked(compression, file.filehandle.read(count), limit)


def refuse_unpacked(compression: int, data: bytes, limit: int) -> None:
    """Raise ValueError for a strip or tile that tifffile unpacks to more than `limit` bytes."""
    if not IMAGECODECS and len(data) * EXPANSION.get(compression, 0) > limit:
        if _unpacked_bytes(compression, data, limit) > limit:
            raise ValueError(f"a strip unpacks to over {limit} bytes")


def _unpacked_bytes(compression: int, data: bytes, limit: int) -> int:
    """Return how many bytes the data become, or any number above `limit`."""
    total = 0
    if compression == COMPRESSION.LZMA:
        while data and total <= limit:
            stream = lzma.LZMADecompressor(memlimit=1 << 28)
            total += len(stream.decompress(data, limit + 1 - total))
            data = stream.unused_data if stream.eof else b""
    elif compression == COMPRESSION.PACKBITS:
        place = 0
        while place < len(data) and total <= limit:
            repeats = data[place] > 128
            length = 257 - data[place] if repeats else data[place] + 1
            total, place = total + length, place + 1 + (1 if repeats else length)
    else:
        total = len(zlib.decompressobj().decompress(data, limit + 1))
    return total


def _decode_by_pillow(path: Path, page: TiffPage, header: TiffHeader, exact: bool) -> np.ndarray:
    """Return the stored values by Pillow. Raises SegtrainError where it may change them."""
    refused = header.undecodable(path)
    known = header.photometric in COLOURS and page.compression in PILLOW_CODECS
    if header.pages > 1 or not known:
        raise refused
    try:
        image = open_known(path)
    except UnidentifiedImageError:
        raise refused
    with image:
        mode, args = image.mode, image.tile[0].args
        raw, *rest = args if isinstance(args, tuple) else (args,)
        # of bands apart, it reads only the first, or scrambles those that it divides by alpha
        divided = mode == "La" or str(raw).startswith("RGBa")
        if page.planarconfig == 2 and (divided or image.tile[0].codec_name != "libtiff"):
            raise refused
        if divided and mode == "RGBA":
            tile = image.tile[0]
            image.tile = [type(tile)(*tile[:3], (str(raw).replace("a", "A"), *rest))]
        if mode not in PILLOW_MODES:
            raise refused
        image.load()
        values = np.asarray(image.convert("RGB") if mode == "YCbCr" else image)
    if page.planarconfig == 2 and mode == "LA":
        values = values[..., 0]
    if values[0, 0].size != header.samples and not 0 < header.colours <= values[0, 0].size:
        raise refused
    if mode in ("1", "L") and header.photometric == PHOTOMETRIC.MINISWHITE:
        values = ~values
    if mode == "L" and header.bits in (2, 4):
        values = values // (255 // (2**header.bits - 1))
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.dtype.itemsize == header.dtype.itemsize:
        values = values.view(header.dtype)  # signed bytes
    elif mode.startswith("I"):
        values = values.astype(header.dtype)
    elif exact:
        raise refused
    return turn_back(values, header.orientation)


def _is_lossy(file: TiffFile, page: TiffPage) -> bool:
    if page.compression not in SOMETIMES_LOSSY:
        return int(page.compression) in LOSSY
    file.filehandle.seek(page.dataoffsets[0])
    start = file.filehandle.read(min(page.databytecounts[0], 4096))
    if page.compression == COMPRESSION.JPEG2000:
        coding = start.find(b"\xff\x52")  # the wavelet is the 13th byte from there
        return coding < 0 or start[coding + 13 : coding + 14] != b"\1"
    if page.compression == COMPRESSION.LERC:  # integers are whole up to an error of 0.5
        return start.startswith(b"Lerc2 ") and struct.unpack_from("<d", start, 42)[0] > 0.5
    return not is_lossless_webp(start)


def _palette(page: TiffPage) -> np.ndarray | None:
    if page.photometric != PHOTOMETRIC.PALETTE or page.colormap is None:
        return None
    colours = np.asarray(page.colormap).T
    if colours.ndim != 2 or colours.shape[1] != 3:
        raise ValueError(f"a palette of {colours.size} numbers")
    # 16 bits by the standard; some tools write 8
    return (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)


def _nodata(page: TiffPage) -> float | None:
    tag = page.tags.get(GDAL_NODATA)
    try:
        return float(str(tag.value).strip("\0 ")) if tag else None
    except ValueError:
        return None
