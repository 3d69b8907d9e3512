"""What a model's forward takes besides the images."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from attribkit.core.errors import InvalidInput, UnknownName
from attribkit.core.nested import leaves, mapped
from attribkit.core.tensors import fingerprint

_GIVEN = "the model was also given"


@dataclass(frozen=True, eq=False)
class BroadcastInput:
    """A tensor that is the same for all images, among the inputs of a model; it is handed on as it is."""

    tensor: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.tensor, Tensor):
            raise InvalidInput(
                f"BroadcastInput holds one tensor, got {type(self.tensor).__name__}: wrap each of the tensors."
            )


_LEAVES = (Tensor, BroadcastInput)


@dataclass(frozen=True, eq=False)
class Inputs:
    """Keyword arguments of a model's forward besides the images; only the images are explained.

    Tensors, those inside tuples, lists, dicts and dataclasses too, have a row per image, unless they are BroadcastInput.
    """

    values: Mapping[str, Any] = field(default_factory=dict)
    images: int = 0  # how many rows

    def arguments(self) -> dict[str, Any]:
        """What to call the forward with; copies, since a model may work in place."""
        return {name: mapped(value, _LEAVES, _copied) for name, value in self.values.items()}

    def of(self, count: int) -> "Inputs":
        """Those of so many images: of all of them, as often in a row as it takes."""
        if not self.values or count == self.images:
            return self
        times, rest = divmod(count, self.images)
        if rest or not times:
            raise InvalidInput(
                f"The model was asked about {count} images, and inputs= were given for {self.images}: which of them "
                "belong to which cannot be told. Explain one image at a time."
            )
        return self._of_rows(lambda rows: rows.repeat(times, *(1,) * (rows.ndim - 1)), count)

    def subset(self, images: slice) -> "Inputs":
        """Those of some of the images."""
        return self._of_rows(lambda rows: rows[images], len(range(*images.indices(self.images))))

    @property
    def kind(self) -> Any:
        """Equal for inputs that differ in tensors alone."""
        return tuple((name, repr(mapped(value, _LEAVES, lambda _: None))) for name, value in self.values.items())

    def notes(self) -> list[str]:
        """What a careful reader should know."""
        told = ", ".join(f"{name}={_told(value)}" for name, value in self.values.items())
        return [f"{_GIVEN} {told}; only the images are explained"] if told else []

    def _of_rows(self, change: Callable[[Tensor], Tensor], count: int) -> "Inputs":
        """The same with other rows of every tensor that has a row per image."""
        return Inputs({name: mapped(value, _LEAVES, _on_rows(change)) for name, value in self.values.items()}, count)


def read_inputs(given: Mapping[str, Any] | None, module: nn.Module, images: int, image: str | None = None) -> Inputs:
    """The inputs that a user gave, if they fit the model's forward and the images.

    image: the parameter of the forward that takes the images; None is the first.
    """
    if given is None:
        return Inputs()
    if not isinstance(given, Mapping):
        raise InvalidInput(f"inputs= is a dict of the forward's other arguments by name, got {type(given).__name__}.")
    parameters = _parameters(module)
    image = image or next(iter(inspect.signature(module.forward).parameters), None)
    for name, value in given.items():
        if name == image:
            raise InvalidInput(f"inputs[{name!r}] is the explained input of the model's forward: give it as x.")
        if name not in parameters and not _takes_any(module):
            raise UnknownName("input of the model's forward", name, [each for each in parameters if each != image])
        _check_rows(name, value, images)
    return Inputs(given, images)._of_rows(lambda rows: rows.detach().clone(), images)


def check_image_name(name: str, module: nn.Module) -> None:
    """Refuse a name of the explained input that the model's forward has no parameter of."""
    if not isinstance(name, str):
        raise InvalidInput(f"image={name!r} is the name of the forward's parameter that takes the images, a string.")
    if name not in _parameters(module) and not _takes_any(module):
        raise UnknownName("parameter of the model's forward", name, _parameters(module))


def has_other_inputs(notes: Iterable[str]) -> bool:
    """Whether images with these notes went through the model with more than themselves."""
    return any(note.startswith(_GIVEN) for note in notes)


@contextmanager
def inject_inputs(
    module: nn.Module, arguments: Callable[[Tensor], tuple[tuple[Any, ...], dict[str, Any]]]
) -> Iterator[None]:
    """Let a module be called with images alone, whoever calls it; arguments: of the images, what its forward takes."""

    def given(_module: nn.Module, args: tuple[Tensor, ...], _kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        return arguments(args[0])

    with module.register_forward_pre_hook(given, with_kwargs=True, prepend=True):
        yield


def _parameters(module: nn.Module) -> list[str]:
    """The parameters of a module's forward that can be given by name, in order."""
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [each.name for each in inspect.signature(module.forward).parameters.values() if each.kind in by_name]


def _takes_any(module: nn.Module) -> bool:
    """Whether a module's forward takes keyword arguments of any name."""
    parameters = inspect.signature(module.forward).parameters.values()
    return any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)


def _check_rows(name: str, value: Any, images: int) -> None:
    for path, tensor in leaves(value, _LEAVES):
        if isinstance(tensor, Tensor) and tensor.ndim > 0 and len(tensor) != images:
            raise InvalidInput(
                f"inputs[{name!r}]{path} has {len(tensor)} rows for {images} images: give a row per image, or "
                "BroadcastInput(tensor) for one that is the same for all of them."
            )


def _on_rows(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor | BroadcastInput], Tensor | BroadcastInput]:
    """The change of tensors that have a row per image; numbers and shared ones stay."""
    return lambda each: change(each) if isinstance(each, Tensor) and each.ndim > 0 else each


def _copied(value: Tensor | BroadcastInput) -> Tensor:
    return (value.tensor if isinstance(value, BroadcastInput) else value).clone()


class _Text(str):
    """Text whose repr is itself, inside the repr of a structure."""

    __repr__ = str.__str__


def _told(value: Any) -> str:
    return repr(mapped(value, _LEAVES, lambda each: _Text(_fingerprint(each))))


def _fingerprint(value: Tensor | BroadcastInput) -> str:
    return (
        f"BroadcastInput({fingerprint(value.tensor)})"
        if isinstance(value, BroadcastInput)
        else f"({fingerprint(value)})"
    )
