"""Write segtrain/models/{names,sizes}.json: python tests/models/write_names.py."""

from __future__ import annotations

import json
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch

import segtrain
from segtrain.models.matching import count_elements

FILE = Path(segtrain.__file__).parent / "models/names.json"
SIZES = FILE.with_name("sizes.json")


def installed_names() -> dict[str, list[str]]:
    """Return the names that the installed libraries list, by kind."""
    return {
        "architectures": list(smp.MODEL_ARCHITECTURES_MAPPING),
        "encoders": smp.encoders.get_encoder_names(),
        "timm": timm.list_models(),
    }


def count_own(name: str) -> int:
    """Return count_elements of one of timm's networks, by its own name of its classifier."""
    try:
        with torch.device("meta"):
            network = timm.create_model(name)
    except Exception:  # a few compute values as they are built
        network = timm.create_model(name)
    heads = network.pretrained_cfg.get("classifier") or ()
    heads = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
    tensors = network.state_dict()
    return count_elements({k: t for k, t in tensors.items() if not k.startswith(heads)})


if __name__ == "__main__":
    FILE.write_text(json.dumps(installed_names(), indent=0) + "\n")
    sizes = {name: count_own(name) for name in timm.list_models()}
    SIZES.write_text(json.dumps(sizes, indent=0) + "\n")
