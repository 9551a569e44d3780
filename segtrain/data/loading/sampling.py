"""Samplers: the images of a batch as a function of seed and step, so that resuming is exact."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from segtrain.data.data_set import DataSet
from segtrain.errors import UsageError, did_you_mean, shorten

RARE = 0.25  # a class with less than this part of an even share of the pixels is rare
DRAWN = 2**31  # pass numbers of images drawn by class start here; no run has so many passes
PASTED = 1  # last part of the seeds of patches: not 0, with which a shorter seed is the same
# words of classes that stand for all else: a patch of them is no object
REST = frozenset(
    "background bg clutter ignore ignored none other others rest unknown unlabeled "
    "unlabelled void".split()
)
STUFF = 0.5  # a class that fills more than this part of the masks with it is no object, either


class PatchSource(NamedTuple):
    """The training image and the rare class of a patch."""

    image: int
    class_id: int


class Draw(NamedTuple):
    """An image in a batch; its augmentation depends on (pass_, index), which no two draws share."""

    pass_: int
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody calls
    focus: int = -1  # the crop is centred on a pixel of this class; -1: anywhere
    patch: PatchSource | None = None  # of what is pasted into the crop


@dataclass(frozen=True)
class PatchDraws:
    """Copy-paste: draw a rare class, each as likely, then an image with it, not the crop's own."""

    images: dict[int, np.ndarray]  # rare class: indices of the training images that have it
    share: float  # of the crops that get a patch

    def add_to(self, draw: Draw, seed: int) -> Draw:
        """Return the draw with a patch, or as it is: by chance, or as the class is in no other."""
        if not self.images:
            return draw
        rng = np.random.default_rng([seed, draw.pass_, draw.index, PASTED])
        if rng.random() >= self.share:
            return draw
        class_id = list(self.images)[rng.integers(len(self.images))]
        others = self.images[class_id][self.images[class_id] != draw.index]
        if not len(others):
            return draw
        patch = PatchSource(int(rng.choice(others)), class_id)
        return Draw(draw.pass_, draw.index, draw.focus, patch)


NO_PATCHES = PatchDraws({}, share=0)


def steps_per_pass(images: int, batch_size: int) -> int:
    """Return the number of whole batches in a pass; a short last one is dropped."""
    return images // batch_size


@lru_cache(maxsize=1)  # consecutive steps share the order of their pass
def pass_order(images: int, seed: int, pass_: int) -> np.ndarray:
    """Return the order of the images (images,) in a pass."""
    return np.random.default_rng([seed, pass_]).permutation(images)


@dataclass(frozen=True)
class ClassDraws:
    """Sampling by class: draw a class, each as likely, then one of its images, each as likely."""

    images: dict[int, np.ndarray]  # class id: indices of the training images that have it
    share: float = 1.0  # of the places in batches; the others keep the uniform order
    centred: bool = False  # crops are centred on the class
    patches: PatchDraws = NO_PATCHES  # pasted into the crops of any place

    def draw(self, seed: int, number: int) -> Draw | None:
        """Draw for position `number`, counted from the run's start; None: use the uniform order."""
        if not self.images:
            return None
        rng = np.random.default_rng([seed, DRAWN + number])
        if rng.random() >= self.share:
            return None
        class_id = list(self.images)[rng.integers(len(self.images))]
        index = rng.choice(self.images[class_id])
        return Draw(DRAWN + number, int(index), class_id if self.centred else -1)


UNIFORM = ClassDraws({}, share=0)  # no draw by class


def class_draws(data: DataSet, by_image: np.ndarray, copy_paste: float = 0) -> ClassDraws:
    """Return the sampling by class that data.sampler and augment.copy_paste name.

    by_image (images, C): pixels of each class in each training mask. Raises UsageError where
    rare-crop has no class to centre on, or copy_paste none to paste.
    """
    patches = patch_draws(data, by_image, copy_paste)
    if data.config.sampler == "uniform":
        return replace(UNIFORM, patches=patches)
    if data.config.sampler == "class-balanced":
        images = _images_of(range(by_image.shape[1]), by_image)
        return ClassDraws(images, patches=patches)
    rare = _rare_classes(data, by_image, "data.sampler: rare-crop", "use the sampler uniform")
    images = _images_of(rare, by_image)
    return ClassDraws(images, data.config.rare_share, centred=True, patches=patches)


def patch_draws(data: DataSet, by_image: np.ndarray, share: float) -> PatchDraws:
    """Return the copy-paste into this share of the crops; by_image as in `class_draws`.

    The rare classes are rare-crop's; unless data.rare_classes names them, without those that are no
    objects. Raises UsageError where there is no such class, or no other image.
    """
    if not share:
        return NO_PATCHES
    user, way_out = "augment.copy_paste", "leave it out"
    if len(by_image) < 2:
        raise UsageError(
            f"{user} takes objects from other training images, and there is only one; {way_out}"
        )
    rare = _rare_classes(data, by_image, user, way_out, _no_objects(data.classes, by_image))
    return PatchDraws(_images_of(rare, by_image), share)


