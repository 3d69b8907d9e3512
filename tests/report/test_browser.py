"""Reports in Chromium: they load nothing, controls and keys change what is drawn, and hostile names do nothing."""

import base64
import shutil
import zlib
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from attribkit import zoo
from attribkit._core.pictures import SCORES
from attribkit.report._content import Content, ReportImage, ScoreColumn, View
from attribkit.report._page import write_page
from attribkit.report._pictures import encode_map, encode_picture

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = ["--no-sandbox", "--disable-background-networking"]
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>')
SIDE = 128
MODELS, CLASSES = ("first", "second"), (HOSTILE[1], "class 7")

pytestmark = [
    pytest.mark.skipif(not find_spec("playwright"), reason="Playwright is not installed: pip install playwright"),
    pytest.mark.skipif(not shutil.which(CHROMIUM), reason=f"{CHROMIUM} is not installed: apt install chromium"),
]


def maps(seed):
    """A coarse map, a signed one, and one of a part of the image, all different for each seed."""
    generator = torch.Generator().manual_seed(seed)
    coarse, partial = (torch.rand(8, 8, generator=generator) for _ in range(2))
    signed = torch.linspace(0, 1, 64).roll(seed).view(8, 8)  # is stored as differences
    extent = ((0.5, 1.0), (0.0, 0.5))
    return {
        HOSTILE[0]: encode_map(coarse, (SIDE, SIDE), 96),
        "signed": encode_map(signed - 0.5, (SIDE, SIDE), 96),
        "partial": encode_map(partial, (SIDE, SIDE), 96, extent),
    }


def view(seed, picture, model, target):
    number = seed // 100
    scores = {HOSTILE[0]: [0.25, None], "signed": [(number * 5 % 12) / 8, None if number % 2 else number]}
    found = maps(seed)
    return View(
        model, target, "", (SIDE, SIDE), encode_picture(picture, SIDE), [[0.25, 0.25, 0.75, 0.5]], found,
        {"failed": f"reason {HOSTILE[1]}"}, scores,
    )  # fmt: skip


def content():
    """Twelve images with two models, two classes each, three methods and one that failed."""
    images = []
    for i in range(12):
        picture = zoo.scene(i % 3).image
        views = [
            view(100 * i + 10 * m + c, picture, model, target)
            for m, model in enumerate(MODELS)
            for c, target in enumerate(CLASSES)
        ]
        images.append(ReportImage(HOSTILE[0] if i == 0 else f"image {i + 1} {HOSTILE[1]}", views))
    columns = [ScoreColumn(HOSTILE[1], True), ScoreColumn("other", False)]
    methods = (HOSTILE[0], "signed", "partial", "failed")
    return Content(HOSTILE[0], HOSTILE, images, methods, columns, HOSTILE, HOSTILE)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(content(), path)
    return path


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


