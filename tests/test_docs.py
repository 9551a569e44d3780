"""Documents agree with the code and the benchmarks, and stay short."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = runpy.run_path(str(ROOT / "docs/generate.py"))["documents"]()


@pytest.mark.parametrize("page", DOCUMENTS)
def test_the_generator_changes_nothing(page: str):
    assert (ROOT / page).read_text() == DOCUMENTS[page], "run python docs/generate.py"


@pytest.mark.parametrize(
    "page, tables",
    [
        ("docs/choosing-a-loss.md", "camvid_losses camvid_rare demo_losses"),
        ("docs/encoders.md", "encoders"),
        ("docs/export.md", "export_speed"),
        ("docs/fine-tuning.md", "pretrained"),
        (
            "benchmarks/README.md",
            "camvid_losses camvid_rare camvid_classes camvid_screening camvid_screening_classes"
            " camvid_precision pretrained ideas ideas_fpn samplers_frames"
            " samplers_crops tuning loading step loss_cost kernels scoring upsampling"
            " export_speed export_formats",
        ),
    ],
)
def test_each_table_is_in_its_document(page: str, tables: str):
    assert re.findall(r"<!-- table: (\w+) -->", DOCUMENTS[page]) == tables.split()


PAGES = sorted((ROOT / "docs").glob("*.md"))
SOUGHT = [  # what people search for
    "fine-tuning",
    "mixed precision",
    "gradient accumulation",
    "early stopping",
    "sliding window",
    "test-time augmentation",
    "class imbalance",
    "hard example mining",
]


@pytest.mark.parametrize("word", SOUGHT)
def test_the_readme_and_a_heading_name(word: str):
    assert word in (ROOT / "README.md").read_text().lower()
    headings = re.findall(r"^#.*", "".join(page.read_text() for page in PAGES), re.M)
    assert [heading for heading in headings if word in heading.lower()]


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_the_page_is_short(page: Path):
    """Move what makes a page too long to another page; listings are no pages."""
    listings = ("source-tree.md", "losses.md", "encoders.md")
    allowed = {"README.md": 180, **dict.fromkeys(listings, 300)}.get(page.name, 149)
    assert len(page.read_text().splitlines()) <= allowed


def result(name: str) -> Any:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())


def assert_quoted(page: str, *quotes: str) -> None:
    text = " ".join((ROOT / page).read_text().split())
    assert [quote for quote in quotes if quote not in text] == []


def test_the_prose_on_tuning():
    """The temperature always helps, most after ohem; biases do in one of two seeds of FPN."""
    gains, seeds = dict[bool, set[float]](), dict[str, dict[int, bool]]()
    for run in result("tune")["runs"]:
        biases, temperature = run["choices"]
        mined = run["loss"] == "ohem"
        assert temperature["stored"] and (run["tuning"]["temperature"] < 1) == mined
        gains.setdefault(mined, set()).add(temperature["gain"])
        kept = seeds.setdefault(f"{run['data']} {run['network']}", {})
        assert kept.setdefault(run["seed"], biases["stored"]) == biases["stored"]
    assert min(gains[True]) > max(gains[False])
    assert list(seeds.values()) == [{0: True, 1: False}, {0: True}, {0: False, 1: False}]


def test_the_prose_quotes_listing():
    found = result("listing")
    assert_quoted(
        "benchmarks/README.md",
        f"{sum(found['pairs'].values()):,} pairs of symbolic links",
        f"{found['seconds']['median']:.1f} s",
        f"{found['peak_bytes'] / 1e6:.0f} MB",
    )


def test_the_prose_quotes_scoring():
    found = result("evaluate_cpu_1_thread")
    validate, memory = found["scoring"]["over_bare"]["validate"], found["memory"]["mb"]
    assert validate["median"] < found["scoring"]["goal"] == 0.1 and memory < 100
    seconds = found["bootstrap"]["seconds"]["median"]
    assert_quoted("benchmarks/README.md", f"take {seconds:.2f} s", f"grow by {memory:.0f} MB")


def test_the_prose_quotes_the_busy_machine():
    found = result("busy")["results"]
    assert_quoted(
        "benchmarks/README.md",
        *(
            "{:.2f}x ({:.2f}-{:.2f})".format(speed["median"], *speed["spread"])
            for variant in ("segtrain", "passive")
            for speed in (found[s]["against_spinning"][variant] for s in ("busy", "idle"))
        ),
    )


def test_the_prose_quotes_the_large_image():
    found = result("large_image")
    height, width = found["image"]["size"]
    rows, columns = found["windows"]["size"]
    cases = [found["cases"][case] for case in ("default", "all files")]
    peak = max(case["peak_bytes"] for case in cases)
    assert peak < found["goal_bytes"]
    assert_quoted(
        "docs/prediction.md",
        f"{height:,} x {width:,} pixels and {found['model']['classes']} classes",
        f"took {peak / 1e9:.1f} GB",
    )
    assert_quoted(
        "benchmarks/README.md",
        f"{found['windows']['count']} windows of {rows:,} x {columns:,}",
        *(f"{c['seconds'] / 60:.0f} minutes and {c['peak_bytes'] / 1e9:.2f} GB" for c in cases),
    )