def _no_objects(names: list[str], by_image: np.ndarray) -> set[int]:
    """Return the classes that are named as all else, or fill most of the masks that have them."""
    words = [set(re.findall(r"[^\W_]+", name.lower())) for name in names]
    where_present = ((by_image > 0) * by_image.sum(1, keepdims=True)).sum(0)
    fills = by_image.sum(0) > STUFF * where_present
    return {c for c, found in enumerate(words) if found and found <= REST or fills[c]}


def _images_of(classes: Iterable[int], by_image: np.ndarray) -> dict[int, np.ndarray]:
    """Return the indices of the images with a class, for each class that occurs."""
    found = {c: np.flatnonzero(by_image[:, c]).astype(np.int32) for c in classes}
    return {c: images for c, images in found.items() if len(images)}


def _rare_classes(
    data: DataSet,
    by_image: np.ndarray,
    user: str,
    way_out: str,
    excluded: Collection[int] = (),
) -> list[int]:
    """Return the ids of data.rare_classes, or of the classes with few pixels; all occur.

    `excluded` are not rare by their pixels alone. Raises UsageError where none is left, with the
    field that needs one, `user`, and how to do without.
    """
    names, rare_names, pixels = data.classes, data.config.rare_classes, by_image.sum(0)
    if rare_names is not None:
        for name in rare_names:
            if name not in names:
                raise UsageError(
                    f"data.rare_classes: no class {name!r}{did_you_mean(name, names)}; "
                    f"classes are {', '.join(names)}"
                )
            if not pixels[names.index(name)]:
                raise UsageError(
                    f"data.rare_classes: no training mask has a pixel of {name!r}; leave it out"
                )
        return sorted({names.index(name) for name in rare_names})
    shares, limit = pixels / max(pixels.sum(), 1), RARE / len(pixels)
    few = np.flatnonzero((pixels > 0) & (shares < limit)).tolist()
    if rare := [c for c in few if c not in excluded]:
        return rare
    present = [c for c in np.argsort(shares, kind="stable") if pixels[c]]
    listed = shorten((f"{names[c]} {shares[c]:.2%}" for c in present), 8)
    but = f" but {shorten(names[c] for c in few)}, no object," if few else ""
    raise UsageError(
        f"{user} finds no rare class: none{but} has less than {limit:.2%} of the training pixels, "
        f"a quarter of an even share ({listed}); name some with data.rare_classes, or {way_out}"
    )


def batch_at(
    step: int, images: int, batch_size: int, seed: int, by_class: ClassDraws = UNIFORM
) -> list[Draw]:
    """Return the draws of a step. In the uniform order, each pass is another permutation."""
    pass_, batch = divmod(step, steps_per_pass(images, batch_size))
    order = pass_order(images, seed, pass_)[batch * batch_size : (batch + 1) * batch_size]
    draws = [Draw(pass_, int(i)) for i in order]
    draws = [by_class.draw(seed, n) or draw for n, draw in enumerate(draws, step * batch_size)]
    return [by_class.patches.add_to(draw, seed) for draw in draws]


def shares_seen(
    read_mask: Callable[[int], np.ndarray],
    draws: Iterable[Draw],
    crop_mask: Callable[[np.ndarray, Draw, np.ndarray | None], np.ndarray],
    num_classes: int,
) -> np.ndarray:
    """Return the share (C,) of each class among the valid pixels of the draws' crops.

    read_mask takes an image's index, crop_mask is `Augmentation.crop_mask`. Padding and ignored
    pixels, ids outside 0..C-1, are not counted; without a valid pixel all shares are 0.
    """
    pixels = np.zeros(num_classes, dtype=np.int64)
    for draw in draws:
        source = read_mask(draw.patch.image) if draw.patch else None
        ids = crop_mask(read_mask(draw.index), draw, source)
        pixels += np.bincount(ids[(ids >= 0) & (ids < num_classes)], minlength=num_classes)
    return pixels / max(pixels.sum(), 1)


def seed_at(*key: int) -> int:
    """Return a 32-bit seed that depends on the key only."""
    return int(np.random.SeedSequence(key).generate_state(1)[0])


@dataclass(frozen=True)
class Shards:
    """The division of a step's batch among processes and, in each, into micro-batches."""

    rank: int = 0
    world: int = 1
    accumulate: int = 1  # micro-batches of a step

    def of(self, batch: list[Draw]) -> Iterator[list[Draw]]:
        """Yield this process's micro-batches.

        Over all processes, the m-th of them is batch[m::accumulate], whatever their number.
        """
        for part in range(self.accumulate):
            yield batch[part + self.rank * self.accumulate :: self.world * self.accumulate]


class BatchSampler:
    """The micro-batches of steps `start` to `stop` for one process, as a DataLoader's sampler."""

    def __init__(
        self,
        images: int,
        batch_size: int,
        seed: int,
        by_class: ClassDraws = UNIFORM,
        shards: Shards = Shards(),
    ):
        self.images, self.batch_size, self.seed = images, batch_size, seed
        self.by_class, self.shards = by_class, shards
        self.start = self.stop = 0

    def __len__(self) -> int:
        return (self.stop - self.start) * self.shards.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        for step in range(self.start, self.stop):
            batch = batch_at(step, self.images, self.batch_size, self.seed, self.by_class)
            yield from self.shards.of(batch)
