"""Training steps side by side: a plain PyTorch loop, Lightning's Trainer, and segtrain's own.

    python benchmarks/train.py [--device cpu|cuda] [--threads N] [--models ARCH/ENCODER ...]
        [--precision 32 bf16] [--batch N] [--crop HxW] [--steps N] [--rounds N] [--data FOLDER]
        [--out FILE]

Each loop trains the same network from the same weights on the same pairs with plain cross-entropy
and SGD in the same precision (bf16: under torch.autocast), on batches that are ready in memory:

    plain      in the style of torchvision's references/segmentation/train.py: contiguous float
               images, normalised beforehand, F.cross_entropy(ignore_index), a scheduler's step and
               loss.item() in every iteration
    lightning  the same step under lightning.Trainer without logger, checkpoints or progress bar
               (`pip install lightning`; omitted where it is not installed)
    bare       only forward, backward and optimizer step of segtrain's TrainingModule; on a GPU its
               batches are there already
    segtrain   all that `segtrain fit` does in an epoch: train_epoch on uint8 batches

Each has its own process, since a loop may change settings of the process (memory allocation,
cuDNN's benchmarks); those of segtrain have its setting of OpenMP. They take turns of a few steps,
in one order and then in reverse, one at a time; ratios are between the turns of one round. With
--data, `loading` is the loop of `segtrain fit` on the files of that data set, in turns with bare
steps. Peak memory is that of the process: on a GPU its allocations, on the CPU its growth since the
imports.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import itertools
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from losses import memory_kib
from machine import RESULTS, machine
from torch import Tensor
from torch.optim.lr_scheduler import PolynomialLR

from segtrain.__main__ import ENVIRONMENT
from segtrain.commands.requests import read_loss
from segtrain.config import Config
from segtrain.config.loading import load_config
from segtrain.console import Note
from segtrain.data.data_set import DataSet, DataSource
from segtrain.data.demo import scene
from segtrain.data.images import ImageReader
from segtrain.data.inspection.survey import survey_data_set
from segtrain.data.layouts.pairing import ClassSource
from segtrain.data.loading.batch import Batch, collate
from segtrain.data.loading.sampling import UNIFORM
from segtrain.distributed.devices import resolve_device, resolve_precision
from segtrain.distributed.fabric import make_fabric
from segtrain.distributed.launch import RankMonitor
from segtrain.distributed.signals import StopRequest
from segtrain.losses.build import build_loss
from segtrain.models.segmentation import SegmentationModel
from segtrain.training.loaders import Loaders, open_loaders
from segtrain.training.loop import open_reader, start_training, train_epoch
from segtrain.training.module import TrainingModule
from segtrain.training.optim import build_optimizer
from segtrain.training.plan import TrainingPlan, make_model, make_plan
from segtrain.training.progress import Reporter
from segtrain.training.session import RunStart, Session
from segtrain.training.state import STEP_PHASES

SEED, IGNORED, BATCHES, EPOCHS = 0, 255, 4, 1000
CLASSES = 19  # as in Cityscapes; with --data, those of the data set
LR, MOMENTUM, DECAY = 1e-5, 0.9, 1e-4  # so small that clipping has no visible effect
# the share by which mean losses of the first turn may differ: bf16 rounds to 8 bits everywhere
SAME = {"32": 0.01, "bf16": 0.02}
BATCH_SIZES = {
    "cpu": {"unet/resnet18": 4, "deeplabv3plus/resnet50": 2},
    "cuda": {"unet/resnet18": 16, "deeplabv3plus/resnet50": 16},
}
CROPS, STEPS, ROUNDS = {"cpu": 256, "cuda": 512}, {"cpu": 2, "cuda": 30}, {"cpu": 12, "cuda": 15}
LOADING_STEPS, LOADING_ROUNDS = {"cpu": 25, "cuda": 300}, 3  # a worker's head start counts little
OVERHEAD = 0.03  # the largest share that the loop may add to the bare step
FROM_FILES = 0.95  # the least speed of training from files, as a share of the bare step's
# the least speed relative to plain, by device and CPU threads
FASTER = {("cpu", 1): 1.3, ("cpu", 2): 1.8, ("cuda", None): 1.5}


@dataclass(frozen=True)
class Case:
    """The settings that all loops share. Picklable, for their processes."""

    model: str  # ARCH/ENCODER
    batch_size: int
    crop: tuple[int, int]
    classes: int
    device: str
    precision: str  # 32 or bf16
    compile: str
    threads: int
    steps: int  # of a turn
    sets: tuple[str, ...]  # further settings of segtrain

    @property
    def config(self) -> Config:
        arch, encoder = self.model.split("/")
        flags = {
            "data.classes": [f"class {c}" for c in range(self.classes)],
            "data.lb_ignore": IGNORED,
            "augment.crop": list(self.crop),
            "model.arch": arch,
            "model.encoder": encoder,
            "model.weights": "none",
            "loss.expression": "ce",
            "optim.name": "sgd",
            "optim.lr": LR,
            "optim.momentum": MOMENTUM,
            "optim.weight_decay": DECAY,
            "optim.warmup": 0,
            "train.epochs": EPOCHS,
            "train.steps_per_epoch": self.steps,
            "train.batch_size": self.batch_size,
            "train.device": self.device,
            "train.precision": self.precision,
            "train.compile": self.compile,
            "train.seed": SEED,
        }
        return load_config(None, list(self.sets), flags)

    @property
    def data_set(self) -> DataSet:
        """A data set with classes and without files: the batches are painted."""
        source = DataSource(
            config=self.config.data,
            merged=self.config.data,
            root=Path(),
            format="pairs",
            layout="",
            splits={},
            images=ImageReader(),
            location=Note(""),
            findings=[],
            notes=(),
            class_source=ClassSource(),
        )
        return source.with_classes([f"class {c}" for c in range(self.classes)])

    def segmentation_model(self) -> SegmentationModel:
        torch.manual_seed(SEED)
        return make_model(self.config, self.classes)

    def batches(self) -> list[Batch]:
        """Return painted scenes as segtrain's loader yields them; pinned for a GPU."""
        batches = []
        for number in range(BATCHES):
            indices = range(number * self.batch_size, (number + 1) * self.batch_size)
            pairs = (scene(SEED, index, self.crop) for index in indices)
            items = [
                (torch.from_numpy(image).permute(2, 0, 1), torch.from_numpy(mask))
                for image, mask in pairs
            ]
            images, targets = collate(items)
            if self.device == "cuda":
                images, targets = images.pin_memory(), targets.pin_memory()
            batches.append(Batch(images, targets, list(indices), {}))
        return batches

    def normalised(self, model: SegmentationModel) -> list[tuple[Tensor, Tensor]]:
        """Return the same batches as other loaders yield them: contiguous float32, int64."""
        pairs = [
            (((b.images.float() - model.mean) / model.std).contiguous(), b.targets.long())
            for b in self.batches()
        ]
        return [(i.pin_memory(), t.pin_memory()) for i, t in pairs] if self.on_gpu else pairs

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device, torch.bfloat16, enabled=self.precision == "bf16")

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


