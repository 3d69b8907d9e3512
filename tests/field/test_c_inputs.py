"""What goes in: the explained input by its name, what travels with it, its axes, and images from files."""

import struct
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from attribkit import AttribkitError, Attribution, BroadcastInput, Explainer, ModelSpec, Similarity, Unit, _models
from attribkit.cli import _explain_files as explain_files
from attribkit.cli import app
from attribkit.figures import frames
from attribkit.io._clips import Clip
from attribkit.io._preprocessing import ClipPreprocessing, read_image

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
    found = explainer.attribute(x, method, target=2, inputs={"words": BroadcastInput(words)}, **options)
    expected = Explainer(ImageFirst(model, words)).attribute(x, method, target=2, **options)
    torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-6)


def test_the_name_may_be_a_part_of_the_spec(texts):
    model, x, words = texts
    named = Explainer(model, image="pixels").attribute(x, inputs={"words": BroadcastInput(words)})
    spec = Explainer(model, spec=ModelSpec(image="pixels")).attribute(x, inputs={"words": BroadcastInput(words)})
    assert torch.equal(named.scores, spec.scores)
    both = Explainer(model, image="pixels", spec=ModelSpec(layer="first", image="words"))
    assert both.model.spec.image == "pixels"


def test_everything_that_asks_the_model_uses_the_name(texts):
    model, x, words = texts
    explainer, inner = Explainer(model, image="pixels"), Explainer(ImageFirst(model, words))
    more = {"inputs": {"words": BroadcastInput(words)}}
    for mine, theirs in zip(
        explainer.compare(x, ["saliency", "gradcam"], targets=[None, Unit("second", 1)], **more),
        inner.compare(x, ["saliency", "gradcam"], targets=[None, Unit("model.second", 1)]),
        strict=True,
    ):
        torch.testing.assert_close(mine.scores, theirs.scores)
    assert [layer.name for layer in explainer.layers(x, **more)] == ["first", "second"]
    own = [str(each).replace("'second'", "'model.second'") for each in explainer.check(x, **more)]
    assert own == [str(each).replace("'second'", "'model.second'") for each in inner.check(x)]
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
    Explainer(model, image="pixels").attribute(
        x, "gradcam", target=Unit("second", 0), inputs={"words": BroadcastInput(words)}
    )
    assert seen
    assert all(each == ((), ["pixels", "words"]) for each in seen)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("pixel", "No parameter of the model's forward is named 'pixel'. Did you mean 'pixels'"),
        (3, "image must be the name of the parameter .* got 3"),
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

    assert _models._image(Of(lambda input_ids=None, pixel_values=None: None)) == "pixel_values"
    assert _models._image(Of(lambda input_ids=None, pixel_values_videos=None: None)) == "pixel_values_videos"
    assert _models._image(Of(lambda input_ids=None, mask=None: None)) == "input_ids"
    assert _models._image(Of(lambda images: None)) is None  # a forward of the user's own: the first parameter


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("x", "words"),
    [
        (
            [torch.zeros(3, 8, 8)] * 2,
            r"list of 2 entries: use torch.stack for images of one size.*several inputs, pass the",
        ),
        (
            (torch.zeros(1, 3, 8, 8), torch.zeros(1, 4)),
            r"tuple of 2 entries.* as x and the others as inputs=\{name: tensor\}",
        ),
        (
            {"a": torch.zeros(1, 3, 8, 8)},
            r"dict of 'a': only one input can be explained at a time\. Name it with Explainer\(model, image=\.\.\.\)",
        ),
        (torch.zeros(1, 3, 8, 8).numpy(), r"ndarray: convert an array with torch\.as_tensor\(x\)"),
    ],
    ids=["list", "tuple", "dict", "array"],
)
def test_several_inputs_at_once_are_refused(texts, x, words):
    explainer = Explainer(texts[0], image="pixels")
    for ask in (explainer.attribute, explainer.layers, explainer.check, explainer.attention, explainer.feature_maps):
        with pytest.raises(AttribkitError, match=words):
            ask(x, inputs={"words": BroadcastInput(texts[2])})
    with pytest.raises(AttribkitError, match=words):
        explainer.compare(x, ["saliency"])


