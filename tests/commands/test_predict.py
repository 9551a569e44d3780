"""segtrain predict, from outside."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import scene, write_pairs
from PIL import Image
from safetensors import safe_open

from segtrain.config import Config
from segtrain.data import images
from segtrain.data.images import ImageReader
from segtrain.models.checkpoint import read_meta
from segtrain.models.segmentation import SegmentationModel
from segtrain.prediction.rasters import predict_image
from segtrain.prediction.vector_files import CocoFile

ALL_OF_A = ["a_mask.png", "a_overlay.png", "predictions.json"]
SIZE = (33, 47)  # odd, and no multiple of the encoder's stride


def photo(path: Path, size: tuple[int, int] = SIZE, exif: Image.Exif | None = None) -> np.ndarray:
    """Save a picture of (height, width) and return its pixels."""
    pixels = np.random.default_rng(size).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **({"exif": exif} if exif else {}))
    return pixels


def predict(cli, trained: Path, *args: object):
    answer = cli("predict", *args, "--checkpoint", trained, "--device", "cpu")
    assert answer.code == 0, answer.stderr
    return answer


def ids(name: str, out: str = "predictions") -> np.ndarray:
    return np.asarray(Image.open(Path(out) / f"{name}_mask.png"))


def palette_of(trained: Path) -> np.ndarray:
    with safe_open(trained / "checkpoints/best.safetensors", "np") as file:
        return np.array(json.loads(file.metadata()["segtrain"])["palette"])


def test_mask_and_overlay_have_the_images_size(cli, trained: Path):
    pixels = photo(Path("a.png"))
    answer = predict(cli, trained, "a.png")
    assert "a.png -> predictions/a_mask.png, predictions/a_overlay.png" in answer.stdout
    assert sorted(p.name for p in Path("predictions").iterdir()) == ALL_OF_A
    mask = Image.open("predictions/a_mask.png")
    palette = palette_of(trained)
    assert (mask.mode, mask.size) == ("P", (47, 33))
    np.testing.assert_array_equal(np.reshape(mask.getpalette(), (-1, 3))[:3], palette)
    assert set(np.unique(mask)) <= {0, 1, 2}
    overlay = np.asarray(Image.open("predictions/a_overlay.png")).astype(int)
    half = (pixels + palette[np.asarray(mask)]) / 2
    assert overlay.shape == pixels.shape
    assert np.abs(overlay - half).max() <= 1


@pytest.mark.parametrize("opacity", [0, 1])
def test_opacity_of_the_overlay(cli, trained: Path, opacity: int):
    pixels = photo(Path("a.png"))
    predict(cli, trained, "a.png", "--set", f"predict.opacity={opacity}")
    overlay = np.asarray(Image.open("predictions/a_overlay.png"))
    expected = palette_of(trained)[ids("a")] if opacity else pixels
    np.testing.assert_array_equal(overlay, expected)


def test_a_legend_goes_below_the_overlay(cli, trained: Path):
    photo(Path("a.png"), (60, 200))
    predict(cli, trained, "a.png", "--out", "bare")
    predict(cli, trained, "a.png", "--out", "named", "--legend")
    bare, named = (np.asarray(Image.open(f"{out}/a_overlay.png")) for out in ("bare", "named"))
    assert named.shape[0] > bare.shape[0]
    np.testing.assert_array_equal(named[: bare.shape[0], : bare.shape[1]], bare)
    legend = named[bare.shape[0] :].reshape(-1, 3)
    for colour in palette_of(trained):
        assert (legend == colour).all(1).any()
    assert ids("a", "named").shape == (60, 200)


@pytest.mark.parametrize("orientation, turns", [(3, 2), (6, -1), (8, 1)])
def test_a_turned_photo_comes_out_upright(cli, trained: Path, orientation: int, turns: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = photo(Path("turned.png"), exif=exif)
    Image.fromarray(np.rot90(pixels, turns)).save("upright.png")
    predict(cli, trained, "turned.png", "upright.png")
    np.testing.assert_array_equal(ids("turned"), ids("upright"))
    assert ids("turned").shape == np.rot90(pixels, turns).shape[:2]
    names = "turned", "upright"
    overlays = [np.asarray(Image.open(f"predictions/{name}_overlay.png")) for name in names]
    np.testing.assert_array_equal(*overlays)


@pytest.mark.parametrize("orientation", [6, 3])
def test_data_exif_false_predicts_photos_as_stored(cli, trained: Path, orientation: int):
    exif = Image.Exif()
    photo(Path("plain.png"))
    exif[0x0112] = orientation
    photo(Path("tagged.png"), exif=exif)
    answer = predict(cli, trained, "plain.png", "tagged.png", "--set", "data.exif=false")
    assert answer.code == 0, answer.error
    np.testing.assert_array_equal(ids("tagged"), ids("plain"))


def test_folders_globs_and_files_are_each_taken_once(cli, trained: Path):
    for name in ("in/a.png", "in/b.jpg", "in/.hidden.png", "more/c1.png", "more/c2.png",
                 "more/d.png"):  # fmt: skip
        photo(Path(name), (16, 24))
    Path("in/notes.txt").write_text("no image")
    predict(cli, trained, "in", "more/c*.png", "in/a.png", "--out", "out/deep")
    masks = sorted(path.name for path in Path("out/deep").glob("*_mask.png"))
    assert masks == ["a_mask.png", "b_mask.png", "c1_mask.png", "c2_mask.png"]
    assert len(list(Path("out/deep").glob("*.png"))) == 8


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_other_kinds_of_images_are_predicted(cli, trained: Path, mode: str):
    Image.fromarray(scene(1)[0]).convert(mode).save("a.png")
    Image.open("a.png").convert("RGB").save("rgb.png")
    predict(cli, trained, "a.png", "rgb.png")
    np.testing.assert_array_equal(ids("a"), ids("rgb"))


def test_probabilities_can_be_saved(cli, trained: Path):
    photo(Path("a.png"))
    predict(cli, trained, "a.png", "--set", "predict.save_probs=true")
    probabilities = np.load("predictions/a_probs.npy")
    assert (probabilities.dtype, probabilities.shape) == (np.float16, (3, *SIZE))
    exact = probabilities.astype(float)
    np.testing.assert_allclose(exact.sum(0), 1, atol=2e-3)
    chosen = np.take_along_axis(exact, ids("a")[None].astype(int), 0)[0]
    assert (chosen == exact.max(0)).all()


def test_confidence_is_the_probability_of_the_class(cli, trained: Path):
    photo(Path("a.png"))
    wanted = ["--set", "predict.save_probs=true", "--set", "predict.save_confidence=true"]
    predict(cli, trained, "a.png", *wanted)
    highest = np.load("predictions/a_probs.npy").astype(float).max(0)
    with Image.open("predictions/a_confidence.png") as confidence:
        assert confidence.mode == "L"
        np.testing.assert_allclose(np.asarray(confidence) / 255, highest, atol=0.004)
    (entry,) = json.loads(Path("predictions/predictions.json").read_text())["predictions"].values()
    assert entry["summary"]["confidence"] == pytest.approx(highest.mean(), abs=1e-3)
    assert entry["summary"]["pixels"] == np.bincount(ids("a").ravel(), minlength=3).tolist()


def test_a_folder_ends_with_a_table_of_all_its_images(cli, trained: Path):
    """Also of those that are kept."""
    for name in "abc":
        Image.fromarray(scene(ord(name))[0]).save(f"{name}.png")
    predict(cli, trained, "a.png", "c.png")
    answer = predict(cli, trained, "a.png", "b.png", "c.png")
    masks = np.stack([ids(name) for name in "abc"])
    for class_id in range(3):
        share, images = (masks == class_id).mean(), (masks == class_id).any((1, 2)).sum()
        row = next(
            line for line in answer.stdout.splitlines() if line.split()[:1] == [str(class_id)]
        )
        assert row.split()[1:] == [f"{share:.2%}", str(images)]
    confidences = [float(line.split()[1]) for line in answer.stdout.splitlines()[-3:]]
    assert confidences == sorted(confidences) and "mean confidence" in answer.stdout


def test_polygons_in_geojson(cli, trained: Path):
    Image.fromarray(scene(1)[0]).save("a.png")
    predict(cli, trained, "a.png", "--set", "predict.vectors=geojson")
    features = json.loads(Path("predictions/a.geojson").read_text())["features"]
    pixels = np.zeros(3, int)
    for feature in features:
        assert 0 < feature["properties"]["confidence"] <= 1
        pixels[feature["properties"]["class_id"]] += feature["properties"]["pixels"]
    assert pixels.tolist() == np.bincount(ids("a").ravel(), minlength=3).tolist()


def test_images_of_one_name_have_their_folders_in_coco(cli, trained: Path):
    for folder in ("x", "y"):
        write_pairs(Path(folder), 1, images="in")
    wanted = ["--out", "out", "--device", "cpu", "--set", "predict.vectors=coco"]
    answer = cli("predict", "x/in", "y/in", "--checkpoint", trained, *wanted)
    assert answer.code == 0, answer.stderr
    content = json.loads(Path("out/predictions.coco.json").read_text())
    assert {i["file_name"] for i in content["images"]} == {"x/in/000.png", "y/in/000.png"}


def test_coco_has_what_was_predicted_before_a_kill(tmp_path: Path):
    coco = CocoFile(tmp_path, ["a", "b"])
    coco.add("first", "first.png", (4, 4), [])
    assert "first" in CocoFile(tmp_path, ["a", "b"])


def test_polygons_in_coco_are_read_back(cli, trained: Path):
    """By the layout of COCO, from calls one after the other; images that are kept stay in it."""
    for name in "abc":
        Path("images").mkdir(exist_ok=True)
        Image.fromarray(scene(ord(name))[0]).save(f"images/{name}.png")
    wanted = ["--out", "out", "--set", "predict.vectors=coco"]
    predict(cli, trained, "images/a.png", *wanted)
    first = Path("out/predictions.coco.json").read_text()
    assert "kept 1, predicted 2" in predict(cli, trained, "images", *wanted).stdout
    content = json.loads(Path("out/predictions.coco.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["a.png", "b.png", "c.png"]
    of_a = [a for a in content["annotations"] if a["image_id"] == 1]
    assert of_a == json.loads(first)["annotations"]
    shutil.copytree("images", "set/images")
    shutil.copy("out/predictions.coco.json", "set")
    found = cli("check", "set", "--set", "data.val_fraction=0.34", "--json")
    assert found.code == 0, found.stderr
    classes = json.loads(found.stdout)["classes"]
    masks = np.stack([ids(name, "out") for name in "abc"])
    counted = {c["name"]: c["train"]["pixels"] + c["val"]["pixels"] for c in classes}
    assert counted["background"] == 0
    assert [counted[str(c)] for c in range(3)] == [(masks == c).sum() for c in range(3)]
    Path("out/predictions.coco.json").unlink()
    assert "kept 0, predicted 3" in predict(cli, trained, "images", *wanted).stdout


def test_the_latest_runs_best_checkpoint_is_the_default(cli, trained: Path):
    photo(Path("a.png"))
    runs = Path("runs")
    for name, kept in (("old", "last"), ("new", "best")):
        (runs / name / "checkpoints").mkdir(parents=True)
        shutil.copy(trained / "checkpoints/best.safetensors",
                    runs / name / "checkpoints" / f"{kept}.safetensors")  # fmt: skip
    (runs / "latest").symlink_to("new")
    answer = cli("predict", "a.png", "--device", "cpu")
    assert answer.code == 0, answer.stderr
    as_default = ids("a")
    for i, named in enumerate((trained, trained / "checkpoints/best.safetensors")):
        predict(cli, named, "a.png", "--out", str(i))
        np.testing.assert_array_equal(ids("a", str(i)), as_default)
    (runs / "latest").unlink()
    (runs / "latest").symlink_to("old")  # has a last one alone
    answer = cli("predict", "a.png")
    assert (answer.code, "best.safetensors" in answer.error) == (2, True)


def test_the_other_images_of_a_damaged_one_are_kept(cli, trained: Path):
    photo(Path("a.png"))
    Path("b.png").write_bytes(Path("a.png").read_bytes()[:900])
    answer = cli("predict", "a.png", "b.png", "--checkpoint", trained)
    assert answer.code == 1 and "b.png" in answer.error
    assert sorted(p.name for p in Path("predictions").iterdir()) == ALL_OF_A


WINDOWED = ["--set", "eval.max_pixels=1000", "--set", "eval.window=32"]


def test_windows_give_nearly_the_whole_images_masks(cli, trained: Path):
    """Closer to them than to a shifted copy of themselves: no window is misplaced."""
    names = "012"
    for name, size in zip(names, [(96, 128), (32, 200), (41, 25)], strict=True):
        Image.fromarray(scene(int(name), 96, 200)[0][: size[0], : size[1]]).save(f"{name}.png")
    options = [*(f"{name}.png" for name in names), "--set", "predict.save_probs=true"]
    predict(cli, trained, *options, "--out", "whole")
    predict(cli, trained, *options, "--out", "windows", *WINDOWED)
    assert len(list(Path("windows").glob("*_*"))) == 9
    for name in names:
        whole, windowed = ids(name, "whole"), ids(name, "windows")
        assert whole.shape == windowed.shape and (whole == windowed).mean() > 0.7
        files = [f"{out}/{name}_probs.npy" for out in ("whole", "windows")]
        one, many = (np.load(file).astype(float) for file in files)
        assert one.shape == many.shape == (3, *whole.shape)
        np.testing.assert_allclose(many.sum(0), 1, atol=2e-3)
        assert (np.take_along_axis(many, windowed[None].astype(int), 0)[0] == many.max(0)).all()
        for axis in (1, 2):
            moved = np.roll(many, 8, axis)
            assert 0 < np.abs(one - many).mean() < 0.8 * np.abs(one - moved).mean()
        overlays = [np.asarray(Image.open(f"{o}/{name}_overlay.png")) for o in ("whole", "windows")]
        same = whole == windowed
        np.testing.assert_array_equal(overlays[0][same], overlays[1][same])


def test_flips_are_averaged(cli, trained: Path):
    pixels = photo(Path("a.png"), (40, 56))
    Image.fromarray(pixels[:, ::-1]).save("b.png")
    flips = ["--set", "eval.tta=[hflip]", "--set", "predict.save_probs=true"]
    predict(cli, trained, "a.png", "b.png", *flips)
    predict(cli, trained, "a.png", "--out", "bare", "--set", "predict.save_probs=true")
    one, other = (np.load(f"predictions/{name}_probs.npy").astype(float) for name in "ab")
    bare = np.load("bare/a_probs.npy").astype(float)
    np.testing.assert_allclose(one, other[..., ::-1], atol=2e-3)
    assert np.abs(one - bare).max() > 2e-3


def test_too_little_memory_names_what_to_set(cli, trained: Path, monkeypatch):
    def short(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB.")

    monkeypatch.setattr(SegmentationModel, "forward", short)
    photo(Path("a.png"))
    answer = cli("predict", "a.png", "--checkpoint", trained, "--set", "predict.save_probs=true")
    assert answer.code == 1
    assert "out of memory: a.png: 1 x 33x47 pixels" in answer.error
    assert "eval.max_pixels=387" in answer.error and "eval.window=32x32" in answer.error
    assert not list(Path("predictions").iterdir())  # no part of the probabilities either


@pytest.mark.parametrize(
    "channels, mode", [(3, "RGB"), (3, "P"), (1, "RGB"), (4, "RGBA"), (2, "LA")]
)
def test_a_large_image_is_decoded_by_bands(cli, channels: int, mode: str, monkeypatch):
    Image.fromarray(scene(1, 48, 40)[0]).convert(mode).save("a.png")
    at_once = ImageReader(channels)(Path("a.png"))
    for pixels in (1, 40, 41 * 7, 40 * 47):
        monkeypatch.setattr(images, "BAND", pixels)
        by_bands = ImageReader(channels)(Path("a.png"))
        assert by_bands.flags.writeable and by_bands.flags.c_contiguous  # so it is not copied
        np.testing.assert_array_equal(by_bands, at_once)
    assert at_once.shape == (48, 40, channels)


def test_more_than_256_classes_have_16_bits(trained: Path):
    """Ids and colours of a band, from a network that predicts by the pixel's position."""
    height, width, classes = 24, 16, 300
    picked = torch.arange(height * width).view(height, width) % classes

    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(picked, classes).permute(2, 0, 1)[None].float()

    meta = read_meta(trained / "checkpoints/best.safetensors")
    palette = [(i % 256, i // 256, 7) for i in range(classes)]
    meta = replace(meta, classes=[str(i) for i in range(classes)], palette=palette)
    image = torch.zeros(1, 3, height, width, dtype=torch.uint8)
    config = Config(predict={"opacity": 1})
    found = predict_image(forward, image, meta, config)
    assert found.class_ids.dtype == np.uint16
    np.testing.assert_array_equal(found.class_ids, picked)
    np.testing.assert_array_equal(np.asarray(found.overlay), np.array(palette)[picked])
    assert (
        found.summarise(classes).pixels == np.bincount(picked.ravel(), minlength=classes).tolist()
    )


@pytest.mark.parametrize("wrong", ["eval.overlap=1", "eval.window=0", "eval.tta=[diagonal]"])
def test_wrong_settings_are_refused(cli, trained, wrong: str):
    photo(Path("a.png"))
    answer = cli("predict", "a.png", "--checkpoint", trained, "--set", wrong)
    assert answer.code == 2 and wrong.partition("=")[0] in answer.error
