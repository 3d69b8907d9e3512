"""Inputs of a model's forward other than the images."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from attribkit._core.errors import InvalidInput, UnknownName
from attribkit._core.nested import iterate_leaves, map_leaves
from attribkit._core.tensors import fingerprint
from attribkit._display.representations import short_repr

_NOTE_PREFIX = "other inputs of the model:"


@dataclass(frozen=True, eq=False)
class BroadcastInput:
    """An input tensor of a model that is the same for all images and is passed on unchanged.

    Args:
        tensor: The tensor, of any shape.

    Raises:
        InvalidInput: The value is not a tensor.
    """

    tensor: Tensor

    __repr__ = short_repr

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, Tensor):
            raise InvalidInput(
                f"BroadcastInput holds a single tensor, got {type(self.tensor).__name__}. Wrap each tensor separately."
            )


_LEAVES = (Tensor, BroadcastInput)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Keyword arguments of a model's forward other than the images; only the images are explained.

    Args:
        values: The arguments by name. Tensors, including those inside tuples, lists, dicts and dataclasses, have one
            row per image, unless they are wrapped in BroadcastInput.
        images: Number of images, and of rows.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    images: int = 0

    def arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of the forward, as copies, since a model may modify its inputs in place."""
        return {name: map_leaves(value, _LEAVES, _copy) for name, value in self.values.items()}

    def of(self, count: int) -> "Inputs":
        """Return the inputs for a batch of `count` images: all of the images, repeated."""
        if not self.values or count == self.images:
            return self
        times, rest = divmod(count, self.images)
        if rest or not times:
            raise InvalidInput(
                f"The model was called on {count} images, which is not a multiple of the {self.images} images of "
                "inputs=, so the inputs cannot be assigned to images. Explain one image at a time."
            )
        return self._of_rows(lambda rows: rows.repeat(times, *(1,) * (rows.ndim - 1)), count)

    def subset(self, images: slice) -> "Inputs":
        """Return the inputs of a slice of the images."""
        return self._of_rows(lambda rows: rows[images], len(range(*images.indices(self.images))))

    @property
    def kind(self) -> Any:
        """A key that is equal for inputs that differ only in their tensors."""
        return tuple((name, repr(map_leaves(value, _LEAVES, lambda _: None))) for name, value in self.values.items())

    def notes(self) -> list[str]:
        """Return the notes of results for these inputs."""
        values = ", ".join(f"{name}={_describe(value)}" for name, value in self.values.items())
        return [f"{_NOTE_PREFIX} {values}; only the images are explained"] if values else []

    def _of_rows(self, change: Callable[[Tensor], Tensor], count: int) -> "Inputs":
        """Change the rows of every tensor that has one row per image."""
        return Inputs(
            {name: map_leaves(value, _LEAVES, _on_rows(change)) for name, value in self.values.items()}, count
        )


def validate_inputs(
    inputs: Mapping[str, Any] | None, module: nn.Module, images: int, image: str | None = None
) -> Inputs:
    """Validate a user's inputs against the model's forward and the images, and copy them.

    Args:
        inputs: Arguments of the forward by name.
        module: The model.
        images: Number of images.
        image: Parameter of the forward that receives the images; None means the first.

    Raises:
        InvalidInput: The inputs are not a mapping, include the images, or do not have one row per image.
        UnknownName: The forward does not have a parameter of this name.
    """
    if inputs is None:
        return Inputs()
    if not isinstance(inputs, Mapping):
        raise InvalidInput(
            "inputs must be a dict from names of other arguments of the model's forward to their values, got "
            f"{type(inputs).__name__}."
        )
    parameters = _parameters(module)
    image = image or next(iter(inspect.signature(module.forward).parameters), None)
    for name, value in inputs.items():
        if name == image:
            raise InvalidInput(f"inputs[{name!r}] is the explained input of the model's forward. Pass it as x.")
        if name not in parameters and not _takes_any(module):
            raise UnknownName(
                "input of the model's forward", name, [parameter for parameter in parameters if parameter != image]
            )
        _check_rows(name, value, images)
    return Inputs(inputs, images)._of_rows(lambda rows: rows.detach().clone(), images)


def check_image_name(name: str, module: nn.Module) -> None:
    """Check that the model's forward has a parameter of this name, which receives the images."""
    if not isinstance(name, str):
        raise InvalidInput(
            f"image must be the name of the parameter of the model's forward that receives the images, got {name!r}."
        )
    if name not in _parameters(module) and not _takes_any(module):
        raise UnknownName("parameter of the model's forward", name, _parameters(module))


def has_other_inputs(notes: Iterable[str]) -> bool:
    """Return whether the notes of a result show that the model received inputs other than the images."""
    return any(note.startswith(_NOTE_PREFIX) for note in notes)


@contextmanager
def inject_inputs(
    module: nn.Module, arguments: Callable[[Tensor], tuple[tuple[Any, ...], dict[str, Any]]]
) -> Iterator[None]:
    """Replace the images that a module is called with by all arguments of its forward, in every call.

    Args:
        module: The module.
        arguments: Returns the positional and keyword arguments of the forward for images.
    """

    def pre_hook(_module: nn.Module, args: tuple[Tensor, ...], _kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        return arguments(args[0])

    with module.register_forward_pre_hook(pre_hook, with_kwargs=True, prepend=True):
        yield


def _parameters(module: nn.Module) -> list[str]:
    """Return the names of the parameters of a module's forward that accept keywords, in order."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(module.forward).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind in by_name]


def _takes_any(module: nn.Module) -> bool:
    """Return whether a module's forward accepts arbitrary keyword arguments."""
    parameters = inspect.signature(module.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def _check_rows(name: str, value: Any, images: int) -> None:
    for path, tensor in iterate_leaves(value, _LEAVES):
        if isinstance(tensor, Tensor) and tensor.ndim > 0 and len(tensor) != images:
            raise InvalidInput(
                f"inputs[{name!r}]{path} has {len(tensor)} rows for {images} images. Pass one row per image, or "
                "BroadcastInput(tensor) if the tensor is the same for all images."
            )


def _on_rows(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor | BroadcastInput], Tensor | BroadcastInput]:
    """Restrict a change to tensors that have one row per image; leave scalars and BroadcastInput unchanged."""
    return lambda value: change(value) if isinstance(value, Tensor) and value.ndim > 0 else value


def _copy(value: Tensor | BroadcastInput) -> Tensor:
    return (value.tensor if isinstance(value, BroadcastInput) else value).clone()


class _Text(str):
    """Text without quotes inside the repr of a structure."""

    __repr__ = str.__str__


def _describe(value: Any) -> str:
    return repr(map_leaves(value, _LEAVES, lambda leaf: _Text(_fingerprint(leaf))))


def _fingerprint(value: Tensor | BroadcastInput) -> str:
    if isinstance(value, BroadcastInput):
        return f"BroadcastInput({fingerprint(value.tensor)})"
    return f"({fingerprint(value)})"
