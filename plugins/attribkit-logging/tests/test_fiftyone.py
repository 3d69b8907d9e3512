"""Labels of FiftyOne, of attributions and of the folder of a benchmark."""

# mypy: allow-untyped-defs

import json
import shutil
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from attribkit import AttribkitError, Explainer, load_model, zoo
from attribkit.datasets import Scenes

with warnings.catch_warnings(action="ignore"):  # of its dependencies
    pytest.importorskip("fiftyone", exc_type=ImportError)
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

import fiftyone  # noqa: E402  # optional

from attribkit.benchmark import Configuration, benchmark  # noqa: E402
from attribkit_logging import fiftyone_samples, to_fiftyone  # noqa: E402  # need fiftyone
from attribkit_logging._fiftyone import heatmap_label  # noqa: E402


@pytest.fixture
def paths(tmp_path):
    """Two photographs of the size of x."""
    files = [tmp_path / f"{index}.png" for index in range(2)]
    for index, file in enumerate(files):
        Image.fromarray(np.full((16, 16, 3), 100 * index, np.uint8)).save(file)
    return files


# Attributions


def test_labels_of_attributions(attribution, comparison, paths):
    samples = fiftyone_samples(attribution, paths, labels=["a", "b"])
    assert [sample.filepath for sample in samples] == [str(path.resolve()) for path in paths]
    for sample, heatmap, target in zip(samples, attribution.heatmap(), ("class 3", "class 1 (b)"), strict=True):
        assert isinstance(sample["gradcam"], fiftyone.Heatmap)
        assert np.array_equal(sample["gradcam"].map, heatmap.numpy())
        assert sample["gradcam"].range == [0, float(heatmap.max())]
        assert (sample["gradcam"].method, sample["gradcam"].target) == ("gradcam", target)
        assert sample["gradcam"].layers == ["4"]
    of_several = fiftyone_samples(comparison, paths)
    for index, name in enumerate(["gradcam", "saliency", "gradcam_2", "saliency_2"]):
        assert np.array_equal(of_several[1][name].map, comparison[index].heatmap()[1].numpy())
    named = fiftyone_samples({"epoch 1": attribution, "epoch 2": attribution}, paths)
    assert {"epoch_1", "epoch_2"} <= set(named[0].field_names)


def test_labels_are_stored_without_loss(attribution, paths):
    (sample, _) = fiftyone_samples(attribution, paths)
    restored = fiftyone.Sample.from_dict(sample.to_dict())
    assert np.array_equal(restored["gradcam"].map, attribution.heatmap()[0].numpy())
    assert restored["gradcam"].layers == ["4"]


@pytest.mark.parametrize(
    ("values", "expected"), [([[0, 2]], [0, 2]), ([[-3, 2]], [-3, 3]), ([[-1, 5]], [-5, 5]), ([[0, 0]], [0, 1])]
)
def test_the_range_of_a_label(values, expected):
    label = heatmap_label(np.array(values, np.float32), {"method": "m"}, {"deletion, RISE": 0.5})
    assert label.range == expected
    assert label.deletion_RISE == 0.5


def test_photographs_that_were_resized_and_cropped(tmp_path):
    model, preprocessing = load_model("zoo:cnn")
    scene = Image.fromarray(zoo.scene(0).image).resize((256, 160))
    scene.save(tmp_path / "wide.png")
    attribution = Explainer(model).attribute(preprocessing(scene)[None], "gradcam")
    (sample,) = fiftyone_samples(attribution, [tmp_path / "wide.png"], preprocessing=preprocessing)
    placed = sample["gradcam"].map
    assert placed.shape == (128, 204)  # the photograph with its shorter side resized to 128
    assert np.array_equal(placed[:, 38:166], attribution.heatmap()[0].numpy())
    assert not placed[:, :38].any()
    assert not placed[:, 166:].any()
    with pytest.raises(AttribkitError, match="160x256 pixels"):
        fiftyone_samples(attribution, [tmp_path / "wide.png"])


