"""train.batch_size: auto, with a stand-in for the memory of a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from conftest import QUICK, write_pairs
from hypothesis import given
from hypothesis import strategies as st

from segtrain.training import batch_size
from segtrain.training.batch_size import find_largest

AUTO = [*QUICK, "--data", "set", "--batch-size", "auto"]


@given(st.integers(0, 300), st.integers(1, 300))
def test_the_largest_that_fits_is_found_in_few_tries(limit: int, most: int):
    tried = []
    assert find_largest(lambda n: tried.append(n) or n <= limit, most) == min(limit, most)
    assert len(tried) <= 18 and max(tried) <= most and len(set(tried)) == len(tried)


@pytest.fixture
def gpu_for(monkeypatch, cli, pairs: Path) -> Callable[[int], list[int]]:
    """Make steps run out of memory above so many images; return the list of those tried."""
    write_pairs(pairs, 12)

    def limit_memory(images: int) -> list[int]:
        tried, plain = [], batch_size.train_step

        def train_step(session, micro_batches, *args):
            count = len(micro_batches[0][0])
            tried.append(count)
            outcome = plain(session, micro_batches, *args)  # what it leaves behind may not disturb
            if count > images:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return outcome

        monkeypatch.setattr(batch_size, "resolve_device", lambda requested: "cuda")
        monkeypatch.setattr(batch_size, "train_step", train_step)
        return tried

    return limit_memory


def stored(run: str) -> int:
    return yaml.safe_load(Path(f"runs/{run}/config.yaml").read_text())["train"]["batch_size"]


def test_a_dry_run_prints_the_number_that_a_run_stores_and_keeps(cli, gpu_for):
    tried = gpu_for(5)
    dry = cli("fit", *AUTO, "--dry-run")
    assert dry.code == 0, dry.stderr
    assert "batch_size: auto is 5 crops of 32x32" in dry.stdout
    assert (
        yaml.safe_load(dry.stdout[dry.stdout.index("\ndata:\n") :].split("\n\n")[0])["train"][
            "batch_size"
        ]
        == 5
    )
    assert not Path("runs").exists()
    assert tried == [1, 1, 2, 2, 4, 4, 8, 6, 5, 5]  # two steps each; the second has Adam's state
    assert cli("fit", *AUTO, "--name", "r").code == 0 and stored("r") == 5
    tried.clear()
    again = cli("fit", "--resume", "r", "--batch-size", "auto", "--epochs", "2")
    assert again.code == 0 and "batch_size was" not in again.stdout, again.stderr
    assert tried == [] and stored("r") == 5


def test_the_run_is_that_of_the_number(cli, gpu_for):
    """Trial steps leave nothing behind."""
    from same_run import assert_same_run

    gpu_for(3)
    assert cli("fit", *AUTO, "--name", "auto").code == 0
    assert cli("fit", *AUTO, "--batch-size", "3", "--name", "three").code == 0
    assert_same_run(Path("runs/auto"), Path("runs/three"))


def test_micro_batches_are_searched_and_all_images_are_the_most(cli, gpu_for):
    tried = gpu_for(100)
    dry = cli("fit", *AUTO, "--set", "train.accumulate=3", "--dry-run")
    assert dry.code == 0, dry.stderr
    assert "auto is 9 crops of 32x32 (as many as there are)" in dry.stdout  # of 10 images
    assert set(tried) == {1, 2, 3}


def test_nothing_that_fits_is_one_line(cli, gpu_for):
    gpu_for(0)
    failed = cli("fit", *AUTO, "--name", "r")
    assert failed.code == 1 and "out of memory: unet on tu-test_byobnet" in failed.error
    assert "one crop of 32x32" in failed.error and not Path("runs/r").exists()


def test_other_errors_are_not_taken_for_memory(cli, gpu_for, monkeypatch):
    gpu_for(9)

    def broken(*args):
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr(batch_size, "train_step", broken)
    failed = cli("fit", *AUTO)
    assert failed.code == 1 and "internal error (RuntimeError" in failed.error


def test_a_network_that_cannot_train_on_one_image_is_refused_by_its_own_words(cli, gpu_for):
    gpu_for(1)
    options = ["--arch", "deeplabv3plus", "--encoder", "resnet18", "--set", "model.options={}"]
    refused = cli("fit", *AUTO, *options)
    assert refused.code == 2 and "can't train on one image at a time" in refused.error


@pytest.mark.parametrize(
    "options, number",
    [("", 8), ("--devices 3", 6), ("--set train.accumulate=12", 12), ("--data few", 5)],
)
def test_on_a_cpu_it_names_a_number_that_works(cli, pairs: Path, options: str, number: int):
    write_pairs(pairs, 20)
    write_pairs(Path("few"), 6)
    refused = cli("fit", *AUTO, *options.split(), "--name", "r")
    assert refused.code == 2 and "auto fills the memory of a GPU" in refused.error
    assert f"such as --batch-size {number}" in refused.error and not Path("runs").exists()
    given = cli("fit", *AUTO, *options.split(), "--batch-size", number, "--dry-run")
    assert given.code == 0, given.stderr


def test_on_a_mac_it_names_a_number_too(cli, pairs: Path, monkeypatch):
    """Its GPU has the memory of all programs."""
    write_pairs(pairs, 20)
    monkeypatch.setattr(batch_size, "resolve_device", lambda requested: "mps")
    refused = cli("fit", *AUTO, "--name", "r")
    assert refused.code == 2 and "this training is on mps; give a number" in refused.error
    assert "such as --batch-size 8" in refused.error and not Path("runs").exists()
