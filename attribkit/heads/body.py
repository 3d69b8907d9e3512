"""[heads/seed] Random numbers that a seed repeats.
[heads/body] The part of a model up to a layer, as a module of its own that is proven equal.
"""

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

from attribkit.core.errors import UnsupportedModel
from attribkit.core.nested import Path, entry
from attribkit.core.shapes import Images
from attribkit.state.hooks import TensorRequest, capture, frozen, observe_modules
from attribkit.state.randomness import preserve_random_state
from attribkit.tracing.layers import Layer


def seed_everything(seed: int, device: torch.device) -> None:
    """Seed Python, NumPy, and PyTorch's generators of the CPU and of this device; those of other devices go on."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  # the global state is what a user's transforms draw from
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


_ROUNDING = 16  # units in the last place of the largest value; equal operations on equal numbers differ by none


class StoppedForward(nn.Module):
    """A model's own forward, left as soon as a layer has run.

    model: the whole of it, or what the layer needs. layer: dotted; run: which of its runs in a forward, from 0; path:
    the keys of the entry in what the layer returns.
    """

    def __init__(self, model: nn.Module, layer: str, run: int = 0, path: Path = ()) -> None:
        super().__init__()
        self.model = model
        self.layer = layer
        self.run = run
        self.path = path

    def forward(self, x: Images) -> Tensor:
        """What the layer puts out."""
        with self._stopping():
            try:
                self.model(x)
            except _Reached as reached:
                return reached.output
        raise UnsupportedModel(
            f"Layer {self.layer!r} was not run for images of shape {tuple(x.shape)}: give images like those that the "
            "body was made with."
        )

    def extra_repr(self) -> str:
        return f"layer={self.layer!r}, run={self.run}"

    @contextmanager
    def _stopping(self) -> Iterator[None]:
        """The hook lives no longer than a forward, so that what others have hooked at the layer is called before."""
        left = self.run

        def stop(_module: nn.Module, _args: object, output: object) -> None:
            nonlocal left
            tensor = entry(output, self.path)
            if left == 0 and tensor is not None:
                raise _Reached(tensor)
            left -= 1

        with self.model.get_submodule(self.layer).register_forward_hook(stop):
            yield


class _Reached(Exception):  # no error: the way out of a forward
    def __init__(self, output: Tensor) -> None:
        super().__init__("a layer has run")
        self.output = output


def body_up_to(model: nn.Module, layer: Layer, x: Images) -> nn.Module:
    """A copy of the part of a model that ends in a layer.

    The modules that ran, in a row, where that computes the same; otherwise the model's own forward, left at the layer.
    Whether it is the same is seen by its numbers on x, in evaluation and in training mode. x: (b, c, *space), at least
    two images. Raises UnsupportedModel where neither is the same.
    """
    calls = _calls(model, layer, x)
    for build in (_in_a_row, _stopped):
        body = build(model, layer, calls)
        if _is_same(model, body, layer, x):
            return body
    raise UnsupportedModel(
        f"No copy of a part of this {type(model).__name__} puts out what its layer {layer.name!r} does: its forward "
        "keeps a state, draws numbers that no seed repeats, or reads weights of what comes later. Write the part up to "
        'that layer as a module, Body, and pass torch.nn.Sequential(Body()) with layer="0".'
    )


def layer_output(model: nn.Module, layer: Layer, x: Images, *, training: bool = False) -> Tensor:
    """What a layer puts out in the whole model; the model and the random state are left as they were."""
    wanted = TensorRequest(model.get_submodule(layer.module), layer.run, layer.path)
    with preserve_random_state(), frozen(model), capture([wanted]) as kept:
        _run(model, x, training)
    tensor = kept[0].tensor
    if tensor is None:
        raise UnsupportedModel(f"Layer {layer.name!r} was not run for images of shape {tuple(x.shape)}.")
    return tensor.detach()


def _calls(model: nn.Module, layer: Layer, x: Tensor) -> list[str]:
    """The dotted names of the modules in the order in which they finish, up to the layer."""
    names: list[str] = []
    with frozen(model), torch.no_grad(), observe_modules(model, lambda name, _module, _output: names.append(name)):
        model(x.clone())
    ends = [i for i, name in enumerate(names) if name == layer.module]
    return names[: ends[layer.run] + 1]


def _in_a_row(model: nn.Module, layer: Layer, calls: Sequence[str]) -> nn.Module:
    return copy.deepcopy(_row(model, layer.module, calls))


def _row(model: nn.Module, path: str, calls: Sequence[str]) -> nn.Module:
    """The children that ran, in their order, the last of them cut in the same way down to the layer."""
    last, _, rest = path.partition(".")
    row = OrderedDict[str, nn.Module]()
    for name in [call for call in calls[:-1] if "." not in call]:
        row[_unused(name, row)] = model.get_submodule(name)
    inside = [call.removeprefix(f"{last}.") for call in calls if call.startswith(f"{last}.")]
    row[_unused(last, row)] = _row(model.get_submodule(last), rest, inside) if rest else model.get_submodule(last)
    return nn.Sequential(row)


def _unused(name: str, names: Container[str]) -> str:
    """The name, or the name and a number for a module that runs once more."""
    return next(each for each in chain([name], (f"{name}_{i}" for i in count(2))) if each not in names)


def _stopped(model: nn.Module, layer: Layer, calls: Sequence[str]) -> nn.Module:
    own = copy.deepcopy(model)
    _remove_what_follows(own, set(calls))
    return StoppedForward(own, layer.module, layer.run, layer.path)


def _remove_what_follows(module: nn.Module, ran: set[str], prefix: str = "") -> None:
    """Put identities in place of the modules that no forward up to the layer enters; what ran stays whole."""
    for name, child in module.named_children():
        path = prefix + name
        if path in ran:
            continue
        if any(each.startswith(f"{path}.") for each in ran):
            _remove_what_follows(child, ran, f"{path}.")
        else:
            setattr(module, name, nn.Identity())


def _is_same(model: nn.Module, body: nn.Module, layer: Layer, x: Tensor) -> bool:
    """Whether the body puts out what the layer does in the whole model, in both modes."""
    for training in (False, True):
        wanted = layer_output(model, layer, x, training=training)
        with preserve_random_state(), frozen(body), torch.no_grad():
            try:
                got = _run(body, x, training)
            except Exception:  # whatever a forward raises that was put together wrongly
                return False
        if not isinstance(got, Tensor) or got.shape != wanted.shape:
            return False
        tolerance = _ROUNDING * torch.finfo(wanted.dtype).eps * wanted.abs().max()
        if not bool((got - wanted).abs().max() <= tolerance):
            return False
    return True


def _run(module: nn.Module, x: Tensor, training: bool) -> Any:
    """A forward in a mode, with the same random numbers for each, that learns no statistics; put back by `frozen`."""
    for each in module.modules():
        each.training = training
    seed_everything(0, x.device)
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}  # for batch normalisation to write into
    return functional_call(module, buffers, (x.clone(),))
