"""Proof of an exported file: its logits, classes and mIoU beside those of the network in torch."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn

from segtrain.config import EvalConfig
from segtrain.console import format_score, progress
from segtrain.data.loading.dataset import Pairs, make_image_loader, read_batches
from segtrain.errors import SegtrainError
from segtrain.export.formats import Network
from segtrain.metrics.confusion import Confusion, score_matrix
from segtrain.models.inference import predict_bands
from segtrain.models.segmentation import SegmentationModel

TOLERANCE = 1e-3  # of an image's largest logit
# images, height, width: odd, in batches, smaller than the stride, and larger than most crops
SIZES = ((1, 97, 131), (3, 224, 96), (2, 5, 7), (1, 161, 195), (1, 512, 640))


@dataclass(frozen=True)
class Proof:
    """Predictions of a split by a file beside those of the network in torch."""

    split: str
    images: int
    miou: float | None  # of torch in float32
    exported_miou: float | None
    logit_difference: float  # the largest, as a share of the largest logit of its image
    pixel_share: float  # of the pixels whose class differs
    milliseconds: float  # of an image, median
    exported_milliseconds: float

    @property
    def drop(self) -> float:
        """The mIoU that the export costs. Raise SegtrainError where no pixel has a label."""
        if self.miou is None or self.exported_miou is None:
            raise SegtrainError(
                f"{self.split} has no labelled pixels, so what another precision than 32 costs "
                "isn't known; no file is written"
            )
        return self.miou - self.exported_miou

    def __str__(self) -> str:
        return (
            f"proof on {self.images} images of {self.split}: mIoU "
            f"{format_score(self.exported_miou)} of the file, {format_score(self.miou)} of torch; "
            f"logits differ by up to {self.logit_difference:.1e} of the largest, the class of "
            f"{self.pixel_share:.1e} of the pixels; {self.exported_milliseconds:.0f} ms an image, "
            f"{self.milliseconds:.0f} in torch"
        )


@dataclass
class LogitDifference:
    """Differences between two networks' logits of the same images, band by band."""

    logits: float = 0.0  # the largest
    largest: float = 0.0  # of the logits themselves
    gap: float = 0.0  # between the best two logits, where the other network has another class
    differing: int = 0  # such pixels
    pixels: int = 0

    def add(self, own: Tensor, exported: Tensor) -> None:
        """Add a band of logits (N,C,H,W). Raise SegtrainError where the exported can't be right."""
        if own.shape != exported.shape:
            shapes = " and ".join(str(tuple(each.shape)) for each in (exported, own))
            raise SegtrainError(
                f"the exported network isn't the trained one: its logits are of shape {shapes} in "
                "torch; no file is written"
            )
        if not exported.isfinite().all():
            raise SegtrainError(
                "the exported network gives NaN or infinite logits; no file is written"
            )
        self.logits = max(self.logits, float((own - exported).abs().max()))
        self.largest = max(self.largest, float(own.abs().max()))
        best = own.topk(2, dim=1)
        differs = exported.max(1).indices != best.indices[:, 0]
        if differs.any():
            gaps = best.values[:, 0] - best.values[:, 1]
            self.gap = max(self.gap, float(gaps[differs].max()))
        self.differing += int(differs.sum())
        self.pixels += differs.numel()

    @property
    def share(self) -> float:
        """The largest difference as a share of the largest logit."""
        return self.logits / self.largest if self.largest else self.logits

    def refuse(self, place: str) -> None:
        """Raise SegtrainError where rounding doesn't explain the differences."""
        limit = TOLERANCE * self.largest
        if self.logits <= limit and self.gap <= limit:
            return
        raise SegtrainError(
            f"the exported network isn't the trained one: on {place} its logits differ by "
            f"{self.share:.1e} of the largest (rounding is at most {TOLERANCE}), and the class of "
            f"{self.differing} of {self.pixels} pixels; no file is written"
        )


