"""Data sets: what annotators wrote arrives in the model's pixels, and what is broken is told."""

import json
import pickle
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_dilation

from attribkit import AttribkitError, Explainer, GroundTruth, registry, zoo
from attribkit._contracts.dataset import Size
from attribkit._core.errors import InvalidInput, UnknownName, UnreadableFile
from attribkit.datasets import (
    ItemDataset,
    Prepared,
    Sample,
    Scenes,
    grid_mosaics,
    prepare_sample,
)
from attribkit.datasets._coco import decode_segmentation
from attribkit.datasets._sources import InMemoryImage, mask_from_array
from attribkit.io._preprocessing import Preprocessing
from attribkit.registry import make_dataset

HALF = (0.5, 0.5, 0.5)
SQUASH = Preprocessing((32, 32), (32, 32), HALF, HALF, "bilinear")
CROP = Preprocessing((28, 28), 32, HALF, HALF, "bicubic")
SAME = Preprocessing((8, 8), (8, 8), HALF, HALF)


def photo(path, height=30, width=40, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3)).astype(np.uint8)).save(path)


def sample(height, width, **told):
    image = InMemoryImage(Image.fromarray(np.zeros((height, width, 3), dtype=np.uint8)))
    return Sample(id="a", group="a", image_source=image, **told)


def painted(region, preprocessing):
    """The oracle: a white region in a black photograph, as the model gets it, where it is nearer to white."""
    x = preprocessing(Image.fromarray(np.repeat(region[..., None], 3, 2).astype(np.uint8) * 255))
    return x[0].numpy() > 0


# Geometry


@pytest.mark.parametrize("preprocessing", [SQUASH, CROP])
@pytest.mark.parametrize("size", [(60, 90), (90, 61), (20, 24)])
def test_boxes_go_where_the_picture_goes(preprocessing, size):
    rng = np.random.default_rng(1)
    exact = 0
    for _ in range(20):
        top, bottom = np.sort(rng.choice(size[0] + 1, 2, replace=False))
        left, right = np.sort(rng.choice(size[1] + 1, 2, replace=False))
        rows, columns = np.zeros((2, *size), dtype=bool)
        rows[top:bottom] = columns[:, left:right] = True  # apart, since resampling rounds the corners of a box
        expected = painted(rows, preprocessing) & painted(columns, preprocessing)
        boxes = np.array([[left, top, right, bottom]], dtype=float)
        found = prepare_sample(sample(*size, boxes=boxes), preprocessing).mask.numpy()
        assert not (found & ~binary_dilation(expected, np.ones((3, 3)))).any()
        assert not (expected & ~binary_dilation(found, np.ones((3, 3)))).any()
        exact += (found == expected).all()
    assert exact >= 18  # at the border resampling has less to go by, and an edge may be on a centre


@pytest.mark.parametrize("preprocessing", [SQUASH, CROP])
@pytest.mark.parametrize("size", [(60, 90), (90, 61), (20, 24)])
def test_masks_go_exactly_where_the_picture_goes(preprocessing, size):
    blob = np.random.default_rng(2).random(size) < 0.01
    blob = binary_dilation(blob, iterations=4)
    found = prepare_sample(sample(*size, mask_source=mask_from_array(blob, "a")), preprocessing).mask.numpy()
    assert np.array_equal(found, painted(blob, preprocessing))
    assert 0 < found.sum() < found.size


def test_a_box_to_the_pixel():
    half = Preprocessing((4, 4), (4, 4), HALF, HALF)
    for box, rows, columns in (
        ([2, 2, 6, 6], [1, 2], [1, 2]),
        ([0, 2, 8, 4], [1], [0, 1, 2, 3]),
        ([0.9, 0, 3, 2], [0], [0, 1]),  # the centres of the first two pixels are at 1 and 3: the right edge is off
    ):
        expected = np.zeros((4, 4), dtype=bool)
        expected[np.ix_(rows, columns)] = True
        if box[2] == 3:
            expected[0, 1] = False
        found = prepare_sample(sample(8, 8, boxes=np.array([box], dtype=float)), half).mask.numpy()
        assert np.array_equal(found, expected), box


def test_several_boxes_are_united_and_cut_at_the_border():
    boxes = np.array([[-5.0, 0, 2, 2], [6, 6, 99, 99]])
    expected = np.zeros((8, 8), dtype=bool)
    expected[:2, :2] = expected[6:, 6:] = True
    assert np.array_equal(prepare_sample(sample(8, 8, boxes=boxes), SAME).mask.numpy(), expected)


def test_what_is_thinner_than_a_pixel_is_not_lost():
    small = Preprocessing((4, 4), (4, 4), HALF, HALF)
    line = np.zeros((40, 40), dtype=bool)
    line[:, 21] = True
    expected = np.zeros((4, 4), dtype=bool)
    expected[:, 2] = True
    for told in ({"boxes": np.array([[21.0, 0, 22, 40]])}, {"mask_source": mask_from_array(line, "a")}):
        assert np.array_equal(prepare_sample(sample(40, 40, **told), small).mask.numpy(), expected)


