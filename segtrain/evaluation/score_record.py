"""Record of what was scored and how, in metrics.json: scores are compared by it."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from segtrain.config import Config
from segtrain.config.addresses import is_remote
from segtrain.config.loading import compare_configs, load_config, make_config
from segtrain.data.findings import yaml_line
from segtrain.errors import SegtrainError, first_line, translate_errors
from segtrain.models.checkpoint import KEY
from segtrain.models.stored_weights import hash_stored_weights
from segtrain.models.tuning import Tuning
from segtrain.runs.folder import BEST, CONFIG, find_run_of

SCORED = "scored"  # the record's key in metrics.json
MIOU_DIGITS = 0.005  # another device or precision changes less
WINDOWS = ("max_pixels", "window", "overlap")
# fields of the config that change no score, by section
WITHOUT_EFFECT = {
    "eval": {"every", "worst", "best"},
    "data": {
        *("workers", "cache", "cache_gb", "sampler", "rare_share", "rare_classes"),
        *("allow_outside", "max_pixels"),
    },
}
OTHER_FIELDS = {("train", "precision"), ("predict", "tuned")}  # of other sections, that change some


class ScoreRecord(BaseModel):
    """A score's origin: weights or another tool's masks, true masks, and settings."""

    model_config = ConfigDict(frozen=True)

    weights: str | None  # hash over the tensors; None where masks were scored
    predictions: str | None  # digest of masks that were scored
    checkpoint: str | None
    epoch: int | None
    step: int | None
    data: str  # path, or demo
    split: str
    truth: str  # digest of the true class ids, whatever the format of their files
    eval: dict[str, Any]
    windows: bool  # True where an image was large enough for sliding windows
    value_range: tuple[float, float] | None
    upright: bool
    precision: str
    device: str
    tuned: str | None = None  # biases and temperature of the logits
    changes: list[str] = []  # what makes it another score than the run's own

    @property
    def short_hash(self) -> str:
        """Eight hexadecimal digits that tell this score from all others."""
        # as the weights say, or free to choose
        free = {"checkpoint", "epoch", "step", "device", "changes"}
        facts = self.model_dump(mode="json", exclude=free)
        if self.tuned is None:  # as in records of older versions
            del facts["tuned"]
        facts["eval"] = {k: v for k, v in self.eval.items() if k not in WITHOUT_EFFECT["eval"]}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def views(self) -> list[str]:
        """Test-time augmentation, in an order that doesn't depend on how it was given."""
        return sorted({str(part) for part in self.eval.get("tta", [])} - {"1.0"})

    def describe(self) -> dict[str, str]:
        """Return the facts that a page shows, as texts by name."""
        facts = {"Masks": f"digest {self.truth[:12]}"}
        if self.weights:
            reached = {"epoch": self.epoch, "step": self.step}
            done = [f"{name} {count}" for name, count in reached.items() if count is not None]
            facts = {"Weights": ", ".join([f"hash {self.weights[:12]}", *done])} | facts
        elif self.predictions:
            facts = {"Predictions": f"digest {self.predictions[:12]}"} | facts
        if self.tuned:
            facts |= {"Tuning": self.tuned}
        defaults = Config().eval.model_dump(mode="json")
        changed = [
            f"eval.{key} {yaml_line(value)}"
            for key, value in self.eval.items()
            if key not in WITHOUT_EFFECT["eval"] and value != defaults.get(key)
        ]
        return facts | {"Settings": ", ".join(changed) or "the defaults"}


def read_record(metrics: dict[str, Any]) -> ScoreRecord | None:
    """Return the record in metrics.json, None where an older version wrote it."""
    return ScoreRecord(**metrics[SCORED]) if SCORED in metrics else None


def digest_images(checksums: dict[int, int]) -> str:
    """Return one digest of a checksum for each image, in their order."""
    ordered = (checksums[i].to_bytes(4, "little") for i in sorted(checksums))
    return hashlib.sha256(b"".join(ordered)).hexdigest()


def list_score_changes(own: Config, config: Config) -> list[str]:
    """Return the fields of a command's config that make its score another than the run's own."""
    keys = (key.split(".") for key in compare_configs(own, config))
    return [
        f"{section}.{name}"
        for section, name in keys
        if name not in WITHOUT_EFFECT.get(section, ())
        and (section in WITHOUT_EFFECT or (section, name) in OTHER_FIELDS)
    ]


