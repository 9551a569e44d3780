"""Quick decoding of PNG and JPEG files; what it can't take, Pillow decodes or refuses as ever."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

try:
    import deflate
except ImportError:  # no wheel for this machine
    deflate = None  # type: ignore[assignment]
try:
    import simplejpeg
except ImportError:
    simplejpeg = None

MOST = 1 << 26  # bytes of pixels: those of PNG are in memory three times
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by PNG's colour type
BLOCK = 65535  # bytes of a stored block of deflate, at most
COLOURS = {"RGB": "RGB", "L": "GRAY"}  # simplejpeg's name of Pillow's mode


def store_rows(content: bytes) -> bytes | None:
    """Return a PNG with its rows stored, which libdeflate decompressed: it is quicker than zlib.

    None where it can't, of damaged rows as well. content: a file whose checksums are right.
    Formats: W3C PNG 3, sections 5 and 10; RFC 1950 and 1951.
    """
    if deflate is None:
        return None
    chunks = list(_split_chunks(content))
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    size = height * (1 + -(-width * bits * SAMPLES.get(colour, 0) // 8))
    if interlaced or size > MOST:
        return None
    compressed = b"".join(data for kind, data in chunks if kind == b"IDAT")
    try:
        rows = deflate.zlib_decompress(compressed, size)
    except deflate.DeflateError:
        return None
    first = next(i for i, (kind, _) in enumerate(chunks) if kind == b"IDAT")
    others = [chunk for chunk in chunks if chunk[0] != b"IDAT"]
    others.insert(first, (b"IDAT", _store(rows)))
    return PNG_SIGNATURE + b"".join(_pack_chunk(kind, data) for kind, data in others)


def decode_jpeg(content: bytes, mode: str) -> np.ndarray | None:
    """Return the pixels (H,W,C) of a JPEG of Pillow's mode, None where Pillow has to decode it."""
    if simplejpeg is None or mode not in COLOURS:
        return None
    try:
        return simplejpeg.decode_jpeg(content, COLOURS[mode], strict=True)
    except ValueError:
        return None


def _split_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        length, kind = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        yield kind, content[place + 8 : place + 8 + length]
        place += 12 + length


def _store(rows: bytes | bytearray) -> bytes:
    """Return a stream of zlib that holds the rows in stored blocks."""
    parts: list[bytes | bytearray] = [b"\x78\x01"]
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        is_last = start + BLOCK >= len(rows)
        parts += [struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF), block]
    return b"".join([*parts, struct.pack(">I", deflate.adler32(rows))])


def _pack_chunk(kind: bytes, data: bytes) -> bytes:
    checksum = deflate.crc32(data, deflate.crc32(kind))
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)])