def plain_network(case: Case, model: SegmentationModel) -> torch.nn.Module:
    """Build the library's own network, whose head upsamples, with the weights of `model`."""
    arch, encoder = case.model.split("/")
    network = smp.create_model(arch, encoder, encoder_weights=None, classes=case.classes)
    network.load_state_dict(model.network.state_dict())
    return network.train()


def plain_optimizer(network: torch.nn.Module) -> tuple[torch.optim.Optimizer, PolynomialLR]:
    optimizer = torch.optim.SGD(network.parameters(), LR, MOMENTUM, weight_decay=DECAY)
    return optimizer, PolynomialLR(optimizer, total_iters=1_000_000, power=0.9)


class PlainLoop:
    def __init__(self, case: Case):
        torch.backends.cudnn.benchmark = True  # as torchvision's references do
        model = case.segmentation_model()
        self.case, self.pairs = case, case.normalised(model)
        self.network = plain_network(case, model).to(case.device)
        self.optimizer, self.scheduler = plain_optimizer(self.network)
        self.meters = {"loss": deque(maxlen=1000), "lr": deque(maxlen=1)}

    def turn(self) -> None:
        for step in range(self.case.steps):
            image, target = self.pairs[step % BATCHES]
            image, target = image.to(self.case.device), target.to(self.case.device)
            with self.case.autocast():
                output = self.network(image)
                loss = F.cross_entropy(output, target, ignore_index=IGNORED)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.scheduler.step()
            self.meters["loss"].append(loss.item())
            self.meters["lr"].append(self.optimizer.param_groups[0]["lr"])

    def report(self) -> dict:
        """Return the mean loss of the last turn."""
        return {"loss": statistics.mean(list(self.meters["loss"])[-self.case.steps :])}


