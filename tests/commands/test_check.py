"""segtrain check: the report, its exit code and the files it writes."""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import QUICK, run_cli, scene, shared_data, write_pairs
from PIL import Image

from segtrain.data import demo

CAMVID_TRAIN = [10682767, 14750079, 623349, 20076880, 2845085, 6166762, 743859, 714595, 3719877,
                405385, 184967]  # fmt: skip
SET = Path("set")  # in the test's own folder


@pytest.fixture
def good(tmp_path: Path) -> Path:
    """Four train and four val pairs of three classes, all different."""
    for split, first in (("train", 0), ("val", 10)):
        write_pairs(tmp_path / SET, 4, f"images/{split}", f"masks/{split}", first=first)
    return tmp_path / SET


@pytest.fixture
def spoilt(good: Path) -> Path:
    """Masks of 0/255, an orphan, a truncated image, an image of another size, a copy in val."""
    for path in sorted((good / "masks").rglob("*.png")):
        repaint(path, lambda mask: (mask > 0) * np.uint8(255))
    write_pairs(good, 4, "images/train", "masks/train", first=20)
    for index in range(20, 24):
        path = good / f"masks/train/{index:03d}.png"
        repaint(path, lambda mask: (mask > 0) * np.uint8(255))
    (good / "masks/train/002.png").unlink()
    cut(good / "images/train/003.png")
    repaint(good / "masks/train/020.png", lambda mask: mask[:, :-1])
    shutil.copy(good / "images/train/001.png", good / "images/val/010.png")
    return good


