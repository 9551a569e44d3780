"""Make the README's pictures from the demo: an overlay and the top of its report.

    make demo && .venv/bin/python docs/pictures.py CHROMIUM

Needs the packages of the tests (`make test` installs them) and the path of a Chromium.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
REPORT = ROOT / "runs/latest/eval/val/report.html"
OVERLAY = ROOT / "predictions/161_overlay.png"
WIDTH, HEIGHT, PICTURE_WIDTH = 1100, 1024, 900  # window in CSS pixels; width of the picture


def take_screenshot(chromium: str) -> Image.Image:
    """Return a picture of the top of the report."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(REPORT.resolve().as_uri())
        picture = page.screenshot()
        browser.close()
    return Image.open(io.BytesIO(picture))


def main(chromium: str) -> None:
    page = take_screenshot(chromium)
    page = page.resize(
        (PICTURE_WIDTH, round(page.height * PICTURE_WIDTH / page.width)), Image.Resampling.LANCZOS
    )
    page.save(ROOT / "docs/report.webp", quality=80, method=6)
    overlay = Image.open(OVERLAY)
    overlay = overlay.resize((3 * overlay.width, 3 * overlay.height), Image.Resampling.NEAREST)
    overlay.save(ROOT / "docs/overlay.webp", quality=80, method=6)


if __name__ == "__main__":
    main(*sys.argv[1:])
