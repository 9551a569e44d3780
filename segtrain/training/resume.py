"""The run to resume: its state, and the changes that it allows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from segtrain.config import Config
from segtrain.config.loading import compare_configs, load_config
from segtrain.console import Note
from segtrain.errors import SegtrainError, UsageError
from segtrain.models.checkpoint import load_state
from segtrain.runs.folder import CONFIG, STATE
from segtrain.training.checkpoints import describe_setting
from segtrain.training.plan import TrainingPlan

SCHEDULE = "the learning rate follows the schedule of the new value"
DIGITS = "sums in another order: the last digits differ from an uninterrupted run"
# config fields that may differ from the run to resume, and the effect
MAY_CHANGE = {
    "train.epochs": SCHEDULE,
    "optim.lr": SCHEDULE,
    "train.device": DIGITS,
    "train.devices": DIGITS,
    "train.nodes": DIGITS,
    "train.accumulate": "each micro-batch has its own loss, so a mining loss differs",
    "train.compile": DIGITS,
    "train.patience": "counted from the best score so far",
    "train.timeout": "",
    "train.log_every": "the loss/ columns average over other steps",
    "train.checkpoint_every": "",
    "train.keep": "",
    "train.max_bad_steps": "",
    "train.profile": "",
    "eval.every": "",
    "eval.tta": "",
    "eval.group_by": "",
    "eval.mask_values": "",
    "eval.worst": "",
    "eval.best": "",
    "data.workers": "",
    "data.path": "it must hold the same images",
    "data.group_by": "",
    "data.cache": "",
    "data.cache_gb": "",
}


def check_changes(run: Path, config: Config) -> list[Note]:
    """Return a note on each field that differs from the run to resume, with the effect.

    Raise UsageError for fields that may not change within a run.
    """
    changed = compare_configs(load_config(run / CONFIG), config)
    texts = {key: f"{key} was {old}, now {new}" for key, (old, new) in changed.items()}
    if refused := [text for key, text in texts.items() if key not in MAY_CHANGE]:
        raise UsageError(f"--resume {run}: {'; '.join(refused)}; start a new run to change that")
    return [Note(": ".join(filter(None, (text, MAY_CHANGE[key])))) for key, text in texts.items()]


def find_state(run: Path, plan: TrainingPlan) -> dict[str, Any] | None:
    """Return the saved state of a run; None where it ended before its first checkpoint.

    Raise SegtrainError for an unreadable file, and UsageError for another data set than the run
    saw: images would be repeated, or move between splits.
    """
    if not (run / STATE).exists():
        return None
    saved = load_state(run / STATE)
    if "setting" not in saved:
        raise SegtrainError(f"{run / STATE}: written by an older segtrain; start a new run")
    for name, now in plan.fingerprint.items():
        if (then := saved.get("data", {}).get(name)) != now:
            raise UsageError(
                f"--resume {run}: its data set has changed: {name} was {then}, now {now}; restore "
                "it, or start a new run"
            )
    return saved


def compare_settings(saved: dict[str, Any], fabric: Fabric) -> list[Note]:
    """Return a note on each package or device that may change the last bits of a resumed run."""
    then, now = saved["setting"], describe_setting(fabric)
    return [
        Note(
            f"saved with {name} {then.get(name)}, resumed with {now[name]}: the last digits may "
            "differ from an uninterrupted run",
            "note",
        )
        for name in now
        if then.get(name) != now[name]
    ]
