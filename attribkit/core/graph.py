"""What autograd's graph tells: its operations, and which of them lie below another."""

from collections.abc import Container, Iterable

from torch.autograd.graph import Node

RECOMPUTED = (
    "The model recomputes its activations (gradient checkpointing), which hooks cannot follow: turn it off, as by "
    "model.set_grad_checkpointing(False) in timm or model.gradient_checkpointing_disable() in transformers."
)


def operation(node: Node) -> str:
    """The name of an operation, as in "Convolution"; the number behind it differs between versions of torch."""
    return node.name().rpartition("::")[2].rstrip("0123456789").removesuffix("Backward")


def is_recomputed(nodes: Iterable[Node]) -> bool:
    """Whether a re-entrant checkpoint hides a part of the graph, and recomputes it in another one."""
    return any(operation(node) == "CheckpointFunction" for node in nodes)


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
