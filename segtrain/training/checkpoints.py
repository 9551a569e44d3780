"""Checkpoints of a run: the state of a training to files, and back."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric

from segtrain.config import Config
from segtrain.config.loading import save_config, to_yaml
from segtrain.errors import SegtrainError, first_line, translate_errors
from segtrain.files.whole import save_bytes
from segtrain.models.checkpoint import Meta, read_meta, save_model, save_state
from segtrain.runs.environment import device_name, package_versions
from segtrain.runs.folder import BEST, CONFIG, LAST, STATE
from segtrain.training.saved_state import refuse_other_shapes
from segtrain.training.session import Session
from segtrain.training.state import Training, TrainState
from segtrain.version import __version__


def save_checkpoint(session: Session, miou: float | None = None, best: bool = False) -> None:
    """Save last.safetensors, best.safetensors if it is the best, and last.state.pt.

    A resumed run's config.yaml gets the changes just before: until then nothing of the run has
    changed. Only rank 0 may call it.
    """
    run, plan, training = session.run, session.plan, session.training
    model, state = training.scored, training.state
    meta = Meta.of(
        model,
        plan.config,
        classes=plan.data.classes,
        palette=plan.data.palette,
        epoch=state.epoch,
        step=state.step,
        miou=miou,
    )
    if plan.config.train.keep and (run / LAST).exists():  # before it is replaced
        keep_last(run / LAST.parent, plan.config.train.keep, state.step)
    save_model(run / LAST, model, meta)
    if best:
        save_model(run / BEST, model, meta)
    save_changes(run, plan.config)
    save_state(run / STATE, collect_state(session))


def collect_state(session: Session) -> dict[str, Any]:
    """Return all that a training goes on from; its tensors are the training's own.

    Weights too: one file, so one rename, is a consistent state.
    """
    plan, training = session.plan, session.training
    return {
        "model": training.model.state_dict(),
        "average": training.average and training.average.state_dict(),
        "loss": dict(training.loss.named_buffers()),
        "observed": training.loss.observed,
        "optimizer": training.optimizer.state_dict(),
        "precision": session.fabric.strategy.precision.state_dict(),
        "state": asdict(training.state),
        "config": plan.config.model_dump(mode="json"),
        "length": [plan.epochs, plan.steps_per_epoch] if plan.timed else None,
        "setting": describe_setting(session.fabric),
        "data": plan.fingerprint,
    }


def save_changes(run: Path, config: Config) -> None:
    """Write a run's config.yaml where it differs."""
    with suppress(OSError, ValueError):  # missing, or not UTF-8
        if (run / CONFIG).read_text(encoding="utf-8") == to_yaml(config):
            return
    save_config(config, run / CONFIG)


def restore_training(fabric: Fabric, training: Training, saved: dict[str, Any]) -> None:
    """Restore a training from the state that `save_checkpoint` saved.

    Raise SegtrainError where it lacks a part, or a part has another shape.
    """
    with translate_errors(_not_of_this_run):
        refuse_other_shapes(STATE, training, saved)
        _restore(fabric, training, saved)


def read_progress(saved: dict[str, Any]) -> TrainState:
    """Return the progress in a state that `save_checkpoint` saved. Raise SegtrainError."""
    with translate_errors(_not_of_this_run):
        return TrainState(**saved["state"])


def _not_of_this_run(error: Exception) -> str:
    return (
        f"{STATE}: not a state of this run ({type(error).__name__}: {first_line(error)}); restore "
        "it, or start a new run"
    )


def _restore(fabric: Fabric, training: Training, saved: dict[str, Any]) -> None:
    training.model.load_state_dict(saved["model"])
    if training.average:
        training.average.load_state_dict(saved["average"])
    # only what the loss learns is saved: the weights of vgg are fixed
    training.loss.load_state_dict(saved["loss"], strict=False)
    training.loss.observed = [
        {name: value.to(fabric.device) for name, value in record.items()}
        for record in saved["observed"]
    ]
    training.optimizer.load_state_dict(saved["optimizer"])
    if saved["precision"]:  # of a gradient scaler; a run that had none starts with a new one
        fabric.strategy.precision.load_state_dict(saved["precision"])
    training.state = TrainState(**saved["state"])


def keep_last(checkpoints: Path, keep: int, step: int) -> None:
    """Give last.safetensors a second name, by its step; keep the newest `keep` of these names.

    A damaged one, or one of the step that is about to be saved, is not kept.
    """
    last = checkpoints / LAST.name
    try:
        last_step = read_meta(last).step
    except SegtrainError:
        last_step = None
    if last_step is not None and last_step != step:
        by_step = checkpoints / f"step-{last_step:09d}.safetensors"  # padded: sorted by name below
        try:
            os.link(last, by_step)
        except FileExistsError:
            pass  # a resumed run repeats this step, with the same weights
        except OSError:  # a file system without links
            save_bytes(by_step, last.read_bytes())
    for old in sorted(checkpoints.glob("step-*.safetensors"))[:-keep]:
        with suppress(OSError):
            old.unlink()


def describe_setting(fabric: Fabric) -> dict[str, Any]:
    """Return what the last bits of a run depend on besides its config."""
    return {
        "segtrain": __version__,
        "device": device_name(fabric.device),
        "precision": fabric.strategy.precision.precision,
        "threads": torch.get_num_threads(),  # they decide in which order sums are added up
        **package_versions(),
    }
