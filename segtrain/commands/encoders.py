"""segtrain encoders: encoders by name, and what to know of each before it is trained."""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import cache
from typing import NamedTuple

import segmentation_models_pytorch as smp
import timm
import torch
from rich.table import Table

from segtrain.config import ModelConfig
from segtrain.console import NARROW, terminal, write, write_table
from segtrain.errors import UsageError, did_you_mean
from segtrain.models.encoders import ARCHITECTURES
from segtrain.models.imagenet import PACKAGES, has_imagenet, is_cached
from segtrain.models.names import UNIVERSAL
from segtrain.models.normalisation import find_normalisation
from segtrain.models.segmentation import SegmentationModel, try_model

MOST = 24  # encoders described at once: each is built, without memory, in a moment
PROBE = 224  # pixels of an image whose features tell the strides, or the least that fits


class EncoderFacts(NamedTuple):
    """An encoder as the first architecture that takes it has it."""

    parameters: str
    strides: str  # of its features, from the finest on
    sides: str  # of images
    weights: str
    licence: str

    @classmethod
    def of(cls, name: str, model: SegmentationModel) -> EncoderFacts:
        encoder, strides = model.network.encoder, find_strides(model)
        return cls(
            f"{sum(p.numel() for p in encoder.parameters()) / 1e6:.1f} M",
            f"{strides[0]}-{strides[-1]}" if len(strides) > 1 else str(strides[0]),
            describe_sides(model),
            describe_weights(name),
            find_licence(name),
        )


def show_encoders(pattern: str | None) -> None:
    """Write the encoders whose names match a pattern: facts of a few, names of many.

    Raise UsageError where none does.
    """
    names = select_encoders(pattern or "")
    if len(names) == 1:
        return show_encoder(names[0])
    if len(names) > MOST:
        for name in names:
            write(name)
        write()
        write(f"{len(names)} encoders; a pattern that leaves at most {MOST} shows what they are")
        return
    columns = ("encoder", "parameters", "strides", "sides", "weights", "licence")
    shown = columns if terminal().width >= NARROW else columns[:3]
    table = Table(*shown, box=None, header_style="bold", pad_edge=False)
    table.columns[0].no_wrap = True  # other columns fold first
    for column in table.columns:
        column.overflow = "fold"
    for name in names:
        models = (find_model(arch, name) for arch in ARCHITECTURES)
        model = next((model for model in models if model), None)
        facts = EncoderFacts.of(name, model) if model else ("no architecture takes it",)
        table.add_row(*(name, *facts)[: len(shown)])
    write_table(table)


def show_encoder(name: str) -> None:
    """Write all that is known of an encoder, and the architectures that take it."""
    models = {arch: model for arch in ARCHITECTURES if (model := find_model(arch, name))}
    write(name)
    if not models:
        write("no architecture takes it")
        return
    facts = EncoderFacts.of(name, next(iter(models.values())))
    reading = find_normalisation(name, {})
    lines = {
        "architectures": ", ".join(models),
        "parameters": facts.parameters,
        "strides": facts.strides,
        "sides of images": f"padded to {facts.sides}",
        "ImageNet weights": facts.weights,
        "mean, std": f"{_round(reading.mean)}, {_round(reading.std)} ({reading.source})",
        "licence": facts.licence or "not said",
    }
    for key, text in lines.items():
        write(f"  {key + ':':18}{text}")


def select_encoders(pattern: str) -> list[str]:
    """Return the encoders of smp and timm that a pattern names: with * and ?, or a part."""
    given = pattern.lower()
    timms = timm.list_pretrained() if "." in given else timm.list_models()  # with tags of weights
    known = [*smp.encoders.get_encoder_names(), *(UNIVERSAL + name for name in timms)]
    wild = given if set(given) & set("*?[") else f"*{given}*"
    found = [given] if given in known else [name for name in known if fnmatchcase(name, wild)]
    if not found:
        raise UsageError(f"there is no encoder {pattern!r}{did_you_mean(pattern, known)}")
    return found


@cache
def find_model(arch: str, encoder: str) -> SegmentationModel | None:
    """Return a model without weights; None where the architecture does not take the encoder."""
    return try_model(ModelConfig(arch=arch, encoder=encoder), num_classes=2)


def find_strides(model: SegmentationModel) -> list[int]:
    """Return the strides of the encoder's features for square images, without empty features."""
    encoder, side = model.network.encoder, model.padding.pad(PROBE)
    if model.find_size_error([(side, side)]):
        side = model.padding.least
    device = next(encoder.parameters()).device
    with torch.no_grad():
        features = encoder.eval()(torch.zeros(1, 3, side, side, device=device))
    if isinstance(features, tuple):  # a ViT's come with its prefix tokens
        features = features[0]
    strides = [
        side // feature.shape[-1]
        for index, feature in enumerate(features)
        # the first is the image, and one of 0 channels stands for a stride that is left out
        if feature.shape[1] > (3 if index == 0 else 0)
    ]
    return list(dict.fromkeys(strides))  # all features of a ViT have the same


def describe_sides(model: SegmentationModel) -> str:
    """Return what the sides of padded images are multiples of, and the least or only one."""
    least, step = model.padding
    if model.find_size_error([(least + step, least + step)]):
        return f"{least} alone"
    return f"multiples of {step}" + (f", from {least}" if least > step else "")


def describe_weights(encoder: str) -> str:
    """Return where an encoder's ImageNet weights are to be had; no hub is asked."""
    if not has_imagenet(encoder):
        return "none"
    if is_cached(encoder):
        return "cached"
    package = PACKAGES.get(encoder)
    return "package" if package and package.find() else "hub"


def find_licence(encoder: str) -> str:
    """Return the licence of an encoder's weights as timm has it, '' where it does not say."""
    found = timm.models.get_pretrained_cfg(encoder.removeprefix(UNIVERSAL))
    return (found and found.license) or "" if encoder.startswith(UNIVERSAL) else ""


def _round(values: list[float]) -> str:
    return " ".join(f"{value:.1f}" for value in values)
