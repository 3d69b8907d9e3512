"""One forward, watched: what every module put out, and through which of it the score reaches the image."""

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from attribkit.core.graph import reachable
from attribkit.core.hooks import first_tensor, observed
from attribkit.core.layouts import Layout
from attribkit.core.places.coordinates import narrowed
from attribkit.core.places.followed import places_followed
from attribkit.core.places.grids import layout_of
from attribkit.core.targets.class_outputs import Returned
from attribkit.core.targets.target import Target, handed


@dataclass(frozen=True, eq=False)
class Output:
    """What a module put out, one of the times that it ran."""

    name: str  # the module's dotted name
    module: nn.Module
    run: int  # 0 is its first run in the forward
    shape: tuple[int, ...]  # batch first
    edge: GradientEdge | None  # where it stands in the graph; None if it depends on no image
    layout: Layout | None  # where its elements come from, as far as they could be followed and lie on a grid
    lost: bool  # whether none of its elements could be followed

    @property
    def place(self) -> tuple[Any, ...]:
        """Equal for modules that put out the same values, as a container and its last layer do."""
        return (self.name,) if self.edge is None else (self.edge.node, self.edge.output_nr)


class Trace:
    """A forward of one image under a frozen model, with its graph.

    x: (1, c, *space). target: whose score counts; where it cannot be asked about one image, the outputs' sum does.
    """

    def __init__(self, model: nn.Module, x: Tensor, target: Target) -> None:
        self.outputs: list[Output] = []
        self.image = x.detach().requires_grad_()
        self._runs: Counter[nn.Module] = Counter()
        with places_followed(self.image) as self._places, observed(model, self._record):
            returned = model(self.image.clone())
        self.score = _score(returned, target)
        self.returned = {tensor.grad_fn for tensor in _tensors(returned)}
        self._nodes = reachable(self.score.grad_fn)

    def runs(self, module: nn.Module) -> int:
        """How often a module ran."""
        return self._runs[module]

    def matters(self, output: Output) -> bool:
        """Whether the score depends on the output at all."""
        return output.edge is not None and output.edge.node in self._nodes

    def carries_all(self, output: Output) -> bool:
        """Whether every path from the score to the image goes through the output."""
        return self.matters(output) and not self._sees_image(reachable(self.score.grad_fn, output.edge.node))  # type: ignore[union-attr]

    def reach(self, output: Output, layout: Layout) -> float:
        """The share of the output's grid at which the score's gradient is not exactly zero."""
        if not self.matters(output):
            return 0.0
        (gradient,) = torch.autograd.grad(self.score, [output.edge], retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        return 0.0 if gradient is None else gradient_reach(layout.to_grid(gradient))

    def _record(self, name: str, module: nn.Module, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None:
            edge = get_gradient_edge(tensor) if tensor.requires_grad else None
            places = self._places.of(tensor)
            lost = places is None or bool(narrowed(places.rows)[0].isnan().all())
            layout = None if places is None or lost else layout_of(places)
            self.outputs.append(Output(name, module, self._runs[module], tuple(tensor.shape), edge, layout, lost))
            self._runs[module] += 1

    def _sees_image(self, nodes: set[Node]) -> bool:
        return any(getattr(node, "variable", None) is self.image for node in nodes)


def gradient_reach(gradient: Tensor) -> float:
    """The share of positions at which some channel's gradient is not exactly zero; gradient: (b, d, *grid)."""
    return math.nan if gradient.numel() == 0 else gradient.ne(0).any(1).float().mean().item()


def _score(returned: Any, target: Target) -> Tensor:
    try:
        return target(handed(target, Returned(returned, 1))).sum()
    except Exception:  # a function of the whole batch, or a target that does not fit: the real call will tell
        return sum((tensor.sum() for tensor in _tensors(returned)), torch.zeros(()))


def _tensors(returned: Any) -> list[Tensor]:
    """Every floating-point tensor in what a model returned."""
    if isinstance(returned, Tensor):
        return [returned] if returned.is_floating_point() else []
    entries = (
        returned.values() if isinstance(returned, dict) else returned if isinstance(returned, list | tuple) else ()
    )
    return [tensor for entry in entries for tensor in _tensors(entry)]
