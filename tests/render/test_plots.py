"""The confusion matrix as a picture; charts of the page are test_report_page's."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from segtrain.render.plots import save_confusion


@pytest.mark.parametrize("classes, most", [(2, 700), (11, 1000), (150, 2800), (300, 3600)])
def test_the_picture_stays_small_for_many_classes(tmp_path: Path, classes: int, most: int):
    matrix = torch.eye(classes, dtype=torch.int64) * 7
    matrix[0] = 0  # a class that the truth lacks
    names = [f"class {c}" for c in range(classes)]
    save_confusion(tmp_path / "confusion.png", matrix, names, "mIoU 0.5 on val")
    picture = Image.open(tmp_path / "confusion.png")
    assert max(picture.size) <= most
    pixels = np.asarray(picture.convert("RGB")).astype(int)
    blue = (pixels[..., 2] > pixels[..., 0] + 60).mean()
    assert 0 < blue < 0.5  # the diagonal, and the bar beside it
