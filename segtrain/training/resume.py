"""The run to resume: finding it, and what may differ from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from segtrain.config import Config
from segtrain.config.loading import compare_configs, load_config
from segtrain.errors import SegtrainError, UsageError
from segtrain.models.checkpoint import load_state
from segtrain.runs.folder import CONFIG, LATEST, STATE, find_latest_run
from segtrain.training.plan import Plan
from segtrain.training.state import setting

SCHEDULE = "the learning rate goes on as if it had been so from the first step"
DIGITS = "sums in another order, so the last digits differ from a straight run's"
# what may differ from the run to resume, and what that does
MAY_CHANGE = {
    "train.epochs": SCHEDULE,
    "optim.lr": SCHEDULE,
    "train.device": DIGITS,
    "train.devices": DIGITS,
    "train.nodes": DIGITS,
    "train.accumulate": "each part's loss is its own, so a loss that mines differs",
    "train.compile": DIGITS,
    "train.patience": "it counts from the best score so far",
    "train.timeout": "",
    "train.log_every": "the loss/ columns are of other steps",
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
    "data.cache": "",
    "data.cache_gb": "",
}


def run_to_resume(asked: str, out: Path) -> Path:
    """The folder of a run named by path, by its name in `out`, or as `latest`."""
    if asked == LATEST:
        return find_latest_run(out)
    for run in (Path(asked), out / asked):
        if (run / CONFIG).is_file():
            return run.resolve() if run.is_symlink() else run  # OUT/latest is to point at it
    raise UsageError(f"--resume {asked}: no such run, here or in {out}")


def refuse_changes(run: Path, config: Config) -> list[str]:
    """A line for each option that differs from the run to resume, and what that does.

    Raises UsageError for options that would make another run of it.
    """
    changed = compare_configs(load_config(run / CONFIG), config)
    refused = {key: pair for key, pair in changed.items() if key not in MAY_CHANGE}
    if refused:
        listed = "; ".join(f"{key} was {old}, now {new}" for key, (old, new) in refused.items())
        raise UsageError(f"--resume {run}: {listed}; start a new run for that")
    return [
        f"{key} was {old}, now {new}" + (f": {MAY_CHANGE[key]}" if MAY_CHANGE[key] else "")
        for key, (old, new) in changed.items()
    ]


def find_state(run: Path, plan: Plan) -> dict[str, Any] | None:
    """The saved state of a run; None where it ended before its first.

    Raises SegtrainError for a file that can't be read, UsageError where the data set isn't the one
    that the run saw: images would come again, or move from one split to the other.
    """
    if not (run / STATE).exists():
        return None
    saved = load_state(run / STATE)
    if "setting" not in saved:
        raise SegtrainError(f"{run / STATE}: of an older segtrain; start a new run")
    for what, now in plan.fingerprint.items():
        if (then := saved["data"][what]) != now:
            raise UsageError(
                f"--resume {run}: its data set has changed: {what} was {then}, now {now}; bring "
                "back what it was, or start a new run"
            )
    return saved


def changes_since(saved: dict[str, Any], fabric: Fabric) -> list[str]:
    """A line for each thing besides the config that makes a resumed run differ in last bits."""
    then, now = saved["setting"], setting(fabric)
    return [
        f"note: saved with {name} {then.get(name)}, resumed with {now[name]}: the last digits "
        "may differ from a straight run's"
        for name in now
        if then.get(name) != now[name]
    ]
