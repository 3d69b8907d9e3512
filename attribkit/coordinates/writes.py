"""What writing into a tensor does to the places of its elements."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from attribkit.coordinates.coordinates import CellCoordinates, Coordinates, no_coordinates
from attribkit.coordinates.products import CoordinateLookup, TrackedResult


def index_writes(tracked: CoordinateLookup, _function: Any, args: Any, _kwargs: Any, _output: Any) -> TrackedResult:
    """A part of the first argument overwritten."""
    target, index, value = args
    before, given = _both(tracked, target, value)

    def change(old: Tensor, new: Tensor) -> Tensor:
        old[index] = new
        return old

    return _changed(before, given, value, change)


def copy_writes(tracked: CoordinateLookup, _function: Any, args: Any, kwargs: Any, _output: Any) -> TrackedResult:
    """All of the first argument overwritten by the second."""
    given = tracked(args[1] if len(args) > 1 else kwargs["src"])
    return given.moved(lambda each: each.expand(args[0].shape)) if given else None


def scatter_writes(tracked: CoordinateLookup, function: Any, args: Any, kwargs: Any, _output: Any) -> TrackedResult:
    """The same of functions that write where an index, a mask or a slice tells."""
    args, kwargs, number = _source(args, kwargs)
    before, given = _both(tracked, args[0], args[number])
    others = args[number + 1 :]

    def change(old: Tensor, new: Tensor) -> Tensor:
        changed: Tensor = function(old, *args[1:number], new, *others, **kwargs)
        return changed

    return None if "reduce" in kwargs else _changed(before, given, args[number], change)


def index_additions(tracked: CoordinateLookup, function: Any, args: Any, kwargs: Any, output: Any) -> TrackedResult:
    """The same of functions that add what they write; what meets at one element must come from one place."""
    if getattr(function, "__name__", "").startswith("index_put"):
        accumulate = args[3] if len(args) > 3 else kwargs.get("accumulate", False)
        return scatter_writes(tracked, function, args, kwargs, output) if not accumulate else None
    if tracked(args[0]):
        return None
    args, kwargs, number = _source(args, kwargs)
    before, given = _both(tracked, args[0], args[number])
    if given is None or before is None:
        return None
    kwargs = {key: value for key, value in kwargs.items() if key != "alpha"}
    empty = torch.zeros(args[0].shape, device=args[0].device, dtype=torch.float32)

    def total(each: Tensor) -> Tensor:
        summed: Tensor = function(empty.clone(), *args[1:number], each.contiguous(), **kwargs)
        return summed

    rows = tuple(each.expand(args[number].shape) for each in given.rows)
    count = total(torch.ones_like(rows[0]))
    means = [total(each) / count for each in rows]
    spreads = [total(each * each) / count - mean * mean for each, mean in zip(rows, means, strict=True)]
    one = torch.stack([spread < 1e-6 for spread in spreads]).all(0) & (count > 0)
    return before.put(tuple(mean.where(one, math.nan) for mean in means))


def strided_view(
    places: CellCoordinates | None, tensor: Tensor, size: Any, stride: Any, offset: int | None = None
) -> CellCoordinates | None:
    """The places of a view of a tensor's storage."""
    if places is None:
        return None
    start = (tensor.storage_offset() if offset is None else offset) - tensor.storage_offset()
    return places.moved(lambda each: _laid_out(each, tensor).as_strided(tuple(size), tuple(stride), start))


def write_through_view(
    base: Tensor, before: CellCoordinates | None, view: Tensor, new: CellCoordinates
) -> CellCoordinates:
    """The places of a tensor, into a view of which new ones were written."""
    rows = before.rows if before else no_coordinates(base, len(new.sampling))
    start = view.storage_offset() - base.storage_offset()
    changed = []
    for each, values in zip(rows, new.rows, strict=True):
        whole = _laid_out(each, base)
        whole.as_strided(view.shape, view.stride(), start).copy_(values)
        changed.append(whole)
    return new.put(tuple(changed))


def _laid_out(coordinate: Tensor, tensor: Tensor) -> Tensor:
    """A copy of a coordinate whose elements stand in memory as the tensor's do."""
    copy = torch.empty_strided(tensor.shape, tensor.stride(), device=tensor.device)
    return copy.copy_(coordinate.expand(tensor.shape))


def _both(
    tracked: CoordinateLookup, target: Tensor, value: Any
) -> tuple[CellCoordinates | None, CellCoordinates | None]:
    """The places of a tensor that is written into, none of its elements having one if it is fresh, and of the value."""
    before, given = tracked(target), tracked(value)
    if before is None and given is not None:
        before = given.put(no_coordinates(target, len(given.sampling)))
    return before, given


def _changed(
    before: CellCoordinates | None, given: CellCoordinates | None, value: Any, change: Callable[[Tensor, Any], Tensor]
) -> TrackedResult:
    """The places after a change of each coordinate of the first by that of the value."""
    if before is None:
        return None
    empty = (
        torch.full(value.shape, math.nan, device=value.device, dtype=torch.float32)
        if isinstance(value, Tensor)
        else math.nan
    )

    def changed(olds: Coordinates, news: Coordinates | None) -> Coordinates:
        values: Any = news or [empty] * len(olds)
        copies = (each.clone(memory_format=torch.contiguous_format) for each in olds)
        return tuple(change(old, new) for old, new in zip(copies, values, strict=True))

    columns = before.columns and changed(before.columns, given.columns if given else None)
    return before.put(changed(before.rows, given.rows if given else None), columns)


def _source(args: Any, kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any], int]:
    """The arguments with the value that is written among them, and its number."""
    args, kwargs = list(args), dict(kwargs)
    names = ("source", "src", "value", "values")
    for name in (name for name in names if name in kwargs):
        return [*args, kwargs.pop(name)], kwargs, len(args)
    tensors = [i for i, each in enumerate(args) if i and isinstance(each, Tensor)]
    return args, kwargs, tensors[-1]
