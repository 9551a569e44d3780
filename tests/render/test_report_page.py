"""The content of report.html for a parser; test_report_in_browser.py sees its look."""

from __future__ import annotations

import copy
import io
import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_up import NAMES, PALETTE, made_up_masks, made_up_pictures, made_up_report
from PIL import Image

from segtrain.render import report_page
from segtrain.render.report_page import write_report
from segtrain.render.viewer_images import ImageMaps, ViewerImage, make_distinct, repaint_png

VOID = {"meta", "link", "img", "input", "br", "hr"}
SCRIPT = "</script><script>window.caught = 1</script>"
HANDLER = '<img src=x onerror="window.caught=1">'
NASTY = [SCRIPT, HANDLER, "\"two\" & 'one'", "Straße 道路 שמיים हिन्दी 👩\u200d🚒", "{{ 7*7 }}"]


class Page(HTMLParser):
    """Elements in order, as (tag, attributes, text of all that is within)."""

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[list[Any]] = []
        self.open: list[list[Any]] = []
        self.feed(text)
        assert not self.open, [e[0] for e in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append([tag, dict(attrs), ""])
        if tag not in VOID:
            self.open.append(self.elements[-1])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append([tag, dict(attrs), ""])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element[2] += data

    def all(self, *tags: str) -> list[tuple[str, dict, str]]:
        return [tuple(e) for e in self.elements if e[0] in tags]

    def text(self) -> str:
        """The text of the page without code."""
        text = self.all("html")[0][2]
        for *_, code in self.all("script", "style"):
            text = text.replace(code, "")
        return text

    def rows(self, anchor: str) -> list[list[tuple[dict, str]]]:
        """The cells of the table with that id or after it, row by row, as (attributes, text)."""
        start = next(i for i, e in enumerate(self.elements) if e[1].get("id") == anchor)
        while self.elements[start][0] != "table":
            start += 1
        rows: list[list[tuple[dict, str]]] = []
        for tag, attributes, text in self.elements[start + 1 :]:
            if tag == "table":
                break
            if tag == "tr":
                rows.append([])
            elif tag in ("th", "td"):
                rows[-1].append((attributes, " ".join(text.split())))
        return rows


def written(tmp_path: Path, report: dict, pictures: list[ViewerImage] = [], palette=PALETTE) -> str:
    write_report(tmp_path / "report.html", report, pictures, palette)
    return (tmp_path / "report.html").read_text(encoding="utf-8")


def without_charts(*args: Any, **changes: Any) -> dict[str, Any]:
    """A report that is quick to write: charts take most of the time."""
    report = made_up_report(*args, history=None, **changes)
    report["metrics"]["calibration"] = None
    return report


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("page"), made_up_report(), made_up_pictures())


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_headings_go_down_one_level_at_a_time(page: Page):
    levels = [int(tag[1]) for tag, *_ in page.all("h1", "h2", "h3", "h4")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))
    sections = [text for _, _, text in page.all("h2")]
    assert sections == [
        "Classes", "Images", "Confusion", "Training", "Calibration", "Data", "How it was made"
    ]  # fmt: skip


def test_everything_has_a_name_for_those_who_do_not_see(page: Page):
    assert all(attributes.get("scope") in ("col", "row") for _, attributes, _ in page.all("th"))
    images = page.all("img")
    assert len(images) == 4 * 6 and all(attributes["alt"] for _, attributes, _ in images)
    assert len({attributes["alt"] for _, attributes, _ in images}) == len(images)
    charts = [a["aria-label"] for _, a, _ in page.all("div") if a.get("role") == "img"]
    assert len(page.all("svg")) == len(charts) == 4
    assert page.all("html")[0][1]["lang"] == "en"
    for _, attributes, _ in page.all("div", "pre"):
        if "tabindex" in attributes:
            assert attributes["role"] in ("region", "group") and attributes["aria-label"]


def test_nothing_is_loaded(text: str, page: Page):
    for tag, attributes, _ in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data"):
            assert attributes.get(name, "#").startswith(("#", "data:")), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org/)", text)
    policy = next(a["content"] for _, a, _ in page.all("meta") if "http-equiv" in a)
    assert policy.startswith("default-src 'none'")


