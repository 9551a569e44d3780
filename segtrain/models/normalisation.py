"""Mean and standard deviation of the images on which an encoder was pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import timm

from segtrain.models.names import UNIVERSAL

# smp's own encoders with other values than ImageNet's, by the beginning of their names, in 0..1:
# smp 0.4, which had them in its source; later versions have them on the hub alone
HALF = ((0.5,) * 3, (0.5,) * 3)
DPN = ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3)
SMP = {
    "inceptionresnetv2": HALF,
    "inceptionv4": HALF,
    "xception": HALF,
    "timm-tf_efficientnet_lite": HALF,
    "dpn": DPN,
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Normalisation:
    """Mean and std of each channel of RGB images of 0..255, and where they come from."""

    mean: list[float]
    std: list[float]
    source: str


def find_normalisation(encoder: str, settings: Mapping[str, Any]) -> Normalisation:
    """Return the normalisation of a file's weights: its folder's own, else the encoder's.

    `settings` are a hub's config.json; of weights that nothing is known of, take ImageNet's.
    """
    name = encoder.removeprefix(UNIVERSAL)
    if "mean" in settings and "std" in settings:
        values, source = (settings["mean"], settings["std"]), "its config.json"
    elif encoder.startswith(UNIVERSAL):
        found = timm.models.get_pretrained_cfg(name)
        values = (found.mean, found.std) if found else IMAGENET
        source = f"timm's for {name}" if found else "ImageNet's, as timm has none for it"
    else:
        values = next((SMP[key] for key in SMP if encoder.startswith(key)), IMAGENET)
        source = f"smp's for {encoder}"
    mean, std = ([255 * value for value in group] for group in values)
    return Normalisation(mean, std, source)
