"""Bad input gets one clear sentence that names what was got, what is known and what to do."""

from dataclasses import dataclass

import pytest
import timm
import torch
from torch import nn

from attribkit import AttribkitError, Explainer, HookedModel, Method
from attribkit._core.errors import OutOfMemory
from attribkit.methods._gradcam import GradCAM
from attribkit.testing import tiny_cnn
from tests.cases import few
from tests.refusals import ANSWERING

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
        (images(0, 3, 16, 16), ["are empty", "at least one", "(0, 3, 16, 16)"]),
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
        (GradCAM(), {"layer": "0"}, ["an instance with its own options", "layer", "gradcam"]),
        (3, {}, ["method must be a name", "got 3", "gradcam"]),
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


def quantised():
    layer = torch.ao.nn.quantized.Conv2d(3, 2, 3)
    return nn.Sequential(nn.Conv2d(3, 3, 1), layer)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (quantised, ["quantised", "floating-point model"]),
        (traced, ["traced or scripted", "original, unconverted module"]),
        (scripted, ["traced or scripted", "original, unconverted module"]),
        (exported, ["exported", "original, unconverted module"]),
        (lambda: nn.Sequential(nn.Flatten(), nn.ReLU()), ["does not have floating-point parameters"]),
        (lambda: lambda x: x, ["torch.nn.Module", "function"]),
        (lambda: tiny_cnn, ["torch.nn.Module", "function"]),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:torch.quantize_per_tensor")
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
    with pytest.raises(AttribkitError, match=r"requires a mask .*, but none was given: pass mask="):
        explainer.evaluate(attribution, "pointing_game", mask=None)
    with pytest.raises(AttribkitError, match=r"The mask of the object must be a torch\.bool tensor"):
        explainer.evaluate(attribution, "pointing_game", mask=torch.ones(2, 8, 8, dtype=torch.bool))


def test_an_error_of_the_model_is_the_models_own():
    model = tiny_cnn()
    model.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Explainer(model).attribute(images())


@pytest.mark.parametrize("name", few(ANSWERING, "saliency", "gradcam", "ablationcam", "occlusion"))
def test_out_of_memory_halves_the_batch_and_is_remembered(name):
    model = tiny_cnn()
    sizes = []

    def small_memory(_module, args):
        sizes.append(len(args[0]))
        if len(args[0]) > 2:
            raise torch.OutOfMemoryError("out of memory, says the test")

    method = ANSWERING[name]
    reference = Explainer(model).attribute(images(7, 3, 16, 16), method)
    model.register_forward_pre_hook(small_memory)
    explainer, x = Explainer(model), reference.x
    explainer.attribute(x[:1], method)
    sizes.clear()
    attribution = explainer.attribute(x, method)
    if name in ("gradcam", "saliency"):  # others pack several perturbed images into a forward
        assert sizes[:3] == [7, 3, 1]
        assert set(sizes[2:]) == {1}
    torch.testing.assert_close(attribution.scores, reference.scores, rtol=1e-4, atol=1e-7)
    assert attribution.target == reference.target
    sizes.clear()
    explainer.attribute(x, method)
    assert all(size <= 2 for size in sizes)


@pytest.mark.parametrize("words", ["could not create a primitive", "DefaultCPUAllocator: can't allocate memory"])
def test_what_a_cpu_says_of_too_little_memory_halves_the_batch(words):
    model, sizes, x = tiny_cnn(), [], images(6, 3, 16, 16)
    reference = Explainer(model).attribute(x, "saliency").scores

    def small_memory(_module, args):
        sizes.append(len(args[0]))
        if len(args[0]) > 4:
            raise RuntimeError(words)

    model.register_forward_pre_hook(small_memory)
    torch.testing.assert_close(Explainer(model).attribute(x, "saliency").scores, reference)
    # two up to the first convolution, for the order of axes; one for the trace; six, then three and three; for the
    # diagnosis one alone and two together
    assert sizes == [2, 1, 6, 3, 3, 1, 2]


