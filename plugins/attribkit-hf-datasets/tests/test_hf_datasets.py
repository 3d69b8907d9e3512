"""Samples equal what was written into the data set, whichever way it is loaded."""

import pickle

import datasets
import numpy as np
import pytest
from attribkit_hf_datasets import HuggingFaceDataset
from PIL import Image

from attribkit import InvalidInput, UnknownName, UnreadableFile, registry
from attribkit.benchmark import Configuration, benchmark
from attribkit.testing import report_conformance

SIDES = [(30, 40), (50, 20), (25, 25)]
CLASSES = ["cat", "dog", "cat"]
BOXES = [[[6, 10, 20, 12]], [[2, 5, 10, 30], [0, 0, 4, 4]], [[1, 2, 20, 20]]]


def pictures():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (*side, 3), dtype=np.uint8)) for side in SIDES]


def mask_of(boxes, side):
    mask = np.zeros(side, np.uint8)
    for left, top, width, height in boxes:
        mask[top : top + height, left : left + width] = 255
    return mask


@pytest.fixture(scope="module")
def table():
    masks = [Image.fromarray(mask_of(boxes, side)) for boxes, side in zip(BOXES, SIDES, strict=True)]
    columns = {
        "image": datasets.Image(),
        "label": datasets.ClassLabel(names=["dog", "cat"]),
        "objects": {"bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"), 4))},
        "mask": datasets.Image(),
    }
    values = {
        "image": pictures(),
        "label": [["dog", "cat"].index(name) for name in CLASSES],
        "objects": [{"bbox": boxes} for boxes in BOXES],
        "mask": masks,
    }
    return datasets.Dataset.from_dict(values, features=datasets.Features(columns))


@pytest.fixture(scope="module")
def saved(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "set"
    table.save_to_disk(folder)
    return folder


@pytest.fixture
def data(saved):
    return HuggingFaceDataset(saved, label="label", labels="dataset", boxes="objects.bbox", mask="mask")


def test_samples_are_what_was_written(data):
    assert data.ids() == ["0", "1", "2"]
    for sample, picture, name, boxes, side in zip(data, pictures(), CLASSES, BOXES, SIDES, strict=True):
        assert np.array_equal(sample.image, picture)
        assert (sample.category, sample.label) == (name, ["dog", "cat"].index(name))
        assert np.array_equal(sample.mask, mask_of(boxes, side) > 0)
        expected = [[left, top, left + width, top + height] for left, top, width, height in boxes]
        assert np.array_equal(sample.boxes, expected)


def test_labels_of_the_model(saved):
    data = HuggingFaceDataset(saved, label="label", labels={"cat": 281})
    assert [(sample.id, sample.label) for sample in data] == [("0", 281), ("2", 281)]


def test_without_labels_all_samples_are_read(saved):
    assert [sample.label for sample in HuggingFaceDataset(saved, label="label")] == [None] * 3
    assert [sample.category for sample in HuggingFaceDataset(saved)] == [None] * 3


def test_columns_without_a_feature_of_classes(table, tmp_path):
    numbers = table.cast_column("label", datasets.Value("int64")).map(lambda row: {"label": 10 - row["label"]})
    numbers.save_to_disk(tmp_path / "numbers")
    data = HuggingFaceDataset(tmp_path / "numbers", label="label", labels="dataset")
    assert [(sample.category, sample.label) for sample in data] == [("9", 0), ("10", 1), ("9", 0)]


def test_boxes_of_corners(table, tmp_path):
    def corners(row):
        return {"corners": [[x, y, x + w, y + h] for x, y, w, h in row["objects"]["bbox"]]}

    table.map(corners).save_to_disk(tmp_path / "corners")
    data = HuggingFaceDataset(tmp_path / "corners", boxes="corners", box_format="corners")
    assert data[1].boxes.tolist() == [[2, 5, 12, 35], [0, 0, 4, 4]]


def test_splits_of_a_saved_dictionary(table, tmp_path):
    datasets.DatasetDict(train=table, test=table.select([1])).save_to_disk(tmp_path / "splits")
    assert len(HuggingFaceDataset(tmp_path / "splits")) == 1
    assert len(HuggingFaceDataset(tmp_path / "splits", split="train")) == 3
    with pytest.raises(UnknownName, match="No split is named 'tests'"):
        len(HuggingFaceDataset(tmp_path / "splits", split="tests"))


def test_a_folder_of_images(tmp_path):
    for name, picture in zip("abc", pictures(), strict=True):
        folder = tmp_path / "photographs" / ("cat" if name == "a" else "dog")
        folder.mkdir(parents=True, exist_ok=True)
        picture.save(folder / f"{name}.png")
    options = {"split": "train", "data_dir": tmp_path / "photographs", "label": "label"}
    data = HuggingFaceDataset("imagefolder", labels="dataset", **options)
    assert [(sample.category, sample.label) for sample in data] == [("cat", 0), ("dog", 1), ("dog", 1)]
    assert np.array_equal(data[0].image, pictures()[0])
    assert len(HuggingFaceDataset("imagefolder", **options | {"split": "train[:2]"})) == 2


def test_rotated_photographs_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "rotated").mkdir()
    pictures()[0].save(tmp_path / "rotated" / "a.jpg", exif=exif)
    data = HuggingFaceDataset("imagefolder", split="train", data_dir=tmp_path / "rotated")
    assert data[0].image.size == (30, 40)


