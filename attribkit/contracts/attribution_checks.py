"""Whether the parts of an attribution belong together; nothing here waits for a device."""

import math
from typing import Any

import torch
from torch import Tensor

from attribkit.core.axes import ImageAxes
from attribkit.core.errors import InvalidInput

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def check_tensors(scores: Any, x: Any) -> None:
    """Refuse scores (b, k, *grid) and images (b, c, *space) that are not of the same images and axes."""
    for name, tensor in (("scores", scores), ("x", x)):
        _check_tensor(name, tensor)
    if len(scores) != len(x) or scores.ndim != x.ndim:
        raise InvalidInput(
            f"scores {tuple(scores.shape)} do not fit x {tuple(x.shape)}: give scores (b, k, *grid), a map for each "
            "image of x (b, c, *space), with as many axes of space."
        )
    if scores.device != x.device:
        raise InvalidInput(f"The scores are on {scores.device} and x on {x.device}: move one of them.")


def check_axes(axes: str, scores: Any, x: Any) -> None:
    """Refuse tensors that have not the axes that are said of them; scores may have one of channels that x lacks."""
    count = len(ImageAxes(axes).letters)
    for name, tensor, most in (("scores", scores, count + ("c" not in axes)), ("x", x, count)):
        if not isinstance(tensor, Tensor) or not count <= tensor.ndim <= most:
            got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
            raise InvalidInput(f"{name} {got} do not have the axes {axes!r}: give {count} axes in that order.")


def check_count(target: Any, images: int) -> None:
    """Refuse a target that speaks of another number of images."""
    if (count := target.count) not in (None, images):
        raise InvalidInput(f"{target!r} speaks of {count} images, x has {images}: give as many, or one for all.")


def check_notes(notes: Any) -> None:
    """Refuse notes that are no tuple of texts."""
    if not isinstance(notes, tuple) or not all(isinstance(note, str) for note in notes):
        raise InvalidInput(f"notes={notes!r} must be a tuple of texts: write notes=('...',).")


def check_extent(extent: Any, axes: int) -> None:
    """Refuse an extent that is no start and end, as finite numbers, along each axis of space."""
    if extent is None:
        return
    pairs = extent if isinstance(extent, tuple) else ()
    if len(pairs) != axes or not all(map(_is_span, pairs)):
        raise InvalidInput(
            f"extent={extent!r} must be {axes} pairs (start, end), as shares of the image, or None for all of it."
        )


def _is_span(pair: Any) -> bool:
    if not isinstance(pair, tuple) or len(pair) != 2:
        return False
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in pair)
    return numbers and all(map(math.isfinite, pair)) and pair[0] < pair[1]


def _check_tensor(name: str, tensor: Any) -> None:
    if not isinstance(tensor, Tensor):
        raise InvalidInput(f"{name} must be a torch.Tensor, got {type(tensor).__name__}: try torch.as_tensor.")
    if tensor.dtype not in _DTYPES or tensor.layout != torch.strided:
        raise InvalidInput(
            f"{name} of {tensor.dtype} and layout {tensor.layout}: give a dense tensor of float32, float64, float16 or "
            "bfloat16."
        )
    if tensor.ndim < 3 or 0 in tensor.shape[1:]:
        raise InvalidInput(
            f"{name} of shape {tuple(tensor.shape)} must have axes (images, channels, *space), not empty."
        )
