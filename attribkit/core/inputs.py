"""What a model's forward takes besides the images."""

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from attribkit.core.errors import InvalidInput, UnknownName
from attribkit.core.fingerprint import fingerprint

_GIVEN = "the model was also given"


@dataclass(frozen=True, eq=False)
class Shared:
    """A tensor that is the same for all images, among the inputs of a model; it is handed on as it is."""

    tensor: Tensor


@dataclass(frozen=True, eq=False)
class Inputs:
    """Keyword arguments of a model's forward besides the images; only the images are explained."""

    values: Mapping[str, Any] = field(default_factory=dict)  # tensors have a row per image, unless they are Shared
    images: int = 0  # how many rows

    def arguments(self) -> dict[str, Any]:
        """What to call the forward with; copies, since a model may work in place."""
        return {name: _copied(value) for name, value in self.values.items()}

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
        return Inputs({name: _repeated(value, times) for name, value in self.values.items()}, count)

    def part(self, images: slice) -> "Inputs":
        """Those of some of the images."""
        values = {name: value[images] if _has_rows(value) else value for name, value in self.values.items()}
        return Inputs(values, len(range(*images.indices(self.images))))

    @property
    def kind(self) -> Any:
        """Equal for inputs that differ in tensors alone."""
        return tuple((name, None if _is_tensor(value) else repr(value)) for name, value in self.values.items())

    def notes(self) -> list[str]:
        """What a careful reader should know."""
        told = ", ".join(f"{name}={_told(value)}" for name, value in self.values.items())
        return [f"{_GIVEN} {told}; only the images are explained"] if told else []


def read_inputs(given: Mapping[str, Any] | None, module: nn.Module, images: int) -> Inputs:
    """The inputs that a user gave, if they fit the model's forward and the images."""
    if given is None:
        return Inputs()
    if not isinstance(given, Mapping):
        raise InvalidInput(f"inputs= is a dict of the forward's other arguments by name, got {type(given).__name__}.")
    parameters = inspect.signature(module.forward).parameters
    takes_all = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    for name, value in given.items():
        if name not in parameters and not takes_all:
            raise UnknownName("input of the model's forward", name, list(parameters)[1:])
        if _has_rows(value) and len(value) != images:
            raise InvalidInput(
                f"inputs[{name!r}] has {len(value)} rows for {images} images: give a row per image, or "
                "Shared(tensor) for one that is the same for all of them."
            )
    return Inputs(
        {name: value.detach().clone() if _has_rows(value) else value for name, value in given.items()}, images
    )


def had_inputs(notes: Iterable[str]) -> bool:
    """Whether images with these notes went through the model with more than themselves."""
    return any(note.startswith(_GIVEN) for note in notes)


@contextmanager
def handed_on(module: nn.Module, values: Mapping[str, Any]) -> Iterator[None]:
    """Let a module's forward have these keyword arguments, whoever calls it."""
    with module.register_forward_pre_hook(lambda _, args, kwargs: (args, {**kwargs, **values}), with_kwargs=True):
        yield


def _has_rows(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor | Shared)


def _repeated(value: Any, times: int) -> Any:
    return value.repeat(times, *(1,) * (value.ndim - 1)) if _has_rows(value) else value


def _copied(value: Any) -> Any:
    if isinstance(value, Shared):
        return value.tensor.clone()
    return value.clone() if isinstance(value, Tensor) else value


def _told(value: Any) -> str:
    if isinstance(value, Shared):
        return f"Shared({fingerprint(value.tensor)})"
    return f"({fingerprint(value)})" if isinstance(value, Tensor) else repr(value)
