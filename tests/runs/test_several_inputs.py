"""Models that take more than images: what else they take travels with its image, whatever a method does."""

import pytest
import timm
import torch
from torch import nn

from attribkit import AttribkitError, BroadcastInput, Explainer, NoTarget, Similarity, Unit, registry
from attribkit.testing import changes, model_state, tiny_cnn
from tests.refusals import ANSWERING

OPTIONS = {"occlusion": {"patch": 8, "stride": 8}, "rise": {"masks": 32, "cells": 4}, "smoothgrad": {"samples": 3}}
METHODS = [*(name for name in ANSWERING if name != "cam"), "auto integrated gradients"]


class WithMetadata(nn.Module):
    """Class scores of images and of five numbers of each, which meet before the last convolution."""

    def __init__(self, middle=True):
        super().__init__()
        with torch.random.fork_rng([]):
            torch.manual_seed(4)
            self.first, self.second = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, stride=2)
            self.gate, self.head = nn.Linear(5, 6), nn.Linear(6, 4)
        self.middle = middle

    def forward(self, x, metadata, scale=1.0, names=None):
        assert names is None or isinstance(names, list)
        gate = self.gate(metadata).tanh() * scale
        maps = self.first(x).relu()
        maps = self.second(maps * gate[:, :, None, None] if self.middle else maps).relu()
        pooled = maps.mean((2, 3))
        return self.head(pooled if self.middle else pooled * gate)


class Fixed(nn.Module):
    """The same for one image, whose metadata are built in."""

    def __init__(self, model, **inputs):
        super().__init__()
        self.model, self.inputs = model, inputs

    def forward(self, x):
        return self.model(
            x, **{name: v.expand(len(x), -1) if name == "metadata" else v for name, v in self.inputs.items()}
        )


def images(count=3):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def metadata(count=3):
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(2))


def named(method, prefix=""):
    """A method by its name in these tests, its options, with a layer behind and one before the metadata."""
    if method == "auto integrated gradients":
        return "integrated_gradients", {"steps": "auto", "tolerance": 0.2}
    options = OPTIONS.get(method, {})
    layered = "layer" in registry.options_of(registry.methods()[method])
    return method, options | ({"layer": f"{prefix}second"} if layered else {})


@pytest.mark.parametrize("batch_size", [2, "auto"])
@pytest.mark.parametrize("method", METHODS)
def test_every_image_keeps_its_own(method, batch_size):
    model, x, more = WithMetadata().eval(), images(), metadata()
    name, options = named(method)
    found = Explainer(model, batch_size=batch_size).attribute(x, name, inputs={"metadata": more}, **options)
    name, options = named(method, prefix="model.")
    for i in range(3):
        alone = Explainer(Fixed(model, metadata=more[i : i + 1])).attribute(x[i : i + 1], name, **options)
        torch.testing.assert_close(found.scores[i : i + 1], alone.scores, rtol=1e-4, atol=1e-6)
    if found.method.uses_target:
        assert found.target.index == tuple(model(x, more).argmax(1).tolist())
    else:
        assert found.target == NoTarget()
    assert any(note.startswith("other inputs of the model: metadata=((3, 5), crc32=") for note in found.notes)


@pytest.mark.parametrize("layer", ["first", "second"])
@pytest.mark.parametrize("middle", [True, False])
def test_interventions_before_and_behind_the_meeting(layer, middle):
    """Ablation-CAM puts many maps of one image through the rest of the model, which has one row of metadata."""
    model, x, more = WithMetadata(middle).eval(), images(), metadata()
    found = Explainer(model).attribute(x, "ablationcam", layer=layer, target=1, inputs={"metadata": more})
    for i in range(3):
        own, row = x[i : i + 1], more[i : i + 1]
        kept = {}
        handle = getattr(model, layer).register_forward_hook(
            lambda _m, _a, y, kept=kept: kept.setdefault("maps", y) * kept.get("mask", 1)
        )
        score = model(own, row)[0, 1]
        weights = []
        for channel in range(6):
            kept["mask"] = (torch.arange(6) != channel).float()[:, None, None]
            weights.append((score - model(own, row)[0, 1]) / score.abs())
        handle.remove()
        expected = sum(w * m for w, m in zip(weights, kept["maps"][0], strict=True)).relu()
        torch.testing.assert_close(found.scores[i, 0], expected, rtol=1e-4, atol=1e-6)


