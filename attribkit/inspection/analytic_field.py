"""The receptive field that follows from a network's operations: kernels, strides, paddings and dilations."""

from collections.abc import Callable, Iterator

from torch import Tensor
from torch.autograd.graph import Node

from attribkit.core.graph import operation
from attribkit.inspection.fields import Field, Unclear, image_field
from attribkit.inspection.graph_rules import Step, field_after, is_attention
from attribkit.inspection.spans import Unknown, Whole, joined

_Place = tuple[Node, int]  # an operation, and which of its results


def analytic_field(output: Tensor, image: Tensor, module_of: Callable[[Node], str]) -> Field | None:
    """What the entries of a tensor see of the image; None if they do not depend on it.

    output: in the graph of the image, (b, c, *space). The graph is walked from the image to the output: a window makes
    the field larger (`Span.through`), branches that meet take the union, a sum over space makes it the whole image, and
    an operation without a rule leaves it unknown, with the reason.
    """
    fields: dict[_Place, Field | None] = {}
    start = output.grad_fn
    if start is None:
        return None
    for node, number in _inputs_first((start, output.output_nr)):
        if getattr(node, "variable", None) is image:
            fields[node, number] = image_field(image.shape)
        else:
            inputs = [fields[each, k] if each is not None else None for each, k in node.next_functions]
            fields[node, number] = _after(node, number, inputs, module_of) if any(inputs) else None
    return fields[start, output.output_nr]


def _inputs_first(start: _Place) -> Iterator[_Place]:
    """The places below one, each after those that it is made of."""
    done: set[_Place] = set()
    ahead = [(start, False)]  # once more, after what it is made of
    while ahead:
        place, expanded = ahead.pop()
        if place in done:
            continue
        if expanded:
            done.add(place)
            yield place
        else:
            ahead.append((place, True))
            ahead.extend(((node, number), False) for node, number in place[0].next_functions if node is not None)


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
