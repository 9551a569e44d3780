"""Checkpoints: weights with everything that prediction needs, and the state to resume from.

NAME.safetensors holds the weights and, as JSON in its metadata, everything else that prediction
needs; loading it runs no code and needs no network. last.state.pt serves resuming alone.

Functions that read or write tensors import torch, which takes seconds: metadata needs none of it.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ConfigDict, Field, FiniteFloat, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from safetensors import safe_open

from segtrain.config import Config
from segtrain.config.loading import load_config, make_config
from segtrain.config.types import LARGEST_OVERLAP, SMALLEST_WINDOW, Colour
from segtrain.errors import SegtrainError, UsageError, first_line, translate_errors
from segtrain.files.whole import save_bytes
from segtrain.models.hub import fetch_hub
from segtrain.models.names import EXPORTED, FOLDER_FILES
from segtrain.models.stored_weights import hash_stored_weights
from segtrain.models.tuning import Tuning
from segtrain.version import __version__

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from segtrain.models.segmentation import SegmentationModel

KEY = "segtrain"  # one key: with several the file's bytes would differ from save to save


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Meta:
    """Metadata of a checkpoint."""

    config: Config
    classes: Annotated[list[Annotated[str, Field(min_length=1)]], Field(min_length=2)]
    palette: list[Colour]
    mean: list[FiniteFloat]  # of 0..255 RGB
    std: list[Annotated[FiniteFloat, Field(gt=0)]]
    epoch: Annotated[int, Field(ge=0)]  # completed epochs
    # of the validation after them; None where there was none
    miou: Annotated[float, Field(ge=0, le=1)] | None
    # completed optimizer steps; None in files of older versions
    step: Annotated[int, Field(ge=0)] | None = None
    version: str = __version__
    tuning: Tuning | None = None

    @model_validator(mode="after")
    def _check_lengths(self) -> Meta:
        if len(self.palette) != len(self.classes):
            raise ValueError(
                f"palette has {len(self.palette)} colours for {len(self.classes)} classes"
            )
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes has a name twice")
        if self.tuning and len(self.tuning.biases) != len(self.classes):
            raise ValueError("tuning has other classes")
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.config.model.in_channels:
                channels = f"{self.config.model.in_channels} channels (config.model.in_channels)"
                raise ValueError(f"{name} has {len(values)} values for {channels}")
        return self

    @classmethod
    def of(cls, model: SegmentationModel, config: Config, **more: Any) -> Meta:
        """Return the metadata of a model; `more` are the other fields."""
        mean, std = (buffer.flatten().tolist() for buffer in (model.mean, model.std))
        return cls(config=config, mean=mean, std=std, **more)

    def config_here(self, sets: list[str], flags: dict[str, Any]) -> Config:
        """Return the training's config with a command's changes, for one device of this machine.

        The device is chosen again, and so is fp16 without a GPU, unless the command sets them.
        """
        trained = self.config.model_dump(mode="json")
        trained["train"] |= {"device": "auto", "devices": 1, "nodes": 1, "deterministic": False}
        if trained["train"]["precision"] == "fp16":
            import torch

            trained["train"]["precision"] = "fp16" if torch.cuda.is_available() else "auto"
        config = load_config(sets=sets, flags=flags, base=Config.model_validate(trained))
        if config.data.group_by != self.config.data.group_by:  # else other images are held out
            data = config.data.model_copy(update={"group_by": self.config.data.group_by})
            scored = config.eval.model_copy(update={"group_by": config.data.group_by})
            config = config.model_copy(update={"data": data, "eval": scored})
        return config


def format_meta(meta: Meta) -> str:
    """Return metadata as the JSON that `parse_meta` reads."""
    fields = asdict(meta) | {"config": meta.config.model_dump(mode="json")}
    if meta.tuning is None:  # nor can older versions read it
        del fields["tuning"]
    return json.dumps(fields)


def save_model(path: Path, model: SegmentationModel, meta: Meta) -> None:
    """Write weights and metadata to a .safetensors file, whole or not at all."""
    from safetensors.torch import save

    # safetensors refuses channels_last, and its save_file raises no OSError on a full disk
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_bytes(path, save(weights, {KEY: format_meta(meta)}))


def save_tuning(path: Path, meta: Meta, weights: str) -> None:
    """Write a checkpoint's metadata with another tuning beside the same tensors.

    weights: the hash of those in the file. Raise SegtrainError where the file has others by now.
    """
    from safetensors.torch import save

    if hash_stored_weights(path)[0] != weights:
        raise SegtrainError(f"{path}: a training has replaced it meanwhile; tune it again")
    with translate_errors(lambda error: _not_ours(path, error)), safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        metadata = file.metadata() | {KEY: format_meta(meta)}
    save_bytes(path, save(tensors, metadata))


def load_model(
    path: Path | str, device: torch.device | str = "cpu", tuned: bool = True
) -> tuple[SegmentationModel, Meta]:
    """Return a checkpoint's model, in evaluation mode, and its metadata. Raise SegtrainError.

    The model's logits are tuned where the checkpoint has a tuning, unless `tuned` is False.
    A folder that `segtrain export --format hf` wrote is taken as well, also hf://OWNER/NAME.
    """
    from segtrain.models.segmentation import build_model
    from segtrain.models.sizes import refuse_misfit
    from segtrain.models.undrawn import Undrawn

    path = Path(fetch_hub(str(path)))
    if path.suffix in EXPORTED:
        raise UsageError(f"{path}: exported already; load its run's checkpoint")
    if path.is_dir():
        path = path / FOLDER_FILES[0]
    meta, weights = read_checkpoint(path)
    refuse_misfit(path, meta.config.model, len(meta.classes), weights)
    try:
        with Undrawn():
            model = build_model(meta.config.model, len(meta.classes))
    except UsageError as error:  # the config is the file's, not the command's
        raise SegtrainError(f"{path}: {error}") from error

    def explain(error: Exception) -> str:
        problems = str(error).splitlines()[1:] or [first_line(error)]  # torch's first is a heading
        return f"{path}: its weights don't fit its config: {problems[0].strip()}"

    with translate_errors(explain):
        model.load_state_dict(weights)
    meta = meta if tuned else replace(meta, tuning=None)
    model.tuning = meta.tuning
    return model.to(device).eval(), meta


def is_checkpoint(path: Path) -> bool:
    """Return whether the file carries segtrain's metadata."""
    try:
        return _read_metadata(path) is not None
    except SegtrainError:
        return False


