"""Loading training pairs, side by side: a plain Dataset, and segtrain's from files and caches.

    python benchmarks/data.py [--images FOLDER] [--seconds S] [--repeats N] [--out FILE]

`plain` is what most projects write: Pillow, albumentations (RandomScale, PadIfNeeded, RandomCrop,
HorizontalFlip, ColorJitter, Normalize, ToTensorV2), torch's own collate, batches of float32 and
int64. `files`, `ram` and `disk` are segtrain's loader with the same crop, scales, flip and jitter,
batches of uint8. Both run with one thread per process: in the training process (workers 0, which is
the work of one core), in one worker, and in a worker for each core. Interleaved repeats; a ratio
is of the two runs of one repeat.

The pairs are painted scenes with grain, written as PNG and as JPEG (masks always PNG); with
--images, the images and masks of that data set are written so, too.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import albumentations as A
import cv2
import numpy as np
import torch
from albumentations.pytorch import ToTensorV2
from machine import RESULTS, machine
from PIL import Image
from torch.utils.data import DataLoader, Dataset, default_collate

from segtrain.config import AugmentConfig, DataConfig
from segtrain.data.data_set import DataSet
from segtrain.data.demo import CLASSES, PALETTE, scene
from segtrain.data.images import ImageReader
from segtrain.data.layouts.detect import find_pairs
from segtrain.data.loading.augment import Augmentation
from segtrain.data.loading.batch import collate
from segtrain.data.loading.cache import open_caches
from segtrain.data.loading.dataset import Pairs, read_batches, train_loader
from segtrain.data.loading.sampling import Draw
from segtrain.data.masks import MaskReader
from segtrain.data.sample import Sample

SEED, IGNORED, QUALITY, GRAIN = 0, 255, 92, 1.0
SCALE, HFLIP, JITTER = (0.5, 2.0), 0.5, 0.3
CAMVID = (360, 480)
# size of the images, of the crop; how many images, and in a batch
PAINTED = [(CAMVID, (352, 352), 48, 8), ((1024, 2048), (512, 512), 12, 4)]
OURS = {"files": "none", "ram": "ram", "disk": "disk"}  # method: data.cache
GOALS = {("png", "files"): 2.0, ("jpeg", "files"): 1.8, ("png", "ram"): 7.0, ("png", "disk"): 7.0}


class PlainDataset(Dataset):
    """Images and masks as most projects read, change and normalise them."""

    def __init__(self, samples: list[Sample], crop: tuple[int, int]):
        low, high = SCALE
        self.samples = samples
        self.transform = A.Compose(
            [
                A.RandomScale((low - 1, high - 1), p=1, mask_interpolation=cv2.INTER_NEAREST),
                A.PadIfNeeded(*crop, fill_mask=IGNORED, border_mode=cv2.BORDER_CONSTANT),
                A.RandomCrop(*crop),
                A.HorizontalFlip(p=HFLIP),
                A.ColorJitter(*[(1 - JITTER, 1 + JITTER)] * 3, hue=(0, 0), p=1),
                A.Normalize(),
                ToTensorV2(),
            ],
            seed=SEED,
        )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.change(*self.decode(index))

    def decode(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        sample = self.samples[index]
        image = np.array(Image.open(sample.image).convert("RGB"))
        return image, np.array(Image.open(sample.mask))

    def change(self, image: np.ndarray, mask: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        changed = self.transform(image=image, mask=mask)
        return changed["image"], changed["mask"].long()


@dataclass(frozen=True)
class Case:
    """Pairs of one size in one file format."""

    name: str
    size: tuple[int, int]
    crop: tuple[int, int]
    format: str
    samples: list[Sample]
    batch_size: int

    def batches(self, count: int) -> list[list[int]]:
        """Return image indices of `count` batches, all images in turn."""
        places = np.arange(count * self.batch_size) % len(self.samples)
        return places.reshape(count, self.batch_size).tolist()


def paint(index: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Paint a scene with the detail and grain of a photo, and its mask of class ids and 255."""
    image, mask = (
        Image.fromarray(part) for part in scene(SEED, index, (size[0] // 2, size[1] // 2))
    )
    pixels = np.asarray(image.resize(size[::-1], Image.Resampling.BICUBIC), np.float32)
    grain = np.random.default_rng([SEED, index]).normal(0, GRAIN, (*size, 1))
    labels = np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST))
    return (pixels + grain).clip(0, 255).astype(np.uint8), labels