def repaint(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def report(cli, *args: object, code: int = 0) -> dict[str, Any]:
    answer = cli("check", *args, "--json")
    assert answer.code == code, answer.stderr
    return json.loads(answer.stdout)


def kinds(found: dict[str, Any], severity: str) -> list[str]:
    return sorted(f["kind"] for f in found["findings"] if f["severity"] == severity)


def holds(text: str, *words: str) -> None:
    assert [word for word in words if word not in text] == [], text


# the page and the exit code


def test_a_good_data_set(cli, good: Path):
    answer = cli("check", SET)
    assert answer.code == 0 and "error: " not in answer.stderr
    pixels = [scene(i)[1] for i in range(4)]
    counts = np.bincount(np.ravel(pixels), minlength=3)
    holds(answer.stdout, str(good), "pairs: images/train + masks/train", "4 train, 4 val",
          "40x48 (8)", f"{counts[0]:,}", f"{counts[0] / counts.sum():.2%}", "mean [", "std [",
          "no error", "0 notes")  # fmt: skip


def test_the_figures_are_those_of_numpy(cli, good: Path):
    found = report(cli, SET)
    images, masks = zip(*(scene(i) for i in range(4)), strict=True)
    channels = np.stack(images).reshape(-1, 3).astype(float)
    np.testing.assert_allclose(found["mean"], channels.mean(0), atol=0.006)
    np.testing.assert_allclose(found["std"], channels.std(0), atol=0.006)
    for row in found["classes"]:
        pixels = sum(int((mask == row["id"]).sum()) for mask in masks)
        assert row["train"] == {
            "pixels": pixels,
            "share": pytest.approx(pixels / (4 * 48 * 40)),
            "images": sum(bool((mask == row["id"]).any()) for mask in masks),
        }
    assert found["sizes"] == [{"width": 40, "height": 48, "images": 8}]
    assert found["pairs"] == found["readable"] == {"train": 4, "val": 4}
    assert (found["format"], found["data"]) == ("pairs", str(good))
    assert (found["errors"], found["notes"], found["findings"]) == (0, 0, [])


def test_all_errors_are_on_one_page_with_their_lines(cli, spoilt: Path):
    answer = cli("check", SET)
    assert answer.code == 1 and "Traceback" not in answer.stderr
    holds(
        answer.stdout,
        "images/train/002.png", "data.exclude: [images/train/002.png]",
        "images/train/003.png: the image is truncated", "data.exclude: [images/train/003.png]",
        "images/train/020.png is 40x48 (width x height), masks/train/020.png is 39x48",
        "images/train/001.png = images/val/010.png", "data.exclude: [images/train/001.png]",
        "0, 255", "data.label_map: {255: 1}", "5 errors", "fix before training",
    )  # fmt: skip


def test_json_holds_all_findings_with_all_places(cli, good: Path):
    for path in sorted((good / "masks").rglob("*.png")):
        repaint(path, lambda mask: mask + (mask == 2) * np.uint8(5))
    found = report(cli, SET, "--set", "data.classes=[a, b]", code=1)
    (value,) = [f for f in found["findings"] if f["kind"] == "value"]
    assert value["severity"] == "error" and value["count"] == 8 == len(value["places"])
    assert value["mend"] == {}
    assert [choice["data.label_map"] for choice in value["choices"]] == [
        {"7": 2},
        {"7": "ignore"},
    ]
    assert "data.label_map: {7: ignore}" in value["remedy"]
    assert found["errors"] == 1 and kinds(found, "error") == ["value"]
    page = cli("check", SET, "--set", "data.classes=[a, b]")
    assert "and 5 more (--json has all)" in page.stdout


def test_notes_alone_are_no_failure(cli, good: Path):
    repaint(good / "masks/train/001.png", lambda mask: mask * 0 + 255)
    shutil.copy(good / "images/train/002.png", good / "images/train/003.png")
    answer = cli("check", SET)
    assert answer.code == 0
    holds(answer.stdout, "note", "masks/train/001.png", "images/train/002.png = ", "2 notes")
    assert kinds(report(cli, SET), "note") == ["duplicate", "empty"]


@pytest.mark.parametrize(
    "args, code, words",
    [
        (["nowhere"], 2, ["nowhere", "no such folder"]),
        (["empty"], 1, ["empty", "no data set found", "data.splits"]),
        ([SET, "--set", "data.clases=[a, b]"], 2, ["data.clases", "data.classes"]),
        ([SET, "--config", "gone.yaml"], 2, ["gone.yaml", "no such file"]),
        ([SET, "--set", "data.format=voc"], 1, ["JPEGImages"]),
        ([SET, "--set", "data.exclude=[gone.png]"], 2, ["data.exclude", "gone.png"]),
    ],
)
def test_what_cannot_be_checked(cli, good: Path, args: list, code: int, words: list[str]):
    Path("empty").mkdir()
    for more in ([], ["--json"]):
        answer = cli("check", *args, *more)
        assert answer.code == code
        holds(answer.error, *words)


def test_without_a_path_the_demo_is_checked(cli, tmp_path: Path, monkeypatch):
    small = partial(demo.write_demo, train=3, val=2)
    monkeypatch.setattr("segtrain.data.layouts.locate.write_demo", small)
    monkeypatch.setenv("SEGTRAIN_CACHE", str(tmp_path / "cache"))
    answer = cli("check")
    assert answer.code == 0
    holds(answer.stdout, "demo", "3 train, 2 val", "no error", "sky")


def test_a_data_set_in_data_is_checked(cli):
    write_pairs(Path("data"), 4)
    holds(cli("check").stdout, "images + masks", "3 train, 1 val")


def test_the_config_may_name_the_path(cli, good: Path):
    Path("my.yaml").write_text(f"data: {{path: {good}, classes: [sky, road, car]}}")
    answer = cli("check", "--config", "my.yaml")
    assert answer.code == 0
    holds(answer.stdout, "sky", "road", "car")


def test_check_writes_only_the_files_asked_for(cli, spoilt: Path):
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    cli("check", SET)
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before


def test_all_test_pairs_are_read(cli, good: Path):
    write_pairs(good, 2, "images/test", "masks/test", first=20)
    repaint(good / "masks/test/020.png", lambda mask: mask * 0 + 9)
    found = report(cli, SET, code=1)
    assert found["pairs"]["test"] == 2 and kinds(found, "error") == ["classes"]


def test_names_of_every_kind(cli, good: Path):
    """Markup, brackets, and bytes that are not UTF-8 (from a zip of another system)."""
    for name in (b"[red]x[/].png", b"[1].png", b"\xfc.png"):
        target = os.path.join(os.fsencode(good / "images/train"), *name.split(b"/")[-1:])
        shutil.copy(good / "images/train/000.png", "new.png")
        os.rename("new.png", target)
    page = cli("check", SET)
    assert page.code == 1 and "Traceback" not in page.stderr
    holds(page.stdout, "3 image(s) without a mask", "[1].png")
    found = report(cli, SET, code=1)
    assert "unpaired" in kinds(found, "error")
    assert cli("check", SET, "--write-config", "my.yaml").code == 1
    assert cli("check", "--config", "my.yaml").code == 0


# what a file or folder may be called; none of it may steer the terminal or read as markup
ODD_NAMES = {
    "newline": b"a\nerror: forged.png",
    "carriage return": b"a\rb.png",
    "ANSI escape": b"\x1b[31mred\x1b[2J.png",
    "title and bell": b"\x1b]0;title\x07.png",
    "8-bit escape": "\x9b31mx.png".encode(),
    "not UTF-8": b"\xff\xfe.png",
    "right to left": "\u202egnp.exe.png".encode(),
    "line separator": "a\u2028b\x85c.png".encode(),
    "markup": b"[bold red]x[link=file:y]z.png",
    "emoji code": b":smiley:.png",
}


@pytest.mark.parametrize("kind", ODD_NAMES)
@pytest.mark.parametrize("where", ["file", "folder"])
def test_odd_names_stay_text(cli, good: Path, tmp_path: Path, kind: str, where: str):
    name = ODD_NAMES[kind]
    if where == "file":
        image = os.path.join(os.fsencode(good / "images/train"), name)
        shutil.copy(os.fsencode(good / "images/train/000.png"), image)
        data, expected = SET, f"images/train/{os.fsdecode(name)}"
    else:
        data = Path(os.fsdecode(name))
        os.rename(os.fsencode(good), os.path.join(os.fsencode(tmp_path), name))
        (data / "masks/train/000.png").unlink()
        expected = "images/train/000.png"
    page = cli("check", data, "--write-config", "my.yaml", "--preview", "sheet.png")
    assert page.code == 1 and "Traceback" not in page.stdout + page.stderr
    printed = page.stdout + page.stderr
    assert [c for c in printed if c != "\n" and unicodedata.category(c) in ("Cc", "Cf", "Zl")] == []
    assert not any(line.startswith("error: forged") for line in printed.splitlines())
    holds(page.stdout, "without a mask")
    if kind in ("markup", "emoji code"):
        assert name.decode() in page.stdout
    found = report(cli, data, code=1)
    assert any(finding["places"] == [expected] for finding in found["findings"])
    assert found["data"] == str(tmp_path / data)
    config = yaml.safe_load(Path("my.yaml").read_text())
    assert config["data"]["exclude"] == [expected]
    assert cli("check", "--config", "my.yaml").code == 0


def test_class_names_stay_text(cli, good: Path):
    """Class names may come from a downloaded file, such as a COCO JSON."""
    Path("c.yaml").write_text('data: {classes: ["[/red]", "\\e[2Jb", "c\\nd"]}\n')
    page = cli("check", SET, "--config", "c.yaml")
    assert page.code == 0, page.stderr
    holds(page.stdout, "[/red]", r"\x1b[2Jb", r"c\x0ad")
    assert "\x1b" not in page.stdout
    names = [row["name"] for row in report(cli, SET, "--config", "c.yaml")["classes"]]
    assert names == ["[/red]", "\x1b[2Jb", "c\nd"]


# the second time


def test_a_second_check_reads_nothing(cli, good: Path, monkeypatch):
    first = cli("check", SET)

    def never(*args):
        raise AssertionError("read again")

    for name in ("image_facts", "mask_facts", "header_facts"):
        monkeypatch.setattr(f"segtrain.data.inspection.scan.{name}", never)
    assert cli("check", SET).stdout == first.stdout


def test_a_fixed_file_is_read_again(cli, good: Path):
    content = (good / "images/train/001.png").read_bytes()
    cut(good / "images/train/001.png")
    assert cli("check", SET).code == 1
    (good / "images/train/001.png").write_bytes(content)
    assert cli("check", SET).code == 0


# --write-config


def fixed(cli, *args: object) -> dict[str, Any]:
    """Write the config of a faulty data set; it must have no error. Return its data section."""
    assert cli("check", *args, "--write-config", "my.yaml").code == 1
    again = cli("check", "--config", "my.yaml")
    assert again.code == 0, again.stdout + again.stderr
    return yaml.safe_load(Path("my.yaml").read_text())["data"]


def test_the_written_config_trains(cli, spoilt: Path):
    data = fixed(cli, SET)
    assert data["label_map"] == {255: 1} and len(data["classes"]) == 2
    assert sorted(data["exclude"]) == [
        f"images/train/{i}.png" for i in ("001", "002", "003", "020")
    ]
    trained = cli("fit", "--config", "my.yaml", *QUICK)
    assert trained.code == 0, trained.stderr
    holds(trained.stdout, "4 excluded", "best mIoU")


def test_the_config_of_a_good_data_set_trains_too(cli, good: Path):
    answer = cli("check", SET, "--write-config", "sub/my.yaml")
    assert answer.code == 0 and "'segtrain fit --config sub/my.yaml'" in answer.stdout
    config = yaml.safe_load(Path("sub/my.yaml").read_text())
    assert config["data"]["path"] == str(good) and config["data"]["classes"] == ["0", "1", "2"]
    assert cli("fit", "--config", "sub/my.yaml", *QUICK).code == 0


def test_the_written_config_keeps_the_given_fields(cli, good: Path):
    write_pairs(good, 1, "images/train", "masks/train", first=20)

    def slip(mask: np.ndarray) -> np.ndarray:
        mask[0, 0] = 9
        return mask

    repaint(good / "masks/train/001.png", slip)
    (good / "masks/train/003.png").unlink()
    Path("given.yaml").write_text(
        "data: {classes: [sky, road], label_map: {2: 1}, exclude: [images/train/020.png],"
        " val_fraction: 0.4, workers: 0}\n"
    )
    data = fixed(cli, SET, "--config", "given.yaml")
    assert data["classes"] == ["sky", "road"]
    assert data["label_map"] == {2: 1, 9: "ignore"}
    assert sorted(data["exclude"]) == ["images/train/003.png", "images/train/020.png"]
    assert data["val_fraction"] == 0.4 and data["workers"] == 0


def test_the_config_of_jpeg_masks(cli, good: Path):
    for path in sorted((good / "masks").rglob("*.png")):
        mask = (np.array(Image.open(path)) > 0).astype(np.uint8) * 255
        Image.fromarray(mask).convert("RGB").save(path.with_suffix(".jpg"), quality=80)
        path.unlink()
    data = fixed(cli, SET)
    assert data["allow_lossy_masks"] is True and data["label_map"] == {255: 1}
    assert cli("fit", "--config", "my.yaml", *QUICK).code == 0


def test_the_config_of_coloured_masks(cli, good: Path):
    colours = np.array([(0, 0, 0), (250, 0, 0), (0, 250, 0)], np.uint8)
    for path in sorted((good / "masks").rglob("*.png")):
        repaint(path, lambda mask: colours[mask])
    data = fixed(cli, SET)
    assert sorted(map(tuple, data["palette"])) == sorted(map(tuple, colours.tolist()))
    assert cli("fit", "--config", "my.yaml", *QUICK).code == 0


def test_the_config_of_seven_channels(cli, tmp_path: Path):
    rng = np.random.default_rng(0)
    for index in range(6):
        for folder, shape, high in (("images", (7, 48, 40), 4096), ("masks", (48, 40), 3)):
            (tmp_path / SET / folder).mkdir(parents=True, exist_ok=True)
            values = rng.integers(0, high, shape).astype(np.uint16)
            np.save(tmp_path / SET / folder / f"{index}.npy", values)
    seven = ["--set", "model.in_channels=7"]
    dark = report(cli, SET, *seven)
    (note,) = [f for f in dark["findings"] if f["kind"] == "range"]
    assert note["mend"] == {"data.value_range": [0, 4095]}
    sheets = ["--preview", "a.png", "--augment", "b.png"]
    bright = [*seven, "--set", "data.value_range=[0, 4095]"]
    answer = cli("check", SET, *bright, *sheets, "--write-config", "my.yaml")
    assert answer.code == 0, answer.stdout
    config = yaml.safe_load(Path("my.yaml").read_text())
    assert config["model"]["in_channels"] == 7 == len(config["model"]["mean"])
    assert 120 < config["model"]["mean"][0] < 135 and config["data"]["value_range"] == [0, 4095]
    assert cli("fit", "--config", "my.yaml", *QUICK).code == 0


def test_errors_without_a_fix_are_comments_in_the_config(cli, good: Path):
    for folder in ("images", "masks"):
        shutil.rmtree(good / folder / "val")
        shutil.copytree(good / folder / "train", good / folder / "val")
    assert cli("check", SET, "--write-config", "my.yaml").code == 1
    text = Path("my.yaml").read_text()
    holds(text, "# fix by hand", "the same content in two splits")
    assert yaml.safe_load(text)["data"]["path"] == str(good)


def test_a_config_is_written_for_unclear_masks_without_a_picture(cli, spoilt: Path):
    answer = cli("check", SET, "--preview", "a.png", "--write-config", "my.yaml")
    assert answer.code == 1 and Path("my.yaml").exists()


def test_a_config_that_cannot_be_written(cli, good: Path):
    Path("file").write_text("in the way")
    answer = cli("check", SET, "--write-config", "file/my.yaml")
    assert answer.code in (1, 2)
    holds(answer.error, "file/my.yaml")


# pictures


def colours_of(path: Path) -> set[tuple[int, int, int]]:
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    return set(map(tuple, np.unique(pixels, axis=0).tolist()))


PALETTE = [(250, 10, 10), (10, 250, 10), (10, 10, 250)]
PAINTED = [
    "--set", "data.classes=[sky, road, car]",
    "--set", "data.palette=[[250, 10, 10], [10, 250, 10], [10, 10, 250]]",
]  # fmt: skip


@pytest.fixture
def grey(good: Path) -> Path:
    """Images of one grey level each, so that a sheet shows known colours."""
    for index, path in enumerate(sorted((good / "images").rglob("*.png"))):
        repaint(path, lambda image, level=100 + 2 * index: np.full_like(image, level))
    return good


def test_the_preview_blends_the_classes_colours_over_the_images(cli, grey: Path):
    answer = cli("check", SET, "--preview", "sheets/preview.png", *PAINTED)
    assert answer.code == 0 and "wrote sheets/preview.png" in answer.stdout
    seen = colours_of(Path("sheets/preview.png"))
    for index, level in enumerate(range(100, 116, 2)):
        mask = scene(index if index < 4 else index + 6)[1]
        for class_id in np.unique(mask):
            blended = [(part + level) / 2 for part in PALETTE[class_id]]
            assert tuple(map(round, blended)) in seen, (index, class_id)
    assert set(PALETTE) <= seen  # the legend
    with Image.open("sheets/preview.png") as sheet:
        width, height = sheet.size
    assert width > 3 * 320 and height > 2 * 384


def test_the_preview_leaves_ignored_pixels_as_they_are(cli, grey: Path):
    repaint(grey / "masks/train/000.png", lambda mask: np.where(mask == mask[0, 0], 255, mask))
    cli("check", SET, "--preview", "a.png", *PAINTED)
    assert (100, 100, 100) in colours_of(Path("a.png"))


def test_the_preview_shows_a_rare_class(cli, grey: Path):
    """Only one of 200 images has the class."""
    write_pairs(grey, 100, "images/train", "masks/train", first=100, height=8, width=8, classes=2)
    for path in sorted((grey / "masks").rglob("*.png")):
        repaint(path, lambda mask: mask % 2)
    for path in sorted((grey / "images/train").glob("1*.png")):
        repaint(path, lambda image: np.full_like(image, 50))
    rare = grey / "masks/train/157.png"
    repaint(rare, lambda mask: np.where(np.arange(8) < 2, np.uint8(2), mask))
    cli("check", SET, "--preview", "a.png", *PAINTED)
    assert (30, 30, 150) in colours_of(Path("a.png"))


def test_the_augmented_sheet_has_three_passes_of_each_pair(cli, grey: Path):
    plain = ["--set", "augment.preset=none", "--set", "augment.crop=32x32"]
    answer = cli("check", SET, "--augment", "a.png", *PAINTED, *plain)
    assert answer.code == 0, answer.stderr
    with Image.open("a.png") as picture:
        assert picture.width == 3 * (320 + 8) + 8
        assert picture.height > 4 * (320 + 18)
    seen = colours_of(Path("a.png"))
    mixed = [
        tuple(round(level + 0.35 * (part - level)) for part in PALETTE[class_id])
        for level, index in ((100, 0), (102, 1), (104, 2), (106, 3))
        for class_id in np.unique(scene(index)[1][8:40])
    ]
    assert [colour for colour in mixed if colour in seen]


def test_the_augmented_sheet_shows_what_is_pasted(cli, grey: Path):
    """Only one image has the class, so that others show its colour where it is pasted."""
    for path in sorted((grey / "masks").rglob("*.png")):
        repaint(path, lambda mask: mask % 2)
    car = np.arange(48)[:, None] < 8
    repaint(grey / "masks/train/003.png", lambda mask: np.where(car, np.uint8(2), mask))
    repaint(grey / "images/train/003.png", lambda image: np.full_like(image, 240))
    blended = [round(240 + 0.35 * (part - 240)) for part in PALETTE[2]]
    pixels = {}
    for share in ("0", "1"):
        more = ["--set", "augment.preset=none", "--set", "data.rare_classes=[car]"]
        more += ["--set", f"augment.copy_paste={share}"]
        answer = cli("check", SET, "--augment", "a.png", *PAINTED, *more)
        assert answer.code == 0, answer.stderr
        with Image.open("a.png") as sheet:
            pixels[share] = (np.asarray(sheet.convert("RGB")) == blended).all(2).sum()
    assert pixels["1"] > 3 * pixels["0"] > 0


def test_sheets_beside_json_print_json_alone(cli, good: Path):
    found = report(cli, SET, "--preview", "a.jpg", "--augment", "b.webp")
    assert found["errors"] == 0
    with Image.open("a.jpg") as a, Image.open("b.webp") as b:
        assert (a.format, b.format) == ("JPEG", "WEBP")


@pytest.mark.parametrize("option", ["--preview", "--augment"])
@pytest.mark.parametrize("name", ["sheet", "sheet.xyz", "sheet.yaml"])
def test_a_sheet_needs_a_picture_format(cli, good: Path, option: str, name: str):
    answer = cli("check", SET, option, name)
    assert answer.code == 2 and not Path(name).exists()
    holds(answer.error, option, name, ".png")


def test_a_sheet_is_no_folder(cli, good: Path):
    Path("sheet.png").mkdir()
    answer = cli("check", SET, "--preview", "sheet.png")
    assert answer.code in (1, 2)
    holds(answer.error, "sheet.png")


@pytest.mark.parametrize("option", ["--preview", "--augment"])
def test_no_picture_where_nothing_can_be_read(cli, good: Path, option: str):
    for path in (good / "images").rglob("*.png"):
        path.write_bytes(b"?")
    for more in ([], PAINTED):
        answer = cli("check", SET, option, "a.png", *more)
        assert answer.code == 1 and not Path("a.png").exists()
        assert "internal error" not in answer.stderr
        holds(answer.stdout, "images/train/000.png")


@pytest.mark.parametrize("option", ["--preview", "--augment"])
def test_readable_pairs_are_painted_beside_faults(cli, good: Path, option: str):
    """An unknown value in one mask does not keep the others from being painted."""
    repaint(good / "masks/train/001.png", lambda mask: np.where(mask == mask[0, 0], 7, mask))
    answer = cli("check", SET, option, "a.png", *PAINTED[:2], "--write-config", "my.yaml")
    assert answer.code == 1 and Path("my.yaml").exists()
    assert "internal error" not in answer.stderr


# real data


@pytest.fixture(scope="session")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The full check of CamVid, once."""
    root = shared_data("camvid")
    folder = tmp_path_factory.mktemp("camvid")
    preview = folder / "preview.png"
    answer = run_cli(
        "check", root, "--json", "--preview", preview, "--write-config", folder / "c.yaml"
    )
    assert answer.code == 0, answer.stdout[:2000] + answer.stderr
    return json.loads(answer.stdout) | {"preview": preview, "config": folder / "c.yaml"}


def test_published_camvid_has_no_error(camvid: dict[str, Any]):
    assert camvid["errors"] == 0 and camvid["format"] == "camvid"
    assert camvid["pairs"] == {"train": 367, "val": 101}
    assert camvid["sizes"] == [{"width": 480, "height": 360, "images": 468}]


def test_camvids_class_pixels(camvid: dict[str, Any]):
    rows = camvid["classes"]
    assert [row["train"]["pixels"] for row in rows] == CAMVID_TRAIN
    assert sum(row["train"]["share"] for row in rows) == pytest.approx(1)
    names = (shared_data("camvid") / "classes.txt").read_text().split()
    assert [row["name"].lower() for row in rows] == [name.lower() for name in names]


def test_camvids_preview_shows_every_class(camvid: dict[str, Any]):
    with Image.open(camvid["preview"]) as picture:
        assert picture.width > 1000
    assert len(colours_of(camvid["preview"])) > 1000


def test_camvids_config_can_be_used(camvid: dict[str, Any]):
    assert run_cli("check", "--config", camvid["config"]).code == 0


def test_membrane_is_fixed_by_one_line(cli):
    found = report(cli, shared_data("membrane"), "--write-config", "m.yaml", code=1)
    assert kinds(found, "error") == ["classes"]
    assert "--write-config" in run_cli("check", shared_data("membrane")).stdout
    assert "--write-config" in run_cli("fit", "--data", shared_data("membrane")).stderr
    (error,) = [f for f in found["findings"] if f["severity"] == "error"]
    assert error["mend"]["data.label_map"] == {"255": 1}
    again = report(cli, "--config", "m.yaml")
    pixels = [row["train"]["pixels"] + row["val"]["pixels"] for row in again["classes"]]
    assert sum(pixels) == 30 * 512 * 512 and pixels[1] > 3 * pixels[0]
