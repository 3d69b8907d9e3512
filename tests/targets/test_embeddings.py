"""Embeddings: how alike the model finds two images, and how strongly it responds where it has no classes."""

import pytest
import timm
import torch
from torch import nn

from attribkit import AttribkitError, EmbeddingNorm, Explainer, ModelSpec, Similarity
from attribkit.testing import changes, model_state, tiny_cnn
from tests.refusals import ANSWERING

OPTIONS = {"occlusion": {"patch": 8, "stride": 8}, "rise": {"masks": 32, "cells": 4}, "smoothgrad": {"samples": 3}}
METHODS = [name for name in ANSWERING if name != "cam"]
EMBEDS = ModelSpec(is_embedding_model=True)


def images(count=3, seed=1):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def tower():
    """Six numbers for each image."""
    return nn.Sequential(*list(tiny_cnn())[:7])


def trunk():
    """A map of six channels."""
    return nn.Sequential(*list(tiny_cnn())[:5])


def cosine(a, b):
    """Of each row of a with the row of b, by hand."""
    pairs = zip(a, b.expand_as(a), strict=True)
    return torch.stack([(u * v).sum() / ((u * u).sum() * (v * v).sum()).sqrt() for u, v in pairs])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("count", [1, 3])
def test_every_method_answers_as_for_the_cosine(method, count):
    model, x, to = tower().eval(), images(), images(count, seed=9)
    known, options = model(to).detach(), OPTIONS.get(method, {})
    found = Explainer(model, batch_size=2).attribute(x, method, target=Similarity(to), **options)
    for i in range(3):
        own = known if count == 1 else known[i : i + 1]
        alone = Explainer(model).attribute(x[i : i + 1], method, target=lambda y, own=own: cosine(y, own), **options)
        torch.testing.assert_close(found.scores[i : i + 1], alone.scores, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (1, 6), (3, 6)])
def test_an_embedding_may_be_given(shape):
    model, x, to = tower().eval(), images(), torch.randn(shape)
    found = Explainer(model, batch_size=1).attribute(x, "saliency", target=Similarity(to))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cosine(model(leaf), to).sum(), leaf)
    torch.testing.assert_close(found.scores, expected.abs().amax(1, keepdim=True))


def test_a_reference_of_another_size():
    model, x, to = tower().eval(), images(), torch.randn(1, 3, 24, 20)
    found = Explainer(model).attribute(x, "saliency", target=Similarity(to))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(cosine(model(leaf), model(to)).sum(), leaf)
    torch.testing.assert_close(found.scores, expected.abs().amax(1, keepdim=True))


def test_a_map_is_averaged_and_told():
    model, x, to = trunk().eval(), images(), images(1, seed=9)
    found = Explainer(model).attribute(x, "saliency", target=Similarity(to))
    pooled = Explainer(tower()).attribute(x, "saliency", target=Similarity(to))
    torch.testing.assert_close(found.scores, pooled.scores)
    assert "the embedding is the spatial mean of a feature map" in found.notes
    assert not any("mean of a feature map" in note for note in pooled.notes)


@pytest.mark.parametrize(("layer", "told"), [("6", False), ("5", False), ("4", True)])
@pytest.mark.parametrize("method", ["gradcam", "saliency", "occlusion", "ablationcam"])
def test_a_layer_of_a_classifier_may_put_the_embedding_out(method, layer, told):
    x, to, options = images(), images(1, seed=9), OPTIONS.get(method, {})
    options |= {"layer": "3"} if method in ("gradcam", "ablationcam") else {}
    expected = Explainer(tower()).attribute(x, method, target=Similarity(to), **options)
    found = Explainer(tiny_cnn(), batch_size=2).attribute(x, method, target=Similarity(to, layer=layer), **options)
    torch.testing.assert_close(found.scores, expected.scores)
    assert any("mean of a feature map" in note for note in found.notes) == told


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    x, to = images(), images(1, seed=9)
    exact = Explainer(tower()).attribute(x, "input_x_gradient", target=Similarity(to)).scores
    found = Explainer(tower().to(dtype)).attribute(x.to(dtype), "input_x_gradient", target=Similarity(to)).scores
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert float(torch.corrcoef(torch.stack([found.flatten().float(), exact.flatten()]))[0, 1]) > 0.98