def test_the_explained_input_is_no_other_input(texts):
    model, x, words = texts
    for explainer, name in ((Explainer(model, image="pixels"), "pixels"), (Explainer(model), "words")):
        with pytest.raises(AttribkitError, match=rf"inputs\['{name}'\] is the explained input.* Pass it as x"):
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
    given = {"g": BroadcastInput(torch.full((1, 3), gate)), "s": [shift]}
    found = Explainer(model, batch_size=1).attribute(x, "saliency", target=1, inputs={"extra": given})
    leaf = x.clone().requires_grad_()
    model.read = lambda _: (torch.full((3, 3), gate), shift)
    (gradient,) = torch.autograd.grad(model(leaf, None)[:, 1].sum(), leaf)
    torch.testing.assert_close(found.scores, gradient.abs().amax(1, keepdim=True))
    assert "extra={'g': BroadcastInput((1, 3), crc32=" in found.notes[0]
    assert "'s': [((3, 1, 1, 1), crc32=" in found.notes[0]


@pytest.mark.usefixtures("as_users_run")
def test_nested_rows_that_do_not_fit_are_refused_by_their_place():
    model, x = Nested(lambda e: e), torch.randn(3, 3, 8, 8)
    with pytest.raises(AttribkitError, match=r"inputs\['extra'\]\['a'\]\[1\] has 2 rows for 3 images"):
        Explainer(model).attribute(x, inputs={"extra": {"a": (torch.rand(3, 3), torch.rand(2, 3))}})
    with pytest.raises(AttribkitError, match="BroadcastInput holds a single tensor, got list"):
        BroadcastInput([torch.rand(3)])


# 12. Axes


class Ends(nn.Module):
    """A convolution of the arranged images and a mean over all that is left."""

    def __init__(self, conv, arrange):
        super().__init__()
        torch.manual_seed(6)
        self.conv, self.head, self.arrange = conv(), nn.Linear(4, 3), arrange

    def forward(self, x):
        maps = self.conv(self.arrange(x)).relu().flatten(2).mean(2)
        return self.head(maps.unflatten(0, (len(x), -1)).mean(1))