def name_changes(
    changes: list[str], checkpoint: Path, trained_on: str | None, path: str | None
) -> tuple[str, ...]:
    """Return what makes scores others than a run's own: those of its best weights on its own data.

    changes: as of `list_score_changes`; path: of the data set, given or not.
    """
    run = find_run_of(checkpoint)
    own = [trained_on]
    with suppress(SegtrainError):  # the user may have written there where the data set is now
        own.append(load_config(run / CONFIG).data.path)
    if any(place and path and _is_same_place(place, path) for place in own):
        changes = [key for key in changes if key != "data.path"]
    return (*[checkpoint.name][checkpoint == run / BEST :], *changes)


def _is_same_place(own: str, path: str) -> bool:
    """Return whether a path is a run's own data set, or of its name where that is gone."""
    place = Path(own).expanduser().resolve()
    moved = not is_remote(own) and not place.exists() and place.name == Path(path).name
    return path in (own, str(place)) or moved and "demo" not in (own, path)


def list_settings(one: ScoreRecord, other: ScoreRecord) -> dict[str, list[str]]:
    """Return the settings in which the scores of two networks differ, with both values as text.

    How masks of another tool were predicted is not known.
    """
    if one.weights is None or other.weights is None:
        return {}
    pairs: dict[str, list[Any]] = {"eval.tta": [one.views, other.views]}
    if one.windows or other.windows:
        pairs |= {f"eval.{key}": [one.eval.get(key), other.eval.get(key)] for key in WINDOWS}
    pairs["predict.tuned"] = [bool(one.tuned), bool(other.tuned)]
    pairs["data.value_range"] = [one.value_range, other.value_range]
    pairs["data.exif"] = [one.upright, other.upright]
    return _list_differing(pairs)


def list_rounding(one: ScoreRecord, other: ScoreRecord) -> dict[str, list[str]]:
    """Return what differs and may change the last digits alone."""
    if one.weights is None or other.weights is None:
        return {}
    return _list_differing(
        {
            "device": [one.device, other.device],
            "precision": [one.precision, other.precision],
            "eval.batch_size": [one.eval.get("batch_size"), other.eval.get("batch_size")],
        }
    )


def _list_differing(pairs: dict[str, list[Any]]) -> dict[str, list[str]]:
    return {
        key: [
            v if isinstance(v, str) else str(yaml_line(list(v) if isinstance(v, tuple) else v))
            for v in values
        ]
        for key, values in pairs.items()
        if values[0] != values[1]
    }


def find_outdated(run: Path, metrics: dict[str, Any], split: str) -> str:
    """Return why these are not the scores that `segtrain eval RUN` would write, '' where they are.

    Without the run's best checkpoint, nothing speaks against them. Without a record, only a mIoU
    on val that is far from the one of the training's validation.
    """
    record = read_record(metrics)
    if record and record.weights is None or not (run / BEST).is_file():
        return ""
    try:
        with translate_errors(first_line):
            weights, metadata = hash_stored_weights(run / BEST)
            fields = json.loads(metadata[KEY])
            config = make_config(fields["config"], str(run / BEST))
            stored = fields.get("tuning") if config.predict.tuned else None
            tuned = Tuning(**stored).describe() if stored else None
    except SegtrainError as error:
        return f"its best checkpoint can't be read, so its scores may be older ({error})"
    if record is None:
        then, now = metrics.get("miou"), fields.get("miou")
        if split != "val" or then is None or now is None or abs(then - now) < MIOU_DIGITS:
            return ""
        return f"the run's best had val mIoU {now:.4f} in training, its scores have {then:.4f}"
    if weights != record.weights:
        epochs = f"epoch {fields.get('epoch')}, scored was epoch {record.epoch}"
        return f"the run's best is newer than its scores ({epochs})"
    if tuned != record.tuned:
        return "the run's best was tuned, or its tuning dropped, after its scores"
    own = config.eval.model_dump(mode="json")
    own["group_by"] = config.eval.group_by or config.data.group_by
    keys = sorted(own.keys() & record.eval.keys() - WITHOUT_EFFECT["eval"])
    changed = [f"eval.{key}" for key in keys if record.eval[key] != own[key]]
    return f"its scores are of other settings than its own ({', '.join(changed)})" * bool(changed)


def has_own_scores(run: Path, scores: Path) -> bool:
    """Return whether metrics.json is the run's own of today, as `find_outdated` has it."""
    with suppress(SegtrainError), translate_errors(first_line):
        metrics = json.loads(scores.read_text(encoding="utf-8"))
        return bool(metrics["classes"]) and not find_outdated(run, metrics, scores.parent.name)
    return False
