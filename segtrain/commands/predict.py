"""segtrain predict: masks and overlays of images, each at its own size."""

from __future__ import annotations

import errno
import time
from pathlib import Path
from typing import Any

from segtrain.commands.requests import NetworkRequest
from segtrain.console import Note, format_score, progress, write, write_notes
from segtrain.data.images import ImageReader
from segtrain.data.raster import is_raster
from segtrain.data.value_range import match_value_range
from segtrain.distributed.devices import build_predictor, choose_layout
from segtrain.distributed.fabric import make_fabric
from segtrain.errors import SegtrainError, shorten
from segtrain.files.places import common_folder, relative_path
from segtrain.models.checkpoint import Meta
from segtrain.models.inference import NonFiniteError, defer_upsampling
from segtrain.models.runtimes import load_network
from segtrain.prediction.geotiff import list_raster_parts, paint_raster
from segtrain.prediction.inputs import FoundImages, ImageInput, choose_names, hash_image
from segtrain.prediction.rasters import ImagePainter, PaintedImage
from segtrain.prediction.record import PredictionSummary, Record, RecordError
from segtrain.prediction.summary import write_summaries
from segtrain.prediction.vector_files import CocoFile
from segtrain.render.fonts import explain_missing_fonts
from segtrain.runs.folder import CONFIG, find_run_of
from segtrain.version import __version__

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no other image can be written either
MOST_NAMED = 20  # failures in the last line


def predict(found: FoundImages, request: NetworkRequest, out: Path, legend: bool = False) -> None:
    """Write NAME_mask.png and NAME_overlay.png of each image below `out`.

    An image that can't be predicted or written is left out, and named in the SegtrainError at the
    end. Outputs that the record has of the same image, weights and settings are kept.
    """
    model, meta, weights = load_network(request.checkpoint, request.config.predict.tuned)
    config = request.config
    fabric = make_fabric(config.train)
    model = model.to(fabric.device).to(memory_format=choose_layout(fabric.device))
    reader = ImageReader.of(config.data, config.model.in_channels)
    if request.other_data.value_range is None:  # the command names none
        home = str(meta.config.data.path)
        of_training = all(image.real_path.is_relative_to(home) for image in found.images)
        paths = [image.path for image in found.images]
        reader, notes = match_value_range(reader, paths, of_training)
        write_notes(notes)
    network = build_predictor(defer_upsampling(model), fabric)
    painter = ImagePainter(network, fabric, meta, config, reader, legend)
    if legend:
        write_notes(explain_missing_fonts(meta.classes))
    write(describe_checkpoint(request.checkpoint, meta))
    with Record(out, describe_command(painter, weights)) as record:
        write_notes(record.notes, stderr=True)
        if found.own_outputs:
            write(f"{found.own_outputs} outputs of predict are not predicted again")
        PredictionJob(painter, found, record).run()


def describe_checkpoint(checkpoint: Path, meta: Meta) -> str:
    """Return a line: the checkpoint's path, its run, epoch and validation mIoU."""
    run = find_run_of(checkpoint)
    facts = [f"run {run.resolve().name}"] if (run / CONFIG).is_file() else []
    return (
        f"checkpoint: {checkpoint} ("
        + ", ".join([*facts, f"epoch {meta.epoch}", f"val mIoU {format_score(meta.miou)}"])
        + (", tuned" if meta.tuning else "")
        + ")"
    )


def describe_command(painter: ImagePainter, weights: str) -> dict[str, Any]:
    """Return all that determines the outputs of an image, besides the image and the device."""
    config, meta = painter.config, painter.meta
    reader = painter.read_image
    return {
        "segtrain": __version__,
        "weights": weights,
        "model": config.model.model_dump(mode="json"),
        "classes": meta.classes,
        "palette": [list(colour) for colour in meta.palette],
        "precision": painter.fabric.strategy.precision.precision,
        "image": {
            "channels": reader.channels,
            "value_range": reader.value_range and list(reader.value_range),
            "wide_range": reader.wide_range,
            "upright": reader.upright,
        },
        "eval": config.eval.model_dump(
            mode="json", include={"max_pixels", "window", "overlap", "tta"}
        ),
        "predict": config.predict.model_dump(mode="json", exclude={"tuned"}),
        "tuning": meta.tuning and meta.tuning.describe(),
        "legend": painter.legend,
    }


