"""Files that segtrain export writes: their formats and metadata, read without torch."""

from __future__ import annotations

import hashlib
import json
import zipfile
from importlib import import_module
from pathlib import Path
from typing import Any

from segtrain.errors import SegtrainError, UsageError, first_line, translate_errors
from segtrain.models.checkpoint import KEY, Meta, parse_meta

CARD = "segtrain_export"  # key of the metadata on the export itself
OUTPUTS = ("ids", "confidence", "probs", "logits")  # what a file may give of each pixel
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
FORMATS = {suffix: name for name, suffix in SUFFIXES.items()}


def is_exported(path: Path) -> bool:
    """Return whether a file is named as one that segtrain export writes."""
    return path.suffix in FORMATS


def load_package(name: str) -> Any:
    """Import a package of the extra for export. Raise UsageError where it is missing."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise UsageError(
            f"{package} is not installed; pip install 'segtrain-cli[export]' installs it"
        ) from error


def read_exported(path: Path) -> tuple[Meta, dict[str, Any]]:
    """Return the network's metadata in a file, and those of the export. Raise SegtrainError."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    name = FORMATS[path.suffix]
    with translate_errors(lambda error: f"{path}: no file of {name} ({first_line(error)})"):
        texts = READERS[name](path)
    if KEY not in texts or CARD not in texts:
        raise SegtrainError(
            f"{path}: segtrain export didn't write it (its metadata has no {KEY!r}), so its "
            "classes and normalisation are not known"
        )
    with translate_errors(lambda error: f"{path}: its metadata is damaged ({first_line(error)})"):
        card: dict[str, Any] = json.loads(texts[CARD])
    weights = path.with_suffix(".bin")
    if "bin" in card and card["bin"] != hash_content(weights):
        raise SegtrainError(f"{path}: {weights.name} beside it is of another export")
    return parse_meta(path, texts[KEY]), card


def hash_content(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_onnx(path: Path) -> dict[str, str]:
    proto = load_package("onnx").load(path, load_external_data=False)
    return {entry.key: entry.value for entry in proto.metadata_props}


def _read_openvino(path: Path) -> dict[str, str]:
    model = load_package("openvino").Core().read_model(path)
    return {key: model.get_rt_info(key).astype(str) for key in (KEY, CARD) if key in model.rt_info}


def _read_pt2(path: Path) -> dict[str, str]:
    with zipfile.ZipFile(path) as file:
        names = {Path(name).name: name for name in file.namelist() if "/extra/" in f"/{name}"}
        return {key: file.read(names[key]).decode() for key in (KEY, CARD) if key in names}


READERS = {"onnx": _read_onnx, "openvino": _read_openvino, "pt2": _read_pt2}
