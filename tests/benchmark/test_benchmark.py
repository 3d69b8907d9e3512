"""Benchmarks: what a configuration may say, units that end once or not at all, and rows that nothing changes."""

import copy
import csv
import errno
import functools
import importlib
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from attribkit import Complexity, Explainer, Metric, Robustness, registry, zoo
from attribkit._core.errors import AttribkitError, InvalidInput, UnreadableFile
from attribkit._loading import LoadedModel, load_model
from attribkit.benchmark import (
    Configuration,
    Summary,
    benchmark,
    example,
    read_configuration,
    write_summary,
)
from attribkit.benchmark import _store as store
from attribkit.benchmark._settings import choices
from attribkit.benchmark._settings.choices import MethodChoice, MetricChoice
from attribkit.benchmark._settings.plan import WorkUnit, make_plan
from attribkit.benchmark._statistics.summary import CONTROLS, TRUTH
from attribkit.benchmark._store import SCHEMA, lock_folder
from attribkit.benchmark._tables.rendering import tables
from attribkit.benchmark._work import Worker
from attribkit.cli import app
from attribkit.methods._gradients import Saliency
from attribkit.metrics import PointingGame
from attribkit.metrics._masked import AverageDrop
from attribkit.registry import _discovery as discovery

MEASURED = ("milliseconds", "peak_mib")  # of the rows: another number each time
HEAD = 'output = "out"\ndata = {name = "scenes", options = {count = 2}}\n'
TINY = HEAD + 'models = ["zoo:cnn"]\nmethods = ["gradcam"]\nmetrics = ["pointing_game"]\n'


scene = functools.cache(zoo.scene)


@pytest.fixture(autouse=True, scope="module")
def _scenes_are_drawn_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(zoo, "scene", scene)
        yield


def configured(folder, **changes):
    """Three scenes in shards of two, one model, two methods of which one is the oracle."""
    settings = {
        "output": str(folder),
        "data": {"name": "scenes", "options": {"count": 3}},
        "models": ["zoo:cnn"],
        "methods": ["gradcam", "saliency"],
        "metrics": ["pointing_game", "relevance_mass"],
        "oracle": "saliency",
        "shard_size": 2,
        "threads": torch.get_num_threads(),  # as of the Explainer that some tests compare with
    }
    return Configuration.model_validate(settings | changes)


def certain(rows):
    """The rows without what is measured anew each time; a string, in which NaN equals NaN."""
    return repr(rows.drop_columns(list(MEASURED)).to_pylist())


def only(rows, **wanted):
    return [row for row in rows.to_pylist() if all(row[name] == value for name, value in wanted.items())]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A run that nothing happened to."""
    return benchmark(configured(tmp_path_factory.mktemp("runs") / "undisturbed"))


# --- configuration ---------------------------------------------------------------------------------------------------


def complaints(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    with pytest.raises(AttribkitError) as error:
        read_configuration(path)
    return str(error.value).replace(str(path), "run.toml")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (TINY + "sed = 1\n", "sed: No setting is named 'sed'. Did you mean 'seed'? Known: name, plugin"),
        (TINY.replace("gradcam", "gradcan"), "methods[0].name: No method is named 'gradcan'. Did you mean 'gradcam'?"),
        (TINY.replace("pointing_game", "x"), "metrics[0].name: No metric is named 'x'. Known: "),
        (TINY.replace("scenes", "scene"), "data.name: No data set is named 'scene'. Did you mean 'scenes'?"),
        (TINY.replace("count", "cout"), "data.options: No option of 'scenes' is named 'cout'. Did you mean 'count'?"),
        (TINY + 'executor = "slurm"\n', "executor must be 'serial' or 'ray', got 'slurm'."),
        (TINY + "shard_size = 0\n", "shard_size must be greater than 0, got 0."),
        (TINY + 'seed = "1"\n', "seed must be a valid integer, got '1'."),
        (TINY + 'oracle = "occlusio"\n', "oracle: No method is named 'occlusio'. Did you mean 'occlusion'?"),
        (TINY + 'oracle = true\n', "oracle must be a valid string or False, got True."),
        (TINY.replace('"gradcam"', '"rise", "rise"'), "methods: Two entries have the label 'rise'. Give one of them"),
        (TINY.replace('["zoo:cnn"]', "[]"), "models must be a non-empty list, got []."),
        (HEAD + 'methods = ["cam"]\nmetrics = ["pointing_game"]', "models: This setting is required."),
        (TINY[:-1] + "]", "run.toml is not valid TOML: "),
        (TINY.replace('"gradcam"', '"cam", {name = "rise", label = "CAM"}'), "methods: Two entries have the label 'c"),
        (TINY.replace("}}", "}, limit = 0}"), "data.limit must be greater than 0, got 0."),
        (TINY.replace('"gradcam"', '{name = "cam", label = "edges"}'), "methods: The label 'edges' is reserved for a "),
        (TINY.replace('"pointing_game"', '{name = "deletion", preset = "ris"}'), "Did you mean 'rise'?"),
        (TINY + "seed = -1\n", "seed must be greater than or equal to 0, got -1."),
        (TINY + "batch_size = 0\n", "batch_size must be greater than 0 or 'auto', got 0."),
        (TINY.replace('"pointing_game"', '{name = "aopc", options = {substrate = "blurr"}}'), "Did you mean 'blur'?"),
        (
            TINY.replace('"pointing_game"', '{name = "aopc", options = {steps = "9"}}'),
            "steps must be an integer >= 1 or None, got '9'",
        ),
        (TINY.replace('"gradcam"', "1"), "methods[0] must be a table, got 1."),
        (TINY.replace('"gradcam"', '{name = "random", label = "Random"}'), "label 'Random' is reserved for a control."),
        (TINY.replace('"gradcam"', '{name = "occlusion", label = "Occlusion"}'), "Set oracle = 'Occlusion', or give"),
        (TINY.replace("count = 2", 'count = "2"'), "data.options: count must be a valid integer, got '2'."),
        (TINY.replace("count = 2", "count = 0"), "data.options: count must be a positive integer, got 0"),
        (TINY.replace("scenes", "coco").replace("count = 2", 'root = "."'), "data.options: 'coco' needs 'annotations'"),
        (TINY.replace('"zoo:cnn"', '{name = "zoo:cnn", mean = ["a"]}'), "models[0].mean[0] must be a valid number"),
        (TINY.replace('"zoo:cnn"', '{name = "zoo:cnn", lable = "a"}'), "models[0].lable: No setting is named 'lable'."),
        (TINY + '[ray]\ngpu = 1', "ray.gpu: No setting is named 'gpu'. Did you mean 'gpus'? Known: address, "),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("as_users_run")
def test_errors_name_the_path_of_the_setting(tmp_path, text, expected):
    assert expected in complaints(tmp_path, text)


def test_a_mark_at_the_beginning_of_the_file_does_no_harm(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(TINY, encoding="utf-8-sig")
    assert read_configuration(path).data.name == "scenes"


def test_from_python_what_is_wrong_is_told_in_the_same_words(tmp_path):
    settings = {
        "output": tmp_path,
        "data": {"name": "scenes"},
        "models": ["zoo:cnn"],
        "methods": ["gradcan"],
        "sed": 1,
    }
    with pytest.raises(InvalidInput) as error:
        Configuration(**settings)
    assert "metrics: This setting is required." in str(error.value).splitlines()
    assert "methods[0].name: No method is named 'gradcan'. Did you mean 'gradcam'?" in str(error.value)
    assert "sed: No setting is named 'sed'. Did you mean 'seed'?" in str(error.value)


def test_types_of_options_that_cannot_be_read_are_not_checked(tmp_path, monkeypatch):
    """A plugin may import them for type checkers alone."""
    monkeypatch.setattr(Saliency, "__annotations__", {"magnitudes": "OnlyForTypeCheckers"})
    assert configured(tmp_path).methods[1].name == "saliency"


TABLES = """output = "out"
data = {name = "scenes"}
metrics = ["pointing_game"]