def test_compare():
    model, x, more = WithMetadata().eval(), images(), {"metadata": metadata(), "scale": 2.0}
    methods = ["gradcam", "saliency", "guided_backprop", "scorecam"]
    found = iter(Explainer(model, batch_size=2).compare(x, methods, targets=[None, 1, Unit("second", 2)], inputs=more))
    for target in (None, 1, Unit("second", 2)):
        for method in methods:
            alone = Explainer(model).attribute(x, method, target=target, inputs=more)
            torch.testing.assert_close(next(found).scores, alone.scores)


def test_other_things_are_handed_on_as_they_are():
    model, x, more = WithMetadata().eval(), images(), metadata()
    found = Explainer(model, batch_size=1).attribute(
        x,
        "occlusion",
        target=1,
        patch=8,
        stride=8,
        inputs={"metadata": more, "scale": torch.tensor(0.5), "names": ["a"]},
    )
    expected = Explainer(model).attribute(
        x, "occlusion", target=1, patch=8, stride=8, inputs={"metadata": more * 1, "scale": 0.5}
    )
    torch.testing.assert_close(found.scores, expected.scores)
    assert "names=['a']" in found.notes[0]


def test_a_shared_tensor_is_the_same_for_all():
    class Retrieval(nn.Module):
        """Class scores are products with embeddings of words, as in zero-shot classification."""

        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(*list(tiny_cnn())[:7])

        def forward(self, pixel_values, words):
            return type("Output", (), {"logits_per_image": self.body(pixel_values) @ words.T})()

    model, x, words = Retrieval().eval(), images(), torch.randn(3, 6)  # as many as images
    for method in ("gradcam", "saliency", "occlusion"):
        options = OPTIONS.get(method, {})
        found = Explainer(model, batch_size=1).attribute(x, method, inputs={"words": BroadcastInput(words)}, **options)
        assert found.target.index == tuple(model(x, words).logits_per_image.argmax(1).tolist())
        for i in range(3):
            alone = Explainer(model).attribute(x[i : i + 1], method, inputs={"words": BroadcastInput(words)}, **options)
            torch.testing.assert_close(found.scores[i : i + 1], alone.scores)
    assert found.notes[0].startswith("other inputs of the model: words=BroadcastInput((3, 6), crc32=")


@pytest.mark.slow
def test_transformers_whose_readers_are_asked_about_one_image():
    class WithBias(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=4)

        def forward(self, x, bias):
            return self.body(x * bias[:, :, None, None])

    model, x, bias = WithBias().eval(), torch.randn(3, 3, 32, 32), torch.rand(3, 3)
    for method in ("attention_rollout", "gradient_rollout", "attention"):
        found = Explainer(model, batch_size=2).attribute(x, method, inputs={"bias": bias})
        for i in range(3):
            alone = Explainer(model).attribute(x[i : i + 1], method, inputs={"bias": bias[i : i + 1]})
            torch.testing.assert_close(found.scores[i : i + 1], alone.scores)


def test_looking_at_the_model():
    model, x, more = WithMetadata().eval(), images(), {"metadata": metadata()}
    explainer = Explainer(model, batch_size=2)
    (finding,) = explainer.check(x, inputs=more)
    assert "layer 'second' covers 3% to 91%, 3% to 91% of the image" in finding.text  # it pads nothing
    assert [layer.name for layer in explainer.layers(x, inputs=more) if layer.chosen] == ["second"]
    maps = explainer.feature_maps(x, "second", inputs=more).values
    gate = model.gate(metadata()).tanh()[:, :, None, None]
    torch.testing.assert_close(maps, model.second(model.first(x).relu() * gate))


