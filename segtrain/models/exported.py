"""Files that segtrain export writes: their formats and metadata, read without torch.

Those of torch.export are not read: torch runs code that such a file may hold.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.dataclasses import dataclass

from segtrain.errors import SegtrainError, UsageError, first_line, translate_errors
from segtrain.models.checkpoint import KEY, Meta, parse_meta

CARD = "segtrain_export"  # key of the metadata on the export itself
OUTPUTS = ("ids", "confidence", "probs", "logits")  # what a file may give of each pixel
SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "pt2": ".pt2"}
FORMATS = {".onnx": "ONNX", ".xml": "OpenVINO"}  # that are read


@dataclass(frozen=True)
class ExportCard:
    """Metadata of an export that reading its file takes; it has more."""

    padding: tuple[int, int]  # least side and step, in pixels
    one_size: bool  # images padded to the least side alone
    bin: str | None = None  # SHA-256 of OpenVINO's weights


def is_exported(path: Path) -> bool:
    """Return whether a file is named as one of segtrain export that can be read."""
    return path.suffix in FORMATS


def refuse_pt2(path: Path) -> None:
    """Raise UsageError for a file of torch.export."""
    if path.suffix == SUFFIXES["pt2"]:
        raise UsageError(
            f"{path}: torch runs code that files of torch.export may hold, so they are not read; "
            "name the run, or export it to onnx or openvino"
        )


def load_package(name: str) -> Any:
    """Import a package of the extra for export. Raise UsageError where it is missing."""
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        raise UsageError(
            f"{package} is not installed; pip install 'segtrain-cli[export]' installs it"
        ) from error


def read_exported(path: Path) -> tuple[Meta, ExportCard]:
    """Return the network's metadata in a file, and those of the export. Raise SegtrainError."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    name = FORMATS[path.suffix]
    weights = path.with_suffix(".bin")
    if path.suffix == ".xml" and not weights.is_file():
        raise UsageError(f"{path}: {weights.name} beside it, with its weights, is missing")
    with translate_errors(lambda error: f"{path}: no file of {name} ({find_reason(error)})"):
        texts = READERS[path.suffix](path)
    if KEY not in texts or CARD not in texts:
        raise SegtrainError(
            f"{path}: segtrain export didn't write it (its metadata has no {KEY!r}), so its "
            "classes and normalisation are not known"
        )
    with translate_errors(lambda error: f"{path}: its metadata is damaged ({first_line(error)})"):
        card = TypeAdapter(ExportCard).validate_json(texts[CARD])
    if card.bin and card.bin != hash_content(weights):
        raise SegtrainError(f"{path}: {weights.name} beside it is of another export")
    return parse_meta(path, texts[KEY]), card


def find_reason(error: Exception) -> str:
    """Return an error's reason; OpenVINO's first lines are places in its source."""
    places = ("Exception from", "Check ")
    lines = [line for line in str(error).splitlines() if not line.startswith(places)]
    return first_line(type(error)("\n".join(lines)) if lines else error)


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


READERS = {".onnx": _read_onnx, ".xml": _read_openvino}
