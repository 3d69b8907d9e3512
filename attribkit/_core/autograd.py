"""Queries on the autograd graph, and a workaround for a bug in the backward of torch's batch norm."""

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.graph import Node

CHECKPOINTING_MESSAGE = (
    "The model recomputes its activations (gradient checkpointing), which hooks cannot follow. Turn it off: "
    "model.set_grad_checkpointing(False) in timm, model.gradient_checkpointing_disable() in transformers."
)


def operation_name(node: Node) -> str:
    """Return the name of an operation, such as "Convolution", without the version-dependent number after it."""
    return node.name().rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")


def is_recomputed(nodes: Iterable[Node]) -> bool:
    """Return whether a re-entrant checkpoint hides a part of the graph, which it recomputes in another graph."""
    return any(operation_name(node) == "CheckpointFunction" for node in nodes)


def reachable_nodes(start: Node | None, closed: Container[Node] = ()) -> set[Node]:
    """Return the nodes that are reachable from `start` without passing through the closed ones."""
    visited: set[Node] = set()
    stack = [start]
    while stack:
        node = stack.pop()
        if node is not None and node not in visited and node not in closed:
            visited.add(node)
            stack.extend(following for following, _ in node.next_functions)
    return visited


@contextmanager
def contiguous_batchnorm_gradients(score: Tensor) -> Iterator[None]:
    """Make the gradients that reach batch norms in the score's graph contiguous while its backward runs.

    On the CPU, the backward of a batch norm in evaluation mode mistakes some gradients of a single image for channels
    last: those whose batch axis has another stride, such as after ``flatten(2).transpose(1, 2)`` on the output of a
    convolutional stem. It then silently returns wrong gradients (torch 2.15; batches of one image and instance norms).
    """
    graph = reachable_nodes(score.grad_fn) if score.device.type == "cpu" else ()
    handles = [node.register_prehook(_contiguous) for node in graph if operation_name(node) == "NativeBatchNorm"]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _contiguous(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(
        gradient.contiguous() if gradient is not None and len(gradient) == 1 else gradient for gradient in gradients
    )
