"""What the documents say is what the code does."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page, write", [("config", "config_tables"), ("losses", "loss_pages")])
def test_the_manual_is_generated_from_the_code(page, write):
    text = runpy.run_path(str(ROOT / "docs/generate.py"))[write]()
    assert (ROOT / f"docs/{page}.md").read_text() == text, "run python docs/generate.py"


def test_the_readme_quotes_the_benchmark():
    found = json.loads((ROOT / "benchmarks/results/demo_losses.json").read_text())["summary"]
    readme = (ROOT / "README.md").read_text()
    for loss, scores in found.items():
        quoted = [
            scores["miou_after_epoch_1"],
            scores["miou"],
            scores["iou"]["pole"],
            scores["iou"]["sign"],
        ]
        cells = [f"{s['mean']:.3f} ({s['min']:.3f}-{s['max']:.3f})" for s in quoted]
        assert f"| `{loss}` | {' | '.join(cells)} |" in readme


def test_the_pages_quote_camvid():
    found = json.loads((ROOT / "benchmarks/results/camvid_losses.json").read_text())
    pages = [(ROOT / page).read_text() for page in ("benchmarks/README.md", "README.md")]
    against = {row["name"]: row for row in found["differences"]}
    for row in found["contenders"]:
        ranges = [f"{low:.3f}-{high:.3f}" for low, high in (row["miou_ci"], row["miou_range"])]
        cells = [f"`{row['name']}`", f"{row['miou']:.3f} ({ranges[0]})", ranges[1], "", ""]
        if other := against.get(row["name"]):
            low, high = other["miou_ci"]
            cells[3] = f"{other['miou']:+.3f} ({low:+.3f} to {high:+.3f})"
            cells[4] = "yes" if other["beyond_noise"] else "no"
        assert all(f"| {' | '.join(cells)} |" in page for page in pages)
        ious = [f"{c['iou']:.3f}" for c in row["classes"]]
        assert f"| {cells[0]} | {' | '.join(ious)} |" in pages[0]


@pytest.mark.parametrize("view", ["frames", "crops"])
def test_the_benchmarks_page_quotes_samplers(view):
    file = ROOT / f"benchmarks/results/camvid_samplers_{view}.json"
    page = (ROOT / "benchmarks/README.md").read_text()
    for sampler, scores in json.loads(file.read_text())["summary"].items():
        ious = [f"{iou['mean']:.3f}" for iou in scores["iou"].values()]
        assert f"| `{sampler}` | {scores['miou']['mean']:.3f} | {' | '.join(ious)} |" in page


def test_the_benchmarks_page_quotes_loading():
    cases = json.loads((ROOT / "benchmarks/results/data_cpu.json").read_text())["cases"]
    page = (ROOT / "benchmarks/README.md").read_text()
    for case in cases:
        height, width = case["size"]
        for found in case["pairs_per_second"]:
            ratios = [
                f"{found[method]['ratio']['median']:.2f}x "
                f"({found[method]['ratio']['spread'][0]:.2f}-{found[method]['ratio']['spread'][1]:.2f})"
                for method in ("files", "ram", "disk")
            ]
            cells = [
                f"{case['images']} {width}x{height} {case['format']}",
                str(found["workers"]),
                f"{found['plain']['median']:.0f}",
                *ratios,
                f"{case['share_of_reading']['files']:.0%}",
            ]
            assert f"| {' | '.join(cells)} |" in page


def test_the_benchmarks_page_quotes_listing():
    found = json.loads((ROOT / "benchmarks/results/listing.json").read_text())
    page = (ROOT / "benchmarks/README.md").read_text()
    assert f"{sum(found['pairs'].values()):,} pairs of symbolic links" in page
    assert f"{found['seconds']['median']:.1f} s" in page
    assert f"{found['peak_bytes'] / 1e6:.0f} MB" in page


@pytest.mark.parametrize("threads, file", [(1, "cpu_1_thread"), (2, "cpu_2_threads")])
def test_the_benchmarks_page_quotes_time_and_memory(threads, file):
    cases = json.loads((ROOT / f"benchmarks/results/losses_{file}.json").read_text())["cases"]
    page = (ROOT / "benchmarks/README.md").read_text()
    for case in cases:
        reference, fused = case["methods"]["reference"], case["methods"]["fused"]
        cells = [
            "x".join(map(str, case["shape"])),
            case["upsample"],
            case["logits"],
            threads,
            *(f"{each['ms']:.0f} ms, {each['peak_mib']:.0f} MiB" for each in (reference, fused)),
            f"{reference['ms'] / fused['ms']:.2f}x, "
            f"{reference['peak_mib'] / fused['peak_mib']:.1f}x less",
            f"{fused['ms'] / case['floor_ms']:.0f}",
        ]
        assert f"| {' | '.join(map(str, cells))} |" in page


def test_the_benchmarks_page_quotes_scoring():
    found = json.loads((ROOT / "benchmarks/results/evaluate_cpu_1_thread.json").read_text())
    page = (ROOT / "benchmarks/README.md").read_text()
    scoring, memory = found["scoring"], found["memory"]["mb"]
    rows = {"validate": "validate`", "files": "validate` from files", "eval": "eval`"}
    for name, row in rows.items():
        over = [scoring["over_bare"][name]["median"], *scoring["over_bare"][name]["spread"]]
        median, low, high = (f"{100 * share:+.1f}" for share in over)
        cells = f"{scoring['ms_per_image'][name]['median']:.0f} | {median} % ({low} to {high}) |"
        assert f"| `{row} | {cells}" in page
    assert scoring["over_bare"]["validate"]["median"] < scoring["goal"] == 0.1
    assert f"take {found['bootstrap']['seconds']['median']:.2f} s" in page
    assert f"grow by {memory:.0f} MB" in page and memory < 100


def test_the_pages_quote_the_large_image():
    found = json.loads((ROOT / "benchmarks/results/large_image.json").read_text())
    height, width = found["image"]["size"]
    whole, with_all = (found["cases"][case] for case in ("default", "all files"))
    readme, page = ((ROOT / name).read_text() for name in ("README.md", "benchmarks/README.md"))
    peak = max(whole["peak_bytes"], with_all["peak_bytes"])
    assert f"{height:,} x {width:,} pixels and {found['model']['classes']} classes" in readme
    assert f"took {peak / 1e9:.1f} GB" in readme and peak < found["goal_bytes"]
    windows, (rows, columns) = found["windows"]["count"], found["windows"]["size"]
    for text in (
        f"{windows} windows of {rows:,} x {columns:,}",
        f"{whole['seconds'] / 60:.0f} minutes and {whole['peak_bytes'] / 1e9:.2f} GB",
        f"{with_all['seconds'] / 60:.0f} minutes and {with_all['peak_bytes'] / 1e9:.2f} GB",
    ):
        assert text in page


@pytest.mark.parametrize("threads", ["1_thread", "2_threads"])
def test_the_benchmarks_page_quotes_the_step(threads):
    file = ROOT / f"benchmarks/results/train_cpu_{threads}.json"
    page = (ROOT / "benchmarks/README.md").read_text()
    for case in json.loads(file.read_text())["cases"]:
        found = case["contenders"]
        plain, over = found["plain"], found["segtrain"]["seconds_over_bare"]
        quoted = [
            found["lightning"]["against_plain"],
            found["segtrain"]["against_plain"],
            case["loading"]["against_bare"],
        ]
        cells = [f"{q['median']:.2f}x ({q['spread'][0]:.2f}-{q['spread'][1]:.2f})" for q in quoted]
        spread = f"{over['spread'][0]:.3f}-{over['spread'][1]:.3f}"
        cells.insert(2, f"{over['median']:.3f} ({spread})")
        peaks = ", ".join(f"{found[n]['peak_mib']:.0f}" for n in ("plain", "lightning", "segtrain"))
        row = [
            case["threads"],
            f"{plain['images_per_second']['median']:.2f} images/s",
            *cells,
            f"{peaks} MiB",
        ]
        assert f", {case['batch_size']} | {' | '.join(map(str, row))} |" in page
