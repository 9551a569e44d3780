"""PNG files of photographs, compressed by libdeflate: sooner than by zlib, and no larger."""

from __future__ import annotations

import struct

import numpy as np

try:
    import deflate
except ImportError:  # no wheel for this machine: Pillow writes them
    deflate = None  # type: ignore[assignment]

Buffer = bytes | bytearray | memoryview
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
QUICK = 1 << 24  # pixels; a larger image would be in memory three times
LEVEL = 1  # of 1 to 12; higher ones take longer for 2 % less
RGB, EIGHT_BITS, UP = 2, 8, 2  # PNG's colour type, bits of a sample, and filter


def can_encode(pixels: int) -> bool:
    """Return whether `encode_rgb` is there for an image of so many pixels."""
    return deflate is not None and pixels <= QUICK


def encode_rgb(pixels: np.ndarray) -> bytes:
    """Return the PNG of an image (H,W,3) uint8. Format: W3C PNG 3, sections 5, 7 and 9."""
    height, width, _ = pixels.shape
    rows = np.empty((height, 1 + 3 * width), np.uint8)
    values = pixels.reshape(height, -1)
    rows[:, 0], rows[0, 1:] = UP, values[0]
    np.subtract(values[1:], values[:-1], out=rows[1:, 1:])  # modulo 256
    header = struct.pack(">IIBBBBB", width, height, EIGHT_BITS, RGB, 0, 0, 0)
    content = deflate.zlib_compress(rows.tobytes(), LEVEL)
    chunks = (b"IHDR", header), (b"IDAT", content), (b"IEND", b"")
    parts = [part for kind, data in chunks for part in pack_chunk(kind, [data])]
    return b"".join([PNG_SIGNATURE, *parts])


def pack_chunk(kind: bytes, data: list[Buffer]) -> list[Buffer]:
    """Return the parts of a chunk of a PNG whose data are parts."""
    checksum = deflate.crc32(kind)
    for part in data:
        checksum = deflate.crc32(part, checksum)
    length = struct.pack(">I", sum(map(len, data)))
    return [length, kind, *data, struct.pack(">I", checksum)]
