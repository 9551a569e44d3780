"""Tuning of a trained network's logits: a bias for each class, and a temperature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import ConfigDict, Field, FiniteFloat
from pydantic.dataclasses import dataclass

if TYPE_CHECKING:
    from torch import Tensor

SCORES = {"biases": "mIoU", "temperature": "calibration error"}  # that each choice changes


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class MeasuredChoice:
    """One choice of `segtrain tune`, and its score in SCORES, cross-fitted."""

    name: Literal["biases", "temperature"]
    before: FiniteFloat
    after: FiniteFloat
    gain: FiniteFloat  # above 0 is better, whichever the score
    interval: list[FiniteFloat]  # 95 %, of the gain

    @property
    def helps(self) -> bool:
        """True where the gain is more than noise."""
        return self.interval[0] > 0


@dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Tuning:
    """Affine map of logits, (logits + biases) / temperature, found on one split.

    It commutes with bilinear upsampling and with the blend of windows, whose weights sum to 1.
    Biases choose the class; the temperature changes confidences alone.
    """

    biases: list[FiniteFloat]  # of each class; the first is 0
    temperature: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    split: str = ""  # that it was found on
    truth: str = ""  # digest of the true class ids of that split
    choices: list[MeasuredChoice] = Field(default_factory=list)  # that are in it

    def apply(self, logits: Tensor) -> Tensor:
        """Return tuned logits (N,C,H,W) in float32."""
        logits = logits.float()
        biases = logits.new_tensor(self.biases).view(1, -1, 1, 1)
        return (logits + biases) / self.temperature

    def undo(self, logits: Tensor) -> Tensor:
        """Return the logits (N,C,H,W) before `apply`, up to rounding."""
        biases = logits.new_tensor(self.biases).view(1, -1, 1, 1)
        return logits * self.temperature - biases

    def describe(self) -> str:
        """Return what it does to logits in one line."""
        parts = [f"biases {self.biases}"] if any(self.biases) else []
        return ", ".join([*parts, f"temperature {self.temperature}"])
