"""Representations for consoles and notebooks: short, and with what a reader needs to know."""

import importlib
import inspect
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import attribkit
import attribkit.metrics
from attribkit import Explainer, GroundTruth, ModelSpec, load_model, registry, zoo
from attribkit.benchmark import Configuration, Failure, benchmark, example, summarise
from attribkit.datasets import ItemDataset, Scenes, prepare_sample
from attribkit.io import Clip
from attribkit.testing import METRIC_CHECKS, report_conformance

LIMIT = 1000  # characters
MODULES = ("", ".benchmark", ".datasets", ".io", ".methods", ".metrics", ".registry", ".testing", ".zoo")
WITHOUT_EXAMPLE = {  # their fields are paths, numbers, short texts and fingerprints
    "BinaryMaskFile", "BoxedImages", "CheckResult", "ClipPreprocessing", "Coco", "EmbeddingNorm", "GivenImages",
    "GivenSegments", "ImageFile", "ImageFolder", "ImageNet", "OxfordPets", "PascalVOC", "Requirements", "Size",
    "SkippedPlugin",
}  # fmt: skip
MANY = 1000  # images, classes or items


@pytest.fixture(scope="module")
def images():
    _, preprocessing = load_model("zoo:cnn")
    return torch.stack([preprocessing(Image.fromarray(zoo.scene(seed).image)) for seed in range(2)])


@pytest.fixture(scope="module")
def explainer(cnn):
    return Explainer(cnn)


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    text = example().replace("count = 16", "count = 2").replace("steps = 8", "steps = 2")
    (path / "run.toml").write_text(text.replace("runs/first-look", str(path / "out")))
    return benchmark(path / "run.toml")


@pytest.fixture(scope="module")
def examples(explainer, images, results):
    """Objects that users see, by name; several of a class where long values matter."""
    comparison = explainer.compare(images, ["gradcam", "saliency", "attention"], errors="note")
    scene, classes = zoo.scene(0), tuple(range(MANY))
    sample = Scenes(1).samples[0]
    objects = [
        explainer, explainer.model, comparison, comparison[0], comparison.failures[0], load_model("zoo:cnn"),
        *explainer.measure(comparison, ["deletion", "max_sensitivity"]), explainer.metric_session(images),
        explainer.visualize([0, 1], size=32, steps=1), *explainer.layers(images), explainer.feature_maps(images),
        explainer.filters("conv1"), explainer.receptive_field(x=images), scene, scene.target, sample,
        prepare_sample(sample, load_model("zoo:cnn").preprocessing), Scenes(3), results, results.configuration,
        results.plan, results.store, summarise(results.rows), Failure("cnn", 0, "x" * 5000), METRIC_CHECKS[0],
        ItemDataset([{"image": Image.fromarray(scene.image), "label": 0}] * MANY), *registry.plugins(),
        load_model("zoo:cnn").preprocessing, GroundTruth(images[:, 0] > 0, boxes=torch.zeros(2, MANY, 4)),
        Clip(np.zeros((MANY, 4, 4, 3), np.uint8), classes, MANY),
        report_conformance(attribkit.metrics.Sparseness()), ModelSpec(labels=[f"class number {i}" for i in classes]),
        attribkit.BroadcastInput(images), attribkit.NoTarget(), attribkit.Similarity(images),
        attribkit.Unit("conv1", 1),
        attribkit.ClassLogit(classes), attribkit.Probability(classes), attribkit.Counterfactual(classes),
        attribkit.Contrast(classes, classes), attribkit.Binary(tuple(i % 2 for i in classes)),
        attribkit.MultiLabel(classes), attribkit.Direction("conv1", tuple(map(float, classes))),
        attribkit.Region(0, images[:, 0] > 0), attribkit.Box(((1, 2, 3, 4),) * MANY),
    ]  # fmt: skip
    for kind, base in (
        ("methods", attribkit.Method),
        ("metrics", attribkit.Metric),
        ("visualizers", attribkit.Visualizer),
    ):
        objects += [registry.make(name, base) for name in getattr(registry, kind)()]
    return objects


def test_all_are_short(examples):
    long = {type(each).__name__: len(repr(each)) for each in examples if len(repr(each)) >= LIMIT}
    assert long == {}


