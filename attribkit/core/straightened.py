"""A guard against a fault of torch: what flows back into a batch norm of one image can be read in the wrong order."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from attribkit.core.graph import operation, reachable


@contextmanager
def straightened(score: Tensor) -> Iterator[None]:
    """Lay out anew the gradients that batch norms in the score's graph receive, while its backward runs.

    On the CPU, the backward of a batch norm in evaluation mode takes a gradient for channels last that only looks so:
    one image's, whose batch axis has another stride, as comes of ``flatten(2).transpose(1, 2)`` behind a convolutional
    stem. It then gives wrong numbers without a word (seen in torch 2.15, batches of one image and instance norms).
    """
    graph = reachable(score.grad_fn) if score.device.type == "cpu" else ()
    handles = [node.register_prehook(_contiguous) for node in graph if operation(node) == "NativeBatchNorm"]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _contiguous(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.contiguous() if each is not None and len(each) == 1 else each for each in gradients)
