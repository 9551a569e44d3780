"""Pictures of the worst and best images, and of the pixels that a mining loss keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from PIL import Image
from torch import Tensor

from segtrain.data.loading.dataset import as_tensor
from segtrain.evaluation.evaluation import Evaluation
from segtrain.evaluation.prediction import Prediction
from segtrain.metrics.calibration import ConfidenceMap
from segtrain.render.overlay import (
    blend_classes,
    build_colour_table,
    draw_panels,
    paint_errors,
    paint_kept,
    save_image,
    to_image,
    to_rgb,
)
from segtrain.render.viewer_images import ImageMaps, ViewerImage

WORST, HARD = "worst", "hard_pixels"  # folders of pictures
MAX_SIDE = 1024  # pixels of a picture's longer side


def paint_extremes(
    evaluation: Evaluation, rows: dict[int, dict[str, Any]]
) -> Iterator[ViewerImage]:
    """Write the worst images to WORST/ and HARD/; yield them and the best for the page.

    rows: of per_image.csv, by index.
    """
    folder, config, pairs = evaluation.folder, evaluation.config, evaluation.pairs
    scored = sorted((i for i in rows if rows[i]["miou"] is not None), key=lambda i: rows[i]["miou"])
    worst = scored[: config.eval.worst]
    # of few images some would be among the worst and the best
    best = [i for i in reversed(scored) if i not in worst][: config.eval.best]
    for rank, index in enumerate([*worst, *best], 1):
        sample = pairs.samples[index]
        maps = predict_maps(evaluation, index)
        score = f"mIoU {rows[index]['miou']:.3f}"
        if rank <= len(worst):
            file, title = f"{rank:02d}_{sample.name}.png", f"{sample.title}: {score}"
            save_image(folder / WORST / file, draw_prediction(maps, evaluation, title))
            if maps.kept is not None:
                picture = draw_hard_pixels(maps, maps.kept, evaluation, title)
                save_image(folder / HARD / file, picture)
        yield ViewerImage.encode(
            rows[index]["image"],
            score,
            "worst" if rank <= len(worst) else "best",
            maps,
            evaluation.data.lb_ignore,
            len(evaluation.classes),
        )


def predict_maps(evaluation: Evaluation, index: int) -> ImageMaps:
    """Predict an image again, as the predictions of all would fill the memory; return its maps."""
    sample, confidence = evaluation.pairs.samples[index], ConfidenceMap()
    prediction = next(evaluation.predict(range(index, index + 1), confidence))
    pixels = as_tensor(evaluation.pairs.images(sample.image, sample.area))
    return subsample_maps(to_rgb(pixels.permute(2, 0, 1)), prediction, confidence.whole)


def subsample_maps(
    image: Tensor, prediction: Prediction, confidence: Tensor | None = None
) -> ImageMaps:
    """Return an image (3,H,W) and its maps on the CPU, every k-th pixel of those above MAX_SIDE."""
    step = -(-max(image.shape[1:]) // MAX_SIDE)
    pixels = slice(None, None, step), slice(None, None, step)
    kept = None if prediction.kept is None else prediction.kept[pixels].cpu()
    truth, ids = prediction.target[pixels].cpu(), prediction.class_ids[pixels].cpu()
    sure = None if confidence is None else confidence[0][pixels].cpu()
    return ImageMaps(image[:, *pixels], truth, ids, kept, sure)


def draw_prediction(maps: ImageMaps, evaluation: Evaluation, title: str) -> Image.Image:
    """Return image, truth, prediction and errors side by side."""
    colours = build_colour_table(evaluation.palette)
    opacity, lb_ignore = evaluation.config.predict.opacity, evaluation.data.lb_ignore
    panels = {
        "image": maps.image,
        "truth": blend_classes(maps.image, maps.truth, colours, opacity),
        "prediction": blend_classes(maps.image, maps.prediction, colours, opacity),
        "errors (red)": paint_errors(maps.prediction, maps.truth, lb_ignore),
    }
    return draw_panels({name: to_image(rgb) for name, rgb in panels.items()}, title)


def draw_hard_pixels(
    maps: ImageMaps, kept: Tensor, evaluation: Evaluation, title: str
) -> Image.Image:
    """Return image, truth and the pixels that a mining loss keeps (H,W) 0..1 side by side."""
    colours, config = build_colour_table(evaluation.palette), evaluation.config
    ignored = maps.truth == evaluation.data.lb_ignore
    share = float(kept.sum() / (~ignored).sum().clamp(min=1))
    panels = {
        "image": maps.image,
        "truth": blend_classes(maps.image, maps.truth, colours, config.predict.opacity),
        "kept (red), easy (blue), ignored (white)": paint_kept(maps.image, kept, ignored),
    }
    title = f"{title}; {config.loss.expression} keeps {share:.1%} of its pixels"
    return draw_panels({name: to_image(rgb) for name, rgb in panels.items()}, title)
