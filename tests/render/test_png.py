"""PNG files compressed by libdeflate, read by Pillow."""

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from segtrain.render import overlay, png


@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)).flatmap(
        lambda shape: arrays(np.uint8, shape)
    )
)
def test_it_is_the_image(pixels: np.ndarray):
    with Image.open(io.BytesIO(png.encode_rgb(pixels))) as image:
        image.verify()
    with Image.open(io.BytesIO(png.encode_rgb(pixels))) as image:
        assert image.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("without", ["libdeflate", "room"])
def test_else_pillow_writes_it(tmp_path, monkeypatch, without: str):
    if without == "libdeflate":
        monkeypatch.setattr(png, "deflate", None)
    else:
        monkeypatch.setattr(png, "QUICK", 1000)
    monkeypatch.setattr(overlay, "encode_rgb", lambda pixels: pytest.fail("taken"))
    pixels = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    overlay.save_image(tmp_path / "a.png", Image.fromarray(pixels))
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)
