"""Weights files and folders as other programs write them, read as one dict of tensors."""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from segtrain.errors import SegtrainError, first_line, shorten, translate_errors
from segtrain.models.names import FOLDER_FILES, UNIVERSAL
from segtrain.models.weights import refuse_nonfinite

PARTS = ("state_dict", "model_state_dict", "model", "net")  # in this order, after averaged weights
NO_TENSORS = "not a checkpoint (expected a dict of tensors)"


@dataclass(frozen=True)
class TensorFile:
    """Named tensors of a file, and what it says of them."""

    path: Path
    tensors: dict[str, Tensor]
    part: str = ""  # key of the tensors in the file, where it has several parts
    settings: dict[str, Any] = field(default_factory=dict)  # timm's of the weights: mean, std, ...
    network: dict[str, Any] = field(default_factory=dict)  # fields of config.model, as far as said


def find_weights(path: Path) -> Path:
    """Return the file of weights that a path names: itself, or that in a hub's folder."""
    files = [path, *(path / name for name in FOLDER_FILES)]
    return next((file for file in files if file.is_file()), path)


def read_tensors(path: Path) -> TensorFile:
    """Read a file of weights; no code in it runs.

    Of a training's checkpoint, take exponential moving averages before other weights. Raise
    SegtrainError where no part holds tensors, several may be meant, or values are not finite.
    """
    with name_file(path), path.open("rb") as file:
        head = file.read(9)
    if head.startswith(b"{"):
        raise SegtrainError(f"{path}: JSON, not weights; where they are in several files, save one")
    with name_file(path):
        is_safe = path.suffix == ".safetensors" or head.endswith(b"{")  # after a length of 8 bytes
        content = load_file(path) if is_safe else _unpickle(path)
    part, tensors = _choose_part(path, content)
    # networks are float32, which may not hold a value of float64
    tensors = {k: t.float() if t.dtype == torch.float64 else t for k, t in tensors.items()}
    refuse_nonfinite(path, tensors)
    return TensorFile(path, tensors, part, *_read_config(path))


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
    parts = _list_parts(content)
    if not parts:
        raise SegtrainError(f"{path}: {NO_TENSORS}{_explain_pickle(path)}")
    largest = max(map(len, parts.values()))
    parts = {key: tensors for key, tensors in parts.items() if 2 * len(tensors) >= largest}
    averaged = [key for key in parts if _is_averaged(key)]
    named = [key for key in ("", *PARTS) if key in parts]
    found = [*averaged, *named, *(parts if len(parts) == 1 else ())]
    if not found:
        raise SegtrainError(
            f"{path}: it has tensors under {shorten(parts, 9)}; save those to use as a file of "
            "their own"
        )
    return (found[0] if len(parts) > 1 else ""), parts[found[0]]


def _list_parts(content: Any) -> dict[str, dict[str, Tensor]]:
    """Return the named tensors of a file by their key in it, '' for those that have none.

    Averaged weights may be a part of the names: model_ema.conv1.weight.
    """
    flat, parts = _tensors_of(content), {}
    for key in dict.fromkeys(name.partition(".")[0] for name in flat):
        if _is_averaged(key):
            own = {name for name in flat if name.startswith(f"{key}.")}
            parts[key] = {name.removeprefix(f"{key}."): flat[name] for name in own}
            flat = {name: tensor for name, tensor in flat.items() if name not in own}
    items = content.items() if isinstance(content, dict) else ()
    for key, value in items:
        inner = value if isinstance(value, dict) else {}
        nested = [inner.get(name) for name in (*PARTS, "module")]
        found = [tensors for part in (value, *nested) if (tensors := _tensors_of(part))]
        if found:
            parts[str(key)] = max(found, key=len)
    return parts | ({"": flat} if flat else {})


def _is_averaged(key: str) -> bool:
    """Return whether a key names an exponential moving average: ema, model_ema or modelEMA."""
    return "ema" in re.sub(r"([a-z])([A-Z])", r"\1_\2", key).lower().split("_")


def _explain_pickle(path: Path) -> str:
    """Return which objects a file has instead of tensors, '' for none."""
    # torch's own first: the class of the whole is another, unless it is one of torch's
    names = sorted(list_classes(path), key=lambda name: not name.startswith("torch."))
    return f"; it has a pickled {names[-1]}: save its state_dict() instead" if names else ""


def _tensors_of(value: Any) -> dict[str, Tensor]:
    """Return the named tensors directly in a dict; none for other objects."""
    items = value.items() if isinstance(value, dict) else ()
    return {key: v for key, v in items if isinstance(key, str) and isinstance(v, Tensor)}


def _read_config(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a hub's config.json beside the file says of its weights, and of their network."""
    path = file.with_name("config.json")
    if file.name not in FOLDER_FILES or not path.is_file():
        return {}, {}
    with translate_errors(lambda error: f"{path}: cannot be read ({first_line(error)})"):
        content = json.loads(path.read_text(encoding="utf-8"))
    content = content if isinstance(content, dict) else {}
    if isinstance(content.get("encoder_name"), str):  # smp's: the arguments of an architecture
        arch = str(content.pop("_model_class", "")).lower()
        return {}, {"arch": arch, "encoder": content.pop("encoder_name"), "options": content}
    settings = content.get("pretrained_cfg", content)
    settings = settings if isinstance(settings, dict) else {}
    for name in ("mean", "std"):
        refuse_wrong_statistics(path, name, settings.get(name, [1.0]))
    if (space := settings.get("input_space", "RGB")) != "RGB":
        raise SegtrainError(f"{path}: its weights are for {space} images")
    arguments = content.get("model_args")
    network: dict[str, Any] = {"encoder_options": arguments if isinstance(arguments, dict) else {}}
    if isinstance(architecture := content.get("architecture"), str):
        network["encoder"] = UNIVERSAL + architecture
    return settings, network


def refuse_wrong_statistics(path: Path, name: str, values: Any) -> None:
    """Raise SegtrainError where a mean or std is not a list of numbers of 0..1, as timm has it."""
    numbers = isinstance(values, list) and {type(value) for value in values} <= {int, float}
    if not numbers or not all(0 <= v <= 1 for v in values) or (name == "std" and 0 in values):
        raise SegtrainError(f"{path}: {name} {values} is not a number of 0..1 for each channel")
