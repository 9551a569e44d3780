"""Checkpoints: weights with all that prediction needs, and the state to resume from.

NAME.safetensors holds the weights, and as JSON in its metadata all that prediction needs; loading
it runs no code and asks no network. last.state.pt is for resuming alone.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from segtrain.config import Config
from segtrain.config.loading import load_config, make_config
from segtrain.errors import UNREADABLE, SegtrainError, UsageError, first_line
from segtrain.files import write_bytes
from segtrain.models.segmentation import SegmentationModel, build_model
from segtrain.version import __version__

KEY = "segtrain"  # one key: with several the file's bytes would differ from save to save


@dataclass(frozen=True)
class Meta:
    """What a checkpoint says of itself."""

    config: Config
    classes: list[str]
    palette: list[tuple[int, int, int]]
    mean: list[float]  # of 0..255 RGB
    std: list[float]
    epoch: int  # epochs done
    miou: float | None  # of the validation after them; None where there was none
    step: int | None = None  # optimiser steps done; None in files from before it was noted
    version: str = __version__

    @classmethod
    def of(cls, model: SegmentationModel, config: Config, **more: Any) -> Meta:
        mean, std = (buffer.flatten().tolist() for buffer in (model.mean, model.std))
        classes = config.data.classes
        assert classes is not None  # known before there is a model
        return cls(config=config, classes=classes, mean=mean, std=std, **more)

    def config_here(self, path: Path, sets: list[str], flags: dict[str, Any]) -> Config:
        """The training's config with a command's changes, for one device of this machine.

        The device is this machine's, and a precision that it has not becomes 32; what the command
        asks for stands. Raises SegtrainError where the classes contradict the checkpoint.
        """
        trained = self.config.model_dump(mode="json")
        trained["train"] |= {"device": "auto", "devices": 1, "nodes": 1, "deterministic": False}
        if flags.get("data.path"):  # another folder has a layout and faults of its own
            trained["data"] |= {"format": "auto", "exclude": []}
        if trained["train"]["precision"] == "fp16" and not torch.cuda.is_available():
            trained["train"]["precision"] = "32"
        config = load_config(sets=sets, flags=flags, base=Config.model_validate(trained))
        asked = config.data.classes or []
        if len(asked) != len(self.classes):
            raise SegtrainError(
                f"data.classes names {len(asked)} classes, but {path} has {len(self.classes)}: "
                f"{', '.join(self.classes)}"
            )
        return config


def save_model(path: Path, model: SegmentationModel, meta: Meta) -> None:
    text = json.dumps(asdict(meta) | {"config": meta.config.model_dump(mode="json")})
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(path, save(weights, {KEY: text}))


def load_model(
    path: Path | str, device: torch.device | str = "cpu"
) -> tuple[SegmentationModel, Meta]:
    """The model of a checkpoint, in evaluation mode, and what the checkpoint says of itself."""
    meta, weights = read_checkpoint(Path(path))
    model = build_model(meta.config.model, len(meta.classes))
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise SegtrainError(
            f"{path}: its weights don't fit its config: {lines[1].strip()}"
        ) from error
    return model.to(device).eval(), meta


def is_checkpoint(path: Path) -> bool:
    """Whether the file carries segtrain's metadata."""
    try:
        with safe_open(path, "pt") as file:
            return KEY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def read_meta(path: Path) -> Meta:
    """What a checkpoint says of itself; its weights stay on the disk. Raises SegtrainError."""
    if not path.is_file():
        raise UsageError(f"{path}: no such checkpoint")
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
    except (SafetensorError, OSError) as error:
        hint = "" if path.suffix == ".safetensors" else "; a run's is checkpoints/best.safetensors"
        raise SegtrainError(f"{path}: not a segtrain checkpoint ({error}){hint}") from error
    if text is None:
        raise SegtrainError(f"{path}: not a segtrain checkpoint (its metadata has no {KEY!r})")
    return parse_meta(path, text)


def read_checkpoint(path: Path) -> tuple[Meta, dict[str, Tensor]]:
    """Metadata and weights. Raises SegtrainError for a file that is no segtrain checkpoint."""
    meta = read_meta(path)
    try:
        with safe_open(path, "pt") as file:
            return meta, {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as error:
        raise SegtrainError(f"{path}: not a segtrain checkpoint ({error})") from error


def parse_meta(path: Path, text: str) -> Meta:
    try:
        fields = json.loads(text)
        fields["config"] = make_config(fields["config"], origin=str(path))
        fields["palette"] = [tuple(colour) for colour in fields["palette"]]
        return Meta(**fields)
    except UsageError as error:  # the config is not this command's but the file's
        raise SegtrainError(str(error)) from error
    except (ValueError, KeyError, TypeError) as error:
        raise SegtrainError(
            f"{path}: not a checkpoint of this segtrain: its metadata can't be read "
            f"({first_line(error)})"
        ) from error


def save_state(path: Path, state: dict[str, Any]) -> None:
    buffer = io.BytesIO()  # torch.save to a full disk raises no OSError; the write of bytes does
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())


def load_state(path: Path) -> dict[str, Any]:
    """What save_state wrote; loads tensors and plain values only. Raises SegtrainError."""
    try:
        with zipfile.ZipFile(path) as file:
            damaged = file.testzip()  # torch writes checksums and never reads them
        if damaged:
            raise SegtrainError(f"{path}: damaged; the checksum of {damaged} in it is wrong")
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except (zipfile.BadZipFile, *UNREADABLE) as error:
        raise SegtrainError(
            f"{path}: not a resume state that can be read ({first_line(error)})"
        ) from error
