"""report.html in a browser, as a person would use it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from made_up import NAMES, PALETTE, made_up_masks, made_up_pictures, made_up_report
from playwright.sync_api import Browser, Locator, Page, expect

from segtrain.render.report_page import write_report
from segtrain.render.viewer_images import make_distinct

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True}
PIXEL = """(canvas, [x, y]) => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  context.drawImage(canvas, -x, -y);
  return [...context.getImageData(0, 0, 1, 1).data];
}"""
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, made_up_report(), made_up_pictures(), PALETTE)
    return path


@pytest.fixture
def opened(chromium: Browser, report: Path) -> Iterator[Open]:
    """Open pages, each in its own window; at the end none had an error or loaded anything."""
    faults: list[str] = []
    contexts = []

    def open_page(path: Path = report, **options: Any) -> Page:
        contexts.append(chromium.new_context(**options))
        contexts[-1].set_default_timeout(10_000)
        page = contexts[-1].new_page()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.on("request", lambda request: faults.append(request.url[:100]))
        page.goto(path.as_uri())
        # the page itself is the one request; pictures in it are none
        faults[:] = [f for f in faults if f != path.as_uri() and not f.startswith("data:")]
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert [fault for fault in faults if not fault.startswith("data:")] == []


@pytest.fixture
def page(opened: Open) -> Page:
    """The page with the first image in the viewer."""
    page = opened()
    expect(page.locator(".where")).to_contain_text("1 of 4")
    return page


def pixel(page: Page, x: int, y: int, pane: int = 0) -> list[int]:
    return page.locator("canvas").nth(pane).evaluate(PIXEL, [x, y])[:3]


def choose(page: Page, layer: str) -> None:
    page.locator(f"label:has(input[value={layer}])").click()


def set_opacity(page: Page, percent: int) -> None:
    page.locator("#opacity").fill(str(percent))


def column(page: Page, place: int) -> list[str]:
    return page.locator(f"#scores tbody tr > :nth-child({place + 1})").all_inner_texts()


def assert_no_serious_fault(page: Page) -> None:
    found = Axe().run(page).response
    serious = [v for v in found["violations"] if v["impact"] in ("serious", "critical")]
    assert len(found["passes"]) > 20
    assert serious == [], [(v["id"], [n["html"][:200] for n in v["nodes"]]) for v in serious]


def test_a_click_on_a_header_sorts(page: Page):
    given = column(page, 1)
    header = page.locator("#scores th").nth(1)
    ious = sorted(given, key=float)
    for order, expected in (("descending", ious[::-1]), ("ascending", ious), (None, given)):
        header.get_by_role("button").click()
        assert header.get_attribute("aria-sort") == order
        assert column(page, 1) == expected


def test_the_keyboard_sorts_by_name(page: Page):
    header = page.locator("#scores th").first
    header.get_by_role("button").focus()
    page.keyboard.press("Enter")
    assert [text.strip() for text in column(page, 0)] == sorted(NAMES)
    assert header.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert [text.strip() for text in column(page, 0)] == sorted(NAMES, reverse=True)


def test_scores_sort_as_numbers_and_undefined_ones_last(opened: Open, tmp_path: Path):
    report = made_up_report()
    for row, dice in zip(report["metrics"]["classes"], (0.5, None, 9e-5, 0.25, 1.0), strict=True):
        row["dice"] = dice
    write_report(tmp_path / "report.html", report, [], PALETTE)
    page = opened(tmp_path / "report.html")
    for expected in (["1.000", "0.500", "0.250", "0.000"], ["0.000", "0.250", "0.500", "1.000"]):
        page.locator("#scores th").nth(3).get_by_role("button").click()
        assert column(page, 3) == [*expected, "–"]


def test_the_slider_lays_the_mask_over_the_image(page: Page):
    """The first image is black, so a pixel is the mask's colour times the opacity."""
    colours = make_distinct(PALETTE)
    slider = page.locator("#opacity")
    assert pixel(page, 40, 50) == pytest.approx([0.6 * c for c in colours[1]], abs=1.5)
    for percent in (0, 50, 100):
        set_opacity(page, percent)
        expected = [percent / 100 * c for c in colours[1]]
        assert pixel(page, 40, 50) == pytest.approx(expected, abs=1.5)
    slider.focus()
    page.keyboard.press("ArrowLeft")
    assert pixel(page, 40, 50) == pytest.approx([0.95 * c for c in colours[1]], abs=1.5)
    expect(page.locator("output")).to_have_text("95 %")
    expect(page.locator(".where")).to_contain_text("1 of 4")  # the key was the slider's


