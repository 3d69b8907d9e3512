"""The command line: what it writes, and one sentence with exit code 2 for bad input."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from attribkit import registry, zoo
from attribkit.cli import app

pytestmark = pytest.mark.filterwarnings("default")  # commands show warnings as sentences


def run(*arguments, code=0):
    result = CliRunner().invoke(app, [str(each) for each in arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def arrays_of(path):
    with np.load(path) as file:
        return dict(file)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "scene.png"
    Image.fromarray(zoo.scene(3).image).save(path)
    return path


@pytest.mark.slow
def test_demo(tmp_path):
    output = run("demo", "--scenes", 3, "--output", tmp_path).output
    for name in ("cnn", "vit", "gradcam", "saliency", "relevance_mass ↑", "pointing_game ↑", "forwards", "seconds"):
        assert name in output
    slow = ("scorecam", "integrated_gradients", "rise")
    assert f"left out, since each costs more than 75 forwards: {', '.join(slow)}; `attribkit demo --all`" in output
    assert {path.name for path in tmp_path.iterdir()} == {f"demo_{number}.png" for number in range(1, 6)}
    for path in tmp_path.iterdir():
        width, height = Image.open(path).size
        assert 600 < width < 2400
        assert 700 < height < 2400


def test_the_demo_draws_at_most_eight_methods_in_a_figure():
    from dataclasses import replace

    from attribkit.cli import _demo_scenes as demo_scenes

    stages = [demo_scenes.stage("cnn", 3, 0, "cpu")]
    (row,) = demo_scenes.rows(stages, ["gradcam"])
    figures = demo_scenes.demo_figures(stages, [row, *(replace(row, method=f"mine {i}") for i in range(9))])
    assert [each.get_label() for each in figures] == ["Class activation maps", "Other methods", "Other methods"]
    titles = [[ax.get_title().split("\n")[0] for ax in each.axes if "\n" in ax.get_title()] for each in figures]
    assert titles == [["Grad-CAM"], [f"mine {i}" for i in range(8)], ["mine 8"]]


def test_demo_shows_methods_and_metrics_that_land_later(tmp_path, monkeypatch):
    from dataclasses import dataclass

    from attribkit import Method

    @dataclass(frozen=True)
    class Later(Method):
        name = "later"
        source = "nobody"

        def __call__(self, model, x, target):
            return -model.gradient(x, target)

    @dataclass(frozen=True)
    class Refusing(Method):
        name = "refusing"
        source = "nobody"

        def __call__(self, model, x, target):
            raise ValueError("not on this model")

    methods, offered = registry.methods(), registry.classes
    monkeypatch.setattr(
        registry, "methods", lambda: {"gradcam": methods["gradcam"], "later": Later, "refusing": Refusing}
    )
    monkeypatch.setattr(registry, "classes", lambda kind: registry.methods() if kind is Method else offered(kind))
    output = run("demo", "--scenes", 3, "--output", tmp_path).output
    assert "later" in output
    assert "pointing_game ↑" in output
    assert "ValueError: not on this model" in output
    assert "left out" not in output


def test_methods_as_json():
    rows = json.loads(run("methods", "--json").output)
    by_name = {row["name"]: row for row in rows}
    assert {"name": "saliency", "options": {}, "plugin": "attribkit"}.items() <= by_name["saliency"].items()
    assert by_name["gradcam"]["options"] == {"layer": "None", "relu": "True"}
    assert all(set(row) == {"name", "options", "source", "plugin"} for row in rows)


def test_metrics_as_json_and_as_a_table():
    rows = {row["name"]: row for row in json.loads(run("metrics", "--json").output)}
    assert rows.keys() == registry.metrics().keys()
    assert rows["deletion"]["better"] == "lower"
    assert "rise" in rows["deletion"]["presets"]
    assert "pointing_game" in run("metrics").output


def test_methods_and_plugins_as_tables():
    assert "Selvaraju" in run("methods").output
    assert "gradcam, gradcam++" in run("plugins").output


def test_layers():
    output = run("layers", "zoo:vit").output
    assert "blocks.2.norm1" in output
    assert "chosen: the last normalisation" in output
    assert "8x8" in output


@pytest.mark.parametrize("ending", ["png", "pdf", "svg", "npz"])
def test_explain(photo, tmp_path, ending):
    path = tmp_path / "new folder" / f"out.{ending}"
    output = run(
        "explain", photo, "--model", "zoo:cnn", "--method", "gradcam", "--method", "saliency", "--top", 2, "-o", path
    ).output
    assert zoo.SHAPES[zoo.scene(3).label] in output
    assert "layer4" in output
    assert path.stat().st_size > 2000
    if ending == "npz":
        arrays = arrays_of(path)
        assert arrays["heatmap_gradcam"].shape == arrays["heatmap_saliency"].shape == (2, 128, 128)
        assert arrays["scores_gradcam"].shape == (2, 1, 8, 8)
        assert arrays["target"][0] == zoo.scene(3).label
        assert arrays["probability"][0] > arrays["probability"][1]
        assert str(arrays["method_gradcam"]) == "GradCAM(layer=None, relu=True)"


@pytest.mark.parametrize("target", ["star", str(zoo.SHAPES.index("star"))])
def test_explain_a_target(photo, tmp_path, target):
    run("explain", photo, "--model", "zoo:cnn", "--target", target, "-o", tmp_path / "out.npz")
    assert arrays_of(tmp_path / "out.npz")["label"].tolist() == ["star"]


def test_explain_more_images_than_a_batch(tmp_path):
    for i in range(10):
        Image.fromarray(zoo.scene(i).image).save(tmp_path / f"{i}.png")
    run("explain", *sorted(tmp_path.glob("*.png")), "--model", "zoo:cnn", "-o", tmp_path / "out.npz")
    arrays = arrays_of(tmp_path / "out.npz")
    assert [path.rsplit("/")[-1] for path in arrays["image"]] == [f"{i}.png" for i in range(10)]
    right = [int(arrays["target"][i]) == zoo.scene(i).label for i in range(10)]
    assert np.mean(right) >= 0.9


def test_random_weights_are_said(photo, tmp_path):
    result = run("explain", photo, "--model", "timm:resnet10t", "-o", tmp_path / "out.npz")
    assert "timm:resnet10t has random weights" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--method", "grad_cam"], "Did you mean 'gradcam'?"),
        (["--model", "zoo:rnn"], "No zoo model is named 'rnn'"),
        (
            ["--model", "timm:resnet10t", "--model-arg", "depth"],
            "--model-arg must be of the form KEY=VALUE, got 'depth'",
        ),
        (["--model", "timm:resnet10t", "--model-arg", "depht=3"], "cannot be created with these arguments"),
        (["--target", "8"], "The class index 8 is out of range: the model has 8 classes, 0 to 7."),
        (["--target", "stars"], "Did you mean 'star'?"),
        (["--top", "9"], "top must be from 1 to the number of classes, 8, got 9"),
        (["--device", "warp"], "device='warp' cannot be used"),
        (["--mean", "a,b"], "--mean must be a list of numbers like 0.5,0.5,0.5, got 'a,b'"),
        (["--weights", "nowhere.safetensors"], "Weights file 'nowhere.safetensors' does not exist"),
        (["-o", "out.docx"], "does not have a supported file extension"),
        (["-o", "ending"], "does not have a supported file extension"),
        (["-o", "/proc/nowhere/out.png"], "cannot be created"),
        (["--target", "star", "--top", "2"], "cannot be combined with --target: use one of them"),
        (["--target=--5"], "No label is named '--5'"),
        (["--mean", "0.5"], "must have a number for each"),
        (["--resize", "8"], "resize must be at least the crop size (128, 128), got 8"),
        (["--device", "meta"], "device='meta' cannot be used"),
        (
            ["--model", "timm:resnet10t", "--model-arg", "in_chans=1"],
            "in_chans must be 3, the channels of photographs, got 1",
        ),
        (["--model", "timm:resnet10t", "--model-arg", "pretrained=True"], "--model-arg does not accept pretrained"),
        (["no-such-image.png"], "Image 'no-such-image.png' does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(photo, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = run("explain", photo, *arguments, code=2)
    lines = [
        line for line in result.stderr.splitlines() if line.startswith("attribkit: ") and "random weights" not in line
    ]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in result.output


def test_a_truncated_image(photo, tmp_path):
    (tmp_path / "cut.png").write_bytes(photo.read_bytes()[:3000])
    assert "cannot be read as an image" in run("explain", tmp_path / "cut.png", code=2).stderr


def test_layers_of_an_unknown_model():
    assert "No timm model is named 'resnet1'" in run("layers", "timm:resnet1", code=2).stderr


def test_version_and_module():
    from attribkit import __version__

    assert run("--version").output.strip() == __version__
    done = subprocess.run([sys.executable, "-m", "attribkit", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == __version__


def test_options_of_methods():
    from attribkit.cli._options import methods_with_options

    names = ["gradcam", "smoothgrad", "rise"]
    gradcam, smoothgrad, rise = methods_with_options(names, ["seed=3", "smoothgrad.samples=4"])
    assert gradcam == "gradcam"
    assert (smoothgrad.seed, smoothgrad.samples, rise.seed) == (3, 4, 3)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("step=3", "No option of the methods is named 'step'"),
        ("lime.samples=3", "No explained method is named 'lime'. Known: gradcam, smoothgrad"),
        ("smoothgrad.sample=3", "No option of 'smoothgrad' is named 'sample'. Did you mean 'samples'?"),
        ("samples=0", "samples must be"),
        ("samples", "--option must be of the form KEY=VALUE, got 'samples'"),
    ],
)
def test_options_that_no_method_accepts(option, words):
    from attribkit import AttribkitError
    from attribkit.cli._options import methods_with_options

    with pytest.raises(AttribkitError) as caught:
        methods_with_options(["gradcam", "smoothgrad"], [option])
    assert words in str(caught.value)


def test_the_figure_has_the_width_and_states_the_scale_and_the_smoothing(photo, tmp_path):
    output = tmp_path / "map.png"
    arguments = ["explain", str(photo), "--method", "saliency", "--width", "cvpr", "--scale", "shared"]
    shown = CliRunner().invoke(app, [*arguments, "--smooth", "2", "-o", str(output)])
    assert shown.exit_code == 0, shown.output
    with Image.open(output) as picture:
        assert picture.width == round(3.25 * 300)
        assert (
            picture.info["Description"].replace("\n", " ").endswith("by a Gaussian filter (standard deviation: 2 px).")
        )
    for option, value, words in (
        ("--smooth", "200", "smooth must be 0 or a number of pixels smaller than the image, got 200.0"),
        ("--scale", "all", "scale must be one of 'each', 'row', 'shared', got 'all'"),
        ("--width", "cvpr2", "No width of a figure is named 'cvpr2'"),
    ):
        refused = CliRunner().invoke(app, [*arguments, option, value, "-o", str(tmp_path / "other.png")])
        assert refused.exit_code == 2
        assert words in " ".join(refused.output.split())
    assert not (tmp_path / "other.png").exists()
