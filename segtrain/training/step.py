"""One optimizer step: images and targets to changed weights, or a skipped step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from segtrain.config import TrainConfig
from segtrain.data.loading.dataset import Batch
from segtrain.distributed.collectives import max_over_ranks
from segtrain.distributed.signals import StopRequest
from segtrain.losses.build import Loss
from segtrain.models.segmentation import SegmentationModel
from segtrain.private import copy_tensors

Part = tuple[Tensor, Tensor]  # images and target of a micro-step, on the device
COMPILE_FROM = 2000  # steps; compiling takes a minute or two, which fewer don't win back


class TrainingModule(nn.Module):
    """What Fabric wraps. The loss is inside: outputs would be copied to float32.

    The loss gets the logits before the head upsamples them. Where every term can read them so,
    it upsamples them on the way, and full-resolution logits are never written.
    """

    def __init__(self, model: SegmentationModel, loss: Loss, compiled: bool = False):
        super().__init__()
        self.model, self.loss = model, loss
        # the bound method alone: evaluation's many sizes would each be compiled, and the names
        # of the weights stay as they are
        self.network = torch.compile(model.low_resolution) if compiled else model.low_resolution

    def forward(self, images: Tensor, target: Tensor, observe: bool = False) -> Tensor:
        """uint8 images (N,K,H,W) and target int64 (N,H,W) -> 0-d."""
        model, loss = self.model, self.loss
        return loss(
            self.network(images),
            model.pad(target, loss.lb_ignore),
            model.upsampling,
            model.align_corners,
            observe,
        )


class Statistics:
    """The floating-point buffers of a module, which forward changes: batch norm's statistics.

    `keep` before a step and `restore` after it leave no trace of a bad one, and ask no device.
    """

    def __init__(self, module: nn.Module):
        self.buffers = [b for b in module.buffers() if b.is_floating_point()]
        self.sizes = [b.numel() for b in self.buffers]

    def keep(self) -> None:
        self.kept = torch.cat([b.flatten() for b in self.buffers])

    def restore(self, bad: Tensor) -> None:
        """bad: 0-d, bool."""
        now = torch.cat([b.flatten() for b in self.buffers])
        values = torch.where(bad, self.kept, now).split(self.sizes)
        copy_tensors(
            self.buffers, [v.view_as(b) for v, b in zip(values, self.buffers, strict=True)]
        )


def on_device(fabric: Fabric, batches: Iterable[Batch], channels_last: bool) -> Iterator[Part]:
    """Copies batches as they are asked for, from pinned memory without waiting for the copy."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    for batch in batches:
        images = batch.images.to(fabric.device, non_blocking=True, memory_format=memory_format)
        yield images, batch.targets.to(fabric.device, non_blocking=True).long()


def train_step(
    fabric: Fabric,
    module: Any,
    optimizer: Any,
    statistics: Statistics,
    parts: list[Part],
    clip_norm: float,
    observe: bool,
    stop_request: StopRequest,
    mark: Callable[[str], None],
) -> tuple[Tensor, Tensor]:
    """Steps on the mean loss of the parts; the loss (0-d) and the verdict (2,) of all ranks.

    The verdict is (1, signal) where a loss or the gradient is not finite on any rank: then
    weights, optimiser and batch norm's statistics are as before. Nothing here waits for a device.
    `mark` is told what has just ended: forward, backward, other. The module and the optimiser are
    wrapped by Fabric, which keeps their types private.
    """
    statistics.keep()
    loss = torch.zeros((), device=fabric.device)
    for place, (images, target) in enumerate(parts, 1):
        with fabric.no_backward_sync(module, enabled=fabric.world_size > 1 and place < len(parts)):
            part = module(images, target, observe=observe) / len(parts)
            mark("forward")
            fabric.backward(part)
            mark("backward")
        loss += part.detach()
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is not None:  # of fp16
        spoil_gradient(optimizer, loss)
        scaler.unscale_(optimizer.optimizer)  # Fabric's own clipping refuses fused optimisers here
    norm = gradient_norm(module, clip_norm)
    bad = ~(torch.isfinite(norm) & torch.isfinite(loss))
    verdict = max_over_ranks(torch.stack([bad.float(), torch.full_like(loss, stop_request.signum)]))
    bad = verdict[0] > 0
    statistics.restore(bad)
    # fused optimisers read it on the device, as the gradient scaler has them do
    optimizer.optimizer.found_inf = bad.float()
    optimizer.step()
    optimizer.zero_grad()
    return loss, verdict


def spoil_gradient(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Makes the gradient NaN where any rank's loss (0-d) is not finite.

    A gradient scaler looks at gradients alone, and its finding takes the place of ours.
    """
    bad = max_over_ranks((~torch.isfinite(loss)).float())
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    first = next(p for p in parameters if p.grad is not None)
    first.grad += torch.where(bad > 0, torch.nan, 0.0)


def gradient_norm(module: nn.Module, clip_norm: float) -> Tensor:
    """Norm (0-d) of the whole gradient, which is clipped to clip_norm unless that is 0."""
    if clip_norm:
        return torch.nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def compile_or_not(
    train: TrainConfig, loss: Loss, device: torch.device, steps: int
) -> tuple[bool, str]:
    """Whether train.compile means the network's compilation on that device, and why."""
    if train.compile != "auto":
        return train.compile == "on", f"train.compile is {train.compile}"
    if device.type == "cpu":
        return False, "on a CPU it gained nothing"
    path, reason = loss.reader.path(device, torch.float32)
    if path != "triton":  # which compiled networks need, too
        return False, reason
    if steps < COMPILE_FROM:
        return False, f"{steps} steps are too few to win back what it takes"
    return True, f"{steps} steps on a GPU"


def describe_path(model: SegmentationModel, loss: Loss, device: torch.device) -> str:
    """Which way the loss will go on that device, and why, in a line."""
    path, reason = loss.reader.path(device, next(model.parameters()).dtype)
    line = f"{path} path ({reason})"
    if model.upsampling > 1:
        needy = " and ".join(loss.reads_logits)
        fused = f"not fused: {needy} reads full-resolution logits" if needy else "fused"
        line += f", {model.upsampling}x upsampling of logits {fused}"
    return line
