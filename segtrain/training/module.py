"""The module that Fabric wraps, its compilation, and the path of its loss."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from segtrain.config import TrainConfig
from segtrain.config.types import parse_duration
from segtrain.losses.build import Loss
from segtrain.models.segmentation import SegmentationModel
from segtrain.private import copy_tensors

COMPILE_FROM = 2000  # steps; compiling takes a minute or two, which fewer steps don't win back
COMPILE_TIME = 1800  # seconds of train.max_time, likewise


class TrainingModule(nn.Module):
    """Network and loss in one module: Fabric would copy logits as outputs to float32.

    The loss gets the logits before the head upsamples them. If every term can read them so, the
    loss upsamples them on the fly, and full-resolution logits are never written.
    """

    def __init__(self, model: SegmentationModel, loss: Loss, compiled: bool = False):
        super().__init__()
        self.model, self.loss = model, loss
        # only the bound method: the many sizes of evaluation would each be compiled, and a
        # compiled module renames the weights
        self.network = torch.compile(model.low_resolution) if compiled else model.low_resolution

    def forward(self, images: Tensor, target: Tensor, observe: bool = False) -> Tensor:
        """Return the loss (0-d) of uint8 images (N,K,H,W) and integer target (N,H,W)."""
        model, loss = self.model, self.loss
        return loss(
            self.network(images),
            model.pad(target, loss.lb_ignore),
            model.upsampling,
            model.align_corners,
            observe,
        )


class BufferSnapshot:
    """The floating-point buffers of a module, which forward changes: batch norm's statistics.

    `take` before a step and `restore_if` after it undo a bad step without waiting for the device;
    `undo` does so for one that raised in between. `close` ends a completed step.
    """

    copy: Tensor | None = None
    updating = False  # the weights: a step can't be undone any more

    def __init__(self, module: nn.Module):
        self.buffers = [b for b in module.buffers() if b.is_floating_point()]
        self.sizes = [b.numel() for b in self.buffers]
        # of batches that batch norm has seen; a bad step counts, one that raised doesn't
        self.counts = [b for b in module.buffers() if b.dtype == torch.int64 and not b.ndim]

    def take(self) -> None:
        """Copy the buffers."""
        # as one tensor: dozens of small copies would each launch a kernel
        self.copy = torch.cat([b.flatten() for b in self.buffers])
        self.count_copy = torch.stack(self.counts) if self.counts else None

    def close(self) -> None:
        """End a step."""
        self.copy, self.updating = None, False

    def undo(self) -> bool:
        """Undo a step that hasn't ended; return False where weights may have changed."""
        if self.copy is not None and not self.updating:
            self.restore_if(torch.ones((), dtype=torch.bool, device=self.copy.device))
            if self.count_copy is not None:
                copy_tensors(self.counts, list(self.count_copy))
            self.close()
        return not self.updating

    def restore_if(self, bad: Tensor) -> None:
        """Restore the copied values where `bad` (0-d, bool) is true; the weights come next."""
        assert self.copy is not None
        self.updating = True
        now = torch.cat([b.flatten() for b in self.buffers])
        values = torch.where(bad, self.copy, now).split(self.sizes)
        copy_tensors(
            self.buffers, [v.view_as(b) for v, b in zip(values, self.buffers, strict=True)]
        )


class Compilation(NamedTuple):
    """The decision for or against torch.compile, and its reason."""

    enabled: bool
    reason: str


def decide_compilation(
    train: TrainConfig, loss: Loss, device: torch.device, steps: int
) -> Compilation:
    """Resolve train.compile for a run of so many steps on a device."""
    if train.compile != "auto":
        return Compilation(train.compile == "on", f"train.compile is {train.compile}")
    if device.type == "cpu":
        return Compilation(False, "no gain on a CPU")
    path, reason = loss.reader.path(device, torch.float32)
    if path != "triton":  # compiled networks need Triton, too
        return Compilation(False, reason)
    if train.max_time and parse_duration(train.max_time) < COMPILE_TIME:
        return Compilation(False, f"{train.max_time} are too short to win back the compile time")
    if steps < COMPILE_FROM:
        return Compilation(False, f"{steps} steps are too few to win back the compile time")
    return Compilation(True, f"{steps} steps on a GPU")


def describe_loss_path(
    model: SegmentationModel, loss: Loss, device: torch.device, num_classes: int
) -> str:
    """Return the path that computes the loss on a device, and its reason, for environment.json."""
    path, reason = loss.reader.path(device, next(model.parameters()).dtype, num_classes)
    text = f"{path} path ({reason})"
    if model.upsampling > 1:
        names = " and ".join(loss.reads_logits)
        fused = f"not fused: {names} reads full-resolution logits" if names else "fused"
        text += f", {model.upsampling}x upsampling of logits {fused}"
    return text
