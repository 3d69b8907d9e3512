"""Where on the images the elements of a model's tensors come from."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from attribkit.core.places.coordinates import Places, of_images
from attribkit.core.places.rules import Found, Rule, rule_for


class places_followed(TorchFunctionMode):  # used as a context manager, like those of torch
    """Follow pixels through a forward: windows, shifts, class tokens and any other order of tokens.

    x: the images, (b, c, *space), from which the forward starts. Rearrangements move the places as they move values;
    convolutions and poolings put them on a coarser or finer grid; what mixes all of the image, such as a mean over it,
    comes from no place, nor does what a function that is not known here makes. Sums keep the place that is known, so
    that a residual stream carries it past what is not.
    """

    def __init__(self, x: Tensor) -> None:
        TorchFunctionMode.__init__(self)
        self._known = WeakTensorKeyDictionary()
        self._known[x] = of_images(x)

    def of(self, tensor: Any) -> Places | None:
        """The places of a tensor's elements; None where nothing is known of any."""
        return self._known.get(tensor) if isinstance(tensor, Tensor) else None

    def __torch_function__(
        self, function: Callable[..., Any], _types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        outputs = function(*args, **given)
        rule = rule_for(function)
        written = args[0] if outputs is None and rule else outputs  # as of an assignment to a part
        if rule and any(self.of(each) for each in _flat((*args, *given.values()))):
            self._keep(written, self._found(rule, function, args, given, outputs))
        elif isinstance(written, Tensor) and any(written is each for each in args):
            self._known.pop(written, None)  # rewritten in place by something that is not known here
        return outputs

    def _found(self, rule: Rule, *call: Any) -> Found:
        try:
            with torch.no_grad():
                return rule(self.of, *call)
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
            return None  # called in a way that its rule does not know: the model runs on, and the place is lost

    def _keep(self, outputs: Any, found: Found) -> None:
        if isinstance(outputs, Tensor):
            self._known.pop(outputs, None)
            if isinstance(found, Places):
                self._known[outputs] = found
        elif isinstance(found, Sequence):
            for output, places in zip(outputs, found, strict=True):
                self._keep(output, places)


def _flat(values: Sequence[Any]) -> list[Any]:
    """Arguments, and what is in lists of them."""
    return [each for value in values for each in (value if isinstance(value, list | tuple) else [value])]
