"""Pictures of images and class ids: overlays, legends, panels, contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from segtrain.files.whole import whole_file
from segtrain.render.fonts import fit_text, label_classes
from segtrain.render.png import can_encode, encode_rgb

NEAREST = Image.Resampling.NEAREST
ClassColours = Sequence[tuple[int, int, int]]
IGNORED_COLOUR = (255, 255, 255)
# of different lightness, too: some eyes don't tell red from green
RIGHT, WRONG = (205, 211, 219), (190, 24, 60)
KEPT, EASY = (230, 30, 30), (40, 80, 200)


def build_colour_table(palette: ClassColours, device: torch.device | str = "cpu") -> Tensor:
    """Return (C+1,3) uint8: a colour for each class, and last that of ignored pixels."""
    return torch.tensor([*palette, IGNORED_COLOUR], dtype=torch.uint8, device=device)


def to_rgb(image: Tensor) -> Tensor:
    """Return an image (K,H,W) as RGB (3,H,W): its first three channels, or the first as grey."""
    return image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)


def paint_classes(class_ids: Tensor, colours: Tensor) -> Tensor:
    """Return class ids (H,W) as RGB uint8 (3,H,W); anything outside 0..C-1 counts as ignored."""
    last = len(colours) - 1
    known = (class_ids >= 0) & (class_ids < last)
    return colours[class_ids.where(known, last).long()].permute(2, 0, 1)


def blend_classes(image: Tensor, class_ids: Tensor, colours: Tensor, opacity: float) -> Tensor:
    """Return an image uint8 (3,H,W) under the classes' colours, on the image's device.

    Ignored pixels show the plain image.
    """
    ignored = (class_ids < 0) | (class_ids >= len(colours) - 1)
    painted = torch.lerp(image.float(), paint_classes(class_ids, colours).float(), opacity)
    return painted.round().to(torch.uint8).where(~ignored, image)


def paint_errors(prediction: Tensor, target: Tensor, lb_ignore: int) -> Tensor:
    """Return RGB uint8 (3,H,W): correct pixels light grey, wrong ones dark red, ignored white."""
    kind = (prediction != target).long().where(target != lb_ignore, 2)
    colours = torch.tensor([RIGHT, WRONG, IGNORED_COLOUR], dtype=torch.uint8, device=target.device)
    return colours[kind].permute(2, 0, 1)


def paint_kept(image: Tensor, kept: Tensor, ignored: Tensor) -> Tensor:
    """Return RGB uint8 (3,H,W): the image tinted blue to red by kept (H,W) 0..1; ignored white."""
    grey = image.float().mean(0, keepdim=True)
    hard, easy = (image.new_tensor(colour).float().view(3, 1, 1) for colour in (KEPT, EASY))
    tint = torch.lerp(easy, hard, kept.unsqueeze(0).float())
    painted = torch.lerp(grey.expand_as(image), tint, 0.25 + 0.5 * kept.unsqueeze(0).float())
    return painted.round().to(torch.uint8).masked_fill(ignored, 255)


def to_image(rgb: Tensor) -> Image.Image:
    """Return RGB uint8 (3,H,W) as a Pillow image."""
    return Image.fromarray(rgb.permute(1, 2, 0).contiguous().cpu().numpy())


def save_image(path: Path, image: Image.Image, sync: bool = True) -> None:
    """Write the image whole or not at all; sync: as of `whole_file`."""
    with whole_file(path, sync) as temporary:
        is_png = path.suffix.lower() == ".png"
        if is_png and image.mode == "RGB" and can_encode(image.width * image.height):
            temporary.write_bytes(encode_rgb(np.asarray(image)))
        else:
            # a photo hardly gets smaller by zlib's default level, which takes four times as long
            image.save(temporary, compress_level=1 if image.mode == "RGB" else 6)


def save_mask(path: Path, class_ids: np.ndarray, palette: ClassColours, sync: bool = True) -> None:
    """Write class ids (H,W) as an indexed PNG with the palette; over 256 classes as 16-bit grey."""
    if len(palette) > 256:  # a palette has no more entries
        return save_image(path, Image.fromarray(class_ids.astype(np.uint16, copy=False)), sync)
    image = Image.fromarray(class_ids.astype(np.uint8, copy=False))
    image.putpalette([part for colour in palette for part in colour])
    save_image(path, image, sync)


def add_legend(image: Image.Image, names: Sequence[str], palette: ClassColours) -> Image.Image:
    """Return the image above a strip of the classes' names and colours."""
    size = max(11, min(22, image.width // 40))
    labels, line = [fit_text(name, size) for name in label_classes(names)], round(size * 1.5)
    cell = line + max(round(font.getlength(text)) for text, font in labels) + line // 2
    columns = max(1, min(len(names), image.width // cell))
    rows = -(-len(names) // columns)
    width = max(image.width, cell)
    page = Image.new("RGB", (width, image.height + rows * line + line // 2), (255, 255, 255))
    page.paste(image, (0, 0))
    draw = ImageDraw.Draw(page)
    for i, ((text, font), colour) in enumerate(zip(labels, palette, strict=True)):
        x = (i % columns) * (width // columns) + line // 4
        y = image.height + line // 4 + (i // columns) * line
        draw.rectangle((x, y + line // 6, x + line * 2 // 3, y + line * 5 // 6), tuple(colour))
        draw.text((x + line, y), text, (20, 20, 20), font)
    return page


def draw_panels(pictures: dict[str, Image.Image], title: str) -> Image.Image:
    """Return pictures of one size side by side, each under its name, below a title.

    Small ones are enlarged by an integer factor, so that each pixel can be seen.
    """
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
    text, font = fit_text(title, 14, width - 2 * gap)
    draw.text((gap, 4), text, (20, 20, 20), font)
    for i, (name, picture) in enumerate(pictures.items()):
        x = gap + i * (first.width + gap)
        draw.text((x, 23), name, (90, 90, 90), ImageFont.load_default(14))
        page.paste(picture, (x, top))
    return page


def draw_contact_sheet(
    pictures: Sequence[tuple[str, Image.Image]], columns: int = 4, width: int = 320
) -> Image.Image:
    """Return pictures of any size in rows, each under its caption and `width` pixels wide."""
    gap, line = 8, 18
    small = [(caption, scale_to_width(picture, width)) for caption, picture in pictures]
    columns = min(columns, len(small))
    rows = [small[i : i + columns] for i in range(0, len(small), columns)]
    heights = [max(picture.height for _, picture in row) + line + gap for row in rows]
    page = Image.new("RGB", (columns * (width + gap) + gap, sum(heights) + gap), (255, 255, 255))
    draw, y = ImageDraw.Draw(page), gap
    for row, height in zip(rows, heights, strict=True):
        for i, (caption, picture) in enumerate(row):
            x = gap + i * (width + gap)
            text, font = fit_text(caption, 12, width)
            draw.text((x, y), text, (60, 60, 60), font)
            page.paste(picture, (x, y + line))
        y += height
    return page


def scale_to_width(picture: Image.Image, width: int) -> Image.Image:
    """Return the picture `width` pixels wide, at most twice as high; small ones by nearest."""
    height = min(2 * width, max(1, round(picture.height * width / picture.width)))
    kind = NEAREST if picture.width < width else Image.Resampling.BOX
    return picture.resize((width, height), kind)
