"""segtrain fit: the training loop, to be read from top to bottom."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from segtrain.checkpoint import Meta, load_state, save_model, save_state
from segtrain.config import Config
from segtrain.configfile import load_config, save_config
from segtrain.data.dataset import checked, worker_count
from segtrain.data.sampling import seed_at
from segtrain.devices import make_fabric, share_buffers
from segtrain.errors import SegtrainError
from segtrain.evaluate import validate
from segtrain.feed import open_feed
from segtrain.metrics import Scores
from segtrain.model import SegmentationModel, check_names
from segtrain.optim import build_optimizer, lr_at
from segtrain.plan import (
    Plan,
    describe,
    loss_of,
    make_plan,
    new_model,
    refuse_changes,
    run_to_resume,
)
from segtrain.pretrained import load_weights
from segtrain.progress import Reporter, number
from segtrain.runlog import (
    BEST,
    CONFIG,
    ENVIRONMENT,
    LAST,
    STATE,
    History,
    Stopwatch,
    create_run,
    default_name,
    environment,
    point_latest,
    refuse_name,
    write_json,
)
from segtrain.step import TrainingModule, describe_path


@dataclass
class TrainState:
    """What the loop changes, and so exactly what is saved."""

    epoch: int = 0  # epochs done
    best: float | None = None
    rows: list[dict[str, Any]] = field(default_factory=list)

    def improve(self, scores: Scores | None) -> bool:
        """Whether the validation beats the best so far, which it then becomes."""
        miou = scores and scores.miou
        if miou is None or self.best is not None and miou <= self.best:
            return False
        self.best = miou
        return True


def fit(
    file: Path | None,
    sets: list[str],
    flags: dict[str, Any],
    out: Path,
    name: str | None = None,
    resume: str | None = None,
    dry_run: bool = False,
) -> Path | None:
    """The verb: trains, and returns the run's folder. With dry_run, says what it would do."""
    old_run = run_to_resume(resume, out) if resume else None
    base = load_config(old_run / CONFIG) if old_run else None
    config = load_config(file, sets, flags, base)
    check_names(config.model.arch, config.model.encoder)
    loss_of(config)  # a typo costs no scan
    fabric = make_fabric(config.train)
    if dry_run:
        return describe(make_plan(config, print)) if fabric.is_global_zero else None
    plan = model = None
    if fabric.is_global_zero:
        if name and not old_run:
            refuse_name(out, name)
        plan = make_plan(config, print)
        model = first_model(plan.config, load=not old_run)  # refused weights leave no folder
        name = name or default_name(config.model.arch, config.loss.expression)
        plan = open_run(plan, out, name, old_run, fabric)
    fabric.launch()
    plan = fabric.broadcast(plan)
    train(fabric, plan, model or new_model(plan.config))  # on wrapping all get rank 0's weights
    return plan.run


def first_model(config: Config, load: bool) -> SegmentationModel:
    """The model as training starts from it, its weights loaded where they are to be."""
    torch.manual_seed(config.train.seed)
    model = new_model(config)
    if load:
        print(load_weights(model, config.model))
    return model


def open_run(plan: Plan, out: Path, name: str, old_run: Path | None, fabric: Fabric) -> Plan:
    """The plan with the folder that the run writes to: a new one, or the one to resume."""
    config = plan.config
    if old_run:
        refuse_changes(old_run, config)
        run = old_run
    else:
        run = create_run(out, name)
    save_config(config, run / CONFIG)
    point_latest(run)
    print(f"run: {run}")
    return replace(plan, run=run, resume=old_run is not None)


def train(fabric: Fabric, plan: Plan, model: SegmentationModel) -> None:
    """The loop over epochs."""
    config, run = plan.config, plan.run
    module, optimizer, state = start(fabric, plan, model)
    on_gpu = fabric.device.type == "cuda"
    workers = worker_count(config.data.workers, on_gpu, config.train.devices)
    loader, held_out, line = open_feed(plan, workers, on_gpu, fabric.global_rank, fabric.world_size)
    epochs, steps, loud = config.train.epochs, plan.steps_per_epoch, fabric.is_global_zero
    if line and loud:
        print(line)
    history = History(run, state.rows) if loud else None  # adds its rows to the state's
    with Reporter(epochs, epochs * steps, state.epoch * steps, state.best, loud) as reporter:
        for epoch in range(state.epoch, epochs):
            clock = Stopwatch()
            batches = loader.batch_sampler
            batches.start, batches.stop = epoch * steps, (epoch + 1) * steps
            loss = train_epoch(fabric, plan, module, optimizer, loader, reporter)
            seconds = clock.seconds
            scores = None
            if (epoch + 1) % config.eval.every == 0 or epoch + 1 == epochs:
                reporter.validating(epoch)
                share_buffers(fabric, model)
                scores = validate(model, held_out, config.data.classes, fabric, workers)
            state.epoch = epoch + 1
            improved = state.improve(scores)
            terms = module.loss.report(config.data.classes)
            if loud:
                row = make_row(plan, epoch, loss, terms, seconds, clock.seconds, scores)
                history.add(row)
                save(fabric, plan, module, optimizer, state, scores, improved)
                reporter.epoch(row, state.best)
    if loud:
        history.close()
        for split, pairs in (("train", loader.dataset), ("val", held_out)):
            if pairs.skipped:
                print(f"{split}: {pairs.skipped}")
        print(f"best mIoU {number(state.best)}; checkpoint: {run / BEST}")