[[models]]
name = "zoo:cnn"

[[methods]]
name = "rise"

[methods.options]
cells = 7
masks = "many"

[[methods]]
label = "truth"
name = "cam"
[[methods]]
name = "gradcam"
options = {layr = 1}
"""


@pytest.mark.usefixtures("as_users_run")
def test_options_are_checked_before_anything_runs(tmp_path):
    assert complaints(tmp_path, TABLES).splitlines() == [
        "run.toml is not a valid configuration:",
        "methods[0].options: masks must be an integer >= 1, got 'many' (an option of 'rise').",
        "methods[2].options: No option of 'gradcam' is named 'layr'. Did you mean 'layer'? Known: layer, relu.",
    ]
    mended = TABLES.replace('"many"', "9").replace("layr = 1", "")
    assert "methods: The label 'truth' is reserved for a control. Give " in complaints(tmp_path, mended)


def test_no_file_is_told(tmp_path):
    with pytest.raises(UnreadableFile, match="benchmark --example` prints a configuration"):
        read_configuration(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('"zoo:cnn"', '"zoo:vitt"', "models[0]: No zoo model is named 'vitt'. Did you mean 'vit'?"),
        (
            '["zoo:cnn"]',
            '["zoo:vit", {name = "zoo:cnn", weights = "no.pt"}]',
            "models[1]: Weights file 'no.pt' does not exist",
        ),
        (
            '"scenes", options = {count = 2}',
            '"image_folder", options = {root = "no"}',
            "data.options: The folder 'no' does not exist",
        ),
        ('["gradcam"]', '["gradcam"]\ndevice = "cpuu"', "device: device='cpuu' cannot be used"),
    ],
)
def test_errors_of_loading_name_the_path_of_the_setting(tmp_path, monkeypatch, old, new, expected):
    monkeypatch.chdir(tmp_path)
    Path("run.toml").write_text(TINY.replace(old, new))
    result = CliRunner().invoke(app, ["benchmark", "run.toml", "--output", "other"])
    assert result.exit_code == 2
    assert expected in " ".join(result.output.split())
    with pytest.raises(InvalidInput) as error:
        benchmark("run.toml")
    assert expected in str(error.value)


# --- plan ------------------------------------------------------------------------------------------------------------


def test_controls_and_the_oracle_are_added_once(tmp_path):
    plan = make_plan(configured(tmp_path, methods=["random", "gradcam"], oracle="occlusion"), 3)
    assert list(plan.methods) == ["random", "gradcam", "occlusion", "centre", "edges", "constant", TRUTH]
    assert len(list(plan.units())) == 7 * 2
    bare = make_plan(configured(tmp_path, methods=["cam"], oracle=False, controls=False), 3)
    assert list(bare.methods) == ["cam"]


def test_only_the_first_images_if_asked_for(tmp_path):
    data = {"name": "scenes", "options": {"count": 3}, "limit": 1}
    rows = benchmark(configured(tmp_path, data=data, methods=["edges"], oracle=False, controls=False)).rows
    assert {row["image"] for row in rows.to_pylist()} == {"scene 0"}
    assert json.loads((tmp_path / "run.json").read_text())["identity"]["data"]["images"] == 1


def test_groups_hold_what_is_missing(tmp_path):
    plan = make_plan(configured(tmp_path), 5)
    groups = plan.tasks(
        [WorkUnit("zoo:cnn", TRUTH, 2), WorkUnit("zoo:cnn", "gradcam", 2), WorkUnit("zoo:cnn", "edges", 0)]
    )
    assert [(group.shard, list(group.images), group.methods) for group in groups] == [
        (0, [0, 1], ("edges",)),
        (2, [4], ("gradcam", TRUTH)),
    ]


# --- rows ------------------------------------------------------------------------------------------------------------


def test_rows_are_complete(undisturbed):
    rows = undisturbed.rows
    assert rows.schema.equals(SCHEMA)
    rows.validate(full=True)
    methods = ["gradcam", "saliency", *CONTROLS, TRUTH]
    cells = {(row["method"], row["inverted"], row["metric"], row["image"]) for row in rows.to_pylist()}
    assert len(cells) == rows.num_rows == (len(methods) + 2) * 2 * 3  # two methods have inverses too
    assert not undisturbed.failures
    truth = only(rows, method=TRUTH, inverted=False)
    assert all(row["value"] == 1 and row["milliseconds"] is None for row in truth)
    gradcam = only(rows, method="gradcam")
    assert all(row["milliseconds"] > 0 and row["forwards"] == 1 for row in gradcam)
    assert {row["kind"] for row in gradcam} == {"localization"}
    assert {row["method_options"] for row in gradcam} == {"GradCAM(layer=None, relu=True)"}
    assert [row["group"] for row in truth][:2] == ["scene 0", "scene 1"]


def test_numbers_are_those_of_the_explainer(undisturbed):
    model, preprocessing = load_model("zoo:cnn")
    scenes = list(zoo.scenes(2))
    x = torch.stack([preprocessing(Image.fromarray(scene.image)) for scene in scenes])
    mask = torch.from_numpy(np.stack([scene.target.mask for scene in scenes]))
    explainer = Explainer(model)
    straight = explainer.attribute(x, "gradcam", target=[scene.label for scene in scenes])
    for attribution, inverted in ((straight, False), (replace(straight, scores=-straight.scores), True)):
        expected = explainer.evaluate(attribution, "relevance_mass", mask=mask)
        found = only(undisturbed.rows, method="gradcam", inverted=inverted, metric="relevance_mass")[:2]
        np.testing.assert_array_equal([row["value"] for row in found], expected)
        assert bool(expected.isnan().all()) is inverted  # an inverted Grad-CAM has no positive part
        assert [row["target"] for row in found] == [scene.label for scene in scenes] == [r["label"] for r in found]


def test_the_predicted_class_is_explained_if_asked_for_or_if_there_is_no_label(tmp_path):
    items = [{"image": scene.image, "id": str(i), "label": 3} for i, scene in enumerate(zoo.scenes(2))]
    del items[1]["label"]
    data = {"name": "items", "options": {"items": items}}
    fast = {"data": data, "methods": ["gradcam"], "oracle": False, "controls": False}
    predicted = [scene.label for scene in zoo.scenes(2)]
    labelled = benchmark(configured(tmp_path / "label", **fast)).rows
    assert [row["target"] for row in only(labelled, metric="pointing_game", inverted=False)] == [3, predicted[1]]
    asked = benchmark(configured(tmp_path / "predicted", target="predicted", **fast)).rows
    assert [row["target"] for row in only(asked, metric="pointing_game", inverted=False)] == predicted
    assert {row["label"] for row in asked.to_pylist()} == {3, None}
    assert all(math.isnan(row["value"]) for row in asked.to_pylist()), "no mask tells where the object is"


def test_metrics_that_read_magnitudes_have_no_inverse(tmp_path):
    changes = {"methods": ["saliency"], "oracle": False, "controls": False}
    metrics = [{"name": "pointing_game", "label": f"by {r}", "options": {"reduce": r}} for r in REDUCTIONS]
    rows = benchmark(configured(tmp_path, metrics=metrics, **changes)).rows
    inverted = {(row["metric"], row["inverted"]) for row in rows.to_pylist()}
    assert inverted == {("by sum", False), ("by sum", True), ("by largest_magnitude", False)}


REDUCTIONS = ("sum", "largest_magnitude")


@pytest.mark.slow
def test_maps_are_kept_at_their_own_resolution(tmp_path):
    results = benchmark(configured(tmp_path, save_maps=True))
    maps = results.store.maps(WorkUnit("zoo:cnn", "gradcam", 0))
    assert {name: tuple(each.shape) for name, each in maps.items()} == {"scene 0": (1, 8, 8), "scene 1": (1, 8, 8)}
    x = torch.stack([load_model("zoo:cnn").preprocessing(Image.fromarray(zoo.scene(i).image)) for i in (0, 1)])
    expected = Explainer(load_model("zoo:cnn").model).attribute(
        x, "gradcam", target=[zoo.scene(0).label, zoo.scene(1).label]
    )
    assert torch.equal(torch.stack(list(maps.values())), expected.scores)


@pytest.mark.slow
def test_metrics_that_run_the_method_again_run_the_inverse_and_the_truth(tmp_path):
    results = benchmark(configured(tmp_path, metrics=["adcc"], methods=["gradcam"], oracle=False))
    assert not results.failures
    model, preprocessing = load_model("zoo:cnn")
    explainer = Explainer(model)
    x = torch.stack([preprocessing(Image.fromarray(scene(i).image)) for i in range(2)])
    straight = explainer.attribute(x, "gradcam", target=[scene(0).label, scene(1).label])
    found = only(results.rows, method="gradcam", inverted=False)[:2]
    assert [row["value"] for row in found] == explainer.evaluate(straight, "adcc").tolist()

    class Negative(type(straight.method)):
        def __call__(self, model, x, target):
            return -super().__call__(model, x, target)

    inverse = explainer.attribute(x, Negative(), target=[scene(0).label, scene(1).label])
    found = only(results.rows, method="gradcam", inverted=True)[:2]
    np.testing.assert_array_equal([row["value"] for row in found], explainer.evaluate(inverse, "adcc").numpy())


@dataclass(frozen=True)
class Steady(Robustness):
    """The largest score."""

    name = "steady"
    source = "nobody"
    higher_is_better = False

    def __call__(self, model, attribution):
        return attribution.scores.flatten(1).amax(1)

    def details(self, model, attribution):
        return {"floor": torch.full((len(attribution),), 0.25), "more": torch.zeros(len(attribution))}


@dataclass(frozen=True)
class Largest(Complexity):
    """The largest score."""

    name = "largest"
    source = "nobody"
    higher_is_better = None

    def __call__(self, attribution):
        return attribution.scores.flatten(1).amax(1)


def test_each_kind_of_metric_scores_the_maps_that_it_can(tmp_path, monkeypatch):
    metrics = registry.metrics() | {"steady": Steady, "largest": Largest}
    offered = registry.classes
    monkeypatch.setattr(registry, "metrics", lambda: metrics)
    monkeypatch.setattr(registry, "classes", lambda kind: metrics if kind is Metric else offered(kind))
    monkeypatch.setattr("attribkit.benchmark._identity.registry.plugin_of", lambda cls: registry.plugins()[0])
    rows = benchmark(configured(tmp_path, metrics=["steady", "largest"], oracle=False)).rows
    methods = {"gradcam", "saliency", *CONTROLS}
    assert {(row["method"], row["inverted"]) for row in only(rows, metric="steady")} == {(m, False) for m in methods}
    assert {row["floor"] for row in only(rows, kind="robustness")} == {0.25}
    complexity = only(rows, kind="complexity")
    assert {(row["method"], row["inverted"]) for row in complexity} == {(m, False) for m in methods | {TRUTH}}
    assert {(row["higher_is_better"], row["floor"]) for row in complexity} == {(None, None)}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(tmp_path, undisturbed):
    rows = benchmark(configured(tmp_path, device="cuda")).rows
    np.testing.assert_allclose(rows["value"].to_numpy(), undisturbed.rows["value"].to_numpy(), rtol=1e-2, atol=1e-2)
    assert all(row["peak_mib"] > 0 for row in only(rows, method="saliency"))


# --- going on --------------------------------------------------------------------------------------------------------


def test_what_is_finished_is_not_done_again(tmp_path, undisturbed, monkeypatch):
    benchmark(configured(tmp_path))
    lost = tmp_path / "rows" / "zoo%3Acnn" / "saliency" / "00001.parquet"
    lost.unlink()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    asked = []
    attribute = Explainer.attribute
    monkeypatch.setattr(Explainer, "attribute", lambda *a, **k: asked.append(a[2].name) or attribute(*a, **k))
    assert certain(benchmark(configured(tmp_path)).rows) == certain(undisturbed.rows)
    assert set(asked) == {"saliency"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert lost.exists()


@pytest.mark.slow
def test_no_number_depends_on_what_was_missing(tmp_path):
    """Bit by bit, also of metrics that ask the model."""
    metrics = [{"name": name, "options": {"steps": 2}} for name in ("deletion", "insertion_minus_deletion")]
    changes = {"metrics": metrics, "methods": ["gradcam"], "oracle": False, "save_details": True, "shard_size": 3}
    expected = benchmark(configured(tmp_path, **changes)).rows
    units = sorted(tmp_path.rglob("*.parquet"))
    for path in random.Random(0).sample(units, len(units) // 2):
        path.unlink()
    assert certain(benchmark(configured(tmp_path, **changes)).rows) == certain(expected)
    deletion = only(expected, metric="deletion")
    assert all(0 <= row["tie_fraction"] <= 1 for row in deletion)
    assert all(len(dict(row["details"])["curve"]) == 3 for row in deletion)
    both = [dict(row["details"]) for row in only(expected, metric="insertion_minus_deletion")]
    assert all(set(each) == {"deletion_curve", "insertion_curve", "fractions"} for each in both)
    assert {tuple(each["fractions"]) for each in both} == {(0, 0.5, 1)}
    assert {row["higher_is_better"] for row in deletion} == {False}


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def flipped(path):
    """One bit of a column's values."""
    content = bytearray(path.read_bytes())
    column = pq.read_metadata(path).row_group(0).column(SCHEMA.get_field_index("value"))
    content[column.data_page_offset + column.total_compressed_size - 3] ^= 1
    path.write_bytes(content)


