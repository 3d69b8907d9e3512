"""Reports: what they contain, that nothing in them is interpreted as HTML, and errors in one sentence."""

import base64
import importlib
import importlib.util
import io
import json
import re
import shutil
import zlib
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import attribkit.report
from attribkit import AttribkitError, Attribution, ClassLogit, Explainer, InvalidInput, UnreadableFile, zoo
from attribkit._contracts.attribution import resize_map
from attribkit.benchmark import Configuration, benchmark, write_summary
from attribkit.cli import app
from attribkit.methods._gradcam import GradCAM
from attribkit.registry import _discovery as discovery
from attribkit.report import write_report
from attribkit.report._content import ExplainedPicture, explained_pictures, maps_content
from attribkit.report._page import json_block, render_page
from attribkit.report._pictures import PictureOptions, encode_map
from attribkit.testing import tiny_cnn, tiny_transformer
from attribkit.testing._examples import images

HOSTILE = '<script>alert(1)</script>"><img src=x onerror=alert(1)> $x_$'
HIRESCAM = {"name": "hirescam", "label": "_\u2603$"}  # a label that matplotlib omits, and a glyph that it lacks
METRICS = ["pointing_game", {"name": "deletion", "options": {"steps": 4}}, "class_randomisation"]


def configured(folder, **changes):
    """Three scenes, a method with a hostile label, and a method that fails on the model."""
    settings = {
        "name": "three scenes",
        "output": str(folder),
        "data": {"name": "scenes", "options": {"count": 3}},
        "models": ["zoo:cnn"],
        "methods": ["gradcam", HIRESCAM, {"name": "saliency", "label": HOSTILE}, "attention_rollout"],
        "metrics": METRICS,
        "oracle": False,
        "shard_size": 2,
        "threads": 1,
        "save_maps": True,
        "save_details": True,
    }
    return Configuration.model_validate(settings | changes)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    results = benchmark(configured(folder))
    write_summary(results)
    return results


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(run.store.folder, path)
    return path


class Elements(HTMLParser):
    """The elements of a page, and the text of its scripts by their ids."""

    def __init__(self, text):
        super().__init__()
        self.found, self.blocks, self.script = [], {}, None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.script = dict(attributes).get("id", "") if tag == "script" else None

    def handle_data(self, data):
        if self.script is not None:
            self.blocks[self.script] = self.blocks.get(self.script, "") + data

    def handle_endtag(self, tag):
        self.script = None


def elements(path):
    return Elements(path.read_text(encoding="utf-8"))


def image_record(path, number):
    return json.loads(elements(path).blocks[f"image-{number}"])


def decoded(record):
    """The values of a record, as the page computes them."""
    codes = np.frombuffer(zlib.decompress(base64.b64decode(record["data"])), np.uint8)
    codes = codes.reshape(record["rows"], record["columns"])
    codes = np.cumsum(codes, axis=1, dtype=np.uint8) if record["differences"] else codes
    return (codes.view(np.int8) if record["signed"] else codes) * record["scale"]


# --- maps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("smooth", [False, True], ids=["noise", "smooth"])
def test_maps_keep_their_values_and_resolution(signed, smooth):
    scores = torch.linspace(0, 1, 63).view(7, 9) if smooth else torch.rand(7, 9)
    scores = scores - 0.4 * signed
    record = encode_map(scores, (70, 90), 96)
    assert record["signed"] == signed
    assert np.abs(decoded(record) - scores.numpy()).max() <= record["scale"] / 2 + 1e-7
    assert record["scale"] < 0.006
    json.dumps(record, allow_nan=False)


def test_fine_maps_are_averaged():
    scores = torch.rand(60, 120)
    values = decoded(encode_map(scores, (60, 120), 40))
    assert values.shape == (20, 40)
    np.testing.assert_allclose(values, scores.view(20, 3, 40, 3).mean((1, 3)).numpy(), atol=0.004)


def test_an_outlier_does_not_coarsen_the_other_values():
    scores = torch.rand(100, 100)
    scores[3, 4] = 1e4
    record = encode_map(scores, (100, 100), 100)
    assert record["most"] == 1e4
    others = torch.ones(100, 100, dtype=torch.bool)
    others[3, 4] = False
    assert np.abs(decoded(record) - scores.numpy())[others.numpy()].max() < 0.01


@pytest.mark.parametrize("value", [0.0, 1.0, -2.5, 1e-30, 1e30])
def test_constant_maps(value):
    record = encode_map(torch.full((3, 3), value), (6, 6), 96)
    np.testing.assert_allclose(decoded(record), value, rtol=1e-6)


