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
from segtrain.files import whole_file
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
from segtrain.render.overlay import (
    add_legend,
    blend_classes,
    build_colour_table,
    save_image,
    save_mask,
    to_image,
    to_rgb,
)


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
        return ["mask.png", "overlay.png"] + ["probs.npy"] * self.config.predict.save_probs

    def paint(self, path: Path, files: list[Path], before_writing: Callable[[], None]) -> None:
        """Write the outputs of an image, after before_writing(). Raise SegtrainError.

        An image that can't be predicted leaves no file.
        """
        meta, settings = self.meta, self.config.eval
        with explain_limits(f"{path}: the image is too large to be read"):
            image = as_tensor(self.read_image(path)).permute(2, 0, 1)[None]
        with explain_limits(f"{path}: {advise_on_memory(image.shape, settings)}"):
            image = to_device(image, self.fabric, settings.max_pixels)
            shape = (len(meta.classes), *image.shape[2:])
            probs = open_probs(files[2], shape) if len(files) > 2 else nullcontext()
            with probs as write_probs:
                try:
                    ids, overlay = predict_image(
                        self.network, image, meta, self.config, write_probs
                    )
                except NonFiniteError as error:
                    hint = advise_on_overflow(self.fabric)
                    raise NonFiniteError(f"{path}: {error}; {hint}") from error
                except SizeError as error:
                    raise SizeError(f"{path}: {error}") from error
                if self.legend:
                    overlay = add_legend(overlay, meta.classes, meta.palette)
                before_writing()
            save_mask(files[0], ids, meta.palette)
            save_image(files[1], overlay)


def predict_image(
    predictor: Predictor,
    image: Tensor,
    meta: Meta,
    config: Config,
    write_probs: Callable[[int, Tensor], None] | None = None,
) -> tuple[np.ndarray, Image.Image]:
    """Return class ids (H,W), 8-bit up to 256 classes, else 16, and the overlay.

    image: uint8 (1,K,H,W). write_probs takes each band's top row and logits (C,h,W). Only a band
    is in memory at a time: a large image's logits, or its class ids as int64, would fill it.
    Raise NonFiniteError.
    """
    network = CheckedPredictor(predictor)
    height, width = image.shape[2:]
    class_ids = np.empty((height, width), np.uint8 if len(meta.classes) <= 256 else np.uint16)
    overlay = Image.new("RGB", (width, height))
    for top, (logits,) in predict_bands(network, image, config.eval):
        bottom, device = top + logits.shape[1], logits.device
        best = logits.max(0).indices  # as in evaluation, so ties are resolved alike
        class_ids[top:bottom] = best.cpu().numpy()
        if network.broken.any():  # the host has waited for the band already
            raise NonFiniteError(NOT_FINITE)
        band = to_rgb(image[0, :, top:bottom].to(device))
        colours = build_colour_table(meta.palette, device)
        blended = blend_classes(band, best, colours, config.predict.opacity)
        overlay.paste(to_image(blended), (0, top))
        if write_probs:
            write_probs(top, logits)
    return class_ids, overlay


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