def start(
    fabric: Fabric, plan: Plan, model: SegmentationModel
) -> tuple[nn.Module, torch.optim.Optimizer, TrainState]:
    """Wrapped module, optimiser and state: new, or as the last epoch left them."""
    config = plan.config
    loss = loss_of(config, plan.palette)
    if fabric.is_global_zero:
        path = describe_path(model, loss, fabric.device)
        print(f"loss: {path}")
        if not plan.resume:
            write_json(plan.run / ENVIRONMENT, environment(fabric.device) | {"loss_path": path})
    module = TrainingModule(model, loss)
    if config.train.channels_last:
        module = module.to(memory_format=torch.channels_last)
    if fabric.world_size > 1 and fabric.device.type == "cuda":
        module = nn.SyncBatchNorm.convert_sync_batchnorm(module)
    saved = load_state(plan.run / STATE) if plan.resume else None
    if saved:
        model.load_state_dict(saved["model"])
        loss.load_state_dict(saved["loss"], strict=False)  # what it learns; vgg's weights are fixed
    module, optimizer = fabric.setup(module, build_optimizer(module, config.optim))
    if not saved:
        return module, optimizer, TrainState()
    optimizer.load_state_dict(saved["optimizer"])
    fabric.strategy.precision.load_state_dict(saved["precision"])
    return module, optimizer, TrainState(saved["epoch"], saved["best"], saved["rows"])


def train_epoch(
    fabric: Fabric,
    plan: Plan,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader,
    reporter: Reporter,
) -> float:
    """One epoch; the mean loss of its steps."""
    config, total_steps = plan.config, plan.config.train.epochs * plan.steps_per_epoch
    memory_format = torch.channels_last if config.train.channels_last else torch.contiguous_format
    loss_sum, clock = torch.zeros((), device=fabric.device), Stopwatch()
    module.train()
    sampler = loader.batch_sampler
    for step, batch in enumerate(checked(loader), sampler.start):
        # dropout is a function of (seed, step, rank), so no random state needs to be kept
        torch.manual_seed(seed_at(config.train.seed, step, fabric.global_rank))
        lr = lr_at(step, total_steps, config.optim)
        for group in optimizer.param_groups:
            group["lr"] = lr
        images = batch.images.to(fabric.device, non_blocking=True, memory_format=memory_format)
        target = batch.targets.to(fabric.device, non_blocking=True).long()
        done = step + 1 - sampler.start
        reads = done % config.train.log_every == 0 or step + 1 == sampler.stop
        loss = module(images, target, observe=reads)
        fabric.backward(loss)
        if config.optim.clip_norm:
            fabric.clip_gradients(
                module, optimizer, max_norm=config.optim.clip_norm, error_if_nonfinite=False
            )
        optimizer.step()
        optimizer.zero_grad()
        loss_sum += loss.detach()
        if reads:
            current = loss.item()  # waits for the device: every log_every steps only
            refuse_non_finite(current, step)
            speed = done * config.train.batch_size / clock.seconds
            reporter.step(step // plan.steps_per_epoch, step + 1, current, lr, speed)
    return loss_sum.item() / plan.steps_per_epoch


def refuse_non_finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise SegtrainError(
            f"the loss is {loss} at step {step + 1}; try a lower --lr, or "
            "--precision 32; the last checkpoint is as it was"
        )


def make_row(
    plan: Plan,
    epoch: int,
    loss: float,
    terms: dict[str, float | None],
    seconds: float,
    all_seconds: float,
    scores: Scores | None,
) -> dict[str, Any]:
    """A row of metrics.csv; seconds and images_per_second are of this machine, all else repeats."""
    config, steps = plan.config, plan.steps_per_epoch
    row = {
        "epoch": epoch + 1,
        "step": (epoch + 1) * steps,
        "lr": lr_at((epoch + 1) * steps - 1, config.train.epochs * steps, config.optim),
        "train_loss": loss,
        "val_miou": scores and scores.miou,
        "val_pixel_accuracy": scores and scores.pixel_accuracy,
        "val_mean_accuracy": scores and scores.mean_accuracy,
        "val_fw_iou": scores and scores.fw_iou,
    }
    for place, name in enumerate(config.data.classes):
        row[f"val_iou/{name}"] = scores and scores.classes[place]["iou"]
    row |= {f"loss/{key}": value for key, value in terms.items()}
    speed = steps * config.train.batch_size / seconds
    return row | {"images_per_second": speed, "train_seconds": seconds, "seconds": all_seconds}


def save(
    fabric: Fabric,
    plan: Plan,
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: TrainState,
    scores: Scores | None,
    improved: bool,
) -> None:
    """last.safetensors, best.safetensors where it improved, and last.state.pt."""
    model, miou = module.model, scores.miou if scores else None
    meta = Meta.of(model, plan.config, palette=plan.palette, epoch=state.epoch, miou=miou)
    save_model(plan.run / LAST, model, meta)
    if improved or not (plan.run / BEST).exists():
        save_model(plan.run / BEST, model, meta)
    # weights too: one file, so one rename, is a state that fits together
    save_state(
        plan.run / STATE,
        {
            "model": model.state_dict(),
            "loss": dict(module.loss.named_buffers()),
            "optimizer": optimizer.state_dict(),
            "precision": fabric.strategy.precision.state_dict(),
            "epoch": state.epoch,
            "best": state.best,
            "rows": state.rows,
        },
    )
