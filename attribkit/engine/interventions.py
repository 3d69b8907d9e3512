"""What the score would be, had a layer put out something else."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from attribkit.core.layouts import Layout
from attribkit.core.nested import entry, with_entry
from attribkit.engine.forward import ReadLayer, map_of
from attribkit.state.hooks import Wanted, captured
from attribkit.targets.class_outputs import Returned
from attribkit.targets.target import Target, handed

Change = Callable[[Tensor], Tensor]  # a layer's output, channels on the second axis, to one of the same shape

_MOST = 256  # changed outputs that go through the rest of the model together
_BYTES = 2**26  # that they may take at the layer


def scores_with(
    forward: Callable[[Tensor], Any],
    layer: ReadLayer,
    image: Tensor,
    target: Target,
    changes: Sequence[Change],
    returned: Callable[[Any, int], Returned],
) -> Tensor:
    """The target's score of one image, (1, c, *space), under each change of the layer's output, (k,).

    The changed outputs go through the rest of the model as a batch, and what comes before is computed for the one image
    alone. Where the rest of the model does not allow that, which is tested, it runs once for each change.
    returned: what the model returned for so many images, with what is known of its class scores.
    """
    with torch.no_grad():
        with captured([layer.wanted]) as (kept,):
            answer = forward(image)
        score = target(handed(target, returned(answer, 1)))
        output, layout = map_of(layer, kept, image)
        rest = _Rest(forward, layer, image, target, _channels_second(output, layout), layout, returned)
        rows = max(1, min(_MOST, _BYTES // (output.numel() * output.element_size())))
        together = target.repeated(2) is not None and rest.takes_batches(score, changes[:1])
        parts = [changes[i : i + rows] for i in range(0, len(changes), rows)] if together else [[c] for c in changes]
        return torch.cat([rest(part) for part in parts])


class _Rest:
    """The model from a layer on, for one image."""

    def __init__(
        self,
        forward: Callable[[Tensor], Any],
        layer: ReadLayer,
        image: Tensor,
        target: Target,
        output: Tensor,
        layout: Layout,
        returned: Callable[[Any, int], Returned],
    ) -> None:
        self.forward, self.layer, self.image, self.returned = forward, layer, image, returned
        self.target, self.output, self.layout = target, output, layout

    def __call__(self, changes: Sequence[Change]) -> Tensor:
        """The score under each change."""
        outputs = torch.cat([change(self.output) for change in changes])
        with _replaced(self.layer.wanted, _as_it_was(outputs, self.layout)):
            answer = self.forward(self.image)
        target = (self.target.repeated(len(changes)) if len(changes) > 1 else None) or self.target
        return target(handed(target, self.returned(answer, len(changes))))

    def takes_batches(self, score: Tensor, changes: Sequence[Change]) -> bool:
        """Whether several outputs of the layer give the scores that they give alone, with none seeing another."""
        alone = torch.cat([score, self(changes), score])
        try:
            together = self([_unchanged, *changes, _unchanged])
        except (RuntimeError, ValueError, IndexError, AssertionError):
            return False
        tolerance = torch.finfo(alone.dtype).eps ** 0.5
        return together.shape == alone.shape and torch.allclose(together, alone, rtol=tolerance, atol=tolerance)


@contextmanager
def _replaced(wanted: Wanted, outputs: Tensor) -> Iterator[None]:
    """Let one run of a layer put out something else."""
    runs = count()

    def replace(_module: nn.Module, _args: object, output: Any) -> Any:
        if next(runs) != wanted.run or entry(output, wanted.path) is None:
            return None
        return with_entry(output, wanted.path, outputs)

    with wanted.module.register_forward_hook(replace):
        yield


def _unchanged(output: Tensor) -> Tensor:
    return output


def _channels_second(output: Tensor, layout: Layout) -> Tensor:
    return output.detach() if layout.kind == "channels first" else output.detach().movedim(-1, 1)


def _as_it_was(output: Tensor, layout: Layout) -> Tensor:
    return output if layout.kind == "channels first" else output.movedim(1, -1).contiguous()
