"""The fragments of code in the docs run, with the names that a reader has defined; downloads are replaced.

Pages whose code runs from top to bottom are in test_site.py, whole programs in test_docs.py and test_readme.py.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import attribkit
from attribkit import Explainer, load_model, zoo
from attribkit.benchmark import benchmark, example
from attribkit.figures import write_clip
from attribkit.registry import _discovery as discovery

DOCS = Path(__file__).parents[2] / "docs"


def images(count=2):
    _, preprocess = load_model("zoo:cnn")
    return torch.stack([preprocess(Image.fromarray(zoo.scene(i).image)) for i in range(count)])


def embedded(name="cnn"):
    """Names for a page that uses an embedded model and its scenes."""
    model, x = load_model(f"zoo:{name}").model, images()
    explainer = Explainer(model)
    a, b, c = explainer.compare(x, ["gradcam", "saliency", "edges"])
    return {"model": model, "x": x, "explainer": explainer, "attribution": a, "a": a, "b": b, "c": c}


class ManyInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU()), nn.Linear(8, 5)

    def forward(self, image=None, metadata=None, input_ids=None, depth=None, rgb=None):
        rows = image if depth is None else depth + rgb
        offsets = sum(each.sum() for each in (metadata, input_ids) if each is not None)
        return self.head(self.body(rows).mean((2, 3))) + offsets


def many_inputs():
    x = torch.randn(2, 3, 32, 32)
    model = ManyInputs()
    further = {"metadata": torch.randn(2, 4), "tokens": torch.randn(3), "depth": x, "rgb": x}
    return {"model": model, "explainer": Explainer(model), "x": x, **further}


def cam_head():
    batch = [(torch.randn(2, 3, 64, 64), torch.tensor([0, 2]))]
    return {"loader": batch, "test_loader": batch, "x": batch[0][0]}


def clip_and_volume():
    write_clip(np.zeros((16, 32, 48, 3), np.uint8), "clip.mp4")
    segmenter = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 1))
    return {"segmentation_explainer": Explainer(segmenter), "x": torch.randn(1, 1, 8, 16, 16)}


def directions():
    return {**embedded(), "vector": torch.ones(64)}


def rows_of_a_benchmark():
    Path("run.toml").write_text(example().replace("count = 16", "count = 2"))
    return {"rows": benchmark("run.toml").rows}


def tiny_coco():
    Path("val2017").mkdir()
    Image.fromarray(zoo.scene(0).image).save("val2017/1.jpg")
    box = {"bbox": [30, 30, 60, 60], "area": 3600, "iscrowd": 0, "segmentation": [[30, 30, 90, 30, 90, 90, 30, 90]]}
    annotations = {
        "images": [{"id": 1, "file_name": "1.jpg", "width": 128, "height": 128}],
        "categories": [{"id": 17, "name": "cat"}, {"id": 24, "name": "zebra"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 17, **box}],
    }
    Path("instances_val2017.json").write_text(json.dumps(annotations))
    return {}


def a_method():
    (code,) = (code for code in blocks("plugins.md") if "class LocalContrast" in code)
    names = {"__name__": "page"}
    exec(code.replace("window: PositiveInt = 9", "window: PositiveInt = 9\n    samples: PositiveInt = 9"), names)
    return {"MyMethod": names["LocalContrast"]}


FRAGMENTS = {  # page and number of the block: the names that it uses, and replacements that avoid downloads and minutes
    ("attention.md", 0): (lambda: embedded("vit"), {"(27)": "(1)"}),
    ("benchmark.md", 1): (rows_of_a_benchmark, {}),
    ("cam_head.md", 0): (cam_head, {'weights="DEFAULT"': "weights=None"}),
    ("datasets.md", 0): (tiny_coco, {"timm:resnet50": "timm:resnet10t", "pretrained=True": "pretrained=False"}),
    ("inspection.md", 0): (embedded, {}),
    ("metrics/README.md", 0): (embedded, {}),
    ("metrics/deletion_and_insertion.md", 0): (embedded, {}),
    ("metrics/perturbation_banks.md", 0): (embedded, {'"rise"': '"occlusion"'}),
    ("plugins.md", 3): (a_method, {}),
    ("report.md", 0): (dict, {}),
    ("statistics.md", 0): (rows_of_a_benchmark, {"10_000": "100"}),
    ("targets.md", 0): (many_inputs, {}),
    ("targets.md", 1): (embedded, {}),
    ("video_and_volumes.md", 0): (clip_and_volume, {"pretrained=True": "pretrained=False"}),
    ("visualizers/activation_maximization.md", 0): (
        directions,
        {'"goldfish"': '"star", steps=2', "count=4": "count=4, steps=2", "size=128": "size=128, steps=2"},
    ),
}
ELSEWHERE = {  # pages, or blocks, that other tests run
    *(
        "index.md",
        "tutorial.md",
        "own_model.md",
        "heatmaps_with_care.md",
        "migration.md",
        "comparison.md",
        "figures.md",
    ),
    *("api/index.md", ("benchmark.md", 0), ("benchmark.md", 2), ("datasets.md", 2), ("metrics/README.md", 1)),
    *(("plugins.md", 0), ("plugins.md", 1), ("plugins.md", 2)),
}
INCOMPLETE = {("datasets.md", 1)}  # contains an ellipsis


def blocks(page):
    return re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def test_every_block_runs_somewhere():
    generated = {"_build", "gallery_output", "generated", "notebooks"}
    for path in DOCS.rglob("*.md"):
        page = path.relative_to(DOCS).as_posix()
        if not generated & set(path.parts) and page not in ELSEWHERE:
            numbers = {(page, number) for number in range(len(blocks(page)))}
            assert numbers <= {*FRAGMENTS, *ELSEWHERE, *INCOMPLETE}, page


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda fragment: f"{fragment[0]}-{fragment[1]}")
def test_the_fragment(fragment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page, number = fragment
    setup, replacements = FRAGMENTS[fragment]
    code = blocks(page)[number]
    for old, new in replacements.items():
        assert old in code
        code = code.replace(old, new)
    names = {name: getattr(attribkit, name) for name in attribkit.__all__}
    exec(code, {"__name__": "page", "torch": torch, "dataclass": dataclass, **names, **setup()})
    discovery.load_plugins.cache_clear()
