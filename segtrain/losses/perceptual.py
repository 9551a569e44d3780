"""Perceptual loss: the distance between VGG-19 features of the painted masks."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Sequence
from copy import deepcopy
from functools import lru_cache

import torch
from torch import Tensor, nn
from torchvision.models import VGG19_Weights, vgg19

from segtrain.errors import UsageError, first_line, translate_errors
from segtrain.losses.argument_types import make_arguments
from segtrain.losses.arguments import VGGArguments
from segtrain.losses.base import Term
from segtrain.losses.pixel_pass import Pixels

LEAST_SIDE = 32  # pixels: smaller images vanish in five poolings
VGG_MEAN, VGG_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in 0..1


class VGG(Term):
    __doc__ = VGGArguments.__doc__

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        layers: Sequence[int] = VGGArguments.layers,
        weights: str = VGGArguments.weights,
        palette: Sequence[tuple[int, int, int]] | None = None,
        lb_ignore: int = 255,
    ):
        checked = make_arguments(VGGArguments, layers, weights)
        super().__init__(lb_ignore, reads_logits=True)
        self.layers = checked.layers
        # a copy: the cached network must not move to the device of one loss
        self.features = deepcopy(load_features(checked)).eval().requires_grad_(False)
        self.palette = palette
        self.painted: Tensor | None = None
        mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in (VGG_MEAN, VGG_STD))
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)

    def train(self, mode: bool = True) -> VGG:
        return super().train(False)  # the network is fixed

    def check_palette(self, num_classes: int) -> None:
        """Raise UsageError for a palette with fewer colours than classes."""
        if self.palette and len(self.palette) < num_classes:
            raise UsageError(
                f"loss: vgg's palette has {len(self.palette)} colours for {num_classes} classes"
            )

    def colours(self, num_classes: int, like: Tensor) -> Tensor:
        """Return (C,3) in 0..1, moved to the device once: each move makes the host wait."""
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
        probs = pixels.full_logits.softmax(1)
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
    """Return the RGB colour (0..255) of a hue, as a share of the colour circle."""
    red, green, blue = colorsys.hsv_to_rgb(turn, 1, 1)
    return 255 * red, 255 * green, 255 * blue


def load_features(arguments: VGGArguments) -> nn.Sequential:
    """Return VGG-19's features up to the last of the layers.

    Raises SegtrainError for weights that can't be loaded.
    """
    return _load_features(max(arguments.layers), arguments.weights)


@lru_cache(1)  # fit loads them before it reads the data set, and builds the loss later
def _load_features(last: int, weights: str) -> nn.Sequential:
    with torch.device("meta"):  # with memory the whole network would take 570 MB
        features = vgg19().features[: last + 1]
    state = read_weights(weights)
    features = features.to_empty(device="cpu")
    if state is None:
        for layer in features:
            if isinstance(layer, nn.Conv2d):
                layer.reset_parameters()
        return features
    with translate_errors(lambda e: f"loss: {weights} holds no weights of VGG-19: {first_line(e)}"):
        features.load_state_dict({key: state[f"features.{key}"] for key in features.state_dict()})
    return features


def read_weights(weights: str) -> dict[str, Tensor] | None:
    """Return the state dict of VGG-19 that `weights` names; None for random ones."""
    if weights == "none":
        return None
    if weights == "imagenet":
        enum = VGG19_Weights.IMAGENET1K_V1
        with translate_errors(
            lambda error: (
                f"loss: vgg's ImageNet weights are neither cached nor can {enum.url} be "
                f"reached ({first_line(error)}); use vgg(weights='FILE') with a downloaded file"
            )
        ):
            return enum.get_state_dict(progress=False, check_hash=True)
    if not os.path.isfile(weights):
        raise UsageError(f"loss: vgg's weights are imagenet, none or a file, got {weights!r}")
    with translate_errors(lambda error: f"loss: {weights} can't be read ({first_line(error)})"):
        return torch.load(weights, map_location="cpu", weights_only=True)
