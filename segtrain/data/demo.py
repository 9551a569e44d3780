"""The embedded demo data set: small painted street scenes with their class masks.

Every shape is a signed distance in pixels, negative inside: colours and labels both follow it.
"""

from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

CLASSES = ("sky", "grass", "road", "house", "tree", "car", "pole", "sign")
PALETTE = (
    (120, 180, 230),
    (130, 190, 90),
    (105, 100, 115),
    (190, 95, 75),
    (40, 110, 60),
    (60, 70, 190),
    (240, 200, 70),
    (225, 50, 140),
)
IGNORE = 255
# config fields that suit the demo: minutes on two CPU cores, and no download
SETTINGS = {
    "model.weights": "none",  # the scenes are no photographs
    "augment.crop": [96, 128],
    "augment.scale": [0.75, 1.25],  # signs are a few pixels wide: 0.5 would lose them
    "optim.lr": 2e-3,  # from random weights, few epochs
    "train.epochs": 12,
}
SKY, GRASS, ROAD, HOUSE, TREE, CAR, POLE, SIGN = range(len(CLASSES))
BRIGHT = ((200, 50, 45), (50, 80, 180), (230, 195, 60))  # signs, and flowers that are none


def noise(rng: np.random.Generator, size: tuple[int, int], cell: float) -> np.ndarray:
    """Smooth noise (H, W) in about [-1, 1] whose blotches are `cell` pixels wide."""
    coarse = rng.uniform(-1, 1, [int(side / cell) + 2 for side in size]).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))


