"""Checks that a plugin's classes must pass; write ``check_method(MyMethod())`` or its like in a test."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attribkit.core.attribution import Attribution
from attribkit.core.method import Method
from attribkit.core.visualization import Visualization
from attribkit.core.visualizer import Visualizer
from attribkit.explainer import Explainer
from attribkit.registry import options_of

_TOLERANCE = 1e-5  # of the largest magnitude of the scores
_BETWEEN_PRECISIONS = 1e-4  # of the scores' range, between float32 and double
_HALF_CORRELATION = 0.99  # between the scores of a bfloat16 model and those of the same in float32


def check_method(method: Method, model: nn.Module | None = None, x: Tensor | None = None) -> None:
    """Run every check of METHOD_CHECKS; the first that fails raises an AssertionError that says what is wrong.

    model, x: a model that the method can explain and at least three images for it; None is a small CNN.
    """
    for check in METHOD_CHECKS:
        check(method, model or tiny_cnn(), _images() if x is None else x)


def tiny_cnn() -> nn.Module:
    """Two convolutions with batch norm, an in-place ReLU and dropout, in training mode; (b, 3, 16, 16) to 5 classes."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 5),
        )  # fmt: skip
        nn.init.uniform_(model[1].get_buffer("running_var"), 0.5, 2.0)
    return model


