"""Write segtrain/models/names.json: python tests/models/write_names.py."""

from __future__ import annotations

import json
from pathlib import Path

import segmentation_models_pytorch as smp
import timm

import segtrain

FILE = Path(segtrain.__file__).parent / "models/names.json"


def installed_names() -> dict[str, list[str]]:
    """Return the names that the installed libraries list, by kind."""
    return {
        "architectures": list(smp.MODEL_ARCHITECTURES_MAPPING),
        "encoders": smp.encoders.get_encoder_names(),
        "timm": timm.list_models(),
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(installed_names(), indent=0) + "\n")