class PredictionJob:
    """The images of a command, one after the other, and their outcomes."""

    def __init__(self, painter: ImagePainter, found: FoundImages, record: Record):
        self.painter, self.images, self.record = painter, found.images, record
        self.failures: list[SegtrainError] = [SegtrainError(text) for text in found.unreadable]
        self.total = len(found.images) + len(found.unreadable)
        self.kept = self.predicted = 0
        limit = painter.read_image.max_pixels
        self.rasters = {i.real_path for i in found.images if is_raster(i.path, limit)}
        self.names = choose_names(found.images, record, self.list_parts)
        if painter.legend and self.rasters:
            text = "overlays of rasters keep the raster's size, without a legend"
            write_notes([Note(text, "note")])
        wants_coco = painter.config.predict.vectors == "coco"
        self.coco = CocoFile(record.out, painter.meta.classes) if wants_coco else None
        self.summaries: dict[Path, PredictionSummary] = {}
        self.uncounted: list[Path] = []
        # where images of one name may lie
        self.common = common_folder([i.root.absolute() for i in found.images] or [Path.cwd()])

    def list_parts(self, real_path: Path) -> list[str]:
        """Return the ends of the names of an image's outputs."""
        if real_path in self.rasters:
            return list_raster_parts(self.painter)
        return self.painter.parts

    def run(self) -> None:
        """Predict the images; report on them. Raise SegtrainError where an image failed."""
        began = time.monotonic()
        try:
            for image in progress(self.images, "predicting", len(self.images)):
                try:
                    self._predict(image)
                except RecordError:
                    raise
                except SegtrainError as error:
                    if getattr(error.__cause__, "errno", None) in DISK_ERRORS:
                        raise
                    self._add_failure(error)
        finally:
            if self.total > 1 or self.kept:
                rate = self.predicted / (time.monotonic() - began)
                speed = f", {rate:.3g} images/s" if self.predicted else ""
                write(f"kept {self.kept}, predicted {self.predicted}{speed}")
            if self.coco:
                self.coco.save()
        if self.summaries and len(self.summaries) + len(self.uncounted) > 1:
            write_summaries(self.summaries, self.painter.meta.classes)
        if self.uncounted:
            text = f"in no table: {shorten(self.uncounted)}, taken up after an interruption"
            write_notes([Note(f"{text}, or without data", "note")])
        if self.failures:
            raise SegtrainError(self._explain_failures())

    def _predict(self, image: ImageInput) -> None:
        name, digest = self.names[image.real_path], hash_image(image.path)
        files = self.record.locate_outputs(name, self.list_parts(image.real_path))
        if self.record.is_current(name, digest, files) and (not self.coco or name in self.coco):
            self.kept += 1
        else:
            self._paint(image, name, digest, files)
            self.predicted += 1
            write(f"{image.path} -> {', '.join(map(str, files))}")
        if known := self.record.summarise(name):
            self.summaries[image.path] = known
        else:
            self.uncounted.append(image.path)

    def _paint(self, image: ImageInput, name: str, digest: str, files: list[Path]) -> None:
        painted: PaintedImage | None
        if image.real_path in self.rasters:
            key = f"{self.record.key} {digest}"
            painted, summary = paint_raster(self.painter, image.path, files, key, self._plan_once)
        else:
            painted = self.painter.paint(image.path, files, self._plan_once)
            summary = painted.summarise(len(self.painter.meta.classes))
        if self.coco and painted:
            below = relative_path(image.path, self.common)
            self.coco.add(name, below, painted.class_ids.shape, self.painter.trace(painted))
        self.record.add(name, image.real_path, digest, files, summary)

    def _plan_once(self) -> None:
        if not self.record.own:
            self.record.plan({name: path for path, name in self.names.items()}, self.list_parts)

    def _add_failure(self, error: SegtrainError) -> None:
        # without its frames, which hold the image
        self.failures.append(type(error)(str(error)))
        if self.total > 1:
            write(f"failed: {error}", stderr=True)

    def _explain_failures(self) -> str:
        if self.total == 1:
            return str(self.failures[0])
        done, failed = self.kept + self.predicted, len(self.failures)
        reasons = shorten(self.failures, MOST_NAMED, "; ")
        if failed == self.total and all(isinstance(e, NonFiniteError) for e in self.failures):
            reasons = f"it is the network, not the images: {self.failures[0]}"
        return f"{done} of {self.total}; {failed} failed: {reasons}"
