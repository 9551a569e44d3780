"""Overhead of scoring over bare forward passes: validation inside fit, and all that eval adds.

    python benchmarks/evaluate.py [--device cpu|cuda] [--threads N] [--data FOLDER_OF_CAMVID]
        [--images N] [--rounds N] [--out FILE]

One network (configs/camvid.yaml's, random weights) predicts the same images one by one in each of
these variants, which take turns in one process; ratios are of the turns of one round:

    bare       only the forward passes, on images that are on the device already
    validate   fit's validation, on pairs decoded in advance (data.cache: ram)
    files      the same from files, with the loader of fit
    eval       the pass of `segtrain eval` over decoded pairs: confusion, calibration, OHEM's kept
               pixels, boundary IoU, regions, 3C integers an image

Then the bootstrap of 1,000 images, and the growth of memory over 10,000 small ones, both with 19
classes. Without --data the images are painted scenes of CamVid's size. On a CPU also upsampling.py:
class ids of low-resolution logits by rows, against all logits of full size.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from losses import memory_kib
from machine import RESULTS, machine
from PIL import Image
from torch import Tensor
from upsampling import measure_upsampling

from segtrain.config.loading import load_config
from segtrain.data.demo import scene
from segtrain.data.inspection.survey import open_data_set
from segtrain.data.loading.cache import RamCache
from segtrain.data.loading.dataset import Pairs, worker_count
from segtrain.distributed.devices import build_predictor
from segtrain.distributed.fabric import make_fabric
from segtrain.evaluation.accumulator import Accumulator
from segtrain.evaluation.prediction import Prediction, SplitPredictor
from segtrain.evaluation.validation import validate
from segtrain.losses.build import build_mining
from segtrain.losses.spec import parse_loss
from segtrain.metrics import bootstrap
from segtrain.training.plan import make_model

ROOT = Path(__file__).parents[1]
SIZE, CLASSES, MANY, RESAMPLED = (360, 480), 19, 10_000, 1000
GOAL = {"cpu": 0.10, "cuda": 0.05}  # limit of what validation adds to bare forward passes


def paint(folder: Path, images: int) -> None:
    """Write scenes as val of a data set with CamVid's class ids; train must hold one."""
    for index in range(images + 1):
        image, mask = scene(0, index, SIZE)
        split = ("val", "valannot") if index else ("train", "trainannot")
        for kind, array in zip(split, (image, mask), strict=True):
            (folder / kind).mkdir(exist_ok=True)
            Image.fromarray(array).save(folder / kind / f"{index}.png")


def measure(folder: Path, args: argparse.Namespace) -> dict:
    flags = {"data.path": str(folder), "model.weights": "none"}
    flags |= {"train.device": args.device, "train.precision": "auto"}
    config = load_config(ROOT / "configs/camvid.yaml", ["data.label_map={11: ignore}"], flags)
    fabric = make_fabric(config.train)
    torch.manual_seed(0)
    model = make_model(config, len(config.data.classes)).to(fabric.device).eval()
    model = model.to(memory_format=torch.channels_last)
    data = open_data_set(config.data)
    samples, readers = data.split("val")[: args.images], (data.images, data.masks)
    files = Pairs(samples, *readers)
    sizes = [Image.open(sample.image).size[::-1] for sample in samples]
    decoded = Pairs(samples, *readers, cache=RamCache(sizes, 3, readers[1].dtype, 10**9))
    ready = [decoded[index][0][None] for index in range(len(samples))]
    ready = [image.to(fabric.device, memory_format=torch.channels_last) for image in ready]
    predict, names = build_predictor(model, fabric), config.data.classes
    workers = worker_count("auto", args.device == "cuda", 1)
    mining = build_mining(parse_loss("ohem"), len(names))

    def bare() -> None:
        for image in ready:
            predict(image)

    def full() -> None:
        network = SplitPredictor(model, fabric, 0, config.eval, mining)
        with Accumulator(len(names), 255, fabric.device, calibrated=True) as accumulator:
            for one in network.predict(decoded, range(len(decoded)), accumulator.calibration):
                accumulator.add(one)

    def validation(pairs: Pairs, workers: int) -> Callable[[], None]:
        network = SplitPredictor(model, fabric, workers, config.eval)
        return lambda: validate(network, pairs, names, lambda: False)

    variants = {
        "bare": bare,
        "validate": validation(decoded, 0),
        "files": validation(files, workers),
        "eval": full,
    }
    seconds = {name: [] for name in variants}
    for turn in range(args.rounds + 1):
        # alternately forwards and backwards: none always runs on a warm or a cold cache
        for name in list(variants)[:: 1 if turn % 2 else -1]:
            took = timed(variants[name])
            if turn:  # the first one warms up
                seconds[name].append(took)
    per_image, over_bare = {}, {}
    for name, times in seconds.items():
        per_image[name] = spread([1000 * t / len(samples) for t in times])
        if name != "bare":
            ratios = [t / b - 1 for t, b in zip(times, seconds["bare"], strict=True)]
            over_bare[name] = spread(ratios)
    return {
        "images": len(samples),
        "workers": workers,
        "precision": str(fabric.strategy.precision.precision),
        "ms_per_image": per_image,
        "over_bare": over_bare,
        "goal": GOAL[args.device],
    }


