"""The JSON manifest of `attribkit explain --json`."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

from attribkit import __version__, zoo
from attribkit.cli import app

pytestmark = pytest.mark.filterwarnings("default")  # commands show warnings as sentences
PAGE = (Path(__file__).parents[2] / "docs" / "command_line.md").read_text()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "scene.png"
    Image.fromarray(zoo.scene(3).image).save(path)
    return path


def explain(*arguments, code=0):
    result = CliRunner().invoke(app, ["explain", *map(str, arguments), "--json"])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return json.loads(result.stdout)


def test_a_result_for_each_class_and_method(photo, tmp_path):
    path = tmp_path / "out.npz"
    record = explain(photo, "--method", "gradcam", "--method", "saliency", "--top", 2, "-o", path)
    assert record["schema"] == 1
    assert record["versions"]["attribkit"] == __version__
    assert record["model"]["class"] == "ResNet"
    assert record["files"] == [str(path)]
    assert path.exists()
    assert record["failures"] == []
    gradcam, saliency, second, _ = record["results"]
    assert (gradcam["class"], gradcam["index"]) == (zoo.SHAPES[zoo.scene(3).label], zoo.scene(3).label)
    assert gradcam["probability"] > second["probability"]
    assert gradcam["layers"] == ["layer4"]
    assert gradcam["layer_reason"].startswith("the last spatial map")
    assert (saliency["layers"], saliency["layer_reason"]) == ([], None)
    assert gradcam["scores"]["shape"] == [1, 8, 8]
    assert gradcam["scores"]["minimum"] >= 0 < gradcam["scores"]["maximum"]
    assert {each["method"] for each in record["methods"]} == {gradcam["method"], saliency["method"]}


def test_options_and_a_layer_that_the_user_gives(photo, tmp_path):
    options = ("--option", "layer=layer3", "--option", "relu=False")
    record = explain(photo, *options, "--target", "star", "-o", tmp_path / "out.png")
    (result,), (method,) = record["results"], record["methods"]
    assert method["options"] == {"layer": "layer3", "relu": False}
    assert (result["layers"], result["layer_reason"]) == (["layer3"], "given by the option layer")
    assert result["class"] == "star"


def test_failures_are_listed_and_the_exit_code_is_1(photo, tmp_path):
    record = explain(photo, "--method", "attention", "--method", "gradcam", "-o", tmp_path / "out.png", code=1)
    (failure,), (result,) = record["failures"], record["results"]
    assert failure["method"].startswith("Attention(")
    assert "No attention between image tokens" in failure["error"]
    assert result["title"] == "Grad-CAM"


def test_every_field_is_documented(photo, tmp_path):
    record = explain(photo, "--method", "attention", "--method", "gradcam", "-o", tmp_path / "out.png", code=1)
    top, result = PAGE.split("| field | content |")[1].split("| field of a result | content |")
    rows = [set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| ([^|]+) \|", each, re.M)))) for each in (top, result)]
    assert rows == [set(record), set(record["results"][0])]
    for field in ("model", "failures", "methods"):
        described = re.search(rf"^\| `{field}` \| (.+) \|$", top, re.MULTILINE)[1]
        fields = record[field] if field == "model" else record[field][0]
        assert all(f"`{name}`" in described for name in fields)
    assert all(f"`{name}`" in result for name in record["results"][0]["scores"])
