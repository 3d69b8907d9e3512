"""Which of the maps of the image an explanation should read, and why."""

import math
import re
from collections.abc import Iterable, Sequence

from torch import nn

from attribkit.core.errors import UnsupportedModel, listed
from attribkit.core.layouts import Layout
from attribkit.core.trace import Output, Trace

_ENOUGH = 0.5  # share of a grid that the gradient must reach
_FEW = 4  # an axis shorter than this is no space
_POOLING = tuple(cls for name, cls in vars(nn.modules.pooling).items() if isinstance(cls, type) and name.endswith("Nd"))
_ATTENTION = re.compile(r"(.*_)?(attn|attention|attnpool|attn_pool|attn_drop)\d*")  # inside it, space is another's


def choose(trace: Trace, maps: dict[Output, Layout], model: nn.Module) -> tuple[Output, str]:
    """The last map that the whole score goes through; where only a token of it is used, the last that is looked at."""
    if not trace.score.requires_grad:
        raise unjustified(model, maps, "no gradient leads from the score to any of them")
    candidates = _candidates(trace, maps)
    last = next((output for output in reversed(candidates) if trace.carries_all(output)), None)
    if last is None or _goes_on_in_branches(trace, maps, candidates, last):
        return _last_of_branches(trace, maps, candidates, model)
    if maps[last].kind != "tokens" or trace.reach(last, maps[last]) >= _ENOUGH:
        _refuse_unreadable(trace, maps, last, model)
        return _told("the last map of the image that the whole score goes through", last, maps)
    return _last_looked_at(trace, maps, candidates, model)


def _goes_on_in_branches(trace: Trace, maps: dict[Output, Layout], candidates: Sequence[Output], last: Output) -> bool:
    """Whether after the last map that carries all there are coarser ones that carry a part of the score."""
    cells = math.prod(maps[last].grid)
    later = [each for each in candidates[candidates.index(last) + 1 :] if math.prod(maps[each].grid) < cells]
    return any(trace.reach(each, maps[each]) >= _ENOUGH for each in later)


def _last_of_branches(
    trace: Trace, maps: dict[Output, Layout], candidates: Sequence[Output], model: nn.Module
) -> tuple[Output, str]:
    """For a model of several branches: the last map, or normalisation of tokens, that the gradient reaches."""
    for output in reversed(candidates):
        readable = maps[output].kind != "tokens" or "norm" in type(output.module).__name__.lower()
        if readable and trace.reach(output, maps[output]) >= _ENOUGH:
            if trace.runs(output.module) > 1:
                break  # the same layer sees the image in several ways, and one of them would stand for all
            return _told("the last map of one branch; parts of the score go through others", output, maps)
    raise unjustified(model, maps, "none of them carries the whole score, nor does its gradient reach any")


def _last_looked_at(
    trace: Trace, maps: dict[Output, Layout], candidates: Sequence[Output], model: nn.Module
) -> tuple[Output, str]:
    """For a class token: the last normalisation of all patches, or else the last map that carries all of the score."""
    for output in reversed(candidates):
        if "norm" in type(output.module).__name__.lower() and trace.reach(output, maps[output]) >= _ENOUGH:
            return _told("the last normalisation whose patches the score's gradient reaches", output, maps)
        if trace.carries_all(output) and trace.reach(output, maps[output]) >= _ENOUGH:
            return _told("the last map that the whole score goes through with its gradient", output, maps)
    raise unjustified(model, maps, "the score's gradient is zero at nearly all patches; is the head untrained")


def _candidates(trace: Trace, maps: dict[Output, Layout]) -> list[Output]:
    """The maps that may be chosen: not pooled ones, nor the model's answer, nor maps of classes; one for each value."""
    classes = _class_maps(trace)
    first: dict[object, Output] = {}
    for output in (o for o in maps if trace.matters(o) and not isinstance(o.module, _POOLING) and o not in classes):
        other = first.get(output.place)
        if other is None or output.name.count(".") < other.name.count("."):  # of equals, the name that people know
            first[output.place] = output
    inner = [output for output in first.values() if output.edge and output.edge.node not in trace.returned]
    return inner or list(first.values())


def _class_maps(trace: Trace) -> set[Output]:
    """What follows the last convolution of a model that ends in one: a channel for each class."""
    weighted = [i for i, o in enumerate(trace.outputs) if any(True for _ in o.module.parameters(recurse=False))]
    if not weighted or not hasattr(trace.outputs[weighted[-1]].module, "kernel_size"):
        return set()
    channels = trace.outputs[weighted[-1]].shape[1]
    return {output for output in trace.outputs[weighted[-1] :] if output.shape[1:2] == (channels,)}


def _refuse_unreadable(trace: Trace, maps: dict[Output, Layout], last: Output, model: nn.Module) -> None:
    """A later output that still has space, in an order that cannot be read, would be the better layer."""
    later = trace.outputs[trace.outputs.index(last) + 1 :]
    for output in later:
        spacious = sum(axis >= _FEW for axis in output.shape) >= 2
        unread = output not in maps and not is_inside_attention(output.name) and trace.matters(output)
        if spacious and unread and (output.lost or trace.carries_all(output)):
            why = f"{output.name!r} comes after {last.name!r}, and its shape {output.shape} does not tell its grid"
            raise unjustified(model, maps, why)


def _told(why: str, output: Output, maps: dict[Output, Layout]) -> tuple[Output, str]:
    layout = maps[output]
    return output, f"{why} ({'x'.join(map(str, layout.grid))}, {layout})"


def unjustified(model: nn.Module, maps: Iterable[Output], why: str) -> UnsupportedModel:
    """The refusal to choose, with the maps that a user may choose from."""
    outermost: dict[object, str] = {}
    for output in maps:
        outermost[output.place] = min(outermost.get(output.place, output.name), output.name, key=lambda n: n.count("."))
    return UnsupportedModel(
        f"No layer of this {type(model).__name__} can be chosen with a reason: {why}. Candidates, last first: "
        f"{listed(reversed(outermost.values()))}. Name one by layer=..., or describe the model by "
        "Explainer(model, spec=ModelSpec(...))."
    )


def is_inside_attention(name: str) -> bool:
    """Whether a module is a part of an attention, by its dotted name."""
    return any(_ATTENTION.fullmatch(part) for part in name.split(".")[:-1]) or name.endswith("attn_drop")
