"""Find the layers of a model that return maps of the image, and parse the names of layers."""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from attribkit._core.autograd import CHECKPOINTING_MESSAGE, is_recomputed
from attribkit._core.errors import InvalidInput, UnknownName, UnsupportedModel, join_names
from attribkit._core.layouts import Layout
from attribkit._core.nested import Path
from attribkit._core.spec import ModelSpec
from attribkit._targets.target import Target
from attribkit._tracing.layer_choice import LayerChoice, LayerChooser, is_inside_attention, no_default_layer
from attribkit._tracing.trace import LayerOutputRecord, Trace

_SUFFIXES = re.compile(r"(?P<module>.*?)(?:@(?P<run>\d+))?(?P<path>(?:\[[^\[\]]+\])*)", re.DOTALL)


@dataclass(frozen=True)
class LayerName:
    """A layer name as users write it: "layer4", "encoder@1" (its second run), "backbone[2]", "backbone[out]".

    Args:
        module: Dotted name of the module.
        run: Index of the run, from 0; None if the name does not contain it.
        path: Keys of the entry; None if the name does not contain it.
    """

    module: str
    run: int | None = None
    path: Path | None = None

    @classmethod
    def parse(cls, text: str, modules: set[str]) -> "LayerName":
        """Parse a name; a module whose dotted name looks like a suffix takes precedence."""
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
    """Return whether the keys of an entry match the requested ones; negative numbers count from the end.

    `lengths` is the number of entries of each container, by its keys.
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
    """Return, for each container of a nested output, one more than its largest numeric key."""
    lengths: dict[Path, int] = {}
    for path in paths:
        for i, key in enumerate(path):
            if isinstance(key, int):
                lengths[path[:i]] = max(lengths.get(path[:i], 0), key + 1)
    return lengths


@dataclass(frozen=True)
class Layer:
    """A tensor that a module returns and that is a map of the image.

    Args:
        name: Printed name, accepted as layer=: "layer4", "encoder@1", "backbone[2]".
        module: Dotted name of the module.
        kind: Class name of the module.
        run: Index of the module's run in a forward, from 0.
        path: Keys of the entry in the module's output; () if it returns the tensor itself.
        shape: Shape of the tensor, without the batch axis.
        layout: Layout of the tensor as a grid of the image.
        reached: Whether it depends on the image.
        reason: Why methods use it by default; empty for all other layers.
    """

    name: str
    module: str
    kind: str
    run: int
    path: Path
    shape: tuple[int, ...]
    layout: Layout
    reached: bool = True
    reason: str = ""

    def __repr__(self) -> str:
        grid = "x".join(map(str, self.layout.grid))
        reason = f", default: {self.reason}" if self.reason else ""
        return f"Layer({self.name!r}, {self.kind}, shape {self.shape}, grid {grid}{reason})"

    @property
    def chosen(self) -> bool:
        """Whether methods use this layer by default."""
        return bool(self.reason)


@dataclass(frozen=True)
class LayerTensor:
    """A tensor that a module returns, with its layout if it is a map of the image.

    Args:
        module: Dotted name of the module.
        kind: Class name of the module.
        run: Index of the module's run in a forward, from 0.
        path: Keys of the entry in the module's output; () if it returns the tensor itself.
        shape: Shape of the tensor, without the batch axis.
        layout: Layout of the tensor as a grid of the image; None if it is not one.
        reached: Whether it depends on the image.
    """

    module: str
    kind: str
    run: int
    path: Path
    shape: tuple[int, ...]
    layout: Layout | None
    reached: bool


@dataclass(frozen=True)
class DefaultLayers:
    """The layers that methods use by default.

    Args:
        joint: Layers through which the whole score passes; usually one.
        reason: Why these layers were chosen.
        single: Layer for methods that use one layer; None if a single layer cannot represent the score.
        single_reason: Why the single layer was chosen.
        depends_on_values: Whether the choice depends on the values of the image.
    """

    joint: tuple[LayerTensor, ...]
    reason: str
    single: LayerTensor | None
    single_reason: str
    depends_on_values: bool


@dataclass(frozen=True)
class ModelLayers:
    """The tensors that the modules of a model return for one image, and the default layers.

    Args:
        tensors: Tensors in the order in which they are computed.
        choice: The default layers, or the error that explains why there are none.
        branching_function: A function by which the forward read values of its inputs, if any.
        rearranging_function: A function that moved elements by values of its inputs, if any.
        has_shared_head: Whether the choice is the same for all classes.
    """

    tensors: tuple[LayerTensor, ...]
    choice: DefaultLayers | UnsupportedModel
    branching_function: str | None
    rearranging_function: str | None
    has_shared_head: bool

    @cached_property
    def layers(self) -> list[Layer]:
        """The maps of the image, in the order in which they are computed."""
        maps = [
            tensor for tensor in self.tensors if tensor.layout is not None and not is_inside_attention(tensor.module)
        ]
        return [self._layer(tensor) for tensor in maps if tensor.reached]

    @property
    def depends_on_image(self) -> bool:
        """Whether the path through the model, or the positions of its grid cells, may depend on the image."""
        return bool(self.branching_function or self.rearranging_function)

    def runs(self, module: str) -> int:
        """Return how often a module ran in the forward of one image."""
        return 1 + max(tensor.run for tensor in self.tensors if tensor.module == module)

    def name_of(self, tensor: LayerTensor) -> str:
        """Return the printed name of a tensor, the inverse of `named`; without suffixes if it is the only tensor."""
        same_module = [each for each in self.tensors if each.module == tensor.module]
        same_module = [each for each in same_module if each.layout is not None and each.reached] or same_module
        runs = {each.run for each in same_module}
        paths = {each.path for each in same_module if each.run == tensor.run}
        plain = tensor in same_module
        run = None if plain and len(runs) == 1 else tensor.run
        return str(LayerName(tensor.module, run, None if plain and len(paths) == 1 else tensor.path))

    def named(self, name: str, modules: set[str]) -> LayerTensor:
        """Return the tensor of a name; if several match, the first entry of the last run that has a map.

        Args:
            name: Name of a layer.
            modules: Dotted names of the model's modules.

        Raises:
            UnknownName: If the module does not exist.
            InvalidInput: If the module does not have such an output.
            UnsupportedModel: If the module did not return a tensor.
        """
        wanted = LayerName.parse(name, modules)
        if wanted.module not in modules:
            ran = [tensor.module for tensor in self.tensors]
            named = filter(None, modules)  # the root module has an empty name
            by_use = sorted(named, key=lambda each: (-ran.count(each), each))
            raise UnknownName("layer", wanted.module, by_use, "Explainer.layers() lists those with a grid.")
        outputs = [each for each in self.tensors if each.module == wanted.module]
        if not outputs:
            raise UnsupportedModel(
                f"Layer {name!r} did not return a tensor in the forward pass: it was not called, or its forward() was "
                "bypassed. Choose one of Explainer.layers()."
            )
        lengths = container_lengths([each.path for each in outputs])
        matching = [
            each
            for each in outputs
            if wanted.run in (None, each.run)
            and (wanted.path is None or matches_entry(each.path, wanted.path, lengths))
        ]
        if not matching:
            names = join_names(
                dict.fromkeys(str(LayerName(each.module, each.run, each.path or None)) for each in outputs)
            )
            raise InvalidInput(
                f"Layer {name!r} is not an output of module {wanted.module!r}. Its outputs are: {names}."
            )
        best = [each for each in matching if each.reached and each.layout is not None]
        best = best or [each for each in matching if each.reached] or matching
        return next(each for each in best if each.run == best[-1].run)

    def notes_for(self, name: str, tensor: LayerTensor) -> list[str]:
        """Return a note if a name matches several maps."""
        printed = self.name_of(tensor)
        if printed == name or LayerName.parse(printed, {tensor.module}) == LayerName.parse(name, {tensor.module}):
            return []
        if LayerName.parse(name, {tensor.module}) != LayerName(tensor.module):
            return []
        maps = [self.name_of(each) for each in self.tensors if each.module == tensor.module and each.layout is not None]
        return [f"layer={name!r} returns several spatial maps ({join_names(maps)}): {printed!r} was used"]

    def _layer(self, tensor: LayerTensor) -> Layer:
        chosen = isinstance(self.choice, DefaultLayers) and any(tensor is each for each in self.choice.joint)
        reason = self.choice.reason if isinstance(self.choice, DefaultLayers) and chosen else ""
        return Layer(self.name_of(tensor), reason=reason, **vars(tensor))


@torch.enable_grad()
def find_layers(
    model: nn.Module, x: Tensor, spec: ModelSpec, target: Target, inputs: Iterable[Tensor] = ()
) -> ModelLayers:
    """Find the layers that are maps of the image, and choose the default layers for the score of a target.

    Costs a forward with its graph, and for a class-token model a backward through its last block.

    Args:
        model: The frozen model.
        x: One image, (1, c, *space).
        spec: Description of the model.
        target: Defines the score.
        inputs: Further input tensors of the model.
    """
    trace = Trace(model, x, target, inputs)
    maps = _maps(trace.outputs, x, spec)
    tensors = {
        output: _layer_tensor(output, maps.get(output) or _layout_of(output, x, spec)) for output in trace.outputs
    }
    choice: DefaultLayers | UnsupportedModel
    try:
        chosen = _layer_of_spec(maps, spec, model) if spec.layer else LayerChooser(trace, maps, model).choose(target)
        choice = _chosen_layers(chosen, tensors)
    except UnsupportedModel as refusal:
        choice = UnsupportedModel(CHECKPOINTING_MESSAGE) if is_recomputed(trace.nodes) else refusal
    dependence = trace.dependence
    return ModelLayers(
        tuple(tensors.values()),
        choice,
        dependence.branching_function,
        dependence.rearranging_function,
        trace.has_one_head,
    )


def _chosen_layers(choice: LayerChoice, tensors: Mapping[LayerOutputRecord, LayerTensor]) -> DefaultLayers:
    together = tuple(tensors[output] for output in choice.joint)
    single = None if choice.single is None else tensors[choice.single]
    return DefaultLayers(together, choice.reason, single, choice.single_reason, choice.depends_on_values)


def _layer_tensor(output: LayerOutputRecord, layout: Layout | None) -> LayerTensor:
    kind = type(output.module).__name__
    return LayerTensor(output.name, kind, output.run, output.path, output.shape[1:], layout, output.reached)


def _layout_of(output: LayerOutputRecord, x: Tensor, spec: ModelSpec) -> Layout | None:
    """Return the layout of a tensor that is never a default, as inside an attention, but may be requested by name."""
    if not output.is_untracked or not output.reached:
        return output.layout
    by_shape = spec.layout(output.shape, tuple(x.shape))
    plain = by_shape is not None and by_shape.kind != "tokens" and not by_shape.ambiguous
    return replace(by_shape, inferred=True) if by_shape and plain else None


def _maps(outputs: Iterable[LayerOutputRecord], x: Tensor, spec: ModelSpec) -> dict[LayerOutputRecord, Layout]:
    """Return the outputs that are maps of the image, by their tracked coordinates, or else by their shape."""
    maps: dict[LayerOutputRecord, Layout] = {}
    for output in (each for each in outputs if each.reached and not is_inside_attention(each.name)):
        layout = _layout_from_shape(output, maps.values(), x, spec) if output.is_untracked else output.layout
        if layout is not None:
            maps[output] = layout
    return maps


def _layout_from_shape(
    output: LayerOutputRecord, before: Iterable[Layout], x: Tensor, spec: ModelSpec
) -> Layout | None:
    layout = spec.layout(output.shape, tuple(x.shape))
    plausible = layout is None or spec.prefix_tokens is not None or _is_plausible(output, layout, before, x)
    return replace(layout, inferred=True) if layout and plausible else None


def _is_plausible(output: LayerOutputRecord, layout: Layout, before: Iterable[Layout], x: Tensor) -> bool:
    """Return whether untracked tokens are a rearranged image, or an earlier map has their grid or a finer one."""
    if layout.kind != "tokens" or math.prod(output.shape[1:]) == math.prod(x.shape[1:]):
        return True
    return any(_is_coarser(layout.grid, earlier.grid) for earlier in before)


def _is_coarser(grid: tuple[int, ...], fine: tuple[int, ...]) -> bool:
    """Return whether a grid is a finer one with an integer stride."""
    strides = range(1, max(fine) + 1)
    return any(all(cells in (a // k, -(-a // k)) for a, cells in zip(fine, grid, strict=True)) for k in strides)


def _layer_of_spec(maps: dict[LayerOutputRecord, Layout], spec: ModelSpec, model: nn.Module) -> LayerChoice:
    """Return the layer that the spec names."""
    name = LayerName.parse(str(spec.layer), {each for each, _ in model.named_modules()})
    outputs = [output for output in maps if output.name == name.module and name.run in (None, output.run)]
    lengths = container_lengths([output.path for output in outputs])
    found = [each for each in outputs if name.path is None or matches_entry(each.path, name.path, lengths)]
    if not found:
        raise no_default_layer(
            model, maps, f"the spec names {spec.layer!r}, which does not return a spatial map of these images"
        )
    last = next(output for output in found if output.run == found[-1].run)
    return LayerChoice((last,), spec.reason, last, spec.reason, depends_on_values=False)
