"""The state that a plugin must leave unchanged, and assertions that all kinds of plugins share."""

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn

from attribkit._core.errors import AttribkitError
from attribkit.registry import options_of
from attribkit.testing._checks import CheckList, ConformanceError, require


def model_state(model: nn.Module) -> dict[str, Any]:
    """Return everything that an explanation must leave unchanged, for comparison by `changes`.

    Args:
        model: The model.

    Returns:
        The state of the global random number generators and settings, and of the model's modules, training flags,
        hooks, parameters, gradients and buffers.
    """
    modules = dict(model.named_modules())
    return {
        "random numbers": (repr(np.random.get_state()), torch.get_rng_state().tolist()),  # noqa: NPY002
        "settings of torch and NumPy": _settings(),
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


def plugin_checks(kind: str, examples: Callable[[Any], tuple[Any, ...]]) -> CheckList:
    """Return a list with the checks that all plugin classes share: description and validated options."""
    checks = CheckList(kind, examples)
    checks.add(check_description)
    checks.add(check_validated_options)
    return checks


def check_description(instance: Any, *_: Any) -> None:
    """Check for a frozen, hashable dataclass with a name, a source and a docstring."""
    cls = type(instance)
    options = {name: getattr(instance, name) for name in options_of(cls)}
    require(
        hash(instance) == hash(cls(**options)),
        "two instances with equal options have different hashes",
        "equal hashes",
        "decorate the class with @dataclass(frozen=True), and keep options hashable",
    )
    for attribute in ("name", "source"):
        require(
            getattr(instance, attribute, ""),
            f"the class attribute `{attribute}` is missing or empty",
            "a name, and a source (authors, venue, year)",
            f'write `{attribute} = "..."` in the class',
        )
    require((cls.__doc__ or "").strip(), "no docstring", "a docstring", "describe the class and its options")


def check_validated_options(instance: Any, *_: Any) -> None:
    """Check that each option rejects values outside its annotation: an object, and for a number True and NaN."""
    for option in (field.name for field in fields(instance) if field.init):
        is_number = isinstance(value := getattr(instance, option), int | float) and not isinstance(value, bool)
        for wrong in (object(), True, float("nan")) if is_number else (object(),):
            try:
                replace(instance, **{option: wrong})
            except (AttribkitError, TypeCheckError):  # the latter if jaxtyping checks the package
                continue
            raise ConformanceError(
                f"{option}={wrong!r} is accepted",
                "an InvalidInput error",
                f"annotate {option} with the values that it accepts, such as PositiveInt or Literal[...]",
            )


def require_unchanged(before: dict[str, Any], model: nn.Module, when: str) -> None:
    """Require that the state is the earlier result of `model_state`."""
    changed = changes(before, model_state(model))
    require(
        not changed,
        f"{when} changed: {', '.join(changed)}",
        "the model, the random number generators and the settings are left unchanged",
        "compute with the model interface, and with a torch.Generator of your own",
    )


def require_unchanged_on_error(model: nn.Module, call: Callable[[], object], *, must_raise: bool = True) -> None:
    """Require that an error in the forward leaves the model unchanged, and passes through the call if it must."""
    for error in (RuntimeError("raised on purpose"), KeyboardInterrupt()):
        call()  # runs the steps that are done once per model before the error is raised
        calls: list[object] = []
        handle = list(model.modules())[-1].register_forward_hook(_raiser(error, calls))
        before = model_state(model)
        try:
            call()
            require(
                not (calls and must_raise),
                f"{error!r} of the model's forward is caught, and a result is returned",
                "the error of the model's forward",
                "do not catch errors of the model",
            )
        except (RuntimeError, KeyboardInterrupt) as raised:
            require(
                raised is error,
                f"{raised!r} is raised in place of {error!r}",
                "the error of the model's forward",
                "do not catch errors of the model",
            )
        finally:
            after = model_state(model)
            handle.remove()
        require(
            not changes(before, after),
            f"an error of the forward leaves changed: {', '.join(changes(before, after))}",
            "the model is left unchanged after an error",
            "restore in a finally clause or with a context manager",
        )


def advance_generators() -> None:
    """Draw from the global random number generators."""
    torch.rand(1, dtype=torch.float32, device="cpu")
    np.random.rand()  # noqa: NPY002


def memory_growth(call: Callable[[], object], calls: int = 3) -> list[int]:
    """Return the bytes of tensors and NumPy arrays that each of several calls left allocated.

    Two calls before these fill caches. A storage that several tensors share counts once.
    """
    sizes = []
    call()
    gc.collect()
    gc.freeze()  # so that the objects that exist now are not visited each time
    tracemalloc.start()
    try:
        for _ in range(1 + calls):
            call()
            gc.collect()
            sizes.append(_bytes_of_tensors() + _bytes_of_arrays())
    finally:
        tracemalloc.stop()
        gc.unfreeze()
    return [after - before for before, after in pairwise(sizes)]


def _bytes_of_tensors() -> int:
    storages = {}
    for each in gc.get_objects():
        if issubclass(type(each), Tensor) and each.layout == torch.strided and not each.is_meta:
            storage = each.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def _bytes_of_arrays() -> int:
    arrays = tracemalloc.DomainFilter(inclusive=True, domain=np.lib.tracemalloc_domain)
    return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([arrays]).traces)


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


def _settings() -> dict[str, Any]:
    return {
        "gradients": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "precision of products": torch.get_float32_matmul_precision(),
        "floating-point errors": np.geterr(),
    }


def _hooks(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(hooks) for name, hooks in vars(module).items() if "_hooks" in name and hooks}


def _values(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().cpu().tolist()


def _raiser(error: BaseException, calls: list[object]) -> Callable[..., None]:
    def hook(module: nn.Module, *_: Any) -> None:
        calls.append(module)
        raise error

    return hook
