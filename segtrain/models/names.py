"""Names of architectures, encoders and weights, checked without importing torch.

Each name is looked for in names.json, then in the source of the installed libraries: whatever has
it there is left to the libraries themselves, which `build_model` asks.
"""

from __future__ import annotations

import json
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from segtrain.config import Config
from segtrain.console import Note, note_choice
from segtrain.errors import UsageError, did_you_mean, match_choice

SMP, TIMM = "segmentation_models_pytorch", "timm"
UNIVERSAL = "tu-"  # smp's prefix of timm's names
OF_TIMM = "timm-"  # that of smp's own copies of timm's encoders, most of which it has dropped
EXPORTED = (".onnx", ".xml", ".pt2")  # files of other programs
FOLDER_FILES = ("model.safetensors", "pytorch_model.bin")  # weights in a hub's folder


@cache
def stored_names() -> dict[str, list[str]]:
    """Return names by kind (architectures, encoders, timm) of the libraries at the last release.

    tests/models/test_names.py writes them.
    """
    return json.loads(Path(__file__).with_name("names.json").read_text(encoding="utf-8"))


@cache
def stored_sizes() -> dict[str, int]:
    """Return the number of elements of all filters and matrices of timm's networks by name.

    Without classifiers; tests/models/write_names.py writes them.
    """
    return json.loads(Path(__file__).with_name("sizes.json").read_text(encoding="utf-8"))


def take_names(config: Config) -> tuple[Config, list[Note]]:
    """Return a config with the names that its architecture and encoder spell, and notes on them."""
    names = stored_names()
    encoders = [*names["encoders"], *(UNIVERSAL + name for name in names["timm"])]
    arch, encoder = config.model.arch, config.model.encoder
    taken = {
        "arch": match_choice(arch, names["architectures"]) or arch,
        "encoder": match_choice(encoder, encoders) or encoder,
    }
    notes = [
        note_choice(given, taken[field])
        for field, given in (("arch", arch), ("encoder", encoder))
        if given != taken[field]
    ]
    return config.model_copy(update={"model": config.model.model_copy(update=taken)}), notes


def check_names(arch: str, encoder: str) -> None:
    """Raise UsageError for an architecture or encoder that no library can have."""
    names = stored_names()
    # smp's architectures are named as their classes
    if arch not in names["architectures"] and not _is_in_source(SMP, "class (?i:", arch, r")\("):
        raise unknown_architecture(arch, names["architectures"])
    library, kind, name = SMP, "encoders", encoder
    if encoder.startswith(UNIVERSAL):  # a tag of weights may follow
        library, kind, name = TIMM, "timm", encoder.removeprefix(UNIVERSAL).split(".")[0]
    # an encoder is a function, or a key of a dict
    if name not in names[kind] and not _is_in_source(library, """(def |["'])""", name, """["'(]"""):
        raise unknown_encoder(encoder, names[kind])


def unknown_architecture(arch: str, known: list[str]) -> UsageError:
    """Return the error for an architecture that is not among the known ones."""
    return UsageError(
        f"model.arch: there is no {arch!r}{did_you_mean(arch, known)}; "
        f"architectures are {', '.join(known)}"
    )


def unknown_encoder(encoder: str, known: list[str]) -> UsageError:
    """Return the error for an encoder; `known` are smp's, or timm's without their prefix."""
    if encoder.startswith(UNIVERSAL):
        known = [UNIVERSAL + name for name in known]
    near, name = did_you_mean(encoder, known), encoder.removeprefix(OF_TIMM)
    if encoder.startswith(OF_TIMM) and name in stored_names()["timm"]:
        near = f"; did you mean {UNIVERSAL}{name}?"
    return UsageError(
        f"model.encoder: there is no {encoder!r}{near}; encoders are those of "
        f"segmentation-models-pytorch and, as {UNIVERSAL}NAME, of timm"
    )


def refuse_missing_weights(weights: str) -> None:
    """Raise UsageError where model.weights names neither a file nor a folder with one."""
    path = Path(weights)
    if path.suffix in EXPORTED:
        raise UsageError(f"model.weights {weights}: exported already; name its run or checkpoint")
    if weights in ("auto", "imagenet", "none") or path.is_file():
        return
    fault = "no such file"
    if path.is_dir():
        if any((path / name).is_file() for name in FOLDER_FILES):
            return
        fault = (
            f"a folder without {' or '.join(FOLDER_FILES)}; that of a run has a file "
            "checkpoints/best.safetensors"
        )
    raise UsageError(f"model.weights {weights}: {fault}; use auto, imagenet, none or a file")


def _is_in_source(library: str, before: str, name: str, after: str) -> bool:
    """Return whether an installed library's source has the name between two patterns."""
    spec = find_spec(library)  # imports nothing
    if spec is None or spec.origin is None:
        return True  # it is not there to be read
    if not re.fullmatch(r"[\w-]+", name):
        return False
    pattern = re.compile(f"{before}{name}{after}")
    files = Path(spec.origin).parent.rglob("*.py")
    return any(pattern.search(file.read_text("utf-8", "replace")) for file in files)