def test_all_are_useful(examples):
    assert [each for each in map(repr, examples) if " object at 0x" in each or "tensor([" in each] == []
    assert all(type(each).__name__ in repr(each) for each in examples)


def test_each_public_class_has_an_example(examples):
    tested = {name for each in examples for name in (cls.__name__ for cls in type(each).__mro__)}
    public = set()
    for module in (importlib.import_module(f"attribkit{name}") for name in MODULES):
        classes = {name: getattr(module, name) for name in module.__all__ if inspect.isclass(getattr(module, name))}
        public |= {n for n, c in classes.items() if not inspect.isabstract(c) and not issubclass(c, BaseException)}
    assert public - tested - WITHOUT_EXAMPLE - {"Metric", "Fingerprinted", "Visualizer"} == set()


def test_an_explainer_shows_model_layer_and_outputs(cnn, images):
    explainer = Explainer(cnn)
    assert "determined by the first call" in repr(explainer)
    explainer.attribute(images, "gradcam")
    lines = repr(explainer).splitlines()
    assert lines[0].startswith(f"Explainer({type(cnn).__name__}, spec=ModelSpec(input_size=(3, 128, 128)")
    assert lines[1].startswith("  layer='layer4': the last spatial map")
    assert lines[2] == "  outputs: logits of 8 classes"


def test_a_metric_result_shows_means_and_direction(explainer, images):
    attributions = explainer.compare(images, ["gradcam", "saliency"])
    (result,) = explainer.measure(attributions, ["deletion"])
    means = ", ".join(f"{mean:.3g}" for mean in result.values.mean(1).tolist())
    assert f"values (2, 2), mean of each map {means}; lower is better, details curve" in repr(result)


def test_a_comparison_shows_results_and_failures(explainer, images):
    comparison = explainer.compare(images, ["gradcam", "attention"], errors="note")
    first, result, failure = repr(comparison).splitlines()
    assert first == "Comparison of 1 attributions, 1 failures"
    assert "GradCAM(layer=None, relu=True), ClassLogit" in result
    assert "failed: No attention between image tokens" in failure
    html = comparison._repr_html_()
    assert html.count("<img ") == len(images)
    assert "No attention between image tokens" in html


def test_notes_that_do_not_fit_are_counted(explainer, images):
    attribution = explainer.attribute(images, "saliency")
    notes = tuple(f"note {i}: {'word ' * 20}" for i in range(50))
    text = repr(attribkit.Attribution(attribution.scores, images, attribution.target, attribution.method, notes))
    shown = text.count("note ")
    assert text.splitlines()[-1] == f"  ... and {50 - shown} more in .notes"
    assert 0 < shown < 50


def test_targets_that_differ_have_different_representations():
    classes = list(range(MANY))
    other = [*classes[:-1], 0]
    assert repr(attribkit.ClassLogit(classes)) == repr(attribkit.ClassLogit(tuple(classes)))
    assert repr(attribkit.ClassLogit(classes)) != repr(attribkit.ClassLogit(other))
    assert repr(attribkit.ClassLogit((1, 2))) == "ClassLogit(index=(1, 2))"


def test_targets_of_users_have_short_representations():
    @dataclass(frozen=True, eq=False)
    class Weighted(attribkit.Target):
        weights: torch.Tensor

        def __call__(self, outputs):
            return outputs @ self.weights

    one, other = Weighted(torch.zeros(MANY)), Weighted(torch.arange(MANY))
    assert repr(one).startswith("Weighted(weights=((1000,), crc32=")
    assert repr(one) != repr(other)


def test_data_sets_of_users_have_short_representations():
    @dataclass(frozen=True)
    class Folder(attribkit.datasets.Dataset):
        files: tuple[Path, ...]

        def read(self):
            return []

    assert len(repr(Folder(tuple(Path(f"{i}.png") for i in range(MANY))))) < LIMIT


def test_a_configuration_lists_its_choices(results):
    assert isinstance(results.configuration, Configuration)
    assert repr(results.configuration).startswith("Configuration('first look', models ['zoo:cnn'], methods ['gradcam'")
