"""Validation of the fields of an attribution, without synchronising with the device."""

import math
from typing import Any

import torch
from torch import Tensor

from attribkit._core.axes import ImageAxes
from attribkit._core.errors import InvalidInput

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_tensors(scores: Any, x: Any) -> None:
    """Raise InvalidInput unless scores (b, k, *grid) and images (b, c, *space) belong together."""
    for name, tensor in (("scores", scores), ("x", x)):
        _check_tensor(name, tensor)
    if len(scores) != len(x) or scores.ndim != x.ndim:
        raise InvalidInput(
            f"scores of shape {tuple(scores.shape)} do not fit x of shape {tuple(x.shape)}: pass scores (b, k, "
            "*grid), one map per image of x (b, c, *space), with the same number of spatial axes."
        )
    if scores.device != x.device:
        raise InvalidInput(f"scores are on {scores.device} and x is on {x.device}: move them to the same device.")


def check_axes(axes: str, scores: Any, x: Any) -> None:
    """Raise InvalidInput unless the tensors have the declared axes; scores may have channels even if x does not."""
    count = len(ImageAxes(axes).letters)
    for name, tensor, most in (("scores", scores, count + ("c" not in axes)), ("x", x, count)):
        if not isinstance(tensor, Tensor) or not count <= tensor.ndim <= most:
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InvalidInput(f"{name} must have the {count} axes {axes!r} in this order, got {got}.")


def check_count(target: Any, images: int) -> None:
    """Raise InvalidInput if the target is defined for another number of images."""
    if (count := target.count) not in (None, images):
        raise InvalidInput(
            f"{target!r} is a target for {count} images, but x has {images}: pass one per image, or one for all images."
        )


def check_notes(notes: Any) -> None:
    """Raise InvalidInput unless the notes are a tuple of strings."""
    if not isinstance(notes, tuple) or not all(isinstance(note, str) for note in notes):
        raise InvalidInput(f"notes must be a tuple of strings, got {notes!r}: write notes=('...',).")


def check_extent(extent: Any, axes: int) -> None:
    """Raise InvalidInput unless the extent is a finite start and end along each axis of space, or None."""
    if extent is None:
        return
    pairs = extent if isinstance(extent, tuple) else ()
    if len(pairs) != axes or not all(map(_is_span, pairs)):
        raise InvalidInput(
            f"extent must be {axes} pairs (start, end) in fractions of the image, or None for the whole image, "
            f"got {extent!r}."
        )


def _is_span(pair: Any) -> bool:
    if not isinstance(pair, tuple) or len(pair) != 2:
        return False
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in pair)
    return numbers and all(map(math.isfinite, pair)) and pair[0] < pair[1]


def _check_tensor(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise InvalidInput(
            f"{name} must be a torch.Tensor, got {type(tensor).__name__}: convert it with torch.as_tensor."
        )
    if tensor.dtype not in _DTYPES or tensor.layout != torch.strided:
        raise InvalidInput(
            f"{name} must be a dense tensor of float32, float64, float16 or bfloat16, got {tensor.dtype} with layout "
            f"{tensor.layout}."
        )
    if tensor.ndim < 3 or 0 in tensor.shape[1:]:
        raise InvalidInput(
            f"{name} must have the axes (images, channels, *space) with at least one channel and position, got shape "
            f"{tuple(tensor.shape)}."
        )