class BareSteps:
    def __init__(self, case: Case):
        config, model = case.config, case.segmentation_model()
        make_fabric(config.train)  # for the settings of the process that it makes
        self.case, self.loss_sum = case, torch.zeros((), device=case.device)
        loss = build_loss(read_loss(config), case.classes, config.data.lb_ignore)
        module = TrainingModule(model, loss, case.compile == "on").to(case.device)
        layout = torch.channels_last if config.train.channels_last else torch.contiguous_format
        self.module = module.to(memory_format=layout).train()
        self.optimizer = build_optimizer(model, module.loss, config.optim)
        self.pairs = [
            (
                batch.images.to(case.device, memory_format=layout),
                batch.targets.to(case.device).long(),
            )
            for batch in case.batches()
        ]

    def turn(self) -> None:
        for step in range(self.case.steps):
            with self.case.autocast():
                loss = self.module(*self.pairs[step % BATCHES])
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.loss_sum += loss.detach()

    def report(self) -> dict:
        mean = self.loss_sum.item() / self.case.steps
        self.loss_sum.zero_()
        return {"loss": mean}


class ReadyLoader:
    """A loader stand-in: as many ready batches as the loop requests."""

    num_workers = 0

    def __init__(self, batches: list[Batch]):
        self.batches = batches
        self.sampler = SimpleNamespace(start=0, stop=0)
        self.dataset = SimpleNamespace(record_unread=lambda unread: None)

    def __iter__(self) -> Iterator[Batch]:
        for step in range(self.sampler.stop - self.sampler.start):
            yield self.batches[step % BATCHES]


class Segtrain:
    """The loop of `segtrain fit`, a turn an epoch; on ready batches, or on the files of data."""

    def __init__(self, case: Case, data: Path | None = None):
        plan = plan_of(data, case) if data else plan_without_files(case)
        self.folder = tempfile.TemporaryDirectory()  # of the run, which records its environment
        start = RunStart(plan, Path(self.folder.name), None)
        with redirect_stdout(io.StringIO()):
            fabric = make_fabric(plan.config.train)
            fabric.launch()
            training, _ = start_training(fabric, start, case.segmentation_model())
            reporter = Reporter(plan, training.state, True)
        if data:
            self.loaders = open_loaders(plan, fabric)
        else:
            loader = ReadyLoader(case.batches())
            self.loaders = Loaders(loader, loader.sampler, {}, 0, ())
        self.session = Session(
            fabric,
            plan,
            start.run,
            training,
            reporter,
            StopRequest(),  # not entered, so without handlers
            RankMonitor(fabric, plan.config.train, None),  # of no other processes
        )
        self.reader = open_reader(self.session, self.loaders) if data else None

    def turn(self) -> None:
        with redirect_stdout(io.StringIO()):
            # workers read on between turns; each turn on ready batches begins with the first
            reader = self.reader or open_reader(self.session, self.loaders)
            train_epoch(self.session, reader, None)

    def report(self) -> dict:
        plan, training = self.session.plan, self.session.training
        terms = training.loss.report(plan.data.classes)
        row = training.state.end_epoch(plan, LR, None, terms, 0.0)
        steps = plan.steps_per_epoch
        timer = {phase: 1e3 * row[f"{phase}_seconds"] / steps for phase in STEP_PHASES}
        return {"loss": row["train_loss"], "laps_ms": timer}


OTHERS = "plain", "lightning"  # without what segtrain sets in its process
LOOPS = {"plain": PlainLoop, "bare": BareSteps, "segtrain": Segtrain}


def has_lightning() -> bool:
    return importlib.util.find_spec("lightning") is not None


