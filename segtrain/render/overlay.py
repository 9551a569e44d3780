"""Class ids and images to pictures: palettes, overlays, legends, panels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from segtrain.files import whole_file

NEAREST = Image.Resampling.NEAREST
Palette = Sequence[tuple[int, int, int]]
IGNORED_COLOUR = (255, 255, 255)
# told apart by how light they are, too, for eyes that don't see red and green
RIGHT, WRONG = (205, 211, 219), (190, 24, 60)
KEPT, EASY = (230, 30, 30), (40, 80, 200)


def colour_table(palette: Palette, device: torch.device | str = "cpu") -> Tensor:
    """(C+1,3) uint8: a colour a class, and last that of ignored pixels."""
    return torch.tensor([*palette, IGNORED_COLOUR], dtype=torch.uint8, device=device)


def visible(image: Tensor) -> Tensor:
    """An image (C,H,W) as RGB (3,H,W): the first three of more channels, fewer as grey."""
    return image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)


def paint(class_ids: Tensor, colours: Tensor) -> Tensor:
    """Class ids (H,W), anything outside 0..C-1 being ignored, -> RGB uint8 (3,H,W)."""
    last = len(colours) - 1
    known = (class_ids >= 0) & (class_ids < last)
    return colours[class_ids.where(known, last).long()].permute(2, 0, 1)


def blend(image: Tensor, class_ids: Tensor, colours: Tensor, opacity: float) -> Tensor:
    """image uint8 (3,H,W) with the classes' colours over it, on the image's device.

    Ignored pixels show the image as it is.
    """
    ignored = (class_ids < 0) | (class_ids >= len(colours) - 1)
    painted = torch.lerp(image.float(), paint(class_ids, colours).float(), opacity)
    return painted.round().to(torch.uint8).where(~ignored, image)


def error_map(prediction: Tensor, target: Tensor, lb_ignore: int) -> Tensor:
    """RGB uint8 (3,H,W): light grey where right, dark red where wrong, white where ignored."""
    kind = (prediction != target).long().where(target != lb_ignore, 2)
    colours = torch.tensor([RIGHT, WRONG, IGNORED_COLOUR], dtype=torch.uint8, device=target.device)
    return colours[kind].permute(2, 0, 1)


def kept_map(image: Tensor, kept: Tensor, ignored: Tensor) -> Tensor:
    """RGB uint8 (3,H,W): the image, red as far as kept (H,W) 0..1, else blue; ignored white."""
    grey = image.float().mean(0, keepdim=True)
    hard, easy = (image.new_tensor(colour).float().view(3, 1, 1) for colour in (KEPT, EASY))
    tint = torch.lerp(easy, hard, kept.unsqueeze(0).float())
    painted = torch.lerp(grey.expand_as(image), tint, 0.25 + 0.5 * kept.unsqueeze(0).float())
    return painted.round().to(torch.uint8).masked_fill(ignored, 255)


def to_image(rgb: Tensor) -> Image.Image:
    return Image.fromarray(rgb.permute(1, 2, 0).contiguous().cpu().numpy())


def save_image(path: Path, image: Image.Image) -> None:
    with whole_file(path) as temporary:
        image.save(temporary)


def save_mask(path: Path, class_ids: np.ndarray, palette: Palette) -> None:
    """An indexed PNG of class ids (H,W) with the classes' palette; grey 16-bit over 256 classes."""
    if len(palette) > 256:
        return save_image(path, Image.fromarray(class_ids.astype(np.uint16, copy=False)))
    image = Image.fromarray(class_ids.astype(np.uint8, copy=False))
    image.putpalette([part for colour in palette for part in colour])
    save_image(path, image)


def with_legend(image: Image.Image, names: Sequence[str], palette: Palette) -> Image.Image:
    """The image with a strip of the classes' names and colours below it."""
    size = max(11, min(22, image.width // 40))
    font, line = ImageFont.load_default(size), round(size * 1.5)
    cell = line + max(round(font.getlength(name)) for name in names) + line // 2
    columns = max(1, min(len(names), image.width // cell))
    rows = -(-len(names) // columns)
    width = max(image.width, cell)
    page = Image.new("RGB", (width, image.height + rows * line + line // 2), (255, 255, 255))
    page.paste(image, (0, 0))
    draw = ImageDraw.Draw(page)
    for place, (name, colour) in enumerate(zip(names, palette, strict=True)):
        x = (place % columns) * (width // columns) + line // 4
        y = image.height + line // 4 + (place // columns) * line
        draw.rectangle((x, y + line // 6, x + line * 2 // 3, y + line * 5 // 6), tuple(colour))
        draw.text((x + line, y), name, (20, 20, 20), font)
    return page


def panels(pictures: dict[str, Image.Image], title: str) -> Image.Image:
    """Pictures of one size side by side, each under its name, with a title above.

    Small ones are enlarged by a whole factor: their pixels are what is looked at.
    """
    font = ImageFont.load_default(size=14)
    factor = max(1, 240 // next(iter(pictures.values())).height)
    pictures = {
        name: picture.resize((picture.width * factor, picture.height * factor), NEAREST)
        for name, picture in pictures.items()
    }
    first = next(iter(pictures.values()))
    gap, top = 6, 44
    width = len(pictures) * (first.width + gap) + gap
    page = Image.new("RGB", (width, first.height + top + gap), (255, 255, 255))
    draw = ImageDraw.Draw(page)
    draw.text((gap, 4), title, (20, 20, 20), font)
    for place, (name, picture) in enumerate(pictures.items()):
        x = gap + place * (first.width + gap)
        draw.text((x, 23), name, (90, 90, 90), font)
        page.paste(picture, (x, top))
    return page


def contact_sheet(
    pictures: Sequence[tuple[str, Image.Image]], columns: int = 4, width: int = 320
) -> Image.Image:
    """Pictures of any size in rows, each scaled to `width` pixels, under its caption."""
    font = ImageFont.load_default(size=12)
    gap, line = 8, 18
    small = [(caption, picture_of_width(picture, width)) for caption, picture in pictures]
    columns = min(columns, len(small))
    rows = [small[i : i + columns] for i in range(0, len(small), columns)]
    heights = [max(picture.height for _, picture in row) + line + gap for row in rows]
    page = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + gap), (255, 255, 255))
    draw, y = ImageDraw.Draw(page), gap
    for row, height in zip(rows, heights, strict=True):
        for place, (caption, picture) in enumerate(row):
            x = gap + place * (width + gap)
            draw.text((x, y), shortened(caption, font, width), (60, 60, 60), font)
            page.paste(picture, (x, y + line))
        y += height
    return page


def picture_of_width(picture: Image.Image, width: int) -> Image.Image:
    """The picture, at most twice as high as wide; small ones by nearest, as pixels matter there."""
    height = min(2 * width, max(1, round(picture.height * width / picture.width)))
    kind = NEAREST if picture.width < width else Image.Resampling.BOX
    return picture.resize((width, height), kind)


def shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    while font.getlength(text) > width and len(text) > 2:
        text = "…" + text[2:]
    return text
