"""Guards that keep plugins from exiting the program and from writing into shared tensors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from attribkit._core.annotations import describe
from attribkit._core.errors import AttribkitError


@contextmanager
def refuse_exits(plugin: object) -> Iterator[None]:
    """Convert a SystemExit of a method, metric or visualizer into an AttribkitError that names it."""
    try:
        yield
    except SystemExit as error:
        raise AttribkitError(
            f"{describe(plugin)} raised SystemExit({error.code!r}), but a plugin must not exit the program: change it "
            "to raise another error, or do not use it."
        ) from error


@contextmanager
def read_only(plugin: object, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Raise AttribkitError if a plugin writes into tensors, and restore their values, even after another error.

    Values are compared, since writes through ``.data`` or NumPy do not increase the version counter of a tensor. A
    gradient or a `requires_grad` flag is removed without an error.

    Args:
        plugin: The method, metric or visualizer, for the message.
        tensors: The tensors by the names that the message uses.
    """
    copies = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        yield
    finally:
        written = [name for name, tensor in tensors.items() if _restore_if_written(tensor, copies[name])]
    if written:
        raise AttribkitError(
            f"{plugin!r} modified {written[0]} in place, but they are shared with other code: change it to modify a "
            "copy, tensor.clone()."
        )


def _restore_if_written(tensor: Tensor, copy: Tensor) -> bool:
    """Restore the values of a tensor that differs from its copy, and return whether it did."""
    if tensor.requires_grad and not tensor.is_inference():
        tensor.requires_grad_(False) if tensor.is_leaf else tensor.detach_()
        tensor.grad = None
    if tensor.shape == copy.shape and torch.equal(tensor, copy):
        return False
    tensor.data = copy
    return True