def timed(function: Callable[[], None]) -> float:
    began = time.perf_counter()
    function()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began


def spread(values: list[float]) -> dict:
    return {"median": median(values), "spread": [min(values), max(values)]}


def bootstrap_seconds(rounds: int) -> dict:
    counts = np.random.default_rng(0).integers(0, 10_000, (RESAMPLED, 3, CLASSES))

    def intervals() -> None:
        ious = bootstrap.compute_ious(bootstrap.resample_sums(counts))
        bootstrap.percentile_interval(bootstrap.compute_mious(ious))
        for c in range(CLASSES):
            bootstrap.percentile_interval(ious[:, c])

    times = [timed(intervals) for _ in range(rounds + 1)][1:]
    return {"images": RESAMPLED, "resamples": bootstrap.RESAMPLES, "seconds": spread(times)}


def memory_growth() -> dict:
    """Return the MB by which this process grows from the 100th small image to the last."""
    seen = {}
    generator = torch.Generator().manual_seed(0)

    def images():
        for index in range(MANY):
            if index in (100, MANY - 1):
                seen[index] = memory_kib("VmRSS")
            pair: list[Tensor] = [
                torch.randint(0, CLASSES, (32, 32), generator=generator).to(torch.uint8)
                for _ in range(2)
            ]
            yield Prediction(index, *pair)

    with Accumulator(CLASSES, 255, "cpu", calibrated=False) as accumulator:
        for image in images():
            accumulator.add(image)
    return {"images": MANY, "classes": CLASSES, "mb": (seen[MANY - 1] - seen[100]) * 1.024 / 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    memory = memory_growth()
    with tempfile.TemporaryDirectory() as folder:
        if args.data is None:
            paint(Path(folder), args.images)
        scoring = measure(args.data or Path(folder), args)
    data = " --data FOLDER_OF_CAMVID" if args.data else ""
    command = f"python benchmarks/evaluate.py --device {args.device} --threads {args.threads}{data}"
    content = {
        "command": command,
        "environment": machine(args.device),
        "scoring": scoring,
        "bootstrap": bootstrap_seconds(args.rounds),
        "memory": memory,
    }
    if args.device == "cpu":
        content["upsampling"] = measure_upsampling(args.rounds, args.threads)
    name = f"evaluate_{args.device}" + ("" if args.device == "cuda" else f"_{args.threads}_thread")
    out = args.out or RESULTS / f"{name}.json"
    out.write_text(json.dumps(content, indent=1) + "\n")
    print(json.dumps(content | {"environment": None}, indent=1))


if __name__ == "__main__":
    main()
