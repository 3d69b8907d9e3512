"""Which of the maps of the image an explanation should read, and why."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from attribkit.core.errors import UnsupportedModel, join_names
from attribkit.core.layouts import Layout
from attribkit.targets.target import Target
from attribkit.tracing.trace import LayerOutputRecord, Trace

_ENOUGH = 0.5  # share of a grid that the gradient must reach
_FEW = 4  # an axis shorter than this is no space
_POOLING = tuple(cls for name, cls in vars(nn.modules.pooling).items() if isinstance(cls, type) and name.endswith("Nd"))
_ATTENTION = re.compile(r"(.*_)?(attn|attention|attnpool|attn_pool|attn_drop)\d*")  # inside it, space is another's


@dataclass(frozen=True)
class LayerChoice:
    """The layers that methods read where none is named."""

    together: tuple[LayerOutputRecord, ...]  # that carry the score between them; mostly one
    reason: str
    single: LayerOutputRecord | None  # for methods that read one layer; None where no single one stands for the score
    single_reason: str
    by_value: bool  # whether the values of the image took part in the choice, so that another image may have another


class LayerChooser:
    """Chooses the layer to read for one score of one image."""

    def __init__(self, trace: Trace, maps: dict[LayerOutputRecord, Layout], model: nn.Module) -> None:
        self.trace, self.maps, self.model = trace, maps, model
        self.candidates = _candidates(trace, maps)
        self.compared: list[
            LayerOutputRecord
        ] = []  # outputs at which the values of the gradient took part in the choice

    def choose(self, target: Target) -> LayerChoice:
        """The last map that the whole score goes through; of several branches, the last map of each.

        Where only a token of the last map is used, it is the last normalisation whose patches the gradient reaches;
        for a region of a segmentation it is the coarsest map, where the encoder ends. Raises UnsupportedModel.
        """
        if not self.trace.score.requires_grad:
            raise no_default_layer(self.model, self.maps, "no gradient leads from the score to any of them")
        if target.is_local:
            return self._chosen(*self._end_of_the_encoder())
        last = next((output for output in reversed(self.candidates) if self.trace.carries_all(output)), None)
        if last is None or self._goes_on_in_branches(last):
            return self._of_branches()
        if self.maps[last].kind != "tokens" or self._reach(last) >= _ENOUGH:
            self._refuse_unreadable(last)
            return self._chosen(last, "the last map of the image that the whole score goes through")
        return self._chosen(*self._last_reached())

    def _chosen(self, output: LayerOutputRecord, why: str) -> LayerChoice:
        reason = self._described(output, why)
        return LayerChoice((output,), reason, output, reason, self.trace.selects(self.compared))

    def _described(self, output: LayerOutputRecord, why: str) -> str:
        layout = self.maps[output]
        return f"{why} ({'x'.join(map(str, layout.grid))}, {layout})"

    def _reach(self, output: LayerOutputRecord) -> float:
        """The share of an output's grid that the score's gradient reaches."""
        self.compared.append(output)
        return self.trace.reach(output, self.maps[output])

    def _goes_on_in_branches(self, last: LayerOutputRecord) -> bool:
        """Whether after the last map that carries all there are coarser ones that carry a part of the score."""
        cells = math.prod(self.maps[last].grid)
        after = self.candidates[self.candidates.index(last) + 1 :]
        later = [each for each in after if math.prod(self.maps[each].grid) < cells]
        return any(self._reach(each) >= _ENOUGH for each in later)

    def _of_branches(self) -> LayerChoice:
        """For a score that is made of several branches: the last map of each, and one for methods that read one."""
        single = self._last_of_one_branch()
        frontier = self._last_of_each_branch()
        if single is not None and all(self._reach(each) < _ENOUGH for each in frontier):
            frontier = ()  # as for one detection: the gradient is zero at nearly all of their cells
        if len(frontier) < 2 and single is None:
            raise no_default_layer(self.model, self.maps, self._why_no_branch(frontier))
        reason = single_reason = ""
        if single is not None:
            why = "the last map of one branch; parts of the score go through others"
            reason = single_reason = self._described(single, why)
        if len(frontier) > 1:
            grids = ", ".join("x".join(map(str, self.maps[each].grid)) for each in frontier)
            reason = f"the last map of each branch of the score ({grids}); their maps are averaged"
        together = frontier if len(frontier) > 1 or single is None else (single,)
        return LayerChoice(tuple(together), reason, single, single_reason, self.trace.selects(self.compared))

    def _last_of_one_branch(self) -> LayerOutputRecord | None:
        """The last map, or normalisation of tokens, that the gradient reaches."""
        for output in reversed(self.candidates):
            if self._is_readable(output) and self._reach(output) >= _ENOUGH:
                # where the same layer sees the image in several ways, one of them would stand for all
                return None if self.trace.runs(output) > 1 else output
        return None

    def _last_of_each_branch(self) -> tuple[LayerOutputRecord, ...]:
        """The maps that come first on the ways from the score to the image; none where one of them is of tokens."""
        predictions = self.trace.predictions()
        by_node = {o.edge.node: o for o in self.candidates if o.edge and o.edge.node not in predictions}
        frontier = [by_node[node] for node in self.trace.first_of(by_node) if node in by_node]
        if any(self.maps[each].kind == "tokens" for each in frontier):
            return ()
        reached = [each for each in self.candidates if each in frontier and self._reach(each) > 0]
        return tuple(reached)

    def _why_no_branch(self, frontier: Sequence[LayerOutputRecord]) -> str:
        if frontier:
            return f"the score goes through {frontier[0].name!r} in part, and through no map in the rest"
        if not self.maps:
            return "none puts out a map of the image, a grid of two cells or more"
        return "none of them carries the whole score, and they are tokens that its gradient reaches in part"

    def _is_readable(self, output: LayerOutputRecord) -> bool:
        return self.maps[output].kind != "tokens" or "norm" in type(output.module).__name__.lower()

    def _last_reached(self) -> tuple[LayerOutputRecord, str]:
        """For a class token: the last normalisation of all patches, or else the last map that carries all."""
        for output in reversed(self.candidates):
            if "norm" in type(output.module).__name__.lower() and self._reach(output) >= _ENOUGH:
                return output, "the last normalisation whose patches the score's gradient reaches"
            if self.trace.carries_all(output) and self._reach(output) >= _ENOUGH:
                return output, "the last map that the whole score goes through with its gradient"
        raise no_default_layer(
            self.model, self.maps, "the score's gradient is zero at nearly all patches; is the head untrained"
        )

    def _end_of_the_encoder(self) -> tuple[LayerOutputRecord, str]:
        """For a region: the last of the coarsest maps, of those with the shortest names.

        Maps behind an adaptive pooling, such as those of a pyramid of poolings, are no part of an encoder.
        """
        own = [each for each in self.candidates if self.trace.avoids_pooling(each)] or self.candidates
        if not own:
            raise no_default_layer(self.model, self.maps, "none of them is before the prediction")
        cells = min(math.prod(self.maps[each].grid) for each in own)
        coarsest = [each for each in own if math.prod(self.maps[each].grid) == cells]
        depth = min(each.name.count(".") for each in coarsest)
        last = [each for each in coarsest if each.name.count(".") == depth][-1]
        return last, "the last of the coarsest maps, where the encoder ends; finer maps are beside the prediction"

    def _refuse_unreadable(self, last: LayerOutputRecord) -> None:
        """A later output that still has space, in an order that cannot be read, would be the better layer.

        Poolings are never chosen, so they are skipped here too, such as VGG's from 1x4 to 7x7 cells.
        """
        later = self.trace.outputs[self.trace.outputs.index(last) + 1 :]
        for output in later:
            spacious = sum(axis >= _FEW for axis in output.shape) >= 2
            unread = output not in self.maps and not is_inside_attention(output.name) and self.trace.matters(output)
            pooled = isinstance(output.module, _POOLING)
            if spacious and unread and not pooled and (output.lost or self.trace.carries_all(output)):
                why = f"{output.name!r} comes after {last.name!r}, and its shape {output.shape} does not tell its grid"
                raise no_default_layer(self.model, self.maps, why)


def _candidates(trace: Trace, maps: dict[LayerOutputRecord, Layout]) -> list[LayerOutputRecord]:
    """The maps that may be chosen: not pooled ones, nor the model's answer, nor maps of classes; one for each value."""
    classes = _class_maps(trace)
    first: dict[object, LayerOutputRecord] = {}
    for output in (o for o in maps if trace.matters(o) and not isinstance(o.module, _POOLING) and o not in classes):
        other = first.get(output.place)
        if other is None or output.name.count(".") < other.name.count("."):  # of equals, the name that people know
            first[output.place] = output
    inner = [output for output in first.values() if output.edge and output.edge.node not in trace.returned]
    return inner or list(first.values())


