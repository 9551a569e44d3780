"""Training and evaluation on TIFFs that are never decoded whole: data.windowed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
from conftest import QUICK, scene
from PIL import Image

from segtrain.config import AugmentConfig
from segtrain.config.data import DataConfig
from segtrain.data import tiff
from segtrain.data.data_set import find_data_source
from segtrain.data.loading.augment import Augmentation
from segtrain.data.loading.dataset import Pairs
from segtrain.data.loading.sampling import Draw, PatchSource

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
WINDOWED = ["--set", "data.windowed=2500"]  # areas of up to 50 x 50
WHOLE = ["--set", "data.windowed=100000"]
SLIDING = ["--set", "eval.max_pixels=1", "--set", "eval.window=32"]
SIZES = {"train": [(152, 90), (64, 200), (48, 40)], "val": [(128, 110), (48, 40)]}


def write_tiff(path: Path, values: np.ndarray, **profile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = values.reshape(*values.shape[:2], -1)
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 32, "compress": "deflate"} | profile
    with rasterio.open(path, "w", driver="GTiff", height=len(values), width=values.shape[1],
                       count=values.shape[2], dtype=values.dtype, **tiles) as file:  # fmt: skip
        file.write(np.moveaxis(values, -1, 0))


@pytest.fixture
def rasters(tmp_path: Path) -> Path:
    """Write train of three and val of two TIFFs, of which the last is a small one."""
    root = tmp_path / "rasters"
    for split, sizes in SIZES.items():
        for index, (height, width) in enumerate(sizes):
            image, mask = scene(index, height, width)
            write_tiff(root / "images" / split / f"{index}.tif", np.array(image))
            write_tiff(root / "masks" / split / f"{index}.tif", np.array(mask))
    return root


@pytest.fixture
def nothing_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let reading a TIFF of more than 2500 pixels whole fail."""
    page = tiff.TiffPage
    asarray = page.asarray

    def refuse(self, *args, **kwargs):
        assert self.imagelength * self.imagewidth <= 2500
        return asarray(self, *args, **kwargs)

    monkeypatch.setattr(page, "asarray", refuse)


def score(cli, run: Path, data: Path, *options: object) -> dict:
    """Return metrics.json of an evaluation of the data set's val."""
    done = cli("eval", run, "--data", data, "--device", "cpu", *options)
    assert done.code == 0, done.stderr
    folders = sorted(run.glob("eval/*/metrics.json"), key=lambda path: path.stat().st_mtime_ns)
    return json.loads(folders[-1].read_text())


def ious(metrics: dict) -> list[tuple]:
    return [(row["iou"], row["iou_ci"], row["precision"]) for row in metrics["classes"]]


@pytest.mark.parametrize(
    "options",
    [
        [*SLIDING, "--set", "eval.overlap=0.4"],
        [*SLIDING, "--set", "eval.tta=[hflip, 0.75]"],
        [],  # the network sees each image at once
    ],
)
def test_a_score_is_that_of_whole_images(cli, rasters: Path, trained: Path, options: list[str]):
    whole = score(cli, trained, rasters, *options, *WHOLE)
    areas = score(cli, trained, rasters, *options, *WINDOWED, "--set", "eval.batch_size=4")
    assert "2 images in 10 areas" in areas["headline"] and areas["images"] == whole["images"] == 2
    assert areas["miou"] == whole["miou"] and areas["groups"] == whole["groups"] == 2
    assert ious(areas) == ious(whole)
    assert areas["calibration"] == whole["calibration"]


def test_only_windows_are_decoded(cli, rasters: Path, trained: Path, nothing_whole):
    assert score(cli, trained, rasters, *SLIDING, *WINDOWED)["images"] == 2
    with pytest.raises(AssertionError):
        score(cli, trained, rasters, *SLIDING, *WHOLE)


def test_a_run_with_every_sampler(cli, rasters: Path, nothing_whole):
    sampler = ["--set", "data.sampler=rare-crop", "--set", "augment.copy_paste=0.5"]
    sampler += ["--set", "data.rare_classes=['2']", "--set", "data.classes=['0','1','2']"]
    for name, options in {"plain": [], "rare": sampler, "ram": ["--set", "data.cache=ram"]}.items():
        done = cli("fit", "--data", rasters, "--name", name, *QUICK, *WINDOWED, *SLIDING, *options)
        assert done.code == 0, done.stderr
        assert "3 images of more than 2500 pixels" in done.stdout


def test_a_crop_is_that_of_the_area(rasters: Path):
    source = find_data_source(DataConfig(path=str(rasters), windowed=2500))
    data = source.with_classes(["a", "b", "c"])
    augmentation = Augmentation(AugmentConfig(preset="strong"), (24, 40), 255, 0)
    pairs = Pairs.of(data, "train", augmentation)
    indices = [i for i, sample in enumerate(pairs.samples) if sample.area]
    assert len(indices) == 4 * 2 + 2 * 4
    for index in indices:
        for draw in (Draw(1, index), Draw(2, index, 1), Draw(3, index, -1, PatchSource(0, 1))):
            image, mask = pairs[draw]
            source_pair = [pairs.read(0)] if draw.patch else []
            expected = augmentation(*pairs.read(index), draw, *source_pair)
            assert (image.permute(1, 2, 0).numpy() == expected[0]).all()
            assert (mask.numpy() == expected[1]).all()


