"""Every registered method through the public conformance suite."""

import itertools

import pytest
import timm
import torch

from attribkit import Explainer, registry, zoo
from attribkit._core.errors import UnsupportedModel
from attribkit.testing import (
    METHOD_CHECKS,
    changes,
    model_state,
    tiny_cnn,
)
from attribkit.testing._method_checks import check_method_half_precision


def tiny_vit():
    torch.manual_seed(0)
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 2, "num_heads": 3, "num_classes": 5}
    model = timm.create_model("vit_tiny_patch16_224", drop_rate=0.1, **arguments)
    torch.nn.init.normal_(model.head.weight)  # scores that differ, as those of a trained model do
    return model


def well_posed(name, x):
    if name == "steep vit":
        model = tiny_vit()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
        return model, x
    scenes = [torch.from_numpy(scene.image).movedim(-1, 0) / 127.5 - 1 for scene in zoo.scenes(3)]
    return zoo.load_zoo_model(name.removeprefix("trained ")), torch.stack(scenes).float()


MODELS = {"cnn": tiny_cnn, "vit": tiny_vit}
PAIRS = list(itertools.product(registry.methods(), MODELS))
REFUSED = {
    ("guided_backprop", "vit"), ("deconvnet", "vit"), ("guided_gradcam", "vit"),  # it has no ReLU for their rule
    ("cam", "vit"),  # a normalisation stands behind its last maps
    ("attention", "cnn"), ("attention_rollout", "cnn"), ("gradient_rollout", "cnn"),
    ("attention_gates", "cnn"), ("attention_gates", "vit"),  # neither has gates; test_attention_gates.py has one
}  # fmt: skip
OPTIONS = {"rise": {"masks": 48, "cells": 4}, "occlusion": {"patch": 8, "stride": 4}}  # for small images
WELL_POSED = {  # models whose scores these methods move by more than bfloat16 rounds them
    ("occlusion", "cnn"): "trained cnn",
    ("occlusion", "vit"): "trained vit",
    ("scorecam", "vit"): "trained vit",
    ("ablationcam", "vit"): "steep vit",  # without one of its channels, a trained one loses less
}


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize(("method", "model"), [each for each in PAIRS if each not in REFUSED])
def test_method(method, model, check):
    x = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    if check is check_method_half_precision and (method, model) in WELL_POSED:
        check(registry.methods()[method](), *well_posed(WELL_POSED[method, model], x))
    else:
        with_detectors = check.function.__module__.endswith("_method_maps")  # larger images: too few masks miss spots
        options = {"masks": 1000} if method == "rise" and with_detectors else OPTIONS.get(method, {})
        check(registry.methods()[method](**options), MODELS[model](), x)


@pytest.mark.parametrize(("method", "model"), [each for each in PAIRS if each in REFUSED])
def test_a_method_that_does_not_apply_is_refused(method, model):
    with pytest.raises(UnsupportedModel):
        Explainer(MODELS[model]()).attribute(torch.randn(3, 3, 16, 16), method)


def _train_mode(model):
    model[0].train(not model[0].training)


def _requires_grad(model):
    model[0].weight.requires_grad_(not model[0].weight.requires_grad)


def _gradient(model):
    model[0].weight.grad = torch.zeros_like(model[0].weight)


def _hook(model):
    model[0].register_forward_hook(lambda *_: None)


def _buffer(model):
    model[1].running_mean += 1


def _module(model):
    model[2] = torch.nn.ReLU()


def _parameter(model):
    model[0].weight.data += 1


def _draw(model):
    torch.rand(1)


@pytest.mark.parametrize("harm", [_train_mode, _requires_grad, _gradient, _hook, _buffer, _module, _parameter, _draw])
def test_the_suite_sees_harm(harm):
    model = tiny_cnn()
    before = model_state(model)
    assert not changes(before, model_state(model))
    harm(model)
    assert changes(before, model_state(model))