def test_photographs_are_upright(tmp_path, explainer):
    exif = Image.Exif()
    exif[0x0112] = 6  # the viewer rotates by 90 degrees
    Image.fromarray(np.zeros((20, 12, 3), np.uint8)).save(tmp_path / "rotated.jpg", exif=exif)
    attribution = explainer.attribute(torch.randn(1, 3, 12, 20), "gradcam")
    (sample,) = fiftyone_samples(attribution, [tmp_path / "rotated.jpg"])
    assert sample["gradcam"].map.shape == (12, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"paths": None}, "paths is missing"),
        ({"paths": ["a.png"]}, "one file for each image, got 1 files for 2 images"),
        ({"models": ["zoo:cnn"]}, "models cannot be used for attributions"),
        ({"media": "m"}, "media cannot be used for attributions"),
        ({"source": torch.zeros(1)}, "source must be an Attribution"),
        ({"source": {}}, "got 0 attributions"),
        ({"paths": ["absent.png", "absent.png"]}, "'absent.png' does not exist"),
    ],
)
def test_wrong_arguments_are_refused(attribution, paths, options, message):
    with pytest.raises(AttribkitError, match=message):
        fiftyone_samples(**({"source": attribution, "paths": paths} | options))


def test_names_that_give_the_same_field_are_refused(attribution, paths):
    with pytest.raises(AttribkitError, match="'epoch-1' gives the field 'epoch_1'"):
        fiftyone_samples({"epoch 1": attribution, "epoch-1": attribution}, paths)
    with pytest.raises(AttribkitError, match=r"\['map'\] are reserved"):
        heatmap_label(np.zeros((1, 1), np.float32), {}, {"map": 1.0})


# The folder of a benchmark


def configuration(folder, **changes):
    settings = {
        "output": folder / "run",
        "data": {"name": "image_folder", "options": {"root": str(folder / "photographs")}},
        "models": ["zoo:cnn"],
        "methods": ["gradcam", {"name": "saliency", "label": "Saliency, plain"}],
        "metrics": ["sparseness"],
        "oracle": False,
        "controls": False,
        "save_maps": True,
        "shard_size": 2,
        "threads": 1,
        "device": "cpu",
    }
    return Configuration(**(settings | changes))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished benchmark on three photographs, which the preprocessing resizes and crops."""
    folder = tmp_path_factory.mktemp("benchmark")
    for index, size in enumerate([(256, 160), (128, 128), (150, 300)]):
        path = folder / "photographs" / "class" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(zoo.scene(index).image).resize(size).save(path)
    return folder, benchmark(configuration(folder))


def test_labels_of_a_benchmark(run):
    folder, results = run
    samples = fiftyone_samples(folder / "run")
    model, preprocessing = load_model("zoo:cnn")
    rows = {(row["image"], row["method"]): row for row in results.rows.to_pylist() if not row["inverted"]}
    assert [sample["attribkit_id"] for sample in samples] == [f"class/{index}.png" for index in range(3)]
    for sample, (width, height) in zip(samples, [(204, 128), (128, 128), (128, 256)], strict=True):
        with Image.open(sample.filepath) as photograph:
            x = preprocessing(photograph)[None]
        for method, label, field in [
            ("gradcam", "gradcam", "zoo_cnn_gradcam"),
            ("saliency", "Saliency, plain", "zoo_cnn_Saliency_plain"),
        ]:
            row = rows[sample["attribkit_id"], label]
            heatmap = sample[field]
            assert (heatmap.target, heatmap.method) == (row["target"], row["method_options"])
            assert heatmap.sparseness == row["value"]
            expected = Explainer(model).attribute(x, method, target=row["target"]).heatmap()[0].numpy()
            assert heatmap.map.shape == (height, width)
            top, left = round((height - 128) / 2), round((width - 128) / 2)
            inside = heatmap.map[top : top + 128, left : left + 128]
            rounding = 1e-5 * float(np.abs(expected).max())  # of float32, in batches of other sizes
            np.testing.assert_allclose(inside, expected, rtol=0, atol=rounding)
            assert np.abs(heatmap.map).sum() == pytest.approx(np.abs(expected).sum(), rel=1e-5)  # zero elsewhere


def test_a_part_of_a_benchmark(run):
    samples = fiftyone_samples(run[0] / "run", methods=["gradcam"], models=["zoo:cnn"])
    assert "zoo_cnn_gradcam" in samples[0].field_names
    assert "zoo_cnn_Saliency_plain" not in samples[0].field_names


def test_images_that_are_not_files(tmp_path):
    data = {"name": "scenes", "options": {"count": 2}}
    benchmark(configuration(tmp_path, data=data, methods=["gradcam"]))
    with pytest.raises(AttribkitError, match=r"is not a file: pass media=..., a folder for PNG files"):
        fiftyone_samples(tmp_path / "run")
    samples = fiftyone_samples(tmp_path / "run", media=tmp_path / "media")
    for sample, scene in zip(samples, Scenes(count=2), strict=True):
        with Image.open(sample.filepath) as written:
            assert np.array_equal(np.asarray(written), np.asarray(scene.image))
        assert sample["attribkit_label"] == scene.label


def test_maps_that_cover_a_part_of_the_image(run, tmp_path):
    """The extent of the maps is read from their file."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    shutil.copytree(run[0] / "run", tmp_path / "run")
    for path in (tmp_path / "run" / "maps").rglob("gradcam/*.safetensors"):
        with safe_open(path, "pt") as file:
            scores, metadata = file.get_tensor("scores"), file.metadata()
        save_file({"scores": torch.ones_like(scores)}, path, metadata | {"extent": "[[0.0, 0.5], [0.25, 1.0]]"})
    sample = fiftyone_samples(tmp_path / "run", methods=["gradcam"])[1]
    expected = np.zeros((128, 128), np.float32)
    expected[:64, 32:] = 1
    assert np.array_equal(sample["zoo_cnn_gradcam"].map, expected)


