"""Pretrained weights for fine-tuning: ImageNet's from the hub, or those of a file."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request
from collections.abc import Set
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

import huggingface_hub
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

from segtrain.config import ModelConfig
from segtrain.console import Note
from segtrain.errors import SegtrainError, UsageError, first_line, shorten, translate_errors
from segtrain.models.checkpoint import is_checkpoint, read_checkpoint
from segtrain.models.encoders import network_options
from segtrain.models.names import refuse_missing_weights
from segtrain.models.segmentation import SegmentationModel
from segtrain.models.weights import refuse_nonfinite

HUB_SECONDS = 3.0  # a hub behind a firewall never answers
HEAD = "network.segmentation_head."
CLASSIFIER = ("fc.", "classifier.", "head.", "last_linear.")  # of image classifiers; left out


def has_imagenet(encoder: str) -> bool:
    """Return whether smp or timm offers ImageNet weights for the encoder."""
    if encoder.startswith("tu-"):
        return timm.models.is_model_pretrained(encoder[3:])
    return "imagenet" in smp.encoders.encoders[encoder]["pretrained_settings"]


def can_load_imagenet(encoder: str) -> bool:
    """Return whether ImageNet weights are cached, or the hub answers within HUB_SECONDS."""
    return has_imagenet(encoder) and (_is_cached(encoder) or _hub_answers())


def load_weights(model: SegmentationModel, config: ModelConfig, download: bool = True) -> Note:
    """Load the weights that config.weights names into the model; return which they are.

    Without `download`, those of ImageNet that aren't cached are only looked for.
    """
    if config.weights == "none":
        return Note("weights: random")
    if config.weights == "imagenet":
        load_imagenet(model, config, download)
        return Note(f"weights: ImageNet's, in the encoder {config.encoder}")
    return load_file_weights(model, Path(config.weights))


def load_imagenet(model: SegmentationModel, config: ModelConfig, download: bool = True) -> None:
    """Load ImageNet weights into the model's encoder, and their mean and std into the model.

    The config's own mean and std stay, and so do those of images that are not RGB.
    """
    encoder = config.encoder
    if not has_imagenet(encoder):
        raise UsageError(f"model.weights: {encoder} has no ImageNet weights; use --weights none")
    offline = (
        f"model.weights: ImageNet weights of {encoder} are neither cached nor can the hub "
        f"({huggingface_hub.constants.ENDPOINT}) be reached; use --weights none, or a file"
    )
    if not can_load_imagenet(encoder):  # the library would retry for most of a minute
        raise SegtrainError(offline)
    if not download and not _is_cached(encoder):
        return

    def explain(error: Exception) -> str:
        return (
            f"model.weights: cannot load the ImageNet weights of {encoder} ({first_line(error)}); "
            "try again, or use --weights none, or a file"
        )

    with translate_errors(explain):
        donor = smp.create_model(
            config.arch,
            encoder,
            encoder_weights="imagenet",
            in_channels=config.in_channels,  # the library adapts the first filters
            **network_options(config),
        )
        reading = smp.encoders.get_preprocessing_params(encoder)
        model.network.encoder.load_state_dict(donor.encoder.state_dict())
    if (space := reading["input_space"]) != "RGB":
        raise SegtrainError(f"model.weights: {encoder} was trained on {space} images")
    scale = 255 / reading["input_range"][1]  # most are for values of 0..1
    for name, given in (("mean", config.mean), ("std", config.std)):
        if given is None and config.in_channels == 3:
            values = torch.tensor(reading[name]).view(1, -1, 1, 1) * scale
            getattr(model, name).copy_(values)


def load_file_weights(model: SegmentationModel, path: Path) -> Note:
    """Load a segtrain checkpoint, or an encoder's state dict, into the model.

    All tensors must fit, except those of a head for another number of classes, which starts from
    random weights. Return which were loaded.
    """
    refuse_missing_weights(str(path))
    if is_checkpoint(path):
        return _load_whole(model, path)
    return _load_encoder(model, path)


def _load_whole(model: SegmentationModel, path: Path) -> Note:
    _, weights = read_checkpoint(path)
    expected = model.state_dict()
    other_head = {
        key
        for key, weight in weights.items()
        if key.startswith(HEAD) and (key not in expected or expected[key].shape != weight.shape)
    }
    loaded = {key: w for key, w in weights.items() if key not in other_head}
    _check_fit(path, expected, loaded, may_miss=other_head)
    with _naming(path):
        model.load_state_dict(loaded, strict=False)
    head = "head included"
    if other_head:
        head = "the head starts from random weights (another number of classes)"
    return Note(f"weights: {len(loaded)} of {len(expected)} tensors from {path}; {head}")


def _load_encoder(model: SegmentationModel, path: Path) -> Note:
    weights = {key.removeprefix("encoder."): w for key, w in _read_tensors(path).items()}
    left_out = [key for key in weights if key.startswith(CLASSIFIER)]
    weights = {key: w for key, w in weights.items() if key not in left_out}
    encoder = model.network.encoder
    _check_fit(path, encoder.state_dict(), weights)
    with _naming(path):
        encoder.load_state_dict(weights)
    classifier = f", its classifier ({shorten(left_out)}) left out" if left_out else ""
    return Note(
        f"weights: the encoder's {len(weights)} tensors from {path}{classifier}; "
        "decoder and head start from random weights"
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    weights: Any
    with _naming(path):
        if path.suffix == ".safetensors":
            weights = load_file(path)
        else:
            weights = torch.load(path, map_location="cpu", weights_only=True)  # runs no code
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else weights
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
    ):
        raise SegtrainError(f"{path}: not a checkpoint (expected a dict of tensors)")
    refuse_nonfinite(path, weights)
    return weights


def _naming(path: Path) -> AbstractContextManager[None]:
    """Return a context that names the file in any error of reading or loading its tensors."""
    return translate_errors(
        lambda error: f"{path}: not a checkpoint that can be read ({first_line(error)})"
    )


def _check_fit(
    path: Path,
    expected: dict[str, Tensor],
    loaded: dict[str, Tensor],
    may_miss: Set[str] = frozenset(),
) -> None:
    missing = sorted(expected.keys() - loaded.keys() - may_miss)
    unknown = sorted(loaded.keys() - expected.keys())
    shapes = [k for k in expected.keys() & loaded.keys() if expected[k].shape != loaded[k].shape]
    faults = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    problems = [f"{len(keys)} {fault} ({shorten(keys)})" for fault, keys in faults.items() if keys]
    if problems:
        raise SegtrainError(
            f"{path}: its tensors don't fit the model: {'; '.join(problems)}; "
            "--arch and --encoder must be those it was made with"
        )


def _is_cached(encoder: str) -> bool:
    if encoder.startswith("tu-"):
        pretrained = timm.models.get_pretrained_cfg(encoder[3:])
        repository, revision = pretrained and pretrained.hf_hub_id, None
    else:
        settings = smp.encoders.encoders[encoder]["pretrained_settings"]["imagenet"]
        repository, revision = settings["repo_id"], settings["revision"]
    if not repository:
        return False
    file = huggingface_hub.try_to_load_from_cache(
        repository, "model.safetensors", revision=revision
    )
    return isinstance(file, str)  # else None, or a mark that the hub has no such file


def _hub_answers() -> bool:
    """Return whether the hub sends any answer in time, through the environment's proxies."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    answered = threading.Event()

    def ask() -> None:
        # unreachable, no HTTP, or an HF_ENDPOINT that is no address
        with suppress(OSError, http.client.HTTPException, ValueError):
            request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
            with suppress(urllib.error.HTTPError):  # an answer, too
                urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
            answered.set()

    # in a thread: the timeout of a connection does not bound the lookup of its name
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return answered.is_set()