def test_layers_show_their_maps(page: Page):
    truth, prediction = made_up_masks()
    colours = make_distinct(PALETTE)
    set_opacity(page, 100)
    spots = [(x, y) for x in (16, 48, 80, 112, 144) for y in (20, 100)]
    for layer, mask in (("truth", truth), ("prediction", prediction)):
        choose(page, layer)
        for x, y in spots:
            assert pixel(page, x, y) == list(colours[mask[y, x]]), layer
    choose(page, "both")
    assert pixel(page, 80, 100, 0) == list(colours[2])
    assert pixel(page, 80, 100, 1) == list(colours[3])
    assert page.locator("figcaption:visible").all_inner_texts()[:2] == ["Truth", "Prediction"]
    for layer in ("errors", "hard"):
        choose(page, layer)
        assert pixel(page, 80, 20) != pixel(page, 80, 100)  # right and wrong
        red, green, blue = pixel(page, 80, 100)
        assert red > 2 * green and red > 2 * blue
    choose(page, "confidence")
    assert min(pixel(page, 80, 20)) > 240 and max(pixel(page, 80, 100)) < 15
    choose(page, "truth")
    assert pixel(page, 80, 5) == [0, 0, 0]  # ignored: the image as it is
    choose(page, "image")
    assert {tuple(pixel(page, *spot)) for spot in spots} == {(0, 0, 0)}


def test_a_class_can_be_switched_off(page: Page):
    """Classes 2 and 3 have one colour in the palette, and still are separate."""
    set_opacity(page, 100)
    choose(page, "truth")
    before = pixel(page, 112, 50)
    page.get_by_role("checkbox", name="pole").uncheck()
    assert pixel(page, 80, 50) == [0, 0, 0] and pixel(page, 112, 50) == before != [0, 0, 0]
    choose(page, "errors")  # of the class in the truth
    assert pixel(page, 80, 100) == [0, 0, 0] != pixel(page, 112, 50)
    choose(page, "truth")
    page.locator(".viewer").get_by_role("button", name="Next").click()
    expect(page.get_by_role("checkbox", name="pole")).not_to_be_checked()  # nor in the next image
    page.get_by_role("button", name="All", exact=True).click()
    expect(page.get_by_role("checkbox", name="pole")).to_be_checked()
    page.get_by_role("button", name="None", exact=True).click()
    assert pixel(page, 80, 50) == pixel(page, 112, 50) == pytest.approx([25] * 3, abs=2)


def test_arrow_keys_step_through_the_images(page: Page):
    where = page.locator(".where")
    assert where.get_attribute("aria-live") == "polite"
    page.locator(".stage").focus()
    for key, place in [("ArrowRight", 2), ("ArrowRight", 3), ("ArrowLeft", 2), ("ArrowLeft", 1)]:
        page.keyboard.press(key)
        expect(where).to_contain_text(f"{place} of 4")
        expect(where).to_contain_text(f"val/{place - 1:03d}.png")
    page.keyboard.press("ArrowLeft")
    expect(where).to_contain_text("4 of 4")
    expect(where).to_contain_text("One of the best: mIoU 0.400")
    assert "val/003.png" in page.locator("canvas").first.get_attribute("aria-label")
    set_opacity(page, 0)
    assert pixel(page, 5, 5) == pytest.approx([75] * 3, abs=3)
    page.locator(".strip button").nth(1).click()
    expect(where).to_contain_text("2 of 4")
    current = page.locator(".strip button[aria-current=true]")
    expect(current).to_have_text("worst 2: val/001.png")


def test_pointing_at_a_pixel_reads_it(page: Page):
    canvas = page.locator("canvas").first
    box = canvas.bounding_box()
    assert box["width"] / box["height"] == pytest.approx(160 / 120, rel=0.01)
    for (x, y), text in {
        (80, 100): "Truth: pole. Predicted: car.",
        (16, 20): "Truth: road. Predicted: road.",
        (16, 4): "Truth: ignored. Predicted: road.",
    }.items():
        position = {"x": x / 160 * box["width"], "y": y / 120 * box["height"]}
        canvas.hover(position=position)
        expect(page.locator(".panel .readout")).to_have_text(text)


def confused_cell(page: Page) -> tuple[Locator, str, int]:
    """A cell off the diagonal with pixels, and the image and count that were given for it."""
    (true, other), [(image, pixels)] = next(iter(made_up_report()["confused"].items()))
    return page.locator(f"td[data-at='{true},{other}']"), image, pixels


