"""The receptive field that follows from a network's operations: kernels, strides, paddings and dilations."""

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor
from torch.autograd.graph import Node

from attribkit.inspection.fields import Field, Unclear, image_field
from attribkit.inspection.graph_rules import Step, field_after, is_attention, operation
from attribkit.inspection.spans import Reach, Unknown, Whole, joined

_Place = tuple[Node, int]  # an operation, and which of its results


def analytic_field(output: Tensor, image: Tensor, module_of: Callable[[Node], str]) -> tuple[Reach, ...] | None:
    """How far the units of a tensor see along each axis of the image; None if they do not depend on it.

    output: in the graph of the image, (b, c, *space). The graph is walked from the image to the output: a window makes
    the field larger (`Span.through`), branches that meet take the union, a sum over space makes it the whole image, and
    an operation without a rule leaves it unknown, with the reason.
    """
    fields: dict[_Place, Field | None] = {}
    start = (output.grad_fn, output.output_nr)
    if start[0] is None:
        return None
    for node, number in _inputs_first(start):
        if getattr(node, "variable", None) is not None:
            fields[node, number] = image_field(image.shape) if node.variable is image else None
        else:
            inputs = [fields.get(each) if each[0] is not None else None for each in node.next_functions]
            fields[node, number] = _after(node, number, inputs, module_of) if any(inputs) else None
    found = fields[start]
    return found.reach if found else None


def _inputs_first(start: Any) -> Iterator[_Place]:
    """The places below one, each after those that it is made of."""
    done: set[_Place] = set()
    ahead = [(start, False)]
    while ahead:
        place, expanded = ahead.pop()
        if place in done:
            continue
        if expanded:
            done.add(place)
            yield place
        else:
            ahead.append((place, True))
            ahead.extend((each, False) for each in place[0].next_functions if each[0] is not None)


def _after(node: Node, number: int, inputs: list[Field | None], module_of: Callable[[Node], str]) -> Field:
    where = module_of(node)
    name = "attention" if is_attention(node) else operation(node)
    place = f"{name} in {where!r}" if where else name
    fields = [each for each in inputs if each]
    try:
        if any(each.axes is None for each in fields):
            return _lost(fields, Unknown(place))
        shape = tuple(node._input_metadata[number].shape)  # type: ignore[attr-defined]
        return field_after(Step(node, number, inputs, shape, place))
    except Unclear as error:
        return _lost(fields, Unknown(f"{place}: {error}"))


def _lost(fields: list[Field], why: Unknown) -> Field:
    """After an operation that cannot be followed: what saw the whole image still does, the rest is unknown."""
    reach = fields[0].reach
    for other in fields[1:]:
        reach = tuple(joined(*pair) for pair in zip(reach, other.reach, strict=True))
    return Field(tuple(each if isinstance(each, Whole | Unknown) else why for each in reach), None)
