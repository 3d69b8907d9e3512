"""The notebooks of docs/notebooks run, and what a notebook shows of results and figures is a picture."""

import importlib
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "notebooks"
PATHS = sorted(FOLDER.glob("*.ipynb"))
PICTURES = {"first_steps": 5, "how_far_to_trust": 2, "your_own_model_and_method": 2}  # outputs of figures and images

nbformat = pytest.importorskip("nbformat")


def read(path):
    return nbformat.read(path, as_version=4)


def executed(notebook, folder, **environment):
    """Run a notebook in a kernel of this interpreter, and return its cells of code."""
    nbclient = pytest.importorskip("nbclient")
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", **environment}
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}
    ).execute(env=environment)
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def pictures(cell):
    return [output for output in cell.outputs if "image/png" in output.get("data", {})]


def streams(cells, name):
    return [output.text for cell in cells for output in cell.outputs if output.get("name") == name]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    cells = executed(read(path), str(tmp_path))
    assert [cell.source for cell in cells if any(output.output_type == "error" for output in cell.outputs)] == []
    assert streams(cells, "stderr") == []
    assert sum(len(pictures(cell)) for cell in cells) == PICTURES[path.stem]


def test_each_notebook_is_tested_and_listed():
    assert {path.stem for path in PATHS} == set(PICTURES)
    page = (FOLDER / "README.md").read_text()
    assert all(f"]({path.name})" in page for path in PATHS)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path):
    cells = [cell for cell in read(path).cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in cells)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_links_and_names_of_notebooks_exist(path):
    text = "\n".join(cell.source for cell in read(path).cells)
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (FOLDER / link).exists(), link
    for module, names in re.findall(r"^from (attribkit[\w.]*) import (.+)$", text, re.MULTILINE):
        assert set(names.split(", ")) <= {*importlib.import_module(module).__all__, "zoo"}


SETUP = """
import warnings
warnings.simplefilter("error")
import torch
from PIL import Image
from attribkit import Explainer, figure, gallery, load_model, zoo
from attribkit import figures
model, preprocess = load_model("zoo:cnn")
x = torch.stack([preprocess(Image.fromarray(scene.image)) for scene in zoo.scenes(2)])
explainer = Explainer(model)
maps = explainer.compare(x, ["gradcam", "saliency"])
volumes = torch.randn(1, 3, 4, 32, 32)
video_model = torch.nn.Sequential(
    torch.nn.Conv3d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten()
)
"""
FIGURES = [
    "figure(maps)",
    "figures.curves(explainer.measure(maps, ['deletion', 'insertion']), ['a', 'b'])",
    "gallery([explainer.visualize([0, 1], size=32, steps=2)])",
    "figures.frames(Explainer(video_model).compare(volumes, ['saliency'], targets=[0]))",
    "figures.filters(explainer.filters('conv1'))",
    "figures.feature_maps(explainer.feature_maps(x))",
    "figures.receptive_field(explainer.receptive_field(x=x))",
]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["", "%matplotlib inline\n"], ids=["without pyplot", "inline"])
def test_figures_are_shown_once_as_a_picture(backend, tmp_path):
    cells = [nbformat.v4.new_code_cell(source) for source in [backend + SETUP, *FIGURES]]
    first, *others = executed(nbformat.v4.new_notebook(cells=cells), str(tmp_path))
    assert first.outputs == []
    for cell in others:
        assert len(cell.outputs) == len(pictures(cell)) == 1, cell.source


@pytest.mark.slow
def test_results_are_shown_with_overlays_and_explainers_as_text(tmp_path):
    sources = [SETUP, "maps[0]", "maps", "explainer", "explainer.visualize([0, 1], size=32, steps=2)"]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    _, *cells = executed(nbformat.v4.new_notebook(cells=cells), str(tmp_path))
    attribution, comparison, explainer, visualization = (cell.outputs[0].data for cell in cells)
    assert [data.get("text/html", "").count("<img ") for data in (attribution, comparison, visualization)] == [2, 4, 2]
    assert explainer["text/plain"].startswith("Explainer(ResNet, ")
    assert all(len(data["text/plain"]) < 1000 for data in (attribution, comparison, visualization, explainer))


LATE = """
import itertools, types
from attribkit._display import progress
progress.time = types.SimpleNamespace(monotonic=itertools.count(0, 3).__next__)  # each call is three seconds later
"""


@pytest.mark.slow
def test_progress_is_a_widget_that_shows_no_warning(tmp_path):
    pytest.importorskip("ipywidgets")
    loop = "for _ in progress.track(range(50), 'things'):\n    pass"
    silent = "with progress.progress_shown(False):\n    list(progress.track(range(50), 'things'))"
    cells = [nbformat.v4.new_code_cell(source) for source in [LATE, loop, silent]]
    late, loop, silent = executed(nbformat.v4.new_notebook(cells=cells), str(tmp_path), TQDM_DISABLE="")
    (bar,) = loop.outputs
    assert "application/vnd.jupyter.widget-view+json" in bar.data
    assert late.outputs == silent.outputs == []
