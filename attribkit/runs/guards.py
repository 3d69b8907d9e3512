"""[core/exits] Code of others that wants to end the program.
[core/untouched] Tensors that several plugins read and none may write into.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from attribkit.core.annotations import describe
from attribkit.core.errors import AttribkitError


@contextmanager
def refuse_exits(what: object) -> Iterator[None]:
    """A SystemExit that a method, metric or visualizer raises becomes an AttribkitError that names it."""
    try:
        yield
    except SystemExit as error:
        raise AttribkitError(
            f"{describe(what)} raised SystemExit({error.code!r}), and only the program itself may end: let it raise an "
            "error, or leave it out."
        ) from error


@contextmanager
def read_only(reader: object, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Refuse what a reader wrote into tensors; each gets its values back, also where another error passes.

    tensors: by what a message calls them. The values are compared, since writes by ``.data`` or through NumPy do not
    raise a tensor's version. That one requires a gradient or has one is undone without a word.
    """
    kept = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    try:
        yield
    finally:
        written = [name for name, tensor in tensors.items() if _was_written(tensor, kept[name])]
    if written:
        raise AttribkitError(
            f"{reader!r} wrote into {written[0]}, which others read too: let it work on a copy, tensor.clone()."
        )


def _was_written(tensor: Tensor, kept: Tensor) -> bool:
    """Whether the tensor has other values than the kept one, which it then gets back."""
    if tensor.requires_grad and not tensor.is_inference():
        tensor.requires_grad_(False) if tensor.is_leaf else tensor.detach_()
        tensor.grad = None
    if tensor.shape == kept.shape and torch.equal(tensor, kept):
        return False
    tensor.data = kept
    return True
