"""[core/layer_names] The printed names of layers: a module, which of its runs in a forward, and which entry of what it returns.
[core/layers] Which layers of a model are maps of the image.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from attribkit.core.autograd import RECOMPUTED, is_recomputed
from attribkit.core.errors import InvalidInput, UnknownName, UnsupportedModel, join_names
from attribkit.core.layouts import Layout
from attribkit.core.nested import Path
from attribkit.core.spec import ModelSpec
from attribkit.targets.target import Target
from attribkit.tracing.layer_choice import LayerChoice, LayerChooser, is_inside_attention, no_default_layer
from attribkit.tracing.trace import LayerOutputRecord, Trace

_SUFFIXES = re.compile(r"(?P<module>.*?)(?:@(?P<run>\d+))?(?P<path>(?:\[[^\[\]]+\])*)", re.DOTALL)


@dataclass(frozen=True)
class LayerName:
    """A name as a user writes it: "layer4", "encoder@1" (its second run), "backbone[2]", "backbone[out]"."""

    module: str  # dotted
    run: int | None = None  # from 0; None where the name leaves it open
    path: Path | None = None  # keys of the entry; None where the name leaves it open

    @classmethod
    def parse(cls, text: str, modules: set[str]) -> "LayerName":
        """Read a name; a module whose own dotted name looks like a suffix is taken as it stands."""
        if text in modules:
            return cls(text)
        match = _SUFFIXES.fullmatch(text)
        if match is None:
            return cls(text)
        keys = re.findall(r"\[([^\[\]]+)\]", match["path"])
        path = tuple(int(key) if re.fullmatch(r"-?\d+", key) else key.strip("'\"") for key in keys)
        return cls(match["module"], None if match["run"] is None else int(match["run"]), path or None)

    def __str__(self) -> str:
        run = "" if self.run is None else f"@{self.run}"
        return f"{self.module}{run}{''.join(f'[{key}]' for key in self.path or ())}"


def matches_entry(path: Path, wanted: Path, lengths: dict[Path, int]) -> bool:
    """Whether the keys of an entry are those that are wanted; negative numbers count from the end.

    lengths: how many entries there are below each run of keys.
    """
    if len(path) != len(wanted):
        return False
    for i, (key, other) in enumerate(zip(path, wanted, strict=True)):
        if isinstance(other, int) and other < 0:
            other += lengths.get(path[:i], 0)
        if key != other:
            return False
    return True


def container_lengths(paths: list[Path]) -> dict[Path, int]:
    """For each container of a nested output, one more than the largest number among its keys."""
    lengths: dict[Path, int] = {}
    for path in paths:
        for i, key in enumerate(path):
            if isinstance(key, int):
                lengths[path[:i]] = max(lengths.get(path[:i], 0), key + 1)
    return lengths


@dataclass(frozen=True)
class Layer:
    """A tensor that a module puts out and that is a map of the image."""

    name: str  # as it is printed, and given back as layer=: "layer4", "encoder@1", "backbone[2]"
    module: str  # dotted name of the module
    kind: str  # class name of the module
    run: int  # which of the module's runs in a forward this is, from 0
    path: Path  # keys of the entry in what it returns; () where it returns the tensor itself
    shape: tuple[int, ...]  # of the tensor, without the batch axis
    layout: Layout
    reached: bool = True  # whether it depends on the image
    reason: str = ""  # why it is the one that methods read by default; empty for the others

    @property
    def chosen(self) -> bool:
        """Whether methods read this layer when none is named."""
        return bool(self.reason)


@dataclass(frozen=True)
class LayerTensor:
    """A tensor that a module puts out: which one it is, and how it is a map of the image, if it is one."""

    module: str  # dotted name
    kind: str  # class name of the module
    run: int  # which of the module's runs in a forward this is, from 0
    path: Path  # keys of the entry in what it returns; () where it returns the tensor itself
    shape: tuple[int, ...]  # without the batch axis
    layout: Layout | None
    reached: bool  # whether it depends on the image


@dataclass(frozen=True)
class ChosenLayers:
    """The layers that methods read by default."""

    together: tuple[LayerTensor, ...]  # that carry the score between them; mostly one
    reason: str
    single: LayerTensor | None  # for methods that read one layer; None where no single one stands for the score
    single_reason: str
    by_value: bool  # whether the values of the image took part in the choice


@dataclass(frozen=True)
class FoundLayers:
    """The tensors that the modules of a model put out for one image, and which of them are maps of it."""

    tensors: tuple[LayerTensor, ...]  # in the order in which they are finished
    choice: ChosenLayers | UnsupportedModel  # or why none is chosen
    branches: str | None  # a function by which the forward read values of its inputs, if any
    arranges: str | None  # a function that moved elements by values of its inputs, if any
    one_head: bool  # whether the choice is the same for all classes

    @cached_property
    def layers(self) -> list[Layer]:
        """The maps of the image, in the order in which they are finished."""
        maps = [
            tensor for tensor in self.tensors if tensor.layout is not None and not is_inside_attention(tensor.module)
        ]
        return [self._layer(tensor) for tensor in maps if tensor.reached]

    @property
    def depends_on_image(self) -> bool:
        """Whether another image may take another way through the model, or have the same cells elsewhere."""
        return bool(self.branches or self.arranges)

    def runs(self, module: str) -> int:
        """How often a module ran in the forward of one image."""
        return 1 + max(tensor.run for tensor in self.tensors if tensor.module == module)

    def name_of(self, tensor: LayerTensor) -> str:
        """The printed name of a tensor, which `named` turns back into the same one; plain where the module has one."""
        alike = [each for each in self.tensors if each.module == tensor.module]
        alike = [each for each in alike if each.layout is not None and each.reached] or alike
        runs = {each.run for each in alike}
        paths = {each.path for each in alike if each.run == tensor.run}
        plain = tensor in alike
        run = None if plain and len(runs) == 1 else tensor.run
        return str(LayerName(tensor.module, run, None if plain and len(paths) == 1 else tensor.path))

    def named(self, name: str, modules: set[str]) -> LayerTensor:
        """The tensor of a name; of several that a plain one leaves open, the first entry of the last run with a map.

        modules: the dotted names of the model's modules. Raises UnknownName, InvalidInput and UnsupportedModel.
        """
        wanted = LayerName.parse(name, modules)
        if wanted.module not in modules:
            ran = [tensor.module for tensor in self.tensors]
            named = filter(None, modules)  # the root module has an empty name
            known = sorted(named, key=lambda each: (-ran.count(each), each))
            raise UnknownName("layer", wanted.module, known, "Explainer.layers() tells which have a grid.")
        own = [each for each in self.tensors if each.module == wanted.module]
        if not own:
            raise UnsupportedModel(
                f"Layer {name!r} put out no tensor in the forward: it was not run, or not through its forward(). "
                "Explainer.layers() lists those that can be read."
            )
        lengths = container_lengths([each.path for each in own])
        fitting = [
            each
            for each in own
            if wanted.run in (None, each.run)
            and (wanted.path is None or matches_entry(each.path, wanted.path, lengths))
        ]
        if not fitting:
            names = join_names(dict.fromkeys(str(LayerName(each.module, each.run, each.path or None)) for each in own))
            raise InvalidInput(f"Layer {name!r} is not among what {wanted.module!r} puts out: {names}.")
        best = [each for each in fitting if each.reached and each.layout is not None]
        best = best or [each for each in fitting if each.reached] or fitting
        return next(each for each in best if each.run == best[-1].run)

    def notes_on(self, name: str, tensor: LayerTensor) -> list[str]:
        """What a reader should know of a name that leaves open which tensor is meant."""
        printed = self.name_of(tensor)
        if printed == name or LayerName.parse(printed, {tensor.module}) == LayerName.parse(name, {tensor.module}):
            return []
        if LayerName.parse(name, {tensor.module}) != LayerName(tensor.module):
            return []
        maps = [self.name_of(each) for each in self.tensors if each.module == tensor.module and each.layout is not None]
        return [f"layer={name!r} has several maps of the image ({join_names(maps)}): {printed!r} was read"]

    def _layer(self, tensor: LayerTensor) -> Layer:
        chosen = isinstance(self.choice, ChosenLayers) and any(tensor is each for each in self.choice.together)
        reason = self.choice.reason if isinstance(self.choice, ChosenLayers) and chosen else ""
        return Layer(self.name_of(tensor), reason=reason, **vars(tensor))


@torch.enable_grad()
def find_layers(
    model: nn.Module, x: Tensor, spec: ModelSpec, target: Target, inputs: Iterable[Tensor] = ()
) -> FoundLayers:
    """Find the layers that are maps of the image, and choose one for a target's score.

    model: frozen; x: one image, (1, c, *space); inputs: tensors that go with it. Costs a forward with its graph, and
    for a class-token model a backward through its last block.
    """
    trace = Trace(model, x, target, inputs)
    maps = _maps(trace.outputs, x, spec)
    tensors = {output: _tensor(output, maps.get(output) or _layout(output, x, spec)) for output in trace.outputs}
    choice: ChosenLayers | UnsupportedModel
    try:
        chosen = _named(maps, spec, model) if spec.layer else LayerChooser(trace, maps, model).choose(target)
        choice = _chosen(chosen, tensors)
    except UnsupportedModel as refusal:
        choice = UnsupportedModel(RECOMPUTED) if is_recomputed(trace.nodes) else refusal
    watched = trace.dependence
    return FoundLayers(tuple(tensors.values()), choice, watched.branches, watched.arranges, trace.has_one_head)


def _chosen(choice: LayerChoice, tensors: Mapping[LayerOutputRecord, LayerTensor]) -> ChosenLayers:
    together = tuple(tensors[output] for output in choice.together)
    single = None if choice.single is None else tensors[choice.single]
    return ChosenLayers(together, choice.reason, single, choice.single_reason, choice.by_value)


def _tensor(output: LayerOutputRecord, layout: Layout | None) -> LayerTensor:
    kind = type(output.module).__name__
    return LayerTensor(output.name, kind, output.run, output.path, output.shape[1:], layout, output.reached)


def _layout(output: LayerOutputRecord, x: Tensor, spec: ModelSpec) -> Layout | None:
    """How to read a tensor that is not chosen by itself, as inside an attention, but may be named."""
    if not output.lost or not output.reached:
        return output.layout
    by_shape = spec.layout(output.shape, tuple(x.shape))
    plain = by_shape is not None and by_shape.kind != "tokens" and not by_shape.ambiguous
    return replace(by_shape, inferred=True) if by_shape and plain else None


def _maps(outputs: Iterable[LayerOutputRecord], x: Tensor, spec: ModelSpec) -> dict[LayerOutputRecord, Layout]:
    """The outputs that are maps of the image: seen from where their elements come from, or else told by the shape."""
    maps: dict[LayerOutputRecord, Layout] = {}
    for output in (each for each in outputs if each.reached and not is_inside_attention(each.name)):
        layout = _told_by_shape(output, maps.values(), x, spec) if output.lost else output.layout
        if layout is not None:
            maps[output] = layout
    return maps


def _told_by_shape(output: LayerOutputRecord, before: Iterable[Layout], x: Tensor, spec: ModelSpec) -> Layout | None:
    layout = spec.layout(output.shape, tuple(x.shape))
    known = layout is None or spec.prefix_tokens is not None or _is_plausible(output, layout, before, x)
    return replace(layout, inferred=True) if layout and known else None


def _is_plausible(output: LayerOutputRecord, layout: Layout, before: Iterable[Layout], x: Tensor) -> bool:
    """Tokens of which nothing is told must be the image cut up, or come from a map of their grid or a finer one."""
    if layout.kind != "tokens" or math.prod(output.shape[1:]) == math.prod(x.shape[1:]):
        return True
    return any(_is_coarser(layout.grid, earlier.grid) for earlier in before)


def _is_coarser(grid: tuple[int, ...], fine: tuple[int, ...]) -> bool:
    """Whether a grid is the finer one, strided by a whole number."""
    strides = range(1, max(fine) + 1)
    return any(all(cells in (a // k, -(-a // k)) for a, cells in zip(fine, grid, strict=True)) for k in strides)


def _named(maps: dict[LayerOutputRecord, Layout], spec: ModelSpec, model: nn.Module) -> LayerChoice:
    """The layer that the spec names."""
    name = LayerName.parse(str(spec.layer), {each for each, _ in model.named_modules()})
    own = [output for output in maps if output.name == name.module and name.run in (None, output.run)]
    lengths = container_lengths([output.path for output in own])
    found = [each for each in own if name.path is None or matches_entry(each.path, name.path, lengths)]
    if not found:
        raise no_default_layer(model, maps, f"the spec names {spec.layer!r}, which is no map of these images")
    last = next(output for output in found if output.run == found[-1].run)
    return LayerChoice((last,), spec.reason, last, spec.reason, by_value=False)
