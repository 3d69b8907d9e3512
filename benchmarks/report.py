"""Measure the size of a report, the time to write it from stored maps, and the time to open it in Chromium.

    python benchmarks/report.py                             # 512 images, 10 methods, 224 x 224 pixels
    python benchmarks/report.py --images 64 --folder runs   # keeps the stored maps in a folder

The script first stores the maps: a benchmark of the embedded CNN on generated scenes, with three methods at the
resolution of the pixels and seven at that of a layer. This takes some minutes and is not part of the measured times.
Opening is measured with Playwright and the installed Chromium, if there are any: from the navigation until the first
image with all its maps is drawn, and from the press of an arrow key until the next image is drawn.
"""

import argparse
import shutil
import statistics
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from attribkit.benchmark import Configuration, benchmark, write_summary
from attribkit.report import write_report

FINE = ("saliency", "input_x_gradient", "smoothgrad")
COARSE = ("gradcam", "gradcam++", "hirescam", "xgradcam", "layercam", "eigencam", "cam")
OPTIONS = {"smoothgrad": {"samples": 4}}
SMALLER = 300  # images of the second report
STEPS = 20  # images that are visited
MODEL = """
from dataclasses import replace
from attribkit import load_model


def build():
    model, preprocessing = load_model("zoo:cnn")
    return model, replace(preprocessing, size=(224, 224), resize=224)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--folder", type=Path, help="keeps the stored maps; default: a temporary folder")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        store_maps(folder, arguments.images)
        for images in sorted({min(SMALLER, arguments.images), arguments.images}):
            measure(folder, images)


def store_maps(folder: Path, images: int) -> None:
    """Run a benchmark that saves its maps; a folder with finished maps is used again."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(MODEL, encoding="utf-8")
    methods = [{"name": name, "options": OPTIONS.get(name, {})} for name in (*COARSE, *FINE)]
    configuration = Configuration(
        output=folder / "run",
        data={"name": "scenes", "options": {"count": images}},
        models=[{"name": f"{folder / 'model.py'}:build", "label": "CNN"}],
        methods=methods,
        metrics=["pointing_game", "relevance_mass"],
        oracle=False,
        controls=False,
        save_maps=True,
        threads=1,
    )
    write_summary(benchmark(configuration))


def measure(folder: Path, images: int) -> None:
    """Write a report of this number of images, open it, and print the numbers."""
    path = folder / f"report_{images}.html"
    start = time.perf_counter()
    write_report(folder / "run", path, max_images=images)
    seconds = time.perf_counter() - start
    print(f"{images} images x {len(COARSE) + len(FINE)} methods: {path.stat().st_size / 1e6:.1f} MB in {seconds:.1f} s")
    browser = shutil.which("chromium")
    if browser and find_spec("playwright"):
        steps = min(STEPS, images - 1)
        opening, step = browse(path, browser, steps)
        print(f"  opens in {opening:.2f} s, next image in {1000 * step:.0f} ms (median of {steps})")


def browse(path: Path, browser: str, steps: int) -> tuple[float, float]:
    """Return the seconds until the page has drawn its first image, and the median seconds for the next ones."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=browser, args=["--no-sandbox", "--disable-background-networking"]
        )
        page = started.new_page()
        start = time.perf_counter()
        page.goto(path.resolve().as_uri())
        page.wait_for_selector("body[data-drawn='1']")
        opening = time.perf_counter() - start
        times = []
        for number in range(2, steps + 2):
            start = time.perf_counter()
            page.keyboard.press("ArrowRight")
            page.wait_for_selector(f"body[data-drawn='{number}']")
            times.append(time.perf_counter() - start)
        started.close()
    return opening, statistics.median(times)


if __name__ == "__main__":
    main()
