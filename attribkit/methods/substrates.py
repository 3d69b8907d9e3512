"""What stands in for pixels that are taken away."""

from typing import Literal, get_args

import torch

from attribkit.core.errors import InvalidInput
from attribkit.core.shapes import Images

Substrate = Literal["zero", "mean", "blur"]  # the mean colour of normalised images; each image's own; out of focus

_BLUR = 1 / 12  # standard deviation of the blur, as a share of each axis


def substrate(x: Images, kind: Substrate) -> Images:
    """Images of the shape of x that hold less of what x shows."""
    if kind == "zero":
        return torch.zeros_like(x)
    if kind == "mean":
        return x.flatten(2).mean(2)[(...,) + (None,) * (x.ndim - 2)].expand_as(x)
    if kind == "blur":
        return _blurred(x)
    raise InvalidInput(f"{kind!r} is no substrate; known: {', '.join(get_args(Substrate))}.")


def _blurred(x: Images) -> Images:
    for axis in range(2, x.ndim):
        place = torch.arange(x.shape[axis], device=x.device, dtype=torch.float32) / (_BLUR * x.shape[axis])
        kernel = torch.softmax(-((place[:, None] - place) ** 2) / 2, dim=1).to(x.dtype)
        x = (x.movedim(axis, -1) @ kernel.mT).movedim(-1, axis)
    return x