def test_what_the_crop_cuts_away_is_told():
    left_edge = np.zeros((32, 96), dtype=bool)
    left_edge[:, :20] = True
    for told in ({"boxes": np.array([[0.0, 0, 20, 32]])}, {"mask_source": mask_from_array(left_edge, "a")}):
        found = prepare_sample(sample(32, 96, **told), CROP)
        assert not found.mask.any()
        assert "object is outside the model's input" in found.notes[0]
    assert prepare_sample(sample(32, 96), CROP).mask is None
    assert prepare_sample(sample(32, 96), CROP).notes == ()


def test_no_box_is_an_empty_mask():
    assert not prepare_sample(sample(8, 8, boxes=np.zeros((0, 4))), SAME).mask.any()


def test_a_box_without_area_is_none():
    assert not prepare_sample(sample(8, 8, boxes=np.array([[3.0, 3, 3, 6]])), SAME).mask.any()


def test_sides_of_a_pixel():
    imagenet = Preprocessing((224, 224), 256, HALF, HALF)
    assert prepare_sample(sample(375, 500), imagenet).pixel.tolist() == pytest.approx([375 / 256, 500 / 341])
    assert prepare_sample(sample(375, 500), SQUASH).pixel.tolist() == pytest.approx([375 / 32, 500 / 32])
    squashed = sample(227, 227, photograph=Size(375, 500))
    assert prepare_sample(squashed, imagenet).pixel.tolist() == pytest.approx([375 / 256, 500 / 256])


def test_a_mask_of_another_size_is_refused():
    with pytest.raises(InvalidInput, match=r"mask of 'a' must have the size .* \(8, 8\), got \(5, 8\)"):
        prepare_sample(sample(8, 8, mask_source=mask_from_array(np.ones((5, 8), dtype=bool), "a")), SAME)
    with pytest.raises(InvalidInput, match="Data sets contain images, but the preprocessing None does not"):
        prepare_sample(sample(8, 8), None)


# What all data sets share


def voc(root, names=("000001", "000002")):
    """Two photographs: a dog and two cats, one of them difficult; a difficult dog alone, a person and a large train."""
    objects = {
        "000001": [("dog", 0, (1, 1, 10, 30)), ("cat", 0, (21, 11, 40, 30)), ("cat", 1, (15, 1, 18, 4))],
        "000002": [("dog", 1, (1, 1, 4, 4)), ("person", 0, (5.0, 5, 9, 9)), ("train", 0, (1, 1, 40, 20))],
    }
    for folder in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    for name in names:
        photo(root / "JPEGImages" / f"{name}.jpg")
        told = "".join(
            f"<object><name>{category}</name><difficult>{flag}</difficult><bndbox><xmin>{left}</xmin><ymin>{top}</ymin>"
            f"<xmax>{right}</xmax><ymax>{bottom}</ymax></bndbox></object>"
            for category, flag, (left, top, right, bottom) in objects[name]
        )
        size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{told}</annotation>")
    (root / "ImageSets/Main/test.txt").write_text("".join(f"{name}\n" for name in names))
    return {"name": "pascal_voc", "root": root}


def as_text(lengths):
    """Run lengths written as COCO does, the other way round."""
    text = ""
    for place, length in enumerate(lengths):
        number = length - lengths[place - 2] if place > 2 else length
        more = True
        while more:
            code, number = number & 31, number >> 5
            more = number != (-1 if code & 16 else 0)
            text += chr(code + (32 if more else 0) + 48)
    return text


def run_lengths(mask):
    """Of a mask, down its columns, off first."""
    lengths, on = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != on:
            lengths.append(0)
            on = pixel
        lengths[-1] += 1
    return lengths


CROWD = np.random.default_rng(3).random((30, 40)) < 0.3


def coco(root):
    """Two cats, by polygon and by run lengths, and a crowd of sheep; sheep alone; nothing."""
    for name in ("1", "2", "3"):
        photo(root / "val" / f"{name}.jpg")
    cat = np.zeros((30, 40), dtype=bool)
    cat[20:25, 30:36] = True
    square = [4.0, 2.0, 12.0, 2.0, 12.0, 10.0, 4.0, 10.0]

    def instance(image, category, segmentation, box, area, crowd=0):
        told = {"image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
        return {"segmentation": segmentation, **told}

    told = {
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 40, "height": 30} for i in (1, 2, 3)],
        "categories": [{"id": 20, "name": "sheep"}, {"id": 17, "name": "cat"}],
        "annotations": [
            instance(1, 17, [square], [4, 2, 8, 8], 64),
            instance(1, 17, {"size": [30, 40], "counts": as_text(run_lengths(cat))}, [30, 20, 6, 5], 30),
            instance(1, 20, {"size": [30, 40], "counts": run_lengths(CROWD)}, [0, 0, 40, 30], 360, 1),
            instance(2, 20, [square], [4, 2, 8, 8], 64),
        ],
    }
    (root / "instances.json").write_text(json.dumps(told))
    return {"name": "coco", "root": root / "val", "annotations": root / "instances.json"}


