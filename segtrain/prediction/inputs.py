"""Images to predict, as files, folders, globs and `demo` name them; a name for the output of each.

Importing it needs no torch: a wrong path is refused at once.
"""

from __future__ import annotations

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from segtrain.data.decoding import SUFFIXES, translate_decoding
from segtrain.data.layouts.detect import list_images
from segtrain.data.layouts.locate import demo_folder
from segtrain.data.layouts.pairing import fold_name
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.prediction.record import OwnOutputs, Record, hash_file
from segtrain.runs.folder import BEST, CONFIG

DEMO_IMAGES = 3
LONGEST_NAME = 225  # bytes; _confidence.png, and .tmp-PID- while it is written, make it 255


@dataclass(frozen=True)
class ImageInput:
    """An image, found below a folder that was named; a file that was named has its own folder."""

    path: Path
    root: Path

    @cached_property
    def real_path(self) -> Path:
        """The absolute path, with links in its folders resolved."""
        return Path(os.path.realpath(self.path.parent), self.path.name)

    @cached_property
    def output_names(self) -> list[str]:
        """Names for the output, by preference: paths below --out, to which _mask.png is added.

        The stem in its subfolder; with the image's extension; within a folder named as the root;
        with a hash of the whole path, which no other image has.
        """
        below = self.path.relative_to(self.root)
        name, kind = str(below.with_suffix("")), below.suffix[1:]
        root = Path(os.path.realpath(self.root)).name
        digest = hashlib.sha256(os.fsencode(self.real_path)).hexdigest()[:8]
        names = [name, f"{name}_{kind}", os.path.join(root, name), f"{name}-{digest}"]
        return [shorten_name(name) for name in names]


@dataclass
class FoundImages:
    """Images to predict, each once and in their order, and what was left out."""

    images: list[ImageInput] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # folders, with the reason
    own_outputs: int = 0  # files that an earlier predict wrote


def find_images(paths: list[str]) -> FoundImages:
    """Return the images that files, folders with subfolders, globs and `demo` name.

    Raise UsageError or SegtrainError for one that names no image. Outputs of an earlier predict,
    by the record beside them, are no images.
    """
    found, own, seen = FoundImages(), OwnOutputs(), set()
    for text in paths:
        for image in _expand(text, found):
            if image.real_path not in seen:
                seen.add(image.real_path)
                if image.real_path in own:
                    found.own_outputs += 1
                else:
                    found.images.append(image)
    if not found.images and not found.unreadable:
        raise SegtrainError(
            f"{shorten(paths)}: all {found.own_outputs} images are outputs of predict, as "
            "predictions.json beside them lists; name other images, or move these elsewhere"
        )
    return found


def _expand(text: str, found: FoundImages) -> Iterator[ImageInput]:
    path = os.path.expanduser(text)  # os.path: pathlib raises for names that are too long
    if os.path.isdir(path):
        if os.path.isfile(Path(path, CONFIG)) and os.path.isdir(Path(path, BEST.parent)):
            raise UsageError(
                f"{path}: a run, not a folder of images; to predict with it: --checkpoint {path}"
            )
        images = list(walk_images(Path(path), found))
        if not images and not found.unreadable:
            raise SegtrainError(f"{path}: no images in this folder or its subfolders")
        yield from (ImageInput(image, Path(path)) for image in images)
    elif os.path.isfile(path):
        yield ImageInput(Path(path), Path(path).parent)
    elif text == "demo":  # a file or folder of that name comes first
        for image in list_images(demo_folder() / "images" / "val")[:DEMO_IMAGES]:
            yield ImageInput(image, image.parent)
    else:
        files = [Path(f) for f in sorted(glob.glob(path, recursive=True)) if os.path.isfile(f)]
        if not files:
            raise UsageError(
                f"{text}: no such file or folder, and no file matches it as a glob; "
                "'segtrain predict demo' takes images of the demo"
            )
        yield from (ImageInput(file, file.parent) for file in files)


def walk_images(folder: Path, found: FoundImages) -> Iterator[Path]:
    """Yield the images in a folder and its subfolders, sorted, without hidden ones.

    Folders that can't be read are added to `found`; one that links lead to again is left out.
    """
    waiting, seen = [folder], set()
    while waiting:
        current = waiting.pop()
        try:
            status = current.stat()
            entries = sorted(current.iterdir())
        except OSError as error:
            found.unreadable.append(f"{current}: a folder that can't be read ({error.strerror})")
            continue
        if (status.st_dev, status.st_ino) in seen:
            continue
        seen.add((status.st_dev, status.st_ino))
        folders = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if os.path.isdir(entry):
                folders.append(entry)
            elif entry.suffix.lower() in SUFFIXES:  # a dangling link is one that can't be read
                yield entry
        waiting += folders[::-1]


def shorten_name(name: str) -> str:
    """Return a path whose last part is at most LONGEST_NAME bytes, cut with a hash of all."""
    folder, last = os.path.split(name)
    content = os.fsencode(last)
    if len(content) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:8]
    start = content[: LONGEST_NAME - 9].decode(errors="ignore")  # not within a character
    return os.path.join(folder, f"{start}-{digest}")


def hash_image(path: Path) -> str:
    """Return the digest of an image's bytes. Raise SegtrainError."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise SegtrainError(f"{path}: not a regular file")  # a pipe may block forever
    with translate_decoding(path):
        return hash_file(path)


def choose_names(
    images: list[ImageInput], record: Record, list_parts: Callable[[Path], list[str]]
) -> dict[Path, str]:
    """Return the output's name of each image by its real path; they differ in any file system.

    list_parts: real path -> the ends of the names of its outputs.
    An image keeps the name that it has in the record. The others take the first of their
    `output_names` that is of no other image, given or recorded, and whose files are neither images
    to predict nor lie beside them without a record: those may be true masks.
    """
    inputs = {image.real_path for image in images}
    folders = {path.parent for path in inputs}
    names: dict[Path, str] = {}
    claimed: set[str] = set()

    def claim(image: ImageInput, name: str) -> None:
        names[image.real_path] = name
        claimed.add(fold_name(name))

    def is_free(image: ImageInput, level: int) -> bool:
        owners = [record.find_owner(name) for name in image.output_names[: level + 1]]
        others = [owner if owner != image.real_path else None for owner in owners]
        # the extension doesn't tell x/a.png from y/a.png
        is_alike = level == 1 and others[0] and others[0].suffix == image.path.suffix
        name = image.output_names[level]
        files = record.locate_outputs(name, list_parts(image.real_path), real=True)
        is_claimed = fold_name(name) in claimed
        is_theirs = owners[level] != image.real_path and any(
            file.parent in folders and os.path.lexists(file) for file in files
        )
        return not (is_alike or others[level] or is_claimed or is_theirs or inputs & set(files))

    for image in images:
        for level, name in enumerate(image.output_names):
            if record.find_owner(name) == image.real_path and is_free(image, level):
                claim(image, name)
                break
    for level in range(4):
        left = [image for image in images if image.real_path not in names]
        shared = Counter(fold_name(image.output_names[level]) for image in left)
        for image in left:
            name = image.output_names[level]
            if level == 3 or shared[fold_name(name)] == 1 and is_free(image, level):
                claim(image, name)
    return names
