"""Several methods and targets from one forward: the same answers as one by one, and no forward too many."""

from collections import Counter

import pytest
import timm
import torch
import torchvision

from attribkit import AttribkitError, ClassLogit, Contrast, Explainer, Probability, registry
from attribkit._contracts.method import Method
from attribkit.testing import changes, model_state, tiny_cnn
from tests.cases import few

NINE = ["gradcam", "gradcam++", "hirescam", "layercam", "xgradcam", "saliency", "input_x_gradient", "guided_backprop"]


def counted(module):
    """How often a module runs forwards and backwards; outside of the model, whose own attributes are put back."""
    count = Counter()

    def forward(module, args, output):
        count["forward"] += 1
        if output.requires_grad:
            output.register_hook(lambda gradient: count.update(["backward"]))

    module.register_forward_hook(forward)
    return count


def close(one, other):
    limit = 1e-5 * other.scores.abs().max()
    torch.testing.assert_close(one.scores, other.scores, rtol=0, atol=float(limit))
    assert one.target == other.target
    assert one.method == other.method
    assert one.notes == other.notes


@pytest.mark.parametrize("name", few(["vit_tiny_patch16_224", "resnet18"], "vit_tiny_patch16_224"))
def test_equals_one_by_one(name):
    model = timm.create_model(name).eval()
    side = model.pretrained_cfg["input_size"][1]
    x = torch.randn(3, 3, side, side)
    methods = [m for m in NINE if m != "guided_backprop" or name == "resnet18"] + ["centre", "eigencam"]
    explainer = Explainer(model)
    compared = explainer.compare(x, methods)
    assert [each.method.name for each in compared] == methods
    for each in compared:
        close(each, explainer.attribute(x, each.method.name))


@pytest.mark.slow
def test_equals_one_by_one_for_methods_that_share_nothing(cnn):
    x = torch.randn(2, 3, 128, 128)
    explainer = Explainer(cnn)
    methods = [registry.make("occlusion", Method, patch=64, stride=64), "smoothgrad", "integrated_gradients"]
    for each in explainer.compare(x, methods, targets=[[1, 2]]):
        close(each, explainer.attribute(x, each.method, target=[1, 2]))


def test_several_targets(cnn):
    x = torch.randn(2, 3, 128, 128)
    explainer = Explainer(cnn)
    targets = [3, [0, 5], Contrast(1, 2), Probability(3), None, lambda outputs: outputs[:, :2].sum(1)]
    compared = explainer.compare(x, ["gradcam", "saliency"], targets=targets)
    for i, target in enumerate(targets):
        for j, method in enumerate(["gradcam", "saliency"]):
            close(compared[2 * i + j], explainer.attribute(x, method, target=target))


@pytest.mark.parametrize("batch_size", [1, 2])
def test_in_chunks(cnn, batch_size):
    x = torch.randn(3, 3, 128, 128)
    whole = Explainer(cnn).compare(x, ["gradcam", "guided_backprop"], targets=[None, [1, 2, 3]])
    parts = Explainer(cnn, batch_size=batch_size).compare(x, ["gradcam", "guided_backprop"], targets=[None, [1, 2, 3]])
    for one, other in zip(parts, whole, strict=True):
        close(one, other)


def test_one_forward_serves_all():
    model = torchvision.models.resnet18()
    count = counted(model.layer1)
    explainer = Explainer(model)
    x = torch.randn(2, 3, 64, 64)
    explainer.compare(x, NINE)  # learns the layer
    count.clear()
    explainer.compare(x, NINE)
    assert count == {"forward": 1, "backward": 2}, "a plain backward and a guided one"


def test_maps_of_layers_alone_record_nothing_below_them():
    model = torchvision.models.resnet18()
    count = counted(model.layer1)
    explainer = Explainer(model)
    x = torch.randn(2, 3, 64, 64)
    explainer.compare(x, ["gradcam"])
    count.clear()
    compared = explainer.compare(x, ["gradcam", "layercam"], targets=[1, 2, 3])
    assert len(compared) == 6
    assert count == {"forward": 1}


def test_leaves_the_model_and_the_images_alone():
    model, x = tiny_cnn(), torch.randn(3, 3, 16, 16)
    mine, before = x.clone(), model_state(model)
    Explainer(model).compare(mine, [*NINE, "guided_gradcam", "scorecam", "occlusion", "eigencam"], targets=[None, 1])
    assert not changes(before, model_state(model))
    assert torch.equal(mine, x)


@pytest.mark.usefixtures("as_users_run")
@pytest.mark.parametrize(
    ("methods", "targets", "message"),
    [
        ([], [None], r"methods must be a non-empty list, got \[\]"),
        ("gradcam", [None], "methods must be a non-empty list, got 'gradcam'"),
        (["gradcam"], 3, "targets must be a non-empty list, got 3"),
        (["gradcam"], [], r"targets must be a non-empty list, got \[\]"),
        (["gradcam", "nonsense"], [None], "No method is named 'nonsense'"),
        (["gradcam"], [ClassLogit([1, 2])], "2 targets for 3 images"),
        (["gradcam"], [99], "The class index 99 is out of range: the model has 8 classes, 0 to 7"),
    ],
)
def test_bad_input(cnn, methods, targets, message):
    with pytest.raises(AttribkitError, match=message):
        Explainer(cnn).compare(torch.randn(3, 3, 128, 128), methods, targets=targets)