def pets(root):
    trimap = np.full((30, 40), 2, dtype=np.uint8)
    trimap[5:20, 5:20] = 3
    trimap[8:17, 8:17] = 1
    (root / "annotations/trimaps").mkdir(parents=True)
    for name in ("Abyssinian_1", "beagle_7"):
        photo(root / "images" / f"{name}.jpg")
        Image.fromarray(trimap).save(root / "annotations/trimaps" / f"{name}.png")
    (root / "annotations/test.txt").write_text("#Image CLASS-ID SPECIES BREED ID\nbeagle_7 5 2 1\nAbyssinian_1 1 1 1\n")
    return {"name": "oxford_pets", "root": root}


def imagenet(root):
    for name in (
        "n01443537/ILSVRC2012_val_1.JPEG",
        "n01443537/ILSVRC2012_val_2.JPEG",
        "n01440764/ILSVRC2012_val_3.JPEG",
    ):
        photo(root / "val" / name)
    (root / "xml").mkdir()
    (root / "xml/ILSVRC2012_val_1.xml").write_text(
        "<annotation><size><width>40</width><height>30</height></size><object><name>n01443537</name><bndbox>"
        "<xmin>0</xmin><ymin>10</ymin><xmax>40</xmax><ymax>30</ymax></bndbox></object></annotation>"
    )
    return {"name": "imagenet", "root": root / "val", "boxes": root / "xml"}


def folders(root):
    for name in ("cat/a.png", "cat/more/b.png", "dog/a.png"):
        photo(root / name)
    (root / "dog/notes.txt").write_text("no image")
    photo(root / ".cache/a.png")
    photo(root / "dog/._a.png")
    return {"name": "image_folder", "root": root}


def boxes(root):
    photo(root / "images/a.png")
    photo(root / "images/b.png")
    told = {
        "b.png": {"boxes": [[1, 2, 5, 6]], "label": 3, "photograph": [60, 120], "subsets": ["off-centre"]},
        "a.png": {"boxes": [[0, 0, 40, 30]], "size": [30, 40]},
    }
    (root / "boxes.json").write_text(json.dumps(told))
    return {"name": "boxes", "root": root / "images", "annotations": root / "boxes.json"}


def scenes(root):
    return {"name": "scenes", "count": 3}


def given(root):
    photo(root / "a.png")
    items = [
        {"image": root / "a.png", "id": "first", "label": np.int64(2), "boxes": [[0, 0, 3, 3]]},
        {"image": np.zeros((30, 40, 3), dtype=np.uint8), "mask": torch.ones(30, 40, dtype=torch.bool)},
        {"image": lambda: Image.new("L", (40, 30)), "subsets": ["dark"], "group": "first"},
    ]
    return {"name": "items", "items": items}


TREES = {
    "scenes": scenes,
    "image_folder": folders,
    "imagenet": imagenet,
    "pascal_voc": voc,
    "coco": coco,
    "oxford_pets": pets,
    "boxes": boxes,
    "items": given,
}


def test_all_of_them_are_tried(tmp_path):
    assert set(registry.datasets()) == set(TREES)
    assert all(tree(tmp_path / kind)["name"] == kind for kind, tree in TREES.items())


@pytest.mark.parametrize("kind", TREES)
def test_samples(tmp_path, kind):
    described = TREES[kind](tmp_path)
    data = make_dataset(**described)
    assert data.ids() == make_dataset(**described).ids() == [each.id for each in data]
    assert len(data) == len(data.ids()) == len(set(data.ids()))
    assert data.fingerprint() == make_dataset(**described).fingerprint()
    for each in data:
        prepared = prepare_sample(each, SQUASH)
        assert prepared.x.shape == (3, 32, 32)
        assert prepared.mask is None or prepared.mask.shape == (32, 32)
        assert (prepared.id, prepared.group, prepared.label) == (each.id, each.group, each.label)
        assert (each.mask is None and each.boxes is None) == (prepared.mask is None)


@pytest.mark.parametrize("kind", TREES)
def test_the_fingerprint_is_of_the_data_not_of_their_place(tmp_path, kind):
    here, there = (make_dataset(**TREES[kind](tmp_path / place)) for place in ("here", "there"))
    assert here.fingerprint() == there.fingerprint()


@pytest.mark.parametrize("kind", sorted(set(TREES) - {"items"}))
def test_data_sets_travel_to_other_processes(tmp_path, kind):
    data = make_dataset(**TREES[kind](tmp_path))
    copy = pickle.loads(pickle.dumps(data))
    assert copy.fingerprint() == data.fingerprint()
    assert torch.equal(prepare_sample(copy[0], SQUASH).x, prepare_sample(data[0], SQUASH).x)


