"""Bad input gets one clear sentence that names what was got, what is known and what to do."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from attribkit import AttribkitError, Explainer, HookedModel, Method, registry
from attribkit.core.errors import OutOfMemory
from attribkit.methods.gradcam import GradCAM
from attribkit.testing import tiny_cnn

pytestmark = pytest.mark.usefixtures("as_users_run")


def images(*shape):
    return torch.randn(*(shape or (2, 3, 16, 16)))


def nan_images():
    x = images()
    x[1, 0, 3, 3] = float("nan")
    return x


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (images(3, 16, 16), ["4 axes", "(3, 16, 16)", "x[None]"]),
        (images(2, 3, 4, 16, 16), ["4 axes", "(2, 3, 4, 16, 16)"]),
        (images(0, 3, 16, 16), ["nothing to explain", "(0, 3, 16, 16)"]),
        (nan_images(), ["[1]", "NaN"]),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), ["torch.uint8", "normalise"]),
        (images().double(), ["torch.float64", "x.to(torch.float32)"]),
        (images().to("meta"), ["meta", "cpu", "x.to('cpu')"]),
        ([[1.0]], ["torch.Tensor", "list"]),
    ],
    ids=lambda value: getattr(value, "dtype", None) and f"{tuple(value.shape)} {value.dtype}",
)
@pytest.mark.parametrize("method", ["gradcam", "saliency"])
def test_images(x, words, method):
    with pytest.raises(AttribkitError) as error:
        Explainer(tiny_cnn()).attribute(x, method)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_channels(cnn):
    with pytest.raises(AttribkitError, match="3 channels, got 1"):
        Explainer(cnn).attribute(torch.randn(2, 1, 128, 128))


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        ("grad_cam", {}, ["No method is named 'grad_cam'", "Did you mean 'gradcam'?", "saliency"]),
        ("gradcam", {"layers": "0"}, ["No option of 'gradcam' is named 'layers'", "Did you mean 'layer'?"]),
        ("saliency", {"steps": 3}, ["No option of 'saliency'", "Known: none"]),
        (GradCAM(), {"layer": "0"}, ["has its options already", "gradcam"]),
        (3, {}, ["3 is no method", "gradcam"]),
    ],
)
def test_methods(method, options, words):
    with pytest.raises(AttribkitError) as error:
        Explainer(tiny_cnn()).attribute(images(), method, **options)
    assert all(word in str(error.value) for word in words), str(error.value)


def traced():
    return torch.jit.trace(tiny_cnn().eval(), images())


def scripted():
    return torch.jit.script(nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU()))


def exported():
    return torch.export.export(tiny_cnn().eval(), (images(),)).module()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (traced, ["traced or scripted", "original module"]),
        (scripted, ["traced or scripted", "original module"]),
        (exported, ["exported", "original module"]),
        (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), ["no floating-point parameters"]),
        (lambda: lambda x: x, ["torch.nn.Module", "function"]),
        (lambda: tiny_cnn, ["torch.nn.Module", "function"]),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_models(make, words):
    with pytest.raises(AttribkitError) as error:
        Explainer(make())
    assert all(word in str(error.value) for word in words), str(error.value)


@pytest.mark.parametrize("size", [0, -1, "all", 2.5])
def test_batch_size(size):
    with pytest.raises(AttribkitError, match="batch_size"):
        Explainer(tiny_cnn(), batch_size=size)


def test_masks():
    explainer = Explainer(tiny_cnn())
    attribution = explainer.attribute(images())
    for mask in (None, torch.ones(2, 8, 8, dtype=torch.bool)):
        with pytest.raises(AttribkitError, match="compares with a mask"):
            explainer.evaluate(attribution, "pointing_game", mask=mask)


def test_an_error_of_the_model_is_the_models_own():
    model = tiny_cnn()
    model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Explainer(model).attribute(images())


def test_out_of_memory_halves_the_batch_and_is_remembered():
    model = tiny_cnn()
    sizes = []

    def small_memory(_module, args):
        sizes.append(len(args[0]))
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("out of memory, says the test")

    reference = {name: Explainer(model).attribute(images(7, 3, 16, 16), name) for name in registry.methods()}
    torch.manual_seed(0)
    model.register_forward_pre_hook(small_memory)
    for name in registry.methods():
        torch.manual_seed(0)
        explainer, x = Explainer(model), reference[name].x
        sizes.clear()
        explainer.attribute(x[:1], name)
        sizes.clear()
        attribution = explainer.attribute(x, name)
        assert sizes[:3] == [7, 3, 1]
        assert set(sizes[2:]) == {1}
        torch.testing.assert_close(attribution.scores, reference[name].scores, rtol=1e-4, atol=1e-7)
        assert attribution.target == reference[name].target
        sizes.clear()
        explainer.attribute(x, name)
        assert set(sizes) == {1}


def test_one_image_that_does_not_fit_is_said():
    model = tiny_cnn()
    model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
    with pytest.raises(OutOfMemory, match="One image of shape"):
        Explainer(model).attribute(images(), "saliency")


def test_a_method_that_asks_about_fewer_images_than_targets_is_told():
    from attribkit.core.spec import ModelSpec
    from attribkit.core.targets import ClassLogit

    model = HookedModel(tiny_cnn(), ModelSpec())
    with pytest.raises(AttribkitError, match="2 targets for 1 images"):
        model.gradient(images(1, 3, 16, 16), ClassLogit((0, 1)))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: x.sum(1), r"shape \(2, 16, 16\)"),
        (lambda x: x[:1], r"shape \(1, 3, 16, 16\)"),
        (lambda x: x.numpy(), "a ndarray"),
        (lambda x: x / 0, r"not finite for images \[0, 1\]"),
    ],
)
def test_a_method_that_returns_something_else_is_told(answer, words):
    @dataclass(frozen=True)
    class Wrong(Method):
        name = "wrong"
        source = "nobody"

        def __call__(self, model, x, target):
            return answer(x)

    with pytest.raises(AttribkitError, match=words):
        Explainer(tiny_cnn()).attribute(images(), Wrong())
