"""[inspection/module_times] In which module an operation of the autograd graph was recorded.
[inspection/analytic_field] The receptive field that follows from a network's operations: kernels, strides, paddings and dilations.
[inspection/receptive_field] How much of the image a unit sees: what its operations allow, and what its gradient uses.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import Node

from attribkit.core.autograd import contiguous_batchnorm_gradients, operation_name
from attribkit.core.errors import InvalidInput, UnsupportedModel
from attribkit.core.shapes import Images
from attribkit.engine.model import HookedModel
from attribkit.inspection.fields import Field, Reach, Span, Unclear, Unknown, Whole, image_field, union_of_reach
from attribkit.inspection.graph_rules import Step, field_after, is_attention
from attribkit.targets.outputs import to_full_precision


class ModuleTimes:
    """When each module ran, on the clock by which autograd numbers its operations."""

    def __init__(self) -> None:
        self._running: list[int] = []
        self._runs: list[tuple[int, int, str]] = []  # start, end, dotted name; the inner before the outer

    def module_of(self, node: Node) -> str:
        """The dotted name of the innermost module that was running; "" is the model itself."""
        time = node._sequence_nr()  # type: ignore[attr-defined]
        return next((name for start, end, name in self._runs if start <= time < end), "")

    def enter(self, _module: nn.Module, _args: Any) -> None:
        """A module starts."""
        self._running.append(_now())

    def leave(self, name: str) -> Callable[..., None]:
        """What to call when the module of this name ends."""
        return lambda _module, _args, _output: self._runs.append((self._running.pop(), _now(), name))


@contextmanager
def module_times(model: nn.Module) -> Iterator[ModuleTimes]:
    """Watch the modules of a forward."""
    times = ModuleTimes()
    with ExitStack() as hooks:
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(times.enter))
            hooks.enter_context(module.register_forward_hook(times.leave(name)))
        yield times


def _now() -> int:
    with torch.enable_grad():
        node = torch.empty(0, requires_grad=True, dtype=torch.float32, device="cpu").view(0).grad_fn
    return int(node._sequence_nr())  # type: ignore[union-attr]


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
    name = "attention" if is_attention(node) else operation_name(node)
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
        reach = tuple(union_of_reach(*pair) for pair in zip(reach, other.reach, strict=True))
    return Field(tuple(each if isinstance(each, Whole | Unknown) else why for each in reach), None)


PixelBox = tuple[tuple[int, int], ...]  # per axis of the image: the first pixel, and the one after the last


@dataclass(frozen=True, eq=False)
class ReceptiveField:
    """What the units of a layer see of the image, in pixels per axis of space.

    Analytic: unit i of an axis sees so many pixels (`size`) from start + i * stride on; those outside of the image are
    padding. None for all three where every unit sees the whole image, or where it cannot be told.
    """

    layer: str  # dotted name
    grid: tuple[int, ...]  # units per axis
    size: tuple[int, ...] | None
    stride: tuple[int, ...] | None
    start: tuple[int, ...] | None  # negative where the first unit sees padding
    whole_image_because: str  # the operation that reads all of the space, and its module; "" if none does
    unknown_because: str  # the operation that could not be followed, and its module; "" if all could
    effective: Float[Tensor, "*space"]  # of the unit in the middle: the mean magnitude of its gradient
    notes: tuple[str, ...] = ()

    @property
    def unit(self) -> tuple[int, ...]:
        """The unit in the middle, whose effective field this is."""
        return tuple(cells // 2 for cells in self.grid)

    @property
    def box(self) -> PixelBox | None:
        """The analytic field of the unit in the middle, inside of the image; None where it is unknown."""
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
        """The smallest box with all pixels at which the effective field is not exactly zero; empty if none is."""
        places = self.effective.nonzero()
        if len(places) == 0:
            return ((0, 0),) * self.effective.ndim
        return tuple(zip(places.amin(0).tolist(), (places.amax(0) + 1).tolist(), strict=True))

    def pixels(self, share: float = 0.95) -> int:
        """The least number of pixels that hold this share of the effective field.

        Far fewer than the analytic field has: the effective one is nearly Gaussian and grows with the root of the depth
        (Luo et al., NeurIPS 2016, sec. 2).
        """
        if not 0 < share <= 1:
            raise InvalidInput(f"share={share!r} is no share of the gradient: give a number above 0, up to 1.")
        held = self.effective.flatten().double().sort(descending=True).values.cumsum(0)
        return int((held < share * held[-1]).sum()) + 1 if held[-1] > 0 else 0


def receptive_field(model: HookedModel, x: Images, layer: str | None = None) -> ReceptiveField:
    """The analytic and the effective receptive field of a layer's units.

    model: frozen, and about to explain x. x: the images over which the effective field is a mean; one is run at a time.
    It is the magnitude of the gradient of the middle unit (Luo et al., NeurIPS 2016, sec. 3), summed over the image's
    channels; the unit's own are added with random signs, since their plain sum is constant after a normalisation over
    channels. The analytic size is R_l = R_(l-1) + (K_l - 1) * dilation_l * product of the strides before l (Araujo,
    Norris and Sim, Distill 2019, eq. 2), read from the graph of one forward, so it holds for what the model computes,
    not for how it is written. layer: a dotted name; None is the layer that methods read.
    """
    name = model.default_layer(x) if layer is None else layer
    images = [slice(i, i + 1) for i in range(len(x))]
    runs = (_Run(model.subset(each), x[each], layer) for each in images)
    first = next(runs)
    field = analytic_field(first.output, first.image, first.module_of)
    if field is None:
        raise UnsupportedModel(
            f"Layer {name!r} does not depend on the images, or the model cuts the graph before it (detach, no_grad, "
            "NumPy): its receptive field cannot be told. Choose a layer before that."
        )
    diagnostics = torch.Generator().manual_seed(0)
    effective = torch.stack([run.middle_gradient(diagnostics) for run in itertools.chain([first], runs)]).mean(0)
    if field.bound:
        model.note(f"the analytic field is an upper bound: {field.bound} takes some of channels that see differently")
    grid = first.layout.grid
    return _result(name, grid, _per_unit(field, grid), effective, tuple(model.notes))


class _Run:
    """A forward of one image, with its graph."""

    def __init__(self, model: HookedModel, image: Tensor, layer: str | None) -> None:
        self.image = image.detach().requires_grad_()
        with module_times(model.module) as times:
            _, self.output, self.layout = model.output(self.image, layer)
        self.module_of = times.module_of

    def middle_gradient(self, diagnostics: torch.Generator) -> Tensor:
        """The magnitude of the gradient of the middle unit, its channels added with random signs, (*space)."""
        place: tuple[Any, ...] = (0, ..., *(cells // 2 for cells in self.layout.grid))
        middle = self.layout.to_grid(self.output)[place]
        with contiguous_batchnorm_gradients(middle):
            (gradient,) = torch.autograd.grad(middle, self.image, _signs(middle, diagnostics))
        return to_full_precision(gradient[0]).abs().sum(0)


def _per_unit(field: Field, grid: tuple[int, ...]) -> list[Reach]:
    """The reach along each axis; unknown where it was read at one place and copied to all the units."""
    along = field.spaces(range(len(field.axes))) if field.axes is not None else set()
    copied = Unknown("what was read at one place is copied to others")
    reaches = enumerate(zip(field.reach, grid, strict=True))
    return [copied if isinstance(r, Span) and cells > 1 and k not in along else r for k, (r, cells) in reaches]


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (2.0 * torch.randint(2, like.shape, generator=generator, device="cpu") - 1).to(like)


def _result(
    name: str, grid: tuple[int, ...], reaches: Sequence[Reach], effective: Tensor, notes: tuple[str, ...]
) -> ReceptiveField:
    spans = [each for each in reaches if isinstance(each, Span)]
    told = len(spans) == len(reaches)
    whole = next((each.because for each in reaches if isinstance(each, Whole)), "")
    unknown = next((each.because for each in reaches if isinstance(each, Unknown)), "")
    return ReceptiveField(
        name,
        grid,
        tuple(each.size for each in spans) if told else None,
        tuple(each.stride for each in spans) if told else None,
        tuple(each.first for each in spans) if told else None,
        "" if unknown else whole,
        unknown,
        effective,
        notes,
    )
