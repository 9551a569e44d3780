"""One optimizer step: micro-batches in, changed weights out, or a skipped step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from segtrain.data.loading.batch import Batch
from segtrain.distributed.collectives import max_over_ranks
from segtrain.distributed.devices import choose_layout, copy_to
from segtrain.training.session import Session

MicroBatch = tuple[Tensor, Tensor]  # images and target, on the device


def copy_to_device(
    fabric: Fabric, batches: Iterable[Batch], channels_last: bool
) -> Iterator[MicroBatch]:
    """Copy batches to the device as they are requested; pinned memory is copied without waiting."""
    layout = choose_layout(fabric.device, channels_last)
    for batch in batches:
        images = copy_to(fabric.device, batch.images, layout)
        yield images, copy_to(fabric.device, batch.targets)


def train_step(
    session: Session, micro_batches: list[MicroBatch], observe: bool, mark: Callable[[str], None]
) -> tuple[Tensor, Tensor]:
    """Step on the mean loss of the micro-batches; return it (0-d) and the outcome (2,).

    The outcome, the same on all ranks, is [bad, signal]. `bad` is 1 if a loss or the gradient is
    not finite on any rank: then weights, optimizer and batch norm's statistics stay unchanged.
    `signal` is the code of a stop request, or 0. With `observe` the loss records its
    terms. `mark` is called with the phase that has just ended. Nothing here waits for the device.
    """
    fabric, training = session.fabric, session.training
    module, optimizer = training.module, training.optimizer
    training.buffers.take()
    loss = torch.zeros((), device=fabric.device)
    for number, (images, target) in enumerate(micro_batches, 1):
        # DDP adds up gradients over the ranks once a step, with the last micro-batch
        more_follow = fabric.world_size > 1 and number < len(micro_batches)
        with fabric.no_backward_sync(module, enabled=more_follow):
            share = module(images, target, observe=observe) / len(micro_batches)
            mark("forward")
            fabric.backward(share)
            mark("backward")
        loss += share.detach()
    scaler = getattr(fabric.strategy.precision, "scaler", None)
    if scaler is not None:  # of fp16
        spoil_gradient(optimizer, loss)
        scaler.unscale_(optimizer.optimizer)  # Fabric's clipping refuses fused optimizers here
    norm = clip_gradient(module, session.plan.config.optim.clip_norm)
    bad = ~(torch.isfinite(norm) & torch.isfinite(loss))
    # one collective for both: it also makes all ranks stop after the same step
    signum = torch.full_like(loss, session.stop_request.code)
    outcome = max_over_ranks(torch.stack([bad.float(), signum]))
    bad = outcome[0] > 0
    training.buffers.restore_if(bad)
    # fused optimizers read it on the device, as with a gradient scaler
    optimizer.optimizer.found_inf = bad.float()
    optimizer.step()
    optimizer.zero_grad()
    return loss, outcome


def spoil_gradient(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """Make the gradient NaN if any rank's loss (0-d) is not finite.

    A gradient scaler checks gradients only, and its result overrides ours.
    """
    bad = max_over_ranks((~torch.isfinite(loss)).float())
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    first = next(p for p in parameters if p.grad is not None)  # one NaN is enough
    first.grad += torch.where(bad > 0, torch.nan, 0.0)


def clip_gradient(module: nn.Module, clip_norm: float) -> Tensor:
    """Clip the norm of the whole gradient to clip_norm (0: don't); return the norm before (0-d)."""
    if clip_norm:
        return torch.nn.utils.clip_grad_norm_(module.parameters(), clip_norm)
    gradients = [p.grad for p in module.parameters() if p.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)
