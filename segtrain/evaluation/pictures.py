"""Pictures of the worst and best images, and of the pixels that a mining loss keeps."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from typing import Any

from PIL import Image
from torch import Tensor

from segtrain.data.loading.dataset import as_tensor
from segtrain.evaluation.prediction import Prediction
from segtrain.evaluation.subject import Subject
from segtrain.render.overlay import (
    blend,
    colour_table,
    error_map,
    kept_map,
    panels,
    save_image,
    to_image,
    visible,
)
from segtrain.render.viewer_images import Shown

PAINTED = 1024  # longest side of what a picture shows


def paint_extremes(subject: Subject, rows: dict[int, dict[str, Any]]) -> Iterator[Shown]:
    """The worst and the best images: as files in worst/ and hard_pixels/, and for the page."""
    folder, config = subject.folder, subject.config
    for pictures in ("worst", "hard_pixels"):
        shutil.rmtree(folder / pictures, ignore_errors=True)  # those of an earlier evaluation
    scored = sorted((i for i in rows if rows[i]["miou"] is not None), key=lambda i: rows[i]["miou"])
    worst = scored[: config.eval.worst]
    best = [i for i in reversed(scored) if i not in worst][: config.eval.best]
    for rank, index in enumerate([*worst, *best], 1):
        sample = subject.pairs.samples[index]
        predicted = next(subject.predict(range(index, index + 1), None))
        image = visible(as_tensor(subject.pairs.images(sample.image)).permute(2, 0, 1))
        image, predicted = thinned(image, predicted)
        said = f"mIoU {rows[index]['miou']:.3f}"
        caption = f"{sample.name}: {said}"
        if rank <= len(worst):
            name = f"{rank:02d}_{sample.name}.png"
            save_image(folder / "worst" / name, picture(image, predicted, subject, caption))
            if subject.mines:
                page = hard_picture(image, predicted, subject, caption)
                save_image(folder / "hard_pixels" / name, page)
        yield Shown.of(
            rows[index]["image"],
            said,
            "worst" if rank <= len(worst) else "best",
            image,
            predicted.target,
            predicted.class_ids,
            predicted.kept,
            config.data.lb_ignore,
            len(subject.classes),
        )


def thinned(image: Tensor, predicted: Prediction) -> tuple[Tensor, Prediction]:
    """All on the CPU, every k-th pixel of them where they are too large to be looked at."""
    step = -(-max(image.shape[1:]) // PAINTED)
    rows = slice(None, None, step), slice(None, None, step)
    kept = None if predicted.kept is None else predicted.kept[rows].cpu()
    target, ids = predicted.target[rows].cpu(), predicted.class_ids[rows].cpu()
    return image[:, *rows], Prediction(predicted.index, target, ids, kept)


def picture(image: Tensor, predicted: Prediction, subject: Subject, title: str) -> Image.Image:
    """Image, truth, prediction and errors side by side."""
    colours, opacity = colour_table(subject.palette), subject.config.predict.opacity
    lb_ignore = subject.config.data.lb_ignore
    shown = {
        "image": image,
        "truth": blend(image, predicted.target, colours, opacity),
        "prediction": blend(image, predicted.class_ids, colours, opacity),
        "errors (red)": error_map(predicted.class_ids, predicted.target, lb_ignore),
    }
    return panels({name: to_image(rgb) for name, rgb in shown.items()}, title)


def hard_picture(image: Tensor, predicted: Prediction, subject: Subject, title: str) -> Image.Image:
    """Image, truth, and what a loss that mines keeps, side by side."""
    colours, config = colour_table(subject.palette), subject.config
    ignored = predicted.target == config.data.lb_ignore
    assert predicted.kept is not None
    share = float(predicted.kept.sum() / (~ignored).sum().clamp(min=1))
    kept = kept_map(image, predicted.kept, ignored)
    shown = {
        "image": image,
        "truth": blend(image, predicted.target, colours, config.predict.opacity),
        "kept (red), easy (blue), ignored (white)": kept,
    }
    title = f"{title}; {config.loss.expression} keeps {share:.1%} of its pixels"
    return panels({name: to_image(rgb) for name, rgb in shown.items()}, title)