class FramesInTurn(nn.Module):
    """A CNN for each frame, then an LSTM over them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.conv, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)
        self.lstm = nn.LSTM(4, 4, batch_first=True)

    def forward(self, x):
        frames = [self.conv(x[:, i]).relu().mean((2, 3)) for i in range(x.shape[1])]
        return self.head(self.lstm(torch.stack(frames, 1))[0][:, -1])


class LinearPatches(nn.Module):
    """Patches of 4 by 4 of each frame by one matrix, as rearranged by einops."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(8)
        self.embed, self.head = nn.Linear(3 * 16, 4), nn.Linear(4, 3)

    def forward(self, x):
        b, t, c, h, w = x.shape
        patches = x.reshape(b, t, c, h // 4, 4, w // 4, 4).permute(0, 1, 3, 5, 4, 6, 2).reshape(b, -1, 16 * c)
        return self.head(self.embed(patches).relu().mean(1))


def conv(axes, channels=3):
    return lambda: (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](channels, 4, 3, padding=1)


AXES = {  # name: the model, the images' shape, their axes; every one is told by a forward too
    "frames folded into the batch": (lambda: Ends(conv(2), lambda x: x.flatten(0, 1)), (2, 6, 3, 8, 10), "btchw"),
    "frames in turn": (FramesInTurn, (2, 6, 3, 8, 10), "btchw"),
    "three frames": (lambda: Ends(conv(2), lambda x: x.flatten(0, 1)), (2, 3, 3, 8, 10), "btchw"),
    "volume behind a permutation": (lambda: Ends(conv(3), lambda x: x.transpose(1, 2)), (2, 6, 3, 8, 10), "btchw"),
    "patches by a matrix": (LinearPatches, (2, 6, 3, 8, 12), "btchw"),
    "grey frames": (lambda: Ends(conv(2, 1), lambda x: x.flatten(0, 1)), (2, 6, 1, 8, 10), "btchw"),
    "colours last": (lambda: Ends(conv(2), lambda x: x.permute(0, 3, 1, 2)), (2, 8, 10, 3), "bhwc"),
    "normalised, colours last": (
        lambda: Ends(conv(2), lambda x: ((x - x.new_tensor([0.4, 0.5, 0.6])) / 0.2).movedim(-1, 1)),
        (2, 8, 10, 3),
        "bhwc",
    ),
    "clip, colours last": (lambda: Ends(conv(3), lambda x: x.movedim(-1, 1)), (2, 6, 8, 10, 3), "bthwc"),
    "slices without channels": (lambda: Ends(conv(3, 1), lambda x: x.unsqueeze(1)), (2, 6, 8, 10), "bthw"),
    "no channels": (lambda: Ends(conv(2, 1), lambda x: x[:, None]), (2, 8, 10), "bhw"),
    "no channels, repeated to three": (
        lambda: Ends(conv(2), lambda x: x[:, None].expand(-1, 3, -1, -1)),
        (2, 8, 10),
        "bhw",
    ),
    "series": (lambda: Ends(conv(1, 1), lambda x: x[:, None]), (2, 20), "bn"),
}


def own_gradient(model, x):
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    return gradient


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("name", AXES)
def test_axes_are_declared_or_seen(name, declared):
    make, shape, axes = AXES[name]
    model, x = make().eval(), torch.randn(shape)
    gradient = own_gradient(model, x)
    explainer = Explainer(model, spec=ModelSpec(axes=axes) if declared else None, batch_size=1)
    product = explainer.attribute(x, "input_x_gradient", target=1)
    torch.testing.assert_close(product.scores, x * gradient, rtol=1e-4, atol=1e-7)
    channels = axes.index("c") if "c" in axes else None
    reduced = x * gradient if channels is None else (x * gradient).sum(channels)
    torch.testing.assert_close(product.heatmap(), reduced, rtol=1e-4, atol=1e-7)
    saliency = explainer.attribute(x, "saliency", target=1)
    expected = gradient.abs() if channels is None else gradient.abs().amax(channels, keepdim=True)
    torch.testing.assert_close(saliency.scores, expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(saliency.x, x)
    assert (
        any(f"inferred from the first layer with weights: ({', '.join(axes)});" in note for note in saliency.notes)
        is not declared
    )


USUAL = {  # images (b, c, *space), whatever the convolutions are
    "clips folded to frames": (
        lambda: Ends(conv(2), lambda x: x.transpose(1, 2).flatten(0, 1)),
        (2, 3, 6, 8, 10),
        1,
    ),
    "slices as channels": (lambda: Ends(conv(2, 6), lambda x: x[:, 0]), (2, 1, 6, 8, 10), 1),
    "a channel at a time": (lambda: Ends(conv(2, 1), lambda x: x.flatten(0, 1)[:, None]), (2, 5, 8, 10), 1),
    "a spectrogram by its bands": (lambda: Ends(conv(1, 8), lambda x: x[:, 0]), (2, 1, 8, 20), 1),
    "several crops folded": (lambda: Ends(conv(3), lambda x: x[:, :, None]), (2, 3, 8, 10), 1),
    "shuffled pixels": (
        lambda: Ends(conv(2, 12), lambda x: torch.nn.functional.pixel_unshuffle(x, 2)),
        (2, 3, 8, 12),
        1,
    ),
    "three frames of three colours": (lambda: Ends(conv(3), lambda x: x), (2, 3, 3, 8, 10), 1),
}


@pytest.mark.parametrize("name", USUAL)
def test_a_forward_that_runs_is_right_whatever_its_convolutions_are(name):
    make, shape, channels = USUAL[name]
    model, x = make().eval(), torch.randn(shape)
    found = Explainer(model).attribute(x, "saliency", target=1)
    expected = own_gradient(model, x).abs().amax(channels, keepdim=True)
    torch.testing.assert_close(found.scores, expected, rtol=1e-4, atol=1e-7)
    assert found.axes is None
    assert found.notes == ()


def test_everything_works_in_the_models_own_axes():
    """Each answer equals that of the same model with the permutation outside of it, on (b, c, t, h, w)."""
    torch.manual_seed(9)
    body = nn.Sequential(nn.Conv3d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 4, 3, padding=1), nn.ReLU())
    usual = nn.Sequential(body, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3)).eval()

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.usual = usual

        def forward(self, x):
            return self.usual(x.transpose(1, 2))

    x = torch.randn(2, 6, 3, 8, 8)
    other = torch.randn(1, 6, 3, 8, 8)
    mine, theirs = Explainer(Own().eval()), Explainer(usual)
    cases = {
        "gradcam": {},
        "occlusion": {"patch": (2, 4, 4), "stride": (2, 4, 4)},
        "rise": {"masks": 8, "cells": (2, 2, 2)},
        "smoothgrad": {"samples": 2},
        "integrated_gradients": {"steps": 3, "baseline": other[0]},
    }
    for method, options in cases.items():
        turned = {key: v.transpose(0, 1) if isinstance(v, torch.Tensor) else v for key, v in options.items()}
        one = mine.attribute(x, method, target=1, **options)
        two = theirs.attribute(x.transpose(1, 2), method, target=1, **turned)
        torch.testing.assert_close(one.scores, two.scores.transpose(1, 2), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.heatmap(), two.heatmap(), rtol=1e-4, atol=1e-6)
        for metric, more in (("deletion", {"steps": 4}), ("max_sensitivity", {}), ("sparseness", {})):
            values = (mine.evaluate(one, metric, **more), theirs.evaluate(two, metric, **more))
            torch.testing.assert_close(*values, rtol=1e-3, atol=1e-5)
    one = mine.attribute(x, "saliency", target=Similarity(other))
    two = theirs.attribute(x.transpose(1, 2), "saliency", target=Similarity(other.transpose(1, 2)))
    torch.testing.assert_close(one.scores, two.scores.transpose(1, 2), rtol=1e-4, atol=1e-7)
    assert [layer.layout.grid for layer in mine.layers(x)][-1] == (6, 8, 8)
    maps = mine.feature_maps(x, "usual.0").values
    torch.testing.assert_close(maps, theirs.feature_maps(x.transpose(1, 2), "0").values)
    assert any("inferred from the first layer with weights: (b, t, c, h, w);" in each.text for each in mine.check(x))
    assert len(frames(one[0], frames=6).get_axes()) == 2 * 6 + 1