@pytest.mark.parametrize(
    ("kind", "file", "samples"),
    [
        ("pascal_voc", "JPEGImages/000001.jpg", {"000001 cat", "000001 dog"}),
        ("coco", "val/1.jpg", {"1 cat", "1 sheep"}),
        ("oxford_pets", "images/beagle_7.jpg", {"beagle_7"}),
        ("imagenet", "val/n01443537/ILSVRC2012_val_1.JPEG", {"ILSVRC2012_val_1"}),
        ("image_folder", "cat/a.png", {"cat/a.png"}),
        ("boxes", "images/a.png", {"a.png"}),
        ("items", "a.png", {"first"}),
    ],
)
def test_an_unreadable_image_is_told_when_it_is_asked_for(tmp_path, kind, file, samples):
    described = TREES[kind](tmp_path)
    before = make_dataset(**described).fingerprint()
    (tmp_path / file).write_bytes(b"no image")
    data, told = make_dataset(**described), set()
    assert data.fingerprint() != before
    for each in data:
        try:
            prepare_sample(each, SQUASH)
        except UnreadableFile as error:
            told.add((each.id, Path(file).name in str(error)))
    assert told == {(each, True) for each in samples}


@pytest.mark.parametrize(
    ("kind", "file", "old", "new"),
    [
        ("pascal_voc", "Annotations/000001.xml", "<xmax>10</xmax>", "<xmax>11</xmax>"),
        ("coco", "instances.json", "[[4.0, 2.0,", "[[5.0, 2.0,"),
        ("imagenet", "xml/ILSVRC2012_val_1.xml", "<xmin>0</xmin>", "<xmin>1</xmin>"),
        ("boxes", "boxes.json", "off-centre", "centre"),
        ("oxford_pets", "annotations/test.txt", "beagle_7 5 2 1\n", ""),
    ],
)
def test_the_fingerprint_changes_with_an_annotation(tmp_path, kind, file, old, new):
    described = TREES[kind](tmp_path)
    before = make_dataset(**described).fingerprint()
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    assert make_dataset(**described).fingerprint() != before


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("pascal_voc", "Annotations/000001.xml"),
        ("pascal_voc", "ImageSets/Main/test.txt"),
        ("coco", "instances.json"),
        ("oxford_pets", "annotations/test.txt"),
        ("imagenet", "xml/ILSVRC2012_val_1.xml"),
        ("boxes", "boxes.json"),
    ],
)
def test_broken_annotations_are_told_at_once(tmp_path, kind, file):
    described = TREES[kind](tmp_path)
    (tmp_path / file).write_bytes(b"\xff{<broken")
    with pytest.raises(UnreadableFile, match=Path(file).name):
        make_dataset(**described)
    if kind != "imagenet":  # not every image of which has boxes
        (tmp_path / file).unlink()
        with pytest.raises(UnreadableFile, match=Path(file).name):
            make_dataset(**described)


def test_what_is_not_there_or_not_known():
    for kind in ("pascal_voc", "oxford_pets", "imagenet", "image_folder"):
        with pytest.raises(UnreadableFile, match=r"folder '/nowhere' does not exist"):
            make_dataset(kind, root="/nowhere")
    with pytest.raises(UnknownName, match=r"No data set is named 'cocoa'. Did you mean 'coco'"):
        make_dataset("cocoa")
    with pytest.raises(UnknownName, match=r"option of 'scenes' is named 'counts'. Did you mean 'count'"):
        make_dataset("scenes", counts=3)
    with pytest.raises(InvalidInput, match=r"'coco' cannot be created with these options: .*annotations"):
        make_dataset("coco", root="/nowhere")


def test_an_empty_data_set_and_ids_that_come_twice_are_refused():
    with pytest.raises(InvalidInput, match=r"ItemDataset\(.*\) is empty: check its folder"):
        make_dataset("items", items=[])
    image = np.zeros((4, 4, 3), dtype=np.uint8)
    with pytest.raises(InvalidInput, match="two samples with the id 'a'"):
        make_dataset("items", items=[{"image": image, "id": "a"}, {"image": image, "id": "a"}])


# Each of them


def test_boxes_that_touch_stay_two_in_the_models_pixels():
    boxes = np.array([[68.0, 0, 100, 32], [100, 32, 132, 64], [180, 0, 192, 64]])
    prepared = prepare_sample(
        sample(64, 192, boxes=boxes), CROP
    )  # half as large, then columns 34 to 62 and rows 2 to 30
    assert prepared.boxes.tolist() == [[0, 0, 16, 14], [16, 14, 28, 28]]
    drawn = prepare_sample(
        sample(64, 192, boxes=boxes, mask_source=mask_from_array(np.ones((64, 192), dtype=bool), "a")), CROP
    )
    assert drawn.mask.all()
    assert drawn.boxes.tolist() == prepared.boxes.tolist()


