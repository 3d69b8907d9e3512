"""Copies of a model with random weights."""

import copy
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attribkit.core.errors import UnsupportedModel
from attribkit.core.hooks import observed
from attribkit.core.model import HookedModel
from attribkit.core.shapes import Images


def stages_of(model: HookedModel, x: Images, most: int | None) -> list[list[str]]:
    """The names of all that a model has learnt, in the groups and the order in which a cascade makes them random.

    A group has the tensors of a module; groups go from the output to the input, in the order in which modules finish
    last in a forward of the first image. A module that does not run itself goes with the one that holds it. What the
    model holds itself comes last, since that is where tokens and positions are. most: groups that follow each other
    are joined to no more than so many, of numbers of modules as equal as can be; None is a group for each module.
    """
    ended = _last_ends(model, x)
    tensors = dict(_named_tensors(model.module))
    places = {name: _place(name.rpartition(".")[0], ended) for name in tensors}
    first: dict[int, str] = {}  # of several names of one tensor the one nearest to the output
    for name, tensor in sorted(tensors.items(), key=lambda each: -places[each[0]]):
        first.setdefault(id(tensor), name)
    groups_of_names = (list(names) for _, names in groupby(first.values(), places.__getitem__))
    modules = [names for names in groups_of_names if any(_says_something(tensors[name]) for name in names)]
    groups = np.array_split(np.arange(len(modules)), min(most or len(modules), len(modules)) or 1)
    return [[name for i in group for name in modules[i]] for group in groups]


class RandomCopy:
    """A copy of a model, of which any part can be made random, and what it was again; the model is not touched.

    Tensors of several axes become normal noise around zero with their own root mean square. Those of one axis, such as
    biases and the weights and statistics of normalisation, get their own values in another order: noise could turn
    signs there, and let variances vanish.
    """

    def __init__(self, model: HookedModel, seed: int) -> None:
        self.model = model.on(_copied(model.module))
        self.seed = seed
        self._own = dict(_named_tensors(model.module))
        self._mine = dict(_named_tensors(self.model.module))
        self._number = {name: i for i, name in enumerate(self._own)}
        if not any(_says_something(tensor) for tensor in self._own.values()):
            raise UnsupportedModel(
                f"The tensors of {type(model.module).__name__} are constant, and stay what they are when they are made "
                "random: is the model untrained?"
            )

    def randomise(self, names: Sequence[str], draw: int = 0) -> None:
        """Make tensors random; each has numbers of its own, and others in another draw."""
        for name in names:
            self._write(name, _random_like(self._own[name], _generator(self.seed, draw, self._number[name])))

    def restore(self, names: Sequence[str]) -> None:
        """Make tensors what they are in the model."""
        for name in names:
            self._write(name, self._own[name])

    def _write(self, name: str, values: Tensor) -> None:
        with torch.no_grad():
            self._mine[name].copy_(values)


def _named_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every parameter, and the buffers beside running statistics; a shared one under each of its names."""
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if parameter.is_floating_point():
            yield name, parameter
    modules = dict(module.named_modules(remove_duplicate=False))
    for name, buffer in module.named_buffers(remove_duplicate=False):
        if buffer.is_floating_point() and getattr(modules[name.rpartition(".")[0]], "running_var", None) is not None:
            yield name, buffer


def _last_ends(model: HookedModel, x: Images) -> dict[str, int]:
    """The place of each module that runs, by when it last finishes; the model itself comes before all."""
    names: list[str] = []
    with torch.no_grad(), observed(model.module, lambda name, _module, _output: names.append(name)):
        model.part(slice(0, 1))(x[:1])
    return {"": -1} | {name: place for place, name in enumerate(names)}


def _place(module: str, ended: dict[str, int]) -> int:
    while module not in ended:
        module = module.rpartition(".")[0]
    return ended[module]


def _copied(module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except Exception as error:
        raise UnsupportedModel(
            f"{type(module).__name__} cannot be copied ({type(error).__name__}: {error}), and its own weights are not "
            "to be touched: let copy.deepcopy(model) work, or leave this metric out."
        ) from error


def _says_something(tensor: Tensor) -> bool:
    """Whether it changes when it is made random."""
    return bool((tensor != 0).any()) if tensor.ndim > 1 else bool((tensor != tensor.flatten()[:1]).any())


def _random_like(own: Tensor, random: torch.Generator) -> Tensor:
    if own.ndim < 2:
        return own.flatten()[torch.randperm(own.numel(), generator=random, device="cpu").to(own.device)].reshape(
            own.shape
        )
    scale = own.double().square().mean().sqrt()
    return torch.randn(own.shape, generator=random, dtype=torch.float32, device="cpu").to(own.device) * scale


def _generator(*key: Any) -> torch.Generator:
    """Random numbers that no other key has; on the CPU, so that every device gets the same."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1)[0]))
