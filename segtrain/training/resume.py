"""The run to resume: its state, and the changes that it allows."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from segtrain.config import Config
from segtrain.config.loading import adopt_older_defaults, compare_configs, load_config
from segtrain.console import Note
from segtrain.distributed.devices import resolve_device, resolve_precision
from segtrain.distributed.fabric import NAMES
from segtrain.errors import SegtrainError, UsageError, first_line, translate_errors
from segtrain.models.checkpoint import load_state, read_meta
from segtrain.runs.folder import BEST, CONFIG, STATE
from segtrain.training.checkpoints import describe_setting, read_progress
from segtrain.training.plan import MASKS_OF, TrainingPlan, refuse_warmup
from segtrain.training.saved_state import check_parts
from segtrain.training.state import TrainState

NEED_STEPS = {"train.epochs", "train.patience", "optim.lr"}  # no effect on a finished run
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
    "train.track": "",
    "train.track_images": "",
    "train.track_checkpoint": "",
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


def keep_precision(run: Path, config: Config) -> Config:
    """Return a resumed run's config, in the precision so far where auto is another one here."""
    if config.train.precision != "auto":
        return config
    device = resolve_device(config.train.device)
    precision = read_precision(run) or "auto"
    if precision == resolve_precision("auto", device) or (precision, device) == ("fp16", "cpu"):
        return config
    train = config.train.model_copy(update={"precision": precision})
    return config.model_copy(update={"train": train})


def keep_batch_size(run: Path, config: Config) -> Config:
    """Return a resumed run's config with the number that the run has for auto."""
    if config.train.batch_size != "auto":
        return config
    number = load_config(run / CONFIG).train.batch_size
    train = config.train.model_copy(update={"batch_size": number})
    return config.model_copy(update={"train": train})


def read_precision(run: Path) -> str | None:
    """Return the precision of a run so far; None where no state can be read."""
    with suppress(SegtrainError), translate_errors(first_line):
        # its tensors stay on the disk
        saved = torch.load(run / STATE, map_location="cpu", weights_only=True, mmap=True)
        return NAMES.get(saved["setting"]["precision"])
    return None


def keep_length(plan: TrainingPlan, saved: dict[str, Any]) -> TrainingPlan:
    """Return the plan in the length that train.max_time gave the run to resume, if it did.

    Another train.epochs than the run's is taken as given; the same may be a launcher's restart.
    Raise UsageError for a longer warm-up.
    """
    if saved.get("length") is None:
        return plan
    epochs, steps_per_epoch = saved["length"]
    if plan.epochs != saved["config"]["train"]["epochs"]:
        epochs = plan.epochs
    refuse_warmup(plan.config.optim, epochs * steps_per_epoch)
    return replace(plan, epochs=epochs, steps_per_epoch=steps_per_epoch, timed=True)


def check_changes(run: Path, plan: TrainingPlan, saved: dict[str, Any] | None) -> list[Note]:
    """Return a note on each field that differs from the run to resume, with the effect.

    Raise UsageError for fields that may not change within a run, and for those that would have no
    effect, since the saved state has no step left to take.
    """
    config = plan.config
    old, _ = adopt_older_defaults(load_config(run / CONFIG))
    changed = compare_configs(old, config)
    texts = {key: f"{key} was {was}, now {now}" for key, (was, now) in changed.items()}
    effects, key = dict(MAY_CHANGE), "train.precision"
    if not saved or (saved.get("length") is None and not read_progress(saved).step):
        effects["train.max_time"] = ""
    if key in changed and saved:
        precision = NAMES.get(saved["setting"].get("precision"))
        texts[key] = texts[key].replace("auto", f"auto ({precision})", 1)
        if precision == config.train.precision:
            effects[key] = "as the run so far, whatever auto is here"
    if refused := [text for key, text in texts.items() if key not in effects]:
        raise UsageError(f"--resume {run}: {'; '.join(refused)}; start a new run to change that")
    end = explain_end(read_progress(saved), plan) if saved else ""
    if end and not NEED_STEPS.isdisjoint(changed):
        raise UsageError(f"--resume {run}: {end}")
    return [Note(": ".join(filter(None, (text, effects[key])))) for key, text in texts.items()]


def explain_end(state: TrainState, plan: TrainingPlan) -> str:
    """Return why a training from this state has no step left, and what to do; '' if it has one."""
    if state.epoch >= plan.epochs:
        text = f"{state.epoch} epochs are done already; take more than that with --epochs"
        asked = plan.config.train.epochs  # more than train.max_time allowed
        return text if asked == plan.epochs else f"{text}, but not {asked}, as so far"
    if state.stale >= (plan.config.train.patience or math.inf):
        return (
            f"early stopping has ended it after {state.stale} validations without improvement; "
            "take more than that with --set train.patience"
        )
    return ""


def find_state(run: Path) -> dict[str, Any] | None:
    """Return the saved state of a run; None where it ended before its first checkpoint.

    Raise SegtrainError for an unreadable file.
    """
    if not (run / STATE).exists():
        return None
    saved = load_state(run / STATE)
    if "setting" not in saved:
        raise SegtrainError(f"{run / STATE}: written by an older segtrain; start a new run")
    check_parts(run / STATE, saved)
    return saved


def check_data(run: Path, saved: dict[str, Any], plan: TrainingPlan) -> list[Note]:
    """Raise UsageError for another data set than the run saw, by the plan's fingerprint.

    Images would be repeated, or move between splits, and scores be compared with those on other
    masks. Return a note if the state is older and has no digest of the masks.
    """
    then = saved["data"] if isinstance(saved.get("data"), dict) else {}
    older = not any(name.startswith(MASKS_OF) for name in then)
    for name, now in plan.fingerprint.items():
        if older and name.startswith(MASKS_OF):
            continue
        if then.get(name) != now:
            raise UsageError(
                f"--resume {run}: its data set has changed: {name} was {then.get(name)}, now "
                f"{now}; restore it, or start a new run"
            )
    unknown = "the state is of an older segtrain, without a digest of the masks: they may have "
    return [Note(unknown + "changed since then", "note")] if older else []


def check_tuning(run: Path) -> list[Note]:
    """Return a note where the run's best weights are tuned: better ones will not be."""
    with suppress(SegtrainError):  # a damaged file is replaced
        if (run / BEST).is_file() and read_meta(run / BEST).tuning:
            text = "its tuning is dropped with the first better weights; run segtrain tune again"
            return [Note(f"{run / BEST}: {text}", "note")]
    return []


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