class Page:
    """A page of the browser, with everything that it should not do."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1200, "height": 900}, **options})
        self.page = self.context.new_page()
        self.events = []
        self.page.on("console", lambda message: self.events.append(f"console: {message.text}"))
        self.page.on("pageerror", lambda error: self.events.append(f"error: {error}"))
        self.page.on("dialog", self._dismiss)
        self.page.on("request", self._note_request)
        self.page.goto(path.resolve().as_uri())
        self.wait(1)

    def _dismiss(self, dialog):
        self.events.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _note_request(self, request):
        if not request.url.startswith("data:") and request.url != self.page.url and request.resource_type != "document":
            self.events.append(f"request: {request.url}")

    def wait(self, drawings):
        """Wait until so many images have been drawn."""
        self.page.wait_for_selector(f"body[data-drawn='{drawings}']", state="attached")

    @property
    def drawings(self):
        return int(self.page.evaluate("document.body.dataset.drawn"))

    def press(self, key):
        """Press a key that draws anew."""
        before = self.drawings
        self.page.keyboard.press(key)
        self.wait(before + 1)

    def act(self, action):
        """Carry out an action that draws anew."""
        before = self.drawings
        action()
        self.wait(before + 1)

    def canvas(self, method="signed"):
        """The pixels of a map, (h, w, 4)."""
        pixels = self.page.evaluate(
            """method => {
                const figure = [...document.querySelectorAll("#stage .map")].find(e => e.dataset.method === method);
                const canvas = figure.querySelector("canvas.overlay");
                const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
                const text = Array.from(data, byte => String.fromCharCode(byte)).join("");
                return [canvas.height, canvas.width, btoa(text)];
            }""",
            method,
        )
        return np.frombuffer(base64.b64decode(pixels[2]), np.uint8).reshape(pixels[0], pixels[1], 4)

    def text(self, selector):
        return self.page.locator(selector).first.inner_text()

    def value(self, selector):
        return self.page.locator(selector).input_value()


@pytest.fixture
def page(browser, report):
    opened = Page(browser, report)
    yield opened
    opened.context.close()
    assert opened.events == []


def test_it_opens_without_errors_and_requests(page):
    assert page.page.title() == HOSTILE[0]
    assert page.page.locator("#stage .card").count() == 5
    page.page.wait_for_function("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_hostile_names_are_text(page):
    for key in ("ArrowRight", "m", "c", "d", "s", "s"):
        page.press(key)
    for _ in range(11):
        page.press("ArrowRight")
    assert page.text("h1") == HOSTILE[0]
    assert page.text("#status b") == HOSTILE[0]
    assert page.page.locator("#stage .card .name").all_inner_texts() == [
        "photograph",
        HOSTILE[0],
        "signed",
        "partial",
        "failed",
    ]
    assert page.text("#stage .missing") == f"reason {HOSTILE[1]}"
    assert page.page.locator("script").count() == 14  # the index, the images and the program
    assert page.page.locator("img[src=x]").count() == 0


def test_the_policy_forbids_injected_scripts_styles_and_requests(browser, report):
    opened = Page(browser, report)
    opened.page.evaluate(
        """() => {
            document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.injected = 1'>");
            const script = document.createElement("script");
            script.textContent = "window.injected = 1";
            document.body.append(script);
        }"""
    )
    opened.page.wait_for_timeout(100)
    assert opened.page.evaluate("window.injected") is None
    assert sum("Content Security Policy" in event for event in opened.events) >= 2
    opened.context.close()


def test_the_drawn_colours_are_those_of_the_map(page):
    record = maps(0)["signed"]
    assert record["differences"]
    pixels = page.canvas()
    assert pixels.shape == (256, 256, 4)
    values = decoded_values(record)
    for row, column in ((0, 0), (3, 5), (7, 7)):  # the centre of a grid cell, and of four pixels
        value = np.clip(values[row, column] / record["shown"], -1, 1)
        drawn = pixels[32 * row + 15 : 32 * row + 17, 32 * column + 15 : 32 * column + 17].reshape(4, 4).mean(0)
        expected = np.array(SCORES(0.5 + 0.5 * value, bytes=True)[:3])
        assert np.abs(drawn[:3] - expected).max() < 40
        assert abs(drawn[3] - 255 * abs(value) ** 0.5) < 12


def decoded_values(record):
    codes = np.frombuffer(zlib.decompress(base64.b64decode(record["data"])), np.uint8).reshape(8, 8)
    codes = np.cumsum(codes, axis=1, dtype=np.uint8) if record["differences"] else codes
    return (codes.view(np.int8) if record["signed"] else codes) * record["scale"]


def test_a_map_of_a_part_of_the_image_is_drawn_there(page):
    alpha = page.canvas("partial")[:, :, 3]
    assert alpha[:128].max() == alpha[:, 128:].max() == 0
    assert (alpha[128:, :128] > 0).mean() > 0.9


def test_keys_change_the_image(page):
    first = page.canvas()
    page.press("ArrowRight")
    second = page.canvas()
    assert page.value("#image") == "1"
    assert not np.array_equal(first, second)
    page.press("ArrowLeft")
    assert np.array_equal(page.canvas(), first)
    page.press("ArrowLeft")
    assert page.value("#image") == "11"


@pytest.mark.parametrize(("key", "control", "value"), [("d", "#model", "1"), ("c", "#class", "1")])
def test_keys_change_the_model_and_the_class(page, key, control, value):
    first = page.canvas()
    page.press(key)
    assert page.value(control) == value
    assert not np.array_equal(page.canvas(), first)
    page.press(key)
    assert page.value(control) == "0"
    assert np.array_equal(page.canvas(), first)


@pytest.mark.parametrize(("control", "value"), [("#image", "3"), ("#model", "1"), ("#class", "1")])
def test_lists_change_what_is_drawn(page, control, value):
    first = page.canvas()
    page.act(lambda: page.page.select_option(control, value))
    assert not np.array_equal(page.canvas(), first)
    page.act(lambda: page.page.select_option(control, "0"))
    assert np.array_equal(page.canvas(), first)


def test_the_method_is_chosen_by_list_and_by_key(page):
    page.press("s")
    shown = "#stage .map .name"
    assert page.page.locator(shown).all_inner_texts() == [HOSTILE[0]]
    page.act(lambda: page.page.select_option("#method", "partial"))
    assert page.page.locator(shown).all_inner_texts() == ["partial"]
    page.page.locator("h1").click()
    page.press("M")
    assert page.page.locator(shown).all_inner_texts() == ["signed"]
    page.press("m")
    assert page.page.locator(shown).all_inner_texts() == ["partial"]
    page.act(lambda: page.page.locator("#side-by-side").check())
    assert page.page.locator("#stage .card").count() == 5


def picture(page):
    """The pixels of the first map as they are composed with the photograph."""
    return page.page.locator("#stage .map .frame").first.screenshot()


def test_the_slider_and_keys_change_the_opacity(page):
    opaque = picture(page)
    page.page.locator("#opacity").fill("0")
    assert page.text("#opacity-value") == "0%"
    grey = picture(page)
    assert grey != opaque
    page.page.keyboard.press("-")
    assert page.text("#opacity-value") == "0%"
    for _ in range(15):
        page.page.keyboard.press("+")
    assert page.text("#opacity-value") == "75%"
    assert picture(page) == opaque


def test_arrow_keys_move_the_slider_that_has_the_focus(page):
    page.page.locator("#opacity").focus()
    page.page.keyboard.press("ArrowRight")
    assert page.text("#opacity-value") == "80%"
    assert page.value("#image") == "0"


def test_boxes_are_shown_and_hidden(page):
    with_boxes = picture(page)
    page.press("b")
    without = picture(page)
    assert with_boxes != without
    page.act(lambda: page.page.locator("#boxes").check())
    assert picture(page) == with_boxes


def test_the_value_under_the_pointer(page):
    frame = page.page.locator("#stage .map .frame").nth(1)
    frame.scroll_into_view_if_needed()
    side = frame.bounding_box()["width"]
    values = decoded_values(maps(0)["signed"])
    for row, column in ((0, 0), (2, 6), (7, 7)):
        frame.hover(position={"x": side * (column + 0.5) / 8, "y": side * (row + 0.5) / 8})
        texts = page.page.locator("#stage .value").all_inner_texts()
        number = float(texts[1].removesuffix(" here").split()[-1])
        assert number == pytest.approx(values[row, column], abs=0.06)
        assert page.page.locator("#stage .cross:visible").count() == 4  # the photograph and all maps
    page.page.mouse.move(0, 0)
    assert page.page.locator("#stage .value").first.inner_text().startswith("range ")


def test_the_filmstrip_shows_neighbours(page):
    buttons = page.page.locator("#filmstrip button")
    assert buttons.count() == 11
    page.act(lambda: buttons.nth(3).click())
    assert page.value("#image") == "3"
    assert page.page.locator("#filmstrip button[aria-current]").get_attribute("title").startswith("image 4 ")


def test_scores_select_a_method(page):
    rows = page.page.locator("#scores-of-image tbody tr")
    assert rows.all_inner_texts() == [f"{HOSTILE[0]}\t0.25\t-", "signed\t0\t0"]
    page.act(lambda: rows.nth(1).click())
    assert page.value("#method") == "signed"


def test_images_are_sorted_by_the_score_of_the_method(page):
    page.act(lambda: page.page.select_option("#method", "signed"))
    page.act(lambda: page.page.select_option("#order", "0"))
    expected = sorted(range(12), key=lambda number: -(number * 5 % 12))
    listed = page.page.locator("#image option").evaluate_all("options => options.map(e => Number(e.value))")
    assert listed == expected
    assert page.value("#image") == str(expected[0])
    page.press("ArrowRight")
    assert page.value("#image") == str(expected[1])
    page.act(lambda: page.page.select_option("#order", "1"))
    listed = page.page.locator("#image option").evaluate_all("options => options.map(e => Number(e.value))")
    assert listed == [10, 8, 6, 4, 2, 0, 1, 3, 5, 7, 9, 11]  # images without a score come last
    page.act(lambda: page.page.select_option("#order", "-1"))
    assert page.value("#image") == "0"


def test_controls_have_labels_and_pictures_have_descriptions(page):
    unlabelled = page.page.evaluate(
        """[...document.querySelectorAll("select, input, button")].filter(e => !e.labels?.length &&
            !e.getAttribute("aria-label") && !e.textContent && !e.querySelector("img[alt]")).length"""
    )
    assert unlabelled == 0
    assert page.page.locator("img:not([alt])").count() == 0


def test_the_focus_is_visible(page):
    page.page.locator("#opacity").focus()
    page.page.keyboard.press("Tab")
    outline = page.page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert float(outline.removesuffix("px")) >= 2


@pytest.mark.parametrize("width", [320, 390])
def test_a_phone_does_not_scroll_sideways(browser, report, width):
    opened = Page(browser, report, viewport={"width": width, "height": 800})
    for _ in range(2):
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        opened.press("s")
    assert opened.events == []
    opened.context.close()


def test_dark_mode_changes_the_colours(browser, report):
    colours = []
    for scheme in ("light", "dark"):
        opened = Page(browser, report, color_scheme=scheme)
        colours.append(
            opened.page.evaluate(
                "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
            )
        )
        assert opened.events == []
        opened.context.close()
    brightness = [[sum(map(int, each[4:-1].split(", "))) for each in pair] for pair in colours]
    assert brightness[0][0] > brightness[0][1]
    assert brightness[1][0] < brightness[1][1]


def test_a_report_without_photographs(browser, tmp_path):
    bare = ReportImage("bare", [View("", "class 1", "", (SIDE, SIDE), None, maps=maps(0))])
    write_page(Content("bare", (), [bare], ("signed",)), tmp_path / "bare.html")
    opened = Page(browser, tmp_path / "bare.html")
    assert opened.canvas().any()
    assert opened.page.locator("#filmstrip").is_hidden()
    assert opened.events == []
    opened.context.close()
