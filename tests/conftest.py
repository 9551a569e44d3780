"""Shared fixtures: tiny data sets, the command line in this process, one trained run."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import subprocess
import sys

os.environ.update(
    OMP_NUM_THREADS="1",  # one core for each of the test processes
    HF_HUB_OFFLINE="1",  # no requests to the hub: --weights auto becomes none at once
    NO_COLOR="1",
    COLUMNS="200",
)

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

if TYPE_CHECKING:
    from faults.zygote import Zygote
    from onnx import ModelProto
    from playwright.sync_api import Browser

    from segtrain.data.data_set import DataSet
    from segtrain.data.masks import MaskReader
    from segtrain.data.sample import Sample
    from segtrain.models.segmentation import SegmentationModel

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
# options of a training of 2 steps, without its network; in float32 on any CPU
ANY_NETWORK = (
    "--weights none --device cpu --precision 32 --workers 0 --crop 32x32 --batch-size 2 --epochs 1"
    " --set train.steps_per_epoch=2"
).split()
# checkpoints of 200 kB; those of ResNet-18 take 45 MB
TINY = ["--encoder", "tu-test_byobnet", "--set"]
TINY += ["model.options={encoder_depth: 3, decoder_channels: [8, 8, 4]}"]
RESNET18 = [*ANY_NETWORK, "--set", "model.options={decoder_channels: [8, 8, 8, 8, 8]}"]
QUICK = ANY_NETWORK + TINY


@pytest.hookimpl(wrapper=True)
def pytest_collection(session: pytest.Session) -> Iterator[None]:
    """Keep the garbage collector from visiting all tests and modules again and again."""
    gc.disable()
    yield
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@dataclass
class Answer:
    """Result of a command: exit code and output."""

    code: int
    stdout: str
    stderr: str

    @property
    def error(self) -> str:
        """Return the error of a failed command; assert that it is one line, without traceback."""
        lines = self.stderr.strip().splitlines()
        assert "Traceback" not in self.stdout + self.stderr, self.stderr
        assert lines and lines[-1].startswith("error: "), (self.stdout, self.stderr)
        assert sum(line.startswith("error: ") for line in lines) == 1
        return lines[-1]


def run_cli(*args: object) -> Answer:
    """Run segtrain in this process."""
    from segtrain.cli.app import app

    result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    if workers := sys.modules.get("segtrain.data.loading.workers"):
        workers.kill_workers()  # as at a process's end; else torch waits 5 s for each, some day
    return Answer(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(scope="session", autouse=True)
def demo_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Paint the demo data once per run of the tests, for all test processes."""
    base = tmp_path_factory.getbasetemp()
    run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    os.environ["SEGTRAIN_CACHE"] = str(run / "segtrain-cache")


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    """Run segtrain in an empty folder of the test."""
    monkeypatch.chdir(tmp_path)
    return run_cli