def _class_maps(trace: Trace) -> set[LayerOutputRecord]:
    """What follows the last convolution of a model that ends in one: a channel for each class."""
    weighted = [i for i, o in enumerate(trace.outputs) if any(True for _ in o.module.parameters(recurse=False))]
    if not weighted or not hasattr(trace.outputs[weighted[-1]].module, "kernel_size"):
        return set()
    channels = trace.outputs[weighted[-1]].shape[1]
    if channels not in trace.widths:
        return set()
    return {output for output in trace.outputs[weighted[-1] :] if output.shape[1:2] == (channels,)}


def no_default_layer(model: nn.Module, maps: Iterable[LayerOutputRecord], why: str) -> UnsupportedModel:
    """The refusal to choose, with the maps that a user may choose from."""
    outermost: dict[object, str] = {}
    for output in maps:
        outermost[output.place] = min(outermost.get(output.place, output.name), output.name, key=lambda n: n.count("."))
    return UnsupportedModel(
        f"No layer of this {type(model).__name__} can be chosen with a reason: {why}. Candidates, last first: "
        f"{join_names(dict.fromkeys(reversed(outermost.values())))}. Name one by layer=..., or describe the model by "
        "Explainer(model, spec=ModelSpec(...))."
    )


def is_inside_attention(name: str) -> bool:
    """Whether a module is a part of an attention, by its dotted name."""
    return any(_ATTENTION.fullmatch(part) for part in name.split(".")[:-1]) or name.endswith("attn_drop")