def test_it_travels_to_other_processes(data):
    copied = pickle.loads(pickle.dumps(data))
    assert copied.fingerprint() == data.fingerprint()
    assert np.array_equal(copied[1].image, data[1].image)


def test_the_fingerprint_changes_with_the_data(data, table, tmp_path):
    table.select([0, 1, 1]).save_to_disk(tmp_path / "other")
    assert HuggingFaceDataset(tmp_path / "other").fingerprint() != HuggingFaceDataset(data.path).fingerprint()


def test_conformance(data):
    report = report_conformance(data)
    assert not report.failures, report


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": "images"}, "column of the data set is named 'images'. Did you mean 'image'"),
        ({"label": "class"}, "column of the data set is named 'class'"),
        ({"boxes": "objects.box"}, "field of the column 'objects' is named 'box'. Did you mean 'bbox'"),
        ({"mask": "masks"}, "named 'masks'. Did you mean 'mask'"),
        ({"label": "label", "labels": {"bird": 1}}, "named 'bird'"),
    ],
)
def test_unknown_columns(saved, options, words):
    with pytest.raises(UnknownName, match=words):
        len(HuggingFaceDataset(saved, **options))


def test_bad_options(saved, tmp_path):
    with pytest.raises(InvalidInput, match="box_format must be 'coco' or 'corners', got 'voc'"):
        HuggingFaceDataset(saved, box_format="voc")
    with pytest.raises(InvalidInput, match="labels were passed without label"):
        HuggingFaceDataset(saved, labels="dataset")
    with pytest.raises(UnreadableFile, match="cannot be loaded"):
        len(HuggingFaceDataset("imagefolder", data_dir=tmp_path / "missing"))
    with pytest.raises(UnreadableFile, match="Row 0 of the column 'label' contains int, not an image"):
        _ = HuggingFaceDataset(saved, image="label")[0].image


def test_a_benchmark_reads_it(saved, tmp_path):
    registry.register(HuggingFaceDataset)
    options = {"path": str(saved), "label": "label", "labels": "dataset", "mask": "mask"}
    configuration = Configuration(
        output=str(tmp_path / "run"),
        data={"name": "hf_datasets", "options": options},
        models=["zoo:cnn"],
        methods=["gradcam"],
        metrics=["relevance_mass"],
    )
    rows = benchmark(configuration).rows.to_pylist()
    measured = [row for row in rows if row["method"] == "gradcam" and not row["inverted"]]
    assert [(row["image"], row["label"], row["category"]) for row in measured] == [
        *(("0", 1, "cat"), ("1", 0, "dog"), ("2", 1, "cat")),
    ]