def test_anchors_are_unique_and_lead_somewhere(text: str, page: Page):
    anchors = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(anchors) == len(set(anchors))
    meant = [a[n][1:] for _, a, _ in page.elements for n in ("href", "xlink:href") if n in a]
    meant = [name for name in meant if name != "ata:,"] + re.findall(r"url\(#([^)]+)\)", text)
    assert meant and set(meant) <= set(anchors)


def test_the_headline_is_the_number_with_its_interval(page: Page):
    report = made_up_report()
    metrics, shown = report["metrics"], " ".join(page.text().split())
    assert f"{metrics['miou']:.4f}" in shown and report["headline"] in shown
    low, high = metrics["miou_ci"]
    assert f"95 % interval {low:.3f}\u200a–\u200a{high:.3f}" in page.text()
    for key in ("pixel_accuracy", "mean_accuracy", "fw_iou", "boundary_iou", "ece"):
        assert f"{metrics[key]:.4f}" in [text for *_, text in page.all("dd")]


def test_the_table_of_classes_has_the_figures_given(page: Page):
    header, *rows = page.rows("scores")
    assert [name for _, name in header] == [
        "Class", "IoU", "Interval", "Dice", "Precision", "Recall", "Boundary IoU", "Share", "Kept"
    ]  # fmt: skip
    keys = ("dice", "precision", "recall", "boundary_iou", "share", "kept")
    for row, truth in zip(rows, made_up_report()["metrics"]["classes"], strict=True):
        assert row[0][1] == truth["name"]
        assert [text for _, text in row[3:]] == [f"{truth[key]:.3f}" for key in keys]
        assert [float(a["data-value"]) for a, _ in row[3:]] == [truth[key] for key in keys]
        assert row[1][1] == f"{truth['iou']:.3f}" and float(row[1][0]["data-value"]) == truth["iou"]
        assert row[2][1] == "{:.3f} – {:.3f}".format(*truth["iou_ci"])


def test_bars_and_whiskers_are_the_figures(page: Page):
    bars = [a["style"] for _, a, _ in page.all("span") if a.get("class") == "bar"][1:]
    for style, truth in zip(bars, made_up_report()["metrics"]["classes"], strict=True):
        numbers = [float(part) for part in re.findall(r"[\d.]+", style)]
        assert numbers == pytest.approx([truth["iou"], *truth["iou_ci"]], abs=5e-5)


def test_regions_are_counted_by_size(page: Page):
    header, *rows, total = page.rows("by-size")
    for row, truth in zip(rows, made_up_report()["metrics"]["classes"], strict=True):
        for place, size in enumerate(("small", "medium", "large")):
            attributes, shown = row[1 + 2 * place]
            found = truth["regions"][size]
            assert shown == f"{100 * found['recall']:.0f} %" and row[2 + 2 * place][1] == "40"
            assert attributes["title"] == f"{found['found']} of 40 {size} regions found"
    assert [shown for _, shown in total] == ["All classes"] + ["75 %", "200"] * 3


def test_confusions_are_shares_of_the_row(page: Page):
    matrix = np.array(made_up_report()["confusion"])
    header, *rows = page.rows("matrix")
    assert [name for _, name in header][1:] == [name[0][1] for name in rows] == NAMES
    for true, row in enumerate(rows):
        for other, (attributes, shown) in enumerate(row[1:]):
            share = matrix[true, other] / matrix[true].sum()
            assert attributes["data-at"] == f"{true},{other}"
            assert f": {matrix[true, other]:,} pixels, {100 * share:.2f} %" in attributes["title"]
            assert shown == ("" if not share else "·" if share < 0.005 else f"{100 * share:.0f}")


def test_the_pairs_confused_most_come_first(page: Page):
    report = made_up_report()
    cells = [
        (count, true, other)
        for true, row in enumerate(report["confusion"])
        for other, count in enumerate(row)
        if true != other and count
    ]
    rows = [[shown for _, shown in row] for row in page.rows("confused-most")[1:]]
    most = sorted(cells, key=lambda c: -c[0])[:8]
    for row, (count, true, other) in zip(rows, most, strict=True):
        assert row[:3] == [NAMES[true], NAMES[other], str(count)]
        assert row[4] == report["confused"][true, other][0][0]