def test_a_click_on_a_cell_lists_its_images(page: Page):
    cell, image, pixels = confused_cell(page)
    found = page.locator("#found [aria-live]")
    cell.hover()
    expect(page.locator("#found .readout")).to_have_text(cell.get_attribute("title"))
    cell.click()
    expect(found.locator("h3")).to_have_text(cell.get_attribute("title"))
    expect(found.locator("li")).to_have_text([f"{image}: {pixels} pixels"])
    page.locator(".viewer").get_by_role("button", name="Previous").click()
    found.get_by_role("button", name=image).click()  # which the viewer then shows
    expect(page.locator(".where strong")).to_have_text(image)
    page.locator("td[data-at='1,1']").click()
    expect(found).to_contain_text("No confused pixels here")


def test_cells_are_reached_by_keyboard(page: Page):
    cells = page.locator("#matrix td[tabindex='0']")
    assert cells.count() == 1  # one stop for Tab
    cells.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowLeft", "End"):
        page.keyboard.press(key)
    focused = page.locator("td:focus")
    assert focused.get_attribute("data-at") == "2,4" and cells.count() == 1
    page.keyboard.press("Enter")
    assert focused.get_attribute("aria-selected") == "true"
    expect(page.locator("#found h3")).to_have_text(focused.get_attribute("title"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("window", [{}, PHONE], ids=["desktop", "phone"])
def test_axe_finds_no_serious_fault(opened: Open, scheme: str, window: dict):
    page = opened(color_scheme=scheme, **window)
    confused_cell(page)[0].click()
    page.locator("details summary").click()
    expect(page.locator(".where")).to_contain_text("1 of 4")
    assert_no_serious_fault(page)
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    light = int(background.removeprefix("rgb(").split(",")[0]) > 127
    assert light == (scheme == "light")
    ink = page.locator("svg text").first.evaluate("text => getComputedStyle(text).fill")
    assert (int(ink.removeprefix("rgb(").split(",")[0]) < 127) == light


@pytest.mark.parametrize("script", [True, False])
def test_a_phone_never_scrolls_sideways(opened: Open, tmp_path: Path, script: bool):
    names = [f"a class of many words {i}" for i in range(30)] + ["Wortohneleerzeichen" * 4]
    report = made_up_report(names, title="unet/" + "a-long-name-without-spaces" * 5)
    report["provenance"]["command"] *= 4
    pictures = made_up_pictures(names=[f"a/{'long' * 20}/{i}.png" for i in range(4)])
    write_report(tmp_path / "report.html", report, pictures, PALETTE * 8)
    page = opened(tmp_path / "report.html", java_script_enabled=script, **PHONE)
    if script:
        page.locator("#matrix td").nth(1).click()
    assert width_of(page) <= 390


def width_of(page: Page) -> int:
    """The width that the page can be scrolled over, read without a script in the page."""
    session = page.context.new_cdp_session(page)
    return session.send("Page.getLayoutMetrics")["cssContentSize"]["width"]


def test_it_reads_without_javascript(opened: Open):
    page = opened(java_script_enabled=False)
    assert not page.locator(".viewer").is_visible() and not page.locator("#found").is_visible()
    assert page.locator("#scores tbody tr").count() == 5 and not page.locator("th button").count()
    for image in page.locator(".gallery img").all():
        assert image.is_visible() and image.bounding_box()["height"] > 50
    assert page.locator(".gallery img").count() == 4 * 6
    assert not page.get_by_text("Point at a cell").first.is_visible()
    assert page.locator("#matrix").is_visible() and page.locator("svg").count() == 4


def test_paper_shows_pictures_instead_of_controls(opened: Open):
    page = opened(color_scheme="dark")
    expect(page.locator(".where")).to_contain_text("1 of 4")
    page.emulate_media(media="print", color_scheme="dark")
    for gone in (".nav", ".viewer", "#found"):
        assert not page.locator(gone).is_visible(), gone
    assert page.locator(".gallery img").first.is_visible()
    background = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert background == "rgb(255, 255, 255)"
    assert len(page.pdf(format="A4")) > 20_000


def test_names_run_no_script(opened: Open, tmp_path: Path):
    nasty = ["</script><script>window.caught = 1</script>", '<img src=x onerror="window.caught=1">']
    names = nasty + NAMES[2:]
    report = made_up_report(names)
    report["confused"] = {cell: [(name, 3) for name in nasty] for cell in report["confused"]}
    pictures = made_up_pictures(names=nasty + ["'", '"'])
    write_report(tmp_path / "report.html", report, pictures, PALETTE)
    page = opened(tmp_path / "report.html")
    confused_cell(page)[0].click()
    assert page.locator("#found li button").all_inner_texts() == nasty
    assert page.locator(".where strong").inner_text() == nasty[0]
    assert page.locator(".toggles label").first.inner_text() == nasty[0]
    assert page.evaluate("window.caught") is None