class TurnsOfBatches:
    """A loader for the Trainer, which requests the next batch when a step is over."""

    def __init__(self, turns: Iterator[tuple[Tensor, Tensor]]):
        self.turns = turns

    def __len__(self) -> int:  # with a length the Trainer doesn't read ahead
        return 10**9

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.turns


def serve_trainer(case: Case, connection: Connection) -> None:
    """Answer as `serve` does, from within the Trainer's loop."""
    import lightning.pytorch as pl

    warnings.filterwarnings("ignore", module="lightning")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    losses = []

    class Lightning(pl.LightningModule):
        def __init__(self, network: torch.nn.Module):
            super().__init__()
            self.network = network

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            image, target = batch
            loss = F.cross_entropy(self.network(image), target, ignore_index=IGNORED)
            self.log("loss", loss)
            losses.append(loss.detach())
            return loss

        def configure_optimizers(self) -> dict:
            optimizer, scheduler = plain_optimizer(self.network)
            return {
                "optimizer": optimizer,
                "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
            }

    def turns() -> Iterator[tuple[Tensor, Tensor]]:
        while connection.recv():
            began = now(case)
            yield from (pairs[step % BATCHES] for step in range(case.steps))
            seconds = now(case) - began
            loss = torch.stack(losses).mean().item()
            losses.clear()
            connection.send({"seconds": seconds, "loss": loss, "peak_mib": peak_mib(case, before)})

    trainer = pl.Trainer(
        accelerator="gpu" if case.on_gpu else "cpu",
        devices=1,
        precision="bf16-mixed" if case.precision == "bf16" else "32-true",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    before = memory_before()
    model = case.segmentation_model()
    pairs = case.normalised(model)
    trainer.fit(Lightning(plain_network(case, model)), TurnsOfBatches(turns()))


def serve(case: Case, name: str, data: Path | None, connection: Connection) -> None:
    """Run a loop in this process: take a turn for each True that arrives, until a False does.

    Answer with seconds, mean loss and peak_mib; segtrain answers with laps_ms, too.
    """
    torch.set_num_threads(case.threads)
    if name == "lightning":
        return serve_trainer(case, connection)
    before = memory_before()
    loop = Segtrain(case, data) if name == "loading" else LOOPS[name](case)
    while connection.recv():
        began = now(case)
        loop.turn()
        seconds = now(case) - began
        peak = peak_mib(case, before)
        connection.send({"seconds": seconds, "peak_mib": peak} | loop.report())


def now(case: Case) -> float:
    """Return a clock's seconds, once the device has finished its work."""
    if case.on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter()


def memory_before() -> int:
    """Return KiB of this process; from now on VmHWM is its peak."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_kib("VmRSS")


def peak_mib(case: Case, before: int) -> float:
    if case.on_gpu:
        return torch.cuda.max_memory_allocated() / 2**20
    return (memory_kib("VmHWM") - before) / 2**10


class LoopProcess:
    """The process of a loop, which waits between its turns."""

    def __init__(self, case: Case, name: str, data: Path | None):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(case, name, data, theirs))
        self.process.start()
        theirs.close()  # so that its death ends the wait for it

    def turn(self) -> dict:
        self.connection.send(True)
        return self.connection.recv()

    def end(self) -> None:
        with suppress(OSError):  # it may have died
            self.connection.send(False)
        self.process.join()


def take_turns(
    case: Case, names: list[str], rounds: int, data: Path | None = None
) -> dict[str, list[dict]]:
    """Return the answers of each loop, by name and round; the first round is a warm-up."""
    processes = {}
    for name in names:  # a process reads its environment as it imports torch
        with patch.dict(os.environ, {} if name in OTHERS else ENVIRONMENT):
            processes[name] = LoopProcess(case, name, data)
    answers: dict[str, list[dict]] = {name: [] for name in names}
    try:
        for number in range(rounds + 1):
            for name in names if number % 2 else reversed(names):
                answers[name].append(processes[name].turn())
    finally:
        for process in processes.values():
            process.end()
    return answers


def summary(values: list[float], digits: int = 3) -> dict:
    return {
        "median": round(statistics.median(values), digits),
        "spread": [round(min(values), digits), round(max(values), digits)],
    }


def ratios(over: list[float], under: list[float]) -> dict:
    return summary([a / b for a, b in zip(over, under, strict=True)], 4)


def phase_times(answers: list[dict]) -> dict[str, float]:
    """Return the milliseconds of a step in each phase, by the loop's own clock."""
    return {
        phase: round(statistics.median(a["laps_ms"][phase] for a in answers), 2)
        for phase in STEP_PHASES
    }


def measure_speed(case: Case, rounds: int) -> dict:
    names = ["plain", "bare", "segtrain"] + ["lightning"] * has_lightning()
    answers = take_turns(case, names, rounds)
    first = {name: turns[0]["loss"] for name, turns in answers.items()}
    if any(abs(loss / first["plain"] - 1) > SAME[case.precision] for loss in first.values()):
        raise SystemExit(
            f"the loops do not compute the same: mean losses of the first turn are {first}"
        )
    seconds = {name: [a["seconds"] for a in turns[1:]] for name, turns in answers.items()}
    images = case.batch_size * case.steps
    loops = {
        name: {
            "images_per_second": summary([images / s for s in taken], 2),
            "ms_a_step": summary([1e3 * s / case.steps for s in taken], 2),
            "against_plain": ratios(seconds["plain"], taken),
            "peak_mib": round(max(a["peak_mib"] for a in answers[name]), 1),
            "first_loss": first[name],
        }
        for name, taken in seconds.items()
    }
    loops["segtrain"]["laps_ms"] = phase_times(answers["segtrain"][1:])
    loops["segtrain"]["seconds_over_bare"] = ratios(seconds["segtrain"], seconds["bare"])
    return loops


def measure_loading(case: Case, data: Path, rounds: int) -> dict:
    """Measure training from files, against bare steps on ready batches."""
    answers = take_turns(case, ["bare", "loading"], rounds, data)
    bare, loading = ([a["seconds"] for a in answers[name][1:]] for name in ("bare", "loading"))
    return {
        "steps_a_turn": case.steps,
        "images_per_second": summary([case.batch_size * case.steps / s for s in loading], 2),
        "against_bare": ratios(bare, loading),
        "laps_ms": phase_times(answers["loading"][1:]),
    }


def plan_without_files(case: Case) -> TrainingPlan:
    """Return the plan of a run of that case on painted batches."""
    return TrainingPlan(
        config=case.config,
        data=case.data_set,
        loss=read_loss(case.config),
        crop=case.crop,
        image_sizes={},
        mask_digests={},
        epochs=case.config.train.epochs,
        steps_per_epoch=case.steps,
        by_class=UNIFORM,
        notes=(),
    )


def plan_of(data: Path, case: Case) -> TrainingPlan:
    """Return the plan of a run of that case on a data set."""
    config = case.config
    data_config = config.data.model_copy(update={"path": str(data), "classes": None})
    config = config.model_copy(update={"data": data_config})
    survey = survey_data_set(config.data, config.model.in_channels)
    return make_plan(config, read_loss(config), survey)


def against_goals(case: Case, loops: dict, loading: dict | None) -> list[dict]:
    over = loops["segtrain"]["seconds_over_bare"]["median"] - 1
    goals = [
        {
            "what": "the loop's share on top of the bare step",
            "goal": OVERHEAD,
            "found": round(over, 4),
            "met": over <= OVERHEAD,
        }
    ]
    least = FASTER.get((case.device, None if case.on_gpu else case.threads))
    if least:
        speed = loops["segtrain"]["against_plain"]["median"]
        goals.append(
            {"what": "speed against plain", "goal": least, "found": speed, "met": speed >= least}
        )
    if loading:
        speed = loading["against_bare"]["median"]
        goals.append(
            {
                "what": "speed from files against the bare step",
                "goal": FROM_FILES,
                "found": speed,
                "met": speed >= FROM_FILES,
            }
        )
    return goals


def measure(case: Case, options: argparse.Namespace) -> dict:
    loops, loading = measure_speed(case, options.rounds), None
    if options.data:
        longer = replace(case, steps=options.loading_steps)
        loading = measure_loading(longer, options.data, options.loading_rounds)
    result = asdict(case) | {"contenders": loops, "loading": loading}
    result["goals"] = against_goals(case, loops, loading)
    print_result(result)
    return result


def print_result(result: dict) -> None:
    height, width = result["crop"]
    print(
        f"{result['model']}, batches of {result['batch_size']} {height}x{width}, "
        f"{result['precision']}, compile {result['compile']}, {result['device']}, "
        f"{result['threads']} threads"
    )
    for name, loop in result["contenders"].items():
        low, high = loop["against_plain"]["spread"]
        print(
            f"  {name:10} {loop['images_per_second']['median']:8.2f} images/s "
            f"{loop['ms_a_step']['median']:9.2f} ms a step "
            f"{loop['against_plain']['median']:6.3f}x plain ({low:.3f}-{high:.3f}) "
            f"{loop['peak_mib']:8.0f} MiB"
        )
    ours = result["contenders"]["segtrain"]
    low, high = ours["seconds_over_bare"]["spread"]
    print(f"  segtrain / bare: {ours['seconds_over_bare']['median']:.4f} ({low:.4f}-{high:.4f})")
    print(f"  phases, ms a step: {ours['laps_ms']}")
    if loading := result["loading"]:
        low, high = loading["against_bare"]["spread"]
        print(
            f"  from files: {loading['images_per_second']['median']:.2f} images/s, "
            f"{loading['against_bare']['median']:.3f}x bare ({low:.3f}-{high:.3f}); "
            f"phases {loading['laps_ms']}"
        )
    for goal in result["goals"]:
        met = "met" if goal["met"] else "not met"
        print(f"  {goal['what']}: {goal['found']}, goal {goal['goal']}: {met}")


def options_of(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--models", nargs="+", default=list(BATCH_SIZES["cpu"]), metavar="A/E")
    parser.add_argument("--batch", type=int, help="images a step")
    parser.add_argument("--crop", type=int, help="height and width in pixels")
    parser.add_argument("--precision", nargs="+", default=["auto"], choices=("auto", "32", "bf16"))
    parser.add_argument("--compile", choices=("on", "off"), help="of segtrain's; on for a GPU")
    parser.add_argument("--steps", type=int, help="of a turn")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--data", type=Path, help="a data set, to train from its files as well")
    parser.add_argument("--loading-steps", type=int, help="of a turn that trains from files")
    parser.add_argument("--loading-rounds", type=int, default=LOADING_ROUNDS)
    parser.add_argument("--set", action="append", default=[], help="a setting of segtrain")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    device = options.device = resolve_device(options.device)
    options.precision = [resolve_precision(each, device) for each in options.precision]
    if "fp16" in options.precision:  # would need a gradient scaler in every loop
        raise SystemExit("this GPU has no bf16: give --precision 32")
    options.compile = options.compile or ("on" if device == "cuda" else "off")
    options.crop = options.crop or CROPS[device]
    options.steps = options.steps or STEPS[device]
    options.rounds = options.rounds or ROUNDS[device]
    options.loading_steps = options.loading_steps or LOADING_STEPS[device]
    options.out = options.out or RESULTS / f"train_{device}.json"
    return options


def main() -> None:
    options = options_of(sys.argv[1:])
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEGTRAIN_CACHE"] = folder
        results = []
        for model, precision in itertools.product(options.models, options.precision):
            case = Case(
                model,
                options.batch or BATCH_SIZES[options.device].get(model, 4),
                (options.crop, options.crop),
                CLASSES,
                options.device,
                precision,
                options.compile,
                options.threads,
                options.steps,
                tuple(options.set),
            )
            if options.data:
                classes = plan_of(options.data, case).data.classes
                case = replace(case, classes=len(classes))
            results.append(measure(case, options))
    environment = machine(options.device)
    environment["packages"]["lightning"] = version("lightning") if has_lightning() else None
    content = {
        "command": command(sys.argv[1:], options),
        "seed": SEED,
        "rounds": options.rounds,
        "environment": environment,
        "cases": results,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")


def command(arguments: list[str], options: argparse.Namespace) -> str:
    """Return the command line without this machine's folders."""
    names = {str(options.out): f"benchmarks/results/{options.out.name}"}
    if options.data:
        names[str(options.data)] = f"FOLDER_OF_{options.data.name.upper()}"
    return " ".join(["python benchmarks/train.py", *(names.get(a, a) for a in arguments)])


if __name__ == "__main__":
    main()