def test_a_saved_attribution_keeps_its_axes(tmp_path):
    model, x = AXES["colours last"][0]().eval(), torch.randn(2, 8, 10, 3)
    saved = Explainer(model).attribute(x, "saliency", target=1)
    saved.save(tmp_path / "a.safetensors")
    read = Attribution.load(tmp_path / "a.safetensors")
    assert read.axes == "bhwc"
    assert torch.equal(read.heatmap(), saved.heatmap())
    assert torch.equal(read[1].heatmap(), saved.heatmap()[1:])
    first = read.channels_first()
    assert (first.axes, first.x.shape, first.scores.shape) == (None, (2, 3, 8, 10), (2, 1, 8, 10))


class Late(nn.Module):
    """A convolution that is defined first and met last."""

    def __init__(self):
        super().__init__()
        self.late, self.early = nn.Conv2d(4, 5, 1), nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x):
        return self.late(self.early(x).relu()).mean((2, 3))


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("make", "shape", "words"),
    [
        (Late, (2, 4, 8, 8), r"6 channels, got 4 \(shape \(2, 4, 8, 8\)\): its first convolution, 'early'"),
        (
            lambda: AXES["colours last"][0](),
            (2, 3, 8, 10),
            "3 channels, got 10 .* Axis 1 has size 3: check the order of the axes",
        ),
        (lambda: Ends(conv(3), lambda x: x), (2, 6, 3, 8, 8), "3 channels, got 6 .* Axis 2 has size 3"),
        (Late, (6, 8, 8), r"batch axis is missing in images of shape \(6, 8, 8\).* 4 axes .*x\[None\]"),
        (lambda: Ends(conv(3), lambda x: x), (3, 6, 8, 8), r"batch axis is missing .* 5 axes .*x\[None\]"),
        (
            lambda: Ends(conv(2), lambda x: x.flatten(0, 1)),
            (6, 3, 8, 8),
            r"batch axis is missing .*x\[None\]",
        ),
        (lambda: Ends(conv(2), lambda x: x.permute(0, 3, 1, 2)), (8, 8, 3), r"own forward does not accept .*x\[None\]"),
        (Late, (2, 6, 4, 8, 8), r"shape \(2, 6, 4, 8, 8\), but the first layer, 'early'.* 4 axes .* gets 5"),
        (lambda: nn.Sequential(nn.Linear(5, 3)), (2, 5), r"must have the shape \(b, c, \*space\).*axes=.bn."),
    ],
)
def test_what_the_first_layer_does_not_take_is_refused(make, shape, words):
    with pytest.raises(AttribkitError, match=words):
        Explainer(make().eval()).attribute(torch.randn(shape), "saliency", target=1)


