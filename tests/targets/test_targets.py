"""What may be given as a target, and what each scores."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

import attribkit
from attribkit import AttribkitError, ClassLogit, Contrast, Counterfactual, Explainer, ModelSpec, Probability
from attribkit._targets.logits import Predicted
from attribkit._targets.outputs import class_scores
from attribkit._targets.resolution import as_target
from attribkit._targets.target import FunctionTarget
from attribkit.testing import tiny_cnn

LOGITS = torch.tensor([[1.0, 2.0, 4.0], [3.0, 0.0, 1.0]])
LABELS = ["tench, Tinca tinca", "crane", "tabby, tabby cat", "crane", "Tabby cat"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, Predicted()),
        (2, ClassLogit(2)),
        (np.int64(2), ClassLogit(2)),
        (torch.tensor(2), ClassLogit(2)),
        ([1, 0], ClassLogit((1, 0))),
        ((1, 0), ClassLogit((1, 0))),
        (np.array([1, 0]), ClassLogit((1, 0))),
        (torch.tensor([1, 0]), ClassLogit((1, 0))),
        ("tabby, tabby cat", ClassLogit(2)),
        ("tabby cat", ClassLogit(4)),
        ("TENCH", ClassLogit(0)),
        (["tench", 1], ClassLogit((0, 1))),
        (Probability(1), Probability(1)),
        (Probability([np.int64(1), 0]), Probability((1, 0))),
        (Contrast("tench", against="tabby cat"), Contrast(0, 4)),
        (Contrast(LOGITS.argmax(1), 0), Contrast((2, 0), 0)),
    ],
)
def test_what_may_be_given(given, expected):
    assert as_target(given, LABELS) == expected


@pytest.mark.parametrize("given", [1.5, True, [], [[1, 0], [0, 1]], torch.tensor([0.1, 0.9]), {"class": 1}, object()])
def test_what_is_no_target_is_refused(given):
    with pytest.raises(AttribkitError, match="target must be a class index, a label, "):
        as_target(given, LABELS)


def test_labels_that_lead_nowhere():
    with pytest.raises(AttribkitError, match="Did you mean 'crane'"):
        as_target("crame", LABELS)
    with pytest.raises(AttribkitError, match=r"The label 'crane' is ambiguous: it names the classes \[1, 3\]"):
        as_target("crane", LABELS)
    with pytest.raises(AttribkitError, match="the labels of this model are unknown"):
        as_target("crane")


def test_scores():
    torch.testing.assert_close(ClassLogit(2)(LOGITS), torch.tensor([4.0, 1.0]))
    torch.testing.assert_close(ClassLogit((2, 0))(LOGITS), torch.tensor([4.0, 3.0]))
    torch.testing.assert_close(Predicted()(LOGITS), torch.tensor([4.0, 3.0]))
    torch.testing.assert_close(Contrast((2, 0), 1)(LOGITS), torch.tensor([2.0, 3.0]))
    torch.testing.assert_close(Probability(0)(LOGITS), LOGITS.softmax(1)[:, 0])
    torch.testing.assert_close(Counterfactual((2, 0))(LOGITS), torch.tensor([-4.0, -3.0]))
    torch.testing.assert_close(FunctionTarget(lambda y: y.sum(1))(LOGITS), torch.tensor([7.0, 4.0]))


def test_parts():
    assert ClassLogit((1, 2, 3)).subset(slice(1, 3)) == ClassLogit((2, 3))
    assert Contrast((1, 2, 3), 0).subset(slice(0, 1)) == Contrast((1,), 0)
    assert ClassLogit(1).subset(slice(1, 3)) == ClassLogit(1)
    assert Contrast((1, 2), 0).count == 2
    with pytest.raises(AttribkitError, match="different numbers of classes"):
        _ = Contrast((1, 2), (0, 1, 2)).count


def test_outputs_of_many_kinds():
    class Output(dict):
        logits = LOGITS

    for outputs in (LOGITS, (LOGITS, "rest"), [LOGITS], {"logits": LOGITS}, Output()):
        assert class_scores(outputs) is LOGITS
    with pytest.raises(AttribkitError, match=r"several tensors that could be class scores, with \[7, 3\] columns"):
        class_scores((torch.zeros(2, 7), LOGITS))
    assert class_scores(LOGITS[0, 0]).shape == (1, 1)  # the only output for the only image, squeezed
    for outputs in ((LOGITS[0, 0], LOGITS[0, 1]), torch.zeros(2, 3, 4, 4), {"boxes": LOGITS}, "text", ()):
        with pytest.raises(AttribkitError, match="instead of class scores"):
            class_scores(outputs)


@pytest.mark.parametrize(
    ("target", "words"),
    [
        (5, "The class index 5 is out of range: the model has 5 classes, 0 to 4."),
        (-1, "The class index -1 is out of range"),
        ([0, 1, 2], "3 targets for 2 images"),
        (Contrast((0, 1, 2), 1), "3 targets for 2 images"),
        (lambda outputs: outputs, "must return one score per image"),
        (lambda outputs: 3.0, "must return one score per image, a tensor of shape (b,), got float"),
        (ClassLogit([1]), "1 targets for 2 images"),
    ],
)
@pytest.mark.parametrize("method", ["gradcam", "saliency"])
def test_a_target_that_does_not_fit_is_refused(target, words, method):
    with pytest.raises(AttribkitError, match=re.escape(words)):
        Explainer(tiny_cnn()).attribute(torch.randn(2, 3, 16, 16), method, target=target)


def test_labels_of_a_spec():
    explainer = Explainer(tiny_cnn(), spec=ModelSpec(labels=["a", "b", "c", "d", "e"]))
    assert explainer.attribute(torch.randn(2, 3, 16, 16), target=["e", "b"]).target == ClassLogit((4, 1))


def test_the_prediction_is_that_of_the_images_whatever_the_method_asks_about():
    """A path method asks about other images first; the class must still be that of x."""
    from dataclasses import dataclass

    from attribkit import Method

    @dataclass(frozen=True)
    class Elsewhere(Method):
        name = "elsewhere"
        source = "nobody"

        def __call__(self, model, x, target):
            return model.gradient(x + 100 * torch.randn_like(x), target)

    model, x = tiny_cnn().eval(), torch.randn(6, 3, 16, 16)
    assert Explainer(model).attribute(x, Elsewhere()).target.index == tuple(model(x).argmax(1).tolist())


def test_the_page_names_every_target():
    page = (Path(__file__).parents[2] / "docs" / "targets.md").read_text()
    public = [getattr(attribkit, name) for name in attribkit.__all__]
    targets = [each for each in public if isinstance(each, type) and issubclass(each, attribkit.Target)]
    for target in targets:
        assert target.__name__ in ("Target", "ClassLogit", "LayerUnit") or f"`{target.__name__}(" in page


def test_a_target_of_ones_own_may_be_asked_about_several_versions_at_once():
    """As the page shows it."""
    from dataclasses import dataclass

    @dataclass(frozen=True)
    class Entropy(attribkit.Target):
        def __call__(self, outputs):
            return torch.distributions.Categorical(logits=outputs).entropy()

        def tile(self, times):
            return self

    x, options = torch.randn(2, 3, 16, 16), {"patch": 8, "stride": 8}
    found = Explainer(tiny_cnn()).attribute(x, "occlusion", target=Entropy(), **options)
    expected = Explainer(tiny_cnn()).attribute(
        x, "occlusion", target=lambda y: -(y.softmax(1) * y.log_softmax(1)).sum(1), **options
    )
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16])
def test_a_probability_keeps_its_digits_in_half_precision(precision):
    logits = torch.tensor([[9.0, 0.0, 0.5], [-4.0, 3.0, 3.0]], dtype=precision)
    found = Probability(0)(logits)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits.float().softmax(1)[:, 0])


SEVERAL = [ClassLogit((2, 0)), Probability((2, 0)), Probability(1)]


@pytest.mark.parametrize("target", SEVERAL, ids=repr)
@pytest.mark.parametrize("device", ["cpu", "cuda", "meta"])
def test_scores_that_are_there_in_name_only(target, device):
    """Also of a GPU that this machine does not have; what comes after has numbers again."""
    with FakeTensorMode():
        scores = target(torch.empty(2, 3, device=device))
        assert isinstance(scores, FakeTensor)
        assert scores.device.type == device
    assert target(LOGITS.to("meta")).is_meta
    assert target(LOGITS).isfinite().all()


@pytest.mark.parametrize("target", SEVERAL, ids=repr)
def test_modes_and_transforms_leave_nothing_behind(target):
    with torch.inference_mode():
        expected = target(LOGITS)
    leaf = LOGITS.clone().requires_grad_()
    target(leaf).sum().backward()
    slope = torch.func.grad(lambda logits: target(logits).sum())(LOGITS)
    torch.testing.assert_close(slope, leaf.grad)
    several = torch.func.vmap(target)(LOGITS.expand(4, -1, -1))
    torch.testing.assert_close(several, expected.expand(4, -1))
