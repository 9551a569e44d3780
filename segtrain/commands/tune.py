"""segtrain tune: biases and a temperature found on val, kept where they help beyond noise."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, replace
from typing import Any

from segtrain.commands.eval import prepare_network
from segtrain.commands.requests import NetworkRequest
from segtrain.console import Note, write, write_json, write_notes, write_rows
from segtrain.errors import SegtrainError, UsageError
from segtrain.evaluation.evaluation import Evaluation
from segtrain.evaluation.tuning import tune_split
from segtrain.models.checkpoint import save_tuning
from segtrain.models.exported import is_exported
from segtrain.models.stored_weights import hash_stored_weights
from segtrain.models.tuning import SCORES, MeasuredChoice, Tuning
from segtrain.render.comparison_page import format_interval, format_signed

SPLIT = "val"  # no other: a test split is for the score that is published


def tune(request: NetworkRequest, as_json: bool = False) -> None:
    """Find the choices, store those that help in the checkpoint, and print all of them."""
    path, meta = request.checkpoint, request.meta
    if is_exported(path):
        raise UsageError(f"{path}: exported already; tune its run, then export that")
    if not os.access(path.parent, os.W_OK | os.X_OK):  # before anything is predicted
        raise SegtrainError(
            f"cannot write in {path.parent}; copy the checkpoint to a folder that you can write"
        )
    weights, _ = hash_stored_weights(path)
    evaluation = prepare_network(leave_plain(request, as_json), SPLIT, as_json, mining=False)
    tuning, choices = tune_split(evaluation)
    write_notes(evaluation.pairs.skipped_notes(), stderr=as_json)
    if tuning != meta.tuning:
        save_tuning(path, replace(meta, tuning=tuning), weights)
    if as_json:
        write_json(describe_choices(evaluation, choices, tuning))
        return
    print_choices(choices)
    if tuning:
        write(f"stored in {path}: {explain_tuning(tuning, meta.classes)}")
    else:
        dropped = ", and an earlier tuning dropped" if meta.tuning else ""
        write(f"nothing stored in {path}{dropped}: no gain is beyond noise")


def leave_plain(request: NetworkRequest, as_json: bool) -> NetworkRequest:
    """Return the request for a network without tuning and views, whose images come one by one."""
    config = request.config
    if config.eval.tta:
        text = "eval.tta: left out; a choice is made on the plain network, and used in each view"
        write_notes([Note(text, "note")], stderr=as_json)
    scored = config.eval.model_copy(update={"tta": [], "batch_size": 1})
    predict = config.predict.model_copy(update={"tuned": False})
    plain = config.model_copy(update={"eval": scored, "predict": predict})
    return replace(request, config=plain)


def describe_choices(
    evaluation: Evaluation, choices: list[MeasuredChoice], tuning: Tuning | None
) -> dict[str, Any]:
    """Return the content of --json: each choice, and the tuning that the checkpoint now has."""
    scored, pairs = evaluation.checkpoint, evaluation.pairs
    return {
        "checkpoint": scored and str(scored.path),
        "weights": scored and scored.weights,
        "data": str(evaluation.data.config.path),
        "split": evaluation.split,
        "images": len(pairs) - len(pairs.unread),
        "groups": len(set(evaluation.image_groups)),
        "choices": [
            asdict(choice) | {"score": SCORES[choice.name], "stored": choice.helps}
            for choice in choices
        ],
        "tuning": tuning and asdict(tuning),
    }


def print_choices(choices: list[MeasuredChoice]) -> None:
    """Print a row a choice: its score without and with it, cross-fitted, and the gain."""
    rows = [
        [
            choice.name,
            SCORES[choice.name],
            f"{choice.before:.4f}",
            f"{choice.after:.4f}",
            format_signed(choice.gain, "+"),
            format_interval(choice.interval),
            "yes" if choice.helps else "no",
        ]
        for choice in choices
    ]
    columns = ["choice", "score", "before", "after", "gain", "95 % interval", "stored"]
    write_rows(columns, rows, drop=())


def explain_tuning(tuning: Tuning, classes: list[str]) -> str:
    """Return a tuning in one line: of two classes the threshold, of more each class's bias."""
    parts = []
    if any(tuning.biases) and len(classes) == 2:
        threshold = 1 / (1 + math.exp(tuning.biases[1]))
        parts = [f"{classes[1]} from a probability of {threshold:.3f} on"]
    elif any(tuning.biases):
        pairs = zip(classes, tuning.biases, strict=True)
        parts = ["biases " + ", ".join(f"{name} {bias:+.2f}" for name, bias in pairs)]
    if tuning.temperature != 1:
        parts.append(f"temperature {tuning.temperature:.3f}")
    return "; ".join(parts)
