"""Data that may mean several things: check writes the readings, fit asks for one of them."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from conftest import QUICK, scene
from PIL import Image

SET = Path("set")
DRY = [*QUICK, "--dry-run"]


def write_set(values: list[int], soften=lambda mask: mask, suffix: str = ".png") -> None:
    """Write six pairs whose masks hold these values instead of ids."""
    for index in range(6):
        image, ids = scene(index, classes=len(values))
        mask = soften(np.array(values, np.uint8)[ids])
        for folder, pixels, kind in (("images", image, ".png"), ("masks", mask, suffix)):
            (SET / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(SET / folder / f"{index}{kind}")


def name_lines(message: str, file: Path) -> list[range]:
    """Return the lines of each reading that a message names, counted from 0."""
    assert str(file) in message
    found = re.findall(r"lines? (\d+)(?:-(\d+))?", message)
    return [range(int(first) - 1, int(last or first)) for first, last in found]


@pytest.mark.parametrize(
    "values, given, counts",
    [
        ([0, 128, 255], "", [3, 2]),
        ([0, 50, 100, 255], "", [4, 3]),
        ([0, 1, 3], "", [3, 4]),
        ([1, 2, 3], "", [3, 4]),
        ([0, 2, 255], "lb_ignore: 255, val_fraction: 0.3", [2, 3, 3]),
        # the user's own entry stays in each reading
        ([0, 90, 128, 255], "label_map: {90: ignore}", [3, 2]),
    ],
)
def test_each_reading_trains_once_it_is_chosen(cli, values: list[int], given: str, counts):
    write_set(values)
    Path("given.yaml").write_text(f"data: {{{given}}}\n")
    file = Path("c.yaml")
    answer = cli("check", SET, "--config", "given.yaml", "--write-config", file)
    assert answer.code == 1 and "choose" in file.read_text() and "reading" in answer.stdout
    lines = file.read_text().splitlines()
    refused = cli("fit", "--config", file, *DRY)
    assert refused.code == 2
    readings = name_lines(refused.error, file)
    found = []
    for numbers in readings:
        chosen = [
            line.replace("#", "", 1) if i in numbers else line for i, line in enumerate(lines)
        ]
        file.write_text("\n".join(chosen))
        trained = cli("fit", "--config", file, *DRY)
        assert trained.code == 0, trained.stderr
        classes = re.search(r"(?m)^  classes:\n((?:  - .*\n)+)", trained.stdout)
        found.append(classes[1].count("- "))
        assert not given.startswith("label_map") or re.search("90'?: ignore", trained.stdout)
    assert found == counts


def test_smooth_levels_of_grey_leave_255_open(cli):
    write_set([0, 128, 255], lambda mask: cv2.GaussianBlur(mask, (0, 0), 1))
    assert cli("check", SET, "--write-config", "c.yaml").code == 1
    lines = Path("c.yaml").read_text().splitlines()
    (first, _) = name_lines(cli("fit", "--config", "c.yaml", *DRY).error, Path("c.yaml"))
    for number in first:
        lines[number] = lines[number].replace("#", "", 1)
    Path("c.yaml").write_text("\n".join(lines))
    trained = cli("fit", "--config", "c.yaml", *DRY)
    assert trained.code == 0 and "nearest class" in trained.stdout


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_smooth_black_and_white_trains_with_the_written_config(cli, suffix: str):
    write_set([0, 255], lambda mask: cv2.GaussianBlur(mask, (0, 0), 1.5), suffix)
    assert cli("check", SET, "--write-config", "c.yaml").code == 1
    trained = cli("fit", "--config", "c.yaml", *DRY)
    assert trained.code == 0, trained.stderr
    assert re.search(r"label_map:\n    '?255'?: 1\n", trained.stdout)
    assert cli("check", "--config", "c.yaml").code == 0


def test_ids_in_jpeg_masks_have_no_line(cli):
    write_set([0, 1, 2], suffix=".jpg")
    answer = cli("check", SET, "--write-config", "c.yaml")
    assert answer.code == 1 and "JPEG" in answer.stdout and "PNG" in answer.stdout
    assert "allow_lossy_masks" not in Path("c.yaml").read_text()
    assert cli("fit", "--config", "c.yaml", *DRY).code == 1


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_smooth_colours_are_no_classes(cli, suffix: str):
    colours = np.array([(0, 0, 0), (200, 0, 0), (0, 200, 0)], np.uint8)
    write_set([0, 1, 2], lambda ids: cv2.GaussianBlur(colours[ids], (0, 0), 1), suffix)
    assert cli("check", SET, "--write-config", "c.yaml").code == 1
    data = yaml.safe_load(Path("c.yaml").read_text())["data"]
    assert data["allow_lossy_masks"] and len(data["classes"]) == len(data["palette"]) == 3
    near = np.array(sorted(data["palette"])) - sorted(colours.tolist())
    assert abs(near).max() <= 8
    assert cli("fit", "--config", "c.yaml", *DRY).code == 0
