"""Where on the images the elements of a model's tensors come from."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from attribkit.coordinates.coordinates import (
    CellCoordinates,
    coordinates_agree,
    no_coordinates,
    pixel_coordinates,
    without_expanded_axes,
)
from attribkit.coordinates.products import CoordinateRule, TrackedResult
from attribkit.coordinates.rules import rule_for
from attribkit.coordinates.writes import write_through_view


class track_coordinates(TorchFunctionMode):  # used as a context manager, like those of torch
    """Follow pixels through a forward: windows, shifts, class tokens and any other order of tokens.

    x: the images, (b, c, *space), from which the forward starts. Rearrangements move the places as they move values;
    convolutions and poolings put them on a coarser or finer grid; what mixes all of the image, such as a mean over it,
    comes from no place, nor does what a function that is not known here makes. Sums keep the place that is known, so
    that a residual stream carries it past what is not.
    """

    def __init__(self, x: Tensor) -> None:
        TorchFunctionMode.__init__(self)
        self._known = WeakTensorKeyDictionary()
        self._known[x] = pixel_coordinates(x)

    def of(self, tensor: Any) -> CellCoordinates | None:
        """The places of a tensor's elements; None where nothing is known of any."""
        return self._known.get(tensor) if isinstance(tensor, Tensor) else None

    def __torch_function__(
        self, function: Callable[..., Any], _types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        outputs = function(*args, **given)
        rule = rule_for(function)
        written = args[0] if outputs is None and rule else outputs  # as of an assignment to a part
        target = written if isinstance(written, Tensor) and any(written is each for each in args) else None
        if rule and any(self.of(each) for each in _flat((*args, *given.values()))):
            before = self.of(target)
            found = self._found(rule, function, args, given, outputs)
            self._keep(written, found)
            if target is not None and not (before and _alike(before, found)):
                self._written_into(target, before)
        elif target is not None:
            self._known.pop(target, None)  # rewritten in place by something that is not known here
            self._written_into(target, None)
        return outputs

    def _written_into(self, target: Tensor, before: CellCoordinates | None) -> None:
        """Keep what writing into a tensor does to the tensor that it is a view of, and forget its other views."""
        base, found = target._base, self.of(target)
        storage = target.untyped_storage().data_ptr()
        whole = self.of(base)
        for each in [each for each in self._known if each is not target and each.device == target.device]:
            if each.untyped_storage().data_ptr() == storage:
                self._known.pop(each, None)
        if base is not None and (found or before or whole):
            new = found or (before or whole).put(no_coordinates(target, len((before or whole).sampling)))  # type: ignore[union-attr]
            with torch.no_grad():
                self._known[base] = write_through_view(base, whole, target, new)

    def _found(self, rule: CoordinateRule, *call: Any) -> TrackedResult:
        try:
            with torch.no_grad():
                return rule(self.of, *call)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return None  # called in a way that its rule does not know: the model runs on, and the place is lost

    def _keep(self, outputs: Any, found: TrackedResult) -> None:
        if isinstance(outputs, Tensor):
            self._known.pop(outputs, None)
            if isinstance(found, CellCoordinates):
                self._known[outputs] = found
        elif isinstance(found, Sequence):
            for output, places in zip(outputs, found, strict=True):
                self._keep(output, places)


def _alike(before: CellCoordinates, found: TrackedResult) -> bool:
    """Whether an operation in place left the places as they were, as elementwise ones do."""
    if not isinstance(found, CellCoordinates):
        return False
    pairs = zip(without_expanded_axes(before.rows), without_expanded_axes(found.rows), strict=True)
    return all(a.shape == b.shape and (a is b or bool(coordinates_agree(a, b).all())) for a, b in pairs)


def _flat(values: Sequence[Any]) -> list[Any]:
    """Arguments, and what is in lists of them."""
    return [each for value in values for each in (value if isinstance(value, list | tuple) else [value])]