def test_channels_and_axes_that_are_declared_are_checked():
    model, x = AXES["frames in turn"][0]().eval(), torch.randn(2, 3, 6, 8, 8)
    with pytest.raises(AttribkitError, match=r"3 channels, got 6 .* Axis 1 has size 3"):
        Explainer(model, spec=ModelSpec(axes="btchw")).attribute(x)
    with pytest.raises(AttribkitError, match=r"5 axes \(b, t, c, h, w\), got shape \(6, 3, 8, 8\). Add the batch axis"):
        Explainer(model, spec=ModelSpec(axes="btchw")).attribute(torch.randn(6, 3, 8, 8))
    spec = ModelSpec(axes="btchw", input_size=(3, 6, 8, 8))
    with pytest.raises(AttribkitError, match=r"3 channels on axis 2, got 6"):
        Explainer(model, spec=spec).attribute(x)
    model = AXES["volume behind a permutation"][0]().eval()
    assert Explainer(model, spec=spec).check(target=1) == []  # noise of the size, in the model's own axes


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("axes", ["", "b", "bc", "cbhw", "bchh", "BCHW", "b c h w", 4])
def test_axes_that_are_none(axes):
    with pytest.raises(AttribkitError, match="axes must name each axis of the images with a different letter"):
        ModelSpec(axes=axes)


class Frames(nn.Module):
    """A CNN for each frame; it describes itself."""

    spec = ModelSpec(axes="btchw")

    def __init__(self):
        super().__init__()
        self.inner = Ends(conv(2), lambda x: x.flatten(0, 1))

    def forward(self, x):
        return self.inner(x)


def test_files_go_in_as_the_model_takes_them():
    model = Frames().eval()
    preprocessing = ClipPreprocessing(4, (16, 16), 16, (0.5,) * 3, (0.5,) * 3)
    frames = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)
    clip = Clip(frames, (0, 1, 2, 3), 4, 8.0)
    explainer = Explainer(model)
    (found,) = explain_files.explain_images(explainer, preprocessing, {"a": clip}, ["saliency"], target=1)
    x = preprocessing(clip)[None].transpose(1, 2)
    torch.testing.assert_close(found.attributions[0].x, x)
    torch.testing.assert_close(found.attributions[0].scores, own_gradient(model, x).abs().amax(2, keepdim=True))


# 13. Images from files

RAMP = np.linspace(0, 1, 24 * 32).reshape(24, 32)
TURNED = {2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose, 6: lambda a: np.rot90(a, -1)}


