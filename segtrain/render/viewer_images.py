"""Images of a page's viewer: small, encoded, in colours that differ between classes."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from torch import Tensor

from segtrain.render.overlay import RIGHT, WRONG, ClassColours, paint_kept, to_image

MAX_SIDE = 640  # pixels of a picture's longer side


@dataclass(frozen=True)
class ImageMaps:
    """An image and the maps of its pixels that pictures are made of."""

    image: Tensor  # uint8 (3,H,W)
    truth: Tensor  # (H,W) class ids and lb_ignore
    prediction: Tensor  # (H,W) class ids
    kept: Tensor | None = None  # (H,W), 0..1: how far a mining loss keeps each pixel
    confidence: Tensor | None = None  # (H,W), 0..1


@dataclass(frozen=True)
class ViewerImage:
    """One image of the viewer, encoded, so that many take little memory."""

    name: str
    caption: str
    kind: Literal["worst", "best"]
    size: tuple[int, int]  # width, height; at most MAX_SIDE
    image: bytes  # WebP
    truth: bytes  # PNG of class ids; num_classes where ignored
    prediction: bytes  # PNG of class ids
    errors: bytes  # PNG
    hard: bytes | None  # WebP: pixels that a mining loss keeps
    confidence: bytes | None  # WebP, grey: white is sure

    @classmethod
    def encode(
        cls,
        name: str,
        caption: str,
        kind: Literal["worst", "best"],
        maps: ImageMaps,
        lb_ignore: int,
        num_classes: int,
    ) -> ViewerImage:
        """Return the maps, on any device, shrunk and encoded."""
        image = shrink_image(maps.image)
        height, width = image.shape[1:]
        truth = sample_nearest(maps.truth, height, width)
        ids = sample_nearest(maps.prediction, height, width).numpy()
        ignored = truth == lb_ignore
        true_ids = truth.masked_fill(ignored, num_classes).numpy()
        wrong = np.where(true_ids == num_classes, 2, true_ids != ids).astype(np.uint8)
        hard = None
        if maps.kept is not None:
            kept = sample_nearest(maps.kept, height, width)
            hard = encode_webp(to_image(paint_kept(image, kept, ignored)))
        sure = None
        if maps.confidence is not None:
            shades = sample_nearest(maps.confidence, height, width).mul(255).round().byte()
            sure = encode_webp(to_image(shades.expand(3, -1, -1)))
        return cls(
            name,
            caption,
            kind,
            size=(width, height),
            image=encode_webp(to_image(image)),
            truth=encode_png(ids_to_image(true_ids)),
            prediction=encode_png(ids_to_image(ids)),
            errors=paint_ids(wrong, [RIGHT, WRONG]),
            hard=hard,
            confidence=sure,
        )


def shrink_image(image: Tensor) -> Tensor:
    """Return an image (3,H,W) on the CPU, its longer side at most MAX_SIDE pixels."""
    longest = max(image.shape[1:])
    if longest <= MAX_SIDE:
        return image.cpu()
    height, width = (max(1, round(side * MAX_SIDE / longest)) for side in image.shape[1:])
    small = to_image(image).resize((width, height), Image.Resampling.BOX)
    return image.new_tensor(np.asarray(small)).permute(2, 0, 1)


def sample_nearest(values: Tensor, height: int, width: int) -> Tensor:
    """(H,W) -> (height,width) on the CPU: the value at the centre of each new pixel."""
    rows, columns = (
        ((np.arange(few) + 0.5) * many / few).astype(np.int64)
        for few, many in zip((height, width), values.shape, strict=True)
    )
    return values[rows][:, columns].cpu()


def ids_to_image(ids: np.ndarray) -> Image.Image:
    """Return class ids (H,W) as a grey image, of 16 bits where an id needs them."""
    return Image.fromarray(ids.astype(np.uint8 if ids.max(initial=0) < 256 else np.uint16))


def paint_ids(ids: np.ndarray, colours: ClassColours) -> bytes:
    """Return a PNG of ids (H,W) in exactly their colours; ids without one are transparent."""
    table = np.array([(*colour, 255) for colour in colours] + [(0, 0, 0, 0)], np.uint8)
    ids = np.minimum(ids.astype(np.int64), len(colours))
    if len(table) > 256:  # a PNG's palette has no more entries
        return encode_png(Image.fromarray(table[ids]))
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(table[:, :3].tobytes())
    return encode_png(image, transparency=len(colours))


def repaint_png(ids: bytes, colours: ClassColours) -> bytes:
    """Return a PNG of class ids as a PNG in the classes' colours."""
    return paint_ids(np.asarray(PngImageFile(io.BytesIO(ids))), colours)


def encode_png(image: Image.Image, **options: Any) -> bytes:
    """Return the image as a PNG file."""
    buffer = io.BytesIO()
    image.save(buffer, "png", **options)
    return buffer.getvalue()


def encode_webp(image: Image.Image) -> bytes:
    """Return the image as a WebP file of good quality."""
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=80)
    return buffer.getvalue()


def make_distinct(palette: ClassColours) -> list[tuple[int, int, int]]:
    """Return the palette with each repeated colour changed as little as makes it unique.

    The page's script reads class ids from the colours of painted masks.
    """
    seen: dict[tuple[int, int, int], None] = {}
    for colour in palette:
        red, green, blue = colour
        r, g, b = (-1 if part > 127 else 1 for part in colour)  # away from the nearer end
        tried = (
            (red + r * (n % 8), green + g * (n // 8 % 8), blue + b * (n // 64))
            for n in range(len(palette))
        )
        seen[next(other for other in tried if other not in seen)] = None
    return list(seen)
