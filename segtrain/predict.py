"""segtrain predict: images -> masks and overlays, each at its own size."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor

from segtrain.atomic import whole_file
from segtrain.checkpoint import load_model
from segtrain.data.dataset import as_tensor
from segtrain.data.formats import image_files
from segtrain.data.locate import demo_folder, image_reader
from segtrain.devices import make_fabric
from segtrain.errors import SegtrainError, UsageError
from segtrain.inference import predict_logits
from segtrain.progress import bar
from segtrain.render.overlay import (
    blend,
    colour_table,
    save_image,
    save_mask,
    to_image,
    visible,
    with_legend,
)
from segtrain.runlog import find_checkpoint
from segtrain.survive import limits_explained

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
    model = model.to(fabric.device, memory_format=torch.channels_last)
    read_image = image_reader(config.data, config.model.in_channels)
    colours = colour_table(meta.palette, fabric.device)

    console, written = Console(), []
    for path in bar(images, "predicting", len(images)):
        image = as_tensor(read_image(path)).permute(2, 0, 1).to(fabric.device)
        with fabric.autocast(), limits_explained(f"{path} is too large at once; try --device cpu"):
            logits = predict_logits(model, image[None].to(memory_format=torch.channels_last))[0]
        class_ids = logits.argmax(0)
        overlay = to_image(blend(visible(image), class_ids, colours, config.predict.opacity))
        if legend:
            overlay = with_legend(overlay, meta.classes, meta.palette)
        files = [out / f"{path.stem}_mask.png", out / f"{path.stem}_overlay.png"]
        save_mask(files[0], class_ids.cpu().numpy(), meta.palette)
        save_image(files[1], overlay)
        if config.predict.save_probs:
            files.append(out / f"{path.stem}_probs.npy")
            save_probs(files[-1], logits)
        console.print(f"{path} -> {', '.join(map(str, files))}", highlight=False, soft_wrap=True)
        written += files
    return written


def find_images(paths: list[str]) -> list[Path]:
    """The images that files, folders, globs and `demo` name, each once, in their order."""
    return list(dict.fromkeys(image for path in paths for image in _expand(path)))


def _expand(text: str) -> Iterator[Path]:
    path = Path(text).expanduser()
    if path.is_dir():
        found = image_files(path)
        if not found:
            raise SegtrainError(f"{path}: no images in this folder")
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


def save_probs(path: Path, logits: Tensor) -> None:
    """logits (C,H,W) -> softmax probabilities, float16."""
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.save(file, logits.softmax(0).half().cpu().numpy())