def emptied(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [cut, flipped, emptied])
@pytest.mark.slow
def test_a_broken_file_is_done_again(tmp_path, undisturbed, harm):
    benchmark(configured(tmp_path))
    path = tmp_path / "rows" / "zoo%3Acnn" / "gradcam" / "00000.parquet"
    whole = path.read_bytes()
    harm(path)
    assert path.read_bytes() != whole
    assert certain(benchmark(configured(tmp_path)).rows) == certain(undisturbed.rows)


def test_maps_that_are_lost_or_broken_are_made_again(tmp_path):
    changes = {"methods": ["gradcam"], "oracle": False, "controls": False, "save_maps": True}
    results = benchmark(configured(tmp_path, **changes))
    first, second = sorted(tmp_path.rglob("*.safetensors"))
    before = copy.deepcopy([results.store.maps(unit) for unit in results.plan.units()])  # they are views of the files
    first.unlink()
    second.write_bytes(second.read_bytes()[:-4])
    again = benchmark(configured(tmp_path, **changes))
    assert certain(again.rows) == certain(results.rows)
    torch.testing.assert_close([again.store.maps(unit) for unit in again.plan.units()], before, rtol=0, atol=0)


KILLED = """
import os, signal, sys
from pathlib import Path
from attribkit.benchmark import benchmark
from attribkit.benchmark._settings.configuration import Configuration

left, replace = int(sys.argv[2]), Path.replace
def killing(self, target):
    global left
    left -= target.suffix == ".parquet"
    if left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(self, target)
Path.replace = killing
benchmark(Configuration.model_validate_json(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_run_that_is_killed_while_it_writes_goes_on(tmp_path, undisturbed):
    configuration = configured(tmp_path).model_dump_json()
    killed = subprocess.run([sys.executable, "-c", KILLED, configuration, "9"], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert len(list(tmp_path.rglob("*.parquet"))) == 9
    assert len(list(tmp_path.rglob("*.unfinished"))) == 1
    assert (tmp_path / "lock").exists(), "which is not locked, because that process is dead"
    assert certain(benchmark(configured(tmp_path)).rows) == certain(undisturbed.rows)
    assert not list(tmp_path.rglob("*.unfinished"))


@pytest.mark.slow
def test_a_run_that_is_killed_ten_times_loses_nothing(tmp_path):
    """At random moments, each later than the last; what is done between two kills is kept."""
    changes = {"data": {"name": "scenes", "options": {"count": 40}}, "methods": ["gradcam", "occlusion"]}
    expected = benchmark(configured(tmp_path / "whole", **changes)).rows
    configuration = configured(tmp_path / "killed", **changes).model_dump_json()
    rng, kept = random.Random(0), 0
    for _ in range(10):
        process = subprocess.Popen([sys.executable, "-c", KILLED, configuration, "1000000"])
        wanted, delay = kept + rng.randrange(1, 15), rng.uniform(0, 0.3)
        while len(list((tmp_path / "killed").rglob("*.parquet"))) < wanted and process.poll() is None:
            time.sleep(0.002)
        time.sleep(delay)
        process.kill()
        process.wait()
        now = len(list((tmp_path / "killed").rglob("*.parquet")))
        assert now >= kept
        kept = now
    assert 0 < kept < 7 * 20
    assert certain(benchmark(configured(tmp_path / "killed", **changes)).rows) == certain(expected)


def test_ctrl_c_leaves_what_is_finished(tmp_path, undisturbed, monkeypatch):
    path = tmp_path / "run.toml"
    path.write_text(as_toml(configured(tmp_path / "out")))
    call = Saliency.__call__

    def interrupted(self, model, x, target):
        if len(x) == 1 and bool((tmp_path / "out" / "rows").exists()):
            raise KeyboardInterrupt
        return call(self, model, x, target)

    monkeypatch.setattr(Saliency, "__call__", interrupted)
    result = CliRunner().invoke(app, ["benchmark", str(path)])
    assert result.exit_code == 130
    assert "start the same command again to go on" in result.output
    monkeypatch.undo()
    assert len(list((tmp_path / "out").rglob("*.parquet"))) == 7
    assert certain(benchmark(path).rows) == certain(undisturbed.rows)


def as_toml(configuration):
    """Enough of TOML for these tests."""
    values = configuration.model_dump(mode="json", exclude={"ray"}, exclude_none=True)
    return "\n".join(f"{key} = {_value(value)}" for key, value in values.items())


def _value(value):
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + "}"
    return "[" + ", ".join(map(_value, value)) + "]" if isinstance(value, list) else json.dumps(value)


@pytest.mark.slow
def test_methods_and_models_are_added_to_a_run_and_left_out_of_it(tmp_path, undisturbed, monkeypatch):
    benchmark(configured(tmp_path, methods=["saliency"]))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    attribute, asked = Explainer.attribute, []
    monkeypatch.setattr(Explainer, "attribute", lambda *a, **k: asked.append(a[2].name) or attribute(*a, **k))
    assert certain(benchmark(configured(tmp_path)).rows) == certain(undisturbed.rows)
    assert set(asked) == {"gradcam"}
    assert {path: path.stat().st_mtime_ns for path in before} == before
    more = benchmark(configured(tmp_path, models=["zoo:vit", "zoo:cnn"], methods=["saliency"])).rows
    assert set(more["method"].to_pylist()) == {"saliency", *CONTROLS, TRUTH}
    assert certain(benchmark(configured(tmp_path)).rows) == certain(undisturbed.rows)
    with pytest.raises(InvalidInput, match="methods 'gradcam' was "):  # also where it was left out in between
        benchmark(configured(tmp_path, methods=[{"name": "gradcam", "options": {"relu": False}}, "saliency"]))


@pytest.mark.slow
def test_maps_and_details_may_be_asked_for_afterwards(tmp_path, undisturbed):
    benchmark(configured(tmp_path))
    results = benchmark(configured(tmp_path, save_maps=True))
    assert certain(results.rows) == certain(undisturbed.rows)
    assert len(results.store.maps(WorkUnit("zoo:cnn", "gradcam", 0))) == 2
    again = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    benchmark(configured(tmp_path))  # what is kept does not have to go
    assert {path: path.stat().st_mtime_ns for path in again} == again


OWN = """
from dataclasses import dataclass
from torch import nn
from attribkit import Complexity, Method, load_model
from beside import SCALE