def test_full_strength_is_that_of_figures():
    scores = torch.rand(8, 8)
    heatmap = resize_map(scores[None, None].double(), (64, 64))[0, 0].numpy()
    assert encode_map(scores, (64, 64), 96)["shown"] == pytest.approx(np.percentile(heatmap, 99.5))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_map_that_is_not_finite_is_left_out_with_the_reason(value):
    attribution = example_attribution()
    attribution.scores[1, 0, 0, 0] = value
    content = maps_content(explained_pictures({"a": attribution}), "", PictureOptions())
    first, second = (each.views[0] for each in content.images)
    assert list(first.maps) == ["Grad-CAM"]
    assert (dict(second.maps), second.problems) == ({}, {"Grad-CAM": "The map has NaN or infinite values."})


# --- reports about a benchmark ---------------------------------------------------------------------------------------


def test_a_run_has_its_sections_and_loads_nothing(page):
    text, found = page.read_text(encoding="utf-8"), elements(page).found
    headings = re.findall(r"<h2[^>]*>([^<]*)</h2>", text)
    assert headings == [
        "Images", "Scores", "Mean ranks", "Curves", "Agreement of the metrics", "Cost", "Sanity checks", "Failures",
        "Configuration and versions",
    ]  # fmt: skip
    for tag, attributes in found:
        assert tag not in {"iframe", "object", "embed", "base", "form"}
        for name in ("src", "href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert not [attributes for _, attributes in found if any(name.startswith(("on", "style")) for name in attributes)]
    policy = next(attributes["content"] for tag, attributes in found if attributes.get("http-equiv"))
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_names_are_text(page):
    found = elements(page).found
    assert [tag for tag, attributes in found if attributes.get("src") == "x"] == []
    executed = [attributes for tag, attributes in found if tag == "script" and "type" not in attributes]
    assert executed == [{}]
    assert HOSTILE in json.loads(elements(page).blocks["index"])["methods"]


def test_images_have_the_maps_scores_boxes_and_classes_of_the_run(run, page):
    for number in range(3):
        record = image_record(page, number)
        (view,) = record["views"]
        scene = zoo.scene(number)
        assert record["name"] == f"scene {number}"
        assert view["target"] == zoo.SHAPES[scene.label]
        assert record["pictures"][view["picture"]].startswith("data:image/webp;base64,")
        assert np.shape(view["boxes"])[1] == 4
        assert 0 <= np.min(view["boxes"]) < np.max(view["boxes"]) <= 1
        for unit in (each for each in run.plan.units() if each.shard == number // 2 and each.method in view["maps"]):
            scores = run.store.maps(unit)[record["name"]].sum(0)
            stored = view["maps"][unit.method]
            if max(scores.shape) <= 90:
                error = np.abs(decoded(stored) - scores.clamp(max=3 * stored["shown"]).numpy()).max()
                assert error <= 0.51 * stored["scale"] + 1e-7
        columns = [each.split(" ")[0] for each in json.loads(elements(page).blocks["index"])["columns"]]
        for row in run.rows.filter(run.rows["image"].combine_chunks().to_numpy(False) == record["name"]).to_pylist():
            if not row["inverted"] and np.isfinite(row["value"]):
                assert view["scores"][row["method"]][columns.index(row["metric"])] == row["value"]


def test_a_method_that_failed_gives_the_reason(page):
    (view,) = image_record(page, 0)["views"]
    assert "attention_rollout" not in view["maps"]
    assert "No attention between image tokens" in view["problems"]["attention_rollout"]
    failures = page.read_text(encoding="utf-8").split('id="failures"')[1].split("</section>")[0]
    assert failures.count("<li>") == 2  # one for each shard
    assert "attention_rollout" in failures


def test_the_same_run_gives_the_same_bytes(run, page, tmp_path):
    write_report(run.store.folder, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()


def test_at_most_the_requested_images_are_shown(run, tmp_path):
    write_report(run.store.folder, tmp_path / "one.html", max_images=1, title="A <title>", picture_size=32, map_size=4)
    text = (tmp_path / "one.html").read_text(encoding="utf-8")
    assert "1 of the 3 images are shown." in text
    assert "<title>A &lt;title&gt;</title>" in text
    assert set(elements(tmp_path / "one.html").blocks) == {"", "index", "image-0"}
    record = image_record(tmp_path / "one.html", 0)
    assert {(each["rows"], each["columns"]) for each in record["views"][0]["maps"].values()} == {(4, 4)}
    content = base64.b64decode(record["pictures"][0].partition(",")[2])
    assert max(Image.open(io.BytesIO(content)).size) == 32


def test_a_run_without_maps_and_details_says_how_to_save_them(tmp_path):
    write_summary(benchmark(configured(tmp_path, save_maps=False, save_details=False, methods=["gradcam"])))
    write_report(tmp_path, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The run did not save maps. Set save_maps = true" in text
    assert "The rows do not contain curves. Set save_details = true" in text
    assert "No model, method, metric or image failed." in text
    assert 'id="explorer"' not in text


def copied(run, folder, change):
    """A copy of the run with another record."""
    shutil.copytree(run.store.folder, folder)
    record = json.loads((folder / "run.json").read_text())
    change(record)
    (folder / "run.json").write_text(json.dumps(record))
    return folder


def test_photographs_of_other_data_are_not_shown(run, tmp_path):
    def change(record):
        record["configuration"]["data"]["options"]["count"] = 4

    folder = copied(run, tmp_path / "run", change)
    write_report(folder, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The photographs are not shown: the data set has changed since the run" in text
    record = image_record(tmp_path / "report.html", 0)
    assert record["pictures"] == []
    assert record["views"][0]["maps"]


def test_a_model_that_cannot_be_loaded_costs_the_photographs_alone(run, tmp_path):
    def change(record):
        record["configuration"]["models"][0] = {"name": "missing.py:build", "label": "zoo:cnn"}

    folder = copied(run, tmp_path / "run", change)
    write_report(folder, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "The photographs of zoo:cnn are not shown: " in text
    assert image_record(tmp_path / "report.html", 0)["views"][0]["maps"]


def test_without_photographs_no_file_of_the_configuration_runs(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plugin.py").write_text("open('ran', 'w').close()\n")

    def change(record):
        record["configuration"]["plugins"] = ["plugin.py"]

    folder = copied(run, tmp_path / "run", change)
    write_report(folder, "report.html", photographs=False)
    assert not (tmp_path / "ran").exists()
    record = image_record(tmp_path / "report.html", 0)
    assert record["pictures"] == []
    assert record["views"][0]["target"] == f"class {zoo.scene(0).label}"
    write_report(folder, "report.html")
    assert (tmp_path / "ran").exists()  # with photographs, the file runs
    discovery.load_plugins.cache_clear()


def test_maps_without_photographs():
    content = maps_content(explained_pictures({"a": example_attribution()}), "", PictureOptions(photographs=False))
    assert [each.views[0].picture for each in content.images] == [None, None]


# --- reports about maps ----------------------------------------------------------------------------------------------


def example_attribution(method="Grad-CAM", seed=0):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(2, 1, 4, 4, generator=generator)
    return Attribution(scores, images()[:2], ClassLogit((1, 2)), GradCAM())


def test_files_of_the_same_images_are_shown_together(tmp_path, cnn):
    explainer = Explainer(cnn)
    for method in ("gradcam", "saliency"):
        explainer.attribute(images()[:2], method, target=1).save(tmp_path / f"{method}.safetensors")
    write_report(sorted(tmp_path.glob("*.safetensors")), tmp_path / "maps.html")
    for number in range(2):
        record = image_record(tmp_path / "maps.html", number)
        assert record["name"] == f"image {number + 1}"
        (view,) = record["views"]
        assert view["target"] == "class 1"
        assert sorted(view["maps"]) == ["Grad-CAM", "Saliency"]


def test_no_map_replaces_another():
    same = {"one": example_attribution(seed=0), "two": example_attribution(seed=1)}
    content = maps_content(explained_pictures(same), "", PictureOptions())
    (view,) = content.images[0].views
    assert list(view.maps) == ["Grad-CAM", "Grad-CAM (two)"]
    assert view.maps["Grad-CAM"]["data"] != view.maps["Grad-CAM (two)"]["data"]


def test_classes_of_an_image_are_views_of_it():
    one, other = example_attribution(), example_attribution()
    other = Attribution(other.scores, other.x, ClassLogit((1, 4)), other.method)
    content = maps_content(explained_pictures({"one": one, "two": other}), "", PictureOptions())
    assert [[view.target for view in each.views] for each in content.images] == [["class 1"], ["class 2", "class 4"]]


def test_clips_are_shown_frame_by_frame():
    clip = Attribution(torch.rand(1, 1, 2, 4, 4), torch.rand(1, 3, 4, 16, 16), ClassLogit((0,)), GradCAM())
    content = maps_content(explained_pictures({"a": clip}), "", PictureOptions())
    assert [each.name for each in content.images] == [f"image 1, section {frame}" for frame in range(4)]
    heatmap = clip.heatmap()[0]
    for frame, each in enumerate(content.images):
        record = each.views[0].maps["Grad-CAM"]
        np.testing.assert_allclose(decoded(record), heatmap[frame].numpy(), atol=0.51 * record["scale"])


def test_all_names_are_escaped():
    (picture,) = list(explained_pictures({"a": example_attribution()[0]}))
    hostile = ExplainedPicture(HOSTILE, HOSTILE, HOSTILE, picture.picture, {HOSTILE: picture.results["Grad-CAM"]})
    page = Elements(render_page(maps_content([hostile], HOSTILE, PictureOptions())))
    assert [attributes.get("src") for tag, attributes in page.found if tag == "img"] == []
    assert len([tag for tag, _ in page.found if tag == "script"]) == 3  # the index, an image, the program
    record = json.loads(page.blocks["image-0"])
    assert (record["name"], record["views"][0]["target"], list(record["views"][0]["maps"])) == (HOSTILE,) * 2 + (
        [HOSTILE],
    )


@pytest.mark.parametrize("text", ["</script>", "<!--", "&lt;", "\u2028", "é", "\udcff"])
def test_json_cannot_end_its_element(text):
    block = json_block({text: [text]})
    assert not set("<>&\u2028") & set(block)
    assert json.loads(block) == {text: [text]}


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ([], {}, "source is empty: pass the output folder of a benchmark"),
        (["."], {"picture_size": 0}, "picture_size must be a positive integer, got 0"),
        (["."], {"map_size": True}, "map_size must be a positive integer, got True"),
        (["."], {"max_images": 1.5}, "max_images must be a positive integer, got 1.5"),
        ([".", "a.safetensors"], {}, "A report is about one run or about maps"),
        (["."], {"path": "a.safetensors"}, "'a.safetensors' does not end in .html"),
    ],
)
def test_arguments_are_checked(tmp_path, monkeypatch, source, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=re.escape(message)):
        write_report(source, **{"path": "report.html", **options})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_a_run_is_refused(tmp_path, run):
    with pytest.raises(UnreadableFile, match="is not the output folder of a finished benchmark"):
        write_report(tmp_path, tmp_path / "report.html")
    shutil.copytree(run.store.folder, tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    with pytest.raises(UnreadableFile, match="is not the output folder of a finished benchmark"):
        write_report(tmp_path / "run", tmp_path / "report.html")


def test_a_path_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(UnreadableFile, match="cannot be written"):
        write_report(example_attribution(), tmp_path / "missing" / "report.html")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AttribkitError, match=re.escape("Reports need jinja2: pip install 'attribkit[report]'.")):
        importlib.reload(attribkit.report)


# --- command line ----------------------------------------------------------------------------------------------------


def command(*arguments, code=0):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result.output


def test_the_command_writes_the_same_report(run, page, tmp_path):
    output = command("report", run.store.folder, "-o", tmp_path / "run.html")
    assert f"written: {tmp_path / 'run.html'}" in output
    assert (tmp_path / "run.html").read_bytes() == page.read_bytes()


def test_the_command_names_a_file_that_it_cannot_read(tmp_path):
    assert "missing.safetensors" in command("report", tmp_path / "missing.safetensors", code=2)


@pytest.mark.filterwarnings("default")
def test_explain_writes_a_report(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(zoo.scene(3).image).save(tmp_path / name / "scene.png")
    Image.fromarray(zoo.scene(4).image).save(tmp_path / "other.png")
    photographs = [tmp_path / "a" / "scene.png", tmp_path / "b" / "scene.png", tmp_path / "other.png"]
    methods = ("--method", "gradcam", "--method", "attention_rollout")
    output = command("explain", *photographs, *methods, "--top", 2, "-o", tmp_path / "report.html", code=1)
    assert "No attention between image tokens" in output
    records = [image_record(tmp_path / "report.html", number) for number in range(3)]
    assert [each["name"] for each in records] == [str(each) for each in photographs[:2]] + ["other.png"]
    for record in records:
        assert len(record["pictures"]) == 1
        assert len({view["target"] for view in record["views"]}) == len(record["views"]) == 2
        assert all("predicted probability" in view["facts"] for view in record["views"])
        assert all(list(view["maps"]) == ["Grad-CAM"] for view in record["views"])
        assert all("No attention" in view["problems"]["Attention rollout"] for view in record["views"])


def test_a_small_negative_value_between_positive_ones_keeps_its_sign():
    scores = torch.ones(7, 7)
    scores[3, 3] = -0.01
    record = encode_map(scores, (224, 224), 90)
    assert record["signed"]
    assert record["least"] == pytest.approx(-0.01)


def test_maps_of_two_models_are_views_of_one_image():
    x = torch.rand(1, 3, 16, 16)
    maps = [Explainer(model).attribute(x, "saliency", target=1) for model in (tiny_cnn(), tiny_transformer())]
    maps[1] = replace(maps[1], x=x.clone().requires_grad_())
    (image,) = maps_content(explained_pictures(dict(zip("ab", maps, strict=True))), "title", PictureOptions()).images
    assert [view.model for view in image.views] == [each.model for each in maps]
    (image,) = maps_content(explained_pictures(dict.fromkeys("abc", maps[0])), "title", PictureOptions()).images
    assert len(image.views[0].maps) == 3
