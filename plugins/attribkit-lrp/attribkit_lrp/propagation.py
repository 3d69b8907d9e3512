"""The backward pass of relevance over the autograd graph of the score."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.graph import Node

from attribkit import UnsupportedModel
from attribkit._core.autograd import CHECKPOINTING_MESSAGE, is_recomputed, operation_name

from .graph import LAYERS, Graph
from .layers import Layer, input_edge, layer_of
from .operations import OPERATION_RULES, RECORDED, Step, batch_norm
from .recording import Operation, Recorder
from .rules import LayerRule

_OF_TRANSFORMERS = ("Softmax", "NativeLayerNorm", "Gelu", "Bmm", "ScaledDotProduct", "FusedRmsNorm")


@dataclass(frozen=True)
class Composite:
    """The rules of the layers.

    Args:
        convolution: Rule of convolutions.
        linear: Rule of linear layers.
        first: Rule of the layers that read the image; None means the rule of other layers of their kind.
    """

    convolution: LayerRule
    linear: LayerRule
    first: LayerRule | None = None

    def rule(self, layer: Layer, is_first: bool) -> LayerRule:
        """Return the rule of a layer."""
        if is_first and self.first is not None:
            return self.first
        return self.convolution if layer.kind == "convolution" else self.linear


def relevance_of_images(
    composite: Composite, note: Callable[[str], None], score: Callable[[Tensor], Tensor], images: Tensor
) -> Tensor:
    """Return the relevance of each value of the images, of their shape, for the score.

    Args:
        composite: The rules of the layers.
        note: Receives what the reader of the scores must know.
        score: Maps images to their scores, (b,), in the graph of the images.
        images: Images, (b, c, *space), without a graph.

    Raises:
        UnsupportedModel: The model contains an operation without a rule.
    """
    leaf = images.detach().requires_grad_()
    with torch.enable_grad(), Recorder(RECORDED.values()) as recorder:
        scores = score(leaf)
    graph = Graph(scores, leaf)
    _check_operations(graph)
    if separate := sum(_is_batch_norm(node) and _normalized_layer(graph, node) is None for node in graph.nodes):
        note(
            f"{separate} batch norms do not follow a convolution or linear layer: the relevance passes through them "
            "unchanged"
        )
    with torch.no_grad():
        relevance = _propagate(graph, scores, recorder.operations, composite)
    return torch.zeros_like(images) if relevance is None else relevance


def _check_operations(graph: Graph) -> None:
    """Raise UnsupportedModel if there is an operation without a rule."""
    if is_recomputed(graph.nodes):
        raise UnsupportedModel(CHECKPOINTING_MESSAGE)
    names = (operation_name(node) for node in graph.nodes)
    unknown = Counter(name for name in names if name not in OPERATION_RULES and name not in LAYERS)
    if unknown:
        counts = ", ".join(f"{name} ({count})" for name, count in sorted(unknown.items()))
        raise UnsupportedModel(
            f"LRP has no rule for these operations between the images and the score: {counts}. {_reason(unknown)} Use "
            "a method that needs no rules, such as input_x_gradient or integrated_gradients."
        )


def _reason(unknown: Counter[str]) -> str:
    if "CopySlices" in unknown:
        return (
            "CopySlices is an in-place operation on a part of a tensor, such as x[:, 0] += 1 or x.chunk(2)[0].relu_()."
        )
    if any(name.startswith(_OF_TRANSFORMERS) for name in unknown):
        return (
            "Attention, softmax, layer norm and GELU, as in transformers, need rules of their own (AttnLRP, Achtibat "
            "et al., ICML 2024), which this plugin does not contain. If the model or the target ends with a softmax, "
            "explain the logit before it."
        )
    return "The rules cover convolutional networks with ReLU-like activations, whose scores are logits."


def _propagate(graph: Graph, scores: Tensor, operations: dict[Node, Operation], composite: Composite) -> Tensor | None:
    """Return the relevance of the images; None if no relevance reaches them."""
    dtype = torch.float64 if scores.dtype == torch.float64 else torch.float32
    relevances: dict[Node, dict[int, Tensor]] = defaultdict(dict)
    start = scores.grad_fn
    if start is not None:
        relevances[start][scores.output_nr] = scores.detach().to(dtype)
    for node in graph.nodes:
        outputs = relevances.pop(node, None)
        if outputs is None:
            continue
        inputs = _inputs(graph, node, outputs, operations, composite)
        for edge, relevance in zip(graph.edges(node), inputs, strict=True):
            if edge is not None and relevance is not None:
                following, number = edge
                earlier = relevances[following].get(number)
                relevances[following][number] = relevance if earlier is None else earlier + relevance
    return relevances[graph.image].get(0) if graph.image is not None else None


def _inputs(
    graph: Graph, node: Node, outputs: dict[int, Tensor], operations: dict[Node, Operation], composite: Composite
) -> Sequence[Tensor | None]:
    """Return the relevance of each input of an operation from that of its outputs."""
    name = operation_name(node)
    depends = tuple(edge is not None for edge in graph.edges(node))
    step = Step(node, name, operations.get(node), depends, graph.follows_layer(node))
    if name not in LAYERS:
        return OPERATION_RULES[name](step, [outputs.get(i) for i in range(max(outputs) + 1)])
    operation = step.recorded
    required = [is_dependent for is_dependent, edge in zip(depends, node.next_functions, strict=True) if edge[0]]
    number = input_edge(operation, required)
    layer = layer_of(operation, outputs[0].dtype)
    for following in graph.consumers[node]:
        if _normalized_layer(graph, following) is node:
            layer = layer.followed_by_batch_norm(operations[following])
    rule = composite.rule(layer, is_first=not step.follows_layer)
    relevance = rule(layer, outputs[0])
    return step.at_inputs([relevance if i == number else None for i in range(len(operation.positions))])


def _is_batch_norm(node: Node) -> bool:
    return OPERATION_RULES.get(operation_name(node)) is batch_norm


def _normalized_layer(graph: Graph, node: Node) -> Node | None:
    """Return the layer that a batch norm is merged with: the only user of its output; None for other nodes."""
    below = node.next_functions[0][0] if _is_batch_norm(node) else None
    if below is None or operation_name(below) not in LAYERS or len(graph.consumers[below]) != 1:
        return None
    return below
