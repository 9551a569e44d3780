"""Masks, overlays and probabilities of an image, from the network to files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from lightning_fabric import Fabric
from PIL import Image
from torch import Tensor

from segtrain.config import Config
from segtrain.data.images import ImageReader
from segtrain.data.loading.dataset import as_tensor
from segtrain.distributed.devices import advise_on_overflow, to_device
from segtrain.distributed.limits import explain_limits
from segtrain.files.whole import whole_file
from segtrain.metrics.calibration import measure_confidence
from segtrain.models.checkpoint import Meta
from segtrain.models.inference import (
    NOT_FINITE,
    CheckedPredictor,
    NonFiniteError,
    Predictor,
    SizeError,
    advise_on_memory,
    predict_bands,
)
from segtrain.prediction.record import PredictionSummary
from segtrain.prediction.vector_files import is_background, save_geojson
from segtrain.prediction.vectors import Polygon, trace_polygons
from segtrain.render.overlay import (
    add_legend,
    blend_classes,
    build_colour_table,
    save_image,
    save_mask,
    to_image,
    to_rgb,
)

ROOM = 1 << 22  # pixels that are counted at once, in 8 bytes each


@dataclass(frozen=True)
class PaintedImage:
    """The prediction of an image, at its size."""

    class_ids: np.ndarray  # (H,W), 8-bit up to 256 classes, else 16
    confidence: np.ndarray  # (H,W): the probability of the class, 255 for 1
    overlay: Image.Image | None

    def summarise(self, num_classes: int) -> PredictionSummary:
        """Return the pixels of each class, and the mean confidence."""
        pixels = np.zeros(num_classes, np.int64)
        for rows in np.array_split(self.class_ids, -(-self.class_ids.size // ROOM)):
            pixels += np.bincount(rows.ravel(), minlength=num_classes)
        return PredictionSummary(pixels.tolist(), float(self.confidence.mean()) / 255)


@dataclass(frozen=True)
class ImagePainter:
    """A network and all that writing its prediction of an image takes."""

    network: Predictor
    fabric: Fabric
    meta: Meta
    config: Config
    read_image: ImageReader
    legend: bool

    @property
    def parts(self) -> list[str]:
        """The ends of the names of an image's outputs."""
        return [
            "_mask.png",
            *["_overlay.png"] * self.config.predict.overlay,
            *["_probs.npy"] * self.config.predict.save_probs,
            *["_confidence.png"] * self.config.predict.save_confidence,
            *[".geojson"] * (self.config.predict.vectors == "geojson"),
        ]

    def paint(
        self, path: Path, files: list[Path], before_writing: Callable[[], None]
    ) -> PaintedImage:
        """Write the outputs of an image, after before_writing(). Raise SegtrainError.

        An image that can't be predicted leaves no file.
        """
        meta, settings = self.meta, self.config.eval
        outputs = dict(zip(self.parts, files, strict=True))
        with explain_limits(f"{path}: the image is too large to be read"):
            image = as_tensor(self.read_image(path)).permute(2, 0, 1)[None]
        with explain_limits(f"{path}: {advise_on_memory(image.shape, settings)}"):
            image = to_device(image, self.fabric, settings.max_pixels)
            shape = (len(meta.classes), *image.shape[2:])
            probs_file = outputs.get("_probs.npy")
            probs = open_probs(probs_file, shape) if probs_file else nullcontext()
            with probs as write_probs:
                try:
                    painted = predict_image(self.network, image, meta, self.config, write_probs)
                except NonFiniteError as error:
                    hint = advise_on_overflow(self.fabric)
                    raise NonFiniteError(f"{path}: {error}; {hint}") from error
                except SizeError as error:
                    raise SizeError(f"{path}: {error}") from error
                before_writing()
            self._save(painted, outputs)
            return painted

    def _save(self, painted: PaintedImage, outputs: dict[str, Path]) -> None:
        meta, overlay = self.meta, painted.overlay
        if self.legend and overlay:
            overlay = add_legend(overlay, meta.classes, meta.palette)
        # the record waits for the disk before it names them
        save_mask(outputs["_mask.png"], painted.class_ids, meta.palette, sync=False)
        if overlay:
            save_image(outputs["_overlay.png"], overlay, sync=False)
        if file := outputs.get("_confidence.png"):
            save_image(file, Image.fromarray(painted.confidence), sync=False)
        if file := outputs.get(".geojson"):
            save_geojson(file, self.trace(painted), meta.classes)

    def trace(self, painted: PaintedImage) -> Iterator[Polygon]:
        """Yield the polygons of an image, without those of a background."""
        classes, tolerance = self.meta.classes, self.config.predict.simplify
        found = trace_polygons(painted.class_ids, painted.confidence, len(classes), tolerance)
        return (polygon for polygon in found if not is_background(classes, polygon.class_id))


def predict_image(
    predictor: Predictor,
    image: Tensor,
    meta: Meta,
    config: Config,
    write_probs: Callable[[int, Tensor], None] | None = None,
) -> PaintedImage:
    """Return an image's class ids, their confidence, and the overlay if it is wanted.

    image: uint8 (1,K,H,W). write_probs takes each band's top row and logits (C,h,W). Only a band
    is in memory at a time: a large image's logits, or its class ids as int64, would fill it.
    Raise NonFiniteError.
    """
    network = CheckedPredictor(predictor)
    height, width = image.shape[2:]
    class_ids = np.empty((height, width), np.uint8 if len(meta.classes) <= 256 else np.uint16)
    confidence = np.empty((height, width), np.uint8)
    overlay = Image.new("RGB", (width, height)) if config.predict.overlay else None
    for top, (logits,) in predict_bands(network, image, config.eval):
        bottom, device = top + logits.shape[1], logits.device
        best = logits.max(0).indices  # as in evaluation, so ties are resolved alike
        class_ids[top:bottom] = best.cpu().numpy()
        if network.broken.any():  # the host has waited for the band already
            raise NonFiniteError(NOT_FINITE)
        if overlay:
            band = to_rgb(image[0, :, top:bottom].to(device))
            colours = build_colour_table(meta.palette, device)
            blended = blend_classes(band, best, colours, config.predict.opacity)
            overlay.paste(to_image(blended), (0, top))
        if write_probs:
            write_probs(top, logits)
        sure = measure_confidence(logits[None])[0]
        confidence[top:bottom] = (sure * 255).round().byte().cpu().numpy()
    return PaintedImage(class_ids, confidence, overlay)


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
            file.flush()  # else a full disk is noticed as the file is closed, under another error

        yield write_band
