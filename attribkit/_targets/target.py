"""The base class for targets, and the targets for functions and for methods without a target."""

import builtins
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor

from attribkit._core.errors import InvalidInput
from attribkit._core.shapes import PerImage
from attribkit._core.tensors import fingerprint
from attribkit._display.representations import short_repr
from attribkit._targets.class_outputs import ClassLabels, Returned
from attribkit._targets.outputs import floating_outputs, to_full_precision

TargetNote = tuple[str, Tensor | None]  # text and the images that it concerns, (b,) bool; None means all of them

_IMMUTABLE = (bool, bytes, complex, float, int, str, type(None))


class Target(ABC):
    """Base class for targets, which compute one score per image from the outputs of a model."""

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if cls.__repr__ is Target.__repr__:
            cls.__repr__ = Target.__repr__  # type: ignore[method-assign]  # so that dataclass keeps it

    def __repr__(self) -> str:
        return short_repr(self, lambda tensor: f"({fingerprint(torch.as_tensor(tensor))})")

    @abstractmethod
    def __call__(self, outputs: Any) -> PerImage:
        """Score each image; differentiable.

        Args:
            outputs: Outputs of the model; a `LayerOutput` if `read_layer` is set, a `Returned` if `reads_classes`.

        Returns:
            One score per image, (b,).
        """

    @property
    def count(self) -> int | None:
        """The number of images that the target is for; None means any number."""
        return None

    @property
    def kind(self) -> Any:
        """A key that is equal for targets that read the same part of a model's outputs."""
        return type(self)

    @property
    def layer_key(self) -> Hashable:
        """A key for caching the choice of a layer; None if it is unknown, so that the choice holds for one call.

        By default the target itself, if it is a frozen dataclass that is compared by its fields.
        """
        parameters = getattr(type(self), "__dataclass_params__", None)
        return self if parameters and parameters.frozen and parameters.eq else None

    @property
    def is_local(self) -> bool:
        """Whether the target scores a spatial part of the outputs, such as a region of a segmentation."""
        return False

    @property
    def read_layer(self) -> str | None:
        """The layer whose output is scored, passed as a `LayerOutput`; None means the output of the model."""
        return None

    @property
    def reads_classes(self) -> bool:
        """Whether the target is called with a `Returned`, for `read_scores` and `read_maps`, instead of raw outputs."""
        return False

    @property
    def needs_outputs(self) -> bool:
        """Whether the outputs for the explained images determine the target, as for the predicted class."""
        return False

    def decision(self, outputs: Any) -> list[Tensor]:
        """Return one tensor per image that determines the target if `needs_outputs`, without waiting for the device."""
        return []

    def resolved(self, decision: Sequence[Tensor]) -> "Target":
        """Return the target for images with this decision, which stays the same for perturbed versions of them."""
        return self

    def subset(self, images: slice) -> "Target":
        """Return the target for a slice of the images."""
        return self

    def tile(self, times: int) -> "Target | None":
        """Return the target for the images repeated `times` times; None if this is not possible."""
        return None

    def resolve_labels(self, labels: ClassLabels) -> "Target":
        """Replace every label by the index of its class."""
        return self

    def bind(self, images: Tensor, embed: Callable[[Tensor, "Target"], Tensor]) -> "Target":
        """Return the target for the explained images, with the embeddings of its reference images computed.

        Args:
            images: The explained images, (b, c, *space).
            embed: Computes the embeddings, (n, d), of images for a target.
        """
        return self

    def notes(self, outputs: Any) -> list[TargetNote]:
        """Return notes on how these outputs were scored, such as saturated probabilities."""
        return []


@dataclass(frozen=True)
class FunctionTarget(Target):
    """A function of the model's outputs.

    Args:
        function: Computes one score per image, (b,), from the outputs of the model; differentiable for methods that
            need gradients.
    """

    function: Callable[[Any], Tensor]

    @property
    def kind(self) -> Any:
        return "function", self.function

    @property
    def layer_key(self) -> Hashable:
        return function_key(self.function)

    def __call__(self, outputs: Any) -> PerImage:
        scores = self.function(outputs)
        if not isinstance(scores, Tensor) or scores.ndim != 1:
            got = f"a tensor of shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
            raise InvalidInput(
                f"The target {self.function!r} must return one score per image, a tensor of shape (b,), got {got}."
            )
        return scores


def outputs_for(target: Target, outputs: Any) -> Any:
    """Return the outputs in the form that the target expects."""
    return outputs.outputs if isinstance(outputs, Returned) and not target.reads_classes else outputs


def check_class_count(target: Target, images: int) -> None:
    """Check that the target is for this number of images."""
    if target.count not in (None, images):
        raise InvalidInput(
            f"Got {target.count} targets for {images} images. Pass one for all images, or one per image."
        )


@dataclass(frozen=True)
class NoTarget(Target):
    """The target of methods that do not use a target, if the user passes none.

    Its score is a fixed combination of all outputs. It only serves to find what the outputs depend on: the layers
    between the images and the outputs, and the tokens that are read.
    """

    @property
    def kind(self) -> str:
        return "none"

    def __call__(self, outputs: Any) -> PerImage:
        tensors = floating_outputs(outputs)
        images = min((len(tensor) for tensor in tensors), default=0)
        scores = [_combine(tensor) for tensor in tensors if len(tensor) == images]
        if not scores:
            raise InvalidInput(
                f"The model returned {type(outputs).__name__} without a floating-point tensor that has one row per "
                "image. Pass target=function, which computes one score per image from the outputs."
            )
        return torch.stack(scores).sum(0)

    def tile(self, times: int) -> "Target":
        return self


def _combine(output: Tensor) -> PerImage:
    """Sum the values of each image with fixed weights, such that the sum is not constant after a normalisation."""
    flat = to_full_precision(output.reshape(len(output), -1))
    return flat @ torch.arange(flat.shape[1], device=flat.device, dtype=torch.float32).add(1).cos().to(flat)


def function_key(function: Callable[..., Any]) -> Hashable:
    """Return a key that is equal for equivalent functions; None if this is unknown, as for a function that uses a list.

    The key consists of the code, the defaults, the closure and the global names in the code.
    """
    try:
        return _key(function, ())
    except _UnknownKeyError:
        return None


class _UnknownKeyError(Exception):
    """Raised for a value that is mutable or of an unsupported type."""


def _key(value: Any, outer: tuple[Any, ...]) -> Hashable:
    if isinstance(value, _IMMUTABLE):
        return type(value), value
    if isinstance(value, tuple):
        return tuple(_key(item, outer) for item in value)
    if isinstance(value, ModuleType | BuiltinFunctionType | type):
        return value
    if isinstance(value, FunctionType) and value not in outer:
        return _python_function_key(value, (*outer, value))
    raise _UnknownKeyError


def _python_function_key(function: FunctionType, outer: tuple[Any, ...]) -> Hashable:
    code = function.__code__
    if any(isinstance(constant, CodeType) for constant in code.co_consts):
        raise _UnknownKeyError  # the names of an inner function are not in co_names
    cells = tuple(_key(cell.cell_contents, outer) for cell in function.__closure__ or ())
    names = [name for name in code.co_names if name in function.__globals__ and not hasattr(builtins, name)]
    values = tuple((name, _key(function.__globals__[name], outer)) for name in names)
    defaults = _key((*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items()), outer)
    return code, cells, values, defaults
