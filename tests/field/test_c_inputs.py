"""What goes in: the explained input by its name, what travels with it, its axes, and images from files."""

from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

from attribkit import AttribkitError, Explainer, ModelSpec, Shared, Unit
from attribkit.models import hugging_face

METHODS = ["saliency", "input_x_gradient", "gradcam", "occlusion", "smoothgrad", "ablationcam", "rise"]
OPTIONS = {
    "occlusion": {"patch": 8, "stride": 8},
    "rise": {"masks": 12, "cells": 4},
    "smoothgrad": {"samples": 3},
}

# 11. The explained input has a name


class TextFirst(nn.Module):
    """Scores of images for texts; the text is the first parameter of the forward, as in CLIP."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.embed = nn.Embedding(9, 6)
        self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, stride=2)

    def forward(self, words=None, pixels=None, *, scale=1.0):
        maps = self.second(self.first(pixels).relu()).relu()
        return maps.mean((2, 3)) @ self.embed(words).mean(1).T * scale


class ImageFirst(nn.Module):
    """The same with the words built in."""

    def __init__(self, model, words):
        super().__init__()
        self.model, self.words = model, words

    def forward(self, x):
        return self.model(self.words, x)


@pytest.fixture
def texts():
    model = TextFirst().eval()
    return model, torch.randn(3, 3, 16, 16), torch.randint(9, (4, 5))


@pytest.mark.parametrize("method", METHODS)
def test_the_image_is_given_by_its_name(texts, method):
    model, x, words = texts
    options = OPTIONS.get(method, {})
    explainer = Explainer(model, image="pixels", batch_size=2)
    found = explainer.attribute(x, method, target=2, inputs={"words": Shared(words)}, **options)
    expected = Explainer(ImageFirst(model, words)).attribute(x, method, target=2, **options)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-6)


def test_the_name_may_be_a_part_of_the_spec(texts):
    model, x, words = texts
    named = Explainer(model, image="pixels").attribute(x, inputs={"words": Shared(words)})
    spec = Explainer(model, spec=ModelSpec(image="pixels")).attribute(x, inputs={"words": Shared(words)})
    assert torch.equal(named.scores, spec.scores)
    both = Explainer(model, image="pixels", spec=ModelSpec(layer="first", image="words"))
    assert both.model.spec.image == "pixels"


def test_everything_that_asks_the_model_uses_the_name(texts):
    model, x, words = texts
    explainer, inner = Explainer(model, image="pixels"), Explainer(ImageFirst(model, words))
    more = {"inputs": {"words": Shared(words)}}
    for mine, theirs in zip(
        explainer.compare(x, ["saliency", "gradcam"], targets=[None, Unit("second", 1)], **more),
        inner.compare(x, ["saliency", "gradcam"], targets=[None, Unit("model.second", 1)]),
        strict=True,
    ):
        torch.testing.assert_close(mine.scores, theirs.scores)
    assert [layer.name for layer in explainer.layers(x, **more)] == ["first", "second"]
    assert explainer.check(x, **more) == inner.check(x)
    maps = explainer.feature_maps(x, "second", **more).values
    torch.testing.assert_close(maps, inner.feature_maps(x, "model.second").values)
    field, expected = explainer.receptive_field("second", x, **more), inner.receptive_field("model.second", x)
    assert field.size == expected.size == (5, 5)
    torch.testing.assert_close(field.effective, expected.effective)
    assert explainer.attention_gates(x, **more) == []
    mine, theirs = explainer.attribute(x, **more), inner.attribute(x)
    for metric in ("deletion", "max_sensitivity", "parameter_randomisation"):
        options = {"steps": 4} if metric == "deletion" else {}
        torch.testing.assert_close(
            explainer.evaluate(mine, metric, **options, **more), inner.evaluate(theirs, metric, **options)
        )
    made = explainer.visualize(1, size=(3, 16, 16), steps=2, **more)
    torch.testing.assert_close(made.images, inner.visualize(1, size=(3, 16, 16), steps=2).images)


def test_a_hook_of_the_users_sees_the_arguments_that_the_forward_takes(texts):
    model, x, words = texts
    seen = []
    model.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args, sorted(kwargs))), with_kwargs=True)
    Explainer(model, image="pixels").attribute(x, "gradcam", target=Unit("second", 0), inputs={"words": Shared(words)})
    assert seen
    assert all(each == ((), ["pixels", "words"]) for each in seen)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("pixel", "No parameter of the model's forward is named 'pixel'. Did you mean 'pixels'"),
        (3, "image=3 is the name"),
    ],
)
def test_a_name_that_the_forward_does_not_have_is_refused(image, words):
    with pytest.raises(AttribkitError, match=words):
        Explainer(TextFirst(), image=image)


def test_a_model_of_hugging_face_names_its_images():
    class Of(nn.Module):
        main_input_name = "input_ids"

        def __init__(self, forward):
            super().__init__()
            self.forward = forward

    assert hugging_face._image(Of(lambda input_ids=None, pixel_values=None: None)) == "pixel_values"
    assert hugging_face._image(Of(lambda input_ids=None, pixel_values_videos=None: None)) == "pixel_values_videos"
    assert hugging_face._image(Of(lambda input_ids=None, mask=None: None)) == "input_ids"
    assert hugging_face._image(Of(lambda images: None)) is None  # a forward of the user's own: the first parameter


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("x", "words"),
    [
        ([torch.zeros(3, 8, 8)] * 2, "list of 2 entries: torch.stack images of one size; of several inputs .* one is"),
        ((torch.zeros(1, 3, 8, 8), torch.zeros(1, 4)), "tuple of 2 entries.* give its tensor as x and the others by"),
        ({"a": torch.zeros(1, 3, 8, 8)}, r"dict of 'a': one input is explained at a time; name it by Explainer"),
        (torch.zeros(1, 3, 8, 8).numpy(), r"ndarray: torch.as_tensor\(x\)"),
    ],
    ids=["list", "tuple", "dict", "array"],
)
def test_several_inputs_at_once_are_refused(texts, x, words):
    explainer = Explainer(texts[0], image="pixels")
    for ask in (explainer.attribute, explainer.layers, explainer.check, explainer.attention, explainer.feature_maps):
        with pytest.raises(AttribkitError, match=words):
            ask(x, inputs={"words": Shared(texts[2])})
    with pytest.raises(AttribkitError, match=words):
        explainer.compare(x, ["saliency"])


def test_the_explained_input_is_no_other_input(texts):
    model, x, words = texts
    for explainer, name in ((Explainer(model, image="pixels"), "pixels"), (Explainer(model), "words")):
        with pytest.raises(AttribkitError, match=rf"inputs\['{name}'\] is the explained input.* give it as x"):
            explainer.attribute(x, inputs={name: words})
    with pytest.raises(AttribkitError, match="Known: words, scale"):
        Explainer(model, image="pixels").attribute(x, inputs={"sentence": words})


Pair = namedtuple("Pair", ["gate", "shift"])


@dataclass(frozen=True)
class Record:
    gate: Any
    shift: Any


class Nested(nn.Module):
    """A gate and a shift of each image, out of a structure."""

    def __init__(self, read):
        super().__init__()
        torch.manual_seed(5)
        self.conv, self.head, self.read = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3), read

    def forward(self, x, extra):
        gate, shift = self.read(extra)
        return self.head((self.conv(x * gate[:, :, None, None]).relu() + shift).mean((2, 3)))


STRUCTURES = {
    "tuple": (lambda g, s: (g, s), lambda e: e),
    "list": (lambda g, s: [g, [s]], lambda e: (e[0], e[1][0])),
    "dict": (lambda g, s: {"a": g, "b": {"c": (s, "text", None)}}, lambda e: (e["a"], e["b"]["c"][0])),
    "named tuple": (Pair, lambda e: (e.gate, e.shift)),
    "ordered dict": (lambda g, s: OrderedDict(g=g, s=s), lambda e: (e["g"], e["s"])),
    "user dict": (lambda g, s: UserDict(g=g, s=s), lambda e: (e.data["g"], e.data["s"])),
    "dataclass": (Record, lambda e: (e.gate, e.shift)),
}


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("method", ["saliency", "gradcam", "occlusion", "ablationcam", "smoothgrad"])
def test_nested_tensors_travel_with_their_images(structure, method):
    make, read = STRUCTURES[structure]
    model, x, gate = Nested(read).eval(), torch.randn(3, 3, 8, 8), torch.rand(3, 3)
    shift = torch.tensor(0.25)  # has no rows
    options = {"occlusion": {"patch": 4, "stride": 4}}.get(method, OPTIONS.get(method, {}))
    given = make(gate, shift)
    found = Explainer(model, batch_size=2).attribute(x, method, target=1, inputs={"extra": given}, **options)
    for i in range(3):
        alone = make(gate[i : i + 1], shift)
        expected = Explainer(model).attribute(x[i : i + 1], method, target=1, inputs={"extra": alone}, **options)
        torch.testing.assert_close(found.scores[i : i + 1], expected.scores, rtol=1e-4, atol=1e-6)
    assert read(given)[0] is gate  # what the user gave is as it was


def test_a_shared_tensor_inside_a_structure_is_the_same_for_all():
    model, x, gate = (
        Nested(lambda e: (e["g"].expand(len(e["s"][0]), 3), e["s"][0])).eval(),
        torch.randn(3, 3, 8, 8),
        2.0,
    )
    shift = torch.rand(3, 1, 1, 1)
    given = {"g": Shared(torch.full((1, 3), gate)), "s": [shift]}
    found = Explainer(model, batch_size=1).attribute(x, "saliency", target=1, inputs={"extra": given})
    leaf = x.clone().requires_grad_()
    model.read = lambda _: (torch.full((3, 3), gate), shift)
    (gradient,) = torch.autograd.grad(model(leaf, None)[:, 1].sum(), leaf)
    torch.testing.assert_close(found.scores, gradient.abs().amax(1, keepdim=True))
    assert "extra={'g': Shared((1, 3), crc32=" in found.notes[0]
    assert "'s': [((3, 1, 1, 1), crc32=" in found.notes[0]


@pytest.mark.usefixtures("as_users_run")
def test_nested_rows_that_do_not_fit_are_refused_by_their_place():
    model, x = Nested(lambda e: e), torch.randn(3, 3, 8, 8)
    with pytest.raises(AttribkitError, match=r"inputs\['extra'\]\['a'\]\[1\] has 2 rows for 3 images"):
        Explainer(model).attribute(x, inputs={"extra": {"a": (torch.rand(3, 3), torch.rand(2, 3))}})
    with pytest.raises(AttribkitError, match="Shared holds one tensor, got list"):
        Shared([torch.rand(3)])
