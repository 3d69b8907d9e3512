"""[core/graph] What autograd's graph tells: its operations, and which of them lie below another.
[core/straightened] A guard against a fault of torch: what flows back into a batch norm of one image can be read in the wrong order.
"""

from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.graph import Node

RECOMPUTED = (
    "The model recomputes its activations (gradient checkpointing), which hooks cannot follow: turn it off, as by "
    "model.set_grad_checkpointing(False) in timm or model.gradient_checkpointing_disable() in transformers."
)


def operation_name(node: Node) -> str:
    """The name of an operation, as in "Convolution"; the number behind it differs between versions of torch."""
    return node.name().rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")


def is_recomputed(nodes: Iterable[Node]) -> bool:
    """Whether a re-entrant checkpoint hides a part of the graph, and recomputes it in another one."""
    return any(operation_name(node) == "CheckpointFunction" for node in nodes)


def reachable(start: Node | None, closed: Container[Node] = ()) -> set[Node]:
    """The nodes of a graph that can be walked to from the start without passing the closed ones."""
    found: set[Node] = set()
    ahead = [start]
    while ahead:
        node = ahead.pop()
        if node is not None and node not in found and node not in closed:
            found.add(node)
            ahead.extend(following for following, _ in node.next_functions)
    return found


@contextmanager
def contiguous_batchnorm_gradients(score: Tensor) -> Iterator[None]:
    """Lay out anew the gradients that batch norms in the score's graph receive, while its backward runs.

    On the CPU, the backward of a batch norm in evaluation mode takes a gradient for channels last that only looks so:
    one image's, whose batch axis has another stride, as comes of ``flatten(2).transpose(1, 2)`` behind a convolutional
    stem. It then gives wrong numbers without a word (seen in torch 2.15, batches of one image and instance norms).
    """
    graph = reachable(score.grad_fn) if score.device.type == "cpu" else ()
    handles = [node.register_prehook(_contiguous) for node in graph if operation_name(node) == "NativeBatchNorm"]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _contiguous(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.contiguous() if each is not None and len(each) == 1 else each for each in gradients)
