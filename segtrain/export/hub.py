"""Folders as the Hugging Face Hub has them, which plain smp and albumentations load."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import torch
from safetensors.torch import save

from segtrain.console import format_score, safe
from segtrain.errors import first_line, translate_errors
from segtrain.export.formats import Network, Write, surround
from segtrain.files.whole import save_bytes, save_json, save_text
from segtrain.models.checkpoint import Meta
from segtrain.models.exported import CARD
from segtrain.models.segmentation import SegmentationModel, create_network

WEIGHTS, CONFIG, PREPROCESSING = (
    "model.safetensors",
    "config.json",
    "albumentations_config_eval.json",
)
MODEL_CARD = "README.md"
MARK = "<!-- segtrain export wrote this card, and writes it again while it is unchanged: "
HUB_FILES = {WEIGHTS, CONFIG, PREPROCESSING, MODEL_CARD}


def write_hub(model: SegmentationModel, meta: Meta, scores: dict[str, Any] | None) -> Write:
    """Return what writes a folder of the hub; `scores` is the content of a metrics.json."""
    network = create_network(meta.config.model, len(meta.classes))
    network.load_state_dict(model.network.state_dict())

    def write(folder: Path, texts: dict[str, str]) -> None:
        for name in (CONFIG, MODEL_CARD):  # of an earlier call: the library keeps them
            (folder / name).unlink(missing_ok=True)
        with translate_errors(lambda error: f"cannot write {folder}: {first_line(error)}"):
            network.save_pretrained(folder)
            describe_preprocessing(model).save_pretrained(folder)
            _drop_unread(folder / PREPROCESSING)
        weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
        save_bytes(folder / WEIGHTS, save(weights, texts | {"format": "pt"}))
        save_text(folder / MODEL_CARD, format_card(meta, json.loads(texts[CARD]), scores))

    return write


def _drop_unread(path: Path) -> None:
    """Remove the field that albumentations writes of PadIfNeeded and warns of as it reads it."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for step in content["transform"]["transforms"]:
        step.pop("padding", None)
    save_json(path, content)


def describe_preprocessing(model: SegmentationModel) -> Any:
    """Return what a model does with an image before its network, as a transform."""
    import albumentations as A  # with scipy, half a second: not for other formats
    from albumentations.pytorch import ToTensorV2

    least, step = model.padding
    mean, std = ((values.flatten() / 255).tolist() for values in (model.mean, model.std))
    corner = {"position": "top_left", "border_mode": 0, "fill": 0}
    steps: list[Any] = [A.Normalize(mean, std)]  # first: padding is 0 there, not in the image
    if least > step:
        steps.append(A.PadIfNeeded(least, least, **corner))
    divisors = {"pad_height_divisor": step, "pad_width_divisor": step}
    steps.append(A.PadIfNeeded(None, None, **divisors, **corner))
    return A.Compose([*steps, ToTensorV2()])


def load_hub(folder: Path, model: SegmentationModel) -> Network:
    """Return the network of a folder as plain smp loads it, behind the model's preprocessing."""
    with redirect_stdout(None):  # the library says that it loads
        network = smp.from_pretrained(folder).eval()
    return surround(network, model, torch.float32)


def format_card(meta: Meta, card: dict[str, Any], scores: dict[str, Any] | None) -> str:
    """Return the model card: what the network is, its scores, and how to use it."""
    config, proof = meta.config, card["proof"]
    name = f"{config.model.arch} on {config.model.encoder}"
    headline = f"mIoU {format_score(meta.miou)} on the validation split during the training"
    table = ""
    if scores:
        headline = scores["headline"]
        rows = []
        for row in scores["classes"]:
            cells = escape_markdown(row["name"]), *map(format_score, (row["iou"], row["dice"]))
            rows.append(f"| {' | '.join(cells)} |")
        table = "\n".join(["", "| class | IoU | Dice |", "| --- | --- | --- |", *rows, ""])
    checked = "It was not compared with the trained network on images."
    if isinstance(proof, dict):
        checked = (
            f"On {proof['images']} images its logits differ from the trained network's by at most "
            f"{proof['logit_difference']:.1e} of the largest."
        )
    if meta.tuning:
        checked += (
            "\n- Tuned on its validation split: `segtrain.load` returns (logits + biases) / "
            f"temperature, smp the logits alone, with {escape_markdown(meta.tuning.describe())}."
        )
    text = CARD_TEXT.format(
        name=name,
        data=escape_markdown(Path(str(config.data.path)).name),
        epochs=meta.epoch,
        loss=config.loss.expression,
        headline=headline,
        table=table,
        checked=checked,
        classes=", ".join(map(escape_markdown, meta.classes)),
        channels=config.model.in_channels,
        kind="RGB" if config.model.in_channels == 3 else f"{config.model.in_channels}-channel",
    )
    return f"{text}{MARK}{_mark(text)}\n"


def is_edited(path: Path) -> bool:
    """Return whether a model card is not, or no longer, as segtrain wrote it."""
    if not path.is_file():
        return False
    text, _, mark = path.read_text("utf-8", "replace").rpartition(MARK)
    return mark.strip() != _mark(text)


def _mark(text: str) -> str:
    digest = hashlib.sha256(text.encode(errors="backslashreplace"))  # as save_text has it
    return f"{digest.hexdigest()[:16]} -->"


def escape_markdown(text: str) -> str:
    """Return a text as Markdown that shows it."""
    return re.sub(r"([\\`*_\[\]<>|#&])", r"\\\1", safe(text))


CARD_TEXT = """---
library_name: segmentation-models-pytorch
pipeline_tag: image-segmentation
license: other
tags: [semantic-segmentation, segtrain, segmentation-models-pytorch, pytorch]
---
# {name}

Semantic segmentation of {kind} images into: {classes}.

- Trained on {data} for {epochs} epochs with the loss `{loss}`.
- {headline}.
- {checked}
- Licence: not chosen yet; set `license` above before you publish.
- Intended for images like those of its training; on others, score it first.
{table}
```python
import segtrain  # normalises, pads and crops by itself: uint8 {kind} (N,{channels},H,W) -> logits
model, meta = segtrain.load("model.safetensors")
```

```python
import albumentations as A, segmentation_models_pytorch as smp
network, prepare = smp.from_pretrained(".").eval(), A.Compose.from_pretrained(".")
padded = prepare(image=image)["image"][None]  # of an image (H,W,{channels}) of uint8
logits = network(padded)[..., :height, :width]
```
"""