def test_masks_in_files_beside_a_json(tmp_path):
    (tmp_path / "masks").mkdir()
    drawn = np.zeros((30, 40), dtype=np.uint8)
    drawn[5:20, 10:30] = 255
    Image.fromarray(drawn).save(tmp_path / "masks" / "a.png")
    Image.fromarray(np.stack([drawn] * 3, 2)).save(tmp_path / "masks" / "colours.png")
    for name in "abcd":
        photo(tmp_path / f"{name}.jpg")
    told = {
        "a.jpg": {"mask": "masks/a.png"},
        "b.jpg": {"mask": "masks/a.png", "boxes": [[0, 0, 5, 5]]},
        "c.jpg": {"mask": "masks/none.png"},
        "d.jpg": {"mask": "masks/colours.png"},
    }
    (tmp_path / "told.json").write_text(json.dumps(told))
    data = make_dataset("boxes", root=tmp_path, annotations=tmp_path / "told.json")
    assert np.array_equal(data[0].mask, drawn > 0)
    assert data[0].boxes is None
    assert np.array_equal(data[1].mask, drawn > 0)
    assert data[1].boxes.tolist() == [[0, 0, 5, 5]]
    for place, words in (
        (2, "mask .* does not exist"),
        (3, "must be a greyscale image, got .*: save it with one channel"),
    ):
        with pytest.raises(UnreadableFile, match=words):
            _ = data[place].mask
    before = data.fingerprint()
    Image.fromarray(255 - drawn).save(tmp_path / "masks" / "a.png")
    assert make_dataset("boxes", root=tmp_path, annotations=tmp_path / "told.json").fingerprint() != before
    given = make_dataset("items", items=[{"image": tmp_path / "a.jpg", "mask": str(tmp_path / "masks" / "a.png")}])
    assert np.array_equal(given[0].mask, drawn == 0)


def test_an_entry_without_boxes_is_named(tmp_path):
    photo(tmp_path / "a.jpg")
    (tmp_path / "told.json").write_text('{"a.jpg": {"label": 3}}')
    with pytest.raises(UnreadableFile, match=r"'a.jpg' has neither 'boxes' nor 'mask'; write 'boxes': \[\] for"):
        make_dataset("boxes", root=tmp_path, annotations=tmp_path / "told.json")


def test_scenes_have_exact_masks():
    data = Scenes(count=2, seed=7)
    scene = zoo.scene(8)
    prepared = prepare_sample(data[1], zoo_preprocessing())
    assert np.array_equal(prepared.mask.numpy(), scene.target.mask)
    assert prepared.label == scene.label
    assert prepared.category == zoo.SHAPES[scene.label]
    assert prepared.pixel.tolist() == [1.0, 1.0]
    assert Scenes(count=2, seed=6)[1].id == data.ids()[0] == "scene 7"


def test_from_a_data_set_to_a_number(cnn):
    prepared = [prepare_sample(each, zoo_preprocessing()) for each in Scenes(count=4)]
    x, mask, pixel = (torch.stack([getattr(each, name) for each in prepared]) for name in ("x", "mask", "pixel"))
    explainer = Explainer(cnn)
    attribution = explainer.attribute(x, "gradcam", target=[each.label for each in prepared])
    mass = explainer.evaluate(attribution, "relevance_mass", mask=GroundTruth(mask, pixel))
    assert (mass > mask.flatten(1).float().mean(1)).all()  # more than a map that is the same everywhere


def zoo_preprocessing():
    return Preprocessing((128, 128), 128, HALF, HALF, "bicubic")


def test_voc(tmp_path):
    data = make_dataset(**voc(tmp_path))
    assert data.ids() == ["000001 cat", "000001 dog", "000002 person", "000002 train"]  # no dog that is difficult alone
    by_id = {each.id: each for each in data}
    assert by_id["000001 cat"].boxes.tolist() == [[20, 10, 40, 30], [14, 0, 18, 4]]  # the difficult one counts
    assert {each.id for each in data if "difficult" in each.subsets} == {"000002 person"}  # the dog is a quarter
    assert by_id["000001 cat"].group == by_id["000001 dog"].group == "000001"
    assert by_id["000001 cat"].category == "cat"
    assert by_id["000001 cat"].label is None
    assert [each.label for each in make_dataset(**voc(tmp_path / "own"), labels="dataset")] == [7, 11, 14, 18]


def test_voc_counts_pixels_from_one(tmp_path):
    data = make_dataset(**voc(tmp_path))
    same = Preprocessing((30, 40), (30, 40), HALF, HALF)
    expected = np.zeros((30, 40), dtype=bool)
    expected[0:30, 0:10] = True  # from 1 to 10, both on the box
    assert np.array_equal(prepare_sample(data[1], same).mask.numpy(), expected)


def test_the_centre_of_the_image_in_the_pointing_game_on_voc(tmp_path):
    same = Preprocessing((30, 40), (30, 40), HALF, HALF)
    hits = {each.id: bool(prepare_sample(each, same).mask[15, 20]) for each in make_dataset(**voc(tmp_path))}
    assert hits == {"000001 cat": True, "000001 dog": False, "000002 person": False, "000002 train": True}


