"""Masks and overlays of rasters, as tiled GeoTIFFs: predicted in blocks, in bounded memory."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from segtrain.console import write
from segtrain.data.loading.dataset import as_tensor
from segtrain.data.raster import ColumnReader, Raster, open_raster
from segtrain.data.tiled_tiff import TILE, TiffLayout, TiledTiff
from segtrain.distributed.devices import advise_on_overflow
from segtrain.distributed.limits import explain_limits
from segtrain.errors import SegtrainError
from segtrain.files.whole import resumable_file
from segtrain.metrics.calibration import measure_confidence
from segtrain.models.inference import (
    NOT_FINITE,
    Block,
    CheckedPredictor,
    Logits,
    NonFiniteError,
    SizeError,
    advise_on_memory,
    choose_window,
    predict_block,
)
from segtrain.prediction.rasters import ImagePainter, PaintedImage, open_probs
from segtrain.prediction.record import PredictionSummary
from segtrain.prediction.vector_files import save_geojson
from segtrain.render.overlay import blend_classes, build_colour_table, to_rgb

OPEN_ROWS = 1 << 27  # bytes of the logits of a row of windows, at a block's width
MASK, OVERLAY, CONFIDENCE = "_mask.tif", "_overlay.tif", "_confidence.tif"  # ends of names
Rows = dict[str, np.ndarray]  # by the end: ids (h,w), overlay (h,w,3) if wanted, confidence (h,w)
NOTICE = 60  # seconds between lines that say how far it is


def list_raster_parts(painter: ImagePainter) -> list[str]:
    """Return the ends of the names of a raster's outputs."""
    return [
        MASK,
        *[OVERLAY] * painter.config.predict.overlay,
        *[CONFIDENCE] * painter.config.predict.save_confidence,
        *["_probs.npy"] * painter.config.predict.save_probs,
        *[".geojson"] * (painter.config.predict.vectors == "geojson"),
    ]


def paint_raster(
    painter: ImagePainter,
    path: Path,
    files: list[Path],
    key: str,
    before_writing: Callable[[], None],
) -> tuple[PaintedImage | None, PredictionSummary | None]:
    """Write the outputs of a raster, after before_writing(). Raise SegtrainError.

    Return its prediction where polygons need it whole, and its numbers where all was predicted now.

    key: of the image and the command. After an interruption the same call goes on where it was; a
    raster that can't be predicted leaves no file.
    """
    with open_raster(path, painter.read_image) as raster:
        shape = (1, painter.read_image.channels, *raster.size)
        with explain_limits(f"{path}: {advise_on_memory(shape, painter.config.eval)}"):
            before_writing()
            job = RasterPainter(painter, raster)
            try:
                job.paint(dict(zip(list_raster_parts(painter), files, strict=True)), key)
                return job.whole, job.summarise()
            except NonFiniteError as error:
                hint = advise_on_overflow(painter.fabric)
                raise NonFiniteError(f"{path}: {error}; {hint}") from error
            except SizeError as error:
                raise SizeError(f"{path}: {error}") from error