def test_data_that_was_moved(run, tmp_path):
    from attribkit.datasets import ImageFolder

    shutil.copytree(run[0] / "run", tmp_path / "run")
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    record["configuration"]["data"]["options"]["root"] = str(tmp_path / "absent")
    (tmp_path / "run" / "run.json").write_text(json.dumps(record))
    with pytest.raises(AttribkitError, match="absent"):
        fiftyone_samples(tmp_path / "run")
    samples = fiftyone_samples(tmp_path / "run", data=ImageFolder(run[0] / "photographs"))
    assert len(samples) == 3
    with pytest.raises(AttribkitError, match="is not the one that the benchmark"):
        fiftyone_samples(tmp_path / "run", data=Scenes(count=3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": ["gradcan"]}, "No method of the benchmark is named 'gradcan'. Did you mean 'gradcam'"),
        ({"models": ["resnet"]}, "No model of the benchmark is named 'resnet'"),
        ({"methods": "gradcam"}, r"methods must be a list of labels, got 'gradcam': write methods=\['gradcam'\]"),
        ({"paths": ["a.png"]}, "paths cannot be used for a benchmark"),
        ({"preprocessing": "stretch"}, "preprocessing cannot be used for a benchmark"),
    ],
)
def test_wrong_arguments_for_a_benchmark_are_refused(run, options, message):
    with pytest.raises(AttribkitError, match=message):
        fiftyone_samples(run[0] / "run", **options)


def test_folders_without_maps_are_refused(run, tmp_path):
    with pytest.raises(AttribkitError, match="is not the folder of a benchmark"):
        fiftyone_samples(tmp_path)
    shutil.copytree(run[0] / "photographs", tmp_path / "photographs")
    benchmark(configuration(tmp_path, methods=["gradcam"], save_maps=False))
    with pytest.raises(AttribkitError, match="has not saved maps of these models and methods"):
        fiftyone_samples(tmp_path / "run")


# The data set


def test_a_data_set(attribution, paths):
    try:
        dataset = to_fiftyone(attribution, paths)
    except Exception as error:
        if type(error).__name__ not in ("FiftyOneConfigError", "ServerSelectionTimeoutError", "ConnectionError"):
            raise
        pytest.skip(f"the database of FiftyOne does not start: {error}")
    try:
        assert len(dataset) == 2
        stored = {sample.filepath: sample for sample in dataset}
        for path, heatmap in zip(paths, attribution.heatmap(), strict=True):
            assert np.array_equal(stored[str(path.resolve())]["gradcam"].map, heatmap.numpy())
        assert "gradcam.target" in dataset.get_field_schema(flat=True)
    finally:
        dataset.delete()
