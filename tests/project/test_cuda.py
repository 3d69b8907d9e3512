"""The same answers on a GPU, on its device from end to end."""

from dataclasses import replace

import pytest
import torch

from attribkit import (
    BroadcastInput,
    Contrast,
    EmbeddingNorm,
    Explainer,
    MultiLabel,
    Probability,
    Region,
    Similarity,
    Unit,
    load_model,
    registry,
    zoo,
)
from attribkit._contracts.metric import Complexity, Localization, Metric, Robustness
from attribkit.testing import METHOD_CHECKS, METRIC_CHECKS, tiny_cnn
from tests.refusals import ANSWERING

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
METHODS = pytest.mark.parametrize("method", ANSWERING.values(), ids=list(ANSWERING))


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.name)
@METHODS
def test_method(method, check):
    check(method, tiny_cnn().cuda(), torch.randn(3, 3, 16, 16, device="cuda"))


@pytest.mark.parametrize("model", ["cnn", "vit"])
@METHODS
def test_equals_the_cpu(method, model):
    torch.backends.cudnn.allow_tf32 = False
    if (method.name, model) == ("cam", "vit"):
        pytest.skip("a normalisation stands behind its last maps: refused")
    module = load_model(f"zoo:{model}").model
    x = torch.randn(4, 3, zoo.SIDE, zoo.SIDE)
    expected = Explainer(module).attribute(x, method, target=1).heatmap()
    heatmap = Explainer(module.cuda()).attribute(x.cuda(), method, target=1).heatmap()
    assert heatmap.device.type == "cuda"
    torch.testing.assert_close(heatmap.cpu(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("method", ["attention", "attention_rollout", "gradient_rollout"])
def test_attention_equals_the_cpu(method):
    test_equals_the_cpu(registry.methods()[method](), "vit")


TARGETS = {
    "unit": Unit("3", 2, "centre"),
    "labels": MultiLabel((1, 3)),
    "each": [Contrast(1, 2), 3, Probability(4), None],
    "similarity": Similarity(torch.ones(1, 3, 16, 16), layer="6"),
    "norm": EmbeddingNorm(layer="4"),
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=list(TARGETS))
@pytest.mark.parametrize("method", ["gradcam", "saliency", "occlusion", "ablationcam"])
def test_targets_equal_the_cpu(method, target):
    _assert_equal_on_both(tiny_cnn(), method, target)


@pytest.mark.parametrize("target", [Region(1), Region((0, 1, 2, 3), torch.eye(16, dtype=torch.bool).expand(4, 16, 16))])
def test_regions_equal_the_cpu(target):
    _assert_equal_on_both(torch.nn.Sequential(*list(tiny_cnn())[:5]), "saliency", target)


def test_inputs_go_where_the_images_are():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = tiny_cnn()

        def forward(self, x, scale, shift):
            return self.body(x) * scale + shift

    model, x, scale, shift = Scaled(), torch.randn(4, 3, 16, 16), torch.rand(4, 1), torch.randn(5)
    expected = Explainer(model).attribute(x, "occlusion", inputs={"scale": scale, "shift": BroadcastInput(shift)})
    inputs = {"scale": scale.cuda(), "shift": BroadcastInput(shift.cuda())}
    found = Explainer(model.cuda()).attribute(x.cuda(), "occlusion", inputs=inputs)
    torch.testing.assert_close(found.scores.cpu(), expected.scores, rtol=1e-3, atol=1e-4)


def _assert_equal_on_both(model, method, target):
    torch.backends.cudnn.allow_tf32 = False
    x = torch.randn(4, 3, 16, 16)
    options = {"patch": 8, "stride": 8} if method == "occlusion" else {}
    expected = Explainer(model).attribute(x, method, target=target, **options).scores
    found = Explainer(model.cuda()).attribute(x.cuda(), method, target=target, **options).scores
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


ASKED_OF_MAPS = [cls for cls in registry.metrics().values() if issubclass(cls, Localization | Complexity | Robustness)]


@pytest.mark.parametrize("cls", ASKED_OF_MAPS, ids=lambda cls: cls.name)
def test_metrics_of_single_maps_equal_the_cpu(cls):
    metric = cls(**{"k": 20} if cls.name == "top_k_intersection" else {})
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    mask = torch.zeros(3, 16, 16, dtype=torch.bool)
    mask[:, 3:9, 4:12] = True
    found = []
    for device in ("cpu", "cuda"):
        explainer = Explainer(tiny_cnn().double().to(device))
        attribution = explainer.attribute(x.to(device), "input_x_gradient", target=[0, 1, 2])
        found.append(explainer.evaluate(attribution, metric, mask=mask.to(device)))
    assert found[1].device.type == "cuda"
    torch.testing.assert_close(found[1].cpu(), found[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("check", METRIC_CHECKS, ids=lambda check: check.name)
@pytest.mark.parametrize("cls", registry.metrics().values(), ids=lambda cls: cls.name)
def test_metric(cls, check):
    check(cls(), tiny_cnn().cuda(), torch.randn(3, 3, 16, 16, device="cuda"))


@pytest.mark.parametrize("metric", ["deletion", "insertion", "sensitivity_n", "infidelity", "infidelity_under_noise"])
def test_metric_equals_the_cpu(metric):
    torch.backends.cudnn.allow_tf32 = False
    model, x = tiny_cnn().eval().double(), torch.randn(3, 3, 16, 16, dtype=torch.float64)
    explained = Explainer(model).attribute(x, "saliency", target=1)
    expected = Explainer(model).evaluate(explained, metric)
    found = Explainer(model.cuda()).evaluate(explained.to("cuda"), metric)
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-9, atol=1e-9)


def test_a_curve_is_copied_to_the_host_but_for_checks_of_the_input():
    """The copies do not grow with the number of points."""
    explainer, x = Explainer(tiny_cnn().cuda()), torch.randn(3, 3, 16, 16, device="cuda")
    explained = explainer.attribute(x, "saliency", target=1)
    few, many = (copies_to_host(explainer, explained, "deletion", steps=steps) for steps in (4, 128))
    assert many == few


def test_a_bank_is_copied_to_the_host_but_for_checks_of_the_input():
    """The copies do not grow with the number of banks."""
    explainer, x = Explainer(tiny_cnn().cuda()), torch.randn(3, 3, 16, 16, device="cuda")
    explained = explainer.attribute(x, "saliency", target=1)
    few, many = (copies_to_host(explainer, explained, "sensitivity_n", sizes=sizes) for sizes in (1, 9))
    assert many == few


def copies_to_host(explainer, explained, metric, **options):
    explainer.evaluate(explained, metric, **options)  # what is done once
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        explainer.evaluate(explained, metric, **options)
    return sum("DtoH" in event.name for event in profile.events())


@pytest.mark.parametrize("score", ["probability", "logit"])
@pytest.mark.parametrize("metric", ["deletion", "insertion", "aopc"])
def test_nothing_between_the_forwards_of_a_curve_waits_for_the_gpu(metric, score):
    """Ranks, masks, scores of a class for each image, and the area: no copy that the CPU stands still for."""
    asked = registry.make(metric, Metric, score=score, substrate="zero")
    explainer, x = Explainer(tiny_cnn().cuda().eval()), torch.randn(3, 3, 16, 16, device="cuda")
    maps = [replace(explainer.attribute(x, "saliency", target=[0, 1, 2]), x=x) for _ in range(2)]
    expected = asked(explainer.model.bind(x), maps)  # what is done once
    model = explainer.model.bind(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = asked(model, maps)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(found, expected)
