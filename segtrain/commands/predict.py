"""segtrain predict: masks and overlays of images, each at its own size."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segtrain.config import Config
from segtrain.console import progress
from segtrain.data.images import ImageReader
from segtrain.data.layouts.detect import image_files
from segtrain.data.layouts.locate import demo_folder
from segtrain.data.loading.dataset import as_tensor
from segtrain.distributed.devices import predictor, to_device
from segtrain.distributed.fabric import make_fabric
from segtrain.distributed.limits import explain_limits
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.files import whole_file
from segtrain.models.checkpoint import Meta, load_model
from segtrain.models.inference import Predict, memory_advice, predict_bands
from segtrain.render.overlay import (
    blend,
    colour_table,
    save_image,
    save_mask,
    to_image,
    visible,
    with_legend,
)
from segtrain.runs.folder import find_checkpoint

DEMO_IMAGES = 3


def predict(
    paths: list[str],
    checkpoint: Path | None,
    runs: Path,
    out: Path,
    legend: bool = False,
    sets: list[str] = [],
    flags: dict[str, Any] = {},
) -> list[Path]:
    """The verb: writes STEM_mask.png and STEM_overlay.png of each image; their paths."""
    images = find_images(paths)
    refuse_same_stems(images)
    file = find_checkpoint(checkpoint, runs)
    model, meta = load_model(file)
    config = meta.config_here(file, sets, flags)
    fabric = make_fabric(config.train)
    model = model.to(fabric.device).to(memory_format=torch.channels_last)
    forward = predictor(model, fabric)
    read_image = ImageReader(
        config.model.in_channels, config.data.value_range, config.data.max_pixels
    )

    written = []
    for path in progress(images, "predicting", len(images)):
        image = as_tensor(read_image(path)).permute(2, 0, 1)[None]
        image = to_device(image, fabric, config.eval.max_pixels)
        parts = ["mask.png", "overlay.png"] + ["probs.npy"] * config.predict.save_probs
        files = [out / f"{path.stem}_{part}" for part in parts]
        shape = (len(meta.classes), *image.shape[2:])
        probs = probs_file(files[2], shape) if config.predict.save_probs else nullcontext()
        advice = f"{path}: {memory_advice(image.shape, config.eval)}"
        with probs as save_probs, explain_limits(advice):
            class_ids, overlay = predict_image(forward, image, meta, config, save_probs)
        if legend:
            overlay = with_legend(overlay, meta.classes, meta.palette)
        save_mask(files[0], class_ids, meta.palette)
        save_image(files[1], overlay)
        print(f"{path} -> {', '.join(map(str, files))}")
        written += files
        del image, class_ids, overlay  # large ones would be there twice as the next is read
    return written


def predict_image(
    forward: Predict,
    image: Tensor,
    meta: Meta,
    config: Config,
    save_probs: Callable[[int, Tensor], None] | None = None,
) -> tuple[np.ndarray, Image.Image]:
    """uint8 image (1,K,H,W) -> class ids (H,W), 8-bit up to 256 classes, else 16, and the overlay.

    All is done band by band: a large image's logits, or its class ids as int64, would fill the
    memory. save_probs is given each band's top row and logits (C,h,W).
    """
    height, width = image.shape[2:]
    class_ids = np.empty((height, width), np.uint8 if len(meta.classes) <= 256 else np.uint16)
    overlay = Image.new("RGB", (width, height))
    for top, (logits,) in predict_bands(forward, image, config.eval):
        bottom, device = top + logits.shape[1], logits.device
        best = logits.max(0).indices  # as in evaluation, ties and all
        class_ids[top:bottom] = best.cpu().numpy()
        band, colours = image[0, :, top:bottom].to(device), colour_table(meta.palette, device)
        blended = blend(visible(band), best, colours, config.predict.opacity)
        overlay.paste(to_image(blended), (0, top))
        if save_probs:
            save_probs(top, logits)
    return class_ids, overlay


def find_images(paths: list[str]) -> list[Path]:
    """The images that files, folders, globs and `demo` name, each once, in their order."""
    return list(dict.fromkeys(image for path in paths for image in _expand(path)))


def _expand(text: str) -> Iterator[Path]:
    path = Path(text).expanduser()
    if path.is_dir():
        found = image_files(path)
        if not found:
            inside = sorted(child.name for child in path.iterdir() if child.is_dir())
            hint = f"; its folders are {shorten(inside)}" if inside else ""
            raise SegtrainError(f"{path}: no images in this folder{hint}")
        yield from found
    elif path.is_file():
        yield path
    elif text == "demo":
        yield from image_files(demo_folder() / "images" / "val")[:DEMO_IMAGES]
    else:
        found = [f for f in map(Path, sorted(glob.glob(str(path), recursive=True))) if f.is_file()]
        if not found:
            raise UsageError(f"{text}: no such file or folder, and no file matches it as a glob")
        yield from found


def refuse_same_stems(images: list[Path]) -> None:
    by_stem: dict[str, Path] = {}
    for image in images:
        other = by_stem.setdefault(image.stem, image)
        if other != image:
            raise UsageError(
                f"{other} and {image} would both be written as {image.stem}_mask.png; "
                "predict them into different --out folders"
            )


@contextmanager
def probs_file(path: Path, shape: tuple[int, int, int]) -> Iterator[Callable[[int, Tensor], None]]:
    """A .npy file of probabilities (C,H,W) in float16, as shape says; yields what writes a band.

    That is given the band's top row and logits (C,h,W). A mapped file would count as memory.
    """
    _, height, width = shape
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()

        def write(top: int, logits: Tensor) -> None:
            for place, rows in enumerate(logits.softmax(0).half().cpu().numpy()):
                file.seek(start + (place * height + top) * width * rows.itemsize)
                file.write(rows)

        yield write
