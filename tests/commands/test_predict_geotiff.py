"""segtrain predict of GeoTIFFs and of rasters that are not decoded whole, read by rasterio."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
import torch
from conftest import run_cli
from PIL import Image
from rasterio import features
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC
from rasterio.transform import Affine

from segtrain.config import Config
from segtrain.data import georeference, raster, tiff_parts, tiled_tiff, value_range
from segtrain.data.images import ImageReader
from segtrain.data.tiff import IMAGECODECS
from segtrain.distributed.fabric import make_fabric
from segtrain.errors import SegtrainError
from segtrain.files.whole import resumable_file
from segtrain.models import inference
from segtrain.models.checkpoint import read_meta
from segtrain.prediction import geotiff
from segtrain.prediction.rasters import ImagePainter

# of what has no place on the map, or only a projection
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
TRANSFORM = Affine(0.25, 0, 512_345.5, 0, -0.5, 5_403_210.25)
WINDOWS = ["--set", "eval.max_pixels=1", "--set", "eval.window=32"]


@pytest.fixture
def predict(cli, trained: Path):
    def run(*args: object, code: int = 0):
        answer = cli("predict", *args, "--checkpoint", trained, "--device", "cpu")
        assert answer.code == code, answer.stderr
        return answer

    return run


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tiles of 16 pixels, and blocks of two tiles."""
    for module in (tiled_tiff, geotiff):
        monkeypatch.setattr(module, "TILE", 16)
    monkeypatch.setattr(geotiff, "OPEN_ROWS", 4 * 3 * 32 * 32)


