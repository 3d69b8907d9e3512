"""Several maps, several metrics: what they must have in common, and what they are asked."""

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from attribkit import AttribkitError, ClassLogit, Complexity, Explainer, Faithfulness, Metric, Region, Similarity
from attribkit._targets.logits import Predicted
from attribkit.registry import make, metrics
from attribkit.testing import tiny_cnn


@pytest.fixture
def explainer():
    return Explainer(tiny_cnn())


@pytest.fixture
def x():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_an_open_target_means_the_predicted_class(explainer, x):
    closed = explainer.attribute(x, "saliency")
    opened = replace(closed, target=Predicted())
    assert isinstance(closed.target, ClassLogit)
    for metric in ("average_drop", "deletion", "mu_fidelity"):
        expected = explainer.evaluate(closed, metric)
        torch.testing.assert_close(explainer.evaluate(opened, metric), expected, rtol=0, atol=0)


def test_targets_that_hold_tensors_are_the_same_by_their_values(explainer, x):
    to, other = torch.ones(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    maps = [explainer.attribute(x, "saliency", target=Similarity(each, layer="6")) for each in (to, to.clone(), other)]
    assert explainer.measure(maps[:2], ["deletion"])[0].values.shape == (2, 3)
    with pytest.raises(AttribkitError, match="have different targets"):
        explainer.measure(maps[1:], ["deletion"])


def test_regions_are_the_same_by_their_masks():
    explainer, x = Explainer(torch.nn.Conv2d(3, 4, 3, padding=1)), torch.randn(2, 3, 8, 8)
    masks = torch.ones(1, 8, 8, dtype=torch.bool), torch.arange(64).view(1, 8, 8) < 31
    maps = [explainer.attribute(x, "saliency", target=Region(1, each)) for each in (*masks, masks[0].clone())]
    assert explainer.measure(maps[::2], ["deletion"])[0].values.shape == (2, 2)
    with pytest.raises(AttribkitError, match="have different targets"):
        explainer.measure(maps[:2], ["deletion"])


def test_images_that_differ_are_refused(explainer, x):
    maps = [explainer.attribute(each, "saliency", target=1) for each in (x, x.flip(0))]
    with pytest.raises(AttribkitError, match=r"Saliency.* explains different images from the first attribution"):
        explainer.measure(maps, ["deletion"])


def test_nothing_to_measure_is_told(explainer, x):
    with pytest.raises(AttribkitError, match="attributions is empty: pass one or more"):
        explainer.measure([], ["deletion"])
    with pytest.raises(AttribkitError, match=r"metrics must be a non-empty list, got \[\]"):
        explainer.measure([explainer.attribute(x)], [])


@dataclass(frozen=True)
class Guilty(Faithfulness):
    """Asks the model once for each map; where one is Grad-CAM's, it leaves the model in training and fails."""

    name: ClassVar[str] = "guilty"
    source: ClassVar[str] = "this test"
    higher_is_better: ClassVar[bool] = True

    def __call__(self, model, attributions):
        if any(each.method.name == "gradcam" for each in attributions):
            model.module.train()
            raise RuntimeError("raised on purpose")
        return torch.stack([model.score(each.x, each.target) for each in attributions])


def test_one_metric_after_the_other_knows_what_the_others_asked(explainer, x):
    maps = [explainer.attribute(x, method, target=1) for method in ("gradcam", "saliency")]
    asked = [make(name, Metric) for name in ("deletion", "mu_fidelity", "insertion_minus_deletion")]
    together, needed = seen(explainer, lambda: explainer.measure(maps, asked))
    metric_session = explainer.metric_session(x)

    def one_by_one():
        found = [metric_session(asked[0], maps)]
        with pytest.raises(RuntimeError, match="on purpose"):
            metric_session(Guilty(), maps)
        assert metric_session(Guilty(), maps[1:]).values.shape == (1, 3)
        return found + [metric_session(metric, maps) for metric in asked[1:]]

    found, taken = seen(explainer, one_by_one)
    assert taken == needed + len(x)  # that of the guilty one
    for one, other in zip(found, together, strict=True):
        assert torch.equal(one.values, other.values)


def seen(explainer, work):
    """What it gives, and the images that went through the model."""
    before = explainer.model.image_count
    return work(), explainer.model.image_count - before


def test_a_map_of_other_images_costs_no_other_its_numbers(explainer, x):
    metric_session, metric = explainer.metric_session(x), make("sparseness", Complexity)
    own, other = (explainer.attribute(each, "saliency", target=1) for each in (x, x.flip(0)))
    with pytest.raises(AttribkitError, match="different images"):
        metric_session(metric, [own, other])
    assert torch.equal(metric_session(metric, [own]).values[0], explainer.evaluate(own, metric))


def test_each_metric_tells_its_kind():
    kinds = {"faithfulness", "localization", "complexity", "robustness"}
    assert {cls.kind for cls in metrics().values()} == kinds
    for cls in metrics().values():
        assert cls.kind in {base.__name__.lower() for base in cls.__mro__}
