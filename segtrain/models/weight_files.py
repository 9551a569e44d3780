"""Weights files and folders as other programs write them, read as one dict of tensors."""

from __future__ import annotations

import json
from collections import OrderedDict
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from segtrain.errors import SegtrainError, first_line, shorten, translate_errors
from segtrain.models.names import FOLDER_FILES
from segtrain.models.weights import refuse_nonfinite

PARTS = ("state_dict", "model_state_dict", "model", "net")  # in this order, after averaged weights
NO_TENSORS = "not a checkpoint (expected a dict of tensors)"


@dataclass(frozen=True)
class TensorFile:
    """Named tensors of a file, and what it says of them."""

    path: Path
    tensors: dict[str, Tensor]
    part: str = ""  # key of the tensors in the file, where it has several parts
    settings: dict[str, Any] = field(default_factory=dict)  # config.json's pretrained_cfg, flat


def find_weights(path: Path) -> Path:
    """Return the file of weights that a path names: itself, or that in a hub's folder."""
    files = [path, *(path / name for name in FOLDER_FILES)]
    return next((file for file in files if file.is_file()), path)


def read_tensors(path: Path) -> TensorFile:
    """Read a file of weights; no code in it runs.

    Of a training's checkpoint, take exponential moving averages before other weights. Raise
    SegtrainError where no part holds tensors, several may be meant, or values are not finite.
    """
    with name_file(path):
        content = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    part, tensors = _choose_part(path, content)
    refuse_nonfinite(path, tensors)
    return TensorFile(path, tensors, part, _read_settings(path))


def name_file(path: Path) -> AbstractContextManager[None]:
    """Return a context that names the file in any error of reading or loading its tensors."""
    return translate_errors(
        lambda error: f"{path}: not a checkpoint that can be read ({first_line(error)})"
    )


class UnreadObject:
    """Object of a pickled class, whose code is neither imported nor run: a number of NumPy's."""

    def __init__(self, *_: Any):
        pass

    def __setstate__(self, _: Any) -> None:
        pass


class UnreadDict:
    """Pickled object of another class: a training's settings, or its history.

    torch fills in items or attributes of nothing but an OrderedDict, so it becomes one.
    """

    def __new__(cls, *_: Any) -> Any:
        return OrderedDict()


def _unpickle(path: Path) -> Any:
    """Return what torch.save wrote, without objects of other classes; no code in it runs."""
    names = list_classes(path)
    unread: list[Any] = [
        (UnreadObject if name.startswith("numpy") else UnreadDict, name) for name in names
    ]
    with torch.serialization.safe_globals(unread):
        return torch.load(path, map_location="cpu", weights_only=True)


def list_classes(path: Path) -> list[str]:
    """Return the names of classes that a file has pickled objects of, besides torch's own."""
    names: list[str] = []
    # none of the format before torch 1.6, or of no checkpoint, as torch.load tells
    with suppress(SegtrainError), translate_errors(first_line):
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    return sorted(names)


def _choose_part(path: Path, content: Any) -> tuple[str, dict[str, Tensor]]:
    """Return the key and the tensors of the part of a file that holds its weights."""
    items = content.items() if isinstance(content, dict) else ()
    parts = {key: tensors for key, value in items if (tensors := _tensors_of(value))}
    if not parts:
        if tensors := _tensors_of(content):
            return "", tensors
        raise SegtrainError(f"{path}: {NO_TENSORS}{_explain_pickle(path)}")
    averaged = [key for key in parts if "ema" in str(key).lower().split("_")]
    found = [
        *averaged,
        *(key for key in PARTS if key in parts),
        *(parts if len(parts) == 1 else ()),
    ]
    if not found:
        raise SegtrainError(
            f"{path}: it has tensors under {shorten(parts, 9)}; save those to use as a file of "
            "their own"
        )
    return (str(found[0]) if len(parts) > 1 else ""), parts[found[0]]


def _explain_pickle(path: Path) -> str:
    """Return which objects a file has instead of tensors, '' for none."""
    # torch's own first: the class of the whole is another, unless it is one of torch's
    names = sorted(list_classes(path), key=lambda name: not name.startswith("torch."))
    return f"; it has a pickled {names[-1]}: save its state_dict() instead" if names else ""


def _tensors_of(value: Any) -> dict[str, Tensor]:
    """Return the named tensors directly in a dict; none for other objects."""
    items = value.items() if isinstance(value, dict) else ()
    return {key: v for key, v in items if isinstance(key, str) and isinstance(v, Tensor)}


def _read_settings(file: Path) -> dict[str, Any]:
    """Return what a hub's config.json beside the file says of its weights, as timm has it."""
    config = file.with_name("config.json")
    if file.name not in FOLDER_FILES or not config.is_file():
        return {}
    with translate_errors(lambda error: f"{config}: cannot be read ({first_line(error)})"):
        content = json.loads(config.read_text(encoding="utf-8"))
    content = content if isinstance(content, dict) else {}
    found = content.get("pretrained_cfg", content)
    known = {"architecture": content.get("architecture")}
    return (known | found) if isinstance(found, dict) else known