def test_nothing_of_the_users_is_changed():
    class InPlace(WithMetadata):
        def forward(self, x, metadata):
            scores = WithMetadata.forward(self, x, metadata)
            metadata.zero_()
            return scores

    model, x, more, wrong = InPlace().train(), images(), metadata(), torch.zeros(3, 7)
    before, kept = model_state(model), more.clone()
    found = Explainer(model).attribute(x, "occlusion", patch=8, stride=8, inputs={"metadata": more})
    assert torch.equal(more, kept)
    assert not changes(before, model_state(model))
    with pytest.raises(RuntimeError):
        Explainer(model).attribute(x, "gradcam", inputs={"metadata": wrong})
    assert not changes(before, model_state(model))
    expected = Explainer(WithMetadata()).attribute(x, "occlusion", patch=8, stride=8, inputs={"metadata": more})
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            {"metadata": torch.randn(2, 5)},
            r"inputs\['metadata'\] has 2 rows for 3 images. Pass one row per image, or BroadcastInput",
        ),
        ({"metadate": torch.randn(3, 5)}, "Did you mean 'metadata'"),
        (
            torch.randn(3, 5),
            "inputs must be a dict from names of other arguments of the model's forward to their values, got Tensor",
        ),
    ],
)
@pytest.mark.parametrize("method", ["gradcam", "saliency", "occlusion"])
def test_what_does_not_fit_is_refused(inputs, words, method):
    with pytest.raises(AttribkitError, match=words):
        Explainer(WithMetadata()).attribute(images(), method, inputs=inputs)


def test_what_is_missing_is_said_by_the_models_own_forward():
    with pytest.raises(TypeError, match="metadata") as caught:
        Explainer(WithMetadata()).attribute(images(), "saliency")
    assert any("the model's own forward" in note for note in caught.value.__notes__)


def test_a_method_that_asks_about_single_images_is_refused_rather_than_mixed_up():
    class One(registry.methods()["saliency"]):
        name = "one"

        def __call__(self, model, x, target):
            return torch.cat([model.gradient(x[i : i + 1], target.subset(slice(i, i + 1))) for i in range(len(x))])

    class Part(registry.methods()["saliency"]):
        name = "part"

        def __call__(self, model, x, target):
            parts = [slice(i, i + 1) for i in range(len(x))]
            return torch.cat([model.subset(each).gradient(x[each], target.subset(each)) for each in parts])

    model, x, more = WithMetadata().eval(), images(), {"metadata": metadata()}
    with pytest.raises(AttribkitError, match="called on 1 images, which is not a multiple of the 3 images of inputs="):
        Explainer(model).attribute(x, One(), target=[0, 1, 2], inputs=more)
    found = Explainer(model).attribute(x, Part(), target=[0, 1, 2], inputs=more)
    expected = Explainer(model).attribute(x, "saliency", target=[0, 1, 2], inputs=more)
    torch.testing.assert_close(found.scores.abs().amax(1, keepdim=True), expected.scores)


def test_a_reference_image_has_the_inputs_of_its_image():
    model, x, more = WithMetadata().eval(), images(), metadata()
    to = torch.randn(3, 3, 16, 16)
    found = Explainer(model).attribute(x, "saliency", target=Similarity(to), inputs={"metadata": more})
    leaf = x.clone().requires_grad_()
    score = torch.cosine_similarity(model(leaf, more), model(to, more)).sum()
    torch.testing.assert_close(found.scores, torch.autograd.grad(score, leaf)[0].abs().amax(1, keepdim=True))
    with pytest.raises(AttribkitError, match="called on 1 images, which is not a multiple of the 3 images of inputs="):
        Explainer(model).attribute(x, "saliency", target=Similarity(to[:1]), inputs={"metadata": more})


def test_metrics_do_not_leave_out_what_the_images_were_explained_with():
    class Optional(WithMetadata):
        def forward(self, x, metadata=None):
            return super().forward(x, torch.zeros(len(x), 5) if metadata is None else metadata)

    explainer, x, more = Explainer(Optional().eval()), images(), {"metadata": metadata()}
    attribution = explainer.attribute(x, "saliency", inputs=more)
    assert explainer.evaluate(attribution, "deletion", inputs=more, steps=2).isfinite().all()
    for metric in ("deletion", "max_sensitivity"):
        with pytest.raises(AttribkitError, match="additional model inputs: pass the same inputs="):
            explainer.evaluate(attribution, metric)
