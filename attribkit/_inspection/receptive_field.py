"""Receptive fields: the pixels that a unit can depend on by its operations, and those that its gradient depends on."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import Node

from attribkit._core.autograd import contiguous_batchnorm_gradients, operation_name
from attribkit._core.errors import InvalidInput, UnsupportedModel
from attribkit._core.shapes import Images
from attribkit._display.representations import short_repr
from attribkit._engine.model import HookedModel
from attribkit._inspection.fields import (
    Field,
    Reach,
    Span,
    UnknownReach,
    UntraceableOperation,
    WholeImage,
    image_field,
    union_of_reach,
)
from attribkit._inspection.graph_rules import Step, is_attention, propagate_field
from attribkit._targets.outputs import to_full_precision


class ModuleClock:
    """The interval in which each module ran, as sequence numbers of autograd operations."""

    def __init__(self) -> None:
        self._running: list[int] = []
        self._runs: list[tuple[int, int, str]] = []  # start, end, dotted name; inner modules first

    def module_of(self, node: Node) -> str:
        """Return the dotted name of the innermost module that was running; "" is the model itself."""
        time = node._sequence_nr()  # type: ignore[attr-defined]
        return next((name for start, end, name in self._runs if start <= time < end), "")

    def enter(self, _module: nn.Module, _args: Any) -> None:
        """Record the start of a module."""
        self._running.append(_autograd_time())

    def leave(self, name: str) -> Callable[..., None]:
        """Return the hook that records the end of a module."""
        return lambda _module, _args, _output: self._runs.append((self._running.pop(), _autograd_time(), name))


@contextmanager
def record_module_times(model: nn.Module) -> Iterator[ModuleClock]:
    """Record when the modules of a forward run."""
    clock = ModuleClock()
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(clock.enter))
            hooks.enter_context(module.register_forward_hook(clock.leave(name)))
        yield clock


def _autograd_time() -> int:
    with torch.enable_grad():
        node = torch.empty(0, requires_grad=True, dtype=torch.float32, device="cpu").view(0).grad_fn
    return int(node._sequence_nr())  # type: ignore[union-attr]


_Output = tuple[Node, int]  # an operation, and the index of its result


def analytic_field(output: Tensor, image: Tensor, module_of: Callable[[Node], str]) -> Field | None:
    """Determine the receptive field of the entries of a tensor.

    Walks the autograd graph from the image to the output: a window enlarges the field (`Span.after_window`), branches
    that meet get the union of their fields, a sum over space gets the whole image, and an operation without a rule
    makes the field unknown, with the reason.

    Args:
        output: Tensor in the graph of the image.
        image: The image, (b, c, *space).
        module_of: Returns the module in which an operation ran.

    Returns:
        The field, or None if the output does not depend on the image.
    """
    fields: dict[_Output, Field | None] = {}
    start = output.grad_fn
    if start is None:
        return None
    for node, number in _topological_order((start, output.output_nr)):
        if getattr(node, "variable", None) is image:
            fields[node, number] = image_field(image.shape)
        else:
            inputs = [fields[each, k] if each is not None else None for each, k in node.next_functions]
            fields[node, number] = _propagate(node, number, inputs, module_of) if any(inputs) else None
    return fields[start, output.output_nr]


def _topological_order(start: _Output) -> Iterator[_Output]:
    """Yield the outputs below one, each after its inputs."""
    visited: set[_Output] = set()
    stack = [(start, False)]  # True: its inputs have been visited
    while stack:
        node_output, expanded = stack.pop()
        if node_output in visited:
            continue
        if expanded:
            visited.add(node_output)
            yield node_output
        else:
            stack.append((node_output, True))
            stack.extend(((node, number), False) for node, number in node_output[0].next_functions if node is not None)


def _propagate(node: Node, number: int, inputs: list[Field | None], module_of: Callable[[Node], str]) -> Field:
    module = module_of(node)
    name = "attention" if is_attention(node) else operation_name(node)
    location = f"{name} in {module!r}" if module else name
    fields = [each for each in inputs if each]
    try:
        if any(each.axes is None for each in fields):
            return _untracked(fields, UnknownReach(location))
        shape = tuple(node._input_metadata[number].shape)  # type: ignore[attr-defined]
        return propagate_field(Step(node, number, inputs, shape, location))
    except UntraceableOperation as error:
        return _untracked(fields, UnknownReach(f"{location}: {error}"))


def _untracked(fields: list[Field], why: UnknownReach) -> Field:
    """Return the field after an operation without a rule: the whole image remains, the rest is unknown."""
    reach = fields[0].reach
    for other in fields[1:]:
        reach = tuple(union_of_reach(*pair) for pair in zip(reach, other.reach, strict=True))
    return Field(tuple(each if isinstance(each, WholeImage | UnknownReach) else why for each in reach), None)


PixelBox = tuple[tuple[int, int], ...]  # per axis of the image: first pixel, last pixel + 1


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """The receptive field of the units of a layer, in pixels per spatial axis.

    Along each axis, unit i depends on the `size` pixels that start at ``start + i * stride``; pixels outside the image
    are padding. `size`, `stride` and `start` are None if every unit depends on the whole image, or if they cannot be
    determined.

    Args:
        layer: Dotted name of the layer.
        grid: Units per axis.
        size: Pixels per axis that a unit depends on.
        stride: Pixels per axis between neighbouring units.
        start: First pixel of the first unit per axis; negative in the padding.
        whole_image_because: The operation that reads the whole image, and its module; "" if there is none.
        unknown_because: The operation without a rule, and its module; "" if there is none.
        effective: Mean gradient magnitude of the middle unit, (*space).
        notes: Notes for the user.
    """

    layer: str
    grid: tuple[int, ...]
    size: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    start: tuple[int, ...] | None
    whole_image_because: str
    unknown_because: str
    effective: Float[Tensor, "*space"]
    notes: tuple[str, ...] = ()

    __repr__ = short_repr

    @property
    def unit(self) -> tuple[int, ...]:
        """The middle unit, which the effective field belongs to."""
        return tuple(cells // 2 for cells in self.grid)

    @property
    def box(self) -> PixelBox | None:
        """The analytic field of the middle unit, clipped to the image; None if it is unknown."""
        space = tuple(self.effective.shape)
        if self.whole_image_because:
            return tuple((0, side) for side in space)
        if self.size is None or self.stride is None or self.start is None:
            return None
        starts = [first + i * step for first, i, step in zip(self.start, self.unit, self.stride, strict=True)]
        ends = [first + size for first, size in zip(starts, self.size, strict=True)]
        return tuple((max(0, a), min(side, b)) for a, b, side in zip(starts, ends, space, strict=True))

    @property
    def support(self) -> PixelBox:
        """The bounding box of all pixels at which the effective field is not exactly zero; empty if all are."""
        nonzero = self.effective.nonzero()
        if len(nonzero) == 0:
            return ((0, 0),) * self.effective.ndim
        return tuple(zip(nonzero.amin(0).tolist(), (nonzero.amax(0) + 1).tolist(), strict=True))

    def pixels(self, fraction: float = 0.95) -> int:
        """Return the least number of pixels that contain a fraction of the effective field.

        They are far fewer than those of the analytic field: the effective one is nearly Gaussian and grows with the
        square root of the depth (Luo et al., NeurIPS 2016, sec. 2).

        Args:
            fraction: Fraction of the sum of the effective field, above 0 and at most 1.

        Raises:
            InvalidInput: If the fraction is out of range.
        """
        if not 0 < fraction <= 1:
            raise InvalidInput(f"fraction must be above 0 and at most 1, got {fraction!r}.")
        held = self.effective.flatten().double().sort(descending=True).values.cumsum(0)
        return int((held < fraction * held[-1]).sum()) + 1 if held[-1] > 0 else 0


def receptive_field(model: HookedModel, x: Images, layer: str | None = None) -> ReceptiveField:
    """Compute the analytic and the effective receptive field of a layer's units.

    The effective field is the gradient magnitude of the middle unit, summed over the image's channels, and averaged
    over the images, which run one at a time. The unit's channels are added with random signs, since their plain sum is
    constant after a normalisation over channels.

    The analytic size is R_l = R_(l-1) + (K_l - 1) * dilation_l * product of the strides before l, read from the graph
    of one forward, so it describes what the model computes, not how it is written.

    Args:
        model: The frozen model.
        x: The images to average the effective field over.
        layer: Dotted name; None means the layer that methods use by default.

    Returns:
        Both receptive fields.

    Raises:
        UnsupportedModel: If the layer does not depend on the images, or the graph is cut.

    Reference:
        Effective field: Luo et al., NeurIPS 2016, sec. 3. Analytic field: Araujo, Norris and Sim, Distill 2019, eq. 2.
    """
    name = model.default_layer(x) if layer is None else layer
    images = [slice(i, i + 1) for i in range(len(x))]
    runs = (_TracedForward(model.subset(each), x[each], layer) for each in images)
    first = next(runs)
    field = analytic_field(first.output, first.image, first.module_of)
    if field is None:
        raise UnsupportedModel(
            f"Layer {name!r} does not depend on the images, or the model cuts the autograd graph before it (detach, "
            "no_grad, NumPy), so its receptive field cannot be determined. Choose an earlier layer."
        )
    generator = torch.Generator().manual_seed(0)
    effective = torch.stack([run.middle_gradient(generator) for run in itertools.chain([first], runs)]).mean(0)
    if field.bound:
        model.note(
            f"the analytic field is an upper bound: {field.bound} selects some channels, and the channels have "
            "different receptive fields"
        )
    grid = first.layout.grid
    return _receptive_field(name, grid, _reach_per_axis(field, grid), effective, tuple(model.notes))


class _TracedForward:
    """A forward of one image, with its graph."""

    def __init__(self, model: HookedModel, image: Tensor, layer: str | None) -> None:
        self.image = image.detach().requires_grad_()
        with record_module_times(model.module) as clock:
            _, self.output, self.layout = model.output(self.image, layer)
        self.module_of = clock.module_of

    def middle_gradient(self, generator: torch.Generator) -> Tensor:
        """Compute the gradient magnitude of the middle unit, its channels added with random signs, (*space)."""
        node_output: tuple[Any, ...] = (0, ..., *(cells // 2 for cells in self.layout.grid))
        middle = self.layout.to_grid(self.output)[node_output]
        with contiguous_batchnorm_gradients(middle):
            (gradient,) = torch.autograd.grad(middle, self.image, _signs(middle, generator))
        return to_full_precision(gradient[0]).abs().sum(0)


def _reach_per_axis(field: Field, grid: tuple[int, ...]) -> list[Reach]:
    """Return the range along each axis; unknown if it was taken at one position and copied to all units."""
    along = field.spaces(range(len(field.axes))) if field.axes is not None else set()
    copied = UnknownReach("values at one position are copied to others")
    reaches = enumerate(zip(field.reach, grid, strict=True))
    return [copied if isinstance(r, Span) and cells > 1 and k not in along else r for k, (r, cells) in reaches]


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (2.0 * torch.randint(2, like.shape, generator=generator, device="cpu") - 1).to(like)


def _receptive_field(
    name: str, grid: tuple[int, ...], reaches: Sequence[Reach], effective: Tensor, notes: tuple[str, ...]
) -> ReceptiveField:
    spans = [each for each in reaches if isinstance(each, Span)]
    all_spans = len(spans) == len(reaches)
    whole = next((each.reason for each in reaches if isinstance(each, WholeImage)), "")
    unknown = next((each.reason for each in reaches if isinstance(each, UnknownReach)), "")
    return ReceptiveField(
        name,
        grid,
        tuple(each.size for each in spans) if all_spans else None,
        tuple(each.stride for each in spans) if all_spans else None,
        tuple(each.first for each in spans) if all_spans else None,
        "" if unknown else whole,
        unknown,
        effective,
        notes,
    )