def test_what_onednn_says_of_one_image_is_left_as_it_is():
    model = tiny_cnn()
    model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("could not create a primitive")))
    with pytest.raises(RuntimeError, match="could not create a primitive"):
        Explainer(model).attribute(images(1, 3, 16, 16), "saliency")


def test_one_image_that_does_not_fit_is_said():
    model = tiny_cnn()
    model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
    with pytest.raises(OutOfMemory, match="One image of shape"):
        Explainer(model).attribute(images(), "saliency")


def test_a_method_that_asks_about_fewer_images_than_targets_is_told():
    from attribkit._core.spec import ModelSpec
    from attribkit._targets.logits import ClassLogit

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


def lazy():
    return nn.Sequential(nn.LazyConv2d(3, 3), nn.Flatten(), nn.LazyLinear(2))


def made_in_inference_mode():
    with torch.inference_mode():
        return tiny_cnn()


def with_a_scripted_part():
    return nn.Sequential(nn.Conv2d(3, 2, 3), scripted())


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lazy, "has lazy modules: run it once"),
        (made_in_inference_mode, "was created under torch.inference_mode, so its tensors do not support gradients"),
        (with_a_scripted_part, "traced or scripted"),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:Lazy modules:UserWarning")
def test_models_that_cannot_be_frozen(make, words):
    with pytest.raises(AttribkitError, match=words):
        Explainer(make())


def test_a_failing_forward_says_whose_it_was():
    with pytest.raises(AssertionError) as error:
        Explainer(timm.create_model("vit_tiny_patch16_224", depth=1)).attribute(torch.randn(1, 3, 64, 64), "saliency")
    assert error.value.__notes__ == ["(raised by the model's own forward, on images of shape (1, 3, 64, 64))"]


def test_gradient_checkpointing():
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=2).eval()
    x = torch.randn(1, 3, 32, 32)
    expected = Explainer(model).attribute(x, "saliency").scores
    model.set_grad_checkpointing(True)
    torch.testing.assert_close(Explainer(model).attribute(x, "saliency").scores, expected)
    with pytest.raises(AttribkitError, match=r"gradient checkpointing.*set_grad_checkpointing\(False\)"):
        Explainer(model).attribute(x, "gradcam")


@pytest.mark.parametrize("layer", ["", (), []])
def test_no_layer_at_all(layer):
    with pytest.raises(AttribkitError, match="a string that is not empty, a non-empty tuple of these or None"):
        Explainer(tiny_cnn()).attribute(images(), "gradcam", layer=layer)


@pytest.mark.parametrize(
    ("mask", "advice"),
    [
        (torch.full((2, 16, 16), 255, dtype=torch.uint8), "mask > 0"),
        (torch.ones(2, 16, 16), "mask > 0"),
        ([[1]], r"torch.as_tensor\(mask\)"),
        (torch.ones(2, 1, 16, 16).bool(), r"mask\[:, 0\]"),
        (torch.ones(3, 16, 16).bool(), "pass one mask for each image"),
        (torch.ones(2, 4), r"pass boxes as GroundTruth\(mask, boxes=...\)"),
        (torch.ones(2, 8, 8).bool(), r"GroundTruth\(mask\), which resizes the heatmaps"),
    ],
)
def test_masks_of_other_kinds(mask, advice):
    explainer = Explainer(tiny_cnn())
    with pytest.raises(AttribkitError, match=rf"a torch.bool tensor of shape \(2, 16, 16\), got .*: .*{advice}"):
        explainer.evaluate(explainer.attribute(images()), "relevance_mass", mask=mask)


def test_a_function_that_answers_for_other_images_is_told():
    with pytest.raises(AttribkitError, match=r"scores of shape \(5,\) for 2 images"):
        Explainer(tiny_cnn()).attribute(images(), "saliency", target=lambda outputs: outputs[0])


def test_a_function_of_the_whole_batch_can_choose_a_layer_too():
    labels = torch.tensor([1, 3])
    by_function = Explainer(tiny_cnn()).attribute(images(), target=lambda y: y.gather(1, labels[:, None]).squeeze(1))
    by_index = Explainer(tiny_cnn()).attribute(by_function.x, target=[1, 3])
    assert torch.equal(by_function.scores, by_index.scores)