def test_an_image_is_like_itself():
    x = images(1)
    found = Explainer(tower()).attribute(x, "saliency", target=Similarity(x))
    assert found.scores.max() < 1e-6


def test_the_model_is_left_alone_and_the_reference_too():
    model, to = tower().train(), images(1, seed=9)
    before, kept = model_state(model), to.clone()
    target = Similarity(to)
    Explainer(model).attribute(images(), "saliency", target=target)
    assert not changes(before, model_state(model))
    assert torch.equal(to, kept)
    assert target.embedding is None


def test_compare_and_preflight():
    model, x, to = tower().eval(), images(), images(1, seed=9)
    found = Explainer(model).compare(x, ["gradcam", "saliency"], targets=[Similarity(to), EmbeddingNorm()])
    for each, (target, method) in zip(
        found, [(t, m) for t in (Similarity(to), EmbeddingNorm()) for m in ("gradcam", "saliency")], strict=True
    ):
        torch.testing.assert_close(each.scores, Explainer(model).attribute(x, method, target=target).scores)
    assert Explainer(model).check(x, Similarity(to)) == []


def test_told_and_saved(tmp_path):
    to = images(1, seed=9)
    found = Explainer(tower()).attribute(images(), "saliency", target=Similarity(to, layer="6"))
    assert repr(found.target) == repr(Similarity(to, layer="6"))
    assert repr(found.target).startswith("Similarity(to=((1, 3, 16, 16), crc32=")
    assert repr(Similarity(to)) != repr(Similarity(-to))
    found.save(tmp_path / "a.safetensors")
    assert repr(type(found).load(tmp_path / "a.safetensors").target) == repr(found.target)
    several = Explainer(tower()).attribute(images(), "saliency", target=Similarity(images(seed=9)))
    assert repr(several[1].target) == repr(Similarity(images(seed=9)[1:2]))


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("target", "words"),
    [
        (
            lambda: Similarity(torch.randn(5)),
            "embedding of the model has 6 dimensions, but the reference embedding has 5",
        ),
        (lambda: Similarity(images(2)), "2 targets for 3 images"),
        (lambda: Similarity(torch.randn(2, 6)), "2 targets for 3 images"),
        (
            lambda: Similarity(torch.randn(1, 1, 16, 16)),
            r"images of Similarity.* have shape \(1, 1, 16, 16\), but the images to explain have shape \(3, 3,",
        ),
        (
            lambda: Similarity(torch.zeros(3, dtype=torch.int64)),
            r"must be a floating-point tensor .* got torch.int64 \(3,\)",
        ),
        (lambda: Similarity("cat.png"), "must be a floating-point tensor .* got str"),
        (lambda: Similarity(torch.randn(6), layer="nothing"), "No layer is named 'nothing'"),
    ],
)
@pytest.mark.parametrize("method", ["gradcam", "saliency"])
def test_what_does_not_fit_is_refused(target, words, method):
    with pytest.raises(AttribkitError, match=words):
        Explainer(tower()).attribute(images(), method, target=target())


def test_outside_of_an_explainer_there_is_no_reference():
    with pytest.raises(AttribkitError, match=r"The embedding of the reference of Similarity.* has not been computed"):
        Similarity(images(1))(torch.randn(3, 6))


# Models without classes

WITHOUT_CLASSES = "the score is the norm of the embedding, which is not specific to a class"
NORMALISED = "the embedding looks normalised: its norm does not depend on the image; use Similarity"


