"""Real weights and real photographs: Grad-CAM points at the animal that the class names, with no layer named."""

import json
from dataclasses import replace

import pytest
import torch

from attribkit import Explainer, load_model
from attribkit.preprocessing import read_image

MODELS = {
    "mobilenetv2": (
        "timm:mobilenetv2_100",
        "mobilenetv2_in1k/mobilenetv2_100_same.fp16.safetensors",
        {"pad_type": "same"},
    ),
    "vit_tiny": ("timm:vit_tiny_patch16_224", "vit_tiny_in1k/vit_tiny_patch16_224.fp16.safetensors", {}),
}
# Boxes of the animals in both.png: left, top, right, bottom, in pixels of the model's 224 by 224 view; drawn by hand.
DOG, CAT = (73, 0, 172, 152), (35, 118, 198, 224)


@pytest.fixture(scope="module", params=MODELS)
def loaded(request, assets):
    name, weights, arguments = MODELS[request.param]
    model, preprocessing = load_model(name, weights=assets / weights, **arguments)
    return Explainer(model), replace(preprocessing, mean=(0.5,) * 3, std=(0.5,) * 3)  # as these weights were trained


def inside(point, box):
    (row, column), (left, top, right, bottom) = point, box
    return left <= column <= right and top <= row <= bottom


def test_the_dog_and_the_cat(loaded, assets):
    explainer, preprocess = loaded
    x = preprocess(read_image(assets / "gradcam_demo_images" / "both.png"))[None].expand(2, -1, -1, -1)
    attribution = explainer.attribute(x, "gradcam", target=["bull mastiff", "tabby"])
    assert attribution.target.index == (243, 281)
    dog, cat = (divmod(int(heatmap.argmax()), 224) for heatmap in attribution.heatmap())
    assert inside(dog, DOG), f"the dog's maximum is at {dog}"
    assert not inside(dog, CAT), f"the dog's maximum is at {dog}"
    assert inside(cat, CAT), f"the cat's maximum is at {cat}"
    assert not inside(cat, DOG), f"the cat's maximum is at {cat}"


@pytest.mark.slow
def test_off_centre_objects_are_hit(loaded, assets):
    """On images whose centre lies outside every box; the centre hits none of them, a random point 15 %."""
    explainer, preprocess = loaded
    folder = assets / "imagenet_val_boxes"
    entries = {n: b for n, b in json.loads((folder / "boxes.json").read_text()).items() if not b["centre_inside"]}
    hits = [
        hit for batch in batches(list(entries.items()), 25) for hit in hits_of(explainer, preprocess, folder, batch)
    ]
    share = sum(hits) / len(hits)
    print(f"\n{type(explainer.model.module).__name__}: {sum(hits)} of {len(hits)} off-centre images hit ({share:.1%})")
    assert share >= 0.38


def batches(items, size):
    return (items[i : i + size] for i in range(0, len(items), size))


def hits_of(explainer, preprocess, folder, batch):
    x = torch.stack([preprocess(read_image(folder / "images" / name)) for name, _ in batch])
    attribution = explainer.attribute(x, "gradcam", target=[entry["label"] for _, entry in batch])
    for heatmap, (_, entry) in zip(attribution.heatmap(), batch, strict=True):
        row, column = divmod(int(heatmap.argmax()), 224)
        scale, cropped = 227 / preprocess.resize, (preprocess.resize - 224) / 2  # from the view to the 227 by 227 file
        point = ((row + 0.5 + cropped) * scale, (column + 0.5 + cropped) * scale)
        yield any(inside(point, box) for box in entry["boxes_xyxy_227"])
