"""VGG's perceptual loss: the distance between features of the painted masks."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache

import torch
from torch import Tensor, nn
from torchvision.models import VGG19_Weights, vgg19

from segtrain.errors import UNREADABLE, SegtrainError, UsageError, first_line
from segtrain.losses.arguments import whole_number
from segtrain.losses.base import Term
from segtrain.losses.pixels import Pixels

LAYERS = (3, 8, 13, 22, 31)  # the second ReLU of each block
LEAST_SIDE = 32  # pixels: smaller pictures vanish in five poolings
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class VGG(Term):
    """Mean squared distance of VGG-19 features of the soft and the true mask, both painted.

    A pixel of the soft mask has the mean of the classes' colours, weighted by their probabilities.
    Ignored pixels are black in both. The network is fixed.

    layers: indices in VGG-19's features; the loss is the mean over them.
    weights: imagenet, none (random, for tests), or a file of VGG-19's state dict.
    palette: an RGB colour 0..255 a class; else hues at equal distances.
    """

    formula = "mean over layers of mean((F(sum_c p_c colour_c) - F(colour_true))^2)"
    source = "Johnson et al. 2016, arXiv:1603.08155; features: Simonyan and Zisserman 2014"
    reads_logits = True
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: Sequence[int] = LAYERS,
        weights: str = "imagenet",
        palette: Sequence[tuple[int, int, int]] | None = None,
        lb_ignore: int = 255,
    ):
        super().__init__(lb_ignore)
        if not isinstance(layers, (list, tuple)) or not layers:
            raise UsageError(f"loss: layers is a list of indices, got {layers!r}")
        self.layers = sorted({whole_number("each of layers", each, 0) for each in layers})
        if not isinstance(weights, str):
            raise UsageError(f"loss: vgg's weights are imagenet, none or a file, got {weights!r}")
        self.features = (
            deepcopy(vgg_features(self.layers[-1], weights)).eval().requires_grad_(False)
        )
        self.palette = palette
        self.painted: Tensor | None = None
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (IMAGENET_MEAN, IMAGENET_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def train(self, mode: bool = True) -> VGG:
        return super().train(False)  # the network is fixed

    def check(self, num_classes: int) -> None:
        if self.palette and len(self.palette) < num_classes:
            raise UsageError(
                f"loss: vgg's palette has {len(self.palette)} colours for {num_classes} classes"
            )

    def colours(self, num_classes: int, like: Tensor) -> Tensor:
        """(C,3) in 0..1; moved to the device once, which would wait for it at every step."""
        if self.painted is None or len(self.painted) != num_classes:
            hues = [_hue(c / num_classes) for c in range(num_classes)]
            palette: Sequence[tuple[float, float, float]] = self.palette or hues
            self.painted = torch.tensor(palette[:num_classes], dtype=torch.float64) / 255
        self.painted = self.painted.to(like)
        return self.painted

    def value(self, pixels: Pixels) -> Tensor:
        if min(pixels.target.shape[1:]) < LEAST_SIDE:
            height, width = pixels.target.shape[1:]
            raise UsageError(f"loss: vgg needs {LEAST_SIDE} pixels a side, got {height}x{width}")
        assert pixels.logits is not None  # reads_logits
        probs = pixels.logits.softmax(1)
        colours = self.colours(pixels.num_classes, probs)
        soft = torch.einsum("nchw,cr->nrhw", probs, colours)
        true = colours[pixels.ids].movedim(-1, 1)
        soft, true = (x.where(pixels.valid.unsqueeze(1), 0) for x in (soft, true))
        soft, true = ((x - self.mean.to(x)) / self.std.to(x) for x in (soft, true))
        distances = []
        for index, layer in enumerate(self.features.to(probs.dtype)):
            soft, true = layer(soft), layer(true)
            if index in self.layers:
                count = torch.full((), soft.numel(), device=soft.device)
                squares = pixels.total((soft - true).square().sum())
                distances.append(squares / pixels.total(count))
        return torch.stack(distances).mean()


def _hue(turn: float) -> tuple[float, float, float]:
    red, green, blue = colorsys.hsv_to_rgb(turn, 1, 1)
    return 255 * red, 255 * green, 255 * blue


@lru_cache(1)  # a run builds its loss several times, to find mistakes early
def vgg_features(last: int, weights: str) -> nn.Sequential:
    """VGG-19's features up to the layer `last`. Raises SegtrainError where weights can't be had."""
    with torch.device("meta"):  # the whole network would take 570 MB
        features = vgg19().features
    if last >= len(features):
        raise UsageError(f"loss: layers are 0..{len(features) - 1}, got {last}")
    features = features[: last + 1]
    state = read_weights(weights)
    features = features.to_empty(device="cpu")
    if state is None:
        for layer in features:
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
        return features
    try:
        features.load_state_dict({key: state[f"features.{key}"] for key in features.state_dict()})
    except (RuntimeError, TypeError, KeyError) as error:
        raise SegtrainError(
            f"loss: {weights} holds no weights of VGG-19: {first_line(error)}"
        ) from error
    return features


def read_weights(weights: str) -> dict[str, Tensor] | None:
    """The state dict of VGG-19 that `weights` names; None for random ones."""
    if weights == "none":
        return None
    if weights == "imagenet":
        enum = VGG19_Weights.IMAGENET1K_V1
        try:
            return enum.get_state_dict(progress=False, check_hash=True)
        except (OSError, RuntimeError) as error:  # no network; a download cut short
            raise SegtrainError(
                f"loss: vgg's ImageNet weights are neither cached nor can {enum.url} be reached "
                f"({first_line(error)}); use vgg(weights='FILE') with a downloaded file"
            ) from error
    if not os.path.isfile(weights):
        raise UsageError(f"loss: vgg's weights are imagenet, none or a file, got {weights!r}")
    try:
        return torch.load(weights, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise SegtrainError(f"loss: {weights} can't be read ({first_line(error)})") from error