def test_data_and_provenance_are_shown(page: Page):
    shown = page.text()
    report = made_up_report()
    for value in (*report["data"].values(), *report["provenance"].values()):
        if isinstance(value, str):
            assert value in shown
    assert "8.33 %" in shown and "3 min" in shown and "torch 2.15.0" in shown


def test_charts_have_a_description(page: Page):
    loss, miou, kept, reliability = (
        a["aria-label"] for _, a, _ in page.all("div") if a.get("role") == "img"
    )
    assert "training loss from 2.500 in epoch 1 to 0.667 in epoch 12" in loss
    assert "ohem (weighted)" in loss and "dice (weighted)" in loss
    assert "from 0.100 in epoch 1 to 0.555 in epoch 11" in miou
    assert "ohem from 0.900 in epoch 1 to 0.075 in epoch 12" in kept
    assert "confidence is on average 0.020 above accuracy" in reliability


def test_the_same_report_is_the_same_file(tmp_path: Path, text: str):
    assert written(tmp_path, made_up_report(), made_up_pictures()) == text
    assert "#000000" not in text[text.index("<svg") : text.rindex("</svg>")]  # unseen when dark


def test_names_are_text_whatever_they_hold(tmp_path: Path):
    report = without_charts(NASTY, title=SCRIPT, headline=SCRIPT, expression=SCRIPT)
    report["confused"] = {cell: [(name, 3) for name in NASTY] for cell in report["confused"]}
    for part in ("data", "provenance"):
        report[part] = {k: SCRIPT if isinstance(v, str) else v for k, v in report[part].items()}
    text = written(tmp_path, report, made_up_pictures(names=NASTY))
    page = Page(text)
    plain = Page(written(tmp_path, without_charts(), made_up_pictures()))
    assert [tag for tag, *_ in page.all("script", "img")] == [
        tag for tag, *_ in plain.all("script", "img")
    ]
    assert [row[0][1] for row in page.rows("scores")[1:]] == [" ".join(n.split()) for n in NASTY]
    data = json.loads(page.all("script")[0][2])
    assert data["classes"] == NASTY and set(data["images"]) == set(NASTY)


def test_the_script_knows_each_cells_images(page: Page):
    data, report = json.loads(page.all("script")[0][2]), without_charts()
    assert data["colours"] == [list(colour) for colour in make_distinct(PALETTE)]
    for (true, other), images in report["confused"].items():
        listed = data["confused"][f"{true},{other}"]
        assert [(data["images"][place], pixels) for place, pixels in listed] == images


def undefined() -> dict[str, Any]:
    """Masks of another tool: no probabilities, no training, and classes without a pixel."""
    report = made_up_report(history=None, expression=None, confused={})
    metrics = report["metrics"]
    metrics |= dict.fromkeys(("miou_ci", "ece", "calibration", "boundary_iou", "fw_iou"))
    metrics |= {"images": 1, "groups": 1, "miou_absent_as_0": 0.1234}
    for row in metrics["classes"]:
        del row["kept"]
    nothing = {size: {"count": 0, "found": 0, "recall": None} for size in metrics["regions"]}
    keys = ("iou", "iou_ci", "dice", "precision", "recall", "boundary_iou")
    metrics["classes"][2] |= {"share": 0.0, "regions": nothing} | dict.fromkeys(keys)
    metrics["regions"] = nothing
    report["confusion"][2] = [0] * 5
    report["provenance"] |= {"commit": None, "versions": {}}
    return report


def test_what_is_undefined_is_left_out_or_explained(tmp_path: Path):
    page = Page(written(tmp_path, undefined()))
    shown = page.text()
    assert not re.search(r"\bNone\b|\bnan\b", shown, re.IGNORECASE)
    for reason in (
        "no interval",
        "without probabilities",
        "No training history",
        "pole: in neither",
    ):
        assert reason in shown
    header, *rows = page.rows("scores")
    assert "Kept" not in [name for _, name in header]
    assert [text for _, text in rows[2]] == ["pole", "–", "–", "–", "–", "–", "–", "0.000"]
    assert rows[2][1][0]["data-value"] == ""
    assert "0.1234" in shown and "Images" not in [text for *_, text in page.all("h2")]
    links = [a["href"] for _, a, _ in page.all("a")]
    assert "#images" not in links