def test_areas_are_all_of_an_image_once(rasters: Path):
    splits = find_data_source(DataConfig(path=str(rasters), windowed=2500)).splits
    for split, sizes in SIZES.items():
        seen = [np.zeros(size, int) for size in sizes]
        for sample in splits[split]:
            place = (sample.area.rows, sample.area.columns) if sample.area else ...
            seen[int(sample.name)][place] += 1
        assert all((counts == 1).all() for counts in seen)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"interleave": "band", "predictor": 2},
        {"tiled": False, "blockysize": 7, "compress": "packbits"},
        {"tiled": False, "blockysize": 152, "compress": "none"},
        {"compress": "lzw", "photometric": "rgb"},  # without imagecodecs Pillow decodes all of it
    ],
)
def test_a_part_is_as_the_whole_has_it(tmp_path: Path, profile: dict, dtype: str):
    if dtype == "float32":  # as Pillow and tifffile read it
        profile = profile | {"predictor": 1, "compress": "deflate"}
    image, mask = scene(0, 152, 90)
    image = image / 255 if dtype == "float32" else image
    for split in ("train", "val"):
        write_tiff(tmp_path / f"images/{split}/a.tif", image.astype(dtype), **profile)
        grey = profile | {"photometric": "minisblack", "nodata": 9}
        write_tiff(tmp_path / f"masks/{split}/a.tif", mask.astype(dtype), **grey)
    source = find_data_source(DataConfig(path=str(tmp_path), windowed=2500))
    data = source.with_classes(["a", "b", "c"])
    first = data.splits["train"][0]
    whole_image, whole_mask = data.images(first.image), data.masks(first.mask)
    assert len(data.splits["train"]) == 8
    for sample in data.splits["train"]:
        assert sample.area
        place = sample.area.rows, sample.area.columns
        assert (data.images(sample.image, sample.area) == whole_image[place]).all()
        assert (data.masks(sample.mask_source) == whole_mask[place]).all()


def test_masks_that_are_no_tiffs(cli, rasters: Path, trained: Path):
    whole = score(cli, trained, rasters, *SLIDING, *WHOLE)
    for path in (rasters / "masks").rglob("*.tif"):
        with rasterio.open(path) as file:
            Image.fromarray(file.read(1)).save(path.with_suffix(".png"))
        path.unlink()
    assert score(cli, trained, rasters, *SLIDING, *WINDOWED)["miou"] == whole["miou"]


def test_predictions_of_another_tool(cli, rasters: Path, trained: Path):
    for index, (height, width) in enumerate(SIZES["val"]):
        write_tiff(rasters.parent / f"theirs/{index}_mask.tif", scene(index, height, width)[1])
    answers = [
        cli("eval", "--predictions", "theirs", "--data", rasters, *options)
        for options in (WHOLE, WINDOWED)
    ]
    assert [answer.code for answer in answers] == [0, 0], answers


def test_bad_rasters_are_one_line(cli, rasters: Path, trained: Path):
    mask = rasters / "masks/val/0.tif"
    write_tiff(mask, scene(0, 120, 110)[1])
    answer = cli("eval", trained, "--data", rasters, "--device", "cpu", *WINDOWED)
    assert answer.code == 1 and "110x120" in answer.error and "110x128" in answer.error
    mask.write_bytes(mask.read_bytes()[:2000])
    answer = cli("eval", trained, "--data", rasters, "--device", "cpu", *WINDOWED)
    assert answer.code == 1 and str(mask) in answer.error
    answer = cli("check", rasters, *WINDOWED)
    assert answer.code == 1 and "masks/val/0.tif" in answer.stdout + answer.stderr


def test_smooth_masks_may_have_an_area_of_hard_edges(cli, rasters: Path):
    for path in (rasters / "masks").rglob("*.tif"):
        with rasterio.open(path) as file:
            mask = file.read(1) * 10
        if len(mask) > 100:  # smooth but for the first rows
            mask[55:-1:8] = (mask[55:-1:8] + mask[56::8]) // 2
            mask[3, 3] = 4
        path.unlink()
        write_tiff(path, mask)
    options = ["--set", "data.allow_lossy_masks=true", "--set", "data.classes=['a', 'b', 'c']"]
    options += ["--set", "data.label_map={0: 0, 10: 1, 20: 2}"]
    answers = [cli("check", rasters, *o, *options) for o in (WHOLE, WINDOWED)]
    assert [answer.code for answer in answers] == [0, 0], answers[1].stdout


def test_check_counts_every_pixel(cli, rasters: Path):
    reports = [json.loads(cli("check", rasters, "--json", *o).stdout) for o in (WHOLE, WINDOWED)]
    whole, areas = ([row["train"]["pixels"] for row in r["classes"]] for r in reports)
    assert whole == areas