def grey(image):
    """One channel of what was read, which is grey."""
    pixels = np.asarray(image).astype(int)
    assert image.mode == "RGB"
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_few_bits_in_a_file_of_sixteen_need_a_window(tmp_path, bits, ending):
    path = tmp_path / f"a{ending}"
    values = (RAMP * (2**bits - 1)).round().astype(np.uint16)
    Image.fromarray(values).save(path)
    with pytest.raises(AttribkitError, match=rf"values up to {2**bits - 1} in 16 bits.*--window.*0,{2**bits - 1};"):
        read_image(path)
    assert np.abs(grey(read_image(path, window=(0, 2**bits - 1))) - 255 * RAMP).max() < 1.5
    low, high = 2**bits // 4, 2**bits // 2
    narrow = grey(read_image(path, window=(low, high)))
    assert np.abs(narrow - 255 * ((values - float(low)) / (high - low)).clip(0, 1)).max() < 1.5
    assert np.array_equal(grey(read_image(path, window=(0, 65535))), values // 257)


def test_all_of_sixteen_bits_is_the_whole_range_and_black_is_black(tmp_path):
    for values in ((RAMP * 65535).astype(np.uint16), np.zeros((24, 32), np.uint16)):
        Image.fromarray(values).save(tmp_path / "a.png")
        assert np.array_equal(grey(read_image(tmp_path / "a.png")), values // 257)


def big_endian(values, orientation):
    """A TIFF of 16 bits, most significant byte first, by its specification."""
    data = values.astype(">u2").tobytes()
    height, width = values.shape
    tags = [
        (256, 3, width), (257, 3, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (274, 3, orientation),
        (277, 3, 1), (278, 3, height), (279, 4, len(data)),
    ]  # fmt: skip
    entries = [
        struct.pack(">HHI", tag, kind, 1) + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
        for tag, kind, value in tags
    ]
    directory = struct.pack(">H", len(tags)) + b"".join(entries) + bytes(4)
    return b"MM" + struct.pack(">HI", 42, 8 + len(data)) + data + directory


@pytest.mark.parametrize("orientation", [1, *TURNED])
def test_big_endian_and_turned(tmp_path, orientation):
    values = (RAMP * 65535).astype(np.uint16)
    (tmp_path / "a.tif").write_bytes(big_endian(values, orientation))
    expected = TURNED.get(orientation, np.copy)(values // 257)
    assert np.array_equal(grey(read_image(tmp_path / "a.tif")), expected)


@pytest.mark.parametrize("kind", ["a.tif", "deflate.tif", "a.png", "sixteen.png", "sixteen.tif"])
@pytest.mark.parametrize("orientation", TURNED)
def test_photographs_are_turned_upright(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    values = (RAMP * 255).astype(np.uint8)
    image = Image.fromarray(values.astype(np.uint16) * 257 if kind.startswith("sixteen") else values)
    image.save(tmp_path / kind, exif=exif, **({"compression": "tiff_deflate"} if kind.startswith("deflate") else {}))
    assert np.array_equal(grey(read_image(tmp_path / kind)), TURNED[orientation](values))


def test_colours_of_few_bits_are_not_read_as_black(tmp_path):
    for name, most, dark in (("few.png", 4095, True), ("few.tif", 4095, True), ("all.png", 65535, False)):
        values = np.stack([(RAMP * most).astype(np.uint16)] * 3, -1)
        cv2.imwrite(str(tmp_path / name), values)
        if dark:
            with pytest.raises(AttribkitError, match="16-bit colour image with all values below 16384"):
                read_image(tmp_path / name)
        else:
            assert np.abs(grey(read_image(tmp_path / name)) - values[..., 0] // 257).max() <= 1


def test_floats_need_a_window_and_are_finite(tmp_path):
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(AttribkitError, match=r"'F' values of unknown range.*--window"):
        read_image(tmp_path / "a.tif")
    assert np.abs(grey(read_image(tmp_path / "a.tif", window=(0, 1))) - 255 * RAMP).max() <= 1
    Image.fromarray(np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(AttribkitError, match="NaN or infinite values"):
        read_image(tmp_path / "b.tif", window=(0, 1))


def test_a_window_is_a_pair_and_for_deep_images(tmp_path):
    Image.fromarray((RAMP * 255).astype(np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(AttribkitError, match=r"window applies to .*a\.png' is read with 8 bits per channel: omit it"):
        read_image(tmp_path / "a.png", window=(0, 100))
    for window in ((5, 5), (9, 1), (0, float("nan"))):
        with pytest.raises(AttribkitError, match=r"pair of finite values \(low, high\) with low < high, got"):
            read_image(tmp_path / "a.png", window=window)


def test_the_command_line_takes_a_window(tmp_path):
    Image.fromarray((RAMP * 4095).astype(np.uint16)).resize((128, 128), Image.Resampling.NEAREST).save(
        tmp_path / "a.png"
    )
    run = ["explain", str(tmp_path / "a.png"), "--method", "saliency", "-o", str(tmp_path / "out.npz")]
    refused = CliRunner().invoke(app, run)
    assert refused.exit_code == 2
    assert "--window low,high" in refused.output
    assert "0,4095" in refused.output
    assert CliRunner().invoke(app, [*run, "--window", "0,4095"]).exit_code == 0
    assert (tmp_path / "out.npz").exists()
    for wrong in ("0", "a,b", "5,1"):
        assert CliRunner().invoke(app, [*run, "--window", wrong]).exit_code == 2


def test_large_images(tmp_path, monkeypatch):
    Image.fromarray((RAMP * 255).astype(np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RAMP.size - 1)  # between the limit and twice as much Pillow warns
    assert read_image(tmp_path / "a.png").size == (32, 24)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", RAMP.size // 2 - 1)
    with pytest.raises(AttribkitError, match=r"larger than Pillow allows .*PIL.Image.MAX_IMAGE_PIXELS"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_animations_are_clips(tmp_path, ending):
    frames = [Image.fromarray(np.full((24, 32), 40 * i, np.uint8)).convert("RGB") for i in range(3)]
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:])
    with pytest.raises(AttribkitError, match="is a clip, but the model expects photographs"):
        read_image(tmp_path / f"a.{ending}")
    frames[1].save(tmp_path / f"b.{ending}")
    assert read_image(tmp_path / f"b.{ending}").size == (32, 24)


def test_other_kinds_of_pixels(tmp_path):
    colours = np.zeros((24, 32, 3), np.uint8)
    colours[:, :16], colours[:, 16:] = (200, 40, 60), (20, 180, 90)
    photograph = Image.fromarray(colours)
    photograph.convert("CMYK").save(tmp_path / "cmyk.tif")
    assert np.abs(np.asarray(read_image(tmp_path / "cmyk.tif")).astype(int) - colours).max() <= 1
    palette = photograph.convert("P", palette=Image.Palette.ADAPTIVE)
    palette.info["transparency"] = bytes([0, 128] + [255] * 254)
    palette.save(tmp_path / "palette.png", transparency=palette.info["transparency"])
    assert np.abs(np.asarray(read_image(tmp_path / "palette.png")).astype(int) - colours).max() <= 4
    photograph.convert("RGBA").save(tmp_path / "rgba.png")
    assert np.array_equal(np.asarray(read_image(tmp_path / "rgba.png")), colours)
    bits = RAMP > 0.5
    Image.fromarray(bits).save(tmp_path / "bits.png")
    assert np.array_equal(grey(read_image(tmp_path / "bits.png")), 255 * bits)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "gif", "webp", "bmp"])
def test_truncated_files(tmp_path, ending):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{ending}")
    whole = (tmp_path / f"a.{ending}").read_bytes()
    for share in (0.0, 0.01, 0.3, 0.6):
        (tmp_path / f"cut.{ending}").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(AttribkitError, match=r"cannot be read as an image|is a clip"):
            read_image(tmp_path / f"cut.{ending}")