def test_groups_are_named_where_images_hang_together(tmp_path: Path):
    report = without_charts()
    report["metrics"]["groups"] = 2
    assert "in 2 groups" in Page(written(tmp_path, report)).text()


@pytest.mark.parametrize("missing", ["loss/ohem/kept", "val_miou", "train_loss"])
def test_a_chart_without_values_is_left_out(tmp_path: Path, missing: str):
    report = made_up_report()
    report["history"] = [{k: v for k, v in r.items() if k != missing} for r in report["history"]]
    page = Page(written(tmp_path, report))
    drawn = len(page.all("svg"))
    assert drawn == (4 if missing == "train_loss" else 3)  # its terms remain


def test_the_first_epoch_is_drawn(tmp_path: Path):
    page = Page(written(tmp_path, made_up_report(history=made_up_report()["history"][:1])))
    assert len(page.all("svg")) == 4


def pictures_on(text: str) -> list[str]:
    return [text.split(",")[0] for text in re.findall(r'alt="([^"]+), original"', text)]


def test_a_page_that_grows_too_large_leaves_out_the_best_images_first(tmp_path: Path, monkeypatch):
    pictures = made_up_pictures(8)
    whole = written(tmp_path, without_charts(), pictures)
    monkeypatch.setattr(report_page, "MAX_BYTES", len(whole.encode()) - 1)
    text = written(tmp_path, without_charts(), pictures)
    assert pictures_on(text) == [p.name for p in pictures[:7]]
    assert "1 more image was left out" in text
    monkeypatch.setattr(report_page, "MAX_BYTES", len(text.encode()) - 1)
    text = written(tmp_path, without_charts(), pictures)
    assert pictures_on(text) == [p.name for p in pictures[:7] if p.kind == "worst"]
    monkeypatch.setattr(report_page, "MAX_BYTES", 1)
    text = written(tmp_path, without_charts(), pictures)
    assert pictures_on(text) == [] and "8 more images were left out" in text


def test_a_page_of_many_classes_and_noise_stays_below_10_mb(tmp_path: Path):
    rng = np.random.default_rng(0)
    names = [f"class {i} of a long list" for i in range(150)]
    image = torch.from_numpy(rng.integers(0, 256, (3, 700, 700), dtype=np.uint8))
    truth, prediction = torch.from_numpy(rng.integers(0, 150, (2, 700, 700)))
    kept = torch.rand(700, 700)
    maps = ImageMaps(image, truth, prediction, kept)
    picture = ViewerImage.encode("a.png", "mIoU 0", "worst", maps, 255, 150)
    palette = [(0, 0, 0)] * 150
    text = written(tmp_path, without_charts(names), [picture] * 7, palette)
    assert len(text.encode()) < 9.5e6 and 3 < len(pictures_on(text)) < 7
    assert "The 40 of 150 classes with most confused pixels" in text
    header, *rows = Page(text).rows("matrix")
    assert len(rows) == 40 and {len(row) for row in rows} == {41}
    matrix = np.array(without_charts(names)["confusion"])
    wrong = matrix.sum(0) + matrix.sum(1) - 2 * matrix.diagonal()
    fewest = min(wrong[names.index(row[0][1])] for row in rows)
    assert (wrong > fewest).sum() < 40


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