class Canvas:
    """One scene in the making: image (H, W, 3) in [0, 255], mask (H, W), pixel grid x, y."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int]):
        self.rng = rng
        self.height, self.width = size
        self.y, self.x = np.mgrid[: size[0], : size[1]].astype(np.float32)
        self.image, self.mask = np.zeros((*size, 3), np.float32), np.zeros(size, np.uint8)
        self.fine, self.blotch, self.cloud = (noise(rng, size, cell) for cell in (1.5, 5, 24))
        self.horizon = size[0] * rng.uniform(0.36, 0.5)
        self.vanish = size[1] * rng.uniform(0.3, 0.7)
        self.bend, self.drift = (size[1] * rng.uniform(-0.25, 0.25) for _ in range(2))
        self.spread = size[1] * rng.uniform(0.18, 0.32)

    def box(self, left: float, top: float, right: float, bottom: float) -> np.ndarray:
        """Signed distance (H, W) to an upright rectangle."""
        return np.maximum.reduce((left - self.x, self.x - right, top - self.y, self.y - bottom))

    def disc(self, cx: float, cy: float, rx: float, ry: float) -> np.ndarray:
        """Signed distance (H, W), near enough, to an ellipse."""
        return (np.hypot((self.x - cx) / rx, (self.y - cy) / ry) - 1) * min(rx, ry)

    def paint(
        self,
        distance: np.ndarray,
        colour: ArrayLike,
        label: int | None = None,
        texture: ArrayLike = 0.0,
        border: float = 1.0,
    ) -> None:
        """Blend a colour, times 1 + texture, into a shape; a label also marks mask and border."""
        touched = np.nonzero(distance < 0.5)  # few pixels of most shapes: blend those alone
        cover = np.minimum(0.5 - distance[touched], 1)[:, None]
        shade = 1 + np.broadcast_to(texture, distance.shape)[touched][:, None]
        colour = np.broadcast_to(colour, self.image.shape)[touched]
        self.image[touched] += cover * (colour * shade - self.image[touched])
        if label is not None:  # the first pixel around an object is its border
            self.mask[distance < border] = IGNORE
            self.mask[distance < 0] = label

    def road_at(self, y: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """Centre and half width of the road at the image rows y."""
        near = np.clip((y - self.horizon) / (self.height - self.horizon), 0, 1)
        return self.vanish + near * (self.drift + self.bend * (1 - near)), 1.5 + self.spread * near

    def mixed(self, first: ArrayLike, second: ArrayLike) -> np.ndarray:
        """A random colour (3,) between two."""
        return np.asarray(first) + self.rng.uniform() * np.subtract(second, first)


def paint_ground(c: Canvas) -> None:
    """Sky with clouds, grass with flowers, and a road winding to the vanishing point."""
    height = np.clip(c.y / c.horizon, 0, 1)[..., None]
    zenith = c.mixed((70, 120, 200), (150, 160, 175))
    haze = c.mixed((205, 215, 225), (240, 200, 165))
    c.paint(c.y * 0 - 1, zenith + height * (haze - zenith), SKY)
    cloud = np.clip(c.cloud + 0.35 * c.blotch - 0.1, 0, 0.8)
    c.paint(0.5 - cloud, c.mixed((245, 245, 245), (170, 172, 178)))
    grass = c.mixed((85, 135, 60), (165, 150, 95))
    skyline = c.horizon - 5 - 6 * c.cloud[0] + 3 * c.blotch[0]
    c.paint(skyline - c.y, 0.75 * grass + 0.25 * haze, GRASS, 0.12 * c.blotch, 0)
    c.paint(c.horizon - c.y, grass, GRASS, 0.22 * c.fine + 0.2 * c.cloud, 0)
    centre, half = c.road_at(c.y)
    offset = np.abs(c.x - centre)
    edge = np.maximum(offset - half + 0.8 * c.blotch, c.horizon - c.y)
    c.paint(edge, c.mixed((95, 95, 102), (165, 150, 130)), ROAD, 0.12 * c.fine + 0.1 * c.cloud, 0)
    near = (c.y - c.horizon) / (c.height - c.horizon)
    gaps = -4 * np.sin(16 * np.log(np.maximum(near, 0.02)) + c.rng.uniform(0, 6))
    c.paint(np.maximum.reduce((offset - 0.06 * half, c.horizon + 3 - c.y, gaps)), (220, 215, 195))
    for _ in range(c.rng.integers(0, 9)):
        x, y = c.rng.uniform(0, c.width), c.rng.uniform(c.horizon + 8, c.height)
        flower = c.disc(x, y, *c.rng.uniform(0.8, 2.2, 2))
        c.paint(np.where(c.mask == GRASS, flower, 9), c.rng.choice(BRIGHT))


def paint_house(c: Canvas, x: float, base: float, scale: float) -> None:
    """Plastered or brick walls, a gable roof, and windows that mirror the sky."""
    half, walls = scale * c.rng.uniform(0.55, 0.95), scale * c.rng.uniform(0.6, 1.1)
    top = base - walls
    body = c.box(x - half, top, x + half, base)
    rise, eaves = 1 + scale * c.rng.uniform(0.35, 0.7), 1.15 * half
    slope = (np.abs(c.x - x) * rise - (c.y - top - 1 + rise) * eaves) / np.hypot(rise, eaves)
    roof = np.maximum(slope, c.y - top - 1)
    bricks = 0.09 * np.sign(np.sin(2.1 * c.y)) * c.rng.integers(0, 2)
    plaster = c.rng.uniform(130, 230) * c.rng.uniform(0.8, 1.1, 3)
    c.paint(np.minimum(body, roof), plaster, HOUSE, bricks + 0.08 * c.blotch)
    tiles = 0.12 * np.sin(1.6 * c.y) + 0.1 * c.fine
    c.paint(roof, c.mixed((120, 60, 50), (95, 95, 105)), texture=tiles)
    pane, glass = 0.13 * half + 0.5, c.mixed((150, 185, 215), (60, 65, 80))
    for row in np.arange(top + 0.25 * walls, base - 0.3 * walls, 0.4 * scale):
        for cx in (x - 0.55 * half, x, x + 0.55 * half):
            c.paint(c.box(cx - pane, row - pane, cx + pane, row + 1.3 * pane), glass)
    c.paint(c.box(x - pane, base - 0.3 * walls, x + pane, base), (85, 65, 55))


def paint_tree(c: Canvas, x: float, base: float, scale: float) -> None:
    """A slim trunk, easily taken for a pole, under a ragged crown."""
    trunk, radius = scale * c.rng.uniform(0.4, 0.8), scale * c.rng.uniform(0.3, 0.5)
    stem = c.box(x - 0.5 - 0.03 * scale, base - trunk - radius, x + 0.5 + 0.03 * scale, base)
    tall = radius * c.rng.uniform(0.9, 1.6)
    ragged = 0.14 * radius * (c.blotch + c.fine)
    crown = c.disc(x, base - trunk - 0.8 * tall, radius, tall) + ragged
    lit = 0.35 * c.blotch + 0.15 * c.fine - 0.25 * (c.x - x) / radius
    c.paint(np.minimum(stem, crown), (95, 80, 65), TREE, 0.15 * c.fine)
    c.paint(crown, c.mixed((45, 95, 45), (150, 130, 60)), texture=np.clip(lit, -0.6, 0.6))


def paint_car(c: Canvas, x: float, base: float, scale: float) -> None:
    """A car seen from behind or the side: body, cabin with glass, dark wheels."""
    half, tall = scale * c.rng.uniform(0.24, 0.42), 0.2 * scale
    body = c.box(x - half, base - 1.3 * tall, x + half, base - 0.25 * tall) - 0.4
    cabin = c.disc(x, base - 1.25 * tall, 0.7 * half, tall)
    wheels = np.hypot(np.abs(c.x - x) - 0.6 * half, c.y - base + 0.3 * tall) - 0.38 * tall
    lacquer = c.rng.uniform(60, 200) * c.rng.uniform(0.45, 1.2, 3)
    c.paint(np.minimum(np.minimum(body, cabin), wheels), lacquer, CAR)
    pane = c.disc(x, base - 1.25 * tall, 0.55 * half, 0.75 * tall)
    c.paint(np.maximum(pane, c.y - base + 1.3 * tall), c.mixed((165, 190, 205), (60, 70, 80)))
    c.paint(wheels, (32, 32, 36))


def paint_post(c: Canvas, x: float, base: float, scale: float) -> None:
    """A lamp post with its arm, or a shorter post carrying a round or square sign."""
    lamp = c.rng.random() < 0.45
    top, half = base - scale * (1.25 if lamp else 0.75), 0.7 + 0.012 * scale
    post = c.box(x - half, top, x + half, base)
    reach = 0.2 * scale * float(c.rng.choice((-1, 1))) if lamp else 0.0
    arm = c.box(min(x, x + reach), top - half, max(x, x + reach), top + half)
    c.paint(np.minimum(post, arm), c.mixed((75, 75, 75), (170, 165, 155)), POLE, 0.1 * c.fine)
    if not lamp:
        radius = max(2.5, scale * c.rng.uniform(0.065, 0.1))
        square = c.box(x - radius, top - radius, x + radius, top + radius)
        plate = square if c.rng.random() < 0.4 else c.disc(x, top, radius, radius)
        c.paint(plate, c.rng.choice(BRIGHT), SIGN)
        c.paint(plate + 0.45 * radius, (235, 232, 225))


def paint_objects(c: Canvas) -> None:
    """Houses, trees, posts beside the road and cars on it, far ones first."""
    cast = (  # how many, depth (0 horizon, 1 viewer), distance from the roadside in scales
        (paint_house, (1, 4), (0.05, 0.35), (0.9, 2.6)),
        (paint_tree, (2, 6), (0.12, 0.8), (0.4, 2.2)),
        (paint_post, (2, 5), (0.12, 0.8), (0.05, 0.3)),
        (paint_car, (0, 3), (0.12, 0.8), None),
    )
    jobs = [
        (c.rng.uniform(*depth), painter, beside)
        for painter, count, depth, beside in cast
        for _ in range(c.rng.integers(*count))
    ]
    for near, painter, beside in sorted(jobs, key=lambda job: job[0]):
        base = c.horizon + near * (c.height - c.horizon)
        scale = c.height * (0.12 + 0.5 * near)
        centre, half = c.road_at(base)
        aside = half + scale * c.rng.uniform(*beside) if beside else half * c.rng.uniform(0.4, 0.65)
        x = float(centre + c.rng.choice((-1, 1)) * aside)
        reach = scale * (0.08 if painter is paint_post else 0.4)
        c.paint(c.disc(x, base, reach, 0.2 * reach + 1) / 2, 0.6 * c.image)  # a soft shadow
        painter(c, x, base, scale)


def scene(seed: int, index: int, size: tuple[int, int] = (128, 160)) -> tuple[np.ndarray, ...]:
    """One image (H, W, 3) uint8 and its mask (H, W) uint8 of class ids or `IGNORE`."""
    rng = np.random.default_rng([seed, index])
    c = Canvas(rng, size)
    paint_ground(c)
    paint_objects(c)
    glow = (1 + rng.uniform(-0.12, 0.12) * np.array((1, 0, -1))) * rng.uniform(0.75, 1.15)
    side = 1 + rng.uniform(-0.25, 0.25) * (2 * c.x / c.width - 1)
    seen = c.image * glow * side[..., None] + rng.normal(0, rng.uniform(2, 8), c.image.shape)
    return np.clip(seen, 0, 255).astype(np.uint8), c.mask


def write_demo(folder: Path, seed: int = 0, train: int = 160, val: int = 40) -> None:
    """Write folder/{images,masks}/{train,val}/NNN.png; the masks are palette PNGs."""
    colours = [level for colour in PALETTE for level in colour] + [245] * 3 * (256 - len(PALETTE))
    for split, indices in (("train", range(train)), ("val", range(train, train + val))):
        for index in indices:
            image, mask = (Image.fromarray(array) for array in scene(seed, index))
            mask.putpalette(colours)
            for kind, picture in (("images", image), ("masks", mask)):
                path = folder / kind / split / f"{index:03d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path, compress_level=1)