def test_a_voc_class_that_is_not_known_and_an_image_of_another_size(tmp_path):
    described = voc(tmp_path)
    photo(tmp_path / "JPEGImages/000001.jpg", 40, 30)
    with pytest.raises(UnreadableFile, match=r"30x40 upright, but its annotations are for 40x30"):
        prepare_sample(make_dataset(**described)[0], SQUASH)
    with pytest.raises(UnreadableFile, match=r"000001.xml' names the class 'cat', which is not one of the 3 classes"):
        make_dataset(**described, classes=["dog", "person", "train"])


@pytest.mark.parametrize(("orientation", "told"), [(1, ""), (3, "stored rotated"), (6, "30x40 upright")])
def test_a_turned_image_whose_annotations_may_be_of_either_is_refused(tmp_path, orientation, told):
    described = voc(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "JPEGImages/000001.jpg"
    Image.open(path).save(path, exif=exif)
    with pytest.raises(UnreadableFile, match=told) if told else nullcontext():
        prepare_sample(make_dataset(**described)[0], SQUASH)


def test_coco_masks(tmp_path):
    data = make_dataset(**coco(tmp_path))
    assert data.ids() == ["1 cat", "1 sheep", "2 sheep"]
    cat = np.zeros((30, 40), dtype=bool)
    cat[2:10, 4:12] = cat[20:25, 30:36] = True
    assert np.array_equal(data[0].mask, cat)
    assert np.array_equal(data[1].mask, CROWD)
    assert data[0].boxes.tolist() == [[4, 2, 12, 10], [30, 20, 36, 25]]
    assert [each.label for each in data] == [None, None, None]
    assert {each.id for each in data if "difficult" in each.subsets} == {"1 cat"}  # sheep: 360 of 1200 pixels; alone


def test_coco_options(tmp_path, as_users_run):
    described = coco(tmp_path)
    assert make_dataset(**described, crowds=False).ids() == ["1 cat", "2 sheep"]
    boxed = make_dataset(**described, regions="boxes")
    assert boxed[0].mask is None
    same = Preprocessing((30, 40), (30, 40), HALF, HALF)
    assert prepare_sample(boxed[0], same).mask.sum() == 64 + 30
    assert [each.label for each in make_dataset(**described, labels="dataset")] == [0, 1, 1]
    assert [(each.id, each.label) for each in make_dataset(**described, labels={"cat": 281})] == [("1 cat", 281)]
    with pytest.raises(UnknownName, match="'cats'"):
        make_dataset(**described, labels={"cats": 281})
    with pytest.raises(InvalidInput, match="regions must be 'masks' or 'boxes', got 'polygons'"):
        make_dataset(**described, regions="polygons")


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (50, 90)])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
def test_run_lengths_there_and_back(shape, share):
    mask = np.random.default_rng(5).random(shape) < share
    for counts in (run_lengths(mask), as_text(run_lengths(mask))):
        assert np.array_equal(decode_segmentation({"size": list(shape), "counts": counts}, Size(*shape)), mask)


def test_run_lengths_in_text_of_the_format():
    lengths = [6, 1, 40, 4, 5, 4, 5, 4, 21]  # the example in COCO's own documentation of the format
    assert as_text(lengths) == "61X13mN000`0"
    mask = decode_segmentation({"size": [9, 10], "counts": "61X13mN000`0"}, Size(9, 10))
    assert run_lengths(mask) == lengths


def test_polygons_have_the_pixels_whose_centre_is_inside():
    triangle = [0.0, 0.0, 20.0, 0.0, 0.0, 10.0]
    rows, columns = np.mgrid[:12, :24] + 0.5
    assert np.array_equal(decode_segmentation([triangle], Size(12, 24)), columns / 20 + rows / 10 <= 1)


@pytest.mark.parametrize(
    "segmentation", [{"size": [30, 40], "counts": [3]}, {"size": [3, 4], "counts": [12]}, [[1, 2, 3]]]
)
def test_a_broken_outline_is_told_when_it_is_asked_for(tmp_path, segmentation):
    described = coco(tmp_path)
    told = json.loads((tmp_path / "instances.json").read_text())
    told["annotations"][0]["segmentation"] = segmentation
    (tmp_path / "instances.json").write_text(json.dumps(told))
    data = make_dataset(**described)
    with pytest.raises(UnreadableFile, match=r"instances\.json"):
        _ = data[0].mask
    assert data[1].mask.any()


