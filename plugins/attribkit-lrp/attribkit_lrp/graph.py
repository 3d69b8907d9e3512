"""The part of an autograd graph that connects the scores with the images."""

from collections import defaultdict

from torch import Tensor
from torch.autograd.graph import Node

from attribkit import UnsupportedModel
from attribkit._core.autograd import operation_name

LAYERS = {"Convolution": "convolution", "Addmm": "addmm", "Mm": "mm"}  # nodes of layers with weights, and operations


class Graph:
    """The nodes through which the scores depend on the images, in the order of a backward pass.

    Args:
        scores: Score of each image, (b,), in the graph of the images.
        images: The images, a leaf of the graph.

    Raises:
        UnsupportedModel: The scores do not depend on the images.
    """

    def __init__(self, scores: Tensor, images: Tensor) -> None:
        order = _topological_order(scores.grad_fn)
        self.image = next((node for node in order if getattr(node, "variable", None) is images), None)
        if self.image is None:
            raise UnsupportedModel(
                "The score has no gradient with respect to the images: it does not depend on them, or the model or the "
                "target cuts the graph (detach, no_grad, argmax, NumPy). Choose another target, or a method without "
                "gradients."
            )
        self._depends: set[Node] = {self.image}
        self._above_layer: set[Node] = set()
        self.consumers: dict[Node, list[Node]] = defaultdict(list)
        for node in reversed(order):
            below = [following for following, _ in node.next_functions if following in self._depends]
            if below:
                self._depends.add(node)
            if any(each in self._above_layer or operation_name(each) in LAYERS for each in below):
                self._above_layer.add(node)
            for each in below:
                self.consumers[each].append(node)
        self.nodes = [node for node in order if node in self._depends and node is not self.image]

    def edges(self, node: Node) -> list[tuple[Node, int] | None]:
        """Return the node and the number of its output that each input comes from, None if not from the images."""
        return [(below, i) if below in self._depends else None for below, i in node.next_functions]  # type: ignore[misc]

    def follows_layer(self, node: Node) -> bool:
        """Return whether there is a layer with weights between the images and a node."""
        return node in self._above_layer


def _topological_order(start: Node | None) -> list[Node]:
    """Return the nodes reachable from `start`, each after all nodes that receive its outputs."""
    finished: list[Node] = []
    visited: set[Node] = set()
    stack = [(start, False)]
    while stack:
        node, is_done = stack.pop()
        if node is None:
            continue
        if is_done:
            finished.append(node)
        elif node not in visited:
            visited.add(node)
            stack.append((node, True))
            stack.extend((following, False) for following, _ in node.next_functions)
    return finished[::-1]
