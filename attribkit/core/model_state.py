"""Whether a model is still as it was: what the way through its forward and the choice of a layer depend on."""

from collections import OrderedDict
from collections.abc import Iterable
from itertools import chain
from operator import is_
from typing import Any

from torch import Tensor, nn

_MAPPINGS = (dict, OrderedDict)  # of a module's parameters, submodules and hooks


class ModelState:
    """The attributes of every module, one level deep, and the versions of the model's parameters.

    Attributes are compared by identity, since that is quick: an equal object in the place of another counts as a
    change. Values that are written past autograd, by ``.data``, are not seen.
    """

    def __init__(self, model: nn.Module) -> None:
        attributes = [vars(module) for module in model.modules()]
        containers = [value for own in attributes for value in own.values()]
        mappings = [value for value in containers if type(value) in _MAPPINGS]
        self._empty = [mapping for mapping in mappings if not mapping]
        self._mappings: list[dict[Any, Any]] = [*attributes, *filter(None, mappings)]
        self._values = list(_values(self._mappings))
        self._others = [(value, value.copy()) for value in containers if type(value) in (list, set)]
        self._parameters = list(model.parameters())
        self._versions = _versions(self._parameters)

    def is_unchanged(self) -> bool:
        """Whether the model is as it was when this was made."""
        return (
            not any(self._empty)
            and sum(map(len, self._mappings)) == len(self._values)
            and all(map(is_, _values(self._mappings), self._values))
            and _versions(self._parameters) == self._versions
            and all(len(now) == len(then) and all(map(is_, now, then)) for now, then in self._others)
        )


def _values(mappings: Iterable[dict[Any, Any]]) -> Iterable[Any]:
    return chain.from_iterable(map(dict.values, mappings))


def _versions(parameters: Iterable[Tensor]) -> list[tuple[int, int]]:
    return [(parameter.data_ptr(), parameter._version) for parameter in parameters]