def test_pets(tmp_path):
    data = make_dataset(**pets(tmp_path))
    assert data.ids() == ["beagle_7", "Abyssinian_1"]
    assert data[0].mask.sum() == 81
    assert make_dataset(**pets(tmp_path / "wide"), border=True)[0].mask.sum() == 225
    assert data[0].category == "beagle"
    assert [each.label for each in make_dataset(**pets(tmp_path / "own"), labels="dataset")] == [1, 0]
    Image.fromarray(np.full((30, 40), 255, dtype=np.uint8)).save(tmp_path / "annotations/trimaps/beagle_7.png")
    with pytest.raises(UnreadableFile, match=r"beagle_7\.png' must have one channel with the values \[1, 2, 3\]"):
        _ = data[0].mask


def test_a_trimap_that_is_missing_or_broken_is_told(tmp_path):
    data = make_dataset(**pets(tmp_path))
    trimap = tmp_path / "annotations/trimaps/beagle_7.png"
    before = data.fingerprint()
    trimap.write_bytes(b"no image")
    assert data.fingerprint() != before
    with pytest.raises(UnreadableFile, match=r"beagle_7\.png' cannot be read"):
        prepare_sample(data[0], SQUASH)
    trimap.unlink()
    with pytest.raises(UnreadableFile, match=r"beagle_7\.png' does not exist"):
        prepare_sample(data[0], SQUASH)
    prepare_sample(data[1], SQUASH)


def test_imagenet(tmp_path):
    described = imagenet(tmp_path)
    data = make_dataset(**described)
    assert [(each.id[-1], each.label) for each in data] == [("3", 0), ("1", 1), ("2", 1)]  # tench, goldfish
    assert data[1].boxes.tolist() == [[0, 10, 40, 30]]
    assert data[2].boxes is None
    assert make_dataset(**described, per_class=1).ids() == ["ILSVRC2012_val_3", "ILSVRC2012_val_1"]
    (tmp_path / "val/dogs").mkdir()
    with pytest.raises(InvalidInput, match=r"dogs' is not an ImageNet-1k synset ID"):
        make_dataset(**described)


def test_image_folder_labels(tmp_path, as_users_run):
    described = folders(tmp_path)
    assert make_dataset(**described).ids() == ["cat/a.png", "cat/more/b.png", "dog/a.png"]
    for labels, expected in (
        (None, [None, None, None]),
        ("dataset", [0, 0, 1]),
        (["dog", "cat"], [1, 1, 0]),
        ({"cat": 281}, [281, 281]),
    ):
        assert [each.label for each in make_dataset(**described, labels=labels)] == expected
    for labels, words in (
        ({"cow": 1}, "class of the data set is named 'cow'"),
        ({"cat": "281"}, "must be a class index of the model, 0 or more, got '281'"),
        ("sorted", "must be a mapping"),
    ):
        with pytest.raises(AttribkitError, match=words):
            make_dataset(**described, labels=labels)


def test_boxes(tmp_path):
    described = boxes(tmp_path)
    data = make_dataset(**described)
    assert data.ids() == ["a.png", "b.png"]
    assert data[1].label == 3
    assert data[1].subsets == {"off-centre"}
    assert prepare_sample(data[1], Preprocessing((30, 30), (30, 30), HALF, HALF)).pixel.tolist() == [2.0, 4.0]
    for wrong, words in (
        ({"boxes": [[5, 5, 1, 1]]}, "must be \\[left, top, right, bottom\\]"),
        ({"boxes": [[1, 2, 3]]}, "reshape"),
        ({"boxes": [], "lable": 3}, "'lable'"),
        ({"boxes": [], "label": "3"}, "TypeError"),
        ({}, "'boxes'"),
    ):
        (tmp_path / "boxes.json").write_text(json.dumps({"a.png": wrong}))
        with pytest.raises(UnreadableFile, match=rf"boxes\.json.*{words}"):
            make_dataset(**described)


def test_given(tmp_path):
    data = make_dataset(**given(tmp_path))
    assert isinstance(data, ItemDataset)
    assert data.ids() == ["first", "1", "2"]
    assert [each.group for each in data] == ["first", "1", "first"]
    assert [each.label for each in data] == [2, None, None]
    assert prepare_sample(data[1], SQUASH).mask.all()
    assert data[2].subsets == {"dark"}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"label": 1}, "Item 0 must be a dict with an 'image' key, got the keys \\['label'\\]"),
        ({"image": 3}, "image of item '0' must be .*, got int"),
        ({"image": "a.png", "lable": 3}, "Did you mean 'label'"),
        ({"image": "a.png", "label": 1.5}, "label of item '0' must be a class index of the model, got 1.5"),
        ({"image": "a.png", "boxes": [[3, 3, 1, 1]]}, "boxes of item '0'"),
        ({"image": "a.png", "mask": np.ones((3, 3))}, "try mask > 0"),
        (
            {"image": "a.png", "subsets": "small"},
            "subsets of item '0' are invalid: subsets='small' must be a list of names",
        ),
        ({"image": "a.png", "subsets": ["all"]}, "list of names, and 'all' is reserved"),
    ],
)
def test_items_that_are_wrong(item, words):
    with pytest.raises(AttribkitError, match=words):
        make_dataset("items", items=[item])