def write_cases(folder: Path, images: Path | None) -> Iterator[Case]:
    for size, crop, count, batch_size in PAINTED:
        pairs = (paint(index, size) for index in range(count))
        yield from write_case(folder, "painted", pairs, crop, batch_size)
    if images:
        found = find_pairs(DataConfig(path=str(images)), images).splits["train"]
        pairs = (
            (np.asarray(Image.open(s.image).convert("RGB")), np.asarray(Image.open(s.mask)))
            for s in found[:: max(1, len(found) // 48)][:48]
        )
        yield from write_case(folder, images.name, pairs, (352, 352), 8)


def write_case(
    folder: Path, name: str, pairs: Iterable, crop: tuple[int, int], batch_size: int
) -> list[Case]:
    samples: dict[str, list[Sample]] = {"png": [], "jpeg": []}
    for index, (image, mask) in enumerate(pairs):
        where = folder / f"{name}-{len(image)}"
        where.mkdir(exist_ok=True)
        mask_file = where / f"{index}_mask.png"
        Image.fromarray(mask).save(mask_file)
        for kind, options in (("png", {}), ("jpeg", {"quality": QUALITY})):
            Image.fromarray(image).save(where / f"{index}.{kind}", **options)
            samples[kind].append(Sample(where / f"{index}.{kind}", mask_file))
    return [Case(name, image.shape[:2], crop, k, found, batch_size) for k, found in samples.items()]


def open_pairs(case: Case, cache: str) -> Pairs:
    """Return segtrain's pairs of a case, with the cache filled."""
    images, masks = ImageReader(), MaskReader(len(CLASSES), lb_ignore=IGNORED)
    if case.name != "painted":
        masks = MaskReader(
            IGNORED - 1, lb_ignore=IGNORED
        )  # any value is a class: only the time counts
    data = DataSet(
        config=DataConfig(cache=cache),
        root=Path(),
        format="pairs",
        layout="",
        splits={"train": case.samples},
        classes=list(CLASSES),
        palette=list(PALETTE),
        lb_ignore=IGNORED,
        images=images,
        masks=masks,
        notes=(),
    )
    caches = open_caches(data, {"train": [case.size] * len(case.samples)})
    config = AugmentConfig(scale=SCALE, hflip=HFLIP, vflip=0, jitter=JITTER)
    augmentation = Augmentation(config, case.crop, IGNORED, SEED)
    pairs = Pairs.of(data, "train", augmentation, caches.by_split.get("train"))
    for index in range(len(pairs)):
        pairs.read(index)
    return pairs


def loaders(case: Case, count: int, workers: int) -> dict[str, Callable[[], Iterable]]:
    """Return, by method, a function that returns an iterable over `count` batches."""
    batches = case.batches(count)
    draws = [[Draw(n, i) for i in batch] for n, batch in enumerate(batches)]
    plain = DataLoader(
        PlainDataset(case.samples, case.crop),
        batch_sampler=batches,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    ours = {n: train_loader(open_pairs(case, kind), draws, workers) for n, kind in OURS.items()}
    return {"plain": lambda: plain} | {n: lambda x=x: read_batches(x) for n, x in ours.items()}


def pairs_per_second(batches: Iterable, batch_size: int) -> float:
    began = time.perf_counter()
    count = sum(1 for _ in batches)
    return count * batch_size / (time.perf_counter() - began)


def measure_loading(case: Case, workers: int, seconds: float, repeats: int) -> dict:
    """Measure pairs per second of each method; the plain one's runs take about `seconds`."""
    plain = PlainDataset(case.samples, case.crop)
    one = statistics.mean(timed(lambda i=i: plain[i]) for i in range(6)) * case.batch_size
    count = max(4 * workers, round(seconds / one), 3)
    methods = loaders(case, count, workers)
    speeds: dict[str, list[float]] = {name: [] for name in methods}
    for repeat in range(-1, repeats):  # the first starts the workers and isn't counted
        for name, batches in methods.items():
            speed = pairs_per_second(batches(), case.batch_size)
            if repeat >= 0:
                speeds[name].append(speed)
    return {"workers": workers, "pairs_a_run": count * case.batch_size} | {
        name: summary(found, 1)
        | {"ratio": summary([f / p for f, p in zip(found, speeds["plain"], strict=True)], 3)}
        for name, found in speeds.items()
    }


def measure_parts(case: Case, seconds: float, repeats: int) -> dict:
    """Measure milliseconds per pair of reading, augmenting and collating, each alone."""
    plain = PlainDataset(case.samples, case.crop)
    ours = {name: open_pairs(case, kind) for name, kind in OURS.items()}
    passes, places = itertools.count(), range(case.batch_size)
    raw = [plain.decode(index) for index in places]
    plain_items = [plain.change(*pair) for pair in raw]
    our_items = [ours["files"][Draw(0, index)] for index in places]

    def augment() -> None:
        pass_ = next(passes)
        for index, pair in enumerate(raw):
            ours["files"].augmentation(*pair, Draw(pass_, index))

    parts: dict[str, Callable] = {
        "plain: read": lambda: [plain.decode(index) for index in places],
        "plain: augment": lambda: [plain.change(*pair) for pair in raw],
        "plain: collate": lambda: default_collate(plain_items),
        "segtrain: augment": augment,
        "segtrain: collate": lambda: collate(our_items),
    }
    for name, pairs in ours.items():
        parts[f"{name}: read"] = lambda pairs=pairs: [pairs.read(index) for index in places]
    rounds = max(1, round(seconds / sum(timed(part) for part in parts.values())))
    found: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(repeats):
        for name, part in parts.items():
            spent = statistics.mean(timed(part) for _ in range(rounds))
            found[name].append(1e3 * spent / case.batch_size)
    return {name: summary(times, 3) for name, times in found.items()}


def shares_of_reading(parts: dict) -> dict[str, float]:
    """Return each method's share of a pair's time that is spent on reading."""
    ms = {name: found["median"] for name, found in parts.items()}
    shares = {}
    for method in ("plain", *OURS):
        owner = "plain" if method == "plain" else "segtrain"
        read = ms[f"{method}: read"]
        shares[method] = round(read / (read + ms[f"{owner}: augment"] + ms[f"{owner}: collate"]), 3)
    return shares


def timed(function: Callable) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def summary(values: list[float], digits: int) -> dict:
    return {
        "median": round(statistics.median(values), digits),
        "spread": [round(min(values), digits), round(max(values), digits)],
    }


def measure(case: Case, seconds: float, repeats: int) -> dict:
    def kilobytes(files: Iterable[Path]) -> float:
        return round(statistics.mean(file.stat().st_size for file in files) / 1e3, 1)

    parts = measure_parts(case, seconds, repeats)
    return {
        "images": case.name,
        "size": case.size,
        "format": case.format,
        "crop": case.crop,
        "batch_size": case.batch_size,
        "image_kB": kilobytes(s.image for s in case.samples),
        "mask_kB": kilobytes(s.mask for s in case.samples),
        "ms_a_pair": parts,
        "share_of_reading": shares_of_reading(parts),
        "pairs_per_second": [
            measure_loading(case, workers, seconds, repeats)
            for workers in sorted({0, 1, os.cpu_count()})
        ],
    }


def print_result(result: dict) -> None:
    height, width = result["size"]
    print(
        f"{result['images']} {width}x{height} {result['format']} "
        f"({result['image_kB']:.0f} kB + {result['mask_kB']:.0f} kB), crop {result['crop']}"
    )
    parts = [f"{name} {found['median']:.2f}" for name, found in result["ms_a_pair"].items()]
    print("  ms per pair:", ", ".join(parts))
    print("  share of reading:", result["share_of_reading"])
    for found in result["pairs_per_second"]:
        print(f"  {found['workers']} workers:", end="")
        for name in ("plain", "files", "ram", "disk"):
            low, high = found[name]["ratio"]["spread"]
            ratio = (
                ""
                if name == "plain"
                else f" ({found[name]['ratio']['median']:.2f}x, {low:.2f}-{high:.2f})"
            )
            print(f"  {name} {found[name]['median']:.0f}/s{ratio}", end="")
        print()


def against_goals(results: list[dict]) -> list[dict]:
    """Return ratios and goals at CamVid's size, in the training process and in one worker."""
    return [
        {
            "images": result["images"],
            "format": kind,
            "method": method,
            "workers": found["workers"],
            "goal": goal,
            "ratio": found[method]["ratio"]["median"],
        }
        for result in results
        for (kind, method), goal in GOALS.items()
        for found in result["pairs_per_second"][:2]
        if (tuple(result["size"]), result["format"]) == (CAMVID, kind)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=Path, help="a data set, to be measured as well")
    parser.add_argument("--seconds", type=float, default=0.5, help="of one run of the plain one")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS / "data_cpu.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["SEGTRAIN_CACHE"] = folder
        for case in write_cases(Path(folder), options.images):
            results.append(measure(case, options.seconds, options.repeats))
            print_result(results[-1])
    goals = against_goals(results)
    for goal in goals:
        print(
            "{images} {format}, {method}, {workers} workers: {ratio:.2f}x, goal {goal}x".format(
                **goal
            )
        )
    found = machine()
    found["packages"]["opencv"] = cv2.__version__
    command = f"python benchmarks/data.py --seconds {options.seconds:g} --repeats {options.repeats}"
    command += f" --images FOLDER_OF_{options.images.name.upper()}" if options.images else ""
    content = {
        "command": f"{command} --out benchmarks/results/{options.out.name}",
        "seed": SEED,
        "scale": SCALE,
        "hflip": HFLIP,
        "jitter": JITTER,
        "jpeg_quality": QUALITY,
        "environment": found,
        "goals": goals,
        "cases": results,
    }
    options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
