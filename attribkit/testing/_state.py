"""The state of a model, assertions that all kinds of plugins share, and a small model with images."""

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from attribkit._core.errors import AttribkitError
from attribkit.registry import options_of


def tiny_cnn() -> nn.Module:
    """Return a small CNN with batch norm, in-place ReLU and dropout, in training mode; (b, 3, 16, 16) to 5 classes."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.ReLU(inplace=True),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(6, 5),
        )  # fmt: skip
        nn.init.uniform_(model[1].get_buffer("running_var"), 0.5, 2.0)
    return model


def images() -> Tensor:
    """Return three images of noise for `tiny_cnn`."""
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float32, device="cpu")


def model_state(model: nn.Module) -> dict[str, Any]:
    """Return everything that an explanation must leave unchanged, for comparison by `changes`.

    Args:
        model: The model.

    Returns:
        The state of the global random number generators and of the model's modules, training flags, hooks, parameters,
        gradients and buffers.
    """
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
    """Return the kinds of state that differ between two results of `model_state`.

    Args:
        before: The earlier state.
        after: The later state.
    """
    return [kind for kind in before if before[kind] != after[kind]]


def assert_described(what: Any) -> None:
    """Assert a frozen, hashable dataclass with a name, a source and a docstring."""
    cls = type(what)
    options = {name: getattr(what, name) for name in options_of(cls)}
    assert hash(what) == hash(cls(**options)), "equal options must have equal hashes: use frozen=True"
    assert getattr(what, "name", ""), "the class attribute `name` is missing"
    assert getattr(what, "source", ""), "the class attribute `source` (authors, venue, year) is missing"
    assert (cls.__doc__ or "").strip(), "the docstring is missing"


def assert_refuses_wrong_options(what: Any) -> None:
    """Assert that each option rejects values outside its annotation: an object, and for a number True and NaN."""
    for option in (field.name for field in fields(what) if field.init):
        is_number = isinstance(value := getattr(what, option), int | float) and not isinstance(value, bool)
        for wrong in (object(), True, float("nan")) if is_number else (object(),):
            try:
                replace(what, **{option: wrong})
            except (AttribkitError, TypeCheckError):  # the latter if jaxtyping checks the package
                continue
            raise AssertionError(f"{option}={wrong!r} is accepted: annotate {option} with the values that it accepts")


def assert_survives(error: BaseException, model: nn.Module, call: Callable[[], object]) -> None:
    """Assert that the error passes through the call, and that the model is unchanged afterwards."""
    call()  # runs the steps that are done once per model before the error is raised
    handle = list(model.modules())[-1].register_forward_hook(_raiser(error))
    before = model_state(model)
    try:
        call()
    except (RuntimeError, KeyboardInterrupt) as raised:
        assert raised is error, f"another error was raised: {raised!r}"  # noqa: PT017
    finally:
        after = model_state(model)
        handle.remove()
    assert not changes(before, after), f"changed after {type(error).__name__}: {changes(before, after)}"


def predicted_classes(model: nn.Module, x: Tensor) -> list[int]:
    """Return the class with the highest score for each image."""
    classes: list[int] = outputs_of(model, x).argmax(1).tolist()
    return classes


def outputs_of(model: nn.Module, x: Tensor) -> Tensor:
    """Return the class scores in evaluation mode."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    with torch.no_grad():
        outputs: Tensor = model(x)
    for module, flag in training.items():
        module.training = flag
    return outputs


def _hooks(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(hooks) for name, hooks in vars(module).items() if "_hooks" in name and hooks}


def _values(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().cpu().tolist()


def _raiser(error: BaseException) -> Callable[..., None]:
    def hook(*_: Any) -> None:
        raise error

    return hook
