"""The largest batch that a GPU can take, for train.batch_size: auto, found by real steps."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from segtrain.config import Config
from segtrain.console import write
from segtrain.data.inspection.survey import Survey
from segtrain.distributed.devices import choose_layout, resolve_device
from segtrain.distributed.fabric import make_lone_fabric
from segtrain.distributed.launch import RankMonitor
from segtrain.distributed.limits import is_out_of_memory
from segtrain.distributed.signals import StopRequest
from segtrain.errors import SegtrainError, UsageError
from segtrain.losses.spec import LossSpec
from segtrain.training.loop import start_training
from segtrain.training.plan import TrainingPlan, make_model, make_plan
from segtrain.training.progress import Reporter
from segtrain.training.session import RunStart, Session
from segtrain.training.step import train_step

ON_CPU = 8  # images in the batch that the refusal of a CPU names
USED = 0.95  # share of the GPU's memory that steps may take; fragments and odd sizes take more
TRIED_STEPS = 2  # in the second one the optimizer has its state


def resolve_batch_size(config: Config, loss: LossSpec, survey: Survey) -> Config:
    """Return the config with a number for train.batch_size: auto, and print it.

    Raise UsageError on a CPU and on MPS, and SegtrainError where not one image a device fits.
    """
    train, images = config.train, len(survey.data_set.splits["train"])
    if train.batch_size != "auto":
        return config
    parts = train.devices * train.nodes * train.accumulate
    most = max(1, images // parts)
    device = resolve_device(train.device)
    if device != "cuda":  # the GPU of a Mac has the memory of all programs
        number = parts * min(max(2, ON_CPU // parts), most)  # a batch norm may need two
        raise UsageError(
            "train.batch_size: auto fills the memory of a GPU, and this training is on "
            f"{'a CPU' if device == 'cpu' else device}; give a number, such as --batch-size "
            f"{number}"
        )
    plan = make_plan(_with_batch_size(config, parts * min(2, most)), loss, survey)
    size = parts * find_largest(Trial(plan).fits, most)
    (height, width), spare = plan.crop, f"{1 - USED:.0%} of the memory is left"
    if not size:
        raise SegtrainError(
            f"out of memory: {plan.config.model.arch} on {plan.config.model.encoder} can't train "
            f"on one crop of {height}x{width} here; use a smaller --crop or --encoder"
        )
    limit = "as many as there are" if size + parts > images else spare
    write(f"train.batch_size: auto is {size} crops of {height}x{width} ({limit})")
    return _with_batch_size(config, size)


def find_largest(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest of 1, 2, ..., most that fits, or 0: by doubling, then by halving."""
    fitting, failing = 0, 1
    while failing <= most and fits(failing):
        fitting, failing = failing, 2 * failing
    failing = min(failing, most + 1)
    while failing - fitting > 1:
        middle = (fitting + failing) // 2
        fitting, failing = (middle, failing) if fits(middle) else (fitting, middle)
    return fitting


def _with_batch_size(config: Config, batch_size: int) -> Config:
    train = config.train.model_copy(update={"batch_size": batch_size})
    return config.model_copy(update={"train": train})


class Trial:
    """Real steps of a plan's training on one device, with batches of any size; they are no run."""

    def __init__(self, plan: TrainingPlan):
        train = plan.config.train.model_copy(update={"devices": 1, "nodes": 1, "compile": "off"})
        plan = replace(plan, config=plan.config.model_copy(update={"train": train}))
        fabric, run = make_lone_fabric(train), Path()  # where nothing is written
        model = make_model(plan.config, len(plan.data.classes))
        self.trains_on_one = model.can_train_on_one(plan.crop)
        training, _ = start_training(fabric, RunStart(plan, run, None), model)
        reporter = Reporter(plan, training.state, is_rank_zero=False)
        monitor = RankMonitor(fabric, train, None)
        self.session = Session(fabric, plan, run, training, reporter, StopRequest(), monitor)

    def take_steps(self, images: int) -> None:
        """Take steps on micro-batches of so many random images."""
        fabric, plan, training = self.session.fabric, self.session.plan, self.session.training
        channels, train = plan.config.model.in_channels, plan.config.train
        data = torch.randint(
            256, (images, channels, *plan.crop), dtype=torch.uint8, device=fabric.device
        )
        data = data.to(memory_format=choose_layout(fabric.device, train.channels_last))
        target = torch.randint(
            len(plan.data.classes), (images, *plan.crop), dtype=torch.int16, device=fabric.device
        )
        # from the second micro-batch on there are gradients beside the activations
        micro_batches = [(data, target)] * min(2, train.accumulate)
        training.module.train()
        for _ in range(TRIED_STEPS):
            _, outcome = train_step(self.session, micro_batches, True, lambda phase: None)
            outcome.tolist()  # wait for the device
            training.buffers.close()
            training.loss.observed.clear()

    def fits(self, images: int) -> bool:
        """Return whether steps on micro-batches of so many images fit into USED of the memory."""
        if images == 1 and not self.trains_on_one:
            return True  # the plan refuses it, with its reason
        device = self.session.fabric.device
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(USED, device)
        fitting = True
        try:
            self.take_steps(images)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            fitting = False
        self.session.training.optimizer.zero_grad()
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(1.0, device)
        return fitting
