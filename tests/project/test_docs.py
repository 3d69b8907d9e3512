"""Every built-in method and metric is documented: its source, its options, and when it misleads."""

import inspect
import re
from pathlib import Path

import pytest

from attribkit import Explainer, HookedModel, InvalidInput, Metric, registry
from attribkit.benchmark import benchmark, example, write_summary
from attribkit.registry import _discovery as discovery
from attribkit.testing import check_metric, tiny_cnn, tiny_transformer
from attribkit.testing._examples import images

PAGES = Path(__file__).parents[2] / "docs" / "methods"
METRICS = Path(__file__).parents[2] / "docs" / "metrics"
BUILTIN = [cls for cls in registry.methods().values() if registry.plugin_of(cls).distribution == "attribkit"]


def file_name(cls):
    return cls.name.replace("+", "p")


@pytest.mark.parametrize("cls", BUILTIN, ids=lambda cls: cls.name)
def test_a_page_for_every_method(cls):
    page = (PAGES / f"{file_name(cls)}.md").read_text()
    assert f'`method="{cls.name}"` · {cls.source}' in page
    for option, default in registry.options_of(cls).items():
        assert f"`{option}={default!r}`" in page
    for heading in ("**Options**", "**Cost**", "**When it misleads**"):
        assert heading in page
    picture = page.rsplit("](", 1)[1].strip(")\n")
    assert (PAGES / picture).resolve().stat().st_size > 5_000


def test_no_page_without_a_method():
    assert {path.stem for path in PAGES.glob("*.md")} - {"README"} == {file_name(cls) for cls in BUILTIN}


def of_metric(cls):
    """The page of the metric's family."""
    pages = [path.read_text() for path in METRICS.glob("*.md")]
    (page,) = (page for page in pages if f'`metric="{cls.name}"`' in page and cls.source in page)
    return page


@pytest.mark.parametrize(
    "cls",
    [cls for cls in registry.metrics().values() if registry.plugin_of(cls).distribution == "attribkit"],
    ids=lambda cls: cls.name,
)
def test_every_metric_is_on_the_page_of_its_family(cls):
    page = of_metric(cls).replace("'", '"')
    assert "when it misleads" in page.lower()
    for option, default in registry.options_of(cls).items():
        told = f"`{option}={default!r}`".replace("'", '"')
        assert told in page or f"`{option}`" in page, f"{cls.name} does not tell {told}"
    for preset in cls.presets:
        assert f'"{preset}"' in page or f"`{preset}`" in page, f"{cls.name} does not tell its preset {preset}"


def test_the_metric_of_ones_own_behaves():
    (code,) = re.findall(r"```python\n(from dataclasses.*?)```", (METRICS / "README.md").read_text(), re.DOTALL)
    names = {"__name__": "page"}
    exec(code, names)
    check_metric(names["MeanColour"]())


def test_the_method_that_calls_the_whole_model_interface():
    (code,) = (code for code in blocks("plugins.md", "python") if "class Everything" in code)
    names = {"__name__": "page"}
    exec(code, names)
    for model in (tiny_cnn(), tiny_transformer()):
        attribution = Explainer(model).attribute(images(), names["Everything"](), target=1)
        assert any("dimmed images" in note for note in attribution.notes)


def test_the_model_interface_is_described_as_it_is():
    page = (DOCS / "plugins.md").read_text()
    for name, arguments in re.findall(r"`model\.(\w+)\(([^`]*?)\)`", page):
        parameters = inspect.signature(getattr(HookedModel, name)).parameters
        given = [each for each in re.split(r", (?![^(]*\))", arguments) if each and "(" not in each]
        assert set(given) <= set(parameters), name


DOCS = Path(__file__).parents[2] / "docs"


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield
    discovery.load_plugins.cache_clear()


@pytest.mark.usefixtures("elsewhere")
def test_code_of_ones_own_in_a_benchmark():
    (mine,) = (code for code in blocks("benchmark.md", "python") if code.startswith("# mine.py"))
    (settings,) = (text for text in blocks("benchmark.md", "toml") if "mine.py" in text)
    Path("mine.py").write_text(mine)
    Path("run.toml").write_text(settings)
    results = benchmark("run.toml")
    assert not results.failures
    assert {"gradient_times_input", "gradcam"} < set(results.rows["method"].to_pylist())
    check_metric(registry.make("negative_fraction", Metric))


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.slow
def test_curves_and_maps_are_read_as_the_page_does():
    pytest.importorskip("matplotlib").use("agg")
    (code,) = (code for code in blocks("benchmark.md", "python") if "runs/first-look/rows" in code)
    asked = (
        example().replace("count = 16", "count = 2").replace("[data]", "save_details = true\nsave_maps = true\n[data]")
    )
    Path("run.toml").write_text(asked)
    benchmark("run.toml")
    names = {}
    exec(code, names)
    lines = names["plt"].gca().get_lines()
    assert len(lines) > 5
    assert {len(line.get_xdata()) for line in lines} == {9}
    assert {each.shape for each in names["maps"].values()} == {(1, 8, 8)}
    names["plt"].close("all")


@pytest.mark.slow
def test_the_grid_pointing_game():
    (code,) = (code for code in blocks("datasets.md", "python") if "grid_mosaics" in code)
    names = {}
    exec(code, names)
    assert names["score"].shape == (32,)
    assert names["score"].mean() > 0.4  # a map that is the same everywhere has 0.25


@pytest.mark.usefixtures("elsewhere")
def test_figures_are_drawn_as_the_page_does():
    Path("run.toml").write_text(example().replace("count = 16", "count = 2"))
    write_summary(benchmark("run.toml"))  # the page reads runs/first-look/summary.json
    names, codes = {}, blocks("figures.md", "python")
    for code in codes:
        exec(code, names)
    assert names["drawn"].get_size_inches()[0] == 3.25
    assert {path.name for path in Path().glob("*.pdf")} == set(re.findall(r'save\("(\w+\.pdf)"', "".join(codes)))


@pytest.mark.usefixtures("elsewhere")
def test_the_report_is_written_as_the_page_does():
    (code,) = blocks("report.md", "python")
    exec(code, {})
    assert "<title>Scene 0</title>" in Path("report.html").read_text(encoding="utf-8")


@pytest.mark.usefixtures("elsewhere")
def test_the_page_on_plugins_draws_a_figure_and_validates_options():
    figure, contrast = (
        next(code for code in blocks("plugins.md", "python") if word in code)
        for word in ("comparison", "LocalContrast")
    )
    exec(figure, {})
    assert Path("comparison.pdf").exists()
    names = {"__name__": "page"}
    exec(contrast, names)
    assert Explainer(tiny_cnn()).attribute(images(), names["LocalContrast"](window=3)).scores.shape[1] == 1
    with pytest.raises(InvalidInput, match="window must be odd, got 4"):
        names["LocalContrast"](window=4)
