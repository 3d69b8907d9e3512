"""Checks that any method, built in or a stranger's, must pass; write ``check_method(MyMethod())`` in a test."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attribkit.core.attribution import Attribution
from attribkit.core.method import Method
from attribkit.explainer import Explainer
from attribkit.registry import options_of

_TOLERANCE = 1e-5  # of the largest magnitude of the scores


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
    cls = type(method)
    options = {name: getattr(method, name) for name in options_of(cls)}
    assert hash(method) == hash(cls(**options)), "equal options must have equal hashes: use frozen=True"
    assert method.name, "the class attribute `name` is missing"
    assert method.source, "the class attribute `source` (authors, venue, year) is missing"
    assert (cls.__doc__ or "").strip(), "the docstring is missing"


def check_leaves_model_alone(method: Method, model: nn.Module, x: Tensor) -> None:
    """Nothing of the model, nor of the random number generators, is different afterwards."""
    before = model_state(model)
    Explainer(model).attribute(x, method)
    assert not changes(before, model_state(model)), f"changed: {changes(before, model_state(model))}"


def check_leaves_model_alone_on_error(method: Method, model: nn.Module, x: Tensor) -> None:
    """Nor when the forward raises in its middle, or the user interrupts it."""
    for error in (RuntimeError("raised on purpose"), KeyboardInterrupt()):
        explainer = Explainer(model)
        explainer.attribute(x, method)  # so that what is done once per model does not meet the error first
        handle = list(model.modules())[-1].register_forward_hook(_raiser(error))
        before = model_state(model)
        try:
            explainer.attribute(x, method)
        except (RuntimeError, KeyboardInterrupt) as raised:
            assert raised is error, f"another error came out: {raised!r}"  # noqa: PT017
        finally:
            after = model_state(model)
            handle.remove()
        assert not changes(before, after), f"changed after {type(error).__name__}: {changes(before, after)}"


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
    """Nor on how many images are explained at a time."""
    whole = Explainer(model).attribute(x, method)
    for size in (1, 2):
        _assert_close(
            whole, Explainer(model, batch_size=size).attribute(x, method), f"batches of {size} and all at once"
        )


def check_memory_layout_does_not_matter(method: Method, model: nn.Module, x: Tensor) -> None:
    """Channels-last images are the same images."""
    if x.ndim == 4:
        other = x.contiguous(memory_format=torch.channels_last)
        explainer = Explainer(model)
        _assert_close(
            explainer.attribute(x, method), explainer.attribute(other, method), "contiguous and channels-last"
        )


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
)


def _images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def _predicted(model: nn.Module, x: Tensor) -> list[int]:
    training = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        classes: list[int] = model(x).argmax(1).tolist()
    for module, flag in training.items():
        module.training = flag
    return classes


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