def pixels_of(height: int, width: int, bands: int = 3, dtype: str = "uint8") -> np.ndarray:
    """Return random blocks of 4 pixels (H,W,bands), without zeros."""
    rng = np.random.default_rng((height, width))
    high = np.iinfo(dtype).max
    values = rng.integers(1, high, (-(-height // 4), -(-width // 4), bands), dtype)
    return values.repeat(4, 0).repeat(4, 1)[:height, :width]


def write_raster(path: str, pixels: np.ndarray, **profile) -> np.ndarray:
    height, width, bands = pixels.shape
    options = {"crs": "EPSG:32633", "transform": TRANSFORM, "photometric": "rgb"} | profile
    if bands != 3:
        del options["photometric"]
    with rasterio.open(path, "w", driver="GTiff", height=height, width=width, count=bands,
                       dtype=pixels.dtype, **options) as file:  # fmt: skip
        file.write(np.moveaxis(pixels, -1, 0))
    return pixels


def mask_of(name: str, out: str = "predictions") -> np.ndarray:
    with rasterio.open(f"{out}/{name}_mask.tif") as file:
        return file.read(1)


def overlay_of(name: str, out: str = "predictions") -> np.ndarray:
    with rasterio.open(f"{out}/{name}_overlay.tif") as file:
        return np.moveaxis(file.read(), 0, -1)


def assert_same_as_png(predict, pixels: np.ndarray, *settings: str) -> None:
    """Assert that the outputs of a.tif are those of its pixels as PNG."""
    Image.fromarray(pixels).save("plain.png")
    predict("plain.png", *settings)
    expected = [
        np.asarray(Image.open(f"predictions/plain_{part}.png")) for part in ("mask", "overlay")
    ]
    np.testing.assert_array_equal(mask_of("a"), expected[0])
    np.testing.assert_array_equal(overlay_of("a"), expected[1])


def test_the_outputs_lie_where_the_raster_does(predict, trained):
    pixels = write_raster("a.tif", pixels_of(60, 90), nodata=0)
    answer = predict("a.tif")
    assert "a.tif -> predictions/a_mask.tif, predictions/a_overlay.tif" in answer.stdout
    names = sorted(path.name for path in Path("predictions").iterdir())
    assert names == ["a_mask.tif", "a_overlay.tif", "predictions.json"]
    with (
        rasterio.open("a.tif") as given,
        rasterio.open("predictions/a_mask.tif") as mask,
        rasterio.open("predictions/a_overlay.tif") as overlay,
    ):
        for output in (mask, overlay):
            assert (output.crs, output.transform, output.bounds) == (
                given.crs, given.transform, given.bounds)  # fmt: skip
            assert output.crs.to_epsg() == 32633 and output.profile["tiled"]
            assert output.block_shapes[0] == (512, 512)
        assert (mask.dtypes, mask.nodata, mask.count) == (("uint8",), 255, 1)
        assert overlay.dtypes == ("uint8",) * 3
        palette = mask.colormap(1)
    assert len({palette[i] for i in range(3)}) == 3
    assert_same_as_png(predict, pixels)


LAYOUTS = [
    {},
    {"compress": "deflate"},
    {"compress": "deflate", "predictor": 2, "tiled": True, "blockxsize": 32, "blockysize": 16},
    {"tiled": True, "blockxsize": 16, "blockysize": 48, "interleave": "band"},
    {"interleave": "band", "compress": "packbits", "blockysize": 5},
    {"compress": "lzma", "blockysize": 7},
    {"compress": "lzw", "tiled": True, "blockxsize": 32, "blockysize": 32},
    {"BIGTIFF": "YES", "ENDIANNESS": "BIG", "compress": "deflate"},
]


def test_polygons_lie_where_the_raster_does(predict, small_tiles):
    """Drawn by rasterio they are the mask; pixels without data are in none of them."""
    pixels = pixels_of(60, 90)
    pixels[20:40, 30:70] = 0
    write_raster("a.tif", pixels, nodata=0)
    predict("a.tif", "--set", "predict.vectors=geojson", *WINDOWS)
    content = json.loads(Path("predictions/a.geojson").read_text())
    assert content["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    shapes = [(f["geometry"], f["properties"]["class_id"]) for f in content["features"]]
    drawn = features.rasterize(shapes, pixels.shape[:2], fill=255, transform=TRANSFORM)
    np.testing.assert_array_equal(drawn, mask_of("a"))
    (entry,) = json.loads(Path("predictions/predictions.json").read_text())["predictions"].values()
    counted = np.bincount(mask_of("a").ravel(), minlength=256)
    assert entry["summary"]["pixels"] == counted[:3].tolist() and counted[255] == 800
    predict("a.tif", "--set", "predict.vectors=coco", *WINDOWS)
    content = json.loads(Path("predictions/predictions.coco.json").read_text())
    assert sum(a["area"] for a in content["annotations"]) == pixels[..., 0].size - 800


def test_confidence_of_a_raster_is_that_of_a_png(predict, small_tiles):
    pixels = write_raster("a.tif", pixels_of(60, 90))
    Image.fromarray(pixels).save("plain.png")
    predict("a.tif", "plain.png", "--set", "predict.save_confidence=true", *WINDOWS)
    with rasterio.open("predictions/a_confidence.tif") as file:
        assert file.transform == TRANSFORM
        expected = np.asarray(Image.open("predictions/plain_confidence.png"))
        np.testing.assert_array_equal(file.read(1), expected)
    one, other = json.loads(Path("predictions/predictions.json").read_text())[
        "predictions"
    ].values()
    assert one["summary"]["pixels"] == other["summary"]["pixels"]
    assert one["summary"]["confidence"] == pytest.approx(other["summary"]["confidence"])


def test_polygons_of_a_raster_that_is_never_whole_are_refused(predict, small_tiles):
    write_raster("a.tif", pixels_of(60, 90))
    wanted = ["--set", "predict.vectors=geojson", "--set", "data.max_pixels=5000"]
    answer = predict("a.tif", *wanted, code=1)
    assert "predict.vectors" in answer.error and "90x60" in answer.error
    assert not list(Path("predictions").glob("a*"))


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_blocks_of_any_layout_are_as_the_pixels_of_a_png(predict, small_tiles, layout, dtype):
    pixels = write_raster("a.tif", pixels_of(70, 111, dtype=dtype), **layout)
    predict("a.tif", *WINDOWS)
    pixels = pixels if dtype == "uint8" else (pixels >> 8).astype(np.uint8)
    assert_same_as_png(predict, pixels, *WINDOWS)


def test_one_strip_is_read_by_rows(predict, small_tiles, monkeypatch):
    monkeypatch.setattr(tiff_parts, "READ", 1000)
    pixels = pixels_of(70, 111)
    for planar, values in ((1, pixels), (2, np.moveaxis(pixels, -1, 0))):
        for order in "<>":
            tifffile.imwrite("a.tif", values, photometric="rgb", planarconfig=planar,
                             byteorder=order, rowsperstrip=70, extratags=TAGS)  # fmt: skip
            predict("a.tif", *WINDOWS)
            assert_same_as_png(predict, pixels, *WINDOWS)


def test_a_raster_of_more_than_max_pixels_is_read_by_windows(predict, small_tiles):
    pixels = pixels_of(70, 111)
    tifffile.imwrite("a.tif", pixels, tile=(32, 32), compression="deflate")
    limit = ["--set", "data.max_pixels=7000"]
    predict("a.tif", *WINDOWS, *limit)
    assert mask_of("a").shape == (70, 111) and len(np.unique(mask_of("a"))) > 1
    assert_same_as_png(predict, pixels, *WINDOWS)
    tifffile.imwrite("b.tif", pixels, rowsperstrip=70, compression="deflate")
    answer = predict("b.tif", *WINDOWS, *limit, code=1)
    assert "b.tif: its strips or tiles of 70 x 111 pixels" in answer.error
    assert not list(Path("predictions").glob("*b*"))


def test_a_codec_that_is_not_there_is_named(predict):
    if IMAGECODECS:
        pytest.skip("imagecodecs is installed")
    write_raster("a.tif", pixels_of(70, 111), compress="lzw")
    answer = predict("a.tif", "--set", "data.max_pixels=7000", code=1)
    assert "LZW" in answer.error and "imagecodecs" in answer.error
    assert not Path("predictions").exists()


def frame(height: int, width: int) -> np.ndarray:
    """Return which pixels have data: an inner part of a raster."""
    has_data = np.zeros((height, width), bool)
    has_data[9:60, 33:100] = True
    return has_data


@pytest.mark.parametrize(
    "dtype, nodata, settings",
    [
        ("uint8", 0, []),
        ("uint16", 7, []),
        ("int16", -32768, ["--set", "data.value_range=[0, 32640]"]),
        ("float32", float("nan"), []),
        ("float32", -3.4028234663852886e38, []),
        ("float64", -9999, []),
    ],
)
def test_pixels_without_data_come_out_so(predict, small_tiles, dtype, nodata, settings):
    pixels, has_data = pixels_of(70, 111), frame(70, 111)
    values = {"uint16": pixels * np.uint16(256), "int16": pixels * np.int16(128)}
    values |= {"float32": pixels / np.float32(255), "float64": pixels / 255, "uint8": pixels}
    stored = np.where(has_data[..., None], values[dtype], np.dtype(dtype).type(nodata))
    stored[20, 50, 0] = nodata  # one band: the others have data
    write_raster("a.tif", stored, nodata=nodata)
    predict("a.tif", *WINDOWS, *settings)
    with rasterio.open("predictions/a_mask.tif") as file:
        assert file.nodata == 255
        np.testing.assert_array_equal(file.read_masks(1) > 0, has_data)
    black = np.where(has_data[..., None], pixels, 0 if dtype != "uint8" else nodata)
    black[20, 50, 0] = 0
    Image.fromarray(black).save("plain.png")
    predict("plain.png", *WINDOWS)
    expected = np.asarray(Image.open("predictions/plain_mask.png"))
    np.testing.assert_array_equal(mask_of("a")[has_data], expected[has_data])
    np.testing.assert_array_equal(overlay_of("a")[~has_data], black[~has_data])


def test_transparent_pixels_have_no_data(predict, small_tiles):
    pixels, has_data = pixels_of(70, 111), frame(70, 111)
    alpha = has_data[..., None].astype(np.uint8) * 255
    write_raster("a.tif", np.dstack([pixels, alpha]), photometric="rgb", alpha="yes")
    predict("a.tif", *WINDOWS)
    with rasterio.open("predictions/a_mask.tif") as file:
        assert file.nodata == 255
        np.testing.assert_array_equal(file.read(1) == 255, ~has_data)


def test_windows_without_data_are_not_predicted(predict, small_tiles, monkeypatch):
    """Also where a sparse file has no tiles at all."""
    seen, run = [], inference.average_views

    def counted(predictor, images, views):
        for row, logits in run(predictor, images, views):
            seen.append(bool(logits.any()))
            yield row, logits

    monkeypatch.setattr(inference, "average_views", counted)
    pixels = np.zeros((128, 256, 3), np.uint8)
    pixels[40:60, 130:180] = 9
    write_raster("a.tif", pixels, nodata=0, tiled=True, blockxsize=16, blockysize=16,
                 SPARSE_OK=True, compress="deflate")  # fmt: skip
    predict("a.tif", *WINDOWS)
    assert 0 < sum(seen) < len(seen) / 3
    np.testing.assert_array_equal(mask_of("a") == 255, pixels[..., 0] == 0)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("place", ["rotated", "points", "rpcs", "keys"])
def test_every_way_to_place_a_raster_is_kept(predict, small_tiles, place: str, order: str):
    ones = [1.0] + [0.25] * 19
    points = [
        GroundControlPoint(row, column, 14 + column / 7, 49.0123456789 - row / 3)
        for row, column in ((0, 0), (0, 30), (29, 5), (17, 22))
    ]
    way = {
        "rotated": {"transform": Affine(0.3, 0.1, 5e5, 0.2, -0.4, 5e6)},
        "points": {"transform": None, "gcps": points, "crs": "EPSG:4326"},
        "rpcs": {"transform": None, "crs": None, "rpcs": RPC(
            1.5, 2, 3, 4, ones, [1.5] * 20, 5, 6, 7, 8, ones, [0.5] * 20, 9, 10)},
        "keys": {"transform": None, "crs": "ESRI:54009"},
    }[place]  # fmt: skip
    ending = {"<": "LITTLE", ">": "BIG"}[order]
    write_raster("a.tif", pixels_of(30, 40), **way, ENDIANNESS=ending)
    predict("a.tif")
    with rasterio.open("a.tif") as given, rasterio.open("predictions/a_mask.tif") as mask:
        assert mask.transform == given.transform and mask.crs == given.crs
        assert mask.rpcs == given.rpcs and mask.gcps[1] == given.gcps[1]
        kept = [[p.asdict() | {"id": ""} for p in file.gcps[0]] for file in (mask, given)]
        assert kept[0] == kept[1] and (place != "points" or len(kept[0]) == 4)
        assert place != "rpcs" or given.rpcs
    given_tags = tags_of("a.tif")
    assert any(given_tags)
    assert tags_of("predictions/a_mask.tif") == tags_of("predictions/a_overlay.tif") == given_tags


def tags_of(path: str) -> list:
    with tifffile.TiffFile(path) as file:
        tags = [file.pages[0].tags.get(code) for code in georeference.PLACING]
        return [tag and (tag.dtype, tag.count, tag.value) for tag in tags]


SCALE, TIE = (0.5, 0.25, 0.0), (0.0, 0.0, 0.0, 100.0, 200.0, 0.0)
MATRIX = (0.5, 0.0, 0.0, 100.0, 0.0, -0.25, 0.0, 200.0, *[0.0] * 7, 1.0)
KEYS = (1, 1, 0, 2, 1024, 0, 1, 1, 1025, 0, 1, 1)
TAGS = [(33550, "d", 3, SCALE), (33922, "d", 6, TIE), (34735, "H", 12, KEYS)]


def changed(numbers: tuple, index: int, value: float) -> tuple:
    return (*numbers[:index], value, *numbers[index + 1 :])


@pytest.mark.parametrize(
    "tags, reason",
    [
        ({33550: changed(SCALE, 0, 0.0)}, "size is 0"),
        ({33550: changed(SCALE, 1, float("nan"))}, "not finite"),
        ({33550: SCALE[:2]}, "2 values"),
        ({33922: TIE[:5]}, "5 values"),
        (
            {34264: changed(MATRIX, 3, 101.0)},
            "elsewhere by ModelPixelScaleTag than by ModelTransformationTag",
        ),
        (
            {34264: changed(MATRIX, 5, 0.25)},
            "elsewhere by ModelPixelScaleTag than by ModelTransformationTag",
        ),
        ({34264: changed(MATRIX, 0, 0.0)}, "one line"),
        ({33922: (*TIE, *changed(TIE, 0, 10.0))}, "another tie point"),
        ({34735: changed(KEYS, 3, 3)}, "names 3 keys"),
        ({34735: changed(KEYS, 0, 2)}, "12 values"),
        ({34735: KEYS[:3]}, "3 values"),
        ({34735: (1, 1, 0, 1, 3072, 34737, 9, 0)}, "GeoKey 3072"),
    ],
)
def test_a_georeference_that_contradicts_itself_is_one_line(predict, tags, reason: str):
    known = {code: (kind, values) for code, kind, _, values in TAGS} | {34264: ("d", MATRIX)}
    for code, values in tags.items():
        known[code] = (known[code][0], values)
    extra = [(code, kind, len(values), values) for code, (kind, values) in known.items()]
    tifffile.imwrite("a.tif", pixels_of(30, 40), photometric="rgb", extratags=extra)
    answer = predict("a.tif", code=1)
    assert "a.tif: its georeference contradicts itself: " in answer.error and reason in answer.error
    assert not Path("predictions").exists()


def test_two_ways_that_agree_are_no_contradiction(predict):
    extra = [*TAGS, (34264, "d", 16, MATRIX)]
    tifffile.imwrite("a.tif", pixels_of(30, 40), photometric="rgb", extratags=extra)
    predict("a.tif")
    with rasterio.open("predictions/a_mask.tif") as file:
        assert file.transform == Affine(0.5, 0, 100, 0, -0.25, 200)


def test_overviews(predict, small_tiles):
    write_raster("a.tif", pixels_of(70, 111))
    predict("a.tif", *WINDOWS, "--set", "predict.overviews=true")
    for name, reduce in (("mask", decimated), ("overlay", averaged)):
        path = f"predictions/a_{name}.tif"
        with rasterio.open(path) as file:
            assert file.overviews(1) == [2, 4, 8]
            expected = np.moveaxis(file.read(), 0, -1)
        for level in range(3):
            expected = reduce(expected)
            with rasterio.open(path, overview_level=level) as file:
                np.testing.assert_array_equal(np.moveaxis(file.read(), 0, -1), expected)


def decimated(pixels: np.ndarray) -> np.ndarray:
    return pixels[::2, ::2]


def averaged(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    pixels = np.pad(pixels, [(0, height % 2), (0, width % 2), (0, 0)], "edge").astype(float)
    mean = (pixels[::2, ::2] + pixels[1::2, ::2] + pixels[::2, 1::2] + pixels[1::2, 1::2]) / 4
    return np.floor(mean + 0.5)


def test_probabilities_of_a_small_raster(predict, small_tiles):
    pixels = write_raster("a.tif", pixels_of(40, 50))
    Image.fromarray(pixels).save("plain.png")
    probs = ["--set", "predict.save_probs=true"]
    predict("a.tif", "plain.png", *probs)
    arrays = [np.load(f"predictions/{name}_probs.npy") for name in ("a", "plain")]
    np.testing.assert_array_equal(*arrays)
    answer = predict("a.tif", *probs, *WINDOWS, "--out", "other", code=1)
    assert "predict.save_probs" in answer.error and not list(Path("other").glob("a_*"))


def test_masks_alone(predict, small_tiles):
    pixels = write_raster("a.tif", pixels_of(50, 70))
    Image.fromarray(pixels).save("b.png")
    predict("a.tif", "b.png", *WINDOWS, "--out", "both")
    predict("a.tif", "b.png", *WINDOWS, "--set", "predict.overlay=false", "--legend")
    names = sorted(path.name for path in Path("predictions").iterdir())
    assert names == ["a_mask.tif", "b_mask.png", "predictions.json"]
    for name in names[:2]:
        assert Path("predictions", name).read_bytes() == Path("both", name).read_bytes()


def test_a_legend_would_change_the_size(predict):
    write_raster("a.tif", pixels_of(40, 50))
    answer = predict("a.tif", "--legend")
    assert "without a legend" in answer.stdout + answer.stderr
    assert overlay_of("a").shape == (40, 50, 3)


def test_rasters_are_not_turned(predict):
    pixels = pixels_of(40, 50)
    tifffile.imwrite("a.tif", pixels, extratags=[*TAGS, (274, "H", 1, 6)])
    answer = predict("a.tif", code=1)
    assert "orientation tag is 6" in answer.error and "data.exif=false" in answer.error
    predict("a.tif", "--set", "data.exif=false")
    assert mask_of("a").shape == (40, 50)


def test_outputs_are_kept_and_are_no_images(predict):
    for name in ("a", "b"):
        write_raster(f"{name}.tif", pixels_of(40, 50))
    predict("a.tif", "b.tif", "--out", ".")
    before = Path("a_mask.tif").stat().st_ino
    answer = predict(".", "--out", ".")
    assert "kept 2, predicted 0" in answer.stdout and "4 outputs of predict" in answer.stdout
    assert Path("a_mask.tif").stat().st_ino == before


class Interrupted:
    """A write of tiles that fails for the n-th time."""

    def __init__(self, monkeypatch, number: int, error: BaseException):
        self.left, self.put = number, tiled_tiff.TiledTiff.put
        interruption = self

        def put(tiff, *args):
            interruption.left -= 1
            if not interruption.left:
                raise error
            interruption.put(tiff, *args)

        monkeypatch.setattr(tiled_tiff.TiledTiff, "put", put)


def leftovers() -> list[str]:
    return [path.name for path in Path("predictions").iterdir() if path.name != "predictions.json"]


@pytest.mark.parametrize("number", [1, 2, 5, 10, 11, 24, 50])
def test_an_interrupted_raster_is_taken_up(predict, trained, small_tiles, monkeypatch, number):
    write_raster("a.tif", pixels_of(70, 111))
    settings = [*WINDOWS, "--set", "predict.overviews=true"]
    predict("a.tif", *settings, "--out", "straight")
    straight = [Path(f"straight/a_{part}.tif").read_bytes() for part in ("mask", "overlay")]
    with monkeypatch.context() as patch:
        Interrupted(patch, number, KeyboardInterrupt())
        answer = run_cli("predict", "a.tif", *settings, "--checkpoint", trained, "--device", "cpu")
    assert answer.code == 130 and len(leftovers()) == 2
    seen, run = [], inference.average_views
    monkeypatch.setattr(inference, "average_views", lambda *a: seen.append(1) or run(*a))
    answer = predict("a.tif", *settings)
    assert sorted(leftovers()) == ["a_mask.tif", "a_overlay.tif"]
    resumed = [Path(f"predictions/a_{part}.tif").read_bytes() for part in ("mask", "overlay")]
    assert resumed == straight
    again = len(seen)
    # the numbers of the part before are gone, and that is said
    entry = json.loads(Path("predictions/predictions.json").read_text())["predictions"]["a"]
    assert ("in no table: a.tif" in answer.stdout) == (entry["summary"] is None)
    predict("a.tif", *settings, "--out", "more")
    assert again < len(seen) - again or number < 3
    assert number < 50 or not again  # only overviews were missing


def test_other_settings_do_not_take_up_an_interrupted_raster(
    predict, trained, small_tiles, monkeypatch
):
    write_raster("a.tif", pixels_of(70, 111))
    with monkeypatch.context() as patch:
        Interrupted(patch, 10, KeyboardInterrupt())
        run_cli("predict", "a.tif", *WINDOWS, "--checkpoint", trained, "--device", "cpu")
    assert len(leftovers()) == 2
    predict("a.tif", *WINDOWS, "--set", "predict.opacity=1")
    assert sorted(leftovers()) == ["a_mask.tif", "a_overlay.tif"]
    predict("a.tif", *WINDOWS, "--set", "predict.opacity=1", "--out", "straight")
    np.testing.assert_array_equal(overlay_of("a"), overlay_of("a", "straight"))


def test_a_full_disk_leaves_nothing(predict, small_tiles, monkeypatch):
    write_raster("a.tif", pixels_of(70, 111))
    Interrupted(monkeypatch, 10, OSError(errno.ENOSPC, "No space left on device"))
    answer = predict("a.tif", *WINDOWS, code=1)
    assert "No space left" in answer.error and leftovers() == []


def test_a_damaged_tile_leaves_nothing(predict, small_tiles):
    write_raster("a.tif", pixels_of(70, 111), tiled=True, blockxsize=32, blockysize=32,
                 compress="deflate")  # fmt: skip
    with tifffile.TiffFile("a.tif") as file:
        place = file.pages[0].dataoffsets[-1]
    content = bytearray(Path("a.tif").read_bytes())
    content[place : place + 20] = bytes(20)
    Path("a.tif").write_bytes(content)
    answer = predict("a.tif", *WINDOWS, code=1)
    assert "a.tif: " in answer.error and leftovers() == []
    Path("a.tif").write_bytes(content[: place + 1])
    assert "truncated" in predict("a.tif", *WINDOWS, code=1).error and leftovers() == []


def test_a_killed_write_is_no_tile(tmp_path: Path, small_tiles):
    """Of a row of tiles the index comes last; a file without its beginning is begun anew."""
    layout = tiled_tiff.TiffLayout(
        (40, 50), np.dtype(np.uint8), "<", georeference.Georeference([], None)
    )
    pixels = pixels_of(40, 50, 1)[..., 0]
    with open(tmp_path / "a.tif", "wb+") as file:
        tiff = tiled_tiff.TiledTiff(file, layout)
        tiff.put(0, 0, pixels[:16])
        written = []
        tiff._write = lambda place, content: written.append((place, content))
        tiff.put(1, 0, pixels[16:32])
    data, offsets, counts = written
    for done in ([], [data], [data, offsets]):
        with open(tmp_path / "a.tif", "rb+") as file:
            for place, content in done:
                file.seek(place)
                file.write(content)
            file.seek(0)
            tiff = tiled_tiff.TiledTiff(file, layout)
            assert tiff.count_rows(0, 4) == 1
    with open(tmp_path / "a.tif", "rb+") as file:
        tiff = tiled_tiff.TiledTiff(file, layout)
        tiff.put(1, 0, pixels[16:32])
        tiff.put(2, 0, pixels[32:])
        assert tiff.count_rows(0, 4) == 3
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), pixels)
    with open(tmp_path / "a.tif", "rb+") as file:
        file.write(bytes(4))
        file.seek(0)
        assert tiled_tiff.TiledTiff(file, layout).count_rows(0, 4) == 0


def test_two_processes_do_not_write_one_raster(tmp_path: Path):
    with resumable_file(tmp_path / "a.tif", "key") as file:
        file.write(b"content")
        with pytest.raises(SegtrainError, match="another process"):
            with resumable_file(tmp_path / "a.tif", "key"):
                pass
    assert [path.name for path in tmp_path.iterdir()] == ["a.tif"]
    assert (tmp_path / "a.tif").read_bytes() == b"content"


def test_a_place_that_can_not_be_written_is_one_line(predict, small_tiles):
    write_raster("a.tif", pixels_of(40, 50))
    Path("predictions/a_overlay.tif").mkdir(parents=True)
    answer = predict("a.tif", code=1)
    assert "cannot write predictions/a_overlay.tif" in answer.error
    assert leftovers() == ["a_overlay.tif"]


def test_a_network_without_finite_output_leaves_nothing(predict, small_tiles, monkeypatch):
    write_raster("a.tif", pixels_of(70, 111))
    calls, run = [], inference.average_views

    def broken(predictor, images, views):
        calls.append(1)
        if len(calls) < 9:
            return run(predictor, images, views)
        return run(lambda window: predictor(window * float("nan")), images, views)

    monkeypatch.setattr(inference, "average_views", broken)
    answer = predict("a.tif", *WINDOWS, code=1)
    assert "a.tif: the network's output is not finite" in answer.error and leftovers() == []


@pytest.mark.parametrize(
    "classes, ignored, dtype, nodata",
    [
        (3, 255, "uint8", 255),
        (3, 200, "uint8", 200),
        (3, -1, "uint8", 255),
        (3, 300, "uint8", 255),
        (255, 255, "uint8", 255),
        (256, 255, "uint16", 65535),
        (300, 999, "uint16", 999),
    ],
)
def test_a_value_for_nodata_besides_the_classes(
    tmp_path: Path, trained: Path, small_tiles, classes: int, ignored: int, dtype: str, nodata: int
):
    """Ids and colours from a network that predicts by the pixel's position."""
    picked = torch.arange(24 * 32).view(24, 32) % classes

    def forward(images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(picked, classes).permute(2, 0, 1)[None].float()

    pixels = pixels_of(24, 32)
    pixels[:5, 20:] = 0
    write_raster(str(tmp_path / "a.tif"), pixels, nodata=0)
    meta = read_meta(trained / "checkpoints/best.safetensors")
    palette = [(i % 256, i // 256, 7) for i in range(classes)]
    meta = replace(meta, classes=[str(i) for i in range(classes)], palette=palette)
    config = Config(predict={"opacity": 1}, data={"lb_ignore": ignored})
    painter = ImagePainter(forward, make_fabric(config.train), meta, config, ImageReader(), False)
    files = [tmp_path / name for name in ("mask.tif", "overlay.tif")]
    geotiff.paint_raster(painter, tmp_path / "a.tif", files, "key", lambda: None)
    with rasterio.open(files[0]) as file:
        assert (file.dtypes, file.nodata) == ((dtype,), nodata)
        found = file.read(1)
        colours = file.colormap(1) if dtype == "uint8" else {}
    has_data = pixels[..., 0] > 0
    np.testing.assert_array_equal(found, np.where(has_data, picked, nodata))
    with rasterio.open(files[1]) as file:
        overlay = np.moveaxis(file.read(), 0, -1)
    np.testing.assert_array_equal(overlay[has_data], np.array(palette)[picked][has_data])
    assert all(colours[i][:3] == palette[i] for i in range(classes) if colours)


@pytest.mark.parametrize(
    "layout, times",
    [({"blockysize": 8}, 3), ({"tiled": True, "blockxsize": 16, "blockysize": 32}, 2)],
    ids=["strips", "tiles"],
)
def test_each_part_is_decoded_once_for_a_block(predict, small_tiles, monkeypatch, layout, times):
    """Of three blocks, all strips lie in each, and a tile in two and their windows."""
    seen, decode = [], raster.Raster._decode_segment
    monkeypatch.setattr(
        raster.Raster, "_decode_segment", lambda self, i: seen.append(i) or decode(self, i)
    )
    write_raster("a.tif", pixels_of(160, 90), compress="deflate", **layout)
    predict("a.tif", *WINDOWS, "--set", "eval.overlap=0.8")
    assert set(seen) == set(range(max(seen) + 1))
    assert seen.count(0) == times
    assert max(seen.count(i) for i in seen) <= 3


def test_the_value_range_is_checked_on_a_few_rows(cli, trained, tmp_path, monkeypatch):
    """As of images that are decoded whole, though no raster is."""
    monkeypatch.setattr(value_range, "BAND_ROWS", 4)
    reader = ImageReader(value_range=(0, 4095), max_pixels=4000)
    path = str(tmp_path / "a.tif")
    write_raster(path, pixels_of(70, 60), nodata=0)
    changed_reader, notes = value_range.match_value_range(reader, [Path(path)])
    assert changed_reader.value_range is None and "8-bit images" in notes[0].text
    dark = pixels_of(70, 60, dtype="uint16") // 1000
    dark[:40] = 0
    write_raster(path, dark, nodata=0)
    with pytest.raises(SegtrainError, match="at most at level 4 of 255"):
        value_range.match_value_range(reader, [Path(path)])
    assert (
        value_range.match_value_range(replace(reader, value_range=(0, 80)), [Path(path)])[1] == []
    )


@pytest.mark.parametrize("kind", ["Area", "Point"])  # what the tags map: corners, or centres
@pytest.mark.parametrize(
    "transform",
    [TRANSFORM, Affine(0.3, 0.1, 5e5, 0.2, -0.4, 5e6), Affine(0.3, 0, 1e7, 0, 0.2, 1e8)],
    ids=["straight", "rotated", "south up"],
)
def test_the_map_of_pixels_is_that_of_rasterio(tmp_path: Path, transform: Affine, kind: str):
    write_raster(str(tmp_path / "a.tif"), pixels_of(30, 40), transform=transform)
    with rasterio.open(tmp_path / "a.tif", "r+") as file:
        file.update_tags(AREA_OR_POINT=kind)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.transform.almost_equals(transform)
    with raster.open_raster(tmp_path / "a.tif", ImageReader()) as opened:
        np.testing.assert_allclose(opened.georeference.affine, np.reshape(transform, (3, 3))[:2])


@pytest.mark.parametrize("tags", [[(33550, "d", 3, (0.5, -0.25, 0.0))], []], ids=["tied", "not"])
def test_a_scale_is_read_as_gdal_does(tmp_path: Path, tags: list):
    tags = [*tags, TAGS[1]] if tags else TAGS[:1]
    tags = [(*tag, True) for tag in tags]
    tifffile.imwrite(tmp_path / "a.tif", pixels_of(30, 40), photometric="rgb", extratags=tags)
    with rasterio.open(tmp_path / "a.tif") as file:
        expected = np.reshape(file.transform, (3, 3))[:2]
    with raster.open_raster(tmp_path / "a.tif", ImageReader()) as opened:
        np.testing.assert_allclose(opened.georeference.affine, expected)


def test_polygons_of_a_raster_without_a_map_are_in_pixels(predict, small_tiles):
    points = [GroundControlPoint(r, c, 5e5 + c, 5e6 - r) for r, c in ((0, 0), (0, 30), (29, 5))]
    write_raster("a.tif", pixels_of(30, 40), transform=None, gcps=points)
    predict("a.tif", *WINDOWS, "--set", "predict.vectors=geojson")
    content = json.loads(Path("predictions/a.geojson").read_text())
    corners = np.concatenate(
        [ring for f in content["features"] for ring in f["geometry"]["coordinates"]]
    )
    assert "crs" not in content and corners.max(0).tolist() == [40, 30]


@pytest.mark.parametrize("kind", ["mask", "bits"])
def test_what_gdal_says_has_no_data_comes_out_so(predict, small_tiles, kind: str):
    shape = 40, 50
    if kind == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
            write_raster("a.tif", pixels_of(*shape))
            with rasterio.open("a.tif", "r+") as file:
                valid = np.full(shape, 255, np.uint8)
                valid[5:20, 10:30] = 0
                file.write_mask(valid)
    else:
        bits = (pixels_of(*shape, bands=1) > 99).astype(np.uint8)
        write_raster("a.tif", bits, NBITS=1, nodata=0)
    predict("a.tif", *WINDOWS, "--set", "predict.save_confidence=true")
    with (
        rasterio.open("a.tif") as given,
        rasterio.open("predictions/a_mask.tif") as mask,
        rasterio.open("predictions/a_confidence.tif") as confidence,
    ):
        np.testing.assert_array_equal(mask.dataset_mask(), given.dataset_mask())
        np.testing.assert_array_equal(confidence.dataset_mask(), given.dataset_mask())
        assert (given.dataset_mask() == 0).any()


def test_a_long_prediction_says_how_far_it_is(predict, small_tiles, monkeypatch):
    write_raster("a.tif", pixels_of(70, 90))
    monkeypatch.setattr(geotiff, "NOTICE", -1)
    lines = predict("a.tif", *WINDOWS).stderr.splitlines()
    shares = [int(line.removeprefix("a.tif: ").rstrip("%")) for line in lines if "%" in line]
    assert len(shares) == 3 * 5 and shares == sorted(shares) and shares[-1] == 100


def test_values_that_are_no_numbers_are_missing_where_others_are(predict, small_tiles):
    pixels = pixels_of(40, 50) / np.float32(255)
    pixels[:10], pixels[10:20] = -1, np.nan
    write_raster("a.tif", pixels, nodata=-1)
    predict("a.tif", *WINDOWS)
    np.testing.assert_array_equal(np.flatnonzero((mask_of("a") == 255).all(1)), np.arange(20))
    write_raster("b.tif", pixels[10:])
    assert (
        "b.tif (a part of it): values of type float32 that are not all finite"
        in predict("b.tif", code=1).error
    )