def model_state(model: nn.Module) -> dict[str, Any]:
    """All that an explanation must leave as it was, in a form that `changes` compares."""
    modules = dict(model.named_modules())
    return {
        "random numbers": (repr(np.random.get_state()), torch.get_rng_state().tolist()),  # noqa: NPY002
        "modules": {name: id(module) for name, module in modules.items()},
        "training flags": {name: module.training for name, module in modules.items()},
        "hooks": {name: _hooks(module) for name, module in modules.items()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "identity of .grad": {name: id(p.grad) for name, p in model.named_parameters()},
        "values of .grad": {name: _values(p.grad) for name, p in model.named_parameters()},
        "parameters": {name: (id(p), _values(p)) for name, p in model.named_parameters()},
        "buffers": {name: (id(b), _values(b)) for name, b in model.named_buffers()},
    }


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The kinds of state that differ between two answers of `model_state`."""
    return [kind for kind in before if before[kind] != after[kind]]


def check_describes_itself(method: Method, model: nn.Module, x: Tensor) -> None:
    """A frozen, hashable dataclass with a name, a source and a summary."""
    _assert_described(method)


def check_leaves_model_alone(method: Method, model: nn.Module, x: Tensor) -> None:
    """Nothing of the model, nor of the random number generators, is different afterwards."""
    before = model_state(model)
    Explainer(model).attribute(x, method)
    assert not changes(before, model_state(model)), f"changed: {changes(before, model_state(model))}"


def check_leaves_model_alone_on_error(method: Method, model: nn.Module, x: Tensor) -> None:
    """Nor when the forward raises in its middle, or the user interrupts it."""
    for error in (RuntimeError("raised on purpose"), KeyboardInterrupt()):
        explainer = Explainer(model)
        _assert_survives(error, model, lambda: explainer.attribute(x, method))  # noqa: B023  # called at once


def check_leaves_images_alone(method: Method, model: nn.Module, x: Tensor) -> None:
    """The images have the same values afterwards and want no gradient."""
    mine = x.clone()
    Explainer(model).attribute(mine, method)
    assert torch.equal(mine, x), "changed the images"
    assert not mine.requires_grad, "left requires_grad on the images"
    assert mine.grad is None, "left a gradient on the images"


def check_heatmap_fits_images(method: Method, model: nn.Module, x: Tensor) -> None:
    """Finite scores, a number per pixel, on the device and in the precision of the images."""
    attribution = Explainer(model).attribute(x, method)
    heatmap = attribution.heatmap()
    assert heatmap.shape == (len(x), *x.shape[2:]), f"heatmaps of shape {tuple(heatmap.shape)}"
    assert heatmap.dtype == x.dtype, f"heatmaps of {heatmap.dtype}"
    assert heatmap.device == x.device, f"heatmaps on {heatmap.device}"
    assert not heatmap.requires_grad, "heatmaps that want gradients"


def check_target_is_the_prediction(method: Method, model: nn.Module, x: Tensor) -> None:
    """No target means the class that the model scores highest."""
    explainer = Explainer(model)
    predicted = _predicted(model, x)
    attribution = explainer.attribute(x, method)
    assert attribution.target.index == tuple(predicted), f"explained {attribution.target}, predicted {predicted}"  # type: ignore[union-attr]
    _assert_close(
        attribution, explainer.attribute(x, method, target=predicted), "target=None and the predicted classes"
    )


def check_repeats_itself(method: Method, model: nn.Module, x: Tensor) -> None:
    """The same call gives the same scores."""
    explainer = Explainer(model)
    first = explainer.attribute(x, method)
    assert torch.equal(first.scores, explainer.attribute(x, method).scores), "two calls gave different scores"


def check_batch_equals_single_images(method: Method, model: nn.Module, x: Tensor) -> None:
    """An image's scores do not depend on the images beside it."""
    explainer = Explainer(model)
    together = explainer.attribute(x, method, target=2)
    for i in range(len(x)):
        _assert_close(
            together[i], explainer.attribute(x[i : i + 1], method, target=2), f"image {i} alone and in the batch"
        )


def check_chunks_do_not_matter(method: Method, model: nn.Module, x: Tensor) -> None:
    """Nor on how many images are explained at a time, one, three with two left over, or more than there are."""
    five = torch.cat([x, x.flip(0)])[:5]
    whole = Explainer(model).attribute(five, method)
    for size in (1, 3, 32):
        _assert_close(
            whole, Explainer(model, batch_size=size).attribute(five, method), f"batches of {size} and all at once"
        )


def check_memory_layout_does_not_matter(method: Method, model: nn.Module, x: Tensor) -> None:
    """Channels-last images are the same images."""
    if x.ndim == 4:
        other = x.contiguous(memory_format=torch.channels_last)
        explainer = Explainer(model)
        _assert_close(
            explainer.attribute(x, method), explainer.attribute(other, method), "contiguous and channels-last"
        )


def check_double_precision(method: Method, model: nn.Module, x: Tensor) -> None:
    """A double model gives double scores, and they are those of float32 but for its rounding."""
    single, double = _in_two_precisions(method, model, x, torch.float64)
    assert double.dtype == torch.float64, f"a double model gave scores of {double.dtype}"
    gap, extent = float((single - double).abs().max()), float(double.max() - double.min())
    assert gap <= _BETWEEN_PRECISIONS * max(extent, 1e-12), f"scores of float32 miss those of double by {gap:.2g}"


def check_half_precision(method: Method, model: nn.Module, x: Tensor) -> None:
    """A bfloat16 model gives finite float32 scores that agree with those of the same model in float32.

    The images must move the model's scores by more than bfloat16 rounds them, 1 in 256; else there is nothing to find.
    """
    single, half = _in_two_precisions(method, model, x, torch.bfloat16)
    assert half.dtype == torch.float32, f"a bfloat16 model gave scores of {half.dtype}"
    assert bool(half.isfinite().all()), "a bfloat16 model gave scores that are not finite"
    if bool((single != single.flatten()[0]).any()):
        agreement = float(torch.corrcoef(torch.stack([single.flatten(), half.flatten()]))[0, 1])
        assert agreement > _HALF_CORRELATION, f"scores of bfloat16 and float32 correlate by {agreement:.3f}"


METHOD_CHECKS: tuple[Callable[[Method, nn.Module, Tensor], None], ...] = (
    check_describes_itself,
    check_leaves_model_alone,
    check_leaves_model_alone_on_error,
    check_leaves_images_alone,
    check_heatmap_fits_images,
    check_target_is_the_prediction,
    check_repeats_itself,
    check_batch_equals_single_images,
    check_chunks_do_not_matter,
    check_memory_layout_does_not_matter,
    check_double_precision,
    check_half_precision,
)


def check_visualizer(
    visualizer: Visualizer, model: nn.Module | None = None, size: tuple[int, ...] = (3, 16, 16)
) -> None:
    """Run every check of VISUALIZER_CHECKS; the first that fails raises an AssertionError that says what is wrong.

    model, size: a classifier of at least three classes, and (c, *space) of its images; None is a small CNN.
    """
    for check in VISUALIZER_CHECKS:
        check(visualizer, model or tiny_cnn(), size)


def check_visualizer_describes_itself(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """A frozen, hashable dataclass with a name, a source and a summary."""
    _assert_described(visualizer)


def check_visualizer_leaves_model_alone(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """Nothing of the model, nor of the random number generators, is different afterwards."""
    before = model_state(model)
    _visualized(visualizer, model, size)
    assert not changes(before, model_state(model)), f"changed: {changes(before, model_state(model))}"


def check_visualizer_leaves_model_alone_on_error(
    visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]
) -> None:
    """Nor when the forward raises in its middle, or the user interrupts it."""
    for error in (RuntimeError("raised on purpose"), KeyboardInterrupt()):
        _assert_survives(error, model, lambda: _visualized(visualizer, model, size))


def check_visualizer_fits_model(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """Finite images of the model's shape, device and precision, that want no gradient; one of each class, or more."""
    like = next(model.parameters())
    for unit, classes in ((2, 1), ([0, 2], 2)):
        images = _visualized(visualizer, model, size, unit).images
        assert images.shape[1:] == size, f"images of shape {tuple(images.shape)}, asked for {size}"
        assert len(images) % classes == 0, f"{len(images)} images of {classes} classes"
        assert images.dtype == like.dtype, f"images of {images.dtype}, the model is of {like.dtype}"
        assert images.device == like.device, f"images on {images.device}, the model is on {like.device}"
        assert not images.requires_grad, "images that want gradients"
        assert bool(images.isfinite().all()), "images that are not finite"


def check_visualizer_responses(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """The last responses are what the model says of the images, each of its own class."""
    made = _visualized(visualizer, model, size, [0, 2])
    classes = torch.tensor([0, 2]).repeat(len(made) // 2)
    scores = _outputs(model, made.images).cpu().float()[torch.arange(len(made)), classes]
    gap = float((scores - made.responses[-1].cpu()).abs().max())
    assert gap <= 1e-3 * max(1.0, float(scores.abs().max())), f"responses differ from the model's scores by {gap:.2g}"


def check_visualizer_repeats_itself(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...]) -> None:
    """The same call gives the same images, whatever was drawn from the global random number generators before."""
    first = _visualized(visualizer, model, size).images
    torch.rand(1)
    np.random.rand()  # noqa: NPY002  # the global state is what must not matter
    assert torch.equal(first, _visualized(visualizer, model, size).images), "two calls gave different images"


VISUALIZER_CHECKS: tuple[Callable[[Visualizer, nn.Module, tuple[int, ...]], None], ...] = (
    check_visualizer_describes_itself,
    check_visualizer_leaves_model_alone,
    check_visualizer_leaves_model_alone_on_error,
    check_visualizer_fits_model,
    check_visualizer_responses,
    check_visualizer_repeats_itself,
)


def _assert_described(what: Method | Visualizer) -> None:
    cls = type(what)
    options = {name: getattr(what, name) for name in options_of(cls)}
    assert hash(what) == hash(cls(**options)), "equal options must have equal hashes: use frozen=True"
    assert what.name, "the class attribute `name` is missing"
    assert what.source, "the class attribute `source` (authors, venue, year) is missing"
    assert (cls.__doc__ or "").strip(), "the docstring is missing"


def _assert_survives(error: BaseException, model: nn.Module, call: Callable[[], object]) -> None:
    """The error comes out, and the model is as it was."""
    call()  # so that what is done once per model does not meet the error first
    handle = list(model.modules())[-1].register_forward_hook(_raiser(error))
    before = model_state(model)
    try:
        call()
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert raised is error, f"another error came out: {raised!r}"  # noqa: PT017
    finally:
        after = model_state(model)
        handle.remove()
    assert not changes(before, after), f"changed after {type(error).__name__}: {changes(before, after)}"


def _visualized(visualizer: Visualizer, model: nn.Module, size: tuple[int, ...], unit: Any = 2) -> Visualization:
    return Explainer(model).visualize(unit, visualizer, size=size)


def _images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _predicted(model: nn.Module, x: Tensor) -> list[int]:
    classes: list[int] = _outputs(model, x).argmax(1).tolist()
    return classes


def _outputs(model: nn.Module, x: Tensor) -> Tensor:
    """The class scores in evaluation mode."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        outputs: Tensor = model(x)
    for module, flag in training.items():
        module.training = flag
    return outputs


def _in_two_precisions(method: Method, model: nn.Module, x: Tensor, other: torch.dtype) -> tuple[Tensor, Tensor]:
    """Scores of the predicted classes in float32 and in another precision."""
    single = copy.deepcopy(model).float()
    classes = _predicted(single, x.float())
    first = Explainer(single).attribute(x.float(), method, target=classes)
    return first.scores, Explainer(single.to(other)).attribute(x.to(other), method, target=classes).scores


def _assert_close(one: Attribution, other: Attribution, what: str) -> None:
    gap = (one.scores - other.scores).abs().max()
    limit = _TOLERANCE * one.scores.abs().max().clamp(min=1e-12)
    assert gap <= limit, f"{what} differ by {float(gap):.2g}, more than {float(limit):.2g}"


def _hooks(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(hooks) for name, hooks in vars(module).items() if "_hooks" in name and hooks}


def _values(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().cpu().tolist()


def _raiser(error: BaseException) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        raise error

    return hook
