"""Weights to start from: ImageNet's through the library, or a file."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request
from collections.abc import Set
from pathlib import Path

import huggingface_hub
import segmentation_models_pytorch as smp
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from segtrain.config import ModelConfig
from segtrain.errors import UNREADABLE, SegtrainError, UsageError, first_line, shorten
from segtrain.models.checkpoint import is_checkpoint, read_checkpoint
from segtrain.models.segmentation import SegmentationModel

HUB_SECONDS = 3.0
HEAD = "network.segmentation_head."
CLASSIFIER = ("fc.", "classifier.", "head.", "last_linear.")  # of image classifiers: no part here


def has_imagenet(encoder: str) -> bool:
    """Whether the library offers ImageNet weights for the encoder."""
    if encoder.startswith("tu-"):
        return timm.models.is_model_pretrained(encoder[3:])
    return "imagenet" in smp.encoders.encoders[encoder]["pretrained_settings"]


def imagenet_at_hand(encoder: str) -> bool:
    """Whether ImageNet weights are cached, or the hub answers within HUB_SECONDS."""
    return has_imagenet(encoder) and (_is_cached(encoder) or _hub_answers())


def load_weights(model: SegmentationModel, config: ModelConfig) -> str:
    """Puts the weights that config.weights names into the model; one line that says which."""
    if config.weights == "none":
        return "weights: random"
    if config.weights == "imagenet":
        load_imagenet(model, config)
        return f"weights: ImageNet's, in the encoder {config.encoder}"
    return load_file_weights(model, Path(config.weights))


def load_imagenet(model: SegmentationModel, config: ModelConfig) -> None:
    """Puts ImageNet weights into the model's encoder, and takes over their normalisation.

    What model.mean and model.std say stays, and so does any of images that are not RGB.
    """
    encoder = config.encoder
    if not has_imagenet(encoder):
        raise UsageError(f"model.weights: {encoder} has no ImageNet weights; use --weights none")
    offline = (
        f"model.weights: ImageNet weights of {encoder} are neither cached nor can the hub "
        f"({huggingface_hub.constants.ENDPOINT}) be reached; use --weights none, or a file"
    )
    if not imagenet_at_hand(encoder):  # asked here: the library tries again for most of a minute
        raise SegtrainError(offline)
    try:
        donor = smp.create_model(
            config.arch,
            encoder,
            encoder_weights="imagenet",
            in_channels=config.in_channels,  # other than 3: the library spreads the filters
            **config.options,
        )
        read = smp.encoders.get_preprocessing_params(encoder)
    except (OSError, huggingface_hub.errors.HfHubHTTPError) as error:
        raise SegtrainError(f"{offline} ({first_line(error)})") from error
    model.network.encoder.load_state_dict(donor.encoder.state_dict())
    if read["input_space"] != "RGB":
        raise SegtrainError(f"model.weights: {encoder} was trained on {read['input_space']} images")
    scale = 255 / read["input_range"][1]
    for name, own in (("mean", config.mean), ("std", config.std)):
        if own is None and config.in_channels == 3:
            values = torch.tensor(read[name]).view(1, -1, 1, 1) * scale
            getattr(model, name).copy_(values)


def load_file_weights(model: SegmentationModel, path: Path) -> str:
    """Loads a segtrain checkpoint, or an encoder's state dict, into the model.

    Strict, except a head whose number of classes differs, which starts anew. Returns one line
    that says what was loaded and what was not.
    """
    if not path.is_file():
        raise UsageError(f"model.weights {path}: no such file; use auto, imagenet, none or a file")
    if is_checkpoint(path):
        return _load_whole(model, path)
    return _load_encoder(model, path)


def _load_whole(model: SegmentationModel, path: Path) -> str:
    _, weights = read_checkpoint(path)
    own = model.state_dict()
    anew = {k for k in weights if k.startswith(HEAD) and _shape(own, k) != weights[k].shape}
    _check_fit(path, own, {k: w for k, w in weights.items() if k not in anew}, may_miss=anew)
    model.load_state_dict({k: w for k, w in weights.items() if k not in anew}, strict=False)
    head = "the head starts anew (another number of classes)" if anew else "head included"
    return f"weights: {len(weights) - len(anew)} of {len(own)} tensors from {path}; {head}"


def _load_encoder(model: SegmentationModel, path: Path) -> str:
    weights = {key.removeprefix("encoder."): w for key, w in _read_tensors(path).items()}
    left_out = [key for key in weights if key.startswith(CLASSIFIER)]
    weights = {key: w for key, w in weights.items() if key not in left_out}
    encoder = model.network.encoder
    _check_fit(path, encoder.state_dict(), weights)
    encoder.load_state_dict(weights)
    classifier = f", its classifier ({shorten(left_out)}) left out" if left_out else ""
    return (
        f"weights: the encoder's {len(weights)} tensors from {path}{classifier}; "
        "decoder and head start anew"
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        weights = torch.load(path, map_location="cpu", weights_only=True)  # runs no code
    except (SafetensorError, *UNREADABLE) as error:
        raise SegtrainError(
            f"{path}: not a checkpoint that can be read ({first_line(error)})"
        ) from error
    weights = weights.get("state_dict", weights) if isinstance(weights, dict) else weights
    if not isinstance(weights, dict) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise SegtrainError(f"{path}: not a checkpoint (expected a dict of tensors)")
    return weights


def _check_fit(
    path: Path,
    own: dict[str, Tensor],
    given: dict[str, Tensor],
    may_miss: Set[str] = frozenset(),
) -> None:
    missing = sorted(own.keys() - given.keys() - may_miss)
    unknown = sorted(given.keys() - own.keys())
    shapes = [k for k in own.keys() & given.keys() if own[k].shape != given[k].shape]
    found = ((missing, "missing"), (unknown, "unknown"), (shapes, "of another shape"))
    problems = [f"{len(keys)} {what} ({shorten(keys)})" for keys, what in found if keys]
    if problems:
        raise SegtrainError(
            f"{path}: its tensors don't fit the model: {'; '.join(problems)}; "
            "--arch and --encoder must be those it was made with"
        )


def _shape(weights: dict[str, Tensor], key: str) -> torch.Size | None:
    return weights[key].shape if key in weights else None


def _is_cached(encoder: str) -> bool:
    if encoder.startswith("tu-"):
        pretrained = timm.models.get_pretrained_cfg(encoder[3:])
        assert pretrained is not None  # it has_imagenet
        repository, revision = pretrained.hf_hub_id, None
    else:
        settings = smp.encoders.encoders[encoder]["pretrained_settings"]["imagenet"]
        repository, revision = settings["repo_id"], settings["revision"]
    if not repository:
        return False
    found = huggingface_hub.try_to_load_from_cache(
        repository, "model.safetensors", revision=revision
    )
    return isinstance(found, str)


def _hub_answers() -> bool:
    """Whether the hub says anything at all in time, by way of the environment's proxies."""
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return False
    request = urllib.request.Request(huggingface_hub.constants.ENDPOINT, method="HEAD")
    answered = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(request, timeout=HUB_SECONDS).close()
            answered.set()
        except urllib.error.HTTPError:  # an answer, too
            answered.set()
        except (OSError, http.client.HTTPException):
            pass

    # in a thread: the timeout of a connection does not bound the look-up of its name
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    return answered.is_set()
