"""Images of a page's viewer: small, encoded, in colours that tell classes apart."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image
from torch import Tensor

from segtrain.render.overlay import RIGHT, WRONG, Palette, kept_map, to_image

LONGEST = 640  # pixels of a picture's longer side


@dataclass(frozen=True)
class Shown:
    """One image of the viewer, at most LONGEST pixels long: encoded, so that many take little."""

    name: str
    caption: str
    kind: Literal["worst", "best"]
    size: tuple[int, int]  # width, height
    image: bytes  # WebP
    truth: bytes  # PNG of class ids; num_classes where ignored
    prediction: bytes  # likewise
    errors: bytes  # PNG
    hard: bytes | None  # WebP: what a loss that mines keeps

    @classmethod
    def of(
        cls,
        name: str,
        caption: str,
        kind: Literal["worst", "best"],
        image: Tensor,
        truth: Tensor,
        prediction: Tensor,
        kept: Tensor | None,
        lb_ignore: int,
        num_classes: int,
    ) -> Shown:
        """From an image uint8 (3,H,W), ids (H,W) and what is kept (H,W) 0..1, on any device."""
        image = smaller(image)
        truth, prediction = (nearest(ids, *image.shape[1:]) for ids in (truth, prediction))
        ignored = truth == lb_ignore
        true_ids = truth.masked_fill(ignored, num_classes).numpy()
        ids = prediction.numpy()
        wrong = np.where(true_ids == num_classes, 2, true_ids != ids).astype(np.uint8)
        hard = None
        if kept is not None:
            kept = nearest(kept, *image.shape[1:])
            hard = webp(to_image(kept_map(image, kept, ignored)))
        return cls(
            name,
            caption,
            kind,
            size=(image.shape[2], image.shape[1]),
            image=webp(to_image(image)),
            truth=png(as_ids(true_ids)),
            prediction=png(as_ids(ids)),
            errors=painted(wrong, [RIGHT, WRONG]),
            hard=hard,
        )


def smaller(image: Tensor) -> Tensor:
    """The image (3,H,W) on the CPU, at most LONGEST pixels long."""
    longest = max(image.shape[1:])
    if longest <= LONGEST:
        return image.cpu()
    height, width = (max(1, round(side * LONGEST / longest)) for side in image.shape[1:])
    small = to_image(image).resize((width, height), Image.Resampling.BOX)
    return image.new_tensor(np.asarray(small)).permute(2, 0, 1)


def nearest(values: Tensor, height: int, width: int) -> Tensor:
    """(H,W) -> (height,width) on the CPU, each the value in the middle of what it stands for."""
    rows, columns = (
        ((np.arange(few) + 0.5) * many / few).astype(np.int64)
        for few, many in zip((height, width), values.shape, strict=True)
    )
    return values[rows][:, columns].cpu()


def as_ids(ids: np.ndarray) -> Image.Image:
    return Image.fromarray(ids.astype(np.uint8 if ids.max(initial=0) < 256 else np.uint16))


def painted(ids: np.ndarray, colours: Palette) -> bytes:
    """PNG of ids (H,W) in exactly their colours; what has none is transparent."""
    table = np.array([(*colour, 255) for colour in colours] + [(0, 0, 0, 0)], np.uint8)
    ids = np.minimum(ids.astype(np.int64), len(colours))
    if len(table) > 256:
        return png(Image.fromarray(table[ids]))
    image = Image.fromarray(ids.astype(np.uint8))
    image.putpalette(table[:, :3].tobytes())
    return png(image, transparency=len(colours))


def png(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", **options)
    return buffer.getvalue()


def webp(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "webp", quality=80)
    return buffer.getvalue()


def distinct(palette: Palette) -> list[tuple[int, int, int]]:
    """The palette, a class changed by the least that tells its colour from those before it.

    A script reads class ids off the colours of painted masks.
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


def repainted(ids: bytes, colours: Palette) -> bytes:
    return painted(np.asarray(Image.open(io.BytesIO(ids))), colours)