@dataclass(frozen=True)
class Scaled(Method):
    name, source = "scaled", "a test"
    def __call__(self, model, x, target):
        return SCALE * x * model.gradient(x, target)

@dataclass(frozen=True)
class Peak(Complexity):
    name, source, higher_is_better = "peak", "a test", None
    def __call__(self, attribution):
        return self.heatmap(attribution).flatten(1).amax(1).double()

def build(which="cnn"):
    return load_model(f"zoo:{which}")

def bare():
    return nn.Identity()

helper = 3
"""


@pytest.fixture
def own_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    (tmp_path / "beside.py").write_text("SCALE = 2.0\n")
    yield tmp_path / "own.py"
    discovery.load_plugins.cache_clear()


def test_methods_metrics_and_models_of_ones_own_come_from_a_file(own_code):
    settings = {"plugins": ["own.py"], "methods": ["scaled"], "oracle": False, "metrics": ["peak"]}
    results = benchmark(configured("out", models=["own.py:build"], **settings))
    assert not results.failures
    model, preprocessing = load_model("zoo:cnn")
    x = preprocessing(Image.fromarray(scene(0).image))[None]
    map_ = Explainer(model).attribute(x, "input_x_gradient", target=scene(0).label).heatmap()
    (row,) = only(results.rows, method="scaled", image="scene 0")
    assert row["value"] == pytest.approx(2 * map_.max().item(), rel=1e-5)
    own_code.write_text(OWN.replace("return SCALE", "return 1 + SCALE"))
    with pytest.raises(InvalidInput, match=r"metrics 'peak' was Peak.* of sha256 .*; models 'own.py:build' was w"):
        benchmark(configured("out", models=["own.py:build"], **settings))


def test_the_command_ends_with_1_where_a_method_failed_and_names_the_line(own_code):
    own_code.write_text(OWN.replace("return SCALE", "return 1 / 0 * SCALE"))
    text = as_toml(configured("out", plugins=["own.py"], methods=["scaled", "gradcam"], oracle=False))
    Path("run.toml").write_text(text)
    result = CliRunner().invoke(app, ["benchmark", "run.toml"])
    assert result.exit_code == 1
    line = 1 + own_code.read_text()[: own_code.read_text().index("1 / 0")].count("\n")
    assert f"ZeroDivisionError: division by zero ({own_code}, line {line})" in result.output
    assert "zoo:cnn: localization" in result.output


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"plugins": ["none.py"]}, "none.py' does not exist: check the path."),
        (
            {"plugins": ["beside.py"]},
            "'beside.py' must define a class that derives from one of Method, Visualizer, Metric, Imputer, Dataset,",
        ),
        ({"plugins": ["broken.py"]}, "broken.py' cannot be run: ZeroDivisionError: division by zero."),
        ({"plugins": ["taken.py"]}, "are both named 'gradcam': rename the second."),
        ({"models": ["own.py:biuld"]}, "No function of own.py is named 'biuld'. Did you mean 'build'?"),
        ({"models": ["own.py:bare"]}, "own.py:bare must return the model and its preprocessing, got Identity: write "),
        (
            {"models": [{"name": "own.py:build", "arguments": {"size": 3}}]},
            "own.py:build cannot be created with these",
        ),
        ({"plugins": ["own.py"], "executor": "ray"}, "The executor 'ray' does not support `plugins`"),
        ({"models": ["own:build"]}, "No kind of model is named 'own:build'. Known: timm:NAME, "),
    ],
)
@pytest.mark.usefixtures("as_users_run")
def test_what_is_wrong_with_files_of_ones_own_is_told(own_code, changes, expected):
    (own_code.parent / "broken.py").write_text("1 / 0")
    (own_code.parent / "taken.py").write_text(OWN.replace('"scaled"', '"gradcam"'))
    with pytest.raises(ValueError, match=re.escape(expected)):
        benchmark(configured("out", **changes))


@pytest.mark.slow
def test_a_model_in_another_precision(tmp_path):
    models = [{"name": "zoo:cnn", "dtype": "bfloat16", "label": "half"}, "zoo:cnn"]
    results = benchmark(configured(tmp_path, models=models, metrics=["deletion"]))
    assert not results.failures
    half, full = ([row["value"] for row in only(results.rows, model=model)] for model in ("half", "zoo:cnn"))
    assert half != full
    np.testing.assert_allclose(half, full, atol=0.05)


def test_a_preset_that_is_changed_is_told_in_its_title():
    def title(**overrides):
        return MetricChoice.model_validate({"name": "deletion", **overrides}).title

    assert title(preset="torchcam") == "deletion torchcam"
    assert title(preset="torchcam", options={"steps": 4}) == "deletion torchcam (steps=4)"
    assert title(preset="torchcam", options={"steps": 4}, label="fast") == "fast"
    assert title(options={"steps": 4}) == "deletion"


def test_none_is_a_word_in_files():
    rise = MetricChoice.model_validate(
        {"name": "deletion", "preset": "rise", "options": {"steps": 4, "per_step": "none"}}
    )
    assert rise.make().per_step is None
    assert MethodChoice.model_validate({"name": "gradcam", "options": {"layer": "none"}}).make().layer == "none"


def test_another_run_in_the_folder_is_refused(tmp_path, monkeypatch):
    benchmark(configured(tmp_path))

    def refused(match, **changes):
        with pytest.raises(InvalidInput, match=match):
            benchmark(configured(tmp_path, **changes))

    refused("methods 'saliency' was absent and is Sal|settings 'seed' was 0 and is 1", seed=1)
    refused("methods 'gradcam' was GradCAM.layer=None, relu=True. and is .*relu=False", methods=[
        {"name": "gradcam", "options": {"relu": False}}, "saliency"])  # fmt: skip
    refused("metrics 'relevance_mass' was .* and is absent", metrics=["pointing_game"])
    refused("data 'scenes' was .* and is ", data={"name": "scenes", "options": {"count": 4}})
    weights = zoo.load_zoo_model("cnn").state_dict()
    weights["fc.bias"] = weights["fc.bias"] + 1e-7
    save_file(weights, tmp_path / "other.safetensors")
    refused(
        "models 'zoo:cnn' was weights", models=[{"name": "zoo:cnn", "weights": str(tmp_path / "other.safetensors")}]
    )
    monkeypatch.setattr("attribkit.benchmark._identity.version", lambda package: "0.0")
    refused("versions 'torch' was .* and is 0.0")


def test_two_runs_at_once_are_refused(tmp_path):
    with lock_folder(tmp_path), pytest.raises(AttribkitError, match=f"{tmp_path.name}' is in use by another run. Wait"):
        benchmark(configured(tmp_path))
    with lock_folder(tmp_path):
        pass  # the next run has it


def test_a_device_that_does_not_work_claims_no_folder(tmp_path):
    with pytest.raises(InvalidInput, match="device='gpu' cannot be used"):
        benchmark(configured(tmp_path / "out", device="gpu"))
    assert not (tmp_path / "out").exists()


def test_the_identity_has_what_reads_and_resizes_images(tmp_path, undisturbed):
    versions = json.loads((undisturbed.store.folder / "run.json").read_text())["identity"]["versions"]
    assert {"torch", "numpy", "pillow", "opencv-python-headless", "scikit-image"} <= versions.keys()


# --- faults ----------------------------------------------------------------------------------------------------------


def test_a_full_disk_stops_the_run_which_goes_on_later(tmp_path, undisturbed, monkeypatch):
    write, left = pq.write_table, [4]

    def full(*arguments, **options):
        left[0] -= 1
        if left[0] < 0:
            Path(arguments[1]).write_bytes(b"some")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(*arguments, **options)

    monkeypatch.setattr(store.pq, "write_table", full)
    with pytest.raises(UnreadableFile, match=r"No space left on device.*start the same run again"):
        benchmark(configured(tmp_path))
    monkeypatch.undo()
    assert len(list(tmp_path.rglob("*.parquet"))) == 4
    assert not list(tmp_path.rglob("*.unfinished"))
    assert certain(benchmark(configured(tmp_path)).rows) == certain(undisturbed.rows)


@pytest.mark.parametrize("name", ["lock", "rows", "tables"])
def test_what_cannot_be_written_is_told_in_a_sentence(tmp_path, name):
    (tmp_path / name).mkdir() if name == "lock" else (tmp_path / name).write_text("")
    with pytest.raises(UnreadableFile, match=r"cannot be written"):
        write_summary(benchmark(configured(tmp_path, methods=["gradcam"], oracle=False, controls=False)))


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits")
def test_a_full_disk_while_maps_are_kept_is_told(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(UnreadableFile, match=r"safetensors' cannot be written"):
            benchmark(configured(tmp_path, methods=["saliency"], controls=False, save_maps=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not list(tmp_path.rglob("*.unfinished"))


@pytest.mark.parametrize("label", [8, 1000, -1])
def test_a_label_that_is_no_class_of_the_model_costs_its_image_alone(tmp_path, label):
    items = [{"image": zoo.scene(i).image, "label": 3, "id": str(i)} for i in range(2)]
    items[0]["label"] = label
    data = {"name": "items", "options": {"items": items}}
    results = benchmark(configured(tmp_path, data=data, controls=False))
    assert {row["image"] for row in results.rows.to_pylist()} == {"1"}
    (failure,) = results.failures
    assert failure.image == "0"
    assert failure.error == f"The label must be between 0 and 7, got {label}."
    predicted = benchmark(configured(tmp_path / "predicted", data=data, controls=False, target="predicted"))
    assert not predicted.failures


def test_an_unreadable_image_is_told_and_left_out(tmp_path):
    for i in range(3):
        Image.fromarray(zoo.scene(i).image).save(tmp_path / f"{i}.png")
    (tmp_path / "1.png").write_bytes(b"no image")
    items = [{"image": str(tmp_path / f"{i}.png"), "id": f"scene {i}"} for i in range(3)]
    (tmp_path / "3.png").write_bytes(b"nor this, alone in its shard")
    items += [{"image": zoo.scene(3).image, "id": "scene 3"}, {"image": str(tmp_path / "3.png"), "id": "alone"}]
    data = {"name": "items", "options": {"items": items}}
    for _ in range(2):  # the second time from what is stored
        results = benchmark(configured(tmp_path / "out", data=data))
        assert {row["image"] for row in results.rows.to_pylist()} == {"scene 0", "scene 2", "scene 3"}
        assert [failure.image for failure in results.failures] == ["scene 1", "alone"]
        assert "1.png' cannot be read as an image" in results.failures[0].error


class NotFinite(nn.Module):
    """NaN for a scene, unless that is alone."""

    def __init__(self, scene):
        super().__init__()
        self.model, preprocessing = load_model("zoo:cnn")
        self.bad = preprocessing(Image.fromarray(zoo.scene(scene).image))

    def forward(self, x):
        bad = (x[:, :, :4, :4] == self.bad[:, :4, :4]).flatten(1).all(1)
        return torch.where(bad[:, None], torch.nan, self.model(x))


def test_an_image_whose_scores_are_not_finite_is_told_and_left_out(tmp_path, undisturbed, monkeypatch):
    model = LoadedModel(NotFinite(1).eval(), load_model("zoo:cnn").preprocessing)
    monkeypatch.setattr(choices, "load_model", lambda *a, **k: model)
    results = benchmark(configured(tmp_path, methods=["saliency"], oracle=False))
    assert [(failure.image, failure.error) for failure in results.failures] == [
        ("scene 1", "The model's scores are not finite.")
    ]
    found = only(results.rows, method="saliency", metric="pointing_game", inverted=False)
    expected = only(undisturbed.rows, method="saliency", metric="pointing_game", inverted=False)
    assert [row["value"] for row in found] == [row["value"] for row in expected if row["image"] != "scene 1"]


def test_a_method_that_raises_costs_no_other_its_rows(tmp_path, undisturbed, monkeypatch):
    call = Saliency.__call__

    def raising(self, model, x, target):
        if len(x) == 1 and (tmp_path / "rows").exists() and target.index[0] == zoo.scene(2).label:
            raise RuntimeError("raised on purpose")
        return call(self, model, x, target)

    monkeypatch.setattr(Saliency, "__call__", raising)
    results = benchmark(configured(tmp_path))
    (failure,) = results.failures
    assert (failure.method, failure.shard) == ("saliency", 1)
    assert re.fullmatch(r"RuntimeError: raised on purpose \(.*test_benchmark.py, line \d+\)", failure.error)
    expected = [row for row in undisturbed.rows.to_pylist() if (row["method"], row["image"]) != ("saliency", "scene 2")]
    assert certain(results.rows) == certain(pa.Table.from_pylist(expected, SCHEMA))
    monkeypatch.undo()
    again = benchmark(configured(tmp_path))
    assert not again.failures
    assert certain(again.rows) == certain(undisturbed.rows)


def test_a_metric_that_raises_costs_no_other_its_rows(tmp_path, undisturbed, monkeypatch):
    call = PointingGame.__call__

    def raising(self, attribution, truth):
        if attribution.method.name == "edges":
            raise RuntimeError("raised on purpose")
        return call(self, attribution, truth)

    monkeypatch.setattr(PointingGame, "__call__", raising)
    results = benchmark(configured(tmp_path))
    failed = {(each.method, each.metric, each.shard) for each in results.failures}
    assert failed == {("edges", "pointing_game", shard) for shard in range(2)}
    expected = [
        row for row in undisturbed.rows.to_pylist() if (row["method"], row["metric"]) != ("edges", "pointing_game")
    ]
    assert certain(results.rows) == certain(pa.Table.from_pylist(expected, SCHEMA))
    monkeypatch.undo()
    assert certain(benchmark(configured(tmp_path)).rows) == certain(undisturbed.rows)


@pytest.mark.slow
def test_a_metric_that_always_raises_costs_what_it_asks_itself(tmp_path, monkeypatch):
    """What the others found is kept, and what the model was asked for them is not asked anew."""
    counts, call = [], Worker._compute

    def counted(self, group, shard, left_out):
        before = self.explainer.model.image_count
        call(self, group, shard, left_out)
        counts.append(self.explainer.model.image_count - before)

    def raising(self, model, attributions):
        model.score(attributions[0].x, attributions[0].target)
        raise RuntimeError("raised on purpose")

    monkeypatch.setattr(Worker, "_compute", counted)
    monkeypatch.setattr(AverageDrop, "__call__", raising)
    few = {"steps": 2, "substrate": "zero"}
    metrics = [{"name": "deletion", "options": few}, {"name": "insertion", "options": few}, "pointing_game"]
    overrides = {"data": {"name": "scenes", "options": {"count": 2}}, "oracle": False, "methods": ["gradcam"]}
    expected = benchmark(configured(tmp_path / "without", **overrides, metrics=metrics))
    results = benchmark(configured(tmp_path / "with", **overrides, metrics=[metrics[0], "average_drop", *metrics[1:]]))
    assert certain(results.rows) == certain(expected.rows)
    methods = {each.method for each in results.failures}
    assert {each.metric for each in results.failures} == {"average_drop"}
    assert methods == {row["method"] for row in expected.rows.to_pylist()}
    assert counts[1] - counts[0] == 2 * (1 + len(methods))  # all maps at once, then each method's


def test_a_model_that_raises_costs_no_other_its_rows(tmp_path, monkeypatch):
    class Raising(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            raise RuntimeError("raised on purpose")

    broken = LoadedModel(Raising(), load_model("zoo:cnn").preprocessing)
    monkeypatch.setattr(choices, "load_model", lambda name, **k: broken if name == "zoo:vit" else load_model(name))
    results = benchmark(configured(tmp_path, models=["zoo:vit", "zoo:cnn"], methods=["gradcam"], oracle=False))
    assert {row["model"] for row in results.rows.to_pylist()} == {"zoo:cnn"}
    assert {each.model for each in results.failures} == {"zoo:vit"}
    assert len(results.failures) == 2 * 6
    alone = benchmark(configured(tmp_path / "alone", models=["zoo:vit"], methods=["gradcam"], oracle=False))
    with pytest.raises(InvalidInput, match="There are no rows to summarise"):
        write_summary(alone)


@pytest.mark.slow
def test_out_of_memory_on_a_large_batch_is_halved(tmp_path, undisturbed, monkeypatch):
    class Small(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = zoo.load_zoo_model("cnn")

        def forward(self, x):
            if len(x) > 2:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return self.model(x)

    model = LoadedModel(Small().eval(), load_model("zoo:cnn").preprocessing)
    monkeypatch.setattr(choices, "load_model", lambda *a, **k: model)
    results = benchmark(configured(tmp_path, shard_size=3))
    assert not results.failures
    found, expected = (
        np.array([row["value"] for row in each.rows.sort_by([("method", "ascending"), ("metric", "ascending"),
        ("inverted", "ascending"), ("image", "ascending")]).to_pylist()]) for each in (results, undisturbed)
    )  # fmt: skip
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_shards_and_batches_change_no_number(tmp_path, undisturbed):
    """Except for the pointing game of Grad-CAM: rounding decides among the equal maxima of an enlarged cell."""
    rows = benchmark(configured(tmp_path, shard_size=3, batch_size=1)).rows
    found, expected = (
        {
            tuple(row[name] for name in ("method", "metric", "inverted", "image")): row["value"]
            for row in each.to_pylist()
            if (row["method"], row["metric"]) != ("gradcam", "pointing_game")
        }
        for each in (rows, undisturbed.rows)
    )
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-6, nan_ok=True)


def test_the_caller_keeps_its_random_numbers(tmp_path):
    before = torch.get_rng_state(), repr(np.random.get_state())  # noqa: NPY002
    benchmark(configured(tmp_path, methods=["gradcam"], controls=False, oracle=False))
    assert torch.equal(before[0], torch.get_rng_state())
    assert repr(np.random.get_state()) == before[1]  # noqa: NPY002


def test_a_model_with_other_colours_is_another(tmp_path):
    changes = {"methods": ["edges"], "oracle": False, "controls": False}
    for name, colours in (("same", {"mean": [0.5, 0.5, 0.5]}), ("other", {"mean": [0.4, 0.4, 0.4], "std": [1, 1, 1]})):
        record = json.loads(
            configured(tmp_path / name, models=[{"name": "zoo:cnn", **colours}], **changes).model_dump_json()
        )
        benchmark(Configuration.model_validate(record))
    maps = [json.loads((tmp_path / name / "run.json").read_text())["identity"]["models"] for name in ("same", "other")]
    assert "mean=(0.5, 0.5, 0.5)" in maps[0]["zoo:cnn"]
    assert "mean=(0.4, 0.4, 0.4), std=(1.0, 1.0, 1.0)" in maps[1]["zoo:cnn"]


def test_a_model_of_clips_is_refused(tmp_path):
    with pytest.raises(InvalidInput, match="expects video clips, but benchmarks require an image model"):
        benchmark(configured(tmp_path, models=["torchvision:r3d_18"]))


def test_names_of_units_are_no_paths(tmp_path):
    label = "../a/b.c: 1/2"
    benchmark(configured(tmp_path, methods=[{"name": "gradcam", "label": label}], oracle=False, controls=False))
    folders = {path.parent for path in tmp_path.rglob("*.parquet")}
    assert [folder.parent.parent for folder in folders] == [tmp_path / "rows"]


def test_long_names_have_folders(tmp_path):
    labels = ["Градиенты, сложенные по пути от чёрного изображения, шагов: " * 3 + end for end in "12"]
    methods = [{"name": "gradcam", "label": label} for label in labels]
    results = benchmark(configured(tmp_path, methods=methods, oracle=False, controls=False))
    assert not results.failures
    assert {row["method"] for row in results.rows.to_pylist()} == set(labels)


def test_a_model_without_weights_is_the_same_each_time(tmp_path):
    overrides = {"models": [{"name": "timm:resnet10t", "arguments": {"num_classes": 10}}], "methods": ["gradcam"]}
    changes = {**overrides, "controls": False, "oracle": False, "data": {"name": "scenes", "options": {"count": 1}}}
    first = benchmark(configured(tmp_path, **changes))
    assert certain(benchmark(configured(tmp_path, **changes)).rows) == certain(first.rows)


def test_what_is_not_there_is_told_as_it_is(tmp_path):
    """No oracle is no lack of one, and data without masks have no localization."""
    overrides = {"methods": ["gradcam"], "oracle": False, "data": {"name": "items", "options": {"items": unmasked(7)}}}
    summary = write_summary(benchmark(configured(tmp_path, metrics=["pointing_game", "sparseness"], **overrides)))
    assert not any("occlusion" in note for note in summary.notes)
    captions = [table.caption for table in tables(summary)]
    assert sum("need masks or boxes" in str(caption) for caption in captions) == 1


def unmasked(count):
    return [{"image": zoo.scene(i).image, "label": zoo.scene(i).label, "id": str(i)} for i in range(count)]


@pytest.mark.slow
def test_chance_is_another_for_each_image_whatever_its_shard(tmp_path):
    overrides = {"methods": ["gradcam"], "metrics": ["pointing_game", "deletion"], "oracle": False, "save_maps": True}
    overrides["data"] = {"name": "scenes", "options": {"count": 3}}
    one, other = (benchmark(configured(tmp_path / str(size), shard_size=size, **overrides)) for size in (1, 3))
    maps = other.store.maps(WorkUnit("zoo:cnn", "random", 0))
    first, second, _ = maps.values()
    assert not torch.equal(first, second)
    for shard, (image, scores) in enumerate(maps.items()):
        assert torch.equal(one.store.maps(WorkUnit("zoo:cnn", "random", shard))[image], scores)
    assert {row["method_options"] for row in only(other.rows, method="random")} == {"PerImageNoise(seed=0)"}


# --- ray -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.xdist_group("ray")  # one after the other
@pytest.mark.filterwarnings("default")  # of Ray's own
def test_ray_gives_the_same_rows_also_when_a_worker_is_killed(tmp_path):
    pytest.importorskip("ray")
    flag = tmp_path / "killed"

    def fatal():
        """The picture, but once the end of the process that asks for it."""
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Image.fromarray(zoo.scene(3).image)

    items = [{"image": zoo.scene(i).image, "id": str(i)} for i in range(6)]
    expected = benchmark(configured(tmp_path / "serial", data={"name": "items", "options": {"items": items}}))
    items[3]["image"] = fatal
    changes = {"data": {"name": "items", "options": {"items": items}}, "executor": "ray", "ray": {"workers": 2}}
    results = benchmark(configured(tmp_path / "ray", **changes))
    assert flag.exists()
    assert not results.failures
    assert certain(results.rows) == certain(expected.rows)
    assert len(list((tmp_path / "ray").rglob("*.parquet"))) == 3 * 7


@pytest.mark.slow
@pytest.mark.xdist_group("ray")  # one after the other
@pytest.mark.filterwarnings("default")  # of Ray's own
def test_a_machine_that_is_lost_loses_no_unit_and_doubles_none(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_worker_niceness", "0")  # other tests beside it would starve the workers of a usual cluster

    changes = {"data": {"name": "scenes", "options": {"count": 12}}, "shard_size": 1}
    expected = benchmark(configured(tmp_path / "serial", **changes))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    machine, lost = cluster.add_node(num_cpus=1), threading.Event()

    def lose():
        wait_for(lambda: len(list((tmp_path / "ray").rglob("*.parquet"))) > 8)
        cluster.remove_node(machine, allow_graceful=False)
        lost.set()

    ray.init(address=cluster.address, log_to_driver=False)
    try:
        threading.Thread(target=lose, daemon=True).start()
        results = benchmark(configured(tmp_path / "ray", executor="ray", ray={"workers": 2}, **changes))
        wait_for(lambda: sum(node["Alive"] for node in ray.nodes()) == 1)  # which Ray sees later than its workers' end
        alive = sum(node["Alive"] for node in ray.nodes())
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert lost.is_set()
    assert alive == 1
    assert not results.failures
    assert certain(results.rows) == certain(expected.rows)


def wait_for(happened, seconds=300):
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.02)


def test_ray_that_is_not_installed_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(AttribkitError, match=r"pip install 'attribkit\[ray\]'"):
        benchmark(configured(tmp_path, executor="ray"))


# --- command line ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_example_is_small_and_runs(tmp_path):
    path = tmp_path / "run.toml"
    result = CliRunner().invoke(app, ["benchmark", "--example"])
    assert result.output == example()
    path.write_text(result.output)
    assert read_configuration(path).data.options["count"] <= 32
    path.write_text(result.output.replace("count = 16", "count = 2"))
    result = CliRunner().invoke(app, ["benchmark", str(path), "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    for heading in ("zoo:cnn: faithfulness", "zoo:cnn: localization", "zoo:cnn: mean ranks", "rank methods alike?"):
        assert heading in result.output
    assert "left out" not in result.output


def test_packages_that_are_not_installed_are_told(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AttribkitError, match=r"need filelock, pyarrow, pydantic: pip install 'attribkit\[bench\]'"):
        importlib.reload(sys.modules["attribkit.benchmark"])


def test_command_line(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(as_toml(configured(tmp_path / "out", methods=["gradcam"], oracle=False)))
    result = CliRunner().invoke(app, ["benchmark", str(path), "--output", str(tmp_path / "other")])
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out").exists()
    assert len(list((tmp_path / "other").rglob("*.parquet"))) == 2 * 6
    assert "zoo:cnn: localization" in result.output
    with (tmp_path / "other" / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (6 + 1) * 2 * 3
    assert {row["method"] for row in rows} == {"gradcam", *CONTROLS, TRUTH}
    assert Summary.load(tmp_path / "other" / "summary.json").scores
    assert "\\toprule" in (tmp_path / "other" / "tables" / "tables.tex").read_text()
    assert CliRunner().invoke(app, ["benchmark"]).exit_code == 2
    path.write_text("nonsense")
    result = CliRunner().invoke(app, ["benchmark", str(path)])
    assert result.exit_code == 2
    assert "run.toml is not valid TOML: " in result.output