class RasterPainter:
    """The prediction of one raster, from its windows to the tiles of its outputs."""

    def __init__(self, painter: ImagePainter, raster: Raster):
        self.painter, self.raster = painter, raster
        self.classes = len(painter.meta.classes)
        self.window = choose_window(*raster.size, painter.config.eval)
        # a value besides the classes, where there is nodata
        is_byte = self.classes + raster.has_nodata <= 256
        self.dtype = np.dtype(np.uint8 if is_byte else np.uint16)
        highest, ignored = 255 if is_byte else 65535, painter.config.data.lb_ignore
        self.nodata = ignored if self.classes <= ignored <= highest else highest
        self.predictor = CheckedPredictor(self._predict_window)
        self.write_probs: Callable[[int, Tensor], None] | None = None
        self.whole: PaintedImage | None = None
        self.pixels, self.confidence, self.skipped = np.zeros(self.classes, np.int64), 0.0, False
        self.is_empty = False  # of the window that was read last
        self.next_notice = time.monotonic() + NOTICE

    def paint(self, files: dict[str, Path], key: str) -> None:
        """Write the outputs, by the ends of their names, without tiles of an interrupted call.

        key: of the image and the command. Raise NonFiniteError, SizeError or another SegtrainError.
        """
        blocks, settings = self._choose_blocks(), self.painter.config.predict
        if "_probs.npy" in files and len(blocks) > 1:
            raise SegtrainError(
                f"{self.raster.path}: probabilities of {self.classes} classes are not written of a "
                "raster of this size; leave out predict.save_probs"
            )
        key = hashlib.sha256(key.encode()).hexdigest()[:16]
        if settings.vectors != "none":
            self._keep_whole()
        layouts = self._choose_layouts()
        with ExitStack() as stack:
            if probs := files.get("_probs.npy"):
                shape = (self.classes, *self.raster.size)
                self.write_probs = stack.enter_context(open_probs(probs, shape))
            outputs = {
                end: TiledTiff(stack.enter_context(resumable_file(files[end], key)), layout)
                for end, layout in layouts.items()
                if end in files
            }
            for columns in blocks:
                self._paint_block(columns, outputs)
            for output in outputs.values():
                output.add_overviews()
        if self.whole and (file := files.get(".geojson")):
            place, polygons = self.raster.georeference, self.painter.trace(self.whole)
            save_geojson(file, polygons, self.painter.meta.classes, place.affine, place.epsg)

    def summarise(self) -> PredictionSummary | None:
        """Return the pixels of each class, and the mean confidence, of what has data."""
        total = int(self.pixels.sum())
        if self.skipped or not total:
            return None
        return PredictionSummary(self.pixels.tolist(), self.confidence / total)

    def _keep_whole(self) -> None:
        """Keep all class ids and confidences, for polygons. Raise SegtrainError for too many."""
        height, width = self.raster.size
        limit = self.painter.read_image.max_pixels
        if height * width > limit:
            raise SegtrainError(
                f"{self.raster.path}: polygons need the whole mask, and {width}x{height} is more "
                f"than data.max_pixels {limit:,}; raise it, or leave out predict.vectors"
            )
        ids, sure = np.empty((height, width), self.dtype), np.empty((height, width), np.uint8)
        self.whole = PaintedImage(ids, sure, Image.new("RGB", (0, 0)))

    def _choose_layouts(self) -> dict[str, TiffLayout]:
        size, overviews = self.raster.size, self.painter.config.predict.overviews
        place = self.raster.byteorder, self.raster.georeference
        palette = self.painter.meta.palette if self.dtype == np.uint8 else []
        nodata = self.nodata if self.raster.has_nodata else None
        mask = TiffLayout(size, self.dtype, *place, palette, nodata, overviews)
        overlay = TiffLayout((*size, 3), np.dtype(np.uint8), *place, overviews=overviews)
        unsure = 0 if self.raster.has_nodata else None
        confidence = TiffLayout(size, np.dtype(np.uint8), *place, [], unsure, overviews)
        return {MASK: mask, OVERLAY: overlay, CONFIDENCE: confidence}

    def _choose_blocks(self) -> list[slice]:
        """Return columns, in whole tiles, whose rows of windows fit in OPEN_ROWS."""
        width = self.raster.size[1]
        columns = OPEN_ROWS // (4 * self.classes * self.window[0])
        step = max(1, columns // TILE) * TILE if self.window != self.raster.size else width
        return [slice(left, min(left + step, width)) for left in range(0, width, step)]

    def _paint_block(self, columns: slice, outputs: dict[str, TiledTiff]) -> None:
        first, height = columns.start // TILE, self.raster.size[0]
        last = -(-columns.stop // TILE)
        counts = {end: output.count_rows(first, last) for end, output in outputs.items()}
        start = 0 if self.write_probs or self.whole else min(counts.values()) * TILE
        self.skipped |= start > 0
        if start >= height:
            return
        pending: list[Rows] = []
        for bottom, rows in self._predict_rows(columns, start):
            pending.append(rows)
            self._count(rows, bottom, columns)
            if bottom % TILE == 0 or bottom == height:
                row = (bottom - 1) // TILE
                for end, output in outputs.items():
                    if row >= counts[end]:
                        output.put(row, first, np.concatenate([part[end] for part in pending]))
                pending.clear()
                self._report(columns, bottom)

    def _count(self, rows: Rows, bottom: int, columns: slice) -> None:
        ids, sure = rows[MASK], rows[CONFIDENCE]
        known = ids < self.classes
        self.pixels += np.bincount(ids[known], minlength=self.classes)
        self.confidence += float(sure[known].sum(dtype=np.int64)) / 255
        if self.whole:
            place = np.s_[bottom - len(ids) : bottom, columns]
            self.whole.class_ids[place], self.whole.confidence[place] = ids, sure

    def _predict_rows(self, columns: slice, start: int) -> Iterator[tuple[int, Rows]]:
        """Yield (bottom row, rows) of a block, from `start` on.

        No part is of two rows of tiles.
        """
        (_, width), wide = self.raster.size, self.window[1]
        around = slice(max(columns.start - wide, 0), min(columns.stop + wide, width))
        reader = ColumnReader(self.raster, around)

        def read(rows: slice, window: slice) -> tuple[np.ndarray, np.ndarray]:
            inside = slice(window.start - around.start, window.stop - around.start)
            pixels, has_data = reader.read(rows)
            return pixels[:, inside], has_data[:, inside]

        def read_window(rows: slice, window: slice) -> Tensor:
            pixels, has_data = read(rows, window)
            self.is_empty = not has_data.any()
            return as_tensor(pixels).permute(2, 0, 1)[None]

        block = Block(self.raster.size, columns.start, columns.stop, start)
        bands = predict_block(self.predictor, read_window, self.painter.config.eval, block)
        for top, (logits,) in bands:
            bottom = top + logits.shape[1]
            best = logits.max(0).indices
            if self.predictor.broken.any():
                raise NonFiniteError(NOT_FINITE)
            if self.write_probs:
                self.write_probs(top, logits)
            sure = measure_confidence(logits[None])[0].mul_(255).round_().byte().cpu().numpy()
            pixels, has_data = read(slice(top, bottom), columns)
            sure[~has_data] = 0
            found = {**self._colour(best, pixels, has_data), CONFIDENCE: sure}
            edges = [0, *range(TILE - top % TILE, bottom - top, TILE), bottom - top]
            for a, b in pairwise(edges):
                yield top + b, {end: values[a:b] for end, values in found.items()}

    def _colour(self, best: Tensor, pixels: np.ndarray, has_data: np.ndarray) -> Rows:
        """Return the mask's values (h,w), and the overlay (h,w,3) if it is wanted."""
        known, settings = torch.from_numpy(has_data).to(best.device), self.painter.config.predict
        ids = best.where(known, self.nodata).cpu().numpy().astype(self.dtype)
        if not settings.overlay:
            return {MASK: ids}
        image = to_rgb(as_tensor(pixels).permute(2, 0, 1).to(best.device))
        colours = build_colour_table(self.painter.meta.palette, best.device)
        overlay = blend_classes(image, best.where(known, -1), colours, settings.opacity)
        return {MASK: ids, OVERLAY: overlay.permute(1, 2, 0).cpu().numpy()}

    def _predict_window(self, images: Tensor) -> Logits:
        """Return the network's logits; zeros where no pixel of the window has data."""
        if not self.is_empty:
            return self.painter.network(images)
        device = self.painter.fabric.device
        return torch.zeros(len(images), self.classes, *images.shape[2:], device=device)

    def _report(self, columns: slice, bottom: int) -> None:
        if time.monotonic() < self.next_notice:
            return
        (height, width), wide = self.raster.size, columns.stop - columns.start
        done = (columns.start * height + wide * bottom) / (width * height)
        write(f"{self.raster.path}: {done:.0%}", stderr=True)
        self.next_notice = time.monotonic() + NOTICE
