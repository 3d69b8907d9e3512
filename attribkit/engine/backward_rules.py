"""Backward rules: what a gradient becomes at the ReLUs of a graph, wherever and however they were called."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from attribkit.core.autograd import RECOMPUTED, is_recomputed, operation, reachable
from attribkit.core.errors import UnsupportedModel

Rule = Callable[[Node], RemovableHandle]  # attaches itself to the graph's node of a ReLU

_RELU = "ReluBackward0"  # of nn.ReLU, F.relu and tensor.relu, in place or not
_OTHERS = {  # activations for which the rules are not defined, by their operations in the graph
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


def guided(relu: Node) -> RemovableHandle:
    """Only what is positive comes in from above; the ReLU's own mask stays (Springenberg et al., 2015, sec. 3.4)."""
    return relu.register_prehook(_positive)


def deconvnet(relu: Node) -> RemovableHandle:
    """Only what is positive goes on, whatever the ReLU let through (Zeiler and Fergus, ECCV 2014, sec. 2.1)."""
    return relu.register_hook(lambda _below, above: _positive(above))


def _positive(gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each if each is None else each.clamp(min=0) for each in gradients)


@contextmanager
def applied(rule: Rule | None, start: Node | None) -> Iterator[list[str]]:
    """Attach the rule to every ReLU below a node and take it off again; yields which activations have none.

    Refuses a graph without a ReLU. No rule is the plain gradient.
    """
    if rule is None or start is None:  # without a graph there is no gradient either, which is said where it is taken
        yield []
        return
    nodes = reachable(start)
    if is_recomputed(nodes):
        raise UnsupportedModel(RECOMPUTED)
    relus = [node for node in nodes if node.name() == _RELU]
    others = Counter(name for name in map(_other, nodes) if name)
    told = ", ".join(f"{count} {name}" for name, count in sorted(others.items()))
    if not relus:
        raise UnsupportedModel(
            f"There is no ReLU between the score and the images ({told or 'no known activation'}): the rule would "
            "change nothing, and the result would be the plain gradient. Use saliency or input_x_gradient."
        )
    handles = [rule(node) for node in relus]
    try:
        yield (
            [f"the rule holds at {len(relus)} ReLUs, but not at {told}: there the plain gradient passes"]
            if told
            else []
        )
    finally:
        for handle in handles:
            handle.remove()


def _other(node: Node) -> str | None:
    """What to call an activation that is not a ReLU; None where the node is no activation."""
    kind = operation(node)
    return kind if BackwardCFunction in type(node).__mro__ else _OTHERS.get(kind)
