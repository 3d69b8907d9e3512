"""Choose the layer that methods use by default, and the reason for it."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import nn

from attribkit._core.errors import UnsupportedModel, join_names
from attribkit._core.layouts import Layout
from attribkit._targets.target import Target
from attribkit._tracing.trace import LayerOutputRecord, Trace

_MIN_FRACTION = 0.5  # fraction of a grid that the gradient must reach
_MIN_SIDE = 4  # least number of cells along a spatial axis
_POOLING = tuple(cls for name, cls in vars(nn.modules.pooling).items() if isinstance(cls, type) and name.endswith("Nd"))
_ATTENTION = re.compile(
    r"(.*_)?(attn|attention|attnpool|attn_pool|attn_drop)\d*"
)  # maps inside it are not of the image


@dataclass(frozen=True)
class LayerChoice:
    """The layers that methods use by default.

    Args:
        joint: Layers through which the whole score passes; usually one.
        reason: Why these layers were chosen.
        single: Layer for methods that use one layer; None if a single layer cannot represent the score.
        single_reason: Why the single layer was chosen.
        depends_on_values: Whether the choice depends on the values of the image, and may differ between images.
    """

    joint: tuple[LayerOutputRecord, ...]
    reason: str
    single: LayerOutputRecord | None
    single_reason: str
    depends_on_values: bool


class LayerChooser:
    """Chooser of the default layer for one score of one image."""

    def __init__(self, trace: Trace, maps: dict[LayerOutputRecord, Layout], model: nn.Module) -> None:
        self.trace, self.maps, self.model = trace, maps, model
        self.candidates = _candidates(trace, maps)
        self.gradient_checked: list[LayerOutputRecord] = []  # outputs whose gradient values affect the choice

    def choose(self, target: Target) -> LayerChoice:
        """Choose the last map on every path from the image to the score; of several branches, the last map of each.

        If the score uses only one token of the last map, choose the last normalisation whose patch tokens the gradient
        reaches. For a region of a segmentation, choose the coarsest map, where the encoder ends.

        Raises:
            UnsupportedModel: If the model does not have such a layer.
        """
        if not self.trace.score.requires_grad:
            raise no_default_layer(self.model, self.maps, "the gradient of the score does not reach any spatial map")
        if target.is_local:
            return self._single_choice(*self._end_of_the_encoder())
        last = next((output for output in reversed(self.candidates) if self.trace.is_on_every_path(output)), None)
        if last is None or self._continues_in_branches(last):
            return self._branch_choice()
        if self.maps[last].kind != "tokens" or self._gradient_fraction(last) >= _MIN_FRACTION:
            self._check_later_outputs(last)
            return self._single_choice(last, "the last spatial map on every path from the image to the score")
        return self._single_choice(*self._last_with_gradient())

    def _single_choice(self, output: LayerOutputRecord, why: str) -> LayerChoice:
        reason = self._described(output, why)
        return LayerChoice((output,), reason, output, reason, self.trace.is_value_dependent(self.gradient_checked))

    def _described(self, output: LayerOutputRecord, why: str) -> str:
        layout = self.maps[output]
        return f"{why} ({'x'.join(map(str, layout.grid))}, {layout})"

    def _gradient_fraction(self, output: LayerOutputRecord) -> float:
        """Return the fraction of an output's grid that the score's gradient reaches."""
        self.gradient_checked.append(output)
        return self.trace.nonzero_gradient_fraction(output, self.maps[output])

    def _continues_in_branches(self, last: LayerOutputRecord) -> bool:
        """Return whether coarser maps after the last map on every path carry a part of the score."""
        cells = math.prod(self.maps[last].grid)
        after = self.candidates[self.candidates.index(last) + 1 :]
        later = [each for each in after if math.prod(self.maps[each].grid) < cells]
        return any(self._gradient_fraction(each) >= _MIN_FRACTION for each in later)

    def _branch_choice(self) -> LayerChoice:
        """Choose the last map of each branch of the score, and one of them for methods that use one layer."""
        single = self._last_of_one_branch()
        frontier = self._last_of_each_branch()
        if single is not None and all(self._gradient_fraction(each) < _MIN_FRACTION for each in frontier):
            frontier = ()  # the gradient is zero at nearly all of their cells, as for one detection
        if len(frontier) < 2 and single is None:
            raise no_default_layer(self.model, self.maps, self._why_no_branch(frontier))
        reason = single_reason = ""
        if single is not None:
            why = "the last spatial map of one branch; other branches contribute to the score as well"
            reason = single_reason = self._described(single, why)
        if len(frontier) > 1:
            grids = ", ".join("x".join(map(str, self.maps[each].grid)) for each in frontier)
            reason = f"the last spatial map of each branch of the score ({grids}); their attribution maps are averaged"
        together = frontier if len(frontier) > 1 or single is None else (single,)
        return LayerChoice(
            tuple(together), reason, single, single_reason, self.trace.is_value_dependent(self.gradient_checked)
        )

    def _last_of_one_branch(self) -> LayerOutputRecord | None:
        """Return the last map, or normalisation of tokens, that the gradient reaches."""
        for output in reversed(self.candidates):
            if self._is_usable(output) and self._gradient_fraction(output) >= _MIN_FRACTION:
                # If the layer runs several times, one of its runs does not represent the others.
                return None if self.trace.runs(output) > 1 else output
        return None

    def _last_of_each_branch(self) -> tuple[LayerOutputRecord, ...]:
        """Return the first maps on the paths from the score to the image; () if one of them consists of tokens."""
        predictions = self.trace.predictions()
        by_node = {o.edge.node: o for o in self.candidates if o.edge and o.edge.node not in predictions}
        frontier = [by_node[node] for node in self.trace.first_reached(by_node) if node in by_node]
        if any(self.maps[each].kind == "tokens" for each in frontier):
            return ()
        reached = [each for each in self.candidates if each in frontier and self._gradient_fraction(each) > 0]
        return tuple(reached)

    def _why_no_branch(self, frontier: Sequence[LayerOutputRecord]) -> str:
        if frontier:
            return f"only part of the score depends on {frontier[0].name!r}; the rest bypasses all spatial maps"
        if not self.maps:
            return "none of its layers returns a spatial map (a grid of at least two cells)"
        return "part of the score bypasses every spatial map, and its gradient reaches only some of the tokens"

    def _is_usable(self, output: LayerOutputRecord) -> bool:
        return self.maps[output].kind != "tokens" or "norm" in type(output.module).__name__.lower()

    def _last_with_gradient(self) -> tuple[LayerOutputRecord, str]:
        """Return, for a class token, the last normalisation of all patches, or else the last map on every path."""
        for output in reversed(self.candidates):
            if "norm" in type(output.module).__name__.lower() and self._gradient_fraction(output) >= _MIN_FRACTION:
                return output, "the last normalisation whose patch tokens the gradient of the score reaches"
            if self.trace.is_on_every_path(output) and self._gradient_fraction(output) >= _MIN_FRACTION:
                return output, "the last spatial map on every path to the score that its gradient reaches"
        raise no_default_layer(
            self.model,
            self.maps,
            "the gradient of the score is zero at nearly all patch tokens, as with an untrained head",
        )

    def _end_of_the_encoder(self) -> tuple[LayerOutputRecord, str]:
        """Return, for a region, the last of the coarsest maps with the shortest names.

        Maps after an adaptive pooling, such as those of a pyramid pooling, are not part of the encoder.
        """
        encoder = [each for each in self.candidates if self.trace.bypasses_pooling(each)] or self.candidates
        if not encoder:
            raise no_default_layer(self.model, self.maps, "all spatial maps come after the prediction")
        cells = min(math.prod(self.maps[each].grid) for each in encoder)
        coarsest = [each for each in encoder if math.prod(self.maps[each].grid) == cells]
        depth = min(each.name.count(".") for each in coarsest)
        last = [each for each in coarsest if each.name.count(".") == depth][-1]
        return (
            last,
            "the last of the coarsest spatial maps, where the encoder ends",
        )

    def _check_later_outputs(self, last: LayerOutputRecord) -> None:
        """Raise an error if a later spatial output, in an order that cannot be determined, would be the better layer.

        Poolings, such as VGG's from 1x4 to 7x7 cells, are skipped, since they are never chosen.
        """
        later = self.trace.outputs[self.trace.outputs.index(last) + 1 :]
        for output in later:
            is_spatial = sum(axis >= _MIN_SIDE for axis in output.shape) >= 2
            is_unread = (
                output not in self.maps and not is_inside_attention(output.name) and self.trace.affects_score(output)
            )
            is_pooled = isinstance(output.module, _POOLING)
            if (
                is_spatial
                and is_unread
                and not is_pooled
                and (output.is_untracked or self.trace.is_on_every_path(output))
            ):
                why = (
                    f"the grid of {output.name!r}, after {last.name!r}, cannot be inferred from its shape "
                    f"{output.shape}"
                )
                raise no_default_layer(self.model, self.maps, why)


def _candidates(trace: Trace, maps: dict[LayerOutputRecord, Layout]) -> list[LayerOutputRecord]:
    """Return the maps to choose from, one per value, without poolings, model outputs and maps of classes."""
    classes = _class_maps(trace)
    first: dict[object, LayerOutputRecord] = {}
    for output in (
        o for o in maps if trace.affects_score(o) and not isinstance(o.module, _POOLING) and o not in classes
    ):
        other = first.get(output.value_key)
        if other is None or output.name.count(".") < other.name.count("."):  # prefer the outermost module
            first[output.value_key] = output
    inner = [output for output in first.values() if output.edge and output.edge.node not in trace.returned]
    return inner or list(first.values())


def _class_maps(trace: Trace) -> set[LayerOutputRecord]:
    """Return the outputs from the last convolution on, if it has a channel for each class and ends the model."""
    weighted = [i for i, o in enumerate(trace.outputs) if any(True for _ in o.module.parameters(recurse=False))]
    if not weighted or not hasattr(trace.outputs[weighted[-1]].module, "kernel_size"):
        return set()
    channels = trace.outputs[weighted[-1]].shape[1]
    if channels not in trace.widths:
        return set()
    return {output for output in trace.outputs[weighted[-1] :] if output.shape[1:2] == (channels,)}


def no_default_layer(model: nn.Module, maps: Iterable[LayerOutputRecord], why: str) -> UnsupportedModel:
    """Return the error that a model does not have a default layer, with the candidates."""
    outermost: dict[object, str] = {}
    for output in maps:
        outermost[output.value_key] = min(
            outermost.get(output.value_key, output.name), output.name, key=lambda n: n.count(".")
        )
    return UnsupportedModel(
        f"This {type(model).__name__} does not have a default layer: {why}. Candidates, last first: "
        f"{join_names(dict.fromkeys(reversed(outermost.values())))}. Choose one with layer=..., or describe the model "
        "with Explainer(model, spec=ModelSpec(...))."
    )


def is_inside_attention(name: str) -> bool:
    """Return whether a module is a part of an attention module, by its dotted name."""
    return any(_ATTENTION.fullmatch(part) for part in name.split(".")[:-1]) or name.endswith("attn_drop")
