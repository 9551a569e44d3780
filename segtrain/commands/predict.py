"""segtrain predict: masks and overlays of images, each at its own size."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segtrain.commands.requests import NetworkRequest
from segtrain.config import Config
from segtrain.console import progress, write, write_notes
from segtrain.data.images import ImageReader
from segtrain.data.layouts.detect import list_images
from segtrain.data.layouts.locate import demo_folder
from segtrain.data.loading.dataset import as_tensor
from segtrain.distributed.devices import build_predictor, to_device
from segtrain.distributed.fabric import make_fabric
from segtrain.distributed.limits import explain_limits
from segtrain.errors import SegtrainError, UsageError, shorten
from segtrain.files import whole_file
from segtrain.models.checkpoint import Meta, load_model
from segtrain.models.inference import Predictor, advise_on_memory, predict_bands
from segtrain.render.fonts import explain_missing_fonts
from segtrain.render.overlay import (
    add_legend,
    blend_classes,
    build_colour_table,
    save_image,
    save_mask,
    to_image,
    to_rgb,
)

DEMO_IMAGES = 3


def predict(
    images: list[Path], request: NetworkRequest, out: Path, legend: bool = False
) -> list[Path]:
    """Write STEM_mask.png and STEM_overlay.png of each image below `out`; return their paths."""
    refuse_same_stems(images)
    model, meta = load_model(request.checkpoint)
    config = request.config
    fabric = make_fabric(config.train)
    model = model.to(fabric.device).to(memory_format=torch.channels_last)
    network = build_predictor(model, fabric)
    read_image = ImageReader.of(config.data, config.model.in_channels)

    if legend:
        write_notes(explain_missing_fonts(meta.classes))
    written = []
    for path in progress(images, "predicting", len(images)):
        image = as_tensor(read_image(path)).permute(2, 0, 1)[None]
        image = to_device(image, fabric, config.eval.max_pixels)
        parts = ["mask.png", "overlay.png"] + ["probs.npy"] * config.predict.save_probs
        files = [out / f"{path.stem}_{part}" for part in parts]
        shape = (len(meta.classes), *image.shape[2:])
        probs = open_probs(files[2], shape) if config.predict.save_probs else nullcontext()
        advice = f"{path}: {advise_on_memory(image.shape, config.eval)}"
        with probs as write_probs, explain_limits(advice):
            class_ids, overlay = predict_image(network, image, meta, config, write_probs)
        if legend:
            overlay = add_legend(overlay, meta.classes, meta.palette)
        save_mask(files[0], class_ids, meta.palette)
        save_image(files[1], overlay)
        write(f"{path} -> {', '.join(map(str, files))}")
        written += files
        del image, class_ids, overlay  # else they stay in memory while the next image is read
    return written


def predict_image(
    network: Predictor,
    image: Tensor,
    meta: Meta,
    config: Config,
    write_probs: Callable[[int, Tensor], None] | None = None,
) -> tuple[np.ndarray, Image.Image]:
    """Return class ids (H,W), 8-bit up to 256 classes, else 16, and the overlay.

    image: uint8 (1,K,H,W). write_probs takes each band's top row and logits (C,h,W). Only a band
    is in memory at a time: a large image's logits, or its class ids as int64, would fill it.
    """
    height, width = image.shape[2:]
    class_ids = np.empty((height, width), np.uint8 if len(meta.classes) <= 256 else np.uint16)
    overlay = Image.new("RGB", (width, height))
    for top, (logits,) in predict_bands(network, image, config.eval):
        bottom, device = top + logits.shape[1], logits.device
        best = logits.max(0).indices  # as in evaluation, so ties are resolved alike
        class_ids[top:bottom] = best.cpu().numpy()
        band = to_rgb(image[0, :, top:bottom].to(device))
        colours = build_colour_table(meta.palette, device)
        blended = blend_classes(band, best, colours, config.predict.opacity)
        overlay.paste(to_image(blended), (0, top))
        if write_probs:
            write_probs(top, logits)
    return class_ids, overlay


def find_images(paths: list[str]) -> list[Path]:
    """Return the images that files, folders, globs and `demo` name, each once, in their order.

    Raise UsageError or SegtrainError for one that names no image.
    """
    return list(dict.fromkeys(image for path in paths for image in _expand(path)))


def _expand(text: str) -> Iterator[Path]:
    path = Path(text).expanduser()
    if path.is_dir():
        images = list_images(path)
        if not images:
            folders = sorted(child.name for child in path.iterdir() if child.is_dir())
            hint = f"; its folders are {shorten(folders)}" if folders else ""
            raise SegtrainError(f"{path}: no images in this folder{hint}")
        yield from images
    elif path.is_file():
        yield path
    elif text == "demo":  # a file or folder of that name comes first
        yield from list_images(demo_folder() / "images" / "val")[:DEMO_IMAGES]
    else:
        files = [f for f in map(Path, sorted(glob.glob(str(path), recursive=True))) if f.is_file()]
        if not files:
            raise UsageError(f"{text}: no such file or folder, and no file matches it as a glob")
        yield from files


def refuse_same_stems(images: list[Path]) -> None:
    """Raise UsageError where two images would be written to the same files."""
    by_stem: dict[str, Path] = {}
    for image in images:
        other = by_stem.setdefault(image.stem, image)
        if other != image:
            raise UsageError(
                f"{other} and {image} would both be written as {image.stem}_mask.png; "
                "predict them into different --out folders"
            )


@contextmanager
def open_probs(path: Path, shape: tuple[int, int, int]) -> Iterator[Callable[[int, Tensor], None]]:
    """Open a .npy file of probabilities (C,H,W) in float16; yield the function that writes a band.

    The function takes the band's top row and logits (C,h,W). Not a memory map: a process is killed
    for the memory of those, too.
    """
    _, height, width = shape
    header = {"descr": "<f2", "fortran_order": False, "shape": shape}
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()

        def write_band(top: int, logits: Tensor) -> None:
            for c, rows in enumerate(logits.softmax(0).half().cpu().numpy()):
                file.seek(start + (c * height + top) * width * rows.itemsize)
                file.write(rows)

        yield write_band
