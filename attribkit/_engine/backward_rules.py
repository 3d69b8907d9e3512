"""Backward rules: how a gradient changes at the ReLUs of a graph, however the ReLUs were called."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from attribkit._core.autograd import CHECKPOINTING_MESSAGE, is_recomputed, operation_name, reachable_nodes
from attribkit._core.errors import UnsupportedModel

BackwardRule = Callable[[Node], RemovableHandle]  # attaches a hook to the graph node of a ReLU

_RELU = "ReluBackward0"  # graph node of nn.ReLU, F.relu and tensor.relu, in place or not
_OTHERS = {  # activations for which the rules are not defined, by graph operation
    "Abs": "absolute value",
    "Celu": "CELU",
    "Clamp": "clamp",
    "ClampMin": "clamp",
    "ClampMax": "clamp",
    "Elu": "ELU",
    "Erf": "erf",
    "Gelu": "GELU",
    "Glu": "GLU",
    "Hardshrink": "Hardshrink",
    "Hardsigmoid": "Hardsigmoid",
    "Hardswish": "Hardswish",
    "Hardtanh": "ReLU6",
    "LeakyRelu": "LeakyReLU",
    "LogSigmoid": "LogSigmoid",
    "Maximum": "maximum",
    "Mish": "Mish",
    "PreluKernel": "PReLU",
    "RreluWithNoise": "RReLU",
    "Sigmoid": "sigmoid",
    "Silu": "SiLU",
    "Softplus": "Softplus",
    "Softshrink": "Softshrink",
    "Tanh": "tanh",
    "Threshold": "threshold",
    "Where": "where",
}


def guided_relu(relu: Node) -> RemovableHandle:
    """Keep the positive part of the gradient and the mask of the ReLU (Springenberg et al., 2015, sec. 3.4)."""
    return relu.register_prehook(_positive)


def deconvnet_relu(relu: Node) -> RemovableHandle:
    """Replace the mask of the ReLU by the positive part of the gradient (Zeiler and Fergus, ECCV 2014, sec. 2.1)."""
    return relu.register_hook(lambda _below, above: _positive(above))


def _positive(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each if each is None else each.clamp(min=0) for each in gradients)


@contextmanager
def apply_rule(rule: BackwardRule | None, start: Node | None) -> Iterator[list[str]]:
    """Attach a rule to every ReLU of a graph, and yield notes on activations for which no rule is defined.

    Args:
        rule: The rule; None means the plain gradient.
        start: Node of the score.

    Raises:
        UnsupportedModel: The graph does not contain a ReLU, or the model recomputes its activations.
    """
    if rule is None or start is None:  # a score without a graph raises an error when its gradient is computed
        yield []
        return
    nodes = reachable_nodes(start)
    if is_recomputed(nodes):
        raise UnsupportedModel(CHECKPOINTING_MESSAGE)
    relus = [node for node in nodes if node.name() == _RELU]
    others = Counter(name for name in map(_other, nodes) if name)
    counts = ", ".join(f"{count} {name}" for name, count in sorted(others.items()))
    if not relus:
        raise UnsupportedModel(
            f"There is no ReLU between the score and the images ({counts or 'no known activation'}): the rule would "
            "change nothing, and the result would be the plain gradient. Use saliency or input_x_gradient."
        )
    handles = [rule(node) for node in relus]
    try:
        yield (
            [f"the backward rule was applied at {len(relus)} ReLUs, and the plain gradient used at {counts}"]
            if counts
            else []
        )
    finally:
        for handle in handles:
            handle.remove()


def _other(node: Node) -> str | None:
    """Return the name of an activation that is not a ReLU; None if the node is another operation."""
    kind = operation_name(node)
    return kind if BackwardCFunction in type(node).__mro__ else _OTHERS.get(kind)