def test_a_category_may_be_a_number():
    (sample,) = make_dataset("items", items=[{"image": "a.png", "category": 3}])
    assert sample.category == "3"


# Mosaics


def sure_images(count=6, side=4):
    images = [
        replace(
            prepare_sample(sample(8, 8), Preprocessing((side, side), (side, side), HALF, HALF)), id=str(i), label=None
        )
        for i in range(count)
    ]
    images = [replace(each, x=torch.full((3, side, side), float(i))) for i, each in enumerate(images)]
    probabilities = torch.full((count, count), 0.0)
    probabilities[range(count), range(count)] = 1.0
    return images, probabilities


def test_mosaics():
    images, probabilities = sure_images()
    probabilities[5, 5] = 0.5  # not sure enough
    questions = list(grid_mosaics(images, probabilities, cells=2, count=3))
    assert len(questions) == 12
    assert len({each.id for each in questions}) == 12
    for each in questions:
        assert each.x.shape == (3, 8, 8)
        assert each.mask.sum() == 16
        assert set(each.x[:, each.mask].unique().tolist()) == {each.label}  # the image of class i is painted i
        assert each.label != 5
    for number in range(3):
        cells = questions[4 * number : 4 * number + 4]
        assert len({each.label for each in cells}) == 4
        assert torch.stack([each.mask for each in cells]).sum(0).eq(1).all()
        assert {each.group for each in cells} == {f"mosaic {number}"}
    longer = list(grid_mosaics(images, probabilities, cells=2, count=5))
    assert all(torch.equal(a.x, b.x) for a, b in zip(questions, longer, strict=False))
    assert any(
        not torch.equal(a.x, b.x)
        for a, b in zip(questions, grid_mosaics(images, probabilities, cells=2, count=3, seed=1), strict=True)
    )


def test_mosaics_go_by_the_label_where_it_is_known():
    images, probabilities = sure_images(4)
    images[0] = replace(images[0], label=3)  # the model says 0: it is wrong, and the image is left out
    with pytest.raises(InvalidInput, match=r"at least 4 classes must have an image .* got 3"):
        grid_mosaics(images, probabilities, cells=2)
    with pytest.raises(InvalidInput, match="3 rows"):
        grid_mosaics(images, probabilities[:3], cells=1)
    assert isinstance(next(grid_mosaics(images, probabilities, cells=1, count=1)), Prepared)


# Photographs


@pytest.mark.slow
def test_boxed_photographs(assets, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from boxed_photographs import boxed_photographs

    data = make_dataset(**boxed_photographs(assets, tmp_path / "boxed"))
    told = json.loads((assets / "imagenet_val_boxes" / "boxes.json").read_text())
    assert data.ids() == sorted(told)
    assert len(data) == 150
    squash = Preprocessing((227, 227), (227, 227), HALF, HALF)
    for each in data:
        prepared = prepare_sample(each, squash)
        expected = told[each.id]
        assert prepared.mask.float().mean().item() == pytest.approx(expected["coverage"], abs=0.01)
        assert prepared.pixel.tolist() == pytest.approx([side / 227 for side in reversed(expected["orig_size"])])
        assert expected["centre_inside"] == ("off-centre" not in prepared.subsets)
        if np.abs(each.boxes - 113.5).min() > 1e-3:  # no edge goes through the centre
            assert bool(prepared.mask[113, 113]) == expected["centre_inside"]


def test_photographs_of_coco(assets, tmp_path):
    """Its masks, written as run lengths in COCO's format and read again."""
    folder = assets / "coco_cc"
    told = json.loads((folder / "annotations.json").read_text())[:6]
    names = sorted({each["category"] for image in told for each in image["objects"]})
    instances, masks = [], {}
    for number, image in enumerate(told):
        values = np.asarray(Image.open(folder / "masks" / Path(image["file_name"]).with_suffix(".png").name))
        for each in image["objects"]:
            mask = values == each["mask_value"]
            masks[f"{Path(image['file_name']).stem} {each['category']}"] = mask
            left, top, width, height = each["boxes_xywh"][0]
            instances.append(
                {
                    "image_id": number,
                    "category_id": names.index(each["category"]),
                    "bbox": [left, top, width, height],
                    "area": int(mask.sum()),
                    "iscrowd": 0,
                    "segmentation": {"size": list(mask.shape), "counts": as_text(run_lengths(mask))},
                }
            )
    images = [{"id": i, **{key: each[key] for key in ("file_name", "width", "height")}} for i, each in enumerate(told)]
    categories = [{"id": i, "name": name} for i, name in enumerate(names)]
    (tmp_path / "a.json").write_text(json.dumps({"images": images, "categories": categories, "annotations": instances}))
    data = make_dataset("coco", root=folder / "images", annotations=tmp_path / "a.json")
    assert set(data.ids()) == set(masks)
    for each in data:
        assert np.array_equal(each.mask, masks[each.id])
        assert prepare_sample(each, CROP).x.shape == (3, 28, 28)
