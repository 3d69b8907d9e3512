"""Scores under changes of the output of a layer."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from attribkit._core.layouts import Layout
from attribkit._core.nested import tensor_at, with_tensor_at
from attribkit._engine.forward import LayerRequest, map_of
from attribkit._state.hooks import TensorRequest, capture
from attribkit._targets.class_outputs import Returned
from attribkit._targets.target import Target, outputs_for

Change = Callable[[Tensor], Tensor]  # maps a layer's output (b, d, ...) to the same shape

_MOST = 256  # maximum number of changed outputs in a batch
_BYTES = 2**26  # maximum size of a batch at the layer


def scores_with(
    forward: Callable[[Tensor], Any],
    layer: LayerRequest,
    image: Tensor,
    target: Target,
    changes: Sequence[Change],
    returned: Callable[[Any, int], Returned],
) -> Tensor:
    """Return the score of one image under each change of a layer's output, (k,).

    The layers before it run once, and the changed outputs go through the rest of the model as a batch. If the rest does
    not treat the rows of a batch independently, which is tested, it runs once for each change.

    Args:
        forward: Maps images to the outputs that the target scores.
        layer: The layer whose output is changed.
        image: One image, (1, c, *space).
        target: The target of this image.
        changes: Functions of the output, with channels on the second axis.
        returned: Wraps the outputs of the model and the number of images for targets that read class scores.
    """
    with torch.no_grad():
        with capture([layer.request]) as (captured,):
            outputs = forward(image)
        score = target(outputs_for(target, returned(outputs, 1)))
        output, layout = map_of(layer, captured, image)
        rest = _Rest(forward, layer, image, target, _channels_second(output, layout), layout, returned)
        rows = max(1, min(_MOST, _BYTES // (output.numel() * output.element_size())))
        together = target.tile(2) is not None and rest.takes_batches(score, changes[:1])
        parts = [changes[i : i + rows] for i in range(0, len(changes), rows)] if together else [[c] for c in changes]
        return torch.cat([rest(part) for part in parts])


class _Rest:
    """The rest of the model after a layer, for one image."""

    def __init__(
        self,
        forward: Callable[[Tensor], Any],
        layer: LayerRequest,
        image: Tensor,
        target: Target,
        output: Tensor,
        layout: Layout,
        returned: Callable[[Any, int], Returned],
    ) -> None:
        self.forward, self.layer, self.image, self.returned = forward, layer, image, returned
        self.target, self.output, self.layout = target, output, layout

    def __call__(self, changes: Sequence[Change]) -> Tensor:
        """Return the score under each change, (k,)."""
        changed = torch.cat([change(self.output) for change in changes])
        with _replaced(self.layer.request, _in_layout(changed, self.layout)):
            outputs = self.forward(self.image)
        target = (self.target.tile(len(changes)) if len(changes) > 1 else None) or self.target
        return target(outputs_for(target, self.returned(outputs, len(changes))))

    def takes_batches(self, score: Tensor, changes: Sequence[Change]) -> bool:
        """Return whether a batch of layer outputs gives the same scores as each output alone."""
        alone = torch.cat([score, self(changes), score])
        try:
            together = self([_unchanged, *changes, _unchanged])
        except (RuntimeError, ValueError, IndexError, AssertionError):
            return False
        tolerance = torch.finfo(alone.dtype).eps ** 0.5
        return together.shape == alone.shape and torch.allclose(together, alone, rtol=tolerance, atol=tolerance)


@contextmanager
def _replaced(request: TensorRequest, outputs: Tensor) -> Iterator[None]:
    """Replace the output of one run of a layer."""
    runs = count()

    def replace(_module: nn.Module, _args: object, output: Any) -> Any:
        if next(runs) != request.run or tensor_at(output, request.path) is None:
            return None
        return with_tensor_at(output, request.path, outputs)

    with request.module.register_forward_hook(replace):
        yield


def _unchanged(output: Tensor) -> Tensor:
    return output


def _channels_second(output: Tensor, layout: Layout) -> Tensor:
    return output.detach() if layout.kind == "channels first" else output.detach().movedim(-1, 1)


def _in_layout(output: Tensor, layout: Layout) -> Tensor:
    return output if layout.kind == "channels first" else output.movedim(1, -1).contiguous()
