"""Quick decoding of PNG files; what it can't take, Pillow decodes or refuses as ever."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

import cv2
import numpy as np

from segtrain.render.png import PNG_SIGNATURE, Buffer, pack_chunk

try:
    import deflate
except ImportError:  # no wheel for this machine
    deflate = None  # type: ignore[assignment]

MOST = 1 << 26  # bytes of pixels: those of PNG are in memory three times
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a pixel, by PNG's colour type
LAST_FILTER = 4  # of the five that a row of PNG may have
BLOCK = 65535  # bytes of a stored block of deflate, at most


class StoredPng(NamedTuple):
    """A PNG whose rows are stored instead of compressed."""

    content: bytes
    is_plain: bool  # 8 bits of grey or RGB, and nothing behind the rows


def store_rows(content: bytes) -> StoredPng | None:
    """Decompress the rows of a PNG by libdeflate, which is quicker than zlib.

    None where it can't, of damaged rows as well. content: a file whose checksums are right.
    Formats: W3C PNG 3, sections 5, 9 and 10; RFC 1950 and 1951.
    """
    if deflate is None:
        return None
    chunks = list(_split_chunks(content))
    width, height, bits, colour, _, _, interlaced = struct.unpack(">IIBBBBB", chunks[0][1])
    row = 1 + -(-width * bits * SAMPLES.get(colour, 0) // 8)
    if interlaced or height * row > MOST:
        return None
    compressed = b"".join(data for kind, data in chunks if kind == b"IDAT")
    try:
        rows = deflate.zlib_decompress(compressed, height * row)
    except deflate.DeflateError:
        return None
    kinds = [kind for kind, _ in chunks]
    first = kinds.index(b"IDAT")
    parts: list[Buffer] = [PNG_SIGNATURE]
    for kind, data in chunks[:first]:
        parts += pack_chunk(kind, [data])
    parts += pack_chunk(b"IDAT", _store(rows))
    for kind, data in chunks[first:]:
        if kind != b"IDAT":
            parts += pack_chunk(kind, [data])
    ends = kinds[-2:] == [b"IDAT", b"IEND"]
    is_plain = bits == 8 and colour in (0, 2) and ends and max(rows[::row]) <= LAST_FILTER
    return StoredPng(b"".join(parts), is_plain)  # the only copy of the rows


def decode_plain(content: bytes, mode: str) -> np.ndarray:
    """Return the pixels (H,W,3) or (H,W) of a plain PNG of Pillow's mode, RGB or L."""
    kind = cv2.IMREAD_COLOR_RGB if mode == "RGB" else cv2.IMREAD_GRAYSCALE
    data = np.frombuffer(content, np.uint8)
    pixels = cv2.imdecode(data, kind | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        raise ValueError("broken PNG")
    return pixels


def _split_chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = len(PNG_SIGNATURE)
    kind = b""
    while kind != b"IEND":
        length, kind = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        yield kind, content[place + 8 : place + 8 + length]
        place += 12 + length


def _store(rows: bytes | bytearray) -> list[Buffer]:
    """Return the parts of a stream of zlib that holds the rows in stored blocks."""
    parts: list[Buffer] = [b"\x78\x01"]
    view = memoryview(rows)
    for start in range(0, len(rows), BLOCK):
        block = view[start : start + BLOCK]
        is_last = start + BLOCK >= len(rows)
        parts += [struct.pack("<BHH", is_last, len(block), len(block) ^ 0xFFFF), block]
    return [*parts, struct.pack(">I", deflate.adler32(rows))]