class _Timed:
    """A network that remembers how long each image took, in seconds."""

    def __init__(self, network: Network):
        self.network, self.seconds = network, list[float]()

    def __call__(self, images: Tensor) -> Tensor:
        began = time.perf_counter()
        with torch.inference_mode():
            logits = self.network(images)
        self.seconds.append((time.perf_counter() - began) / len(images))
        return logits


def compare_sizes(model: SegmentationModel, exported: Network, exact: bool) -> None:
    """Compare logits of noise in those of SIZES that a model takes. Raise SegtrainError.

    Where not `exact`, as in half precision, they must be finite and of equal shapes.
    """
    draw = torch.Generator().manual_seed(0)
    for count, height, width in SIZES:
        if model.find_size_error([(height, width)]):
            continue
        shape = (count, model.mean.shape[1], height, width)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
        with torch.inference_mode():
            own, theirs = model(images), exported(images)
        difference = LogitDifference()
        difference.add(own, theirs)
        if exact:
            difference.refuse(f"{count} images of {height}x{width}")


def check_outputs(
    model: SegmentationModel,
    exported: Network,
    run: Callable[[np.ndarray], dict[str, np.ndarray]],
    pixel: str,
) -> None:
    """Compare a file's own outputs, as `run` gives them, with its logits. Raise SegtrainError.

    pixel: type of the images that the file takes.
    """
    side = model.padding.least - 1
    shape = (2, model.mean.shape[1], side, side)
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=draw)
    logits = exported(images)
    shares = logits.softmax(1)
    expected = {"logits": logits, "probs": shares, "confidence": shares.amax(1)}
    for name, values in run(images.numpy().astype(pixel)).items():
        if name == "ids":  # the logit of each is the highest
            chosen = torch.from_numpy(values.astype(np.int64)).unsqueeze(1)
            differences, scale = logits.amax(1, True) - logits.gather(1, chosen), logits
        else:
            differences, scale = torch.from_numpy(values) - expected[name], expected[name]
        if not float(differences.abs().max()) <= TOLERANCE * float(scale.abs().max()):
            raise SegtrainError(f"the file's {name} don't belong to its logits; no file is written")


@dataclass(frozen=True)
class ProofImages:
    """The images of a split on which both are compared, and how they are predicted."""

    pairs: Pairs
    indices: Sequence[int]
    split: str
    classes: list[str]
    settings: EvalConfig


def prove(model: nn.Module, exported: Network, images: ProofImages, exact: bool) -> Proof:
    """Predict images with both. With `exact`, raise SegtrainError where the predictions differ."""
    own, theirs = _Timed(model), _Timed(exported)
    pairs, settings = images.pairs, images.settings.model_copy(update={"tta": []})
    counts = [Confusion(len(images.classes), pairs.masks.lb_ignore) for _ in range(2)]
    shares, differing, pixels = [0.0], 0, 0
    loader = read_batches(make_image_loader(pairs, images.indices, 0))
    for batch in progress(loader, "proving", len(images.indices)):
        here = LogitDifference()
        bands = (predict_bands(network, batch.images, settings) for network in (own, theirs))
        for (top, a), (_, b) in zip(*bands, strict=True):
            here.add(a, b)
            truth = batch.targets[:, top : top + a.shape[2]]
            for count, logits in zip(counts, (a, b), strict=True):
                count.update(logits.max(1).indices, truth)
        if exact:
            here.refuse(str(pairs.samples[batch.indices[0]].image))
        shares.append(here.share)
        differing += here.differing
        pixels += here.pixels
    scores = [score_matrix(count.matrix, images.classes).miou for count in counts]
    return Proof(
        split=images.split,
        images=len(images.indices),
        miou=scores[0],
        exported_miou=scores[1],
        logit_difference=max(shares),
        pixel_share=differing / pixels,
        milliseconds=1000 * median(own.seconds),
        exported_milliseconds=1000 * median(theirs.seconds),
    )