@pytest.mark.parametrize("make", [tower, trunk])
@pytest.mark.parametrize("method", ["gradcam", "saliency", "occlusion", "scorecam"])
def test_without_a_target_it_is_the_norm(make, method):
    model, x, options = make().eval(), images(), OPTIONS.get(method, {})
    found = Explainer(model, spec=EMBEDS, batch_size=2).attribute(x, method, **options)
    assert found.target == EmbeddingNorm()
    assert WITHOUT_CLASSES in found.notes
    assert NORMALISED not in found.notes
    pooled = (lambda y: y) if make is tower else (lambda y: y.mean((2, 3)))
    expected = Explainer(model).attribute(x, method, target=lambda y: pooled(y).square().sum(1).sqrt(), **options)
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "convnext_atto"])
def test_timm_without_a_head(name):
    size = {"img_size": 32, "patch_size": 8, "depth": 2} if "vit" in name else {}
    model, x = timm.create_model(name, num_classes=0, **size).eval(), torch.randn(2, 3, 32, 32)
    explainer = Explainer(model)
    assert explainer.model.spec.is_embedding_model
    found = explainer.attribute(x, "saliency")
    assert found.target == EmbeddingNorm()
    assert any(note.startswith(NORMALISED) for note in found.notes) == (name != "resnet18")  # they end in a LayerNorm
    for wrong in (3, [1, 2], [None, 1]):
        with pytest.raises(AttribkitError, match="requires class scores, but this model returns an embedding"):
            explainer.attribute(x, "gradcam", target=wrong)
    alike = explainer.attribute(x, "gradcam", target=Similarity(torch.randn(1, 3, 32, 32)))
    assert alike.scores.isfinite().all()
    assert not Explainer(timm.create_model(name, num_classes=5, **size)).model.spec.is_embedding_model


def test_a_unit_normalised_embedding_is_told_in_every_precision():
    class Normalised(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = tower()

        def forward(self, x):
            return nn.functional.normalize(self.body(x))

    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        found = Explainer(Normalised().to(dtype), spec=EMBEDS).attribute(images().to(dtype), "saliency")
        assert f"{NORMALISED} (images [0, 1, 2])" in found.notes


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize("method", ["gradcam", "saliency", "occlusion"])
def test_a_map_of_which_nothing_is_known_is_refused(method):
    """It could be a segmentation or an embedding."""
    words = r"For a segmentation, pass target=Region\(class\); for an embedding, Similarity\(to\) or EmbeddingNorm\(\)"
    with pytest.raises(AttribkitError, match=words):
        Explainer(trunk()).attribute(images(), method)


def test_tokens_are_no_embedding():
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=0, global_pool=""
    ).eval()
    x = torch.randn(2, 3, 32, 32)
    with pytest.raises(AttribkitError, match=r"returned a tensor of shape \(2, 17, 192\) instead of an embedding"):
        Explainer(model).attribute(x, "saliency")
    found = Explainer(model).attribute(x, "saliency", target=EmbeddingNorm(layer="norm"))
    leaf = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(leaf)[:, 1:].mean(1).norm(dim=1).sum(), leaf)
    torch.testing.assert_close(found.scores, expected.abs().amax(1, keepdim=True))


@pytest.mark.parametrize("entry", ["image_embeds", "pooler_output"])
def test_embeddings_that_are_named(entry):
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = tower()

        def forward(self, x):
            return type("Output", (), {"last_hidden_state": x.flatten(2), entry: self.body(x)})()

    x, to = images(), images(1, seed=9)
    found = Explainer(Named()).attribute(x, "saliency", target=Similarity(to))
    torch.testing.assert_close(found.scores, Explainer(tower()).attribute(x, "saliency", target=Similarity(to)).scores)


def test_the_command_line_explains_classes(tmp_path):
    from PIL import Image
    from typer.testing import CliRunner

    from attribkit.cli import app

    Image.new("RGB", (40, 40), "red").save(tmp_path / "photo.png")
    arguments = ["--model", "timm:resnet10t", "--model-arg", "num_classes=0", "-o", str(tmp_path / "out.png")]
    result = CliRunner().invoke(app, ["explain", str(tmp_path / "photo.png"), *arguments])
    assert result.exit_code == 2
    assert "This model returns embeddings instead of class scores" in result.output
