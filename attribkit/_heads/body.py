"""Copy the part of a model up to a layer as a module, and verify that it is equal."""

import copy
import random
from collections import OrderedDict
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from attribkit._core.errors import UnsupportedModel
from attribkit._core.nested import Path, tensor_at
from attribkit._core.shapes import Images
from attribkit._state.hooks import TensorRequest, capture, frozen, observe_modules
from attribkit._state.randomness import preserve_random_state
from attribkit._tracing.layers import Layer

_ROUNDING = 16  # tolerance in units in the last place of the largest value


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed Python, NumPy, and PyTorch's generators of the CPU and of this device only."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # transforms of users draw from the global state
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


class StoppedForward(nn.Module):
    """A model whose forward ends as soon as a layer has run.

    Args:
        model: The model, or the part that the layer needs.
        layer: Dotted name of the layer.
        run: Index of the layer's run in a forward, from 0.
        path: Keys of the entry in the layer's output.
    """

    def __init__(self, model: nn.Module, layer: str, run: int = 0, path: Path = ()) -> None:
        super().__init__()
        self.model = model
        self.layer = layer
        self.run = run
        self.path = path

    def forward(self, x: Images) -> Tensor:
        """Return the output of the layer."""
        with self._stopping():
            try:
                self.model(x)
            except _LayerReached as reached:
                return reached.output
        raise UnsupportedModel(
            f"Layer {self.layer!r} did not run for images of shape {tuple(x.shape)}. Pass images of the same shape as "
            "those used to create the body."
        )

    def extra_repr(self) -> str:
        return f"layer={self.layer!r}, run={self.run}"

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """End forwards at the layer; registered per forward, so that other hooks of the layer run first."""
        runs_left = self.run

        def stop(_module: nn.Module, _args: object, output: object) -> None:
            nonlocal runs_left
            tensor = tensor_at(output, self.path)
            if runs_left == 0 and tensor is not None:
                raise _LayerReached(tensor)
            runs_left -= 1

        with self.model.get_submodule(self.layer).register_forward_hook(stop):
            yield


class _LayerReached(Exception):  # internal signal that ends the forward
    def __init__(self, output: Tensor) -> None:
        super().__init__("a layer has run")
        self.output = output


def body_up_to(model: nn.Module, layer: Layer, x: Images) -> nn.Module:
    """Copy the part of a model that ends in a layer.

    The copy is a sequence of the modules that ran, if that computes the same; otherwise the model's own forward, ended
    at the layer. Both are compared with the model on x, in evaluation and in training mode.

    Args:
        model: The model.
        layer: The last layer of the copy.
        x: At least two images, (b, c, *space).

    Raises:
        UnsupportedModel: If neither computes the same as the layer.
    """
    calls = _calls(model, layer, x)
    for build in (_as_sequence, _as_stopped_forward):
        body = build(model, layer, calls)
        if _is_equal(model, body, layer, x):
            return body
    raise UnsupportedModel(
        f"A copy of this {type(model).__name__} up to layer {layer.name!r} does not reproduce the layer's output: its "
        "forward keeps state, draws random numbers without a seed, or uses weights of later layers. Write the part "
        'up to that layer as a module, Body, and pass torch.nn.Sequential(Body()) with layer="0".'
    )


def layer_output(model: nn.Module, layer: Layer, x: Images, *, training: bool = False) -> Tensor:
    """Compute the output of a layer in the whole model; the model and the random state are left unchanged."""
    request = TensorRequest(model.get_submodule(layer.module), layer.run, layer.path)
    with preserve_random_state(), frozen(model), capture([request]) as kept:
        _run(model, x, training)
    tensor = kept[0].tensor
    if tensor is None:
        raise UnsupportedModel(f"Layer {layer.name!r} did not run for images of shape {tuple(x.shape)}.")
    return tensor.detach()


def _calls(model: nn.Module, layer: Layer, x: Tensor) -> list[str]:
    """Return the dotted names of the modules in the order in which they finish, up to the layer."""
    names: list[str] = []
    with frozen(model), torch.no_grad(), observe_modules(model, lambda name, _module, _output: names.append(name)):
        model(x.clone())
    ends = [i for i, name in enumerate(names) if name == layer.module]
    return names[: ends[layer.run] + 1]


def _as_sequence(model: nn.Module, layer: Layer, calls: Sequence[str]) -> nn.Module:
    return copy.deepcopy(_sequence(model, layer.module, calls))


def _sequence(model: nn.Module, path: str, calls: Sequence[str]) -> nn.Module:
    """Return the children that ran, in order, the last one cut recursively down to the layer."""
    last, _, rest = path.partition(".")
    modules = OrderedDict[str, nn.Module]()
    for name in [call for call in calls[:-1] if "." not in call]:
        modules[_unique_name(name, modules)] = model.get_submodule(name)
    inside = [call.removeprefix(f"{last}.") for call in calls if call.startswith(f"{last}.")]
    modules[_unique_name(last, modules)] = (
        _sequence(model.get_submodule(last), rest, inside) if rest else model.get_submodule(last)
    )
    return nn.Sequential(modules)


def _unique_name(name: str, names: Container[str]) -> str:
    """Return the name, with a number if a module runs again."""
    return next(each for each in chain([name], (f"{name}_{i}" for i in count(2))) if each not in names)


def _as_stopped_forward(model: nn.Module, layer: Layer, calls: Sequence[str]) -> nn.Module:
    copied = copy.deepcopy(model)
    _remove_what_follows(copied, set(calls))
    return StoppedForward(copied, layer.module, layer.run, layer.path)


def _remove_what_follows(module: nn.Module, ran: set[str], prefix: str = "") -> None:
    """Replace the modules that no forward up to the layer enters by identities."""
    for name, child in module.named_children():
        path = prefix + name
        if path in ran:
            continue
        if any(each.startswith(f"{path}.") for each in ran):
            _remove_what_follows(child, ran, f"{path}.")
        else:
            setattr(module, name, nn.Identity())


def _is_equal(model: nn.Module, body: nn.Module, layer: Layer, x: Tensor) -> bool:
    """Return whether the body's output equals that of the layer in the whole model, in both modes."""
    for training in (False, True):
        expected = layer_output(model, layer, x, training=training)
        with preserve_random_state(), frozen(body), torch.no_grad():
            try:
                output = _run(body, x, training)
            except Exception:  # any error of a wrongly assembled forward
                return False
        if not isinstance(output, Tensor) or output.shape != expected.shape:
            return False
        tolerance = _ROUNDING * torch.finfo(expected.dtype).eps * expected.abs().max()
        if not bool((output - expected).abs().max() <= tolerance):
            return False
    return True


def _run(module: nn.Module, x: Tensor, training: bool) -> Any:
    """Run a forward in a mode with fixed random numbers, without updating statistics; `frozen` restores the mode."""
    for each in module.modules():
        each.training = training
    seed_everything(0, x.device)
    buffers = {
        name: buffer.clone() for name, buffer in module.named_buffers()
    }  # batch normalisation writes into copies
    return functional_call(module, buffers, (x.clone(),))
