"""Rules for how writing into a tensor changes the image coordinates of its elements."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attribkit._coordinates.coordinates import CellCoordinates, Positions, unknown_positions
from attribkit._coordinates.products import CoordinateLookup, TrackedResult


def index_writes(lookup: CoordinateLookup, _function: Any, args: Any, _kwargs: Any, _output: Any) -> TrackedResult:
    """Overwrite the indexed positions of the first argument."""
    target, index, value = args
    target_coordinates, written = _target_and_value(lookup, target, value)

    def change(old: Tensor, new: Tensor) -> Tensor:
        old[index] = new
        return old

    return _write(target_coordinates, written, value, change)


def copy_writes(lookup: CoordinateLookup, _function: Any, args: Any, kwargs: Any, _output: Any) -> TrackedResult:
    """Replace all positions of the first argument by those of the second."""
    written = lookup(args[1] if len(args) > 1 else kwargs["src"])
    return written.rearrange(lambda each: each.expand(args[0].shape)) if written else None


def scatter_writes(lookup: CoordinateLookup, function: Any, args: Any, kwargs: Any, _output: Any) -> TrackedResult:
    """Overwrite the positions that an index, mask or slice selects."""
    args, kwargs, source = _split_source(args, kwargs)
    target_coordinates, written = _target_and_value(lookup, args[0], args[source])
    others = args[source + 1 :]

    def change(old: Tensor, new: Tensor) -> Tensor:
        changed: Tensor = function(old, *args[1:source], new, *others, **kwargs)
        return changed

    return None if "reduce" in kwargs else _write(target_coordinates, written, args[source], change)


def index_additions(lookup: CoordinateLookup, function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """Scatter the positions of added values; values that are added to one element must have equal positions."""
    if getattr(function, "__name__", "").startswith("index_put"):
        accumulate = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
        return scatter_writes(lookup, function, args, kwargs, output) if not accumulate else None
    if lookup(args[0]):
        return None
    args, kwargs, source = _split_source(args, kwargs)
    target_coordinates, written = _target_and_value(lookup, args[0], args[source])
    if written is None or target_coordinates is None:
        return None
    kwargs = {key: value for key, value in kwargs.items() if key != "alpha"}
    empty = torch.zeros(args[0].shape, device=args[0].device, dtype=torch.float32)

    def total(each: Tensor) -> Tensor:
        summed: Tensor = function(empty.clone(), *args[1:source], each.contiguous(), **kwargs)
        return summed

    positions = tuple(each.expand(args[source].shape) for each in written.positions)
    count = total(torch.ones_like(positions[0]))
    means = [total(each) / count for each in positions]
    spreads = [total(each * each) / count - mean * mean for each, mean in zip(positions, means, strict=True)]
    is_single = torch.stack([spread < 1e-6 for spread in spreads]).all(0) & (count > 0)
    return target_coordinates.with_positions(tuple(mean.where(is_single, math.nan) for mean in means))


def strided_view(
    coordinates: CellCoordinates | None, tensor: Tensor, size: Any, stride: Any, offset: int | None = None
) -> CellCoordinates | None:
    """Return the coordinates of a view of a tensor's storage."""
    if coordinates is None:
        return None
    start = (tensor.storage_offset() if offset is None else offset) - tensor.storage_offset()
    return coordinates.rearrange(
        lambda each: _with_memory_layout(each, tensor).as_strided(tuple(size), tuple(stride), start)
    )


def write_through_view(
    base: Tensor, target_coordinates: CellCoordinates | None, view: Tensor, new: CellCoordinates
) -> CellCoordinates:
    """Return the coordinates of a tensor after new ones were written into a view of it."""
    positions = target_coordinates.positions if target_coordinates else unknown_positions(base, len(new.sampling))
    start = view.storage_offset() - base.storage_offset()
    changed = []
    for each, values in zip(positions, new.positions, strict=True):
        whole = _with_memory_layout(each, base)
        whole.as_strided(view.shape, view.stride(), start).copy_(values)
        changed.append(whole)
    return new.with_positions(tuple(changed))


def _with_memory_layout(coordinate: Tensor, tensor: Tensor) -> Tensor:
    """Copy a coordinate to the memory layout of a tensor."""
    copy = torch.empty_strided(tensor.shape, tensor.stride(), device=tensor.device)
    return copy.copy_(coordinate.expand(tensor.shape))


def _target_and_value(
    lookup: CoordinateLookup, target: Tensor, value: Any
) -> tuple[CellCoordinates | None, CellCoordinates | None]:
    """Return the coordinates of the tensor that is written into (unknown positions if it has none) and of the value."""
    target_coordinates, written = lookup(target), lookup(value)
    if target_coordinates is None and written is not None:
        target_coordinates = written.with_positions(unknown_positions(target, len(written.sampling)))
    return target_coordinates, written


def _write(
    target_coordinates: CellCoordinates | None,
    written: CellCoordinates | None,
    value: Any,
    change: Callable[[Tensor, Any], Tensor],
) -> TrackedResult:
    """Apply a write to each coordinate of the target, with that of the value."""
    if target_coordinates is None:
        return None
    empty = (
        torch.full(value.shape, math.nan, device=value.device, dtype=torch.float32)
        if isinstance(value, Tensor)
        else math.nan
    )

    def changed(olds: Positions, news: Positions | None) -> Positions:
        values: Any = news or [empty] * len(olds)
        copies = (each.clone(memory_format=torch.contiguous_format) for each in olds)
        return tuple(change(old, new) for old, new in zip(copies, values, strict=True))

    key_positions = target_coordinates.key_positions and changed(
        target_coordinates.key_positions, written.key_positions if written else None
    )
    return target_coordinates.with_positions(
        changed(target_coordinates.positions, written.positions if written else None), key_positions
    )


def _split_source(args: Any, kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any], int]:
    """Return the arguments with the written value among the positional ones, and its index."""
    args, kwargs = list(args), dict(kwargs)
    names = ("source", "src", "value", "values")
    for name in (name for name in names if name in kwargs):
        return [*args, kwargs.pop(name)], kwargs, len(args)
    tensors = [i for i, each in enumerate(args) if i and isinstance(each, Tensor)]
    return args, kwargs, tensors[-1]