def read_meta(path: Path) -> Meta:
    """Return a checkpoint's metadata without reading its weights. Raise SegtrainError."""
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint")
    text = _read_metadata(path)
    if text is None:
        raise SegtrainError(f"{path}: not a segtrain checkpoint (its metadata has no {KEY!r})")
    return parse_meta(path, text)


def read_checkpoint(path: Path) -> tuple[Meta, dict[str, Tensor]]:
    """Return metadata and weights. Raise SegtrainError for any other file, and for NaN."""
    import torch

    from segtrain.models.weights import refuse_nonfinite

    meta = read_meta(path)
    with translate_errors(lambda error: _not_ours(path, error)), safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}
    refuse_nonfinite(path, weights)
    if "mean" not in weights:  # a hub's folder has the network alone, by smp's names
        _refuse_other_network(path.with_name("config.json"), meta)
        weights = {f"network.{name}": tensor for name, tensor in weights.items()}
        for name, values in (("mean", meta.mean), ("std", meta.std)):
            weights[name] = torch.tensor(values, dtype=torch.float32).view(1, -1, 1, 1)
    return meta, weights


def _refuse_other_network(path: Path, meta: Meta) -> None:
    """Raise SegtrainError where a hub's config.json is of another network than the weights."""
    from segtrain.models.encoders import ARCHITECTURES

    if not path.is_file():
        return
    with translate_errors(lambda error: f"{path}: cannot be read ({first_line(error)})"):
        said = json.loads(path.read_text(encoding="utf-8"))
        model = meta.config.model
        own = {
            "_model_class": ARCHITECTURES[model.arch].__name__,
            "encoder_name": model.encoder,
            "classes": len(meta.classes),
            "in_channels": model.in_channels,
        } | {key: value for key, value in model.options.items() if key in said}
        for key, value in own.items():
            if said[key] != value:
                raise SegtrainError(
                    f"{path}: {key} is {said[key]!r}, the weights beside it are of {value!r}"
                )


def _read_metadata(path: Path) -> str | None:
    """Return segtrain's metadata of a .safetensors file, None where it has none."""
    with translate_errors(lambda error: _not_ours(path, error)), safe_open(path, "np") as file:
        return (file.metadata() or {}).get(KEY)


def _not_ours(path: Path, error: Exception) -> str:
    hint = "" if path.suffix == ".safetensors" else "; a run's is checkpoints/best.safetensors"
    return f"{path}: not a segtrain checkpoint ({first_line(error)}){hint}"


def parse_meta(path: Path, text: str) -> Meta:
    """Return the metadata that a checkpoint holds as JSON. Raise SegtrainError."""

    def explain(error: Exception) -> str:
        problem = first_line(error)
        if isinstance(error, ValidationError):
            wrong = error.errors()[0]
            place = ".".join(map(str, wrong["loc"]))
            problem = f"{place}: {wrong['msg'].lower()}".removeprefix(": value error, ")
        return f"{path}: not a checkpoint of this segtrain: its metadata can't be read ({problem})"

    try:
        with translate_errors(explain):
            fields = json.loads(text)
            _keep_within_limits(fields["config"])
            fields["config"] = make_config(fields["config"], origin=str(path))
            return Meta(**fields)
    except UsageError as error:  # the config is the file's, not the command's
        raise SegtrainError(str(error)) from error


def _keep_within_limits(config: dict[str, Any]) -> None:
    """Change windows that older versions allowed to the nearest that are allowed now."""
    scored = config.get("eval", {})
    if isinstance(window := scored.get("window"), list):
        scored["window"] = [max(SMALLEST_WINDOW, side) for side in window]
    if "overlap" in scored:
        scored["overlap"] = min(LARGEST_OVERLAP, scored["overlap"])


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write the state to resume from: a dict of tensors and plain values."""
    import torch

    buffer = io.BytesIO()  # on a full disk torch.save raises no OSError, writing bytes does
    torch.save(state, buffer)
    save_bytes(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """Return the state that save_state wrote; no code in the file runs. Raise SegtrainError."""
    import torch

    if not path.exists():
        raise UsageError(f"{path}: no such file")

    def explain(problem: object) -> str:
        return f"{path}: not a resume state that can be read ({problem})"

    with translate_errors(lambda error: explain(first_line(error))):
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # torch writes checksums and never reads them
        if damaged:
            raise SegtrainError(f"{path}: damaged; the checksum of {damaged} in it is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict):
        raise SegtrainError(explain(f"expected a dict, found {type(state).__name__}"))
    return state