def scene(index: int, height: int = 48, width: int = 40, classes: int = 3) -> tuple:
    """Return an image (H,W,3) of coloured stripes and its mask (H,W), one colour per class."""
    rng = np.random.default_rng(index)
    mask = np.repeat(rng.integers(0, classes, (height // 8, 1)), width, axis=1).repeat(8, axis=0)
    mask = mask.astype(np.uint8)
    colours = np.array([(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)])[:classes]
    image = colours[mask] + rng.integers(-25, 25, (*mask.shape, 3))
    return image.clip(0, 255).astype(np.uint8), mask


def write_pairs(
    root: Path,
    count: int = 6,
    images: str = "images",
    masks: str = "masks",
    first: int = 0,
    **kwargs,
) -> Path:
    """Write `count` pairs below root: PNG images, and grey PNG masks of ids 0..2."""
    for index in range(first, first + count):
        image, mask = scene(index, **kwargs)
        for folder, array in ((images, image), (masks, mask)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / folder / f"{index:03d}.png")
    return root


def made_up_data(samples: list[Sample], masks: MaskReader | None = None, **fields) -> DataSet:
    """A data set of these training pairs, of classes 0, 1, 2 unless `masks` has others."""
    from segtrain.config import DataConfig
    from segtrain.data.data_set import DataSet
    from segtrain.data.images import ImageReader
    from segtrain.data.masks import MaskReader, class_palette

    masks = masks or MaskReader(3)
    defaults = {
        "config": DataConfig(),
        "root": Path(),
        "format": "pairs",
        "layout": "",
        "splits": {"train": samples},
        "classes": [str(i) for i in range(masks.num_classes)],
        "palette": class_palette(masks.num_classes, None, {}),
        "lb_ignore": masks.lb_ignore,
        "images": ImageReader(),
        "masks": masks,
        "notes": (),
    }
    return DataSet(**defaults | fields)


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Write a data set of six pairs of 48x40 with three classes: images/ + masks/, no splits."""
    return write_pairs(tmp_path / "set")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of a short training on ../set. Tests share it: copy before writing."""
    home = tmp_path_factory.mktemp("trained")
    write_pairs(home / "set")
    done = run_cli("fit", "--data", home / "set", "--out", home / "runs", "--name", "quick", *QUICK)
    assert done.code == 0, done.stderr
    return home / "runs" / "quick"


@pytest.fixture(scope="module")
def converted_once() -> Iterator[None]:
    """Trace each network for ONNX once, which takes seconds; what is built around it is made anew.

    For tests of exports, not of the tracing: tests/export has those.
    """
    from segtrain.export import onnx_graph
    from segtrain.models.weights import hash_weights

    convert, found = onnx_graph.convert_network, {}

    def convert_once(model: SegmentationModel, half: bool = False) -> ModelProto:
        key = str(model.network), hash_weights(model.network.state_dict()), model.padding, half
        if key not in found:
            found[key] = convert(model, half).SerializeToString()
        return onnx_graph.ModelProto.FromString(found[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx_graph, "convert_network", convert_once)
        yield


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory, demo_cache: None) -> Iterator[Zygote]:
    """Return the process that forks others, see faults/zygote.py."""
    from faults.zygote import Zygote

    zygote = Zygote(tmp_path_factory.mktemp("zygote"))
    yield zygote
    zygote.close()


def shared_data(name: str) -> Path:
    """Return a folder of real images; skip the test where it is absent."""
    folder = SHARED_DATA / name
    if not folder.is_dir():
        pytest.skip(f"needs the real images of {folder}")
    return folder


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Yield a headless Chromium; where there is none, skip the test, or fail in CI."""
    from playwright.sync_api import sync_playwright

    path, reason = find_chromium(tmp_path_factory)
    if path is None and os.environ.get("CI") == "true":
        pytest.fail(reason)
    if path is None:
        pytest.skip(reason)
    root = os.geteuid() == 0  # Chromium has no sandbox for root
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"] if root else []
        )
        yield browser
        browser.close()


def find_chromium(tmp_path_factory: pytest.TempPathFactory) -> tuple[str | None, str]:
    """Return its path, or None and the reason; as root, install Debian's with apt-get."""
    names = ("chromium", "chromium-browser", "google-chrome")
    missing = f"no {', '.join(names)} on PATH"
    base = tmp_path_factory.getbasetemp()
    lock = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "chromium.lock"
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # one of the test processes installs it, once
        if path := next(filter(None, map(shutil.which, names)), None):
            return path, ""
        if os.geteuid() or not shutil.which("apt-get"):
            return None, f"{missing}; install one, such as Debian's chromium"
        install = "apt-get update && apt-get install -y --no-install-recommends chromium"
        done = subprocess.run(install, shell=True, capture_output=True, text=True, timeout=600)
        lines = (done.stderr.strip() or done.stdout.strip()).splitlines()
        return shutil.which("chromium"), f"{missing}, and apt-get: {lines[-1] if lines else ''}"
