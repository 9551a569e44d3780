"""The state to resume from: parts, types and shapes, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError
from torch import Tensor

from segtrain.errors import SegtrainError, shorten
from segtrain.training.state import STEP_PHASES, Training

NotNegative = Annotated[int, Field(ge=0)]
AtLeastOne = Annotated[int, Field(ge=1)]
CellValue = bool | int | float | str | None
ADVICE = "restore it, or start a new run"
# of an optimizer's groups; torch's other options may differ between its versions
CHANGING, REQUIRED = {"params", "lr"}, {"betas", "eps", "lr_factor", "momentum", "weight_decay"}


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, arbitrary_types_allowed=True)


class _Progress(_Part, extra="forbid"):
    """A TrainState."""

    step: NotNegative
    rows: list[dict[str, CellValue]]
    best: FiniteFloat | None
    stale: NotNegative
    bad_steps: list[dict[str, CellValue]]
    bad_in_a_row: NotNegative
    loss_sum: FiniteFloat
    skipped: NotNegative
    seconds: dict[str, FiniteFloat]


class _Optimizer(_Part):
    state: dict[int, dict[str, Tensor | int | float | None]]
    param_groups: list[dict[str, Any]]


class _SavedState(_Part):
    """The parts that `save_checkpoint` saves."""

    model: dict[str, Tensor]
    average: dict[str, Tensor] | None
    loss: dict[str, Tensor]
    observed: list[dict[str, Tensor]]
    optimizer: _Optimizer
    precision: dict[str, int | FiniteFloat]
    state: _Progress
    config: dict[str, Any]
    length: Annotated[list[AtLeastOne], Field(min_length=2, max_length=2)] | None = None
    setting: dict[str, Any]
    data: dict[str, Any]


def check_parts(path: Path, saved: dict[str, Any]) -> None:
    """Raise SegtrainError where a state lacks a part, or a part is of another type."""
    try:
        parts = _SavedState.model_validate(saved)
    except ValidationError as error:
        wrong = error.errors()[0]
        problem = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg'].lower()}"
    else:
        problem = _check_progress(parts)
    if problem:
        raise SegtrainError(f"{path}: not a state that can be resumed ({problem}); {ADVICE}")


def _check_progress(parts: _SavedState) -> str:
    """Return what in the progress contradicts itself, else ''."""
    state, steps = parts.state, parts.data.get("steps an epoch")
    if any(row.get("epoch") != number for number, row in enumerate(state.rows, 1)):
        return "state.rows: not one row for each epoch"
    if isinstance(steps, int) and not 0 <= state.step - len(state.rows) * steps <= steps:
        return f"state.step: {state.step} with {len(state.rows)} epochs of {steps} steps"
    if other := state.seconds.keys() - set(STEP_PHASES):
        return f"state.seconds: unknown {shorten(sorted(other))}"
    return ""


def refuse_other_shapes(path: Path, training: Training, saved: dict[str, Any]) -> None:
    """Raise SegtrainError where a state's tensors are not of the training that it is loaded into.

    `saved` has passed `check_parts`.
    """
    model, optimizer = training.model.state_dict(), training.optimizer
    problem = _compare("model", saved["model"], model)
    if training.average:
        problem = problem or _compare("average", saved["average"] or {}, model)
    buffers = {name: t for name, t in training.loss.named_buffers() if name in saved["loss"]}
    problem = problem or _compare("loss", {n: saved["loss"][n] for n in buffers}, buffers)
    problem = problem or _check_observed(training, saved["observed"])
    problem = problem or _check_optimizer(optimizer.param_groups, saved["optimizer"])
    if problem:
        raise SegtrainError(f"{path}: not a state of this run ({problem}); {ADVICE}")


def _compare(part: str, saved: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    if other := sorted(saved.keys() ^ own.keys()):
        return f"{part}: {len(other)} tensors are missing or unknown ({shorten(other)})"
    for name, tensor in own.items():
        if (saved[name].shape, saved[name].dtype) != (tensor.shape, tensor.dtype):
            return f"{part}.{name}: {list(saved[name].shape)} {saved[name].dtype}"
    return ""


def _check_observed(training: Training, observed: list[dict[str, Tensor]]) -> str:
    """Check the records of the loss: of each term in turn, with the same quantities each time."""
    count = len(training.loss.terms)
    if len(observed) % count:
        return f"observed: {len(observed)} records of {count} terms"
    for index, record in enumerate(observed):
        first = {name: tensor.shape for name, tensor in observed[index % count].items()}
        if {name: tensor.shape for name, tensor in record.items()} != first:
            return f"observed.{index}: other quantities than before"
        if (
            "value" not in record
            or record["value"].ndim
            or max(t.ndim for t in record.values()) > 1
        ):
            return f"observed.{index}: no record of a loss"
    return ""


def _check_optimizer(groups: list[dict[str, Any]], saved: dict[str, Any]) -> str:
    sizes = [[len(group["params"]) for group in groups]]
    sizes.append([len(group.get("params", ())) for group in saved["param_groups"]])
    if sizes[0] != sizes[1]:
        return f"optimizer.param_groups: of {sizes[1]} parameters, expected {sizes[0]}"
    for number, (own, group) in enumerate(zip(groups, saved["param_groups"], strict=True)):
        for key in own.keys() - CHANGING:
            if group.get(key, None if key in REQUIRED else own[key]) != own[key]:
                return f"optimizer.param_groups.{number}.{key}: {group.get(key)!r:.40}"
    parameters = [(group, p) for group in groups for p in group["params"]]
    for index, values in saved["state"].items():
        if not 0 <= index < len(parameters):
            return f"optimizer.state.{index}: there are {len(parameters)} parameters"
        group, parameter = parameters[index]
        kept = {"step", "exp_avg", "exp_avg_sq"} if "betas" in group else {"momentum_buffer"}
        for name in sorted(kept if "betas" in group or group["momentum"] else ()):
            shape, value = () if name == "step" else parameter.shape, values.get(name)
            if not isinstance(value, Tensor) or value.shape != shape:
                return f"optimizer.state.{index}.{name}: no tensor of the shape {list(shape)}"
    return ""
