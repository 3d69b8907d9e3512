"""Copies of models in which every call of an activation, also a functional one, has a module of its own."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from attribkit import HookedModel, UnsupportedModel

Functions = Mapping[Callable[..., Any], type[nn.Module]]  # functions, and the modules that replace their calls
Kinds = tuple[type[nn.Module], ...]

ACTIVATIONS: Functions = {
    **dict.fromkeys((F.relu, torch.relu, Tensor.relu, torch.relu_, Tensor.relu_), nn.ReLU),
    **dict.fromkeys((F.sigmoid, torch.sigmoid, Tensor.sigmoid, torch.sigmoid_, Tensor.sigmoid_), nn.Sigmoid),
    **dict.fromkeys((F.tanh, torch.tanh, Tensor.tanh, torch.tanh_, Tensor.tanh_), nn.Tanh),
}

_TOLERANCE = 1e-3  # between the score of the model and of its copy, relative to the score


class Calls(nn.Module):
    """A module that runs each of its calls in one forward in a copy of its own.

    The inputs of a copy are not used elsewhere, so hooks on their gradients see the gradient of this call alone.

    Args:
        module: The module, which is the first copy.
        trace: State of the forward that is shared by all modules of this kind in the model.
    """

    def __init__(self, module: nn.Module, trace: "Trace") -> None:
        super().__init__()
        self.copies = nn.ModuleList([module])
        self.training = module.training
        self._trace = trace
        self.count = 0  # calls in the current forward
        trace.calls.append(self)

    def forward(self, *inputs: Any) -> Any:
        if self.count == len(self.copies):
            if not self._trace.is_first:
                raise UnsupportedModel(
                    f"A {type(self.copies[0]).__name__} runs more often than in the first forward, and captum needs a "
                    "module for each call. Switch gradient checkpointing off; if the number of calls depends on the "
                    "image, use a method of attribkit, such as integrated_gradients."
                )
            self.copies.append(copy.deepcopy(self.copies[0]))
        self.count += 1
        own = [each.clone() if isinstance(each, Tensor) else each for each in inputs]
        with self._trace.paused():
            output = self.copies[self.count - 1](*own)
        if self._trace.is_first and isinstance(output, Tensor):
            self._trace.record(own, output)
        return output

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            copies: Any = super().__getattr__("copies")
            return getattr(copies[0], name)


class Trace(TorchFunctionMode):
    """Runs functional calls in modules while it is active, and counts the calls of a forward.

    Args:
        functions: The functions, and the modules that replace their calls.
    """

    def __init__(self, functions: Functions) -> None:
        super().__init__()
        self.calls: list[Calls] = []
        self.is_first = True  # the number of calls is still unknown
        self.inputs: dict[Node, list[Node]] = {}  # graph nodes of the inputs of a call, by the node of its output
        self._paused = False
        self._modules = {kind: Calls(kind(), self) for kind in dict.fromkeys(functions.values())}
        self._functions = functions

    @property
    def modules(self) -> nn.ModuleList:
        """The modules that replace functional calls."""
        return nn.ModuleList(self._modules.values())

    @contextmanager
    def running(self) -> Iterator[None]:
        """Replace the functional calls of one forward."""
        for each in self.calls:
            each.count = 0
        self._paused = False
        with self:
            yield

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave functional calls inside a module as they are."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def record(self, inputs: Sequence[Any], output: Tensor) -> None:
        """Keep the graph nodes of the inputs and the output of a call."""
        nodes = [each.grad_fn for each in inputs if isinstance(each, Tensor) and each.grad_fn is not None]
        if output.grad_fn is not None and output.grad_fn not in nodes:
            self.inputs[output.grad_fn] = nodes

    def ran(self, kinds: Kinds) -> bool:
        """Return whether a module of some kinds ran in the last forward."""
        return any(each.count and isinstance(each.copies[0], kinds) for each in self.calls)

    def __torch_function__(
        self, function: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        keywords = dict(kwargs or {})
        kind = None if self._paused else self._functions.get(function)
        operands = (*args[: _arity(kind)], *(keywords[name] for name in ("input", "other") if name in keywords))
        if kind is None or len(operands) != _arity(kind) or not _depend_on_images(operands):
            return function(*args, **keywords)
        if keywords.get("alpha", 1) != 1:
            return function(*args, **keywords)
        result = self._modules[kind](*operands)
        in_place = function.__name__.endswith("_") and not function.__name__.endswith("__")
        if in_place or keywords.get("inplace") or args[_arity(kind) :] == (True,):
            return operands[0].copy_(result)
        return result


def _arity(kind: type[nn.Module] | None) -> int:
    """Return the number of tensors that a module takes."""
    return 1 if kind is None or kind.__module__.startswith("torch") else 2


def _depend_on_images(operands: Sequence[Any]) -> bool:
    return all(isinstance(each, Tensor) and each.requires_grad for each in operands)


def separate(
    model: HookedModel,
    kinds: Kinds,
    functions: Functions,
    prepare: Callable[[nn.Module], nn.Module] = lambda module: module,
) -> tuple[HookedModel, Trace]:
    """Return a copy of a bound model in which each call of some modules and functions has a module of its own.

    Args:
        model: The model.
        kinds: The classes of the modules; subclasses are left as they are.
        functions: Functions, and the modules that replace their calls.
        prepare: Replaces submodules of the copy first.
    """
    module = copy.deepcopy(model.copy_without_inplace().module)
    trace = Trace(functions)
    replace_modules(module, prepare)
    replace_modules(module, lambda child: Calls(child, trace) if type(child) in kinds else child)
    return model.with_module(Calls(module, trace) if type(module) in kinds else module), trace


def replace_modules(module: nn.Module, replace: Callable[[nn.Module], nn.Module]) -> None:
    """Replace submodules; one that has several names stays one module."""
    replaced: dict[nn.Module, nn.Module] = {}
    for parent in list(module.modules()):
        for name, child in parent._modules.items():
            if child is not None:
                if child not in replaced:
                    replaced[child] = replace(child)
                parent._modules[name] = replaced[child]


class Scoring(nn.Module):
    """The score of one image as the module that captum explains, in the dtype of the model.

    Args:
        model: The model, bound to one image, or a copy of it.
        target: The target of the image.
        trace: Replaces functional calls, if the model is a copy made by `separate`.
        most: Most images in one forward; None means all of them.
    """

    def __init__(self, model: HookedModel, target: Any, trace: Trace | None = None, most: int | None = None) -> None:
        super().__init__()
        self.scoring = model.scoring_module(target)
        self.functional = trace.modules if trace else nn.ModuleList()
        self.training = False
        self._trace, self._most, self._dtype = trace, most, model.images.dtype

    @property
    def model(self) -> nn.Module:
        """The model, or its copy."""
        module: nn.Module = self.scoring.module
        return module

    def forward(self, images: Tensor) -> Tensor:
        parts = images.to(self._dtype).split(self._most or len(images))
        return torch.cat([self._score(part) for part in parts])

    def _score(self, images: Tensor) -> Tensor:
        if self._trace is None:
            return self.scoring(images)
        with self._trace.running():
            return self.scoring(images)


def operations(score: Tensor, trace: Trace | None = None) -> list[str]:
    """Return the names of the graph operations that a score depends on.

    Args:
        score: The score, with its graph.
        trace: Operations inside its modules are left out.
    """
    found: list[str] = []
    stack, visited = [score.grad_fn], set()
    while stack:
        node = stack.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if trace is not None and node in trace.inputs:
            stack.extend(trace.inputs[node])
            continue
        found.append(node.name().rpartition("::")[2].partition("Backward")[0])
        stack.extend(following for following, _ in node.next_functions)
    return found


def first_score(scoring: Scoring, trace: Trace, image: Tensor, expected: Tensor) -> Tensor:
    """Run the copy for the first time, which makes a module for each call, and return the score with its graph.

    Args:
        scoring: The score of the copy.
        trace: Its calls.
        image: The image, (1, c, *space), with a gradient.
        expected: Score of the model itself, (1,).

    Raises:
        UnsupportedModel: If the copy has another score.
    """
    score = scoring(image)
    trace.is_first = False
    gap, limit = (score.detach() - expected).abs(), _TOLERANCE * expected.abs().clamp(min=1)
    if score.dtype != torch.bfloat16 and bool((gap > limit).any()):
        raise UnsupportedModel(
            f"A copy of the model with one module for each call of an activation has the score {float(score[0]):.4g}, "
            f"and the model itself {float(expected[0]):.4g}, so the model depends on the identity of its modules. Use "
            "a method of attribkit, such as integrated_gradients."
        )
    return score