@pytest.mark.parametrize("lb_ignore", [255, -1, 5, 1000])
def test_masks_are_painted_in_exactly_their_colours(tmp_path: Path, lb_ignore: int):
    truth, prediction = made_up_masks()
    truth[truth == 255] = lb_ignore
    maps = ImageMaps(
        torch.zeros(3, 120, 160, dtype=torch.uint8), *map(torch.from_numpy, (truth, prediction))
    )
    shown = ViewerImage.encode("a.png", "", "worst", maps, lb_ignore, 5)
    page = Page(written(tmp_path, without_charts(), [shown]))
    urls = {a["data-layer"]: a["src"] for _, a, _ in page.all("img")}
    layers = {key: decoded(b64decode(url.partition(",")[2])) for key, url in urls.items()}
    assert set(layers) == {"image", "truth", "prediction", "errors"}
    colours = np.array(make_distinct(PALETTE))
    np.testing.assert_array_equal(layers["prediction"][..., :3], colours[prediction])
    np.testing.assert_array_equal(layers["truth"][10:, :, :3], colours[truth[10:]])
    for key in ("truth", "errors"):
        assert (layers[key][:10, :, 3] == 0).all() and (layers[key][10:, :, 3] == 255).all()
    wrong = truth[10:] != prediction[10:]
    right = tuple(map(int, layers["errors"][10, 0, :3]))
    np.testing.assert_array_equal((layers["errors"][10:, :, :3] != right).any(-1), wrong)


@pytest.mark.parametrize("classes", [2, 255, 256, 300])
def test_any_number_of_classes_is_told_apart(classes: int):
    ids = torch.arange(classes).repeat(2, 1)
    image = torch.zeros(3, 2, classes, dtype=torch.uint8)
    shown = ViewerImage.encode("a.png", "", "worst", ImageMaps(image, ids, ids), -1, classes)
    colours = make_distinct([(10, 20, 30)] * classes)
    np.testing.assert_array_equal(decoded(repaint_png(shown.truth, colours))[0, :, :3], colours)


def test_large_images_become_small():
    truth = torch.arange(1400).repeat(3000, 1) // 700
    image = torch.zeros(3, 3000, 1400, dtype=torch.uint8)
    image[:, :, 700:] = 200
    kept = (truth == 1).float()
    maps = ImageMaps(image, truth, 1 - truth, kept, kept)
    shown = ViewerImage.encode("a.png", "", "best", maps, 255, 2)
    assert shown.size == (299, 640)
    for content in (
        shown.image,
        shown.truth,
        shown.prediction,
        shown.errors,
        shown.hard,
        shown.confidence,
    ):
        assert Image.open(io.BytesIO(content)).size == (299, 640)
    ids = np.asarray(Image.open(io.BytesIO(shown.truth)))
    assert (ids[:, :149] == 0).all() and (ids[:, 150:] == 1).all()
    photo = decoded(shown.image)[..., 0].astype(int)
    assert photo[:, :140].max() < 5 and abs(photo[:, 160:] - 200).max() < 5


COLOURS = st.tuples(*[st.integers(0, 255)] * 3)
FEW = st.sampled_from([(0, 0, 0), (255, 255, 255), (127, 128, 0)])


@given(st.lists(COLOURS | FEW, max_size=99))
def test_colours_are_told_apart_and_hardly_changed(palette: list[tuple[int, int, int]]):
    colours = make_distinct(palette)
    assert len(set(colours)) == len(colours) == len(palette)
    for place, (given_, colour) in enumerate(zip(palette, colours, strict=True)):
        assert max(abs(a - b) for a, b in zip(given_, colour, strict=True)) < 8 and min(colour) >= 0
        assert max(colour) <= 255 and (given_ in colours[:place] or colour == given_)


def test_a_report_does_not_change_what_it_was_given(tmp_path: Path):
    report = without_charts()
    before = copy.deepcopy(report)
    written(tmp_path, report, made_up_pictures())
    assert report == before


def test_blank_and_turned_names_and_names_of_one_start_differ_on_the_page(tmp_path: Path):
    names = [
        "a\nb",
        "a b",
        "",
        " ",
        "\u202eb\x1b",
        "x" * 999,
        "x" * 999 + "y",
        "x" * 500 + "z" + "x" * 499,
    ]
    report = made_up_report(names)
    report["headline"] = "\x00\u2066\ud800"
    colours = [(i, i, i) for i in range(len(names))]
    write_report(tmp_path / "r.html", report, made_up_pictures(names=names[:4]), colours)
    page = Page(text := (tmp_path / "r.html").read_text())
    shown = [row[0][1] for row in page.rows("scores")[1:]]
    assert shown[:5] == [r"a\x0ab", "a b", "class 2", "class 3", r"\u202eb\x1b"]
    assert len(set(shown)) == len(names) and max(map(len, shown)) <= 120
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e\u2066\ud800]", text)
