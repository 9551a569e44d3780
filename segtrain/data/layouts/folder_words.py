"""Words in names of folders and files: images or masks, and of which split."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

SPLIT_WORDS = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
IMAGE_WORDS = set(
    "image img imag photo picture pic jpeg jpegimage input frame original orig rgb sat".split()
)
MASK_WORDS = set(
    "mask label annotation annot ann anno gt seg segm segment segmentation truth groundtruth "
    "target trimap semantic manual matte labelid labeltrainid trainid".split()
)
# of several masks an image: those that are painted for the eye, or tell objects apart
RENDERING_WORDS = set(
    "color colour human vis viz visual visualization overlay preview pred prediction instance "
    "instanceid object edge contour border outline".split()
)
# of other things that may lie beside images under the same names
NEITHER_WORDS = set(
    "depth disparity disp flow normal thermal lidar pointcloud bbox box keypoint".split()
)
SPLIT_OF = {word: split for split, words in SPLIT_WORDS.items() for word in words}
ABBREVIATED = {"Tr": "train", "Ts": "test", "Va": "val"}  # nnU-Net's imagesTr
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


class Meaning(NamedTuple):
    """The meaning of a name's words."""

    template: str  # the name in lower case, * instead of its split
    split: str | None
    words: frozenset[str]  # in lower case and singular

    @property
    def is_mask(self) -> bool:
        return not MASK_WORDS.isdisjoint(self.words)

    @property
    def is_image(self) -> bool:
        return not self.is_mask and not IMAGE_WORDS.isdisjoint(self.words)

    @staticmethod
    def is_role(word: str) -> bool:
        """Return whether a word says images or masks, or that it is a folder."""
        return word.removesuffix("s") in IMAGE_WORDS | MASK_WORDS | {"dir", "folder", "png", "jpg"}

    @property
    def is_neither(self) -> bool:
        return not NEITHER_WORDS.isdisjoint(self.words) and not self.is_mask and not self.is_image

    @property
    def is_rendering(self) -> bool:
        return not RENDERING_WORDS.isdisjoint(self.words)


def read_name(name: str) -> Meaning:
    """Return the meaning of a folder's name, or of a beginning or ending of files' names."""
    plain = re.sub(r"(?i)train_?(?=ids?(?![a-z]))", "", name)  # labelTrainIds are of no split
    plain = re.sub(r"(?i)train[-_]?val(?![a-z])", "train", plain)
    split, words, template = None, set(), plain
    for start, word in _words(plain):
        if found := SPLIT_OF.get(word.lower()) or (ABBREVIATED.get(word) if start else None):
            split = found
            template = f"{plain[:start]}*{plain[start + len(word) :]}"
        else:
            words.add(word.lower())
    singular = {word.removesuffix("s") for word in words} | {f"{w}s" for w in words if w == "vi"}
    return Meaning(template.lower(), split, frozenset(words | singular))


def _words(name: str) -> Iterator[tuple[int, str]]:
    """Yield (start, word): parts between separators, capitals, and words written as one."""
    for match in WORD.finditer(name):
        word, low = match[0], match[0].lower()
        for split in SPLIT_OF:  # trainannot, imagestrain
            rest = low.removeprefix(split) if low.startswith(split) else low.removesuffix(split)
            known = rest.removesuffix("s") in IMAGE_WORDS | MASK_WORDS or rest in ("set", "data")
            if known and rest != low and low not in SPLIT_OF:
                first = len(split) if low.startswith(split) else len(rest)
                yield match.start(), word[:first]
                yield match.start() + first, word[first:]
                break
        else:
            yield match.start(), word
