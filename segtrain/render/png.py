"""PNG files of photographs, compressed by libdeflate: a third of zlib's time for the same size."""

from __future__ import annotations

import struct

import numpy as np

try:
    import deflate
except ImportError:  # no wheel for this machine: Pillow writes them
    deflate = None  # type: ignore[assignment]

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
    parts = (b"IHDR", header), (b"IDAT", content), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_pack_chunk(kind, data) for kind, data in parts)


def _pack_chunk(kind: bytes, data: bytes | bytearray) -> bytes:
    checksum = deflate.crc32(data, deflate.crc32(kind))
    return b"".join([struct.pack(">I", len(data)), kind, data, struct.pack(">I", checksum)])
