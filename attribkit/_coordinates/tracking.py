"""Track the image coordinates of the elements of a model's tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from attribkit._coordinates.coordinates import (
    CellCoordinates,
    coordinates_agree,
    pixel_coordinates,
    unknown_positions,
    without_expanded_axes,
)
from attribkit._coordinates.products import CoordinateRule, TrackedResult
from attribkit._coordinates.rules import rule_for
from attribkit._coordinates.writes import write_through_view


class track_coordinates(TorchFunctionMode):  # used as a context manager, like those of torch
    """Context manager that tracks pixels through a forward: windows, shifts, class tokens and any order of tokens.

    Rearrangements of values rearrange the coordinates in the same way; convolutions and poolings move them to a coarser
    or finer grid. Mixtures of the whole image, such as a global mean, and the results of functions without a rule have
    unknown positions. A sum keeps the positions of the operand that has known ones, so a residual connection preserves
    them across functions without a rule.

    Args:
        x: The images, (b, c, *space), with which the forward starts.
    """

    def __init__(self, x: Tensor) -> None:
        TorchFunctionMode.__init__(self)
        self._coordinates = WeakTensorKeyDictionary()
        self._coordinates[x] = pixel_coordinates(x)

    def of(self, tensor: Any) -> CellCoordinates | None:
        """Return the coordinates of a tensor; None if they are unknown."""
        return self._coordinates.get(tensor) if isinstance(tensor, Tensor) else None

    def __torch_function__(
        self, function: Callable[..., Any], _types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        keywords = kwargs or {}
        outputs = function(*args, **keywords)
        rule = rule_for(function)
        written = args[0] if outputs is None and rule else outputs  # as in an assignment to an index
        target = written if isinstance(written, Tensor) and any(written is each for each in args) else None
        if rule and any(self.of(each) for each in _flatten((*args, *keywords.values()))):
            before = self.of(target)
            result = self._apply(rule, function, args, keywords, outputs)
            self._store(written, result)
            if target is not None and not (before and _is_unchanged(before, result)):
                self._write_through(target, before)
        elif target is not None:
            self._coordinates.pop(target, None)  # overwritten by a function without a rule
            self._write_through(target, None)
        return outputs

    def _write_through(self, target: Tensor, before: CellCoordinates | None) -> None:
        """Update the base of a view that was written into, and forget its other views."""
        base, result = target._base, self.of(target)
        storage = target.untyped_storage().data_ptr()
        whole = self.of(base)
        for each in [each for each in self._coordinates if each is not target and each.device == target.device]:
            if each.untyped_storage().data_ptr() == storage:
                self._coordinates.pop(each, None)
        if base is not None and (result or before or whole):
            new = result or (before or whole).with_positions(unknown_positions(target, len((before or whole).sampling)))  # type: ignore[union-attr]
            with torch.no_grad():
                self._coordinates[base] = write_through_view(base, whole, target, new)

    def _apply(self, rule: CoordinateRule, *call: Any) -> TrackedResult:
        try:
            with torch.no_grad():
                return rule(self.of, *call)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return None  # a call that the rule does not cover: positions become unknown, and the model runs on

    def _store(self, outputs: Any, result: TrackedResult) -> None:
        if isinstance(outputs, Tensor):
            self._coordinates.pop(outputs, None)
            if isinstance(result, CellCoordinates):
                self._coordinates[outputs] = result
        elif isinstance(result, Sequence):
            for output, coordinates in zip(outputs, result, strict=True):
                self._store(output, coordinates)


def _is_unchanged(before: CellCoordinates, result: TrackedResult) -> bool:
    """Return whether an operation in place kept the coordinates, as elementwise ones do."""
    if not isinstance(result, CellCoordinates):
        return False
    pairs = zip(without_expanded_axes(before.positions), without_expanded_axes(result.positions), strict=True)
    return all(a.shape == b.shape and (a is b or bool(coordinates_agree(a, b).all())) for a, b in pairs)


def _flatten(values: Sequence[Any]) -> list[Any]:
    """Return the arguments, with lists and tuples flattened."""
    return [each for value in values for each in (value if isinstance(value, list | tuple) else [value])]
